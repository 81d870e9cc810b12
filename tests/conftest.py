"""What several tests share: an isolated cache, the command line in-process, one finished run of the suite smoke."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded, here and in what the tests start
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Outcome, environment

from dpbench.cli import app as cli


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache for all tests of all workers: fitted networks are shared, the user's own cache is not touched."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _isolated(cache, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("DPBENCH_DEBUG", "")
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def vouched(monkeypatch):
    """Plug-ins from files and other packages run in this process, as in one of their own."""
    from dpbench.plugins import registry

    monkeypatch.setattr(registry, "_vouched", True)
    registry.load_plugins.cache_clear()
    yield
    registry.load_plugins.cache_clear()


@pytest.fixture
def dpbench(monkeypatch, capsys):
    """Runs the command line in this process: `dpbench("run", "smoke")` -> status, stdout, stderr."""

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dpbench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory, cache) -> Path:
    """The run directory of a finished `dpbench run smoke`."""
    output = tmp_path_factory.mktemp("runs") / "smoke"
    command = [sys.executable, "-m", "dpbench", "run", "smoke", "--device", "cpu", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(cache), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """Class folders of small random pictures: two classes, 230 images each, train and test."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for part, count in (("train", 200), ("test", 40)):
        for label in ("bright", "dark"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for index in range(count):
                low, high = (128, 256) if label == "bright" else (0, 128)
                coarse = random.integers(low, high, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((32, 32)).save(folder / f"{index:03}.png")
    return root
