"""What the public tail computes stage by stage, read without running more of it than is asked for."""

import copy

import pytest
import torch
from torch import nn

from dpbench.contract.defense import SplitModel
from dpbench.errors import DpbenchError
from dpbench.models.backbones import create_backbone
from dpbench.models.spec import BackboneSpec
from dpbench.models.splitting import split_model
from dpbench.service.tail_stages import activations, stage_named, stages_of

SHAPE = (3, 32, 32)


def cut(name, point):
    torch.manual_seed(0)
    model = create_backbone(BackboneSpec(name=name), image_size=32, classes=5).eval()
    return model, split_model(model, point, image_shape=SHAPE, classes=5, name=name)


def test_the_stages_behind_the_split_point_are_those_of_the_network():
    model, split = cut("resnet10t", "layer1")
    assert stages_of(split) == ("layer2", "layer3", "layer4")
    images = torch.rand(3, *SHAPE)
    expected = {}
    for stage in ("layer2", "layer4"):
        model.get_submodule(stage).register_forward_hook(lambda _, __, out, stage=stage: expected.update({stage: out}))
    with torch.no_grad():
        split.client_head[1](torch.zeros(1, *SHAPE))
        features = split.client_head(images)
        model(split.client_head[0](images))
        found = activations(copy.deepcopy(split), features, ["layer2", "layer4"])
    assert list(found) == ["layer2", "layer4"]
    for stage, value in found.items():
        torch.testing.assert_close(value, expected[stage])


def test_nothing_behind_the_stage_runs():
    _, split = cut("resnet10t", "layer1")
    features = split.client_head(torch.rand(2, *SHAPE)).detach().requires_grad_(True)
    split.server_tail.layer4 = nn.Identity()  # would fail
    found = activations(split, features, ["layer3"])["layer3"]
    found.square().mean().backward()
    assert features.grad.abs().sum() > 0


def test_stages_of_a_transformer_are_its_blocks():
    _, split = cut("vit_tiny_patch16_224", "blocks.8")
    assert stages_of(split) == ("blocks.9", "blocks.10", "blocks.11")
    features = split.client_head(torch.rand(2, *SHAPE))
    assert activations(split, features, ["blocks.9"])["blocks.9"].shape == features.shape


def test_a_tail_of_modules_has_them_as_stages():
    tail = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU())
    split = SplitModel(nn.Identity(), tail, split_point="x", image_shape=(3, 2, 2), classes=4)
    found = activations(split, torch.ones(2, 3, 2, 2), ["1"])["1"]
    torch.testing.assert_close(found, tail[1](torch.ones(2, 12)))
    assert not any(module._forward_hooks for module in tail.modules())


def test_a_stage_is_named_or_numbered_and_others_are_refused():
    _, split = cut("resnet10t", "layer1")
    assert stage_named(split, 2, who="x") == stage_named(split, "layer3", who="x") == "layer3"
    with pytest.raises(DpbenchError, match="x: stage 'layer1' is not behind the split point 'layer1'; did you mean"):
        stage_named(split, "layer1", who="x")
    with pytest.raises(DpbenchError, match="stages there: 1 to 3: layer2, layer3, layer4"):
        stage_named(split, 4, who="x")
