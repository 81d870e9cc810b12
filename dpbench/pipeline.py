"""One cell, top to bottom: data -> backbone -> split -> defense -> release -> attack -> fidelity.

What cells share (parts, fitted backbones, fitted defenses, releases) is made once: kept in memory while cells that
use it follow each other, and on disk under a content hash of what it depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dpbench import backbones, cache, fidelity, training, weights
from dpbench.datasets import Parts, load_parts
from dpbench.devices import place, to_device
from dpbench.randomness import derive_generator, derive_seed, seeded
from dpbench.registry import find_defense, source_of
from dpbench.release import RELEASE_BATCH, WhiteBox, checked_features, checked_images, release_in_batches
from dpbench.specs import CellSpec, PluginSpec, content_hash
from dpbench.stages import Stages
from dpbench.store import Utility
from dpbench.suite import attack_of, defense_of
from dpbench.types import UNDEFENDED, LabelledImages, Observation, ProtectedModel

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Released:
    """What left the client for the test images, and what the server made of exactly that."""

    features: Tensor
    utility: Utility


@dataclass(frozen=True)
class Result:
    """What a cell measured, before it becomes a record."""

    utility: Utility
    fidelity: dict[str, list[float]]
    missing_metrics: dict[str, str]
    victims: Tensor
    victim_hashes: list[str]
    reconstructions: Tensor
    floor: bool
    backbone_weights: str
    released: dict[str, Any]
    notes: dict[str, Any]


class Pipeline:
    """Runs cells on one device, with one cache folder.

    Args:
        device: where every tensor lives.
        cache_dir: fitted networks and decoded images.
    """

    def __init__(self, device: torch.device, cache_dir: Path) -> None:
        self.device = device
        self.cache_dir = cache_dir
        self._kept: dict[str, tuple[str, Any]] = {}

    def run(self, cell: CellSpec, stages: Stages, progress: Progress) -> Result:
        """Measure one cell.

        Raises:
            DpbenchError: the defense or the attack broke its contract (shape, range, NaN).
            Exception: whatever a plug-in raises.
        """
        attack = attack_of(cell.attack)
        with stages("data"):
            parts = self.parts(cell, progress)
        with stages("backbone"):
            _, _, backbone_weights = self._backbone(cell, progress)
        with stages("defense"):
            protected = self.protected(cell, cell.defense, progress)
        with stages("release"):
            released = self._released(cell, protected, progress)
        victims = parts.test.images[: cell.victims]
        notes: dict[str, Any] = {}
        with stages("attack"):
            seen = self._observe(cell, released, notes, progress)
            generator = derive_generator(self.device, cell.id, "attack")
            images = attack.reconstruct(seen, generator=generator)
            images = checked_images(images, victims, cell.attack.name)
        with stages("fidelity"):
            figures, missing = fidelity.grade(images, victims)
        return Result(
            utility=released.utility,
            fidelity=figures,
            missing_metrics=missing,
            victims=victims.cpu(),
            victim_hashes=parts.hashes["test"][: cell.victims],
            reconstructions=images.cpu(),
            floor=attack.floor,
            backbone_weights=backbone_weights,
            released={
                "shape": list(released.features.shape[1:]),
                "dtype": str(released.features.dtype).removeprefix("torch."),
            },
            notes=_plain(notes),
        )

    def parts(self, cell: CellSpec, progress: Progress) -> Parts:
        """Private, auxiliary and test images, on the device."""

        def load() -> Parts:
            progress("loading images")
            parts = load_parts(cell.dataset, cache=self.cache_dir / "datasets", progress=progress)
            moved = {
                name: LabelledImages(
                    to_device(part.images, self.device).contiguous(memory_format=torch.channels_last),
                    to_device(part.labels, self.device),
                )
                for name, part in (
                    ("private", parts.private),
                    ("auxiliary", parts.auxiliary),
                    ("test", parts.test),
                )
            }
            return Parts(**moved, classes=parts.classes, hashes=parts.hashes)

        parts: Parts = self._keep("parts", cell.data_fingerprint, load)
        return parts

    def _backbone(self, cell: CellSpec, progress: Progress) -> tuple[str, cache.State, str]:
        """The cache key, the weights of the unsplit network, and where those came from."""
        parts = self.parts(cell, progress)
        source = weights.choose(cell.backbone)
        key = content_hash(
            {
                "backbone": cell.backbone.model_dump(mode="json"),
                "source": source.label,
                "data": cell.data_fingerprint,
                "image_size": cell.dataset.image_size,
                "seed": cell.seed,
                "training": training.VERSION,
            }
        )

        def fit() -> cache.State:
            name = cell.backbone.name
            with seeded(derive_seed(key, "fit"), self.device):
                model = place(self._empty_backbone(cell, parts, pretrained=source.pretrained), self.device)
                if source.classes != len(parts.classes):
                    training.fit_classifier(
                        torch.nn.Sequential(backbones.normalisation(model).to(self.device), model),
                        parts.private,
                        epochs=cell.backbone.epochs,
                        learning_rate=cell.backbone.learning_rate,
                        generator=derive_generator(self.device, key, "fit"),
                        progress=lambda text: progress(f"fitting {name}: {text}"),
                    )
            return dict(model.state_dict())

        def load() -> tuple[cache.State, str]:
            state = cache.remember(self.cache_dir, "backbones", key, fit)
            return state, f"{source.label} sha256:{_state_hash(state)[:16]}"

        state, label = self._keep("backbone", key, load)
        return key, state, label

    def _empty_backbone(self, cell: CellSpec, parts: Parts, *, pretrained: bool = False) -> torch.nn.Module:
        return backbones.create_backbone(
            cell.backbone,
            image_size=cell.dataset.image_size,
            classes=len(parts.classes),
            pretrained=pretrained,
        )

    def protected(self, cell: CellSpec, defense_spec: PluginSpec, progress: Progress) -> ProtectedModel:
        """The cell's model behind `defense_spec`, fitted, frozen, in eval mode."""
        parts = self.parts(cell, progress)
        _, state, _ = self._backbone(cell, progress)
        key = self._protected_key(cell, defense_spec, progress)
        defense = defense_of(defense_spec)
        size = cell.dataset.image_size

        def build() -> ProtectedModel:
            # each protected model has its own copy of the weights: a defense may fine-tune them
            with seeded(derive_seed(key, "build"), self.device):
                model = self._empty_backbone(cell, parts)
                model.load_state_dict(state)
                split = backbones.split_model(
                    model,
                    cell.split_point,
                    image_shape=(3, size, size),
                    classes=len(parts.classes),
                    name=cell.backbone.name,
                )
                built = defense.build(split.requires_grad_(False).to(self.device))
                return place(built, self.device).eval()

        def fit() -> cache.State:
            model = build()
            before = {name: value.clone() for name, value in model.state_dict().items()}
            with seeded(derive_seed(key, "fit"), self.device):
                defense.fit(
                    model,
                    parts.private,
                    generator=derive_generator(self.device, key, "fit"),
                    progress=lambda text: progress(f"fitting defense {defense_spec.name}: {text}"),
                )
            # the backbone is cached already: only what the defense changed is kept
            after = model.state_dict()
            return {name: value for name, value in after.items() if not torch.equal(value, before[name])}

        def load() -> ProtectedModel:
            progress(f"defense {defense_spec.name}")
            changed = cache.remember(self.cache_dir, "defenses", key, fit)
            model = build()
            model.load_state_dict({**model.state_dict(), **changed})
            return model.eval().requires_grad_(False)

        slot = "undefended" if defense_spec.name == UNDEFENDED else "protected"
        protected: ProtectedModel = self._keep(slot, key, load)
        return protected

    def _protected_key(self, cell: CellSpec, defense: PluginSpec, progress: Progress) -> str:
        key, _, _ = self._backbone(cell, progress)
        return content_hash(
            {"backbone": key, "split_point": cell.split_point, "defense": defense.model_dump(mode="json")}
        )

    def _released(self, cell: CellSpec, protected: ProtectedModel, progress: Progress) -> Released:
        """One release of the test images: the server's accuracy and the attacker's view come from the same tensors."""
        key = self._protected_key(cell, cell.defense, progress)

        def make() -> Released:
            test = self.parts(cell, progress).test
            generator = derive_generator(self.device, key, "release")
            features = checked_features(release_in_batches(protected, test.images, generator))
            with torch.no_grad():
                logits = torch.cat([protected.predict(batch) for batch in features.split(RELEASE_BATCH)])
            correct = (logits.argmax(dim=1) == test.labels).tolist()
            return Released(features, Utility(correct=correct))

        released: Released = self._keep("released", key, make)
        return released

    def _observe(self, cell: CellSpec, released: Released, notes: dict[str, Any], progress: Progress) -> Observation:
        """What the attacker sees under the cell's threat model, and nothing else."""
        needs = attack_of(cell.attack).needs
        defense = undefended_spec() if cell.threat_model == "static" else cell.defense
        client_key = self._protected_key(cell, defense, progress)
        model = self.protected(cell, defense, progress)
        answers = derive_generator(self.device, client_key, cell.id, "query")
        parts = self.parts(cell, progress)

        def query(images: Tensor) -> Tensor:
            return release_in_batches(model, images, answers)

        def remember(
            name: str,
            train: Callable[[torch.Generator], cache.State],
            depends_on: Literal["auxiliary", "query"],
        ) -> cache.State:
            key = content_hash(
                {
                    "attack": cell.attack.name,
                    "source": cell.attack.source,
                    "name": name,
                    "data": cell.data_fingerprint,
                    "seed": cell.seed,
                    "client": client_key if depends_on == "query" else None,
                }
            )

            def make() -> cache.State:
                # queries inside take their randomness from the key too, whichever cell comes first
                answers.manual_seed(derive_seed(key, "query"))
                return train(derive_generator(self.device, key, "train"))

            state = cache.remember(self.cache_dir, "attacks", key, make)
            answers.manual_seed(derive_seed(client_key, cell.id, "query"))
            return {tensor_name: value.to(self.device) for tensor_name, value in state.items()}

        return Observation(
            released=released.features[: cell.victims].float(),
            image_shape=(3, cell.dataset.image_size, cell.dataset.image_size),
            auxiliary=parts.auxiliary,
            query=query if needs != "nothing" else None,
            client=WhiteBox(model) if needs == "weights" else None,
            remember=remember,
            progress=progress,
            notes=notes,
        )

    def _keep(self, slot: str, key: str, make: Callable[[], Any]) -> Any:
        """The last thing made for a slot, while its key stays the same."""
        if slot not in self._kept or self._kept[slot][0] != key:
            self._kept.pop(slot, None)  # frees the old one first
            self._kept[slot] = (key, make())
        return self._kept[slot][1]


def undefended_spec() -> PluginSpec:
    """The defense that does nothing, as a cell names it."""
    return PluginSpec(name=UNDEFENDED, source=source_of(find_defense(UNDEFENDED)))


def _plain(notes: dict[str, Any]) -> dict[str, Any]:
    """What an attack noted, as JSON values: anything else becomes its text."""
    plain: dict[str, Any] = json.loads(json.dumps(notes, default=str))
    return plain


def _state_hash(state: cache.State) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
