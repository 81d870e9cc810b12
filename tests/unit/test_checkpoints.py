"""Files of weights: every usual form is read, nothing in them is run, and what is wrong is said in one line."""

import os
import pickle

import pytest
import safetensors.torch
import torch

from dpbench.checkpoints import misfit, read_checkpoint, sha256_of
from dpbench.errors import DpbenchError

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
