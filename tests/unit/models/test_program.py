"""Clients that are programs of torch: TorchScript and torch.export, with gradients."""

import warnings

import pytest
import torch
from torch import nn

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.errors import DpbenchError
from dpbench.models import splitting, weights
from dpbench.models.adapters import builder, encoder, program
from dpbench.models.spec import BackboneSpec
from dpbench.service.costs import work_of

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


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
def test_what_programs_of_torch_compute_and_hold_is_counted(ending, saved, halves):
    found = work_of(ProtectedModel(split_of(saved(ending))).eval(), torch.rand(2, 3, SIZE, SIZE), torch.Generator())
    assert (found.client, found.server) == (6 * 27 * 64, 6 * CLASSES)
    assert found.stored == 6 * 27 + 6 + 6, "the program's own, and the mean and deviation of three channels"
    assert found.uncounted == ""


def test_what_torch_runs_unseen_is_said_not_to_be_counted(halves):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = program.TorchProgram(torch.jit.optimize_for_inference(torch.jit.script(halves[0])), "client.pt")
    client = program.Program(tuned, "client.pt", differentiable=True, stored=168)
    split = SplitModel(client, halves[1], split_point="client", image_shape=(3, SIZE, SIZE), classes=CLASSES)
    found = work_of(ProtectedModel(split).eval(), torch.rand(2, 3, SIZE, SIZE), torch.Generator())
    assert found.client is None
    assert found.share is None
    assert found.server == 6 * CLASSES
    assert found.uncounted == "client.pt runs prim::mkldnn_convolution, which is not counted"
