"""What strangers wrote, in tables that others open: no formula in a spreadsheet, no link or cell in Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FORMULA = re.compile(r"'*[=+\-@\t]")
"""How a text begins that a spreadsheet takes for a formula, or that was marked as none."""

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV; before a text that a spreadsheet would take for a formula stands `'`, as spreadsheets have it."""
    texts = table.select_dtypes(["object", "string"]).columns
    marked = table.assign(**{column: table[column].map(_marked) for column in texts})
    return str(marked.to_csv(index=False, lineterminator="\n"))


def _marked(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = "\n".join(re.split("\r\n|\r", value))  # a lone carriage return would end the row
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def unmarked(text: str) -> str:
    """A value of a CSV file as it was before `csv_text` marked it."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def in_markdown(text: str) -> str:
    """A text as a cell of a Markdown table that shows nothing but the text."""
    escaped = re.sub(r"([\\`*|])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
    return escaped.replace("](", "]\\(")
