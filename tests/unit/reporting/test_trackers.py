"""What TensorBoard and W&B are given: finite points under clean names, or one line where the package is missing."""

import sys
import types

import pytest
from record_factory import make_record

from dpbench.errors import DpbenchError
from dpbench.reporting.trackers import points_of, tracker
from dpbench.running.watching import Nobody, Several


def record(curves):
    return make_record(ssim=[0.25, 0.75]).model_copy(update={"notes": {"curves": curves}})


def test_points_are_curves_and_means():
    assert list(points_of(record({"loss": [[0, 1.0], [5, 0.5]]}))) == [
        ("curves/loss", 0, 1.0),
        ("curves/loss", 5, 0.5),
        ("mean/ssim", 0, 0.5),
    ]


@pytest.mark.parametrize(
    "curves", [None, 3, "text", [], {"loss": 3}, {"loss": [1, [1], ["a", 2], [1, True], [1, "nan"]]}]
)
def test_what_is_no_curve_is_left_out(curves):
    assert list(points_of(record(curves))) == [("mean/ssim", 0, 0.5)]


def test_tensorboard_gets_a_folder_for_each_cell(monkeypatch, tmp_path):
    written = []

    class Writer:
        def __init__(self, log_dir):
            self.log_dir = log_dir

        def __enter__(self):
            return self

        def __exit__(self, *ended):
            return None

        def add_scalar(self, tag, figure, step):
            written.append((self.log_dir, tag, figure, step))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    follower = tracker("tensorboard", tmp_path)
    found = record({"loss": [[2, 1.0]]})
    follower.started(None)
    follower.progress("fitting", None)
    follower.finished(None, "cached", found)
    assert written == []
    follower.finished(None, "ok", found)
    place = str(tmp_path / "tensorboard" / found.id)
    assert written == [(place, "curves/loss", 1.0, 2), (place, "mean/ssim", 0.5, 0)]


def test_wandb_gets_each_point_at_its_step(monkeypatch, tmp_path):
    logged, begun = [], []
    run = types.SimpleNamespace(define_metric=lambda *given, **named: None, log=logged.append)
    module = types.SimpleNamespace(init=lambda **given: begun.append(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    found = record({"loss": [[2, 1.0]]})
    tracker("wandb", tmp_path / "mine").finished(None, "ok", found)
    assert begun[0]["name"] == "mine"
    assert logged[0] == {f"{found.id}/curves/loss": 1.0, f"{found.id}/step": 2}


def test_a_missing_package_is_one_line(monkeypatch, tmp_path, dpbench):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for name in ("wandb", "tensorboard"):
        with pytest.raises(DpbenchError, match=f"--track {name} needs the package {name}.*; pip install {name}"):
            tracker(name, tmp_path)
    with pytest.raises(DpbenchError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        tracker("tensorbord", tmp_path)
    outcome = dpbench("run", "smoke", "--output", tmp_path / "run", "--only", "none*mean-image", "--track", "wandb")
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_several_watchers_are_told_the_same():
    told = []

    class Noting(Nobody):
        def finished(self, part, state, record):
            told.append((part, state, record))

    both = Several(Noting(), Nobody(), Noting())
    both.started("a")
    both.progress("fitting", "unit")
    both.finished("a", "ok", "record")
    assert told == [("a", "ok", "record")] * 2
