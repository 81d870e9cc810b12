"""Checks: each is one rule of the contract, ready to be run on one plug-in.

The rules of a sort of plug-ins lie in a module of their own, which says what they are run on: a new sort is one more
row of `SORTS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpbench.contract.attack import Attack
from dpbench.contract.dataset import ImageSet
from dpbench.contract.defense import Defense
from dpbench.contract.metric import Metric
from dpbench.contract.plugin import Plugin
from dpbench.errors import DpbenchError, is_interrupt, reason
from dpbench.machine.process_state import preserved
from dpbench.testing import attacks, datasets, defenses, metrics
from dpbench.testing.rules import ContractError, Rule

SORTS: dict[type[Plugin], tuple[Callable[[Any], Any], tuple[Rule, ...]]] = {
    Attack: (attacks.CheckedAttack, attacks.RULES),
    Defense: (defenses.CheckedDefense, defenses.RULES),
    Metric: (metrics.CheckedMetric, metrics.RULES),
    ImageSet: (datasets.CheckedImageSet, datasets.RULES),
}
"""Sort of plug-ins -> what makes of one the object that its rules take, and the rules."""


@dataclass(frozen=True)
class Check:
    """One rule on one plug-in: call it.

    Attributes:
        rule: what is run.
        subject: what it is run on; the checks of one plug-in share it, so that nothing is fitted twice.
        who: the plug-in, for messages.
    """

    rule: Rule
    subject: Any
    who: str

    @property
    def __name__(self) -> str:
        """What pytest calls the check."""
        return str(getattr(self.rule, "__name__", self.rule))

    def __call__(self) -> None:
        """Run the rule.

        Raises:
            ContractError: it is broken.
        """
        try:
            with preserved():
                self.rule(self.subject)
        except BaseException as error:  # a plug-in may call sys.exit
            if is_interrupt(error):
                raise
            found = str(error) if isinstance(error, ContractError) else reason(error)
            rule = inspect.cleandoc(self.rule.__doc__ or self.__name__).partition("\n")[0].rstrip(".")
            raise ContractError(f"{self.who} breaks the rule {rule!r}: {' '.join(found.split())}") from error


def checks_for(plugin: Plugin | type[Plugin]) -> list[Check]:
    """The checks of a plug-in, in an order in which the first that fails says most.

    Args:
        plugin: an instance; or a class, which is then checked with its default parameters. Give an instance where
            these take long: all checks together should take seconds.

    Raises:
        DpbenchError: it is no plug-in, or a parameter has no default.
    """
    cls = plugin if isinstance(plugin, type) else type(plugin)
    sort = next((sort for sort in SORTS if issubclass(cls, sort)), None)
    if sort is None:
        known = ", ".join(sort.__name__ for sort in SORTS)
        raise DpbenchError(f"{cls.__name__} is no plug-in; expected a class derived from one of: {known}")
    subject, rules = SORTS[sort]
    made = _made(plugin) if isinstance(plugin, type) else plugin
    who, shared = f"{sort.__name__.lower()} {made.name!r}", subject(made)
    return [Check(rule, shared, who) for rule in rules]


def _made(cls: type[Plugin]) -> Plugin:
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise DpbenchError(f"{cls.__name__} is abstract: it lacks {missing}")
    if required := [name for name, field in cls.model_fields.items() if field.is_required()]:
        raise DpbenchError(f"{cls.__name__}: parameter {required[0]!r} has no default; give one, or check an instance")
    return cls()


def check_attack(plugin: Attack | type[Attack]) -> None:
    """Run all checks of an attack, on a tiny network and tiny images.

    Raises:
        ContractError: it breaks a rule; the first one is named.
        DpbenchError: it is no attack.
    """
    _check(plugin, Attack)


def check_defense(plugin: Defense | type[Defense]) -> None:
    """Run all checks of a defense, on tiny networks of every layout of features.

    Raises:
        ContractError: it breaks a rule; the first one is named.
        DpbenchError: it is no defense.
    """
    _check(plugin, Defense)


def check_metric(plugin: Metric | type[Metric]) -> None:
    """Run all checks of a metric, on small images at several distances from each other.

    Raises:
        ContractError: it breaks a rule; the first one is named.
        DpbenchError: it is no metric.
    """
    _check(plugin, Metric)


def check_dataset(plugin: ImageSet | type[ImageSet]) -> None:
    """Run all checks of a data set, on some images of each part.

    Raises:
        ContractError: it breaks a rule; the first one is named.
        DpbenchError: it is no data set.
    """
    _check(plugin, ImageSet)


def _check(plugin: Plugin | type[Plugin], sort: type[Plugin]) -> None:
    cls = plugin if isinstance(plugin, type) else type(plugin)
    if not issubclass(cls, sort):
        raise DpbenchError(f"{cls.__name__} is not a subclass of dpbench.{sort.__name__}")
    for check in checks_for(plugin):
        check()
