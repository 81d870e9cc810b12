"""Every check of an attack bites: a planted attack for each way to break a rule."""

from typing import ClassVar

import pytest
import torch
from pydantic import Field

from dpbench.contract.attack import Attack
from dpbench.testing import ContractError, check_attack, checks_for
from dpbench.testing.attacks import RULES
from dpbench.testing.tiny import smooth


class Ridge(Attack):
    """The best linear map from released features to pixels."""

    name = "ridge"
    needs = "query"
    penalty: float = Field(1.0, gt=0, description="weight of the squared norm")

    def reconstruct(self, seen, *, generator):
        images = seen.auxiliary.images.flatten(1)
        features = seen.query(seen.auxiliary.images).flatten(1)
        mean, centre = images.mean(0), features.mean(0)
        kernel = (features - centre) @ (features - centre).T
        weights = torch.linalg.solve(kernel + self.penalty * torch.eye(len(kernel)), images - mean)
        found = (seen.released.flatten(1) - centre) @ (features - centre).T @ weights + mean
        return found.clamp(0, 1).reshape(-1, *seen.image_shape)


class Undocumented(Ridge):
    pass


class Shrinking(Ridge):
    """Does less with more."""

    budgets: ClassVar = {"large": {"penalty": 0.5}}


class Misnamed(Ridge):
    """Scales what it has not."""

    budgets: ClassVar = {"small": {"steps": 0.5}}


class Modest(Ridge):
    """Asks although it says that it needs nothing."""

    needs = "nothing"


class Bright(Ridge):
    """Leaves the range of images."""

    def reconstruct(self, seen, *, generator):
        return super().reconstruct(seen, generator=generator) + 1


class Twice(Ridge):
    """Returns too many images."""

    def reconstruct(self, seen, *, generator):
        return super().reconstruct(seen, generator=generator).repeat(2, 1, 1, 1)


class Precise(Ridge):
    """Returns another type."""

    def reconstruct(self, seen, *, generator):
        return super().reconstruct(seen, generator=generator).double()


class Noting(Ridge):
    """Notes a tensor."""

    def reconstruct(self, seen, *, generator):
        seen.notes["loss"] = torch.zeros(())
        return super().reconstruct(seen, generator=generator)


class Wavering(Ridge):
    """Draws from torch's own generator."""

    def reconstruct(self, seen, *, generator):
        images = super().reconstruct(seen, generator=generator)
        return (images + 0.01 * torch.randn(images.shape)).clamp(0, 1)


class Guessing(Ridge):
    """Reconstructs nothing and does not say so."""

    def reconstruct(self, seen, *, generator):
        return seen.auxiliary.images[:].mean(0).expand(len(seen.released), -1, -1, -1)


class Knowing(Ridge):
    """Knows the victims."""

    def reconstruct(self, seen, *, generator):
        return smooth(6, seed="victims")


class Counting(Ridge):
    """Adds up releases instead of averaging them."""

    def reconstruct(self, seen, *, generator):
        return super().reconstruct(seen, generator=generator) / (1 + len(seen.again))


class Forgetful(Ridge):
    """Keeps a part of what it trained to itself."""

    def reconstruct(self, seen, *, generator):
        kept = []

        def train(generator):
            kept.append(0.1)
            return {"weights": torch.zeros(1)}

        seen.remember("ridge", train, "query")
        return super().reconstruct(seen, generator=generator) * (1 - sum(kept))


class Telling(Ridge):
    """Wants to store what is no tensor."""

    def reconstruct(self, seen, *, generator):
        seen.remember("ridge", lambda generator: {"loss": 0.5}, "query")
        return super().reconstruct(seen, generator=generator)


class OnlyMaps(Ridge):
    """Takes maps alone."""

    def reconstruct(self, seen, *, generator):
        _, _, _, _ = seen.released.shape
        return super().reconstruct(seen, generator=generator)


class Square(Ridge):
    """Takes square images alone."""

    def reconstruct(self, seen, *, generator):
        side = seen.image_shape[1]
        return super().reconstruct(seen, generator=generator).reshape(-1, 3, side, side)


class Smearing(Ridge):
    """Draws on the images that it is lent."""

    def reconstruct(self, seen, *, generator):
        images = super().reconstruct(seen, generator=generator)
        seen.auxiliary.images[0].zero_()
        return images


PLANTED = [
    ("documented", Undocumented, "Undocumented has no docstring"),
    ("budgets_grow", Shrinking, "penalty is 1.0, 1.0, 0.5 at small, standard, large"),
    ("budgets_grow", Misnamed, "budgets name 'steps', which is no parameter"),
    ("runs_on_what_it_needs", Modest, "reads what is None where an attack is granted 'nothing'"),
    ("runs_on_what_it_needs", Bright, r"images leave \[0, 1\]"),
    ("runs_on_what_it_needs", Twice, r"returned \(12, 3, 16, 16\); expected images of shape \(6, 3, 16, 16\)"),
    ("runs_on_what_it_needs", Precise, "images are torch.float64"),
    ("runs_on_what_it_needs", Smearing, "changed the images it was given, in reconstruct"),
    ("notes_are_plain", Noting, "notes cannot be written as JSON"),
    ("its_generator_decides", Wavering, "a second run with the same generator gives other images"),
    ("reads_the_release", Guessing, "says `floor = True`"),
    ("reads_the_release", Knowing, "from releases of other images it still reaches"),
    ("further_releases_of_the_same", Counting, "with `seen.again` equal to `seen.released` it gives other images"),
    ("what_it_remembers_is_enough", Forgetful, "already stored it gives other images"),
    ("what_it_remembers_is_enough", Telling, "'loss', which is no Tensor"),
    ("features_of_any_layout", OnlyMaps, "not enough values to unpack"),
    ("images_of_any_form", Square, "invalid for input of size|images of shape"),
]


@pytest.mark.parametrize(("rule", "cls", "words"), PLANTED, ids=[f"{rule}-{cls.__name__}" for rule, cls, _ in PLANTED])
def test_a_broken_rule_is_named(rule, cls, words):
    check = {check.__name__: check for check in checks_for(cls)}[rule]
    with pytest.raises(ContractError, match=words) as caught:
        check()
    assert str(caught.value).startswith("attack 'ridge' breaks the rule ")
    assert "\n" not in str(caught.value)


def test_every_rule_has_a_planted_attack_that_breaks_it():
    assert {rule for rule, _, _ in PLANTED} == {rule.__name__ for rule in RULES}


def test_an_attack_that_keeps_all_rules_passes():
    check_attack(Ridge)


def test_a_floor_need_not_reconstruct():
    class Floor(Guessing):
        """The mean image."""

        floor = True

    check_attack(Floor(penalty=2.0))
