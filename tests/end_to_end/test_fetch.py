"""`dpbench fetch`: a folder with which a suite runs where there is no network."""

import functools
import hashlib
import http.server
import re
import subprocess
import threading

import pytest
import safetensors.torch
import timm
from command_line import environment
from huggingface_hub import constants
from tiny_suite import tiny_suite

from dpbench.models.spec import BackboneSpec
from dpbench.suite import preflight


def test_a_folder_holds_what_a_suite_needs(tmp_path, dpbench, image_folder, monkeypatch):
    for name in ("DPBENCH_CACHE", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, "elsewhere")  # set back at the end
    suite = tmp_path / "suite.toml"
    suite.write_text(tiny_suite(dataset={"name": image_folder, "private": 64, "auxiliary": 64}))
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


NETWORK = "test_resnet.r160_in1k"


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers for one file as a hub of models does: hash, size and commit first, then the content."""

    content = sent = b""

    def _head(self, size):
        there = self.path == f"/timm/{NETWORK}/resolve/main/model.safetensors" or "/resolve/c0" in self.path
        self.send_response(200 if there else 404)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "c0" * 20)
        self.send_header("Content-Length", str(size if there else 0))
        self.end_headers()
        return there

    def do_HEAD(self):
        self._head(len(self.content))

    def do_GET(self):
        if self._head(len(self.sent)):
            self.wfile.write(self.sent)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine with one small network, which downloads ask, and a folder that keeps them."""
    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    Hub.content = Hub.sent = safetensors.torch.save(state)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("DPBENCH_CACHE", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, "elsewhere")  # set back at the end
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", place)
    file = "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{place}/{file}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "folder" / "huggingface" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetched(tmp_path, dpbench, hub):
    """Runs `dpbench fetch` of a suite whose network the hub has."""
    suite = tmp_path / "suite.toml"
    pretrained = {"name": NETWORK, "weights": "pretrained", "epochs": None}
    suite.write_text(tiny_suite(judge={"name": "mobilenetv3_small_050"}, backbone=pretrained))
    return functools.partial(dpbench, "fetch", suite, "--output", tmp_path / "folder")


def test_weights_of_a_hub_are_there_without_a_network(tmp_path, fetched, hub, monkeypatch):
    outcome = fetched()
    assert outcome.status == 0, outcome.err
    assert re.search(r"holds what 1 parts of .* need, [0-9.]+ MB; there: source .*env\.sh$", outcome.out.strip())
    hub.shutdown()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    preflight.read_weights(BackboneSpec(name=NETWORK, weights="pretrained"), 32)
    assert outcome.err.count(f"weights of {NETWORK}") == 1


def test_a_download_that_was_altered_or_cut_short_is_one_line_and_is_fetched_again(tmp_path, fetched):
    whole = Hub.content
    Hub.sent = whole[:-4] + b"\0\1\2\3"  # of the right size
    outcome = fetched()
    assert outcome.status == 2
    *_, line = outcome.err.splitlines()
    assert re.search(r"cut short or altered: huggingface/hub/.*/blobs/[0-9a-f]{64} \([0-9.]+ MB\) .* again$", line)
    Hub.sent = whole[: len(whole) // 2]
    outcome = fetched()
    assert outcome.status == 2
    assert NETWORK in outcome.err.splitlines()[-1]
    Hub.sent = whole
    assert fetched().status == 0
