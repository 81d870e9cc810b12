"""`dpbench fetch`: a folder with which a suite runs where there is no network."""

import subprocess

from conftest import environment
from tiny_suite import SUITE


def test_a_folder_holds_what_a_suite_needs(tmp_path, dpbench, image_folder, monkeypatch):
    for name in ("DPBENCH_CACHE", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, "elsewhere")  # set back at the end
    suite = tmp_path / "suite.toml"
    numbers = SUITE.replace("private = 256", "private = 64").replace("auxiliary = 128", "auxiliary = 64")
    suite.write_text(numbers.replace('"leaves"', f'"{image_folder}"'))
    folder = tmp_path / "for the cluster"
    outcome = dpbench("fetch", suite, "--output", folder)
    assert outcome.status == 0, outcome.err
    assert "weights of resnet10t" in outcome.err
    decoded = {path: path.stat().st_mtime_ns for path in (folder / "cache" / "datasets").glob("*.npy")}
    assert len(decoded) == 1
    moved = folder.rename(tmp_path / "there")
    asked = ["bash", "-c", f"source '{moved}/env.sh'; echo $DPBENCH_CACHE; echo $HF_HOME"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True, env=environment(tmp_path)).stdout
    assert said.splitlines() == [f"{moved}/cache", f"{moved}/huggingface"]


def test_what_cannot_be_had_is_one_line(tmp_path, dpbench):
    outcome = dpbench("fetch", "nowhere.toml", "--output", tmp_path)
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
