"""How the project is named, cited and installed: the name on the public index is another project's."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import dpbench

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STRANGER = r"""install[ \t]+(-\S+[ \t]+)*['"]?dpbench(\[|[=<>~!]=|['"`\s]|$)"""
SHIPPED = [
    path
    for folder in ("dpbench", "attacks", "defenses", "leaderboards", ".ci", "tests/end_to_end")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".toml", ".yml", ".txt") or path.name == "run"
]
TEXTS = [*SHIPPED, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"))]


def test_nothing_installs_a_stranger():
    texts = {path: path.read_text(encoding="utf-8") for path in TEXTS if path.is_file()}
    assert len(texts) > 200
    assert [path for path, text in texts.items() if re.search(STRANGER, text, flags=re.MULTILINE)] == []


@pytest.mark.parametrize("line", ["pip install dpbench", "pip install -U 'dpbench[test]'", "pip install dpbench==0.7"])
def test_a_planted_stranger_is_found(line):
    assert re.search(STRANGER, line)


def test_the_citation_is_that_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dpbench.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation.keys() >= {"cff-version", "title", "message", "authors", "type"}


def test_the_action_of_the_guide_is_an_action():
    text = (ROOT / "dpbench" / "guide" / "gate.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    action = yaml.safe_load(block)
    assert action["runs"]["using"] == "composite"
    script = next(step["run"] for step in action["runs"]["steps"] if "run" in step)
    assert 'pip install "$GITHUB_ACTION_PATH/dpbench"\n' in script
    named = set(re.findall(r"inputs\.(\w+)", block))
    assert named == set(action["inputs"])
    assert all("shell" in step for step in action["runs"]["steps"] if "run" in step)
