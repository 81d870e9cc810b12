"""What TensorBoard and W&B are given: finite points under clean names, or one line where the package is missing."""

import hashlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import torch
from kept_run import pictures
from record_factory import make_record
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dpbench.cells.kept_images import keep_images
from dpbench.errors import DpbenchError
from dpbench.records.pictures import LARGEST_STEPS, frames_of, steps_path
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


def shown(run, found):
    """The record of an attack that showed three images, whose files lie in a run."""
    victims, recovered, _ = pictures()
    result = SimpleNamespace(victims=victims, reconstructions=recovered, fidelity={})
    frames = {step: torch.full((3, 8, 6), step / 10) for step in (0, 5, 10)}
    return found.model_copy(update={"kept": keep_images(run, found.id, result, title="", frames=frames)})


def test_tensorboard_reads_back_curves_means_and_images_of_each_cell(tmp_path):
    follower = tracker("tensorboard", tmp_path)
    found = shown(tmp_path, record({"loss": [[2, 1.0], [4, 0.5]]}))
    follower.started(None)
    follower.progress("fitting", None)
    follower.finished(None, "cached", found)
    assert not (tmp_path / "tensorboard").exists()
    follower.finished(None, "ok", found)
    read = EventAccumulator(str(tmp_path / "tensorboard" / found.id))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("curves/loss")] == [(2, 1.0), (4, 0.5)]
    assert [(one.step, one.value) for one in read.Scalars("mean/ssim")] == [(0, 0.5)]
    assert [(one.step, one.width, one.height) for one in read.Images("shown")] == [(0, 6, 8), (5, 6, 8), (10, 6, 8)]


def test_images_are_read_back_in_order_of_their_steps(tmp_path):
    frames = frames_of(tmp_path, shown(tmp_path, record({})))
    assert list(frames) == [0, 5, 10]
    assert frames[10].shape == (8, 6, 3)
    assert frames[10].min() == 255


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"no tensors",
        b"0" * (LARGEST_STEPS + 1),
        safetensors.numpy.save({"0": np.zeros((3, 65, 8), np.uint8), "9" * 5000: np.zeros((3, 8, 8), np.uint8)}),
        safetensors.numpy.save({"0": np.zeros((3, 8, 8), np.float32), "1": np.zeros((3, 0, 8), np.uint8)}),
    ],
    ids=["gone", "damaged", "long", "large", "not bytes"],
)
def test_what_is_no_image_that_an_attack_showed_is_left_out(tmp_path, content):
    found = shown(tmp_path, record({}))
    path = steps_path(tmp_path, found.id)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        name = path.relative_to(tmp_path).as_posix()
        found = found.model_copy(update={"kept": {name: hashlib.sha256(content).hexdigest()}})
    assert frames_of(tmp_path, found) == {}


def test_images_that_were_exchanged_are_not_shown(tmp_path):
    found = shown(tmp_path, record({}))
    steps_path(tmp_path, found.id).write_bytes(safetensors.numpy.save({"0": np.zeros((3, 8, 8), np.uint8)}))
    assert frames_of(tmp_path, found) == {}


def test_wandb_gets_each_point_at_its_step(monkeypatch, tmp_path):
    logged, begun = [], []
    run = SimpleNamespace(define_metric=lambda *given, **named: None, log=logged.append)
    module = SimpleNamespace(
        init=lambda **given: begun.append(given) or run, Image=lambda image, caption: (image.shape, caption)
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    found = shown(tmp_path / "mine", record({"loss": [[2, 1.0]]}))
    tracker("wandb", tmp_path / "mine").finished(None, "ok", found)
    assert begun[0]["name"] == "mine"
    assert logged[0] == {f"{found.id}/curves/loss": 1.0, f"{found.id}/step": 2}
    assert logged[-1] == {f"{found.id}/shown": ((8, 6, 3), "step 10"), f"{found.id}/step": 10}


def test_a_program_that_fails_is_told_nothing_more_and_the_run_goes_on(monkeypatch, tmp_path, capsys):
    def gone(told):
        raise OSError(28, "No space left on device")

    run = SimpleNamespace(define_metric=lambda *given, **named: None, log=gone)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: run))
    follower = tracker("wandb", tmp_path)
    for _ in range(2):
        follower.finished(None, "ok", record({}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dpbench: --track wandb follows no longer: OSError: [Errno 28] No space left on device")


def test_a_program_that_cannot_begin_is_one_line(monkeypatch, tmp_path):
    def refuse(**given):
        raise RuntimeError("No API key configured")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with pytest.raises(DpbenchError, match=r"--track wandb cannot begin: .*No API key.*; `wandb login`, or WANDB_MODE"):
        tracker("wandb", tmp_path)


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
