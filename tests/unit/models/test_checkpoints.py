"""Files of weights: every usual form is read, nothing in them is run, and what is wrong is said in one line."""

import argparse
import os
import pathlib
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from dpbench.errors import DpbenchError
from dpbench.models.checkpoints import misfit, read_checkpoint, sha256_of

STATE = torch.nn.Linear(30, 20).state_dict()


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": {f"module.{name}": value for name, value in STATE.items()}, "optimizer": {"lr": 0.1}},
        {"model_state_dict": STATE},
    ],
    ids=["bare", "state_dict", "model, data-parallel", "model_state_dict"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints(content, zipped, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path).state
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(dict(STATE), path)
    assert torch.equal(read_checkpoint(path).state["weight"], STATE["weight"])


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def save_plain(content, path):
    path.write_bytes(pickle.dumps(content))


def save_old(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, save_old, save_plain])
def test_code_in_a_checkpoint_is_refused_and_not_run(save, tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    save({"state_dict": {**STATE, "bias": Bomb(trace)}}, path)
    with pytest.raises(DpbenchError, match=r"weights\.pth were refused: .* could run code .*; save") as refused:
        read_checkpoint(path)
    assert "\n" not in str(refused.value)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "new.safetensors"])
@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.99])
def test_a_file_cut_short(name, kept, tmp_path):
    path = tmp_path / name
    {"zip.pth": torch.save, "old.pth": save_old, "new.safetensors": safetensors.torch.save_file}[name](
        dict(STATE), path
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DpbenchError, match=r"weights .* (cut short|or are damaged).*; ") as cut:
        read_checkpoint(path)
    assert "\n" not in str(cut.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {}}, {"weight": 1.0}])
def test_a_file_without_a_state_dict(content, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(DpbenchError, match=r"hold no state dict; expected named tensors"):
        read_checkpoint(path)


def test_no_file(tmp_path):
    with pytest.raises(DpbenchError, match="there is no weights file"):
        read_checkpoint(tmp_path / "none.pth")


def test_misfits_are_counted_and_named():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    state = dict(model.state_dict())
    assert misfit(state, model) == ""
    state.pop("1.num_batches_tracked")
    assert misfit(state, model) == ""
    state.pop("0.bias")
    state["2.weight"] = torch.zeros(3, 4)
    state |= {f"extra{index}": torch.zeros(1) for index in range(5)}
    assert misfit(state, model) == (
        "missing: 0.bias; unexpected: extra0, extra1, extra2 and 2 more; "
        "of another shape: 2.weight (3, 4) instead of (2, 4)"
    )


def test_the_hash_follows_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = sha256_of(path)
    path.write_bytes(b"three")
    assert sha256_of(path) != first
    assert len(first) == 64


def prefixed(prefix):
    return {f"{prefix}{name}": value for name, value in STATE.items()}


OTHERS = {name: value + 1 for name, value in STATE.items()}

AS_PEOPLE_HAVE_THEM = {
    "compiled": prefixed("_orig_mod."),
    "parallel, compiled": {"state_dict": prefixed("module._orig_mod.")},
    "compiled, parallel": {"state_dict": prefixed("_orig_mod.module.")},
    "lightning": {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.0", "epoch": 1},
    "lightning, compiled": {"state_dict": prefixed("model._orig_mod.")},
    "net": {"net": STATE, "acc": 91.0, "epoch": 3},
    "net, parallel": {"net": prefixed("module.")},
    "ema alone": {"state_dict_ema": STATE},
    "torch's averaging": {"model_ema": {"n_averaged": torch.tensor(3), **prefixed("module.")}},
    "timm": {"state_dict": STATE, "args": argparse.Namespace(model="resnet10t", betas=[0.9, 0.999]), "metric": 91.0},
    "a best score": {"model": STATE, "best": np.float64(0.9), "output": pathlib.PurePosixPath("out")},
    "sharded": prefixed("_fsdp_wrapped_module."),
    "wrapped twice": {"model": {"state_dict": prefixed("module.")}, "epoch": 2},
    "ema in a wrapper, parallel": {"checkpoint": 1, "ema": {"module": prefixed("module.")}},
    "weights and their averages": {"model": prefixed("module."), "model_ema": OTHERS},
    "averages among the weights": {**prefixed("model."), **{f"model_ema.{name}": v for name, v in OTHERS.items()}},
    "an averager": {
        **prefixed("online_model."),
        **{f"ema_model.{name}": value for name, value in OTHERS.items()},
        **{"initted": torch.tensor(True), "step": torch.tensor(7)},
    },
    "averages alone": {**prefixed("ema_model.module."), "step": torch.tensor(7)},
    "arrays": {"net": {name: value.numpy() for name, value in STATE.items()}},
    "an optimizer beside it": {
        "state_dict": prefixed("module."),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler": {"last_epoch": 3, "_step_count": 4},
        "scaler": {},
        "rng": [torch.zeros(4, dtype=torch.uint8), np.random.default_rng(0).integers(9, size=3)],
    },
}


@pytest.mark.parametrize("form", AS_PEOPLE_HAVE_THEM)
def test_files_as_people_have_them(form, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(AS_PEOPLE_HAVE_THEM[form], path)
    found = read_checkpoint(path).state
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


FORMS = [
    (STATE, ""),
    ({"state_dict": prefixed("module._orig_mod.")}, "under state_dict, without _orig_mod.module."),
    ({"model": {"state_dict_ema": prefixed("module.")}}, "under model.state_dict_ema, without module."),
    ({"model": STATE, "model_ema": OTHERS}, "under model, not model_ema"),
    ({**prefixed("model."), **{f"ema.{name}": v for name, v in OTHERS.items()}}, "without model., not ema"),
    ({"net": {name: value.half() for name, value in STATE.items()}}, "under net, of float16"),
]


@pytest.mark.parametrize(("content", "said"), FORMS)
def test_how_a_file_came_is_said(content, said, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    assert read_checkpoint(tmp_path / "weights.pth").form == said


def test_no_more_is_taken_off_than_a_network_asks_for(tmp_path):
    network = torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"net": torch.nn.Linear(3, 2)})})
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "weights.pth")
    found = read_checkpoint(tmp_path / "weights.pth")
    assert set(found.state) == {"weight", "bias"}
    fitting = found.fitting(network.state_dict())
    assert (set(fitting.state), fitting.off) == (set(network.state_dict()), "module.")
    assert found.fitting(["other"]) is found


def test_what_timm_saves_is_read(tmp_path):
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = torch.nn.Linear(3, 2)
    args = argparse.Namespace(model="resnet10t", lr=0.1, data_dir="x", aug=None)
    saver = CheckpointSaver(
        model, torch.optim.SGD(model.parameters(), 0.1), args, ModelEmaV3(model), checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(0, 91.0)
    found = read_checkpoint(tmp_path / "last.pth.tar")
    assert torch.equal(found.state["weight"], model.weight)
    assert found.averaged == "state_dict_ema"


@pytest.mark.parametrize("ending", ["bin", "pt", "pth", "safetensors", "ckpt", "tar"])
def test_files_are_told_by_their_content(ending, tmp_path):
    path = tmp_path / f"weights.{ending}"
    for save in (torch.save, save_old, safetensors.torch.save_file):
        save(dict(STATE), path)
        assert torch.equal(read_checkpoint(path).state["weight"], STATE["weight"])


class Disguised(argparse.Namespace):
    pass


@pytest.mark.parametrize("beside", ["args", "best"])
def test_code_beside_the_weights_is_refused_too(beside, tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    for hidden in (Bomb(trace), argparse.Namespace(inner=Bomb(trace)), Disguised(x=1), [Bomb(trace)]):
        torch.save({"state_dict": STATE, beside: hidden}, path)
        with pytest.raises(DpbenchError, match=r"weights\.pth were refused") as refused:
            read_checkpoint(path)
        assert "\n" not in str(refused.value)
        assert not trace.exists()
