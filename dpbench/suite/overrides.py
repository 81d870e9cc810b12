"""What a command line changes in a suite, and which of its parts it picks; alike in every protocol."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from dpbench.contract.spec import LARGEST_SEED, PLUS
from dpbench.contract.threat import BUDGETS
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError, unknown
from dpbench.models.spec import WEIGHTS
from dpbench.suite.files import S, validated


def overrides(dataset: DatasetSpec, *, data: str | None, seed: int | None, budget: str | None) -> dict[str, object]:
    """Fields of a suite that `--data`, `--seed` and `--budget` replace; None leaves a field as it is.

    Raises:
        DpbenchError: a seed that no generator takes, or no such budget.
    """
    changes: dict[str, object] = {}
    if data is not None:
        changes["dataset"] = dataset.renamed(data)
    if seed is not None:
        if not 0 <= seed <= LARGEST_SEED:
            raise DpbenchError(f"--seed {seed} is {'negative' if seed < 0 else 'too large'}; expected 0 to 2^63 - 1")
        changes["seeds"] = [seed]
    if budget is not None:
        if budget not in BUDGETS:
            raise unknown("budget", budget, BUDGETS)
        changes["budget"] = budget
    return changes


def changed(
    suite: S,
    *,
    settings: Sequence[str] = (),
    backbone: str | None = None,
    splits: Sequence[str] = (),
    victims: int | None = None,
) -> S:
    """A suite with what a command line writes into it, checked as its file is.

    Args:
        suite: of any protocol.
        settings: `KEY=VALUE`, the value as TOML has it, a bare word for a text; `dataset.test=100` is of a table,
            `backbones.epochs=2` of every entry of a list of tables, `backbones.1.epochs=2` of its first.
        backbone: replaces the backbones of the suite by one, see `entry`; it keeps the settings of the first.
        splits: replace the split points of all backbones.
        victims: how many; attacks that ask for more get so many too.

    Raises:
        DpbenchError: no such key, or a value that does not fit.
    """
    content = suite.model_dump()
    said = []
    if backbone is not None:
        said.append(f"--backbone {backbone}")
        _replace_backbone(content, entry(backbone, "--backbone"), said[-1])
    if splits:
        said.append(f"--split {' '.join(splits)}")
        for one in _backbones(content, said[-1]):
            one["split_points"] = [int(split) if re.fullmatch(r"-?\d+", split) else split for split in splits]
    if victims is not None:
        said.append(f"--victims {victims}")
        content["victims"] = victims
        for attack in content.get("attacks", []):
            if attack.get("victims"):
                attack["victims"] = min(attack["victims"], victims)
    for setting in settings:
        said.append(f"--set {setting}")
        _set(content, setting)
    return validated(type(suite), content, origin=", ".join(said)) if said else suite


def _backbones(content: dict[str, Any], option: str) -> list[dict[str, Any]]:
    found = content.get("backbones") or [content["backbone"]] if {"backbones", "backbone"} & content.keys() else []
    if not found:
        raise DpbenchError(f"{option}: a suite of this protocol has no backbone; leave it out")
    return found


def _replace_backbone(content: dict[str, Any], given: dict[str, Any], option: str) -> None:
    first = _backbones(content, option)[0]
    weights = first["weights"] if first["weights"] in WEIGHTS else "auto"  # a file is of another network
    new = {**first, "args": {}, "weights": weights, **given}
    content.update({"backbones": [new]} if "backbones" in content else {"backbone": new})


def _set(content: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    *place, last = key.strip().split(".")
    if not equals or not all([*place, last]):
        raise DpbenchError(f"--set {setting}: expected KEY=VALUE, such as victims=8 or dataset.test=100")
    tables = [content]
    for part in place:
        tables = [found for table in tables for found in _inner(table, part, setting)]
    for one in [inner for table in tables for inner in (table if isinstance(table, list) else [table])]:
        one[last] = _value(text.strip(), f"--set {setting}")


def _inner(table: Any, part: str, setting: str) -> list[Any]:
    if isinstance(table, list):
        if not part.isdecimal():
            return [inner for one in table for inner in _inner(one, part, setting)]
        if not 1 <= int(part) <= len(table):
            raise DpbenchError(f"--set {setting}: there are {len(table)}, counted from 1, and no {part}")
        return [table[int(part) - 1]]
    if part not in table:
        raise unknown(f"key in --set {setting}:", part, table)
    found = table[part]
    if found is None:
        table[part] = found = {}
    if isinstance(found, list) and found and all(isinstance(one, dict) for one in found):
        return [found]
    if not isinstance(found, dict):
        raise DpbenchError(
            f"--set {setting}: {part} is no table; expected KEY=VALUE of a table, such as dataset.test=100"
        )
    return [found]


def entry(text: str, option: str) -> dict[str, Any]:
    """A plug-in or a backbone of a command line as a table of a suite: `gaussian std=[0.5,3.0]`.

    Args:
        text: a name, then parameters. A value is TOML, or a bare word: a text.
        option: names it in messages.

    Raises:
        DpbenchError: no name, a parameter that is named twice, or a value that is neither.
    """
    found = re.match(r"(?s)(.*?)(?=\s+[A-Za-z_]\w*=|\s*$)(.*)", text.strip())
    assert found is not None
    name, rest = found.group(1).strip(), found.group(2)
    if not name or re.match(r"[A-Za-z_]\w*=", name):
        raise DpbenchError(f"{option} {text!r}: expected a name, then parameters, such as 'gaussian std=1.0'")
    table: dict[str, Any] = {"name": name}
    for part in _parts(rest):
        if part == PLUS.strip():
            raise DpbenchError(
                f"{option} {text!r}: expected all names before the first parameter, as in 'topk + gaussian std=1.0'; a "
                "parameter that several have goes by its defense: gaussian_std"
            )
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier() or key in table:
            why = "is there twice" if key in table else "is no parameter"
            raise DpbenchError(f"{option} {text!r}: {part!r} {why}; expected KEY=VALUE, as in 'gaussian std=[0.5,3.0]'")
        table[key] = _value(value, f"{option} {text!r}")
    return table


def _parts(text: str) -> list[str]:
    """Split at white space that stands in no quotes and no brackets."""
    parts, current, quote, depth = [], "", "", 0
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "[{") - (char in "]}")
        if char.isspace() and not quote and depth <= 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [part for part in [*parts, current] if part]


def _value(text: str, origin: str) -> Any:
    """`8`, `0.5`, `true`, `[1, 2]`, `"two words"`; a bare word is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (ValueError, RecursionError) as error:
        if re.fullmatch(r"""[^\s"'\[\]{},=#]+""", text):
            return text
        raise DpbenchError(
            f'{origin}: {text!r} is no value; expected one as in TOML: 8, 0.5, true, [1, 2] or "two words"'
        ) from error


def matches_any(pattern: str, names: Sequence[str]) -> bool:
    """Whether a shell pattern matches any of a unit's names.

    It occurs anywhere in the first, which is what is shown; or is the last, an id, in full; or it names a parameter,
    such as `steps=20`, and occurs in one between, where parameters stand that are not shown.
    """
    shown, *between, name = names
    return (
        pattern == name
        or fnmatch.fnmatchcase(shown, f"*{pattern}*")
        or ("=" in pattern and any(fnmatch.fnmatchcase(one, f"*{pattern}*") for one in between))
    )
