"""Every check of a defense bites: a planted defense for each way to break a rule."""

import threading

import pytest
import torch
from pydantic import Field
from torch import nn

from dpbench.contract.defense import AdditiveNoise, Defense, ProtectedModel
from dpbench.contract.feature_transform import FeatureTransform
from dpbench.errors import DpbenchError
from dpbench.testing import ContractError, check_attack, check_defense, checks_for
from dpbench.testing.defenses import RULES


class Sign(FeatureTransform):
    """Releases the sign of every feature."""

    name = "sign"

    def transform(self, features, state, *, generator):
        return features.sign()


class Modelled(Defense):
    """A defense around the model class `model`."""

    name = "modelled"

    class model(ProtectedModel):
        """Releases the features."""

    def build(self, split):
        return self.model(split)


class Halving(FeatureTransform):
    name = "halving"

    def transform(self, features, state, *, generator):
        return features / 2


class Parameterised(Sign):
    """Has a parameter."""

    share: float = 0.5


class Listed(Modelled):
    """Keeps a list."""

    def build(self, split):
        model = ProtectedModel(split)
        model.found = []
        return model

    def fit(self, model, private, *, generator, progress):
        model.found.append(3.0)


class Doodling(Modelled):
    """Draws on the private images."""

    def fit(self, model, private, *, generator, progress):
        private.images.data[0].zero_()


class Global(FeatureTransform):
    """Draws from torch's own generator."""

    name = "global"

    def calibrate(self, batches, *, generator):
        return {"shift": torch.randn(())}

    def transform(self, features, state, *, generator):
        return features + state["shift"]


class Built(Modelled):
    """Draws weights where it is built."""

    def build(self, split):
        model = ProtectedModel(split)
        model.layer = nn.Linear(2, 2)
        return model


class Forked(Modelled):
    """Starts from weights that torch's own generator gave."""

    def build(self, split):
        with torch.random.fork_rng(devices=[]):
            return super().build(split)

    class model(ProtectedModel):
        """Has a layer."""

        def __init__(self, split):
            super().__init__(split)
            self.layer = nn.Linear(2, 2)


class Infinite(Sign):
    """Divides by zero."""

    def transform(self, features, state, *, generator):
        return features / 0


class Fewer(Sign):
    """Loses an image."""

    def transform(self, features, state, *, generator):
        return features[1:]


class TwoClasses(Modelled):
    """Predicts too few classes."""

    class model(ProtectedModel):
        """Cuts off logits."""

        def predict(self, released):
            return super().predict(released)[:, :2]


class Double(Sign):
    """Returns another type."""

    def transform(self, features, state, *, generator):
        return features.sign().float()


class Pooled(Modelled):
    """Returns another shape, which the tail of some layouts takes all the same."""

    class model(ProtectedModel):
        """Leaves out half of the rows or tokens."""

        def transform(self, features, *, generator=None):
            return features[:, :, : features.shape[2] // 2] if features.ndim == 4 else features


class TwoFaced(Modelled):
    """Releases something else where gradients are wanted."""

    class model(ProtectedModel):
        """Has two faces."""

        def transform(self, features, *, generator=None):
            return -features if torch.is_grad_enabled() else features


class Batched(Sign):
    """Releases the difference to the other images of the batch."""

    def transform(self, features, state, *, generator):
        return features - features.mean(0)


class Stale(Sign):
    """Adds the same noise for as long as it has the same generator."""

    def transform(self, features, state, *, generator):
        seed = generator.initial_seed() if generator else 0
        return features + torch.randn(features.shape, generator=torch.Generator().manual_seed(seed))


class Boasting(Sign):
    """States twice the noise that it adds."""

    def transform(self, features, state, *, generator):
        return features + torch.randn(features.shape, generator=generator)

    def location(self, features, state):
        return features

    def stated_noise(self, state):
        return AdditiveNoise("gaussian", 2.0)


class Locked(Modelled):
    """Holds what cannot be copied."""

    def build(self, split):
        model = ProtectedModel(split)
        model.lock = threading.Lock()
        return model


class Moody(Modelled):
    """Predicts in fewer steps from the third time on."""

    class model(ProtectedModel):
        """Counts."""

        calls = 0

        def predict(self, released):
            self.calls += 1
            if self.calls < 3:
                released = released.clone().clone().clone().clone().clone().clone().clone().clone()
                return super().predict(released)
            return self.split.server_tail[-1].bias.expand(len(released), -1)


class Stationary(Sign):
    """Makes a tensor where it stands."""

    def transform(self, features, state, *, generator):
        return features * torch.full(features.shape, 2.0, device="cpu")


PLANTED = [
    ("documented", Halving, "Halving has no docstring"),
    ("documented", Parameterised, "no description of share; write"),
    ("what_fit_learns_travels", Listed, "fit left 'found' outside parameters and buffers"),
    ("what_fit_learns_travels", Doodling, "changed the images it was given, in fit"),
    ("fit_draws_from_its_generator", Global, "fit draws from torch's global generator"),
    ("fit_draws_from_its_generator", Built, "build draws from torch's global generator"),
    ("fit_draws_from_its_generator", Forked, "global generator decides 'layer.weight'"),
    ("release_is_plain_and_finite", Infinite, "released NaN or infinite features"),
    ("release_is_plain_and_finite", Fewer, "one row for each of 16 images"),
    ("release_is_plain_and_finite", TwoClasses, r"predict gives \(12, 2\) of a release; expected \(12, 4\)"),
    ("transform_keeps_the_form", Double, "torch.float32 on cpu came of torch.bfloat16 on cpu; end with"),
    ("transform_keeps_the_form", Pooled, r"\(4, 12, 4, 8\) came of \(4, 12, 8, 8\)"),
    ("release_depends_on_image_and_generator", TwoFaced, "something else with gradients"),
    ("release_depends_on_image_and_generator", Batched, "something else in batches of 1"),
    ("noise_is_fresh", Stale, "two releases in a row hold the same noise"),
    ("stated_noise_is_added", Boasting, r"its noise is 0.\d+ times the stated"),
    ("clients_can_be_copied", Locked, "cannot be copied"),
    ("the_server_can_be_watched", Moody, "computes something else for these images"),
    ("any_device", Stationary, "cpu"),
]


@pytest.mark.parametrize(("rule", "cls", "words"), PLANTED, ids=[f"{rule}-{cls.__name__}" for rule, cls, _ in PLANTED])
def test_a_broken_rule_is_named(rule, cls, words):
    check = {check.__name__: check for check in checks_for(cls)}[rule]
    with pytest.raises(ContractError, match=words) as caught:
        check()
    assert str(caught.value).startswith(f"defense {cls.name!r} breaks the rule ")
    assert "\n" not in str(caught.value)


def test_every_rule_has_a_planted_defense_that_breaks_it():
    assert {rule for rule, _, _ in PLANTED} == {rule.__name__ for rule in RULES}


def test_a_defense_that_keeps_all_rules_passes():
    check_defense(Sign)
    check_defense(Sign())


def test_what_cannot_be_checked_is_refused_in_one_line():
    class Needy(Sign):
        """Has a parameter without a default."""

        share: float = Field(description="of what")

    with pytest.raises(DpbenchError, match="Needy: parameter 'share' has no default"):
        check_defense(Needy)
    with pytest.raises(DpbenchError, match=r"Sign is not a subclass of dpbench\.Attack"):
        check_attack(Sign)
    with pytest.raises(DpbenchError, match="FeatureTransform is abstract: it lacks transform"):
        check_defense(FeatureTransform)
    with pytest.raises(DpbenchError, match="dict is no plug-in; expected a class derived from one of: Attack, Defense"):
        checks_for(dict)
