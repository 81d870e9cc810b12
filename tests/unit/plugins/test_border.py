"""Plug-ins in processes of their own: the same figures, what they may not, how they end."""

import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from dpbench.border.host import Guest
from dpbench.border.wire import Message
from dpbench.errors import DpbenchError
from dpbench.models.spec import BackboneSpec
from dpbench.plugins import registry, sources
from dpbench.plugins.apart import remote
from dpbench.plugins.configuring import configure
from dpbench.service.fitting import Recipe, assemble

CPU = torch.device("cpu")


CODING = Path(__file__).parents[2] / "contract" / "coding.py"


DEFENSE = """
import os, sys, threading
from typing import ClassVar
import torch
import dpbench

class Model(dpbench.ProtectedModel):
    def __init__(self, split, do):
        super().__init__(split)
        self.do = do

    def transform(self, features, *, generator=None):
        exec(self.do)
        return features * 2

class Mine(dpbench.Defense):
    name: ClassVar[str] = "mine"
    do: str = "pass"

    def build(self, split):
        return Model(split, self.do)
"""


@pytest.fixture(scope="module")
def recipe():
    from dpbench.models import backbones

    spec = BackboneSpec(name="resnet10t", weights="fit")
    state = dict(backbones.create_backbone(spec, image_size=32, classes=3).state_dict())
    return Recipe("key", spec, state, 32, 3, "layer1")


def defense(tmp_path, **arguments):
    (tmp_path / "mine.py").write_text(DEFENSE)
    return configure(registry.find_defense(f"{tmp_path / 'mine.py'}:Mine"), arguments)


def test_a_model_behind_the_border_is_the_one_before_it(tmp_path, recipe):
    images = torch.rand(5, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    gaussian = configure(registry.find_defense("gaussian"), {})
    learned = {"feature_std": torch.tensor(0.5)}
    far, near = remote.RemoteModel(recipe, gaussian, learned, CPU), assemble(recipe, gaussian, learned, CPU)
    draws = [torch.Generator().manual_seed(1) for _ in range(2)]
    assert torch.equal(far.release(images, generator=draws[0]), near.release(images, generator=draws[1]))
    assert torch.equal(far.predict(far.features(images)), near.predict(near.features(images)))
    assert far.noise() == near.noise()
    pixels = [images.clone().requires_grad_(True) for _ in range(2)]
    one, other = (model.location(x).square().sum() for model, x in zip((far, near), pixels, strict=True))
    assert torch.equal(*(torch.autograd.grad(y, x)[0] for y, x in ((one, pixels[0]), (other, pixels[1]))))
    tapped = remote.tapped(far, torch.float32).activations(images.new_ones(2, 64, 8, 8))
    assert [tap.shape[0] for tap in tapped] == [2] * len(tapped)


def test_a_server_that_takes_images_one_by_one_is_read_behind_the_border(recipe):
    code = registry.find_defense(f"{CODING}:KeyedNoise")
    far = remote.RemoteModel(recipe, configure(code, {}), {}, CPU)
    images = torch.rand(5, 3, 32, 32)
    tapped = remote.tapped(far, torch.float32)
    taps = tapped.activations(far.release(images, generator=torch.Generator()))
    clean = assemble(recipe, configure(registry.find_defense("none"), {}), {}, CPU).features(images)
    assert [tap.shape[0] for tap in taps] == [5] * len(taps)
    distances = [(tap - clean).abs().median() for tap in taps if tap.shape == clean.shape]
    assert min(distances[1:]) < 1e-3 < distances[0]  # the noise is off before the first layer of the tail
    last = len(taps) - 1
    assert torch.equal(tapped.activation(taps[0], last), taps[last])


def test_a_defense_of_a_file_and_a_built_in_one_in_a_row_run_behind_the_border(tmp_path, recipe):
    single = defense(tmp_path)
    name = f"{tmp_path / 'mine.py'}:Mine + topk"
    both = configure(registry.find_defense(name), {"keep": 0.25})
    assert (both.name, both.do, both.keep) == ("mine + topk", "pass", 0.25)
    assert remote.crosses(both, audit=False)
    assert list(sources.files_of(both)) == ["mine.py"]
    assert sources.source_of(type(both)).endswith(sources.source_of(type(single)).removeprefix("v1-"))
    with pytest.raises(DpbenchError, match="parameter keep = 2"):
        configure(registry.find_defense(name), {"keep": 2})
    images = torch.rand(5, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model = remote.RemoteModel(recipe, both, {}, CPU)
    doubled = 2 * assemble(recipe, configure(registry.find_defense("none"), {}), {}, CPU).features(images)
    released = model.release(images)
    assert model.is_sparse()
    assert (released != 0).flatten(1).sum(1).tolist() == [doubled[0].numel() // 4] * 5
    assert torch.equal(released[released != 0], doubled[released != 0])


def test_what_a_release_costs_is_counted_behind_the_border(recipe):
    images = torch.rand(5, 3, 32, 32)
    gaussian = configure(registry.find_defense("gaussian"), {})
    learned = {"feature_std": torch.tensor(0.5)}
    far, near = remote.RemoteModel(recipe, gaussian, learned, CPU), assemble(recipe, gaussian, learned, CPU)
    there, here = (remote.work(model, images, torch.Generator()) for model in (far, near))
    assert (there.client, there.server, there.stored) == (here.client, here.server, here.stored)
    assert there.milliseconds > 0


@pytest.mark.parametrize(
    "said",
    [{}, {"client": -1}, {"client": 1 << 63}, {"server": "much"}, {"stored": None}, {"milliseconds": math.nan}],
    ids=["nothing", "negative", "huge", "words", "none", "not a number"],
)
def test_a_process_that_says_what_nothing_costs_is_not_believed(said, recipe, monkeypatch):
    told = {"client": 1, "server": 1, "stored": 1, "milliseconds": 1.0} | said if said else {}

    class Line:
        def request(self, message):
            return Message("result", told)

    far = remote.RemoteModel(recipe, configure(registry.find_defense("none"), {}), {}, CPU)
    monkeypatch.setattr(far, "line", Line)
    with pytest.raises(DpbenchError, match=r"what a release costs|nothing can cost"):
        far.work(torch.rand(1, 3, 32, 32), torch.Generator())


def test_the_engine_never_imports_a_plugin(tmp_path):
    before = set(sys.modules)
    stand_in = defense(tmp_path)
    assert type(stand_in).__module__.startswith("dpbench.plugins.stand_in")
    assert not any(name.startswith("dpbench_plugin") for name in set(sys.modules) - before)
    with pytest.raises(DpbenchError, match=r"parameter do = 3 does not fit"):
        defense(tmp_path, do=3)


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("sys.exit(0)", "SystemExit"),
        ("os._exit(7)", r"its process ended \(exit status 7\)"),
        ("os.kill(os.getpid(), 11)", r"its process ended \(signal 11\)"),
        ("raise RecursionError('deep')", "RecursionError: deep"),
        ("open('note', 'w')", "leave a trace outside its process"),
        ("os.open('note', os.O_CREAT | os.O_WRONLY)", "leave a trace outside its process"),
        ("os.mkdir('notes')", "leave a trace outside its process"),
        ("import socket; socket.create_server(('127.0.0.1', 0))", "leave a trace outside its process"),
        ("import subprocess; subprocess.run(['true'])", "leave a trace outside its process"),
        ("import multiprocessing.shared_memory as m; m.SharedMemory('x', create=True, size=8)", "leave a trace"),
    ],
)
def test_what_a_client_does_instead_fails_in_a_line(tmp_path, recipe, do, words):
    model = remote.RemoteModel(recipe, defense(tmp_path, do=do), {}, CPU)
    with pytest.raises(DpbenchError, match=words) as raised:
        model.release(torch.rand(2, 3, 32, 32))
    assert "\n" not in str(raised.value)


def test_global_state_of_a_plugin_is_its_own(tmp_path, recipe):
    do = "torch.set_default_dtype(torch.float64); torch.set_num_threads(1); os.chdir('/')"
    before = (torch.get_default_dtype(), torch.get_num_threads(), Path.cwd())
    remote.RemoteModel(recipe, defense(tmp_path, do=do), {}, CPU).release(torch.rand(2, 3, 32, 32))
    assert (torch.get_default_dtype(), torch.get_num_threads(), Path.cwd()) == before


def test_a_process_ends_with_whoever_asked_for_it():
    code = """
        import os
        from dpbench.border import nursery
        print(nursery.fresh().pid, flush=True)
        os._exit(1)  # without a word
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(50):
        if not Path(f"/proc/{pid}/status").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        subprocess.run(["sleep", "0.1"], check=True)
    pytest.fail("the process is still there")


def test_no_two_processes_share_anything(tmp_path, recipe):
    do = "assert 'shelf' not in sys.modules; sys.modules['shelf'] = 1"
    model = remote.RemoteModel(recipe, defense(tmp_path, do=do), {}, CPU)
    images = torch.rand(2, 3, 32, 32)
    model.release(images)
    with pytest.raises(DpbenchError, match="AssertionError"):
        model.release(images)
    model.renewed().release(images)


def test_guests_are_refused_what_they_are_not_granted():
    guest = Guest("x", CPU)
    with pytest.raises(DpbenchError, match="KeyError"):
        guest.request(Message("no such thing"))
    assert guest.close() == -9
