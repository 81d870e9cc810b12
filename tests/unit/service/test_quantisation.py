"""Releases of integers: the server gets them as they were sent, attackers what they mean, and bits are theirs."""

import pytest
import torch
from parsing import parse_suite
from tiny_suite import tiny_suite
from torch import nn

from dpbench.cells.observing import Answers
from dpbench.cells.pipeline import Pipeline
from dpbench.cells.white_box import WhiteBox
from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.data.datasets import fingerprint
from dpbench.errors import DpbenchError
from dpbench.executors.stages import Stages
from dpbench.service.quantisation import as_sent, dequantised, quantisation_of
from dpbench.service.release import release_bits, release_to_server
from dpbench.service.same_release import assert_same_release
from dpbench.suite.grid import plan
from dpbench.toolkit.release_match import study_client

INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
SCALE, ZERO = 1 / 64, -32.0


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class OnDevice(ProtectedModel):
    """Rounds to integers of a type and sends these; the server keeps what it received."""

    def __init__(self, split=None, dtype=torch.int8):
        whole = SplitModel(nn.Identity(), nn.Flatten(), split_point="x", image_shape=(3, 16, 16), classes=768)
        super().__init__(split or whole)
        self.dtype = dtype
        self.register_buffer("step", torch.tensor(SCALE))
        self.received = []

    def transform(self, features, *, generator=None):
        lowest = 0 if self.dtype == torch.uint8 else -128
        return (features.float() / self.step + ZERO).round().clamp(lowest, 127).to(self.dtype)

    def quantisation(self):
        return float(self.step), ZERO

    def predict(self, released):
        self.received.append(released)
        return super().predict(released)


def images(count=70):
    return torch.rand(count, 3, 16, 16, generator=generator(1)) + 0.5


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_server_gets_integers_and_the_attacker_what_they_mean(dtype):
    client, server, sent = OnDevice(dtype=dtype), OnDevice(dtype=dtype), images()
    assert_same_release(client, sent, seed=0)
    release = release_to_server(
        client, server, sent, releases=1, kept=70, window=1 << 20, generator=generator(), order=generator(2)
    )
    assert {one.dtype for one in server.received} == {dtype}
    assert release.dtype == dtype
    integers = client.transform(sent)
    assert release.features[0].dtype == torch.float32
    assert torch.equal(release.features[0], (integers.float() - ZERO) * SCALE)
    assert float((release.features[0] - sent).abs().max()) <= SCALE / 2 + 1e-6
    assert release.bits == release_bits(integers) <= 3 * 16 * 16 * 7
    assert torch.equal(release.guesses[:, 0], release.features[0].flatten(1).argmax(1))
    assert torch.equal(as_sent(release.features[0], dtype, SCALE, ZERO), integers)


def test_a_black_box_and_a_white_box_answer_with_what_integers_mean():
    client, sent = OnDevice(), images(10)
    meant = (client.transform(sent).float() - ZERO) * SCALE
    assert torch.equal(Answers(client, torch.device("cpu"), "key")(sent), meant)
    assert torch.equal(WhiteBox(client).release(sent), meant)
    assert torch.equal(WhiteBox(client).features(sent), sent)


def test_a_white_box_without_gradients_is_searched_through_its_features():
    client, sent = OnDevice(), images(16)
    seen = Observation(
        released=WhiteBox(client).release(sent[:4]),
        image_shape=(3, 16, 16),
        auxiliary=LabelledImages(sent, torch.zeros(16, dtype=torch.int64)),
        query=Answers(client, torch.device("cpu"), "key"),
        client=WhiteBox(client),
        remember=lambda name, train, depends_on, owner=None: train(generator()),
    )
    assert study_client(seen, draws=1, generator=generator()).surrogate is not None


def test_bits_of_integers():
    many = torch.randint(-128, 128, (4000, 5), generator=generator(), dtype=torch.int8)
    assert release_bits(many) == 5 * 8
    assert release_bits(many.clamp(0, 3)) == 5 * 2
    assert release_bits(many > 0) == 5
    wide = torch.randint(-(1 << 20), 1 << 20, (400_000, 1), generator=generator(), dtype=torch.int32)
    assert release_bits(wide) == 32


def test_integers_that_float32_cannot_tell_apart_are_refused():
    far = torch.tensor([[(1 << 30) + 1]], dtype=torch.int32)
    with pytest.raises(DpbenchError, match="1073741825 steps from their zero point; expected at most 16777216"):
        dequantised(far, 1.0, 0.0)
    assert dequantised(far, 2.0, float(1 << 30)).tolist() == [[2.0]]


@pytest.mark.parametrize(
    "stated", [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf")), None, 3, ("a", 0)]
)
def test_a_scale_that_means_nothing_is_refused(stated):
    model = OnDevice()
    model.quantisation = lambda: stated
    with pytest.raises(DpbenchError, match="expected"):
        quantisation_of(model)


PLUGIN = """
import torch
from dpbench import Defense, ProtectedModel

class Sent(ProtectedModel):
    def transform(self, features, *, generator=None):
        return (features * 16).round().clamp(-128, 127).to(torch.int8)

    def quantisation(self):
        return 1 / 16, 0

class OnDevice(Defense):
    name = "on-device"

    def build(self, split):
        return Sent(split)
"""


def test_a_cell_with_a_defense_that_sends_int8(tmp_path):
    (tmp_path / "sent.py").write_text(PLUGIN)
    suite = parse_suite(
        tiny_suite(
            [f"{tmp_path}/sent.py:OnDevice"],
            dataset={"image_size": 16, "private": 40, "auxiliary": 40, "test": 20},
            backbone={"epochs": 0},
        ),
        origin="test",
    )
    (cell,) = plan(suite, data_fingerprint=fingerprint(suite.dataset), split_names=[["layer1"]])
    result = Pipeline(torch.device("cpu"), tmp_path).run(cell, Stages(torch.device("cpu")), lambda text: None)
    assert result.released["dtype"] == "int8"
    values = torch.Size(result.released["shape"]).numel()
    assert values <= result.release_bits <= 8 * values
    assert len(result.utility.correct) == 20
