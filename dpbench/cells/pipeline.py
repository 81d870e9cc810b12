"""One cell, top to bottom: data -> backbone -> split -> defense -> release -> attack -> fidelity -> recognition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dpbench.border.crowd import Crowd
from dpbench.cells.exposure import Exposure
from dpbench.cells.observing import Observer, seen_of
from dpbench.cells.prepare import Prepared, Progress, undefended_spec
from dpbench.cells.result import Released, Result
from dpbench.contract.defense import ProtectedModel
from dpbench.contract.metric import MetricFacts
from dpbench.contract.plugin import Plugin
from dpbench.errors import DpbenchError
from dpbench.executors.stages import Stages
from dpbench.machine.memory import LARGEST_BATCH, Batches, room
from dpbench.machine.process_state import preserved
from dpbench.machine.randomness import derive_generator, derive_seed, seeded
from dpbench.metrics import grading, recognition
from dpbench.metrics.recognition import Recognition
from dpbench.plugins import measuring
from dpbench.plugins.apart import remote
from dpbench.plugins.configuring import attack_of, defense_of
from dpbench.records.record import Utility
from dpbench.service.costs import CODED, MULTIPLY_ADDS
from dpbench.service.release import RELEASE_BATCH, checked_images, release_to_server
from dpbench.service.same_release import assert_same_in_other_batches, assert_same_release
from dpbench.suite.cell import CellSpec
from dpbench.suite.ensembles import is_floor
from dpbench.text.hashing import content_hash
from dpbench.text.plain_values import plain

MANY_CLASSES = 50
"""So many make top-5 accuracy worth a figure."""


class Pipeline:
    """Runs cells on one device, with one cache folder.

    Args:
        device: where every tensor lives.
        cache_dir: fitted networks and decoded images.
        batch_size: at most so many images in a network at once, from 1; None: `auto_batch_size`.
        audit: every plug-in runs behind the border, dpbench's own too.

    Raises:
        DpbenchError: a batch size below 1.
    """

    prepared_by: ClassVar[type[Prepared]] = Prepared
    exposed_by: ClassVar[type[Exposure]] = Exposure

    def __init__(
        self, device: torch.device, cache_dir: Path, batch_size: int | None = None, *, audit: bool = False
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise DpbenchError(f"batch_size = {batch_size} is not usable; expected 1 or more, or None for auto")
        self.device = device
        self.cache_dir = cache_dir
        self.prepared = self.prepared_by(device, cache_dir, batch_size, audit=audit)
        self.exposure = self.exposed_by(self.prepared, self._known_client)

    @property
    def batches(self) -> Batches:
        """How many images went through a network at once in the last cell."""
        return self.prepared.batches

    def apart(self, cell: CellSpec) -> list[Literal["defense", "attack"]]:
        """Which plug-ins of a cell run in processes of their own."""
        plugins: dict[Literal["defense", "attack"], Plugin] = {
            "defense": defense_of(cell.defense),
            "attack": attack_of(cell.attack),
        }
        return [sort for sort, plugin in plugins.items() if remote.crosses(plugin, self.prepared.audit)]

    def run(
        self, cell: CellSpec, stages: Stages, progress: Progress, combined: Mapping[str, CellSpec] | None = None
    ) -> Result:
        """Measure one cell.

        Args:
            cell: what to measure.
            stages: follows the time it takes.
            progress: shows a short text.
            combined: by id, at least the cells that it combines.

        Raises:
            DpbenchError: the defense or the attack broke its contract (shape, range, NaN).
            Exception: whatever a plug-in raises.
        """
        self.prepared.start(cell)
        with stages("data"):
            parts = self.prepared.parts(cell, progress)
        with stages("backbone"):
            _, _, backbone_weights = self.prepared.backbone(cell, progress)
        with stages("defense"):
            protected = self.prepared.protected(cell, cell.defense, progress)
        with stages("release"):
            released = self.released(cell, protected, progress)
        victims = parts.test.images[: cell.victims]
        with stages("attack"):
            found = self._found(cell, combined or {}, progress)
            images, notes, frames = self.batches(
                lambda size: self._attacked(cell, released, size, victims, found, progress)
            )
            self._reconstructed(cell)[cell.id] = images.cpu()
            key = self.prepared.protected_key(cell, cell.defense, progress)
            seed = derive_seed(key, "probe")
            assert_same_release(protected, parts.test.images, seed=seed, before=released.probe)
        with stages("fidelity"):
            figures, missing = self.batches(lambda size: grading.grade(images, victims, min(size, LARGEST_BATCH)))
        with stages("recognition"):
            recognised = self._recognise(cell, images, progress)
        with stages("guarantees"):
            guarantees, none_because = self.exposure.guarantees(cell, protected, victims, progress)
        with stages("cost"):
            work, cost, costless = self.exposure.cost(cell, protected, released.release, progress)
        with stages("link"):
            link = self.exposure.link(cell, released, progress)
        metrics: list[MetricFacts] = []
        if cell.metrics:
            with stages("metrics"):  # last: no code but dpbench's own has run in this process
                metrics = measuring.facts_of(cell.metrics)
                more, lacking = measuring.measure(cell.metrics, images, victims)
                figures, missing = {**figures, **more}, {**missing, **lacking}
        return Result(
            utility=released.utility,
            fidelity=figures,
            metrics=metrics,
            missing_metrics={
                **missing,
                **{name: why for name, why in (("mse_bound", none_because), ("cost", costless)) if why},
                **({MULTIPLY_ADDS: work.uncounted} if work and work.uncounted else {}),
            },
            victims=victims.cpu(),
            victim_hashes=parts.hashes["test"][: cell.victims],
            reconstructions=images.cpu(),
            floor=is_floor(cell.attack.name),
            data_files=self.prepared.data_files(cell),
            backbone_weights=backbone_weights,
            released={
                "shape": list(released.release.features[0].shape[1:]),
                "dtype": str(released.release.dtype).removeprefix("torch."),
                **({"packed": protected.split.packed} if protected.split.packed else {}),
                **({"client_share": round(work.share, 4)} if work and work.share is not None else {}),
            },
            release_bits=released.release.bits,
            cost=cost,
            client_ms=round(work.milliseconds, 3) if work else None,
            link=link,
            recognition=recognised,
            guarantees=guarantees,
            trained_on=list(defense_of(cell.defense).trained_on),
            notes=plain(notes),
            frames=dict(sorted(frames.items())),
        )

    def released(self, cell: CellSpec, protected: ProtectedModel, progress: Progress) -> Released:
        """One release of the test images: the server's accuracy and the attacker's view come from the same tensors."""
        key = self.prepared.protected_key(cell, cell.defense, progress)

        def make() -> Released:
            test = self.prepared.parts(cell, progress).test
            probe = assert_same_release(protected, test.images, seed=derive_seed(key, "probe"))
            assert_same_in_other_batches(protected, test.images, seed=derive_seed(key, "batches"))
            decoys = self.prepared.auxiliary(cell, progress).images
            crowd = Crowd(decoys, derive_generator(torch.device("cpu"), key, "crowd"))
            fit = room(self.device) // (probe[0].numel() * probe.element_size())
            release = release_to_server(
                remote.releasing(protected, crowd),
                self.prepared.protected(cell, cell.defense, progress, apart=True),
                test.images,
                releases=cell.releases,
                kept=max(seen_of(cell, probe), CODED, fit // cell.releases),  # a later cell may have more victims
                window=max(1, fit // RELEASE_BATCH) * RELEASE_BATCH,
                generator=derive_generator(self.device, key, "release"),
                order=derive_generator(self.device, key, "order"),
            )
            hits = release.guesses == test.labels[:, None]
            many = protected.split.classes >= MANY_CLASSES
            utility = Utility(correct=hits[:, 0].tolist(), top5=hits.any(dim=1).tolist() if many else None)
            return Released(release, utility, probe, crowd)

        released: Released = self.prepared.keep("released", f"{key} {cell.releases}", make)
        seen = seen_of(cell, released.probe)
        if len(released.release.features[0]) < seen:
            released = self.prepared.keep("released", f"{key} {cell.releases} {seen}", make)
        return released

    def _reconstructed(self, cell: CellSpec) -> dict[str, Tensor | None]:
        """By cell id, what attacks made of the victims in this run, None where they failed; of the cell's setting."""
        setting = [
            cell.data_fingerprint,
            cell.backbone_identity,
            cell.split_point,
            cell.defense.model_dump(),
            cell.seed,
        ]
        kept: dict[str, Tensor | None] = self.prepared.keep("reconstructed", content_hash(setting), dict)
        return kept

    def _found(self, cell: CellSpec, combined: Mapping[str, CellSpec], progress: Progress) -> dict[str, Tensor]:
        """What the cells that this one combines made of its victims, by attack; those of earlier runs run again."""
        kept, found = self._reconstructed(cell), {}
        for name in cell.combined:
            other = combined[name]
            if name not in kept:
                try:
                    kept[name] = self._again(other, progress).cpu()
                except Exception:  # whatever a plug-in raises: its own row says so
                    kept[name] = None
            images = kept[name]
            if images is not None:
                label = other.attack.name if other.attack.name not in found else f"{other.attack.name} {name}"
                found[label] = images[: cell.victims].to(self.device)
        return found

    def _again(self, cell: CellSpec, progress: Progress) -> Tensor:
        """The reconstructions of another cell of the setting."""
        released = self.released(cell, self.prepared.protected(cell, cell.defense, progress), progress)
        victims = self.prepared.parts(cell, progress).test.images[: cell.victims]
        images, *_ = self.batches(lambda size: self._attacked(cell, released, size, victims, {}, progress))
        return images

    def _attacked(
        self,
        cell: CellSpec,
        released: Released,
        batch_size: int,
        victims: Tensor,
        found: Mapping[str, Tensor],
        progress: Progress,
    ) -> tuple[Tensor, dict[str, Any], dict[int, Tensor]]:
        """Reconstructions (victims,3,H,W) in [0,1], what the attack noted, and by step images that it showed.

        The same however often it begins.
        """
        notes: dict[str, Any] = {}
        lent = self.prepared.lend(
            self.prepared.auxiliary(cell, progress).at_most(batch_size), f"attack {cell.attack.name!r}", "reconstruct"
        )
        observer = Observer(self.prepared, self.device, self.cache_dir, self._known_client)
        observed = observer.observe(cell, released.release, released.crowd, lent, notes, progress)
        seen = replace(observed, found=found)
        attack = attack_of(cell.attack)
        generator = derive_generator(self.device, cell.drawn_by, "attack")
        try:
            # what draws from the global generator draws the same whatever ran before
            with seeded(derive_seed(cell.drawn_by, "attack"), self.device), preserved():
                if remote.crosses(attack, self.prepared.audit):
                    images = remote.reconstruct(attack, seen, generator)
                else:
                    images = attack.reconstruct(seen, generator=generator)
        finally:
            lent.check()
        attack_of(cell.attack)  # what it read is still what the id says
        reconstructions, clamped = checked_images(images, victims, cell.attack.name)
        if clamped:
            notes["clamped"] = clamped
        return reconstructions, notes, seen.frames

    def _recognise(self, cell: CellSpec, images: Tensor, progress: Progress) -> Recognition:
        """Whom and what the reconstructions give away."""
        judge = self.prepared.judge(cell, progress)
        parts = self.prepared.parts(cell, progress)
        return self.batches(
            lambda size: recognition.recognise(
                images,
                parts.test.at_most(size),
                victims=len(images),
                judge=judge.network,
                judge_name=judge.name,
                judge_accuracy=judge.accuracy,
                # where the attacker has images of the classes, a guess of the class shows one without reconstructing
                enrolled=parts.private if cell.dataset.auxiliary_classes else None,
            )
        )

    def _known_client(self, cell: CellSpec, progress: Progress) -> tuple[ProtectedModel, str]:
        """The client that the attacker prepares on, and its key."""
        defense = undefended_spec() if cell.threat_model == "static" else cell.defense
        model = self.prepared.protected(cell, defense, progress)
        return model, self.prepared.protected_key(cell, defense, progress)
