"""The README and the pages of the guide are run, not only read."""

import re
import sys
from importlib import resources
from pathlib import Path

import pandas as pd
import pytest
import tiny_suite
import torch

from dpbench import Attack
from dpbench.api import plan as make_plan
from dpbench.board.columns import COLUMNS, OPTIONAL_COLUMNS
from dpbench.cli import app as cli
from dpbench.plugins import registry
from dpbench.protocols import boards, known
from dpbench.protocols.sharing.reporting import columns as sharing
from dpbench.protocols.sharing.reporting import transfer
from dpbench.records import store
from dpbench.suite.words import setting

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "dpbench" / "guide").glob("*.md")}
BOARDS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "leaderboards").glob("*.md")}
TEXTS = [README, *GUIDE.values(), *BOARDS.values()]

SUITE = f"""{tiny_suite.SUITE}
[[attacks]]
name = "rmle"
steps = 3
total_variation = 0.1
nearness = 0
decoder_steps = 4
decoder_width = 16
decoder_blocks = 1
"""


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every fence that names its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def code_of(texts: list[str], *languages: str) -> list[str]:
    return [code for text in texts for language, code in blocks(text) if language in languages]


def snippet(text: str, file_name: str) -> str:
    found = [code for code in code_of([text], "python") if code.startswith(f"# {file_name}\n")]
    assert len(found) == 1, f"{file_name} is shown {len(found)} times"
    return found[0]


@pytest.mark.parametrize(
    ("text", "file_name", "kind"),
    [
        pytest.param(README, "mine.py", "defense", id="README, defense"),
        pytest.param(README, "mine.py", "attack", id="README, attack"),
        pytest.param(GUIDE["writing-a-defense"], "my_defense.py", "defense", id="writing-a-defense"),
        pytest.param(GUIDE["writing-an-attack"], "my_attack.py", "attack", id="writing-an-attack"),
    ],
)
def test_third_party_plugins_run_as_shown(text, file_name, kind, tmp_path, dpbench, monkeypatch):
    code = snippet(text, file_name)
    assert len(code.splitlines()) < (30 if file_name == "mine.py" else 25)  # `mine.py` holds both
    base = {"attack": "Attack", "defense": "FeatureTransform"}[kind]
    class_name = re.search(rf"^class (\w+)\({base}\)", code, flags=re.MULTILINE).group(1)
    assert f"{file_name}:{class_name}" in text
    (tmp_path / file_name).write_text(code)
    (tmp_path / "tiny.toml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    outcome = dpbench("run", "tiny.toml", f"--{kind}", f"{file_name}:{class_name}")
    assert outcome.status == 0, outcome
    records = list(store.CELLS.all(tmp_path / "dpbench-runs" / "tiny"))
    assert len(records) == 3
    assert {record.status for record in records} == {"ok"}


def shown_class(page: str, file_name: str, base: str, folder: Path) -> str:
    """Writes the file that a page shows into a folder; how a suite or a command names its class."""
    code = snippet(GUIDE[page], file_name)
    assert len([line for line in code.splitlines() if line.strip()]) < 30
    (folder / file_name).write_text(code)
    name = re.findall(rf"^class (\w+)\({base}\)", code, flags=re.MULTILINE)[-1]
    assert f"{file_name}:{name}" in GUIDE[page]
    return f"{file_name}:{name}"


def test_a_metric_and_a_data_set_run_as_shown(tmp_path, dpbench, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metric = shown_class("writing-a-metric", "my_metric.py", "Metric", tmp_path)
    data = shown_class("writing-a-data-set", "my_data.py", "ImageSet", tmp_path)
    (tmp_path / "tiny.toml").write_text(f'metrics = ["{metric}"]\n{SUITE}')
    outcome = dpbench("run", "tiny.toml", "--data", data)
    assert outcome.status == 0, outcome
    assert "edge_cosine" in outcome.out
    board = pd.read_csv(tmp_path / "dpbench-runs" / "tiny" / "board.csv")
    assert board["edge_cosine"].between(-1, 1).all()
    records = list(store.CELLS.all(tmp_path / "dpbench-runs" / "tiny"))
    assert {len(record.fidelity["edge_cosine"]) for record in records} == {4}
    assert dpbench("check", "dpbench-runs/tiny", "--baseline", "dpbench-runs/tiny/board.csv").status == 0
    assert dpbench("verify", "dpbench-runs/tiny").status == 0


def test_a_protocol_runs_as_shown(tmp_path, dpbench, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(known, "_PROTOCOLS", dict(known._PROTOCOLS))
    monkeypatch.setattr(boards, "KINDS", boards.KINDS.copy())
    monkeypatch.setattr(known, "KINDS", boards.KINDS)
    protocol = shown_class("writing-a-protocol", "my_protocol.py", "Protocol", tmp_path)
    (suite,) = code_of([GUIDE["writing-a-protocol"]], "ini")
    (tmp_path / "dim.toml").write_text(suite)
    outcome = dpbench("--protocol", protocol, "run", "dim.toml")
    assert outcome.status == 0, outcome
    assert dpbench("--protocol", protocol, "run", "dim.toml", "--output", "apart", "--workers", "2").status == 0
    assert dpbench("check", "apart", "--baseline", "dpbench-runs/dim").status == 0
    for verb in (["leaderboard", "--output", "b.csv"], ["verify"], ["check", "--baseline", "b.csv"]):
        done = dpbench(verb[0], "dpbench-runs/dim", *verb[1:])
        assert done.status == 0, done
    assert dpbench("--protocol", "my_protocol.py:Gone", "list", "suites").status == 2


def test_every_file_that_is_shown_is_run():
    files = {code.partition("\n")[0] for code in code_of(TEXTS, "python")}
    plugins = {
        f"# {name}.py" for name in ("mine", "my_defense", "my_attack", "my_metric", "my_data", "my_protocol", "my_net")
    }
    plugins.add("# pool.py")  # an executor: tests/unit/running/test_workers.py
    assert files == {*plugins, "# from Python", "# in a notebook"}


@pytest.mark.parametrize("text", [README, GUIDE["commands"]], ids=["README", "commands"])
def test_the_python_example_runs(text, tmp_path, monkeypatch):
    code = snippet(text, "from Python")
    assert 'dpbench.run("quick")' in code
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SUITE)
    small = code.replace('run("quick")', 'run("tiny.toml")').replace("dpbench-runs/quick", "dpbench-runs/tiny")
    assert "quick" not in small
    exec(compile(small, "README.md", "exec"), {})


class Plain(Attack):
    name = "plain"

    def reconstruct(self, seen, *, generator):
        return torch.full((len(seen.released), *seen.image_shape), 0.5)


def test_the_example_of_what_one_holds_runs(tmp_path, monkeypatch):
    code = snippet(GUIDE["commands"], "in a notebook")
    monkeypatch.chdir(tmp_path)
    small = code.replace("(images, labels)", "(images, labels), attacks=[Plain], victims=4")
    assert small != code
    network = torch.nn.Sequential()
    network.add_module("layer2", torch.nn.Conv2d(3, 4, 3, stride=2, padding=1))
    network.add_module("flat", torch.nn.Flatten())
    network.add_module("fc", torch.nn.Linear(4 * 8 * 8, 2))
    images = torch.rand(100, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    names = {
        "__name__": "__main__",
        "network": network,
        "images": images,
        "labels": torch.arange(100) % 2,
        "Plain": Plain,
    }
    exec(compile(small, "commands.md", "exec"), names)
    assert len(names["results"].board) > 3


def test_the_suite_examples_are_suites(tmp_path, dpbench, monkeypatch):
    examples = code_of(TEXTS, "toml")
    assert len(examples) > 1
    monkeypatch.chdir(tmp_path)
    for number, code in enumerate(examples):
        path = tmp_path / f"example{number}.toml"
        path.write_text(code)
        outcome = dpbench("run", path, "--dry-run")
        assert outcome.status == 0, outcome


def verbs_in(*texts: str) -> set[str]:
    return set(re.findall(r"\bdpbench ([a-z]+)\b", "\n".join(code_of(list(texts), "", "sh", "yaml"))))


def test_every_command_that_is_shown_exists_and_every_command_is_shown():
    verbs = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    verbs |= {group.typer_instance.info.name for group in cli.app.registered_groups}
    assert verbs_in(README) == verbs
    assert verbs_in(GUIDE["commands"]) == verbs
    assert verbs_in(*TEXTS) == verbs


def test_every_attack_defense_and_suite_is_named():
    plugins = [*registry.attacks(), *registry.defenses()]
    suites = [path.name.removesuffix(".toml") for path in (resources.files("dpbench.suite") / "builtin").iterdir()]
    assert [name for name in plugins if f"`{name}`" not in GUIDE["attacks-and-defenses"]] == []
    assert [name for name in suites if f"`{name}`" not in GUIDE["suites"]] == []


def test_ci_calls_the_readme_s_test_command():
    command = next(line.strip() for code in code_of([README], "sh") for line in code.splitlines() if "pytest" in line)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_column_of_the_boards_is_documented():
    columns = {*COLUMNS, *OPTIONAL_COLUMNS, *sharing.COLUMNS, *sharing.OPTIONAL_COLUMNS, *transfer.COLUMNS}
    ends = ("_low", "_high")  # of a figure that is there
    text = GUIDE["boards"] + GUIDE["sharing-features"]
    missing = [column for column in columns if f"`{column}`" not in text and not column.endswith(ends)]
    assert sorted(missing) == []
    assert [column for column in COLUMNS if f"`{column}`" not in GUIDE["boards"]] == []


def test_pictures_and_links_are_there():
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_python_is_new_enough_for_what_is_declared():
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize("text", [README, GUIDE["commands"]], ids=["README", "commands"])
def test_the_shared_setting_that_is_shown_is_one_of_the_suite_s(text):
    suite, pattern = re.search(r"dpbench share export (\w+) --only '([^']+)'", text).groups()
    settings = {setting(cell) for cell in make_plan(suite).units}
    assert len([one for one in settings if pattern in one]) == 1
