"""The texts: a README that can be read through, pages that are found, links that lead somewhere, `dpbench guide`."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_architecture import ROOMS

from dpbench.cli import guide
from dpbench.errors import DpbenchError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "dpbench" / "guide").glob("*.md"))
BOARDS = sorted((ROOT / "leaderboards").glob("*.md"))
README = ROOT / "README.md"
TEXTS = [README, ROOT / "CONTRIBUTING.md", *BOARDS, *PAGES]

LINES = 150


def prose(text: str) -> str:
    """Without what stands in fences."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """What links to the headings end in, as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[tuple[Path, str]]:
    """(file, anchor) of every link and picture that is not on the web."""
    targets = re.findall(r"\]\((?!https?://)([^)\s]*)\)", prose(path.read_text(encoding="utf-8")))
    parts = [target.partition("#") for target in targets]
    return [((path.parent / file).resolve() if file else path, anchor) for file, _, anchor in parts]


def dead(path: Path) -> list[str]:
    """Links of a text that lead nowhere."""
    found = []
    for file, anchor in links(path):
        if not file.is_file() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            found.append(f"{file.name}#{anchor}")
    return found


def test_the_readme_can_be_read_through():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_link_leads_somewhere(path):
    assert dead(path) == []


def test_a_planted_dead_link_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# A `heading`, twice\n")
    text = (
        "[1](there.md) ![2](gone.png) [3](there.md#a-heading-twice) [4](there.md#gone) [5](#here)\n```\n[6](x)\n```\n"
    )
    (tmp_path / "page.md").write_text(f"# Here\n\n{text}")
    assert dead(tmp_path / "page.md") == ["gone.png#", "there.md#gone"]


def test_every_text_is_reached_from_the_readme():
    reached: set[Path] = set()
    left = [README]
    while left:
        path = left.pop()
        if path not in reached and path.suffix == ".md":
            reached.add(path)
            left += [file for file, _ in links(path)]
    assert [path.name for path in TEXTS if path not in reached] == []


@pytest.mark.parametrize("path", [*BOARDS, *PAGES], ids=lambda path: path.name)
def test_every_page_says_first_what_it_is_about(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert re.match(r"# \S", lines[0])
    assert sum(line.startswith("# ") for line in prose("\n".join(lines)).splitlines()) == 1


def test_what_the_readme_shows_of_boards_and_columns_is_what_their_pages_say():
    pages = "".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("leaderboards/cifar10.md", "dpbench/guide/boards.md")
    )
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert [row for row in rows if row not in pages.splitlines()] == []


def test_the_rooms_are_described_from_the_ground_up():
    text = (ROOT / "dpbench" / "guide" / "architecture.md").read_text(encoding="utf-8").partition("## ")[0]
    assert re.findall(r"^\| `(\w+)/?` \|", text, flags=re.MULTILINE) == [
        room for rooms in ROOMS for room in rooms if room != "__main__"
    ]


def test_no_page_installs_a_stranger():
    """The name on the public index is another project."""
    stranger = r"""install[ \t]+(-\S+[ \t]+)*['"]?dpbench(\[|==|['"`\s]|$)"""
    assert [path for path in TEXTS if re.search(stranger, path.read_text(encoding="utf-8"))] == []


def test_all_pages_are_listed_with_their_headings(dpbench):
    outcome = dpbench("guide")
    assert outcome.status == 0
    lines = [line.split(maxsplit=1) for line in outcome.out.splitlines()]
    assert [name for name, _ in lines] == [path.stem for path in PAGES]
    assert [about.strip() for _, about in lines] == [guide.heading(path.read_text(encoding="utf-8")) for path in PAGES]


@pytest.mark.parametrize("name", ["threat-models", "threat-models.md"])
def test_a_page_goes_to_a_pipe_as_it_is(name, dpbench):
    outcome = dpbench("guide", name)
    assert outcome.status == 0
    assert outcome.out == (ROOT / "dpbench" / "guide" / "threat-models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [path.stem for path in PAGES])
def test_a_page_is_laid_out_on_a_terminal(name):
    file = io.StringIO()
    guide.print_page(guide.page(name), Console(file=file, force_terminal=True, width=100))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert guide.heading(guide.page(name)) in shown.splitlines()[0]
    assert "|---" not in shown


def test_an_unknown_page_is_refused_with_a_suggestion(dpbench):
    outcome = dpbench("guide", "threat-model")
    assert (outcome.status, outcome.out) == (2, "")
    assert "unknown page 'threat-model'; did you mean 'threat-models'?" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    with pytest.raises(DpbenchError, match="unknown page"):
        guide.page("../README")


def test_a_guide_needs_no_torch():
    code = """
import sys
from dpbench.cli import app
sys.argv = ["dpbench", "guide", "boards"]
try:
    app.main()
except SystemExit as ended:
    assert not ended.code
assert not {"torch", "pandas"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
