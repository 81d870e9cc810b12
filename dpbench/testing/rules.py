"""What a rule of the contract is, how one says that it is broken, and the rule that holds for every plug-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpbench.contract.plugin import Plugin

Rule = Callable[[Any], None]
"""Takes what is checked; raises where the rule is broken. The first line of its docstring is the rule in words."""


class ContractError(AssertionError):
    """A plug-in breaks a rule of the contract: which rule, what was found, what to do; one line."""


def expect(holds: bool, otherwise: str) -> None:
    """Go on where something holds.

    Raises:
        ContractError: it does not; `otherwise` says what was found and what to do.
    """
    if not holds:
        raise ContractError(otherwise)


def is_documented(cls: type[Plugin]) -> None:
    """Refuse a class without a docstring of its own, and parameters without a description: `dpbench list` shows them.

    Raises:
        ContractError: something is not documented.
    """
    docstring = vars(cls).get("__doc__") or ""
    expect(bool(docstring.strip()), f"{cls.__name__} has no docstring; say what it does and from which paper it is")
    bare = [name for name, field in cls.model_fields.items() if not field.description]
    expect(not bare, f"no description of {', '.join(bare)}; write `Field(..., description=...)`")
