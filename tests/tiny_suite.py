"""Suites that measure something in seconds: what is usual, but for what a test says.

Plug-ins are names, or tables of a name and parameters: `attacks=["mean-image", {"name": "rmle", "steps": 3}]`.
A table that is given changes the usual one, key by key; None, as a value or in place of the judge's, leaves out.
"""

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType

Table = Mapping[str, object]
NOTHING: Table = MappingProxyType({})


def table(head: str, values: Table) -> str:
    """TOML of one table, without what is None."""
    given = {key: json.dumps(value, default=str) for key, value in values.items() if value is not None}
    return "".join([f"{head}\n", *(f"{key} = {value}\n" for key, value in given.items())])


def tables(head: str, given: Iterable[str | Table]) -> str:
    """TOML of a list of tables, such as `defenses`."""
    return "".join(table(f"[[{head}]]", {"name": one} if isinstance(one, str) else one) for one in given)


def plugins(defenses: Iterable[str | Table], attacks: Iterable[str | Table]) -> str:
    """The end of every suite."""
    return tables("defenses", defenses) + tables("attacks", attacks)


def tiny_suite(
    defenses: Iterable[str | Table] = ("none",),
    attacks: Iterable[str | Table] = ("mean-image",),
    *,
    dataset: Table = NOTHING,
    judge: Table | None = NOTHING,
    backbone: Table = NOTHING,
    **top: object,
) -> str:
    """By itself the smallest suite that measures something: an undefended network and a guess."""
    images = {"name": "leaves", "image_size": 32, "private": 256, "auxiliary": 128, "test": 64}
    network = {"name": "resnet10t", "weights": "fit", "epochs": 1, "split_points": ["layer1"]}
    return "".join(
        [
            table("", {"name": "tiny", "victims": 4, **top}),
            table("[dataset]", {**images, **dataset}),
            "" if judge is None else table("[judge]", {"name": "resnet14t", "epochs": 1, **judge}),
            table("[[backbones]]", {**network, **backbone}),
            plugins(defenses, attacks),
        ]
    )


def unfitted_suite(
    defenses: Iterable[str | Table], attacks: Iterable[str | Table], *, dataset: Table = NOTHING, **top: object
) -> str:
    """Of a network that is left at random: its figures say nothing."""
    images = {"private": 64, "auxiliary": 64, "test": 32}
    judge = {"name": "mobilenetv3_small_050"}
    return tiny_suite(defenses, attacks, dataset={**images, **dataset}, judge=judge, backbone={"epochs": 0}, **top)


def tiny_sharing(
    defenses: Iterable[str | Table] = (),
    attacks: Iterable[str | Table] = ("mean-image",),
    *,
    entities: Mapping[str, int],
    dataset: Table,
    backbone: Table = NOTHING,
    refinement: Table | None = None,
    **top: object,
) -> str:
    """Entities that share features: the first receives those of the others."""
    usual = {
        "protocol": "sharing",
        "name": "tiny-sharing",
        "seeds": [0],
        "victims": 4,
        "receivers": [next(iter(entities))],
    }
    network = {"name": "resnet10t", "weights": "fit", "split_points": ["layer1"]}
    return "".join(
        [
            table("", {**usual, **top}),
            table("[dataset]", dataset),
            table("[backbone]", {**network, **backbone}),
            tables("entities", ({"name": name, "images": images} for name, images in entities.items())),
            "" if refinement is None else table("[refinement]", refinement),
            plugins(defenses, attacks),
        ]
    )


SUITE = tiny_suite()
