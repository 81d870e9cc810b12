"""Synthetic records: what a run would have stored, without a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpbench.contract.spec import PluginSpec
from dpbench.contract.threat import AuxiliaryData, Budget, ServerRole, ThreatModel
from dpbench.data.spec import DatasetSpec
from dpbench.metrics.guarantees import Guarantees
from dpbench.metrics.recognition import Recognition
from dpbench.models.spec import BackboneSpec
from dpbench.records.record import Record, Utility
from dpbench.suite.cell import CellSpec
from dpbench.suite.ensembles import is_floor


def victim_hashes(count: int, first: int = 0) -> list[str]:
    return [f"victim{index:04d}" for index in range(first, first + count)]


def make_record(
    *,
    dataset: str = "leaves",
    fingerprint: str = "f00d",
    backbone: str = "resnet10t",
    split_point: str = "layer1",
    defense: str = "none",
    defense_args: dict[str, Any] | None = None,
    defense_source: str = "v1",
    attack: str = "decoder",
    attack_args: dict[str, Any] | None = None,
    threat_model: ThreatModel = "weights",
    auxiliary: AuxiliaryData = "same",
    shifted: str = "spectra",
    releases: int = 1,
    budget: Budget = "standard",
    seed: int = 0,
    ssim: list[float] | float | None = 0.5,
    psnr_db: list[float] | float | None = None,
    lpips: list[float] | float | None = None,
    mse: list[float] | float | None = None,
    victims: list[str] | int = 4,
    correct: list[bool] | None = None,
    failed: str | None = None,
    floor: bool | None = None,
    source: str = "v1",
    seconds: float = 1.0,
    created: str = "",
    reid_rank: list[int] | int | None = None,
    label_read: list[bool] | bool = False,
    gallery: int = 100,
    identity_rank: list[int] | int | None = None,
    headline: str = "leakage",
    mse_bound: list[float] | float | None = None,
    information_bits: float | None = None,
    epsilon: float | None = None,
    release_bits: int | None = None,
    trained_on: tuple[str, ...] = (),
    converged: bool | None = None,
    server: ServerRole = "attacker",
) -> Record:
    """A record with the figures given; a single number is the same for every victim, None is not measured."""
    hashes = victim_hashes(victims) if isinstance(victims, int) else victims
    cell = CellSpec(
        dataset=DatasetSpec(name=dataset),
        data_fingerprint=fingerprint,
        backbone=BackboneSpec(name=backbone),
        split_point=split_point,
        defense=PluginSpec(name=defense, arguments=defense_args or {}, source=defense_source),
        attack=PluginSpec(name=attack, arguments=attack_args or {}, source=source),
        threat_model=threat_model,
        shifted=DatasetSpec(name=shifted) if auxiliary == "shifted" else None,
        shifted_fingerprint=f"beef-{shifted}" if auxiliary == "shifted" else "",
        releases=releases,
        budget=budget,
        victims=len(hashes),
        seed=seed,
        server=server,
    )
    given = {"ssim": ssim, "psnr_db": psnr_db, "lpips": lpips, "mse": mse}
    fidelity = {
        metric: value if isinstance(value, list) else [float(value)] * len(hashes)
        for metric, value in given.items()
        if value is not None
    }
    recognition = None
    if reid_rank is not None and not failed:
        recognition = Recognition(
            reid_rank=reid_rank if isinstance(reid_rank, list) else [reid_rank] * len(hashes),
            gallery=gallery,
            identity_rank=[identity_rank] * len(hashes) if isinstance(identity_rank, int) else identity_rank,
            identities=None if identity_rank is None else 30,
            label_read=label_read if isinstance(label_read, list) else [label_read] * len(hashes),
            judge="resnet18",
            judge_accuracy=0.9,
        )
    guarantees = None
    if mse_bound is not None:
        bound = mse_bound if isinstance(mse_bound, list) else [mse_bound] * len(hashes)
        delta = None if epsilon is None else 1e-5
        guarantees = Guarantees(mse_bound=bound, epsilon=epsilon, delta=delta, information_bits=information_bits)
    return Record(
        id=cell.id,
        suite="test",
        headline=headline,
        cell=cell,
        status="failed" if failed else "ok",
        error=failed,
        floor=is_floor(attack) if floor is None else floor,
        utility=Utility(correct=[True, True, True, False] if correct is None else correct),
        fidelity={} if failed else fidelity,
        victims=hashes,
        seconds={"attack": seconds},
        created=created,
        recognition=recognition,
        guarantees=guarantees,
        release_bits=release_bits,
        trained_on=list(trained_on),
        converged=converged,
    )


def make_grid(images: int = 40, *, split_points: tuple[str, ...] = ("layer1", "layer2")) -> list[Record]:
    """A plausible run: two split points, three defenses with strengths, floors, two attacks, both tiers."""
    rng = np.random.default_rng(7)
    settings: list[tuple[str, dict[str, Any], float, float]] = [("none", {}, 0.85, 0.74)]
    settings += [("gaussian", {"noise_std": std}, 0.85 - 0.2 * std, 0.74 - 0.1 * std) for std in (0.5, 1.0, 2.0)]
    settings += [("dpm", {"weight": w, "rounds": 3}, 0.66 - 0.02 * w, 0.70 - 0.01 * w) for w in (1.0, 5.0)]
    settings += [("quantise", {"bits": b}, 0.5 + 0.1 * b, 0.6 + 0.04 * b) for b in (1, 2)]
    records = []

    def add(ssim: float, accuracy: float, attack: str, victims: int = images, **more: Any) -> None:
        similar = np.clip(rng.normal(ssim, 0.1, victims), 0, 1)
        figures = {
            "ssim": similar.tolist(),
            "psnr_db": (10 + 18 * similar).tolist(),
            "lpips": (0.8 - 0.7 * similar).tolist(),
            "mse": (0.1 * (1 - similar)).tolist(),
            "reid_rank": (20 * (1 - similar)).astype(int).tolist(),
            "label_read": (similar > 0.5).tolist(),
        }
        correct = [index < 300 * accuracy for index in range(300)]
        records.append(make_record(attack=attack, victims=victims, correct=correct, **figures, **more))

    for split_point in split_points:
        loss = 0.2 if split_point == "layer2" else 0.0
        for name, arguments, ssim, accuracy in settings:
            shared: dict[str, Any] = {"split_point": split_point, "defense": name, "defense_args": arguments}
            if name == "none":
                add(0.13, accuracy, "mean-image", **shared)
                add(0.09, accuracy, "random-image", **shared)
            add(ssim - loss, accuracy, "decoder", **shared)
            add(ssim - loss - 0.1, accuracy, "rmle", victims=images // 2, **shared)
            if name != "none":
                add(
                    0.15 if name == "dpm" else ssim - 0.2,
                    accuracy,
                    "decoder",
                    threat_model="static",
                    **shared,
                )
    return records
