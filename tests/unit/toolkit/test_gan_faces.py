"""The prior of faces: what it paints, that its search finds what it painted, and what happens without its weights."""

import dataclasses

import pytest
import torch
from dpbench_attacks import gan_faces
from dpbench_attacks.gan_faces import FaceGanInversion, all_grey
from dpbench_attacks.gan_progressive import ProgressiveGanInversion
from parsing import parse_suite
from tiny_suite import tiny_suite
from torch import nn

from dpbench import api
from dpbench.cells.white_box import WhiteBox
from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.models import carriers

CPU = torch.device("cpu")


def painted(count, *, grey=False, size=(64, 64), seed="faces"):
    network = FaceGanInversion().generator_network((3, *size), grey=grey).eval()
    with torch.no_grad():
        return network(torch.randn(count, 100, generator=derive_generator(CPU, seed)))


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (96, 80)])
def test_paints_faces_of_every_size(size):
    images = painted(8, size=size)
    assert images.shape == (8, 3, *size)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, painted(8, size=size))
    assert not all_grey(LabelledImages(images, torch.zeros(8)))


def test_is_grey_where_all_that_the_attacker_has_is_grey():
    images = painted(4, grey=True)
    assert torch.equal(images[:, :1].expand_as(images), images)
    assert all_grey(LabelledImages(images, torch.zeros(4)))
    coloured = torch.cat([images, painted(1)])
    assert not all_grey(LabelledImages(coloured, torch.zeros(5)))


class Head(nn.Module):
    """(N,3,64,64) -> (N,16,16,16): a shallow head without a defense."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 4, stride=4)
        nn.init.orthogonal_(self.conv.weight.data.view(16, 48), generator=derive_generator(CPU, "head"))
        nn.init.zeros_(self.conv.bias)

    def forward(self, images):
        return nn.functional.leaky_relu(self.conv(images * 2 - 1), 0.5)


def of_painted(victims, known):
    client = ProtectedModel(SplitModel(Head(), nn.Identity(), split_point="x", image_shape=(3, 64, 64), classes=2))
    return Observation(
        released=client.release(victims).detach(),
        image_shape=(3, 64, 64),
        auxiliary=LabelledImages(known, torch.zeros(32, dtype=torch.int64)),
        query=None,
        client=WhiteBox(client.eval().requires_grad_(False)),
        remember=lambda *_, **__: pytest.fail("nothing is trained"),
    )


def test_finds_what_it_painted():
    victims, known = painted(3, grey=True, seed="victims"), painted(32, grey=True, seed="known")
    seen = of_painted(victims, known)
    attack = FaceGanInversion(pool=64, restarts=1, search_steps=10, refine_steps=60)
    found = attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))
    assert float(ssim_unchecked(found, victims).mean()) > 0.9
    assert torch.equal(found[:, :1].expand_as(found), found)
    assert seen.notes["converged"] is True


def test_its_generator_is_searched_block_by_block_too():
    victims = painted(2, seed="victims")
    seen = of_painted(victims, painted(16, seed="known"))
    attack = ProgressiveGanInversion(faces=True, pool=64, steps=15, encoder_steps=0)
    found = attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))
    assert float(ssim_unchecked(found, victims).mean()) > 0.8


def test_without_its_weights_it_is_refused_before_anything_runs(tmp_path, monkeypatch):
    suite = parse_suite(tiny_suite(attacks=["gan-faces"]), origin="tiny.toml")
    assert len(api.plan(suite, output=tmp_path).units) == 1
    absent = dataclasses.replace(carriers.FACE_GAN, module="no_such_package")
    monkeypatch.setattr(gan_faces, "FACE_GAN", absent)
    with pytest.raises(DpbenchError, match=r"gan-faces: .* not at hand; run `pip .*gan_face_generate==1\.1\.1`"):
        api.plan(suite, output=tmp_path)
