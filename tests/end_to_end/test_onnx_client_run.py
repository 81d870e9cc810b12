"""A run whose client is an ONNX program: what queries it runs, what needs gradients says so, and what it costs."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_suite import tiny_suite


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A convolution as a program, and a suite of it."""
    weight = np.random.default_rng(0).standard_normal((6, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "w"], ["c"], strides=[4, 4], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["sent"]),
        ],
        "client",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("sent", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "c.onnx")
    text = tiny_suite(
        ["none", {"name": "gaussian", "std": 0.5}],
        ["mean-image", {"name": "decoder", "steps": 2}, {"name": "rmle", "steps": 2, "victims": 1}],
        threat_models=["query", "weights"],
        dataset={"private": 64},
        backbone={"name": "c.onnx", "weights": None, "epochs": None, "split_points": ["client"]},
    )
    (tmp_path / "tiny.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(folder, run):
    found = [json.loads(path.read_text()) for path in (folder / run / "records").glob("*.json")]
    return {(r["cell"]["defense"]["name"], r["cell"]["attack"]["name"]): r for r in found}


def test_what_queries_it_runs_and_what_needs_gradients_says_so(folder, dpbench):
    done = dpbench("run", "tiny.toml", "--output", "one", "--device", "cpu")
    one = records(folder, "one")
    assert len(one) == 5, done.err  # a floor is the same behind both defenses
    for (_, attack), record in one.items():
        assert record["status"] == ("failed" if attack == "rmle" else "ok"), record["error"]
    assert "no gradients: c.onnx is an ONNX program" in one["none", "rmle"]["error"]
    assert one["none", "decoder"]["cell"]["backbone"]["name"] == "c.onnx"
    cost = one["gaussian", "decoder"]["cost"]
    assert (cost["multiply_adds"], cost["added_multiply_adds"], cost["parameters"]) == (6 * 27 * 64, 0, None)
    assert 0 < one["gaussian", "decoder"]["released"]["client_share"] < 1
