"""Text from records, suites, plug-ins, exceptions and paths, made fit to be shown: to print, to log, to draw.

Whoever wrote such text may be a stranger. What is stored stays as it was; this is for eyes and terminals alone.
"""

from __future__ import annotations

import unicodedata

LIMIT = 300
"""Characters of a name or a message that are shown."""

ERROR_LIMIT = 2000
"""Characters of an error line: one that lists what is known may be long."""

UNSEEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
"""Unicode categories that are not seen, or move what is: control, format (bidi marks), private, surrogates, breaks."""


def clean(text: object, limit: int = LIMIT) -> str:
    r"""One line that does nothing but be read.

    White space becomes single spaces. What cannot be seen, or changes how the rest is seen (escape sequences, bidi
    marks, zero-width characters, lone surrogates), becomes its escape: `\x1b`, `\u202e`. Commands that CI services
    read from logs (`::error::`, `##[group]`) are broken up. What is too long ends in `...`.

    Args:
        text: anything; what is no text is shown by its `str`.
        limit: the most characters that come out.
    """
    given = text if isinstance(text, str) else str(text)
    # cut first: a name of a gigabyte is not walked through; escapes only make it longer
    words = " ".join(given[: 2 * limit + 2].split())
    seen = words
    if not words.isprintable():  # nearly all is: a page of a large board has 100,000 such texts
        seen = "".join(_escaped(char) if unicodedata.category(char) in UNSEEN else char for char in words)
    defused = _broken_up(seen)
    longer = len(defused) > limit or len(given) > 2 * limit + 2
    return defused[: limit - 3].rstrip() + "..." if longer else defused


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _broken_up(text: str) -> str:
    """Without `::` and `##[`, by which GitHub Actions and Azure Pipelines know commands."""
    while "::" in text:
        text = text.replace("::", ": :")
    return text.replace("##[", "# #[").replace("##vso", "# #vso")


def drawn(text: object, limit: int = LIMIT) -> str:
    r"""`clean`, for matplotlib, which reads `$...$` as mathematics and leaves a label like `_x` out of legends."""
    shown = clean(text, limit).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
