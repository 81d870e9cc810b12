"""What a cell is called on a board: nothing of the machine it ran on, and no two cells alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dpbench.specs import CellSpec, DatasetSpec, PluginSpec


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
    seed: int

    @property
    def group(self) -> tuple[str, str, str, int]:
        """Rows that are compared with each other: same images, model, split point and seed."""
        return self.dataset, self.backbone, self.split_point, self.seed

    def columns(self) -> dict[str, Any]:
        """Column -> value."""
        return asdict(self)


def name_rows(cells: Sequence[CellSpec]) -> list[RowName]:
    """A name for each cell. Where two differ in something else, what varies is added: `decoder steps=200`."""
    datasets = _labels([(_dataset_name(c.dataset), _dataset_settings(c), c.data_fingerprint[:8]) for c in cells])
    backbones = _labels([(c.backbone.name, c.backbone.model_dump(exclude={"name"}), "") for c in cells])
    attacks = _labels([(_short(c.attack.name), _attack_settings(c), c.attack.source) for c in cells])
    defenses = _sources([c.defense for c in cells])
    return [
        RowName(
            dataset=datasets[index],
            backbone=backbones[index],
            split_point=cell.split_point,
            defense=_short(cell.defense.name),
            defense_args=_arguments(cell.defense.arguments | defenses[index]),
            attack=attacks[index],
            threat_model=cell.threat_model,
            seed=cell.seed,
        )
        for index, cell in enumerate(cells)
    ]


def _dataset_name(dataset: DatasetSpec) -> str:
    """`leaves`, timm's `torch/...` and `hfds/...` as they are; of a folder only its own name."""
    if re.match(r"(torch|hfds|hfids|tfds|wds)/", dataset.name):
        return dataset.name
    return _short(dataset.name)


def _short(name: str) -> str:
    """The last component of a path; `path/to/mine.py:Mine` becomes `mine.py:Mine`."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return last if last not in ("", ".", "..", "~") else "folder"


def _dataset_settings(cell: CellSpec) -> dict[str, Any]:
    return cell.dataset.model_dump(exclude={"name"})


def _attack_settings(cell: CellSpec) -> dict[str, Any]:
    return cell.attack.arguments | {"victims": cell.victims}


def _arguments(arguments: dict[str, Any]) -> str:
    return " ".join(f"{key}={_compact(value)}" for key, value in sorted(arguments.items()))


def _compact(value: Any) -> str:
    return re.sub(r"\s+", "", str(value))


def _labels(items: Sequence[tuple[str, dict[str, Any], str]]) -> list[str]:
    """`name`, with the settings that vary among items of that name; if that is not enough, the last part."""
    values: dict[tuple[str, str], set[str]] = {}
    for name, settings, _ in items:
        for key, value in settings.items():
            values.setdefault((name, key), set()).add(_compact(value))
    labels = []
    for name, settings, _ in items:
        varied = {key: value for key, value in settings.items() if len(values[name, key]) > 1}
        labels.append(f"{name} {_arguments(varied)}".strip())
    last_parts: dict[str, set[str]] = {}
    for label, (_, _, last) in zip(labels, items, strict=True):
        last_parts.setdefault(label, set()).add(last)
    return [
        f"{label} {last}" if len(last_parts[label]) > 1 else label
        for label, (_, _, last) in zip(labels, items, strict=True)
    ]


def _sources(defenses: Sequence[PluginSpec]) -> list[dict[str, str]]:
    """The version of a defense, where records of several versions with the same arguments meet."""
    seen: dict[tuple[str, str], set[str]] = {}
    for defense in defenses:
        seen.setdefault((defense.name, _arguments(defense.arguments)), set()).add(defense.source)
    return [{"source": d.source} if len(seen[d.name, _arguments(d.arguments)]) > 1 else {} for d in defenses]
