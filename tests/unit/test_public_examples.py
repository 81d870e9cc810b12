"""Every public name has an example in its docstring, and the example does what it says."""

import ast
import doctest
import importlib
import inspect

import pytest
import torch
from tiny_suite import SUITE
from torch import nn

import dpbench
from dpbench.plugins import registry


def documented(name):
    """The docstring of a public name: of one that is no class and no function the text below its definition."""
    value = getattr(dpbench, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return inspect.getdoc(value)
    module = importlib.import_module(f"dpbench.{dpbench._HOMES[name]}")
    body = ast.parse(inspect.getsource(module)).body
    at = next(i for i, node in enumerate(body) if isinstance(node, ast.Assign) and node.targets[0].id == name)
    return inspect.cleandoc(body[at + 1].value.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds a suite and its run."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "tiny.toml").write_text(SUITE)
    return folder


@pytest.fixture
def names(folder, monkeypatch):
    """What the examples need beside each other: a split network, and a run for those who read one."""
    monkeypatch.chdir(folder)
    registry.load_plugins()
    monkeypatch.setattr(registry, "_known", {sort: dict(table) for sort, table in registry._known.items()})
    tail = nn.Sequential(nn.Flatten(), nn.Linear(4 * 16 * 16, 10))
    head = nn.Conv2d(3, 4, 3, padding=1)
    split = dpbench.SplitModel(head, tail, split_point="conv", image_shape=(3, 16, 16), classes=10)
    return {"__name__": "mine", "dpbench": dpbench, "torch": torch, "split": split}


@pytest.mark.parametrize("name", dpbench.__all__)
def test_the_example_of_a_public_name_runs(name, names, folder):
    if name in ("load_records", "build_board", "Results"):
        dpbench.run("tiny.toml", output="runs/tiny", device="cpu")
    examples = doctest.DocTestParser().get_doctest(documented(name), names, name, None, 0)
    assert examples.examples, f"dpbench.{name} has no example in its docstring"
    said = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.DocTestRunner(optionflags=flags).run(examples, out=said.append)
    assert result.failed == 0, "".join(said)
