"""Two reports side by side: which lines belong together, and what is called worse."""

import pytest

from dpbench.report.content import Cell, Column, Line, Report, Table
from dpbench.viewing.comparing import compare


def report(columns, *rows):
    lines = [Line([Cell(text, order) for text, order in row]) for row in rows]
    table = Table([Column(title, numeric=numeric) for title, numeric in columns], lines)
    return Report("run", "", "", "open", [], table, table)


@pytest.mark.parametrize(
    ("title", "turn"),
    [("accuracy", "better"), ("recovered?", "worse"), ("re-identified", "worse"), ("gain", ""), ("lpips", "")],
)
def test_more_is_worse_only_of_what_leaks(title, turn):
    columns = [("defense", False), (title, True)]
    one, other = (report(columns, [("none", None), (f"{value}", value)]) for value in (0.5, 0.75))
    ((figure,),) = (pair.figures for pair in compare(one, other).pairs)
    assert (figure.change, figure.turn) == ("+0.25", turn)
    ((back,),) = (pair.figures for pair in compare(other, one).pairs)
    assert back.turn == {"better": "worse", "worse": "better"}.get(turn, "")


def test_tables_without_a_known_column_are_matched_by_their_texts():
    columns = [("recipe", False), ("score", True)]
    one = report(columns, [("a", None), ("1", 1.0)], [("b", None), ("2", 2.0)])
    other = report(columns, [("b", None), ("4", 4.0)], [("c", None), ("5", 5.0)])
    found = compare(one, other).pairs
    assert [(pair.line.cells[0].text, pair.figures[0].change) for pair in found] == [
        ("a", ""),
        ("b", "+2.00"),
        ("c", ""),
    ]
