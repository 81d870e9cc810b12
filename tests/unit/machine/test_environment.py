"""What one machine is."""

import importlib.metadata

import torch

import dpbench
from dpbench.machine.environment import describe_environment, same_machine, versions


def test_the_record_says_on_what_figures_hang():
    found = describe_environment(torch.device("cpu"))
    assert found["threads"] == torch.get_num_threads()
    assert found["interop_threads"] == torch.get_num_interop_threads()
    assert found["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert found["processor"]


def test_the_version_is_that_of_the_code_not_of_an_installation_of_before(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0.0.1")
    assert versions.__wrapped__()["dpbench"] == dpbench.__version__ != "0.0.1"
    assert versions.__wrapped__()["torch"] == "0.0.1"


def test_one_machine_is_one_device_one_torch_one_number_of_threads():
    here = describe_environment(torch.device("cpu"))
    assert same_machine(here, here)
    assert same_machine(here, here | {"commit": "another", "python": "3.99"})
    for name in ("threads", "interop_threads", "processor", "instructions", "device", "network_precision"):
        assert not same_machine(here, here | {name: "another"})
    assert not same_machine(here, here | {"versions": here["versions"] | {"torch": "1.0"}})


def test_records_of_before_are_compared_by_what_they_say():
    here = describe_environment(torch.device("cpu"))
    before = {name: value for name, value in here.items() if name not in ("instructions", "interop_threads")}
    assert same_machine(before, here)
    assert not same_machine({}, here)
    assert not same_machine(here, {"versions": "none"})
