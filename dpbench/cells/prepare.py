"""What cells share, made once: images, fitted backbones, protected models, the judge.

Kept in memory as `dpbench.cells.kept` says, and on disk under a content hash of what it depends on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpbench.border.lending import Lent
from dpbench.cells.kept import Kept
from dpbench.contract.defense import Defense, ProtectedModel
from dpbench.contract.images import Images, LabelledImages
from dpbench.contract.spec import PluginSpec
from dpbench.contract.threat import AUXILIARY_SHARE, UNDEFENDED
from dpbench.data.datasets import Parts, changed
from dpbench.data.division import assert_disjoint_hashes
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.machine import cache
from dpbench.machine.devices import place, to_device
from dpbench.machine.locks import held
from dpbench.machine.memory import LARGEST_BATCH, room
from dpbench.machine.randomness import derive_generator, derive_seed, seeded
from dpbench.metrics import judge as judges
from dpbench.models import backbones, training, weights
from dpbench.models.adapters import encoder
from dpbench.plugins.apart import remote
from dpbench.plugins.configuring import defense_of
from dpbench.plugins.image_sets import load_parts
from dpbench.plugins.registry import find_defense
from dpbench.plugins.sources import source_of
from dpbench.service import fitting
from dpbench.suite.cell import CellSpec

Progress = Callable[[str], None]

LARGEST_FIT = LARGEST_BATCH
"""Images at once in the fit of a defense, at most: beyond it the batch says nothing about what was fitted."""


@dataclass(frozen=True)
class Judge:
    """An independently trained classifier, its name and its top-1 on the true test images."""

    network: torch.nn.Module
    name: str
    accuracy: float


class Prepared(Kept):
    """Makes what cells share, on one device, with one cache folder.

    Args:
        device: where every tensor lives.
        cache_dir: fitted networks and decoded images.
        batch_size: at most so many images in a network at once; None: `auto_batch_size`.
        audit: every plug-in runs behind the border, dpbench's own too.
    """

    def __init__(
        self, device: torch.device, cache_dir: Path, batch_size: int | None = None, *, audit: bool = False
    ) -> None:
        super().__init__(device, batch_size)
        self.audit = audit
        self.cache_dir = cache_dir
        self.contents: dict[str, str] = {}

    def parts(self, cell: CellSpec, progress: Progress) -> Parts:
        """Private, auxiliary and test images, on the device."""

        def load() -> Parts:
            progress("loading images")
            return self._all_placed(self._load(cell.dataset, cell.data_fingerprint, progress))

        parts: Parts = self.keep("parts", cell.data_fingerprint, load)
        return parts

    def _load(self, dataset: DatasetSpec, fingerprint: str, progress: Progress) -> Parts:
        at_most = min(room(torch.device("cpu")), room(self.device))
        folder = self.cache_dir / "datasets"
        lock = folder / f"{fingerprint}.lock"
        alone = held(lock, lambda: progress("waiting for images, which another process decodes"))
        with contextlib.nullcontext() if lock.with_suffix(".npy").is_file() else alone:
            parts = load_parts(dataset, cache=folder, progress=progress, room=at_most, expected=fingerprint)
        if self.contents.setdefault(fingerprint, parts.content) != parts.content:
            raise changed(dataset)
        return parts

    def data_files(self, cell: CellSpec) -> dict[str, str]:
        """What lay behind the names of a cell's data, where the fingerprint takes them at their word."""
        named = {"dataset": cell.data_fingerprint, "shifted": cell.shifted_fingerprint}
        return {role: self.contents[mark] for role, mark in named.items() if self.contents.get(mark)}

    def _all_placed(self, parts: Parts) -> Parts:
        private, auxiliary, test = (self._placed(part) for part in (parts.private, parts.auxiliary, parts.test))
        return replace(parts, private=private, auxiliary=auxiliary, test=test)

    def _placed(self, part: LabelledImages) -> LabelledImages:
        images = part.images
        if isinstance(images, torch.Tensor):
            placed: Images = to_device(images, self.device).contiguous(memory_format=torch.channels_last)
        else:
            placed = images.to(self.device)
        return LabelledImages(placed, to_device(part.labels, self.device))

    def lend(self, images: LabelledImages, who: str, method: str) -> Lent:
        """Images for a plug-in; where it changes them, nothing that was kept is used again."""
        return Lent(images, who, method, self.forget)

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
            **({"head": encoder.VERSION} if cell.backbone.headed else {}),
        }

        def fit(key: str, batch_size: int) -> cache.State:
            name, size = cell.backbone.name, cell.dataset.image_size
            with seeded(derive_seed(key, "fit"), self.device):
                if cell.backbone.headed:
                    model, fits = encoder.create_encoder(
                        cell.backbone, source, image_size=size, classes=len(parts.classes)
                    )
                else:
                    model, fits = weights.create(
                        cell.backbone, source, image_size=size, classes=len(parts.classes), names=parts.classes
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
                if cell.backbone.headed:
                    model = encoder.fit_head(
                        model,
                        cell.backbone,
                        parts.private.at_most(batch_size),
                        image_size=size,
                        names=parts.classes,
                        fitted=not fits,
                        progress=lambda text: progress(f"fitting {name}: {text}"),
                    )
            return dict(model.state_dict())

        def load(key: str, batch_size: int) -> tuple[str, cache.State, str]:
            state = cache.remember(self.cache_dir, "backbones", key, lambda: fit(key, batch_size), progress, about)
            head = f" {cell.backbone.head}" if cell.backbone.headed else ""
            form = weights.form_of(cell.backbone, source, state)
            return key, state, f"{source.label}{form}{head} sha256:{cache.state_hash(state)[:16]}"

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

        def recipe(key: str) -> fitting.Recipe:
            return fitting.Recipe(key, cell.backbone, state, size, len(parts.classes), cell.split_point)

        def shown(text: str) -> None:
            progress(f"fitting defense {defense_spec.name}: {text}")

        def load(key: str, batch_size: int) -> ProtectedModel:
            progress(f"defense {defense_spec.name}")
            private = self._fitted_on(cell, defense_spec, progress).at_most(batch_size)
            made: list[ProtectedModel] = []

            def fit() -> cache.State:
                if remote.crosses(defense, self.audit):
                    learned = remote.fit(recipe(key), defense, private, self.device, shown)
                else:
                    lent = self.lend(private, f"defense {defense_spec.name!r}", "fit")
                    try:
                        learned, model = fitting.fit(recipe(key), fresh, lent.images, self.device, shown)
                    finally:
                        lent.check()
                    made.append(model)
                fresh()  # what it read is still what the key says
                return learned

            def fresh() -> Defense:
                return defense_of(defense_spec)

            learned = cache.remember(self.cache_dir, "defenses", key, fit, progress, about)
            if remote.crosses(defense, self.audit):
                return remote.RemoteModel(recipe(key), defense, learned, self.device)
            return made[0] if made else fitting.assemble(recipe(key), fresh(), learned, self.device)

        if apart:
            return self._fitted(about, LARGEST_FIT, load)
        slot = "undefended" if defense_spec.name == UNDEFENDED else "protected"
        return self._keep_fitted(slot, about, LARGEST_FIT, load)

    def _fitted_on(self, cell: CellSpec, defense: PluginSpec, progress: Progress) -> LabelledImages:
        """The images that a defense is fitted on.

        Raises:
            DpbenchError: it asks for public images, and there are none.
        """
        if defense.fits_on_public:
            raise DpbenchError(
                f"defense {defense.name!r} has fit_on = 'public', but here are no public images; set fit_on = 'private'"
            )
        return self.parts(cell, progress).private

    def protected_key(self, cell: CellSpec, defense: PluginSpec, progress: Progress) -> str:
        """Content hash of a protected model, once fitted: what everything learned from its releases depends on."""
        return self._key(self._about_protected(cell, defense, progress), LARGEST_FIT)

    def _about_protected(self, cell: CellSpec, defense: PluginSpec, progress: Progress) -> dict[str, Any]:
        key, _, _ = self.backbone(cell, progress)
        return {"backbone": key, "split_point": cell.split_point, "defense": defense.identity}

    def judge(self, cell: CellSpec, progress: Progress) -> Judge:
        """A classifier that no attack has seen, to read labels from reconstructions; see `recognition`."""
        parts = self.parts(cell, progress)
        classes = len(parts.classes)
        name = cell.backbone.name
        named = cell.judge.backbone() if cell.judge is not None else None
        knows = weights.choose(cell.backbone, expected=cell.weights_fingerprint).classes == classes
        pretrained = judges.pretrained_judge_spec(name, classes) if knows and named is None else None
        if pretrained is not None and cell.backbone.class_order == "natural":
            pretrained = pretrained.model_copy(update={"class_order": "natural"})
        spec = named or pretrained or judges.judge_spec(name)
        shape: dict[str, Any] = {"image_size": cell.dataset.image_size, "classes": classes}
        about = {
            "judge": spec.model_dump(mode="json"),
            **({"weights": weights.choose(spec).label} if pretrained else {}),
            "data": cell.data_fingerprint,
            "seed": cell.seed,
            "training": [training.recipe(cell.dataset.image_size), judges.VERSION],
        }

        def fit(key: str, batch_size: int) -> cache.State:
            if pretrained is not None:
                return judges.load_judge(pretrained, image_size=cell.dataset.image_size, names=parts.classes)
            generator = derive_generator(self.device, key, "fit")
            private = parts.private.at_most(batch_size)
            return judges.fit_judge(spec, private, **shape, generator=generator, device=self.device, progress=progress)

        def load(key: str, batch_size: int) -> Judge:
            state = cache.remember(self.cache_dir, "judges", key, lambda: fit(key, batch_size), progress, about)
            judge = judges.make_judge(spec, state, **shape, device=self.device)
            at_once = min(batch_size, LARGEST_BATCH)
            read = judges.labels_read(judge, parts.test.images, parts.test.labels, at_once)
            return Judge(judge, spec.name, sum(read) / len(read))

        return self._keep_fitted("judge", about, training.BATCH_SIZE, load)


def undefended_spec() -> PluginSpec:
    """The defense that does nothing, as a cell names it."""
    return PluginSpec(name=UNDEFENDED, source=source_of(find_defense(UNDEFENDED)))
