"""Synthetic records of the protocol `sharing`: what a run would have stored, without a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from record_factory import victim_hashes

from dpbench.contract.spec import PluginSpec
from dpbench.data.spec import DatasetSpec
from dpbench.models.spec import BackboneSpec
from dpbench.protocols.sharing.records import Equivalence, SharingRecord, Trained
from dpbench.protocols.sharing.reporting.board import build_sharing_board
from dpbench.protocols.sharing.suite import Condition, Knowledge, Owner, Refinement
from dpbench.protocols.sharing.units import Attacked, Training, Transferred, Unit, WorldSpec
from dpbench.suite.ensembles import is_floor

APPLIED = {
    "none": PluginSpec(name="none"),
    "dpm": PluginSpec(name="dpm", arguments={"strength": 1.0}),
    "gaussian": PluginSpec(name="gaussian", arguments={"std": 1.0}),
    "strong": PluginSpec(name="gaussian", arguments={"std": 2.0}),
}
HASHES = victim_hashes(4)


def world(seed: int = 0, senders: tuple[str, ...] = ("hospital",)) -> WorldSpec:
    """The clinic, which receives, and who shares with it."""
    return WorldSpec(
        dataset=DatasetSpec(),
        data_fingerprint="f00d",
        owners=[Owner(name="clinic", images=10), *(Owner(name=name, images=20) for name in senders)],
        backbone=BackboneSpec(name="resnet10t"),
        split_point="layer1",
        seed=seed,
    )


def record(unit: Unit, error: str | None, **figures: Any) -> SharingRecord:
    status = "ok" if error is None else "failed"
    return SharingRecord(id=unit.id, suite="test", unit=unit, status=status, error=error, **figures)


def trained(
    condition: Condition,
    correct: list[bool] | None,
    *,
    seed: int = 0,
    defense: str | None = None,
    senders: dict[str, str] | None = None,
    steps: int = 300,
    error: str | None = None,
) -> SharingRecord:
    """A training; `defense` of the hospital, or of each of the senders."""
    names = senders or {"hospital": defense or "none"}
    applied = {name: APPLIED[applies] for name, applies in names.items()}
    defended = condition in ("defended-features", "shuffled-labels", "equal-noise")
    unit = Training(
        world=world(seed, tuple(names)),
        receiver="clinic",
        condition=condition,
        applied={"clinic": APPLIED["none"], **applied} if defended else {},
        refinement=Refinement(steps=steps),
    )
    if correct is None:
        return record(unit, error)
    same = Equivalence(agreement=0.9, kl=0.1, accuracy=0.5, distortion=0.2)
    result = Trained(
        correct=correct,
        public_correct=correct,
        serves={"clinic": 0.5, "hospital": 0.4} if defended else {},
        equivalence=dict.fromkeys(names, same) if defended else {},
        own_images=10,
        shared_images=0 if condition in ("own", "own-longer") else 20,
    )
    return record(unit, None, trained=result)


def _graded(ssim: list[float] | None, victims: list[str] = HASHES) -> dict[str, Any]:
    return {} if ssim is None else {"fidelity": {"ssim": ssim}, "victims": victims}


def attacked(
    attack: str,
    knowledge: Knowledge,
    ssim: list[float] | None,
    defense: str,
    *,
    seed: int = 0,
    sender: str = "hospital",
    senders: dict[str, str] | None = None,
    victims: list[str] = HASHES,
    error: str | None = None,
    **more: Any,
) -> SharingRecord:
    """An attack on the same four victims; without figures it failed. `more` are further fields of the record."""
    unit = Attacked(
        world=world(seed, tuple(senders or ("hospital",))),
        receiver="clinic",
        sender=sender,
        defense=APPLIED[defense],
        attack=PluginSpec(name=attack),
        knowledge=knowledge,
        victims=len(victims),
        budget="small",
    )
    return record(unit, error, floor=is_floor(attack) and ssim is not None, **_graded(ssim, victims), **more)


def transferred(prepared_on: list[int], judged_on: int, ssim: list[float] | None, *, error: str | None = None):
    unit = Transferred(
        world=world(),
        receiver="clinic",
        sender="hospital",
        defense=APPLIED["dpm"],
        attack=PluginSpec(name="decoder"),
        prepared_on=prepared_on,
        judged_on=judged_on,
        victims=len(HASHES),
        budget="small",
    )
    return record(unit, error, **_graded(ssim))


HITS: dict[int, dict[Condition, int]] = {  # seed -> condition -> right on each of 40 test images, as many as said
    0: {"own": 10, "clean-images": 30, "defended-features": 20, "own-longer": 12},
    1: {"own": 8, "clean-images": 32, "defended-features": 20, "own-longer": 8},
}


def hits(number: int, images: int = 40) -> list[bool]:
    """So many of the test images are right, the first ones."""
    return [index < number for index in range(images)]


def some_trainings() -> list[SharingRecord]:
    """Of both seeds."""
    return [
        trained(condition, hits(number), seed=seed, defense="dpm" if condition == "defended-features" else None)
        for seed, by_condition in HITS.items()
        for condition, number in by_condition.items()
    ]


def rows(records: Iterable[SharingRecord]) -> dict[str, dict[str, Any]]:
    """The board, by condition."""
    board = build_sharing_board(records)
    return {row["condition"]: row for row in board.to_dict("records")}


DPM: dict[tuple[str, Knowledge], list[float]] = {
    ("decoder", "public"): [0.2, 0.3, 0.1, 0.2],
    ("decoder", "own"): [0.1, 0.5, 0.1, 0.1],
    ("decoder", "query"): [0.2, 0.1, 0.6, 0.1],
    ("rmle", "weights"): [0.1, 0.1, 0.1, 0.7],
}


UNDEFENDED = {"mean-image": [0.1, 0.1, 0.1, 0.15], "nearest-auxiliary": [0.15, 0.1, 0.1, 0.1], "decoder": [0.8] * 4}


def some_attacks(**more: Any) -> list[SharingRecord]:
    """On undefended features and on those of `dpm`."""
    found = [attacked(name, "public", ssim, defense="none", **more) for name, ssim in UNDEFENDED.items()]
    return found + [attacked(name, knowledge, ssim, defense="dpm", **more) for (name, knowledge), ssim in DPM.items()]


def leaks(attacks: list[SharingRecord]) -> dict[str, dict[str, Any]]:
    """The board of these attacks beside three trainings, by condition."""
    trainings = [trained("own", hits(10)), trained("clean-features", hits(20))]
    return rows([*trainings, trained("defended-features", hits(20), defense="dpm"), *attacks])
