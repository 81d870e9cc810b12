"""What a report holds, whichever protocol it is of; `dpbench.report.page` lays it out.

All text in it is plain: whoever wrote a name or an error may be a stranger, and the page escapes whatever it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Tone = Literal["bad", "mixed", "good", "open"]
"""What a verdict says at a glance: broken, partly broken, held against these attacks, nothing to judge."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: what heads it.
        numeric: whether it is sorted by number, and set to the right.
        main: whether it is shown before anybody asks for all columns.
        about: what it means, in a sentence.
    """

    title: str
    numeric: bool = False
    main: bool = True
    about: str = ""


@dataclass(frozen=True)
class Cell:
    """A value of a table.

    Attributes:
        text: what is shown.
        order: what it is sorted by; the text where there is none.
        mark: the CSS class of its mark, as of a level, else empty.
        about: more, on hover.
    """

    text: str
    order: float | None = None
    mark: str = ""
    about: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        cells: one for each column.
        group: what a reader may restrict the table to.
        colour: of the defense, `#rrggbb`; empty for none.
        marker: of the defense, a character.
    """

    cells: Sequence[Cell]
    group: str = ""
    colour: str = ""
    marker: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and filtered.

    Attributes:
        columns: in order.
        lines: the rows.
        groups: name of a group -> what a reader chooses it by; the first is shown at the start.
        grouped_by: what the groups are, such as "against whom".
    """

    columns: Sequence[Column]
    lines: Sequence[Line]
    groups: Mapping[str, str] = field(default_factory=dict)
    grouped_by: str = ""


@dataclass(frozen=True)
class Picture:
    """One image of a gallery.

    Attributes:
        source: a `data:` URI.
        alt: what it shows, for those who do not see it.
        figure: a few characters below it, such as `0.83`.
        about: the same in words, on hover.
    """

    source: str
    alt: str
    figure: str = ""
    about: str = ""


@dataclass(frozen=True)
class Strip:
    """A row of images: the victims, or what comes back behind one defense."""

    label: str
    note: str
    pictures: Sequence[Picture]
    colour: str = ""
    marker: str = ""


@dataclass(frozen=True)
class Gallery:
    """Strips below each other: victims and what comes back, or what an attack showed step by step."""

    title: str
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Plot:
    """An interactive plot, with one figure for each metric that can be chosen.

    Attributes:
        title: a heading: what is plotted, of which data and backbone.
        about: how it is read, in a sentence or two.
        figures: label of a metric -> a figure of plotly as plain data: `data` and `layout`.
        alt: what it shows, for those who do not see it.
    """

    title: str
    about: str
    figures: Mapping[str, Mapping[str, Any]]
    alt: str


@dataclass(frozen=True)
class Answer:
    """What the verdict rests on in one place.

    Attributes:
        place: a heading: data, network and split point; empty where the page is about one place.
        lines: a sentence or two each.
    """

    place: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Report:
    """A whole page.

    Attributes:
        title: such as `quick`.
        subject: data, network and split points, in a line.
        verdict: the answer in one sentence.
        tone: of the verdict.
        answers: what it rests on, for each network and split point.
        galleries: one for each network, split point and seed.
        films: what attacks showed while they ran, one for each attack.
        table: what a reader needs of the board.
        attackers: name -> sentences on who attacked, and how.
        plots: in the order in which they are shown.
        caveats: what the figures do not say by themselves.
        untested: what nobody tried here.
        terms: the words that the glossary explains.
        environment: name -> value.
        commands: command -> what it does.
        cells: the whole board.
    """

    title: str
    subject: str
    verdict: str
    tone: Tone
    answers: Sequence[Answer]
    table: Table
    cells: Table
    galleries: Sequence[Gallery] = ()
    films: Sequence[Gallery] = ()
    attackers: Sequence[tuple[str, str]] = ()
    plots: Sequence[Plot] = ()
    caveats: Sequence[str] = ()
    untested: Sequence[str] = ()
    terms: Sequence[str] = ()
    environment: Sequence[tuple[str, str]] = ()
    commands: Sequence[tuple[str, str]] = ()
