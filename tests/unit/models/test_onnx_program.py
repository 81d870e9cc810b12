"""Clients that are programs of ONNX, run by onnxruntime: what they answer, cost, and are refused for."""

import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from dpbench.contract.defense import AdditiveNoise, ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.metrics.guarantees import NotBorneOut, guarantees_of
from dpbench.models import splitting
from dpbench.models.adapters import builder, encoder
from dpbench.models.spec import BackboneSpec
from dpbench.service.costs import MULTIPLY_ADDS, cost_of, work_of

SIZE, CLASSES = 16, 3
CONVOLUTION = 6 * 27 * 64
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
DRAWN = np.random.default_rng(0)
WEIGHT = DRAWN.standard_normal((6, 3, 3, 3)).astype(np.float32)
TABLE = DRAWN.standard_normal((6, CLASSES)).astype(np.float32)
STRIDED = {"strides": [2, 2], "pads": [1, 1, 1, 1]}


def node(name, takes, gives, **more):
    return helper.make_node(name, takes.split(), gives.split(), **more)


def write(path, nodes, constants, *, shape=("n", 3, SIZE, SIZE), kind=FLOAT, gives=FLOAT, inputs=1, outputs=("sent",)):
    """A program from `images` to `sent`."""
    graph = helper.make_graph(
        nodes,
        "client",
        [helper.make_tensor_value_info(f"images{i or ''}", kind, shape) for i in range(inputs)],
        [helper.make_tensor_value_info(name, gives, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def client(path, **more):
    return write(path, [node("Conv", "images w", "c", **STRIDED), node("Relu", "c", "sent")], {"w": WEIGHT}, **more)


def planned(path, **more):
    spec = BackboneSpec(name=str(path), head="probe", **more)
    return spec.model_copy(update={"files": builder.files_of(spec)})


def head_of(path, size=SIZE):
    return encoder.head_of(planned(path), image_size=size, classes=CLASSES)


def split_of(path, **more):
    network = encoder.create_network(planned(path, **more), image_size=SIZE, classes=CLASSES)
    return splitting.split_model(network, "client", image_shape=(3, SIZE, SIZE), classes=CLASSES, name="x")


def truth(images):
    return functional.conv2d(images, torch.from_numpy(WEIGHT), stride=2, padding=1).relu()


def test_it_answers_queries_the_same_each_time_and_gives_no_gradients(tmp_path):
    split = split_of(client(tmp_path / "client.onnx"))
    images = torch.rand(3, 3, SIZE, SIZE)
    sent = split.client_head(images)
    torch.testing.assert_close(sent, truth(images), check_stride=False)
    assert torch.equal(sent, split_of(tmp_path / "client.onnx").client_head(images))
    with pytest.raises(DpbenchError, match=r"no gradients: client\.onnx is an ONNX program"):
        split.client_head(images.requires_grad_())


def test_a_program_of_a_fixed_batch_is_fed_in_such_batches(tmp_path):
    images = torch.rand(5, 3, SIZE, SIZE)
    fixed = builder.build(planned(client(tmp_path / "two.onnx", shape=(2, 3, SIZE, SIZE))), image_size=SIZE, classes=0)
    torch.testing.assert_close(fixed(images), truth(images))


def work_at(path, **more):
    model = ProtectedModel(split_of(path, **more)).eval()
    return work_of(model, torch.rand(2, 3, SIZE, SIZE), torch.Generator())


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_its_multiply_adds_are_counted_as_it_runs(tmp_path, batch):
    found = work_at(client(tmp_path / "client.onnx", shape=(batch, 3, SIZE, SIZE)))
    assert (found.client, found.server, found.uncounted) == (CONVOLUTION, 6 * CLASSES, "")
    assert found.stored is None
    assert found.share == CONVOLUTION / (CONVOLUTION + 6 * CLASSES)


def test_products_of_every_kind_are_counted(tmp_path):
    up = DRAWN.standard_normal((6, 2, 2, 2)).astype(np.float32)
    nodes = [
        node("Conv", "images w", "c", **STRIDED),
        node("ConvTranspose", "c up", "t", strides=[2, 2]),
        node("GlobalAveragePool", "c", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f table", "g"),
        node("MatMul", "f table", "m"),
        node("Add", "g m", "a"),
        node("GlobalAveragePool", "t", "pt"),
        node("Mul", "pt one", "ft"),
        node("Add", "p ft", "b"),
        node("Flatten", "b", "fb"),
        node("Concat", "a fb", "sent", axis=1),
    ]
    one = np.ones((6, 1, 1), dtype=np.float32)
    path = write(tmp_path / "all.onnx", nodes, {"w": WEIGHT, "up": up[:, :1], "table": TABLE, "one": one})
    assert work_at(path).client == CONVOLUTION + 6 * 64 * 4 + 2 * 6 * CLASSES


def test_quantised_convolutions_are_counted(tmp_path):
    one, zero = np.float32(0.05), np.uint8(0)
    nodes = [
        node("QuantizeLinear", "images scale zero", "q"),
        node("QLinearConv", "q scale zero w scale zero scale zero", "c", **STRIDED),
        node("DequantizeLinear", "c scale zero", "sent"),
    ]
    weights = DRAWN.integers(0, 9, (6, 3, 3, 3)).astype(np.uint8)
    path = write(tmp_path / "q.onnx", nodes, {"w": weights, "scale": np.array(one), "zero": np.array(zero)})
    assert work_at(path).client == CONVOLUTION


def test_what_is_not_counted_is_said_so_and_is_no_zero(tmp_path):
    nodes = [node("Conv", "images w", "c", **STRIDED), node("Einsum", "c c", "sent", equation="nchw,nchw->nchw")]
    found = work_at(write(tmp_path / "einsum.onnx", nodes, {"w": WEIGHT}))
    assert found.uncounted == "einsum.onnx runs Einsum, which is not counted"
    assert (found.client, found.share) == (None, None)
    cost = cost_of(found, found, 7)
    assert (cost.multiply_adds, cost.added_multiply_adds, cost.coded_bits) == (None, None, 7)
    assert MULTIPLY_ADDS == "client_multiply_adds"


def test_values_kept_in_other_files_are_part_of_its_identity(tmp_path):
    path = client(tmp_path / "client.onnx")
    split = split_of(path)
    inside = onnx.load(path)
    onnx.save(inside, path, save_as_external_data=True, location="client.onnx.data", size_threshold=0)
    spec = planned(path)
    assert set(spec.files) == {"client", "client client.onnx.data"}
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(split_of(path).client_head(images), split.client_head(images))
    data = path.with_name("client.onnx.data")
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(DpbenchError, match=r"client.onnx changed since the run was planned"):
        builder.build(spec, image_size=SIZE, classes=CLASSES)
    data.unlink()
    with pytest.raises(DpbenchError, match="is no program that onnxruntime runs") as refused:
        head_of(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_programs_of_other_floats_are_fed_such(tmp_path, kind):
    weights = WEIGHT.astype(helper.tensor_dtype_to_np_dtype(kind))
    nodes = [node("ReduceMean", "images", "c", axes=[2, 3], keepdims=0), node("Mul", "c w", "sent")]
    path = write(tmp_path / "other.onnx", nodes, {"w": weights[0, 0, 0]}, kind=kind, gives=kind)
    split = split_of(path)
    images = torch.rand(3, 3, SIZE, SIZE)
    assert split.client_head(images).dtype == {HALF: torch.float16}.get(kind, torch.float64)
    assert split(images).shape == (3, CLASSES)
    assert head_of(path) == "probe"


def cut_short(path):
    client(path).write_bytes(path.read_bytes()[:-200])


def of_tomorrow(path):
    model = onnx.load(client(path))
    model.opset_import[0].version = 99
    onnx.save(model, path)


def of_an_unknown_operator(path):
    write(path, [node("Fold", "images", "sent", domain="ours")], {})


REFUSED = {
    "another size": (lambda path: client(path, shape=("n", 3, 48, 48)), r"takes \['n', 3, 48, 48\], and images are"),
    "channels last": (lambda path: client(path, shape=("n", SIZE, SIZE, 3)), r"images are \[3, 16, 16\]"),
    "two axes": (lambda path: write(path, [node("Relu", "images", "sent")], {}, shape=("n", "m")), "without dynamic"),
    "bytes": (
        lambda path: write(path, [node("Cast", "images", "sent", to=FLOAT)], {}, kind=TensorProto.UINT8),
        r"images tensor\(uint8\) .*expected one input of floats",
    ),
    "two inputs": (
        lambda path: write(path, [node("Add", "images images1", "sent")], {}, inputs=2),
        r"images1 tensor\(float\).*expected one input of floats",
    ),
    "two outputs": (
        lambda path: write(
            path, [node("Relu", "images", "sent"), node("Sqrt", "images", "b")], {}, outputs=("sent", "b")
        ),
        "b tensor.*and one output of floats",
    ),
    "integers out": (
        lambda path: write(path, [node("ArgMax", "images", "sent", axis=1)], {}, gives=TensorProto.INT64),
        r"outputs sent tensor\(int64\)",
    ),
    "not finite": (
        lambda path: write(path, [node("Log", "images", "l"), node("Log", "l", "sent")], {}),
        "NaN or infinite",
    ),
    "one batch inside": (
        lambda path: write(
            path, [node("Reshape", "images s", "sent")], {"s": np.array([1, 3 * SIZE * SIZE], dtype=np.int64)}
        ),
        "does not take images of 16 x 16",
    ),
    "cut short": (cut_short, "is no program that onnxruntime runs"),
    "empty": (lambda path: path.write_bytes(b""), "is no program that onnxruntime runs"),
    "text": (lambda path: path.write_text("no program"), "is no program that onnxruntime runs"),
    "of tomorrow": (of_tomorrow, r"is no program that onnxruntime runs \(ONNX Runtime only .*Opset 99"),
    "unknown operator": (of_an_unknown_operator, "is no program that onnxruntime runs .*ours"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_served_is_one_line(kind, tmp_path, capfd):
    made, said = REFUSED[kind]
    path = tmp_path / "client.onnx"
    made(path)
    with pytest.raises(DpbenchError, match=said) as refused:
        head_of(path)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = client(tmp_path / "client.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DpbenchError, match="needs the package onnxruntime; pip install onnxruntime"):
        head_of(path)


class Noisy(ProtectedModel):
    def transform(self, features, *, generator=None):
        return features + torch.randn(features.shape, generator=generator)

    def noise(self):
        return AdditiveNoise("gaussian", 1.0)


def test_noise_over_it_has_no_bound_and_says_why(tmp_path):
    images, generator = torch.rand(40, 3, SIZE, SIZE), torch.Generator().manual_seed(0)
    noisy = Noisy(split_of(client(tmp_path / "client.onnx"))).eval().requires_grad_(False)
    with pytest.raises(NotBorneOut, match=r"no guarantee: no gradients: client\.onnx"):
        guarantees_of(noisy, images, releases=1, generator=generator)
