"""Files are whole or not there; devices, pipes and links stay what they are; what killed writers left is swept."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
import safetensors
import safetensors.torch
import torch

from dpbench.errors import DpbenchError
from dpbench.machine import writing
from dpbench.machine.writing import Unwritable, sweep, write_atomically


def left(folder):
    return [path.name for path in folder.rglob(".*")]


def test_devices_stay_devices():
    write_atomically_text("/dev/null", "nothing")
    assert not os.path.isfile("/dev/null")


def write_atomically_text(path, text):
    write_atomically(writing.Path(path), lambda file: file.write_text(text, encoding="utf-8"))


def test_a_pipe_is_written_through(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_atomically_text(pipe, "through")
    reader.join(5)
    assert read == ["through"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("redirected", [True, False])
def test_standard_output_is_written_through(tmp_path, redirected):
    code = (
        "from pathlib import Path\nfrom dpbench.machine.writing import write_atomically\nprint('before')\n"
        "write_atomically(Path('/dev/stdout'), lambda file: file.write_text('board\\n'))\nprint('after')"
    )
    with (tmp_path / "out").open("w+b") as sink:
        done = subprocess.run([sys.executable, "-c", code], stdout=sink if redirected else subprocess.PIPE, check=True)
    text = (tmp_path / "out").read_bytes() if redirected else done.stdout
    assert text == b"before\nboard\nafter\n"


def test_links_are_followed_and_stay_links(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("store/real.csv")
    (tmp_path / "dangling.csv").symlink_to("store/new.csv")
    for name in ("link.csv", "dangling.csv"):
        write_atomically_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "store" / "real.csv").read_text() == (tmp_path / "store" / "new.csv").read_text() == "new"
    assert not left(tmp_path)


def test_what_was_private_stays_private(tmp_path):
    path = tmp_path / "board.csv"
    path.write_text("old")
    path.chmod(0o600)
    write_atomically_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(DpbenchError, match="is a folder; give the name of a file"):
        write_atomically_text(tmp_path, "x")
    assert not left(tmp_path)


def test_a_full_device_is_one_line():
    with pytest.raises(Unwritable, match=r"^/dev/full: the disk is full; free some space"):
        write_atomically_text("/dev/full", "x" * 100_000)


def _pandas(path):
    import pandas as pd

    pd.DataFrame({"a": range(200_000)}).to_csv(path, index=False)


def _pillow(path):
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="PNG")


def _matplotlib(path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8))
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=300, pil_kwargs={"compress_level": 0})


WRITERS = {
    "safetensors": lambda path: safetensors.torch.save_file({"x": torch.zeros(200_000)}, path),
    "text": lambda path: path.write_text("x" * 800_000, encoding="utf-8"),
    "pandas": _pandas,
    "pillow": _pillow,
    "matplotlib": _matplotlib,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_in_the_middle_is_one_line_whoever_writes(tmp_path, name):
    path = tmp_path / "file.png"
    path.write_text("old")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(Unwritable) as refused:
            write_atomically(path, WRITERS[name])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "the disk is full" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert path.read_text() == "old"
    assert not left(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_errors_of_a_disk_are_known_in_every_wrapping(tmp_path, code):
    def wrapped(path):
        try:
            raise OSError(code, os.strerror(code))
        except OSError as error:
            raise RuntimeError("could not encode") from error

    def told(path):
        raise safetensors.SafetensorError(f"I/O error: {os.strerror(code)} (os error {code})")

    def without_number(path):
        raise RuntimeError(f"unexpected: {os.strerror(code)}")

    for write in (wrapped, told, without_number):
        with pytest.raises(Unwritable, match="run the same command again"):
            write_atomically(tmp_path / "x.safetensors", write)
    assert not left(tmp_path)


def test_a_fault_of_the_writer_stays_one(tmp_path):
    def write(path):
        raise ValueError("no such colour")

    with pytest.raises(ValueError, match="no such colour"):
        write_atomically(tmp_path / "x.png", write)
    assert not left(tmp_path)


WAITS = (
    "import sys, time\nfrom pathlib import Path\nfrom dpbench.machine.writing import write_atomically\n"
    "def write(file):\n file.write_text('half')\n print('writing', flush=True)\n time.sleep(60)\n"
    "write_atomically(Path(sys.argv[1]), write)"
)


def test_what_a_killed_writer_left_is_swept_and_a_live_one_is_left_alone(tmp_path):
    target = tmp_path / "records" / "cell.json"
    writer = subprocess.Popen([sys.executable, "-c", WAITS, str(target)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"writing\n"
        assert sweep([tmp_path]) == 0
        assert len(left(tmp_path)) == 1
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert sweep([tmp_path, tmp_path / "nowhere"]) == 1
    assert not left(tmp_path)


def test_files_of_others_are_swept_after_a_day_and_strangers_never(tmp_path):
    here, there = f".dpbench-{writing._machine()}", ".dpbench-00000000"
    names = [f"{here}-{os.getpid()}-00000000.png", f"{there}-1-00000000.png", ".dpbench-notes", ".settings.json"]
    for name in names:
        (tmp_path / name).write_text("x")
    assert sweep([tmp_path]) == 0
    yesterday = time.time() - writing.OLD_SECONDS - 1
    for name in names:
        os.utime(tmp_path / name, (yesterday, yesterday))
    assert sweep([tmp_path]) == 2
    assert sorted(left(tmp_path)) == [".dpbench-notes", ".settings.json"]


def test_a_number_that_another_process_got_is_no_writer(tmp_path):
    path = tmp_path / f".dpbench-{writing._machine()}-{os.getpid()}-00000000.json"
    path.write_text("x")
    os.utime(path, (time.time() - 3600 * 5, time.time() - 3600 * 5))  # before this process began
    assert sweep([tmp_path]) == 1
