"""Every family of timm: its smallest model, cut at every stage of `feature_info`.

    DPBENCH_BACKBONES_CSV=leaderboards/backbones.csv python -m pytest -n 0 tests/contract/test_families.py

finds the smallest models and writes the table of what can be cut. Without it, the published table must still hold; of
a model with more stages than `MOST_STAGES`, alike as they are, that many are cut, the first and the last among them.
"""

import csv
import os
import warnings
from pathlib import Path

import pytest
import timm
import torch
from timm.models import list_modules

from dpbench.errors import DpbenchError
from dpbench.models import backbones, splitting
from dpbench.models.adapters import encoder
from dpbench.models.spec import BackboneSpec

TABLE = Path(__file__).parents[2] / "leaderboards" / "backbones.csv"
WRITE = os.environ.get("DPBENCH_BACKBONES_CSV")
COLUMNS = (
    "family",
    "model",
    "args",
    "image_size",
    "split_point",
    "exact",
    "released_shape",
    "released_values",
    "image_values",
    "packed",
    "reason",
    "final_features",
)
TABLES = ("shared_rel_pos.",)
"""Modules that make tables of positions, which do not depend on the image: both halves have one."""
SIZES = (64, 96, 128, 224)
CLASSES = 7
NARROWED = {"deepseek_vit": {"embed_dim": 256, "num_heads": 4}, "gemma4_vit": {"embed_dim": 192, "num_heads": 3}}
"""Arguments of models of hundreds of millions of parameters: every stage stays, narrower."""
MOST_STAGES = 3
SHARE = 0.95
"""Of families, and of their stages, that must be cut exactly."""

PUBLISHED = [] if WRITE or not TABLE.is_file() else list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
FAMILIES = sorted({row["family"] for row in PUBLISHED} & set(list_modules())) if PUBLISHED else list_modules()


def smallest(family: str) -> str:
    """By parameters; timm's own test models have no other use."""

    def parameters(name: str) -> int:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(p.numel() for p in timm.create_model(name).parameters())

    names = timm.list_models(module=family)
    return min([name for name in names if not name.startswith("test_")] or names, key=parameters)


def create(family: str, name: str, size: int) -> torch.nn.Module:
    spec = BackboneSpec(name=name, args=NARROWED.get(family, {}))
    model = backbones.create_backbone(spec, image_size=size, classes=CLASSES)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # what starts at zero would hide what comes before it
                parameter.normal_(std=0.05, generator=generator)
    return model


def prepare(family: str):
    """The published model at its size; the smallest one at the smallest size that it takes, where none is published."""
    known = next((row for row in PUBLISHED if row["family"] == family), None)
    name = known["model"] if known else smallest(family)
    own = int(timm.get_pretrained_cfg(name).input_size[1])
    sizes = [int(known["image_size"])] if known else [*SIZES, own]
    for size in sizes:
        try:
            model = create(family, name, size)
            return model, splitting.trace_backbone(model, (3, size, size), name=name), name, size
        except DpbenchError:
            if size == sizes[-1]:
                raise
    raise AssertionError("unreachable")


@pytest.fixture(scope="module")
def written():
    rows: list[dict[str, object]] = []
    yield rows
    if WRITE:
        with Path(WRITE).open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


def some(stages: list) -> list:
    """`MOST_STAGES` of them, evenly spread; all where the table is written."""
    if WRITE or len(stages) <= MOST_STAGES:
        return stages
    return [stages[round(index * (len(stages) - 1) / (MOST_STAGES - 1))] for index in range(MOST_STAGES)]


def table_row(family, name, size, point, halves, shape, reason) -> dict[str, object]:
    return {
        "family": family,
        "model": name,
        "args": " ".join(f"{key}={value}" for key, value in NARROWED.get(family, {}).items()),
        "image_size": size,
        "split_point": point,
        "exact": "yes" if halves else "no",
        "released_shape": "x".join(map(str, shape)),
        "released_values": shape.numel() if halves else "",
        "image_values": 3 * size * size,
        "packed": " + ".join("x".join(map(str, part)) for part in halves.packed) if halves else "",
        "reason": reason,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_stage_is_cut_exactly(family, written):
    model, traced, name, size = prepare(family)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    normalise = backbones.normalisation(model)
    with torch.no_grad():
        expected = model(normalise(images[:1]))
    points = some(backbones.split_points(model))
    rows = []
    for point in points:
        try:
            halves = splitting.cut(model, traced, point, classes=CLASSES, name=name)
        except DpbenchError as error:
            rows.append(table_row(family, name, size, point, None, torch.Size(), str(error)))
            continue
        with torch.no_grad():
            released = halves.client_head(images)
            before = released.clone()
            logits = halves.server_tail(released)
        assert len(released) == len(images)
        assert torch.equal(released, before), "the server changed what it was sent"
        if not same(logits[:1], expected):  # in float32; this one asks in float64 too
            splitting.assert_exact(halves, model, images, normalise)
        rows.append(table_row(family, name, size, point, halves, released.shape[1:], ""))
        if point == points[len(points) // 2]:
            assert_trainable_and_computed_once(halves, images)
    width = final_features(model, images)
    rows = [{**row, "final_features": width} for row in rows]
    written += rows
    if PUBLISHED:
        published = some([row for row in PUBLISHED if row["family"] == family])
        assert [{k: str(v) for k, v in row.items()} for row in rows] == published


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = (found - expected).abs().max() / expected.abs().max().clamp_min(1)
    return bool(difference <= splitting.EXACT)


def final_features(model, images) -> int:
    """What a probe reads of an image, once the classifier is gone."""
    model.reset_classifier(0)
    with torch.no_grad():
        width = model.eval()(images).shape[1:]
        encoder.with_head(model, encoder.Head(torch.nn.Linear(width.numel(), CLASSES), last=False))
        assert model(images).shape == (len(images), CLASSES)
    return width.numel()


def assert_trainable_and_computed_once(halves, images) -> None:
    calls: list[str] = []
    names = {id(module): path for path, module in halves.named_modules()}  # a module in both halves has one name
    handles = [
        module.register_forward_hook(lambda module, args, result: calls.append(names[id(module)]))
        for module in halves.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    released = halves.client_head(images)
    in_head = set(calls)
    calls.clear()
    halves.server_tail(released).square().sum().backward()
    for handle in handles:
        handle.remove()
    twice = {path.removeprefix("client_head.1.") for path in in_head & set(calls)}
    assert not {path for path in twice if not path.startswith(TABLES)}
    for half in (halves.client_head, halves.server_tail):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in half.parameters())
    halves.zero_grad()


@pytest.mark.skipif(bool(WRITE), reason="the table is being written") if WRITE else lambda test: test
def test_the_published_table_covers_the_families():
    families = {row["family"] for row in PUBLISHED}
    whole = {f for f in families if all(row["exact"] == "yes" for row in PUBLISHED if row["family"] == f)}
    assert len(families) >= 98
    assert len(whole) >= SHARE * len(families)
    assert sum(row["exact"] == "yes" for row in PUBLISHED) >= SHARE * len(PUBLISHED)
