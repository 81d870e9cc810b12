"""What cells share, made once: images, fitted backbones, protected models, the judge.

Kept in memory while cells that use it follow each other, and on disk under a content hash of what it depends on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from dpbench import backbones, cache, recognition, splitting, training, weights
from dpbench.datasets import Parts, load_parts
from dpbench.devices import place, to_device
from dpbench.division import assert_disjoint_hashes
from dpbench.memory import LARGEST_BATCH, Batches, auto_batch_size, room
from dpbench.randomness import derive_generator, derive_seed, seeded
from dpbench.registry import find_defense, source_of
from dpbench.specs import CellSpec, DatasetSpec, PluginSpec, content_hash
from dpbench.suite import defense_of
from dpbench.types import AUXILIARY_SHARE, UNDEFENDED, Images, LabelledImages, ProtectedModel

Progress = Callable[[str], None]
T = TypeVar("T")

LARGEST_FIT = LARGEST_BATCH
"""Images at once in the fit of a defense, at most: beyond it the batch says nothing about what was fitted."""


@dataclass(frozen=True)
class Judge:
    """An independently trained classifier, its name and its top-1 on the true test images."""

    network: torch.nn.Module
    name: str
    accuracy: float


class Prepared:
    """Makes what cells share, on one device, with one cache folder.

    Args:
        device: where every tensor lives.
        cache_dir: fitted networks and decoded images.
        batch_size: at most so many images in a network at once; None: `auto_batch_size`.
    """

    def __init__(self, device: torch.device, cache_dir: Path, batch_size: int | None = None) -> None:
        self.device = device
        self.cache_dir = cache_dir
        self.batch_size = batch_size
        self.batches = Batches(batch_size or 1)
        self._kept: dict[str, tuple[str, Any]] = {}
        self._fitted_with: dict[str, int] = {}

    def start(self, cell: CellSpec) -> None:
        """A cell begins, with as many images at once as were asked for: what another ran out of is none of its own."""
        self.batches = Batches(self.batch_size or auto_batch_size(cell.dataset.image_size, self.device))

    def _key(self, about: dict[str, Any], most: int) -> str:
        """Content hash of a network, and of the batch it was fitted with where that is less than its recipe's `most`.

        What the memory allows beyond the recipe changes nothing, so it stays out.
        """
        size = self._fitted_with.get(content_hash(about), self.batches.batch_size)
        return content_hash({**about, "batch_size": size} if size < most else about)

    def _fitted(self, about: dict[str, Any], most: int, fit: Callable[[str, int], T]) -> T:
        """`fit(key, batch_size)`, again with half the batch whenever memory runs out; later cells know what fits."""
        name = content_hash(about)
        known = self._fitted_with.get(name)

        def attempt(size: int) -> T:
            self._fitted_with[name] = min(size, known or size)
            return fit(self._key(about, most), self._fitted_with[name])

        return self.batches(attempt)

    def _keep_fitted(self, slot: str, about: dict[str, Any], most: int, fit: Callable[[str, int], T]) -> T:
        """`_fitted`, or what it was the last time; either way the cell's batches say how it was fitted."""
        name = content_hash(about)
        kept: T = self.keep(slot, name, lambda: self._fitted(about, most, fit))
        self.batches.smallest = min(self.batches.smallest, self._fitted_with[name])
        return kept

    def parts(self, cell: CellSpec, progress: Progress) -> Parts:
        """Private, auxiliary and test images, on the device."""

        def load() -> Parts:
            progress("loading images")
            parts = self._load(cell.dataset, cell.data_fingerprint, progress)
            return Parts(
                private=self._placed(parts.private),
                auxiliary=self._placed(parts.auxiliary),
                test=self._placed(parts.test),
                classes=parts.classes,
                hashes=parts.hashes,
            )

        parts: Parts = self.keep("parts", cell.data_fingerprint, load)
        return parts

    def _load(self, dataset: DatasetSpec, fingerprint: str, progress: Progress) -> Parts:
        at_most = min(room(torch.device("cpu")), room(self.device))
        return load_parts(
            dataset, cache=self.cache_dir / "datasets", progress=progress, room=at_most, expected=fingerprint
        )

    def _placed(self, part: LabelledImages) -> LabelledImages:
        images = part.images
        if isinstance(images, torch.Tensor):
            placed: Images = to_device(images, self.device).contiguous(memory_format=torch.channels_last)
        else:
            placed = images.to(self.device)
        return LabelledImages(placed, to_device(part.labels, self.device))

    def auxiliary(self, cell: CellSpec, progress: Progress) -> LabelledImages:
        """The attacker's images: as many of the cell's auxiliary images as its budget allows."""
        parts = self.parts(cell, progress)
        everything = parts.auxiliary if cell.shifted is None else self._shifted(cell, parts, progress)
        count = max(1, round(AUXILIARY_SHARE[cell.budget] * len(everything)))
        return LabelledImages(everything.images.narrow(0, 0, count), everything.labels[:count])

    def _shifted(self, cell: CellSpec, parts: Parts, progress: Progress) -> LabelledImages:
        """Auxiliary images of another data set."""
        dataset = cell.shifted
        assert dataset is not None

        def load() -> LabelledImages:
            shifted = self._load(dataset, cell.shifted_fingerprint, progress)
            for name in ("private", "test"):
                assert_disjoint_hashes(name, parts.hashes[name], "shifted auxiliary", shifted.hashes["auxiliary"])
            return self._placed(shifted.auxiliary)

        images: LabelledImages = self.keep("shifted", f"{cell.data_fingerprint} {cell.shifted_fingerprint}", load)
        return images

    def backbone(self, cell: CellSpec, progress: Progress) -> tuple[str, cache.State, str]:
        """The cache key, the weights of the unsplit network, and where those came from."""
        parts = self.parts(cell, progress)
        source = weights.choose(cell.backbone, expected=cell.weights_fingerprint)
        about = {
            "backbone": cell.backbone_identity,
            "source": source.label,
            "data": cell.data_fingerprint,
            "image_size": cell.dataset.image_size,
            "seed": cell.seed,
            "training": training.recipe(cell.dataset.image_size),
        }

        def fit(key: str, batch_size: int) -> cache.State:
            name = cell.backbone.name
            with seeded(derive_seed(key, "fit"), self.device):
                model, fits = weights.create(
                    cell.backbone,
                    source,
                    image_size=cell.dataset.image_size,
                    classes=len(parts.classes),
                    names=parts.classes,
                )
                model = place(model, self.device)
                if not fits:
                    training.fit_classifier(
                        torch.nn.Sequential(backbones.normalisation(model).to(self.device), model),
                        parts.private.at_most(batch_size),
                        epochs=cell.backbone.epochs,
                        learning_rate=cell.backbone.learning_rate,
                        generator=derive_generator(self.device, key, "fit"),
                        progress=lambda text: progress(f"fitting {name}: {text}"),
                    )
            return dict(model.state_dict())

        def load(key: str, batch_size: int) -> tuple[str, cache.State, str]:
            state = cache.remember(self.cache_dir, "backbones", key, lambda: fit(key, batch_size))
            return key, state, f"{source.label} sha256:{_state_hash(state)[:16]}"

        return self._keep_fitted("backbone", about, training.BATCH_SIZE, load)

    def protected(
        self, cell: CellSpec, defense_spec: PluginSpec, progress: Progress, *, apart: bool = False
    ) -> ProtectedModel:
        """The cell's model behind `defense_spec`, fitted, frozen, in eval mode; `apart`: an instance of its own."""
        parts = self.parts(cell, progress)
        _, state, _ = self.backbone(cell, progress)
        about = self._about_protected(cell, defense_spec, progress)
        defense = defense_of(defense_spec)
        size = cell.dataset.image_size

        def build(key: str) -> ProtectedModel:
            # each protected model has its own copy of the weights: a defense may fine-tune them
            with seeded(derive_seed(key, "build"), self.device):
                model = backbones.create_backbone(cell.backbone, image_size=size, classes=len(parts.classes))
                model.load_state_dict(state)
                split = splitting.split_model(
                    model,
                    cell.split_point,
                    image_shape=(3, size, size),
                    classes=len(parts.classes),
                    name=cell.backbone.name,
                )
                built = defense.build(split.requires_grad_(False).to(self.device))
                return place(built, self.device).eval()

        def fit(key: str, batch_size: int) -> cache.State:
            model = build(key)
            before = {name: value.clone() for name, value in model.state_dict().items()}
            with seeded(derive_seed(key, "fit"), self.device):
                defense.fit(
                    model,
                    parts.private.at_most(batch_size),
                    generator=derive_generator(self.device, key, "fit"),
                    progress=lambda text: progress(f"fitting defense {defense_spec.name}: {text}"),
                )
            # the backbone is cached already: only what the defense changed is kept
            after = model.state_dict()
            return {name: value for name, value in after.items() if not torch.equal(value, before[name])}

        def load(key: str, batch_size: int) -> ProtectedModel:
            progress(f"defense {defense_spec.name}")
            changed = cache.remember(self.cache_dir, "defenses", key, lambda: fit(key, batch_size))
            model = build(key)
            model.load_state_dict({**model.state_dict(), **changed})
            return model.eval().requires_grad_(False)

        if apart:
            return self._fitted(about, LARGEST_FIT, load)
        slot = "undefended" if defense_spec.name == UNDEFENDED else "protected"
        return self._keep_fitted(slot, about, LARGEST_FIT, load)

    def protected_key(self, cell: CellSpec, defense: PluginSpec, progress: Progress) -> str:
        """Content hash of a protected model, once fitted: what everything learned from its releases depends on."""
        return self._key(self._about_protected(cell, defense, progress), LARGEST_FIT)

    def _about_protected(self, cell: CellSpec, defense: PluginSpec, progress: Progress) -> dict[str, Any]:
        key, _, _ = self.backbone(cell, progress)
        return {"backbone": key, "split_point": cell.split_point, "defense": defense.model_dump(mode="json")}

    def judge(self, cell: CellSpec, progress: Progress) -> Judge:
        """A classifier that no attack has seen, to read labels from reconstructions; see `recognition`."""
        parts = self.parts(cell, progress)
        classes = len(parts.classes)
        name = cell.backbone.name
        named = cell.judge.backbone() if cell.judge is not None else None
        knows = weights.choose(cell.backbone, expected=cell.weights_fingerprint).classes == classes
        pretrained = recognition.pretrained_judge_spec(name, classes) if knows and named is None else None
        if pretrained is not None and cell.backbone.class_order == "natural":
            pretrained = pretrained.model_copy(update={"class_order": "natural"})
        spec = named or pretrained or recognition.judge_spec(name)
        shape: dict[str, Any] = {"image_size": cell.dataset.image_size, "classes": classes}
        about = {
            "judge": spec.model_dump(mode="json"),
            **({"weights": weights.choose(spec).label} if pretrained else {}),
            "data": cell.data_fingerprint,
            "seed": cell.seed,
            "training": [training.recipe(cell.dataset.image_size), recognition.VERSION],
        }

        def fit(key: str, batch_size: int) -> cache.State:
            if pretrained is not None:
                return recognition.load_judge(pretrained, image_size=cell.dataset.image_size, names=parts.classes)
            generator = derive_generator(self.device, key, "fit")
            private = parts.private.at_most(batch_size)
            return recognition.fit_judge(
                spec, private, **shape, generator=generator, device=self.device, progress=progress
            )

        def load(key: str, batch_size: int) -> Judge:
            state = cache.remember(self.cache_dir, "judges", key, lambda: fit(key, batch_size))
            judge = recognition.make_judge(spec, state, **shape, device=self.device)
            at_once = min(batch_size, LARGEST_BATCH)
            read = recognition.labels_read(judge, parts.test.images, parts.test.labels, at_once)
            return Judge(judge, spec.name, sum(read) / len(read))

        return self._keep_fitted("judge", about, training.BATCH_SIZE, load)

    def keep(self, slot: str, key: str, make: Callable[[], Any]) -> Any:
        """The last thing made for a slot, while its key stays the same."""
        if slot not in self._kept or self._kept[slot][0] != key:
            self._kept.pop(slot, None)  # frees the old one first
            self._kept[slot] = (key, make())
        return self._kept[slot][1]


def undefended_spec() -> PluginSpec:
    """The defense that does nothing, as a cell names it."""
    return PluginSpec(name=UNDEFENDED, source=source_of(find_defense(UNDEFENDED)))


def _state_hash(state: cache.State) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
