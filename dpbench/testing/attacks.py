"""What every attack keeps to, on a client that hides nothing: an orthogonal map of the images."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Literal

import piq
import torch
from torch import Tensor

from dpbench.border.lending import Lent
from dpbench.cells.white_box import WhiteBox
from dpbench.contract.attack import Attack, Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.contract.images import LabelledImages
from dpbench.machine.cache import State
from dpbench.machine.randomness import derive_generator, seeded
from dpbench.service.release import checked_images
from dpbench.service.taps import TappedServer
from dpbench.testing.rules import ContractError, expect, is_documented
from dpbench.testing.tiny import CPU, LAYOUTS, SHAPE, TinyNetwork, smooth

VICTIMS = 6
AUXILIARY = 320
WIDE = (3, 18, 28)

BETTER_DB = 3.0
"""By so much an attack beats the mean image where nothing is hidden."""

CHANCE_DB = 0.5
"""By no more than this it beats the mean image where the releases are those of other images."""


class Shelf:
    """What attacks train, kept as a run keeps it: plain tensors, copied."""

    def __init__(self) -> None:
        self.kept: dict[tuple[object, ...], State] = {}

    def remember(
        self,
        name: str,
        train: Callable[[torch.Generator], State],
        depends_on: Literal["auxiliary", "query"],
        *,
        owner: tuple[str, str] | None = None,
    ) -> State:
        """See `dpbench.contract.attack.Remember`."""
        expect(
            depends_on in ("auxiliary", "query"),
            f"remember(..., depends_on={depends_on!r}); expected 'auxiliary' or 'query'",
        )
        key = (name, depends_on, owner)
        if key not in self.kept:
            state = train(derive_generator(CPU, name, depends_on))
            for part, value in state.items():
                expect(isinstance(value, Tensor), f"what it trains as {name!r} holds {part!r}, which is no Tensor")
            self.kept[key] = {name: value.detach().clone() for name, value in state.items()}
        return {name: value.clone() for name, value in self.kept[key].items()}


def observe(
    client: ProtectedModel, *, attack: type[Attack], victims: Tensor, shelf: Shelf
) -> tuple[Observation, Callable[[], None]]:
    """What an attack sees of the victims' releases: no more than it says that it needs, and the server's half.

    One that needs nothing holds releases of other images too, as under the threat model `observe`.

    Returns:
        The observation, and what checks that the lent images were left as they are.
    """
    shape = (3, *victims.shape[2:])
    images = smooth(AUXILIARY, seed="auxiliary", shape=shape)
    lent = Lent(
        LabelledImages(images, torch.arange(AUXILIARY) % 4), f"attack {attack.name!r}", "reconstruct", lambda: None
    )
    draws = derive_generator(CPU, "queries")

    @torch.no_grad()
    def query(images: Tensor) -> Tensor:
        return client.release(images.clone(), generator=draws)

    seen = Observation(
        released=query(victims),
        overheard=query(smooth(AUXILIARY, seed="others", shape=shape)) if attack.needs == "nothing" else None,
        image_shape=shape,
        auxiliary=lent.images,
        query=query if attack.needs != "nothing" else None,
        client=WhiteBox(client) if attack.needs == "weights" else None,
        undefended=WhiteBox(client) if attack.needs == "weights" else None,
        server=TappedServer(client),
        remember=shelf.remember,
    )
    return seen, lent.check


class CheckedAttack:
    """An attack, and what it made of the victims; where it only has to end, at the budget `small`."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.victims = smooth(VICTIMS, seed="victims")
        self.shelf = Shelf()
        self._found: tuple[Tensor, Observation] | None = None

    def run(
        self,
        attack: Attack,
        *,
        layout: str = "maps",
        shape: tuple[int, int, int] = SHAPE,
        shelf: Shelf | None = None,
        seed: int = 1,
        change: Callable[[Observation], Observation] = lambda seen: seen,
    ) -> tuple[Tensor, Observation]:
        """The images that it makes, with torch's global generator seeded with anything, and what it saw."""
        client = ProtectedModel(TinyNetwork(layout, shape).split()).eval().requires_grad_(False)
        victims = smooth(VICTIMS, seed="victims", shape=shape)
        seen, check_lent = observe(client, attack=type(attack), victims=victims, shelf=shelf or Shelf())
        seen = change(seen)
        with seeded(seed, CPU):
            images = attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))
        check_lent()
        return images, seen

    @functools.cached_property
    def quick(self) -> Attack:
        """The attack at the budget `small`."""
        return self.attack.at_budget("small")

    def found(self) -> tuple[Tensor, Observation]:
        """What it makes of the victims at the budget `small`, where nothing is hidden; made once."""
        if self._found is None:
            self._found = self.run(self.quick, shelf=self.shelf)
        return self._found

    def psnr_db(self, images: Tensor) -> float:
        """How close images come to the victims."""
        return float(piq.psnr(images.clamp(0, 1), self.victims))

    def mean_image_db(self) -> float:
        """How close the mean auxiliary image comes to the victims."""
        mean = smooth(AUXILIARY, seed="auxiliary").mean(0, keepdim=True)
        return self.psnr_db(mean.expand(VICTIMS, -1, -1, -1))


def _assert_images(images: object, shape: tuple[int, ...], attack: Attack, where: str) -> None:
    _, clamped = checked_images(images, torch.empty(VICTIMS, *shape), attack.name)
    expect(not clamped, f"{where}: images leave [0, 1] ({clamped}); end with `.clamp(0, 1)`")
    assert isinstance(images, Tensor)
    expect(images.dtype == torch.float32, f"{where}: images are {images.dtype}; end with `.float()`")


def documented(checked: CheckedAttack) -> None:
    """The class has a docstring, each parameter a description."""
    is_documented(type(checked.attack))


def runs_on_what_it_needs(checked: CheckedAttack) -> None:
    """It runs on what `needs` grants, and returns one image in [0,1] for each victim."""
    needs = type(checked.attack).needs
    try:
        images, _ = checked.found()
    except (TypeError, AttributeError) as error:
        if "NoneType" not in str(error):
            raise
        raise ContractError(
            f"it reads what is None where an attack is granted {needs!r} ({error}); state what it needs: "
            '`needs = "query"` or `needs = "weights"`'
        ) from error
    _assert_images(images, SHAPE, checked.attack, "maps")


def its_generator_decides(checked: CheckedAttack) -> None:
    """The same generator gives the same images, whatever the state of torch's global one."""
    images, _ = checked.found()
    again, _ = checked.run(checked.quick, seed=2)
    expect(
        torch.equal(images, again),
        "a second run with the same generator gives other images; draw with `generator=generator` alone, and train "
        "inside `seen.remember(...)`",
    )


def reads_the_release(checked: CheckedAttack) -> None:
    """Where nothing is hidden it beats the mean image, unless it says that it is a floor; and by the release alone.

    One that needs nothing is not asked to beat it: on these pictures nothing tells a colour, or left and right, to
    whoever can ask nothing.
    """
    if type(checked.attack).floor:
        return
    images, _ = checked.run(checked.attack)
    reached, mean = checked.psnr_db(images), checked.mean_image_db()
    expect(
        reached > mean + BETTER_DB or type(checked.attack).needs == "nothing",
        f"it reaches {reached:.1f} dB PSNR where the mean image reaches {mean:.1f} dB; an attack that reconstructs "
        "nothing says `floor = True`, one that trains too little here takes more steps",
    )
    others, _ = checked.run(
        checked.attack, change=lambda seen: dataclasses.replace(seen, released=seen.released.roll(1, 0))
    )
    chance = checked.psnr_db(others)
    expect(
        chance < mean + CHANCE_DB,
        f"from releases of other images it still reaches {chance:.1f} dB, the mean image {mean:.1f} dB: it knows the "
        "victims by something else than their releases, or mixes their rows",
    )


def what_it_remembers_is_enough(checked: CheckedAttack) -> None:
    """What `seen.remember` gave back is all that it trained: a second cell, which finds it stored, gets the same."""
    first, _ = checked.found()
    if checked.shelf.kept:
        second, _ = checked.run(checked.quick, shelf=checked.shelf)
        expect(
            torch.equal(first, second),
            "with what it trained already stored it gives other images; keep all that training changes in the tensors "
            "that it returns, and draw in it with the generator that it is given",
        )


def further_releases_of_the_same(checked: CheckedAttack) -> None:
    """Further releases that are equal to the first change nothing."""
    images, _ = checked.found()
    again, _ = checked.run(
        checked.quick, change=lambda seen: dataclasses.replace(seen, again=(seen.released.clone(),) * 2)
    )
    expect(
        torch.allclose(images, again, atol=1e-6),
        "with `seen.again` equal to `seen.released` it gives other images; pool releases by "
        "`dpbench.toolkit.inversion.pooled`",
    )


def features_of_any_layout(checked: CheckedAttack) -> None:
    """It takes features of any layout: maps, tokens, channels last, flat."""
    for layout in sorted(LAYOUTS.keys() - {"maps"}):
        images, _ = checked.run(checked.quick, layout=layout)
        _assert_images(images, SHAPE, checked.attack, f"features as {layout}")


def images_of_any_form(checked: CheckedAttack) -> None:
    """It takes images that are not square."""
    images, _ = checked.run(checked.quick, shape=WIDE)
    _assert_images(images, WIDE, checked.attack, "images of 18x28")


def budgets_grow(checked: CheckedAttack) -> None:
    """A larger budget lowers no parameter that it scales, and keeps its type."""
    attack = checked.attack
    for budget, scaled in attack.budgets.items():
        expect(budget in ("small", "large"), f"budgets has the key {budget!r}; expected 'small' and 'large'")
        for name in scaled:
            expect(name in type(attack).model_fields, f"budgets name {name!r}, which is no parameter")
    small, large = attack.at_budget("small"), attack.at_budget("large")
    expect(attack.at_budget("standard") == attack, "at_budget('standard') is another attack")
    for name, value in attack.model_dump().items():
        if isinstance(value, int | float):
            low, high = getattr(small, name), getattr(large, name)
            expect(low <= value <= high, f"{name} is {low}, {value}, {high} at small, standard, large")
            expect(type(low) is type(value) is type(high), f"{name} changes its type with the budget")


def notes_are_plain(checked: CheckedAttack) -> None:
    """What it notes is plain JSON, as records are."""
    _, seen = checked.found()
    try:
        json.dumps(seen.notes)
    except (TypeError, ValueError) as error:
        raise ContractError(f"notes cannot be written as JSON ({error}); note floats, texts and lists") from error


RULES: tuple[Callable[[CheckedAttack], None], ...] = (
    documented,
    budgets_grow,
    runs_on_what_it_needs,
    notes_are_plain,
    its_generator_decides,
    reads_the_release,
    further_releases_of_the_same,
    what_it_remembers_is_enough,
    features_of_any_layout,
    images_of_any_form,
)
"""In this order."""
