"""One training, top to bottom: what was shared -> the receiver's tail -> accuracy, and whom else that tail serves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.inversion import channel_axis
from dpbench.prepare import Progress, undefended_spec
from dpbench.randomness import derive_generator, derive_seed
from dpbench.release import release_in_batches
from dpbench.sharing import refinement
from dpbench.sharing.pipeline import SharedPipeline
from dpbench.sharing.records import Equivalence, Trained
from dpbench.sharing.refinement import Shared, Tail, refine
from dpbench.sharing.units import Training
from dpbench.specs import PluginSpec
from dpbench.stages import Stages
from dpbench.types import LabelledImages, ProtectedModel

WINDOW = 512
"""Test images whose features are held at once."""


class Benefit:
    """Runs trainings on a pipeline that also runs the attacks: both see the same shared features."""

    def __init__(self, pipeline: SharedPipeline) -> None:
        self.pipeline = pipeline
        self.world = pipeline.world
        self.device = pipeline.device

    def run(self, unit: Training, stages: Stages, progress: Progress) -> Trained:
        """Train under the unit's condition, and test."""
        senders = [owner.name for owner in unit.world.owners if owner.name != unit.receiver]
        with stages("data"):
            own = self.world.images_of(unit.receiver, progress)
        with stages("defense"):
            public = self._client(unit.receiver, None, progress)
            client = self._client(unit.receiver, unit.own_defense, progress)
        with stages("release"):
            shared = self._shared(unit, senders, progress)
        with stages("training"):
            # every condition draws its own images and their order alike: paired differences are of what was shared
            draws = [unit.world.identity, unit.receiver, unit.refinement.model_dump(mode="json"), refinement.VERSION]
            probe = public.release(own.images[:2])
            tail = refine(
                public.split,
                client,
                own,
                shared,
                unit.refinement,
                longer=unit.condition == "own-longer",
                channel_dim=channel_axis(probe.shape),
                seed=derive_seed(draws, "refine"),
                generator=derive_generator(self.device, draws, "refine"),
                of_shared=derive_generator(self.device, draws, "refine shared"),
                progress=progress,
            )
        with stages("test"):
            test = self.world.test(progress)
            correct = self._correct(client, tail, test, foreign=False, draws=draws)
            before = self._correct(public, public.split.server_tail, test, foreign=False, draws=draws)
            serves, equivalence = {}, {}
            if unit.condition == "defended-features":
                for entity, defense in unit.applied.items():
                    released = self._client(entity, defense, progress)
                    foreign = entity != unit.receiver
                    hits = self._correct(released, tail, test, foreign=foreign, draws=draws)
                    serves[entity] = sum(hits) / len(hits)
                    if entity in senders:
                        equivalence[entity] = self._equivalence(public, released, test, draws)
        return Trained(
            correct=correct,
            public_correct=before,
            serves=serves,
            equivalence=equivalence,
            own_images=len(own),
            shared_images=len(shared.labels) if shared is not None else 0,
        )

    def _client(self, entity: str, defense: PluginSpec | None, progress: Progress) -> ProtectedModel:
        chosen = defense or undefended_spec()
        return self.world.protected(self.world.spec.cell(entity, defense=chosen), chosen, progress)

    def _shared(self, unit: Training, senders: list[str], progress: Progress) -> Shared | None:
        if unit.condition in ("own", "own-longer"):
            return None
        if unit.condition == "clean-images":
            images = [self.world.images_of(sender, progress) for sender in senders]
            return Shared(
                labels=torch.cat([one.labels for one in images]), images=torch.cat([one.images[:] for one in images])
            )
        features, labels = [], []
        for sender in senders:
            given, given_labels = self._features(unit, sender, progress)
            features.append(given)
            labels.append(given_labels)
        return Shared(labels=torch.cat(labels), features=torch.cat(features))

    def _features(self, unit: Training, sender: str, progress: Progress) -> tuple[Tensor, Tensor]:
        if unit.condition == "clean-features":
            return self.pipeline.shared(sender, undefended_spec(), progress)
        defended, labels = self.pipeline.shared(sender, unit.applied[sender], progress)
        generator = derive_generator(self.device, unit.id, sender, "control")
        if unit.condition == "shuffled-labels":
            return defended, labels[torch.randperm(len(labels), generator=generator, device=self.device)]
        if unit.condition == "equal-noise":
            clean, _ = self.pipeline.shared(sender, undefended_spec(), progress)
            power = (defended.float() - clean.float()).square().mean()
            noise = torch.randn(clean.shape, generator=generator, device=self.device)
            return clean.float() + power.sqrt() * noise, labels
        return defended, labels

    def _correct(
        self, client: ProtectedModel, tail: nn.Module, test: LabelledImages, *, foreign: bool, draws: object
    ) -> list[bool]:
        hits: list[bool] = []
        for logits, labels in self._predicted(client, tail, test, foreign, draws):
            hits += (logits.argmax(dim=1) == labels).tolist()
        return hits

    def _predicted(
        self, client: ProtectedModel, tail: nn.Module, test: LabelledImages, foreign: bool, draws: object
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (n, classes) of the test images, and their labels, window by window."""
        generator = derive_generator(self.device, draws, "test")
        order = derive_generator(self.device, draws, "test order")
        places = itertools.count(0, WINDOW)
        for images in test.images.split(WINDOW):
            first = next(places)
            features = release_in_batches(client, images, generator, order).float()
            with torch.no_grad():
                logits = tail(features, foreign=foreign) if isinstance(tail, Tail) else tail(features)
            yield logits.float(), test.labels[first : first + len(images)]

    def _equivalence(
        self, public: ProtectedModel, defended: ProtectedModel, test: LabelledImages, draws: object
    ) -> Equivalence:
        """The public tail on clean and on defended features of the same images."""
        tail = public.split.server_tail
        pairs = zip(
            self._predicted(public, tail, test, False, draws),
            self._predicted(defended, tail, test, False, draws),
            strict=True,
        )
        agree, kl, hits, count = 0, 0.0, 0, 0
        for (clean, labels), (other, _) in pairs:
            agree += int((clean.argmax(1) == other.argmax(1)).sum())
            hits += int((other.argmax(1) == labels).sum())
            pair = (F.log_softmax(other, dim=1), F.log_softmax(clean, dim=1))
            kl += float(F.kl_div(*pair, reduction="sum", log_target=True))
            count += len(labels)
        images = test.images[: min(len(test), WINDOW)]
        generators = [derive_generator(self.device, draws, name) for name in ("distortion", "order")]
        clean_features, changed = (
            release_in_batches(model, images, *generators).float() for model in (public, defended)
        )
        distortion = float((changed - clean_features).square().mean() / clean_features.var())
        return Equivalence(agreement=agree / count, kl=kl / count, accuracy=hits / count, distortion=distortion)
