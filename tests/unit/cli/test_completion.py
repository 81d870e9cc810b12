"""What a shell completes, without an import of torch, and never with an error in the line that is typed."""

import subprocess
import sys
from types import SimpleNamespace

from kept_run import make_run

from dpbench.cli import completion
from dpbench.cli.app import app
from dpbench.plugins.registry import attacks, defenses


def line(**params):
    return SimpleNamespace(params=params)


def test_suites_are_built_in_ones_and_files_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smaller.toml").write_text("")
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "own.toml").write_text("")
    assert completion.suites("sm") == ["smoke", "smaller.toml"]
    assert completion.suites("team/o") == ["team/own.toml"]
    assert completion.suites("nothing") == []


def test_every_built_in_plug_in_is_completed():
    assert completion.attacks("") == sorted(attacks())
    assert completion.defenses("") == sorted(defenses())
    assert completion.defenses("dp") == ["dpm", "dpm-equivalent"]


def test_cells_are_picked_by_what_a_suite_names():
    assert completion.cells(line(suite="smoke"), "ga") == ["gan", "gaussian"]
    assert "layer1" in completion.cells(line(suite=None), "")
    assert completion.cells(line(suite="no such suite"), "") == []


def test_runs_and_their_cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = make_run(tmp_path / "dpbench-runs" / "mine")
    assert completion.runs("dpbench-runs/") == ["dpbench-runs/mine"]
    found = completion.shown(line(directory="dpbench-runs/mine"), "")
    assert found == sorted(record.id for record in records)
    assert completion.shown(line(directory="gone"), "") == []


def test_backbones_are_completed_once_something_is_typed():
    assert completion.backbones("") == []
    assert "resnet10t" in completion.backbones("resnet10")


def test_an_error_completes_nothing():
    assert completion.suites("\0") == []
    assert completion.cells(line(), "") != [] == completion.cells(object(), "")


def test_a_press_of_a_key_imports_no_torch():
    code = """
import sys
from dpbench.cli import completion
assert completion.suites("q") == ["quick"] and completion.attacks("rm") == ["rmle"]
assert not {"torch", "pandas"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_shell_is_told(monkeypatch):
    """As bash asks for it."""
    from typer.testing import CliRunner

    asked = {"_DPBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "dpbench run --defense dpm-", "COMP_CWORD": "3"}
    found = CliRunner().invoke(app, prog_name="dpbench", env=asked)
    assert found.output.split() == ["dpm-equivalent"]
