"""The README is run, not only read."""

import re
import sys
from importlib import resources
from pathlib import Path

import pytest

from dpbench.api import plan as make_plan
from dpbench.board.columns import COLUMNS
from dpbench.cli import app as cli
from dpbench.plugins import registry
from dpbench.protocols.sharing.reporting import board as sharing
from dpbench.protocols.sharing.reporting import transfer
from dpbench.records import store
from dpbench.suite.words import setting

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOARDS = (ROOT / "leaderboards" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)

SUITE = """
name = "tiny"
victims = 4
[dataset]
private = 256
auxiliary = 128
test = 64
[[backbones]]
name = "resnet10t"
weights = "fit"
epochs = 2
split_points = ["layer1"]
[[defenses]]
name = "none"
[[attacks]]
name = "mean-image"
[[attacks]]
name = "rmle"
steps = 3
decoder_steps = 4
"""


def snippet(file_name: str) -> str:
    found = [code for language, code in BLOCKS if language == "python" and code.startswith(f"# {file_name}\n")]
    assert len(found) == 1, f"the README shows {file_name} {len(found)} times"
    return found[0]


@pytest.mark.parametrize(("file_name", "kind"), [("my_defense.py", "defense"), ("my_attack.py", "attack")])
def test_third_party_plugins_run_as_shown(file_name, kind, tmp_path, dpbench, monkeypatch):
    code = snippet(file_name)
    assert len(code.splitlines()) < 25
    class_name = re.search(r"^class (\w+)\((?:Defense|Attack)\)", code, flags=re.MULTILINE).group(1)
    assert f"{file_name}:{class_name}" in README
    (tmp_path / file_name).write_text(code)
    (tmp_path / "tiny.toml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    outcome = dpbench("run", "tiny.toml", f"--{kind}", f"{file_name}:{class_name}")
    assert outcome.status == 0, outcome
    records = list(store.CELLS.all(tmp_path / "dpbench-runs" / "tiny"))
    assert len(records) == 3
    assert {record.status for record in records} == {"ok"}


def test_the_python_example_runs(tmp_path, monkeypatch, smoke_run):
    code = snippet("from Python")
    assert 'dpbench.run("quick")' in code
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dpbench-runs").mkdir()
    (tmp_path / "dpbench-runs" / "smoke").symlink_to(smoke_run)
    exec(compile(code.replace("quick", "smoke"), "README.md", "exec"), {})


def test_the_suite_examples_are_suites(tmp_path, dpbench, monkeypatch):
    blocks = [*BLOCKS, *re.findall(r"```(\w+)\n(.*?)```", BOARDS, flags=re.DOTALL)]
    examples = [code for language, code in blocks if language == "toml"]
    assert len(examples) > 1
    monkeypatch.chdir(tmp_path)
    for number, code in enumerate(examples):
        path = tmp_path / f"example{number}.toml"
        path.write_text(code)
        outcome = dpbench("run", path, "--dry-run")
        assert outcome.status == 0, outcome


def test_every_command_in_the_readme_exists():
    commands = "\n".join(code for language, code in BLOCKS if language in ("sh", "yaml"))
    used = set(re.findall(r"\bdpbench ([a-z]+) ", commands + "\n"))
    verbs = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    verbs |= {group.typer_instance.info.name for group in cli.app.registered_groups}
    assert used == verbs


def test_every_attack_defense_and_suite_is_named():
    names = [*registry.attacks(), *registry.defenses()]
    names += [path.name.removesuffix(".toml") for path in (resources.files("dpbench.suite") / "builtin").iterdir()]
    assert [name for name in names if f"`{name}`" not in README] == []


def test_ci_calls_the_readme_s_test_command():
    command = next(
        line.strip() for language, code in BLOCKS if language == "sh" for line in code.splitlines() if "pytest" in line
    )
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_column_of_the_boards_is_documented():
    columns = {*COLUMNS, *sharing.COLUMNS, *transfer.COLUMNS}
    ends = ("_low", "_high")  # of a figure that is there
    missing = [column for column in columns if f"`{column}`" not in BOARDS and not column.endswith(ends)]
    assert sorted(missing) == []
    assert [column for column in COLUMNS if f"`{column}`" not in BOARDS] == []


def test_pictures_and_links_are_there():
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_python_is_new_enough_for_what_is_declared():
    assert sys.version_info >= (3, 11)


def test_the_shared_setting_of_the_readme_is_one_of_the_suite_s():
    suite, pattern = re.search(r"dpbench share export (\w+) --only '([^']+)'", README).groups()
    settings = {setting(cell) for cell in make_plan(suite).units}
    assert len([one for one in settings if pattern in one]) == 1
