"""Every family that is promised: two halves that compose to the unsplit model, on any device, with gradients."""

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dpbench.contract.defense import SplitModel
from dpbench.errors import DpbenchError
from dpbench.models import backbones, splitting
from dpbench.models.spec import BackboneSpec
from dpbench.models.splitting import client_share

FAMILIES = {
    "resnet10t": 32,
    "resnet18": 32,
    "efficientnet_b0": 64,
    "tf_efficientnet_lite0": 64,
    "mobilenetv2_100": 64,
    "mobilenetv3_small_100": 64,
    "convnext_atto": 64,
    "regnetx_002": 64,
    "regnety_002": 64,
    "vit_tiny_patch16_224": 64,
    "deit_tiny_patch16_224": 64,
}


def make(name: str, size: int) -> torch.nn.Module:
    return backbones.create_backbone(BackboneSpec(name=name), image_size=size, classes=7)


def split(model: torch.nn.Module, point: str | int, name: str, size: int):
    return splitting.split_model(model, point, image_shape=(3, size, size), classes=7, name=name)


@pytest.mark.parametrize(("name", "size"), FAMILIES.items())
def test_halves_compose_to_the_unsplit_model_at_every_stage(name, size):
    model = make(name, size)
    normalise = backbones.normalisation(model)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(normalise(images))
    points = backbones.split_points(model)
    assert len(points) >= 4
    for index, point in enumerate(points):
        halves = split(model, point if index % 2 else index, name, size)
        assert halves.split_point == point
        with torch.no_grad():
            released = halves.client_head(images)
            torch.testing.assert_close(halves.server_tail(released), expected, rtol=0, atol=1e-5)
        assert released.ndim in (3, 4)


@pytest.mark.parametrize(("name", "size"), [("resnet10t", 32), ("vit_tiny_patch16_224", 64)])
def test_nothing_is_computed_twice_and_gradients_flow_through_both_halves(name, size):
    model = make(name, size)
    halves = split(model, 2, name, size)
    calls: list[str] = []
    for path, module in halves.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, args, result, path=path: calls.append(path))
    logits = halves(torch.rand(2, 3, size, size))
    assert len(calls) == len(set(calls))
    logits.sum().backward()
    assert next(halves.client_head.parameters()).grad is not None
    assert next(halves.server_tail.parameters()).grad is not None


def test_halves_share_the_weights_of_the_network():
    model = make("resnet10t", 32)
    halves = split(model, "layer1", "resnet10t", 32)
    assert {id(p) for p in halves.parameters()} == {id(p) for p in model.parameters()}


def test_several_feature_tensors_are_released_as_one():
    images = torch.rand(2, 3, 32, 32)
    model = make("resnet10t", 32)
    halves = split(model, "layer2.0.conv1", "resnet10t", 32)  # the shortcut crosses too
    assert halves.packed == ((1, 128, 4, 4), (1, 64, 8, 8))
    released = halves.client_head(images)
    assert released.shape == (2, 384, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(halves(images), model(backbones.normalisation(model)(images)), rtol=0, atol=1e-5)
    released.sum().backward()
    assert next(halves.client_head.parameters()).grad is not None


@pytest.mark.parametrize(
    ("shapes", "released"),
    [
        (((1, 8, 4, 4), (1, 3, 4, 4)), (11, 4, 4)),
        (((1, 4, 4, 8), (1, 4, 4, 3)), (4, 4, 11)),
        (((1, 5, 8), (1, 5, 2)), (5, 10)),
        (((1, 2, 8, 8), (1, 3, 4, 4)), (11, 4, 4)),
        (((1, 2, 8, 6), (1, 3, 4, 2)), (120,)),
        (((4, 3, 8), (1, 5, 2)), (106,)),
    ],
)
def test_packing_is_undone_to_the_last_bit(shapes, released):
    tensors = [torch.randn(2 * rows, *rest) for rows, *rest in shapes]
    packing = splitting.Packing.of(shapes)
    pack, unpack = fx.Graph(), fx.Graph()
    inputs = [pack.placeholder(f"t{i}") for i in range(len(shapes))]
    images = pack.placeholder("images")
    pack.output(packing.pack(pack, images, inputs))
    unpack.output(tuple(packing.unpack(unpack, unpack.placeholder("released"))))
    packed = fx.GraphModule(torch.nn.Module(), pack)(*tensors, torch.zeros(2, 3, 4, 4))
    assert packed.shape == (2, *released)
    for before, after in zip(tensors, fx.GraphModule(torch.nn.Module(), unpack)(packed), strict=True):
        assert torch.equal(before, after)


def test_a_network_that_depends_on_the_number_of_images_is_refused():
    class Odd(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :7] / len(x) if len(x) > 2 else x.flatten(1)[:, :7]

    with pytest.raises(DpbenchError, match="odd' cannot be split: what it computes depends on the number of images"):
        splitting.trace_backbone(Odd(), (3, 8, 8), name="odd")


def test_a_network_that_does_not_take_the_image_size_is_refused():
    with pytest.raises(DpbenchError, match="does not take images of 32x32 pixels"):
        split(make("inception_v3", 32), 0, "inception_v3", 32)


def test_a_module_that_is_no_stage_is_a_split_point_too():
    halves = split(make("resnet10t", 32), "layer2.0", "resnet10t", 32)
    assert halves.client_head(torch.rand(1, 3, 32, 32)).shape == (1, 128, 4, 4)


@pytest.mark.parametrize(("name", "size"), FAMILIES.items())
def test_forward_passes_make_no_tensor_on_another_device(name, size):
    halves = split(make(name, size), 1, name, size)
    with FakeTensorMode(allow_non_fake_inputs=False) as pretended:
        state = {
            key: pretended.from_tensor(value).to("cuda")
            for key, value in (*halves.named_parameters(), *halves.named_buffers())
        }
        logits = torch.func.functional_call(halves, state, (torch.rand(2, 3, size, size, device="cuda"),))
        assert logits.device.type == "cuda"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("layer9", "did you mean 'layer4'"),
        (17, "stages 0 to 4"),
        ("layer1.0.bn2.nothing", "is not in resnet10t"),
    ],
)
def test_unusable_split_points_are_refused_with_a_suggestion(point, message):
    with pytest.raises(DpbenchError, match=message):
        split(make("resnet10t", 32), point, "resnet10t", 32)


def test_a_module_that_does_not_run_is_refused_with_the_nearest_stages():
    with pytest.raises(DpbenchError, match=r"does not run when .* nearest first: blocks\.[01], blocks\.[0-9]"):
        split(make("vit_tiny_patch16_224", 32), "blocks.1.attn.attn_drop", "vit_tiny_patch16_224", 32)


def test_the_share_of_the_client_grows_with_depth():
    model = make("resnet10t", 32)
    shares = [client_share(split(model, point, "resnet10t", 32)) for point in backbones.split_points(model)]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5 < shares[-1] < 1
    linear = SplitModel(
        nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 12, 1), split_point="x", image_shape=(3, 8, 8), classes=2
    )
    assert client_share(linear) == 3 * 4 / (3 * 4 + 4 * 12)


def test_unknown_backbones_and_arguments_are_refused():
    with pytest.raises(DpbenchError, match="did you mean 'resnet18'"):
        make("resnet_18", 32)
    with pytest.raises(DpbenchError, match="does not take these args"):
        backbones.create_backbone(BackboneSpec(name="resnet10t", args={"depth": 3}), image_size=32, classes=7)


def test_names_are_found_by_pattern():
    assert "resnet10t" in backbones.backbone_names("resnet1*")
    assert backbones.describe_split_points("resnet10t") == ["act1", "layer1", "layer2", "layer3", "layer4"]
