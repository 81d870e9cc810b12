"""The pages of `dpbench guide`: Markdown files that come with the package."""

from __future__ import annotations

from importlib import resources

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from dpbench.errors import unknown


def pages() -> dict[str, str]:
    """Name -> Markdown of every page, in the order of their names."""
    files = [path for path in (resources.files("dpbench") / "guide").iterdir() if path.name.endswith(".md")]
    return {
        path.name.removesuffix(".md"): path.read_text(encoding="utf-8")
        for path in sorted(files, key=lambda path: path.name)
    }


def page(name: str) -> str:
    """The Markdown of one page; its file's name is taken too."""
    known = pages()
    name = name.removesuffix(".md")
    if name not in known:
        raise unknown("page", name, known)
    return known[name]


def heading(text: str) -> str:
    """What the first line of a page says: `# Boards` -> `Boards`."""
    return text.partition("\n")[0].removeprefix("# ")


def print_pages(console: Console) -> None:
    """One line for each page: its name, and its heading."""
    table = Table.grid(padding=(0, 2))
    for name, text in pages().items():
        table.add_row(Text(name, style="bold"), heading(text))
    console.print(table)


def print_page(text: str, console: Console) -> None:
    """Print a page: laid out on a terminal, and as plain Markdown into pipes and files."""
    if console.is_terminal:
        console.print(Markdown(text, hyperlinks=False))
    else:
        print(text, end="")
