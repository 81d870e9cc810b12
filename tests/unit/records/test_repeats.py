"""A finished run is shown again without being planned, until anything changes that it rests on."""

import io
import os
import sys

import pytest
from rich.console import Console

from dpbench.records import repeats
from dpbench.records.repeats import Repeats, content_of


@pytest.fixture
def run(tmp_path):
    output = tmp_path / "run"
    (output / "records").mkdir(parents=True)
    (output / "records" / "a.json").write_text('{"ssim": 0.25}')
    (output / "a.png").write_bytes(b"picture")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.png").write_bytes(b"image")
    (tmp_path / "weights.pth").write_bytes(b"weights")
    (tmp_path / "suite.toml").write_text("victims = 4")
    return output


def asked(run, *, width=80, **options):
    told = {"suite": str(run.parent / "suite.toml"), "seed": None, "output": run, **options}
    return Repeats(run.parent / "cache", told, Console(file=io.StringIO(), width=width))


def keep(run, inputs, shown, before=None):
    records = run / "records"
    asked(run).keep(run, inputs, shown, (records, before or content_of(records)))


def again(run, **options) -> str | None:
    """What is shown; None where the run must be planned."""
    one = asked(run, **options)
    return one.console.file.getvalue() if one.show() else None


@pytest.fixture
def kept(run):
    keep(run, [run.parent / "data", run.parent / "weights.pth"], "table\n\x1b[1mbold\x1b[0m  end\n")
    assert again(run) == "table\nbold  end\n"
    return run


def unseen(path, content: str) -> None:
    """Change a file so that neither its size nor its times say so."""
    there = path.stat()
    path.write_text(content)
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))


CHANGES = {
    "a record, unseen": lambda run: unseen(run / "records" / "a.json", '{"ssim": 0.75}'),
    "a record more": lambda run: (run / "records" / "b.json").write_text("{}"),
    "a picture gone": lambda run: (run / "a.png").unlink(),
    "a picture changed": lambda run: (run / "a.png").write_bytes(b"other picture"),
    "an image changed": lambda run: (run.parent / "data" / "1.png").write_bytes(b"another image"),
    "an image more": lambda run: (run.parent / "data" / "2.png").write_bytes(b""),
    "weights gone": lambda run: (run.parent / "weights.pth").unlink(),
    "the suite": lambda run: (run.parent / "suite.toml").write_text("victims = 5"),
    "what is kept": lambda run: next((run.parent / "cache" / "finished").iterdir()).write_text('["x"]'),
    "the run is a file": lambda run: (run.rename(run.parent / "moved"), run.write_text("")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_has_changed_is_planned_again(kept, change):
    change(kept)
    assert again(kept) is None


@pytest.mark.parametrize("options", [{"seed": 1}, {"width": 100}, {"only": "dpm"}])
def test_another_request_is_planned(kept, options):
    assert again(kept, **options) is None


def test_so_is_one_with_other_settings_packages_or_code(kept, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("DPBENCH_CACHE_SIZE", "1GB")
        assert again(kept) is None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        assert again(kept) is None
    (tmp_path / "own_code").mkdir()
    (tmp_path / "own_code" / "__init__.py").write_text("VERSION = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(repeats, "CODE", ("own_code",))
    keep(kept, [], "kept\n")
    assert again(kept) == "kept\n"
    (tmp_path / "own_code" / "__init__.py").write_text("VERSION = 22")
    assert again(kept) is None


def test_nothing_of_what_is_kept_acts_on_the_terminal(run):
    keep(run, [], "safe\x1b[2J\x1b[31m red\n")
    assert again(run) == "safe red\n"
    keep(run, [], "\x1b]0;title\x07safe\n")
    assert (again(run) or "").strip().isprintable()
    keep(run, [], "safe\x1b\x00\x9b\n")
    assert (again(run) or "").strip().isprintable()


def test_what_another_run_wrote_meanwhile_is_not_taken_for_shown(run):
    before = content_of(run / "records")
    (run / "records" / "b.json").write_text("{}")
    keep(run, [], "of one record\n", before)
    assert again(run) is None
    keep(run, [], "of both\n")
    assert again(run) == "of both\n"


def test_what_changed_while_a_run_went_on_is_not_taken_for_its_own(run, monkeypatch, tmp_path):
    one, records = asked(run), (run / "records", content_of(run / "records"))
    (run.parent / "suite.toml").write_text("victims = 5")
    one.keep(run, [], "of the suite as it was\n", records)
    assert again(run) is None
    one = asked(run)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    one.keep(run, [], "of other packages\n", records)
    assert again(run) is None
