"""What a cell is called on a board: nothing of the machine it ran on, and no two cells alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from dpbench.contract.spec import PLUS, PluginSpec
from dpbench.contract.threat import DERIVED
from dpbench.data.spec import DatasetSpec
from dpbench.suite.cell import CellSpec

K = TypeVar("K", str, tuple[int, str])
"""Key of a setting: a parameter, or, where several defenses meet, the number of the defense and its parameter."""


SHIFTED = "shifted"
"""Names the attacker's other images among the settings of its attack."""


@dataclass(frozen=True)
class RowName:
    """The columns that name a row."""

    dataset: str
    backbone: str
    split_point: str
    defense: str
    defense_args: str
    attack: str
    threat_model: str
    auxiliary: str
    releases: int
    budget: str
    seed: str
    """A number, or `all` for the mean over several."""
    server: str = ""
    """`trusted` where the attacker does not hold the server's half."""
    arguments: tuple[tuple[str, str], ...] = ()
    """Parameter and value, as text, of each that `defense_args` names; no column."""

    @property
    def setting(self) -> str:
        """The defense and its parameters, in words."""
        return f"{self.defense} {self.defense_args}".strip()

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Rows that are compared with each other: same images, model, split point and seed."""
        return self.dataset, self.backbone, self.split_point, self.seed

    def columns(self) -> dict[str, Any]:
        """Column -> value."""
        columns = asdict(self)
        del columns["arguments"]
        return columns


def name_rows(cells: Sequence[CellSpec]) -> list[RowName]:
    """A name for each cell. Where two differ in something else, what varies is added: `decoder steps=200`."""
    datasets = _labels([(_dataset_name(c.dataset), _dataset_settings(c), c.data_fingerprint[:8]) for c in cells])
    backbones = _labels([(c.backbone.shown, _backbone_settings(c), "") for c in cells])
    shifted = _shifted_names(cells)
    plugins = plugin_names(spec for cell in cells for spec in (cell.defense, cell.attack))
    attacks = _labels(
        [
            (plugins[c.attack.name, c.attack.source], _attack_settings(c, other), c.attack.source)
            for c, other in zip(cells, shifted, strict=True)
        ],
        # a budget scales the parameters of an attack: it remains the same attack
        scopes=[c.budget for c in cells],
    )
    defenses = _sources([c.defense for c in cells], plugins)
    return [
        RowName(
            dataset=datasets[index],
            backbone=backbones[index],
            split_point=cell.split_point,
            defense=plugins[cell.defense.name, cell.defense.source],
            defense_args=arguments_text(given),
            # a stranger's record may have such a name, and no row of it is a worst case
            attack=f"{attacks[index]} (attack)" if attacks[index] in DERIVED else attacks[index],
            threat_model=cell.threat_model,
            auxiliary=cell.auxiliary,
            releases=cell.releases,
            budget=cell.budget,
            seed=str(cell.seed),
            server="trusted" if cell.server == "trusted" else "",
            arguments=tuple(values_of(given).items()),
        )
        for index, cell in enumerate(cells)
        for given in [cell.defense.shown_arguments | defenses[index]]
    ]


def _dataset_name(dataset: DatasetSpec) -> str:
    """`leaves`, timm's `torch/...` and `hfds/...` as they are; of a folder only its own name."""
    if re.match(r"(torch|hfds|hfids|tfds|wds)/", dataset.name):
        return dataset.name
    return short_name(dataset.name)


def short_name(name: str) -> str:
    """A name without what is of this machine: `path/to/mine.py:Mine` becomes `mine.py:Mine`."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return last if last not in ("", ".", "..", "~") else "folder"


def _dataset_settings(cell: CellSpec) -> dict[str, Any]:
    return _settings_of(cell.dataset)


def _settings_of(dataset: DatasetSpec) -> dict[str, Any]:
    return dataset.model_dump(exclude={"name", "arguments"}) | dataset.shown_arguments


def _backbone_settings(cell: CellSpec) -> dict[str, Any]:
    settings = cell.backbone.model_dump(exclude={"name", "files", "class_embeddings", "server"})
    files = {f"file {name}": digest[:8] for name, digest in cell.backbone.files.items()}
    weights = {"weights": f"file:{cell.weights_fingerprint[:8]}"} if cell.weights_fingerprint else {}
    return settings | files | weights


def _attack_settings(cell: CellSpec, shifted: str) -> dict[str, Any]:
    elsewhere = {SHIFTED: shifted} if shifted else {}
    return cell.attack.shown_arguments | {"victims": cell.victims} | elsewhere


def _shifted_names(cells: Sequence[CellSpec]) -> list[str]:
    """What tells one source of other images from another; empty where the attacker has images like the victims'."""
    given = [(cell.shifted, cell.shifted_fingerprint[:8]) for cell in cells]
    known = [(_dataset_name(d), _settings_of(d), mark) for d, mark in given if d is not None]
    labels = iter(_labels(known))
    return ["" if dataset is None else next(labels).replace(" ", ",") for dataset, _ in given]


def varying(settings: Sequence[Mapping[K, str]]) -> list[K]:
    """The parameters in which settings of one thing differ, by name; one that some lack differs too."""
    names = sorted({name for given in settings for name in given})
    return [name for name in names if len({given.get(name) for given in settings}) > 1]


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """`key=value key=value`, by name."""
    return " ".join(f"{key}={value}" for key, value in values_of(arguments).items())


def values_of(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Parameter -> value as boards write it, without spaces; by name."""
    return {key: _compact(value) for key, value in sorted(arguments.items())}


def _compact(value: Any) -> str:
    return re.sub(r"\s+", "", str(value))


def _labels(items: Sequence[tuple[str, dict[str, Any], str]], *, scopes: Sequence[str] = ()) -> list[str]:
    """Labels that tell items apart: the name, with what varies among its namesakes, if need be with the last part."""
    scoped = list(zip(items, scopes or [""] * len(items), strict=True))
    values: dict[tuple[str, str, str], set[str]] = {}
    for (name, settings, _), scope in scoped:
        for key, value in settings.items():
            values.setdefault((scope, name, key), set()).add(_compact(value))
    varied = [
        {key: value for key, value in settings.items() if len(values[scope, name, key]) > 1}
        for (name, settings, _), scope in scoped
    ]
    # a parameter that some lack is at its default there
    alike = [(scope, name, arguments_text(own)) for ((name, _, _), scope), own in zip(scoped, varied, strict=True)]
    shared: dict[tuple[str, str, str], set[str]] = {}
    for (_, settings, _), place in zip(items, alike, strict=True):
        shared[place] = shared.get(place, set(settings)) & set(settings)
    labels = []
    for (name, settings, _), place, own in zip(items, alike, varied, strict=True):
        further = {key: settings[key] for key in settings if key not in shared[place] and key != SHIFTED}
        labels.append(f"{name} {arguments_text(own | further)}".strip())
    last_parts: dict[str, set[str]] = {}
    for label, (_, _, last) in zip(labels, items, strict=True):
        last_parts.setdefault(label, set()).add(last)
    return [
        f"{label} {last}" if len(last_parts[label]) > 1 else label
        for label, (_, _, last) in zip(labels, items, strict=True)
    ]


def _sources(defenses: Sequence[PluginSpec], plugins: Mapping[tuple[str, str], str]) -> list[dict[str, str]]:
    """The version of a defense, where records of several versions with the same arguments meet."""
    keys = [(plugins[d.name, d.source], arguments_text(d.shown_arguments)) for d in defenses]
    seen: dict[tuple[str, str], set[str]] = {}
    for key, defense in zip(keys, defenses, strict=True):
        seen.setdefault(key, set()).add(defense.source)
    return [{"source": d.source} if len(seen[key]) > 1 else {} for key, d in zip(keys, defenses, strict=True)]


def plugin_names(specs: Iterable[PluginSpec]) -> dict[tuple[str, str], str]:
    """(Name, source) of attacks and defenses -> what a board calls them, alike for what is the same alone.

    A class in a file goes by the last part of its path, and by as many more as tell it from others:
    `team_a/defense.py:Mine`. `mine.py:Mine`, `./mine.py:Mine` and a longer path that ends like it are one plug-in
    where the source is equal too.
    """
    given = {(spec.name, spec.source): _path_parts(spec.name) for spec in specs}
    longest = {}
    for (name, source), own in given.items():
        alike = {parts for (_, other), parts in given.items() if other == source and _ends(parts, own)}
        full = [parts for parts in alike if not any(parts != longer and _ends(longer, parts) for longer in alike)]
        longest[name, source] = full[0] if len(full) == 1 else own  # the end of two paths is neither of them
    distinct = set(longest.values())
    names = {}
    for key, parts in longest.items():
        others = distinct - {parts}
        count = next((n for n in range(1, len(parts)) if not any(_ends(o, parts[-n:]) for o in others)), len(parts))
        names[key] = "/".join(parts[-count:])
    return names


def _path_parts(name: str) -> tuple[str, ...]:
    """`../team/./mine.py:Mine` -> `team`, `mine.py:Mine`; of several defenses in a row the last part of each."""
    if PLUS in name:
        return (PLUS.join(map(short_name, name.split(PLUS))),)
    parts: list[str] = []
    for part in re.split(r"[/\\]", name):
        if part == "..":
            del parts[-1:]
        elif part not in ("", ".", "~"):
            parts.append(part)
    return tuple(parts) or ("folder",)


def _ends(path: tuple[str, ...], end: tuple[str, ...]) -> bool:
    return path[-len(end) :] == end
