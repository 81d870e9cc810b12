"""Loops of optimisations: no step waits for a figure from the device, and what they do can be compiled."""

import sys
from types import SimpleNamespace

import pytest
import torch
from dpbench_attacks._pyramid_search import PyramidSearch
from tiny_observation import observed
from torch.utils._python_dispatch import TorchDispatchMode

from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.executors.executor import Task
from dpbench.machine import devices
from dpbench.machine.environment import same_machine
from dpbench.machine.process_state import preserved
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import attacks
from dpbench.running import driving

CPU = torch.device("cpu")

DECODER = {"steps": 2, "width": 8, "blocks": 1, "batch_size": 8}
OF_DECODER = {f"decoder_{name}": value for name, value in DECODER.items()}
GAN = {"width": 4, "pool": 8, "restarts": 2, "batch_size": 4}
LOOPS = {
    "decoder": (DECODER, ("steps",)),
    "rmle": ({"steps": 2, "trials": 2, "nearness": 1.0, "total_variation": 0.1, **OF_DECODER}, ("steps",)),
    "gan": (
        {"training_steps": 2, "search_steps": 2, "refine_steps": 2, **GAN},
        ("training_steps", "search_steps", "refine_steps"),
    ),
}

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2")
"""Operators whose result the processor needs before it can go on."""


class Waits(TorchDispatchMode):
    """Counts how often something waits for a figure; what optimisers count lies on the processor anyway."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in WAITS and not self._of_optimiser():
            self.count += 1
        return func(*args, **(kwargs or {}))

    def _of_optimiser(self):
        frame = sys._getframe(2)
        while frame is not None:
            if "/torch/optim/" in frame.f_code.co_filename:
                return True
            frame = frame.f_back
        return False


def reconstructed(name, arguments):
    victims, auxiliary = (torch.rand(n, 3, 16, 16, generator=derive_generator(CPU, "images", n)) for n in (2, 24))
    seen = observed(ProtectedModel, victims, auxiliary)
    attack = configure(attacks()[name], arguments)
    with preserved():  # as in a run: calls within it look at less
        return attack.reconstruct(seen, generator=derive_generator(CPU, "attack")), seen


@pytest.mark.parametrize("name", LOOPS)
def test_more_steps_wait_for_no_more_figures(name):
    arguments, loops = LOOPS[name]
    counted = []
    for times in (1, 8):
        with Waits() as waits:
            reconstructed(name, arguments | {loop: times * arguments[loop] for loop in loops})
        counted.append(waits.count)
    # some ask once more where they have not converged; with one figure a step there would be 14 more at least
    assert counted[1] < counted[0] + 10


@pytest.fixture
def compiling(monkeypatch):
    """As with `--compile`, by the half of the compiler that writes no code."""
    monkeypatch.setattr(devices, "BACKEND", "eager")
    devices.compile_loops(True)
    yield
    devices.compile_loops(False)


def test_a_compiled_search_finds_what_the_other_finds(compiling):
    target = torch.rand(2, 3, 8, 8, generator=derive_generator(CPU, "target"))
    match = SimpleNamespace(distance=lambda images, victims, _: (images - target[victims]).square().mean((1, 2, 3)))
    search, weights = PyramidSearch(4, 0.1, lambda text: None), torch.ones(2)

    def found():
        return search.invert(match, torch.arange(2), torch.full_like(target, 0.5), weights, weights, "", None)

    compiled = found()
    devices.compile_loops(False)
    torch.testing.assert_close(compiled, found(), atol=1e-4, rtol=0)


def test_what_is_compiled_is_a_function_of_its_own_only_where_it_was_asked_for(compiling):
    def step(x):
        return 2 * x

    assert devices.compiled(step) is not step
    assert devices.compiled(step)(torch.ones(2)).tolist() == [2, 2]
    devices.compile_loops(False)
    assert devices.compiled(step) is step


def test_without_a_compiler_one_line_says_so(monkeypatch, tmp_path):
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    devices.assert_compiler(CPU)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DpbenchError, match=r"^--compile: a C\+\+ compiler .* is not there, .* leave --compile out$"):
        devices.assert_compiler(CPU)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DpbenchError, match="the package triton"):
        devices.assert_compiler(torch.device("cuda"))


def test_figures_of_compiled_loops_are_those_of_another_machine():
    plain = {"versions": {"torch": "2"}, "threads": 1}
    assert same_machine(plain, plain | {"compiled": False})
    assert not same_machine(plain, plain | {"compiled": True})


def test_who_measures_a_unit_compiles_where_it_was_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(driving, "compile_loops", asked.append)
    lab = SimpleNamespace(
        device=CPU, enter=lambda *_: None, measure=lambda *_: {"asked": asked[-1]}, spent=lambda stages: {}
    )
    for compiling in (True, False):
        measured = driving.work(lab, None, Task("a", "a"), print, compiling=compiling)
        assert measured == {"status": "ok", "asked": compiling}
