"""Clients that are programs: TorchScript and torch.export with gradients, ONNX without."""

import sys
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from dpbench.contract.defense import AdditiveNoise, ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.metrics.guarantees import NotBorneOut, guarantees_of
from dpbench.models import splitting, weights
from dpbench.models.adapters import builder, encoder
from dpbench.models.spec import BackboneSpec

SIZE, CLASSES = 16, 3


class Client(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)

    def forward(self, images):
        return self.conv(images).relu()


class Server(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, CLASSES)

    def forward(self, sent):
        return self.out(sent.mean((2, 3)))


@pytest.fixture(scope="module")
def halves():
    torch.manual_seed(0)
    return Client().eval(), Server().eval()


@pytest.fixture
def saved(halves, tmp_path):
    """Writes both halves as programs of a kind; gives the spec of the client, with the server or without."""

    def write(ending, *, server=True):
        paths = {}
        inputs = torch.rand(2, 3, SIZE, SIZE)
        for name, half in zip(("client", "server"), halves, strict=True):
            paths[name] = tmp_path / f"{name}{ending}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if ending == ".pt2":
                    batch = torch.export.Dim("batch", min=1, max=4096)
                    torch.export.save(torch.export.export(half, (inputs,), dynamic_shapes=({0: batch},)), paths[name])
                else:
                    torch.jit.save(torch.jit.trace(half, inputs), paths[name])
            with torch.no_grad():
                inputs = half(inputs)
        return planned(paths["client"], str(paths["server"]) if server else "")

    return write


def planned(path, server="", **more):
    spec = BackboneSpec(name=str(path), server=server, **more)
    return spec.model_copy(update={"files": builder.files_of(spec)})


def head_of(spec, size=SIZE):
    return encoder.head_of(spec, image_size=size, classes=CLASSES)


def split_of(spec):
    model, fits = weights.create(spec, weights.choose(spec), image_size=SIZE, classes=CLASSES)
    assert fits
    return splitting.split_model(model, 0, image_shape=(3, SIZE, SIZE), classes=CLASSES, name=spec.name)


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
def test_programs_of_torch_are_halves_with_gradients(ending, saved, halves):
    spec = saved(ending)
    assert head_of(spec) == "auto"
    split = split_of(spec)
    assert split.split_point == "client"
    images = torch.rand(5, 3, SIZE, SIZE, requires_grad=True)
    sent = split.client_head(images)
    torch.testing.assert_close(sent, halves[0](images))
    torch.testing.assert_close(split.server_tail(sent), halves[1](sent))
    split(images).sum().backward()
    assert float(images.grad.abs().sum()) > 0


def test_without_a_server_a_head_stands_on_what_the_client_sends(saved):
    spec = saved(".pt", server=False)
    assert head_of(spec) == "probe"
    headed = spec.model_copy(update={"head": "probe"})
    network = encoder.create_network(headed, image_size=SIZE, classes=CLASSES)
    split = splitting.split_model(network, "client", image_shape=(3, SIZE, SIZE), classes=CLASSES, name="x")
    assert split(torch.rand(2, 3, SIZE, SIZE)).shape == (2, CLASSES)


def test_a_program_is_known_by_its_content(saved, tmp_path):
    spec = saved(".pt")
    identity = spec.identity("")
    assert identity["name"] == "client.pt"
    assert str(tmp_path) not in str(identity)
    (tmp_path / "server.pt").write_bytes((tmp_path / "client.pt").read_bytes())
    with pytest.raises(DpbenchError, match=r"server.pt changed since the run was planned"):
        builder.build(spec, image_size=SIZE, classes=CLASSES)


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
def test_what_is_no_program_is_refused(tmp_path, ending):
    path = tmp_path / f"client{ending}"
    path.write_text("no program")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DpbenchError, match="is no program that torch reads"):
            head_of(planned(path))
    with pytest.raises(DpbenchError, match="there is no program"):
        planned(tmp_path / f"gone{ending}")


def test_weights_and_servers_belong_where_they_can_be(saved):
    with pytest.raises(ValueError, match="belongs to a client that is a program"):
        BackboneSpec(name="resnet10t", server="tail.onnx")
    with pytest.raises(DpbenchError, match="holds its weights; leave weights out"):
        weights.choose(saved(".pt").model_copy(update={"weights": "fit"}))


class Session:
    """What onnxruntime's session does, by a module of torch."""

    shape: list = ["batch", 3, SIZE, SIZE]  # noqa: RUF012
    kind = "tensor(float)"
    outputs = 1
    half: nn.Module
    asked: list = []  # noqa: RUF012

    def __init__(self, path, options, providers):
        if "broken" in path:
            raise RuntimeError("no graph in it")

    def get_inputs(self):
        return [types.SimpleNamespace(name="images", type=self.kind, shape=self.shape)]

    def get_outputs(self):
        return [types.SimpleNamespace(name="sent")] * self.outputs

    def run(self, names, given):
        (array,) = given.values()
        assert array.dtype == np.float32
        self.asked.append(len(array))
        with torch.no_grad():
            return [self.half(torch.from_numpy(array)).numpy()]


@pytest.fixture
def onnx(monkeypatch, tmp_path, halves):
    """A file that the stand-in for onnxruntime takes for the client; its session, to be changed."""
    session = type("Here", (Session,), {"half": halves[0], "asked": []})
    fake = types.ModuleType("onnxruntime")
    fake.SessionOptions, fake.InferenceSession = types.SimpleNamespace, session
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    (tmp_path / "client.onnx").write_bytes(b"program")
    return tmp_path / "client.onnx", session


def test_an_onnx_client_answers_queries_and_gives_no_gradients(onnx, halves):
    path, _ = onnx
    spec = planned(path, head="probe")
    assert head_of(spec) == "probe"
    network = encoder.create_network(spec, image_size=SIZE, classes=CLASSES)
    split = splitting.split_model(network, "client", image_shape=(3, SIZE, SIZE), classes=CLASSES, name="x")
    images = torch.rand(3, 3, SIZE, SIZE)
    torch.testing.assert_close(split.client_head(images), halves[0](images), check_stride=False)
    with pytest.raises(DpbenchError, match=r"no gradients: client\.onnx is an ONNX program"):
        split.client_head(images.requires_grad_())


def test_a_program_of_a_fixed_batch_is_fed_in_such_batches(onnx, halves):
    path, session = onnx
    session.shape = [2, 3, SIZE, SIZE]
    images = torch.rand(5, 3, SIZE, SIZE)
    torch.testing.assert_close(builder.build(planned(path), image_size=SIZE, classes=0)(images), halves[0](images))
    assert session.asked == [2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": ["batch", 3, 48, 48]}, r"takes \['batch', 3, 48, 48\], and images are \[3, 16, 16\]"),
        ({"shape": ["batch", "sequence"]}, "without dynamic shapes"),
        ({"kind": "tensor(uint8)"}, r"images tensor\(uint8\) .*expected one input of floats"),
        ({"outputs": 2}, "2 outputs; expected one input of floats"),
    ],
)
def test_onnx_programs_of_other_inputs_are_refused(onnx, changes, said):
    path, session = onnx
    for name, value in changes.items():
        setattr(session, name, value)
    with pytest.raises(DpbenchError, match=said):
        head_of(planned(path))


def test_a_broken_onnx_file_and_a_missing_package_are_refused(onnx, monkeypatch):
    path, _ = onnx
    broken = path.with_name("broken.onnx")
    broken.write_bytes(b"x")
    with pytest.raises(DpbenchError, match="is no program that onnxruntime runs"):
        head_of(planned(broken))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DpbenchError, match="needs the package onnxruntime; pip install onnxruntime"):
        head_of(planned(path))


class Noisy(ProtectedModel):
    def transform(self, features, *, generator=None):
        return features + torch.randn(features.shape, generator=generator)

    def noise(self):
        return AdditiveNoise("gaussian", 1.0)


def test_noise_over_an_onnx_client_has_no_bound_and_says_why(onnx):
    path, _ = onnx
    network = encoder.create_network(planned(path, head="probe"), image_size=SIZE, classes=CLASSES)
    split = splitting.split_model(network, "client", image_shape=(3, SIZE, SIZE), classes=CLASSES, name="x")
    images, generator = torch.rand(40, 3, SIZE, SIZE), torch.Generator().manual_seed(0)
    noisy = Noisy(split).eval().requires_grad_(False)
    with pytest.raises(NotBorneOut, match=r"no guarantee: no gradients: client\.onnx"):
        guarantees_of(noisy, images, releases=1, generator=generator)
