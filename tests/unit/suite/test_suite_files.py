"""Suite files that are no suite files: one line each."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import pytest
from parsing import load_suite

from dpbench.errors import DpbenchError
from dpbench.protocols.known import loaded
from dpbench.suite.files import LONGEST, built_in_suites

TEXT = built_in_suites()["smoke"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x01\xff\xfe", "cannot be read: 'utf-8' codec"),
        (TEXT.encode("utf-16"), "save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "save it as UTF-8"),
        (b"a = " + b"[" * 100_000, "nested too deeply|TOML syntax error"),
        (b"a." * 20_000 + b"a = 1", "TOML syntax error|field required"),
        (b"victims = " + b"9" * 5000, "TOML syntax error: Exceeds the limit"),
        (b"#" * (LONGEST + 1), "has over 1,000,000 bytes"),
        (b"name = ['" + b"x" * 10_000 + b"']", r"name: input should be a valid string, got \['xxx.*\.\.\."),
        (b"", "required"),
    ],
)
def test_what_is_no_suite_is_refused_in_a_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "suite.toml"
    path.write_bytes(content)
    with pytest.raises(DpbenchError, match=message) as refused:
        load_suite(str(path))
    assert len(str(refused.value)) < 600


def test_a_folder_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").mkdir()
    with pytest.raises(DpbenchError, match=r"suite\.toml is a folder"):
        load_suite(str(tmp_path / "suite.toml"))
    with pytest.raises(DpbenchError, match="there is no suite file"):
        load_suite(str(tmp_path / "other.toml"))
    with pytest.raises(DpbenchError, match="cannot be read: File name too long"):
        load_suite(str(tmp_path / f"{'x' * 300}.toml"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_line_ends_and_byte_order_marks_change_nothing(tmp_path: Path, end: str, mark: bytes) -> None:
    path = tmp_path / "suite.toml"
    path.write_bytes(mark + TEXT.replace("\n", end).encode())
    assert load_suite(str(path)) == load_suite("smoke")
    assert loaded(str(path))[0].name == "inference"


def test_no_text_installs_a_stranger() -> None:
    """The name on the public index is another project."""
    root = Path(__file__).parents[3]
    texts = [root / "README.md", root / "CONTRIBUTING.md", root / "leaderboards" / "README.md"]
    texts += [path for folder in ("dpbench", "attacks", "defenses") for path in (root / folder).rglob("*")]
    found = [
        path
        for path in texts
        if path.suffix in (".py", ".md", ".toml", ".txt", ".yml")
        and re.search(r"""install[ \t]+(-\S+[ \t]+)*['"]?dpbench(\[|==|['"`\s]|$)""", path.read_text(encoding="utf-8"))
    ]
    assert found == []
