"""Packages that carry weights: found without importing them, checked by hash, and right for what the networks see."""

import dataclasses
import itertools
import sys

import pytest
import skimage.data
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_data_config

from dpbench.errors import DpbenchError
from dpbench.models import backbones, carriers, weights
from dpbench.models.spec import BackboneSpec

# photographs inside scikit-image's wheel -> ImageNet classes that are right for them
PHOTOGRAPHS = {
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat: nobody could tell which
    "coffee": {967},  # espresso
    "camera": {872},  # tripod
}
BACKBONES = [carrier for carrier in carriers.CARRIERS if carrier.architecture]


@pytest.mark.parametrize("carrier", carriers.CARRIERS, ids=lambda carrier: carrier.package)
def test_what_the_tests_install_is_the_file_that_was_tried(carrier):
    assert carriers.at_hand(carrier), f"run `{carrier.install}`"


def test_nothing_is_imported():
    assert all(carriers.at_hand(carrier) for carrier in carriers.CARRIERS)
    carriers.read_face_generator()
    carriers.read_backbone(carriers.LITE0)
    assert not {carrier.module for carrier in carriers.CARRIERS} & set(sys.modules)


@pytest.mark.parametrize("carrier", BACKBONES, ids=lambda carrier: carrier.architecture)
def test_the_network_recognises_photographs(carrier):
    spec = BackboneSpec(name=carrier.architecture)
    source = weights.choose(spec)
    assert source.label == f"carrier:{carrier.requirement}"
    model, fits = weights.create(spec, source, image_size=224, classes=1000)
    assert fits
    transform = create_transform(**resolve_data_config({}, model=model))
    transform.transforms.pop()  # dpbench normalises by itself
    pictures = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    images = torch.stack([transform(picture) for picture in pictures])
    with torch.no_grad():
        guesses = model(backbones.normalisation(model)(images)).argmax(dim=1).tolist()
    assert [guess in right for guess, right in zip(guesses, PHOTOGRAPHS.values(), strict=True)] == [True] * 3, guesses


@pytest.mark.parametrize("carrier", BACKBONES, ids=lambda carrier: carrier.architecture)
def test_every_tensor_has_its_place(carrier):
    state = carriers.read_backbone(carrier)
    model = timm.create_model(carrier.architecture)
    model.load_state_dict(state, strict=True)
    assert state.keys() == model.state_dict().keys()


def test_timm_and_torchvision_see_the_same_in_a_photograph():
    theirs = torchvision.models.mobilenet_v2()
    theirs.load_state_dict(carriers.read_carried(carriers.MOBILENET_V2), strict=True)
    ours = timm.create_model("mobilenetv2_100")
    ours.load_state_dict(carriers.read_backbone(carriers.MOBILENET_V2), strict=True)
    picture = torch.from_numpy(skimage.data.chelsea()[:224, :224].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected, found = theirs.eval()(picture), ours.eval()(picture)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_tensors_keep_their_order_under_their_new_names():
    carried, named = carriers.read_carried(carriers.LITE0), carriers.read_backbone(carriers.LITE0)
    pairs = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.bias": "bn1.bias",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.0._bn2.running_var": "blocks.0.0.bn2.running_var",
        "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
        "_blocks.2._bn1.running_mean": "blocks.1.1.bn2.running_mean",
        "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
        "_bn1.weight": "bn2.weight",
        "_fc.bias": "classifier.bias",
    }
    for theirs, ours in pairs.items():
        assert torch.equal(carried[theirs], named[ours]), theirs


def test_a_file_with_another_hash_is_not_read():
    changed = dataclasses.replace(carriers.LITE0, sha256="0" * 64)
    assert not carriers.at_hand(changed)
    with pytest.raises(DpbenchError, match=r"its SHA-256 differs.*pip install .*--force-reinstall"):
        carriers.read_carried(changed)


def test_a_package_that_is_not_installed_is_named_with_its_command():
    absent = dataclasses.replace(carriers.FACE_GAN, module="no_such_package")
    assert not carriers.at_hand(absent)
    with pytest.raises(DpbenchError, match=r"not at hand; run `pip install --no-deps .*gan_face_generate==1\.1\.1`"):
        carriers.read_carried(absent)


def test_the_face_generator_is_a_dcgan_for_64_pixels():
    widths = (100, 512, 256, 128, 64, 3)
    layers = []
    for index, (a, b) in enumerate(itertools.pairwise(widths)):
        layers.append(torch.nn.ConvTranspose2d(a, b, 4, 2 if index else 1, 1 if index else 0, bias=False))
        layers += [torch.nn.BatchNorm2d(b), torch.nn.ReLU()] if b != 3 else [torch.nn.Tanh()]
    generator = torch.nn.ModuleDict({"main": torch.nn.Sequential(*layers)}).eval()
    generator.load_state_dict(carriers.read_face_generator(), strict=True)
    latent = torch.randn(32, 100, 1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        faces = generator["main"](latent)
    assert faces.shape == (32, 3, 64, 64)
    skin = faces[:, :, 24:44, 24:40].mean(dim=(0, 2, 3))
    assert skin[0] > skin[1] > skin[2]  # a face is in the middle, redder than green, greener than blue
    assert faces.std(dim=0).mean() > 0.1  # and they are different people
