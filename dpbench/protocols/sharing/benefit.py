"""One training, top to bottom: what was shared -> the receiver's tail -> accuracy, and whom else that tail serves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from dpbench.cells.prepare import Progress, undefended_spec
from dpbench.contract.defense import ProtectedModel
from dpbench.contract.images import LabelledImages
from dpbench.contract.spec import PluginSpec
from dpbench.executors.stages import Stages
from dpbench.machine.randomness import derive_generator, derive_seed
from dpbench.protocols.sharing import refinement
from dpbench.protocols.sharing.pipeline import SharedPipeline
from dpbench.protocols.sharing.records import Equivalence, Trained
from dpbench.protocols.sharing.refinement import Shared, Tail, refine
from dpbench.protocols.sharing.suite import ALONE, RIVALS
from dpbench.protocols.sharing.units import Training
from dpbench.service.release import release_in_batches
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inversion import channel_axis

WINDOW = 512
"""How many test images' features are held at once."""


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
            theirs = [self._tail_of(unit, one, public, progress) for one in senders if unit.condition in RIVALS]
            if unit.condition == "soft-labels":
                shared = self._soft_labels(public, theirs, progress)
            if unit.condition == "sender-tail":
                tail = _mean_of(theirs)
            else:
                tail = self._refined(unit, public, client, own, shared, draws, progress)
        with stages("test"):
            test = self.world.test(progress)
            public_tail = public.split.server_tail
            clean, before = self._of_public(public, test, progress)
            (logits,) = self._logits(client, [tail], test, draws)
            serves, equivalence = {}, {}
            if unit.condition == "defended-features":
                for entity, defense in unit.applied.items():
                    released = self._client(entity, defense, progress)
                    foreign = entity != unit.receiver
                    served, changed = self._logits(released, [partial(tail, foreign=foreign), public_tail], test, draws)
                    serves[entity] = _share(_hits(served, test))
                    # means of images are nobody's features: nothing says what the public tail reads from them
                    if entity in senders and defense.mixed_images == 1:
                        distortion = self._distortion(public, released, test, draws)
                        equivalence[entity] = _equivalence(clean, changed, test, distortion)
        return Trained(
            correct=_hits(logits, test),
            public_correct=before,
            serves=serves,
            equivalence=equivalence,
            own_images=len(own),
            shared_images=len(shared.labels) if shared is not None else 0,
        )

    def _refined(
        self,
        unit: Training,
        public: ProtectedModel,
        client: ProtectedModel,
        own: LabelledImages,
        shared: Shared | None,
        draws: object,
        progress: Progress,
    ) -> Tail:
        """The receiver's tail, trained on its own images and on what was shared."""
        return refine(
            public.split,
            client,
            own,
            shared,
            unit.refinement,
            longer=unit.condition == "own-longer",
            channel_dim=channel_axis(public.release(own.images[:2]).shape),
            seed=derive_seed(draws, "refine"),
            generator=derive_generator(self.device, draws, "refine"),
            of_shared=derive_generator(self.device, draws, "refine shared"),
            progress=progress,
        )

    def _client(self, entity: str, defense: PluginSpec | None, progress: Progress) -> ProtectedModel:
        chosen = defense or undefended_spec()
        return self.world.protected(self.world.spec.cell(entity, defense=chosen), chosen, progress)

    def _shared(self, unit: Training, senders: list[str], progress: Progress) -> Shared | None:
        if unit.condition in (*ALONE, *RIVALS):
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

    def _tail_of(self, unit: Training, sender: str, public: ProtectedModel, progress: Progress) -> Tail:
        """A sender's tail, trained on its own clean images in as many steps and as large batches as a mixed one."""
        draws = [unit.world.identity, sender, unit.refinement.model_dump(mode="json"), refinement.VERSION, "tail"]

        def make() -> Tail:
            own = self.world.images_of(sender, progress)
            return refine(
                public.split,
                public,
                own,
                None,
                unit.refinement,
                longer=True,
                channel_dim=1,
                seed=derive_seed(draws, "refine"),
                generator=derive_generator(self.device, draws, "refine"),
                of_shared=derive_generator(self.device, draws, "refine shared"),
                progress=lambda text: progress(f"tail of {sender}: {text}"),
            )

        tail: Tail = self.world.keep(f"tail of {sender}", content_hash(draws), make)
        return tail

    def _soft_labels(self, public: ProtectedModel, tails: Sequence[Tail], progress: Progress) -> Shared:
        """The public images, and what the senders' tails say of them: mean shares of each class."""
        images = self.world.divided(progress).parts.auxiliary.images
        shares = []
        for part in images.split(WINDOW):
            with torch.no_grad():
                features = public.release(part).float()
                shares.append(torch.stack([tail(features).float().softmax(1) for tail in tails]).mean(0))
        return Shared(labels=torch.cat(shares), images=images[:])

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

    def _of_public(self, public: ProtectedModel, test: LabelledImages, progress: Progress) -> tuple[Tensor, list[bool]]:
        """Logits (N, classes) of the public network, and which are right: before any training, whoever receives."""
        draws = [self.world.spec.identity, "public"]

        def make() -> tuple[Tensor, list[bool]]:
            progress("public network")
            (logits,) = self._logits(public, [public.split.server_tail], test, draws)
            return logits, _hits(logits, test)

        kept: tuple[Tensor, list[bool]] = self.world.keep("public logits", content_hash(draws), make)
        return kept

    def _logits(
        self, client: ProtectedModel, tails: Sequence[Callable[[Tensor], Tensor]], test: LabelledImages, draws: object
    ) -> list[Tensor]:
        """Per tail, logits (N, classes) of one release of the test images."""
        generators = self._generators(draws, "test", "test order")
        found: list[list[Tensor]] = [[] for _ in tails]
        for images in test.images.split(WINDOW):
            features = release_in_batches(client, images, *generators).float()
            with torch.no_grad():
                for logits, tail in zip(found, tails, strict=True):
                    logits.append(tail(features).float())
        return [torch.cat(logits) for logits in found]

    def _distortion(
        self, public: ProtectedModel, defended: ProtectedModel, test: LabelledImages, draws: object
    ) -> float:
        """Mean squared change of a feature, relative to the variance of clean ones; of the first images."""
        images = test.images[: min(len(test), WINDOW)]
        generators = self._generators(draws, "distortion", "order")
        clean, changed = (release_in_batches(model, images, *generators).float() for model in (public, defended))
        return float((changed - clean).square().mean() / clean.var())

    def _generators(self, draws: object, noise: str, order: str) -> tuple[torch.Generator, torch.Generator]:
        """Two generators: that of a stochastic defense, and that of the order in which images are released."""
        return derive_generator(self.device, draws, noise), derive_generator(self.device, draws, order)


def _mean_of(tails: Sequence[Tail]) -> Tail:
    """One tail whose weights are the means of several that began alike."""
    mean = copy.deepcopy(tails[0])
    states = [tail.state_dict() for tail in tails]
    mean.load_state_dict(
        {
            name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
            for name, value in states[0].items()
        }
    )
    return mean


def _hits(logits: Tensor, test: LabelledImages) -> list[bool]:
    hits: list[bool] = (logits.argmax(dim=1) == test.labels).tolist()
    return hits


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


def _equivalence(clean: Tensor, changed: Tensor, test: LabelledImages, distortion: float) -> Equivalence:
    """The public tail's logits (N, classes) on clean and on defended features of the same images."""
    pair = (F.log_softmax(changed, dim=1), F.log_softmax(clean, dim=1))
    return Equivalence(
        agreement=_share((clean.argmax(1) == changed.argmax(1)).tolist()),
        kl=float(F.kl_div(*pair, reduction="batchmean", log_target=True)),
        accuracy=_share(_hits(changed, test)),
        distortion=distortion,
    )
