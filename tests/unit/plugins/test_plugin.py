"""What is wrong with a plug-in's class is said where the class is defined, in one line."""

import abc
from typing import ClassVar

import pytest

from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.errors import DpbenchError


def build(self, split):
    raise AssertionError


def reconstruct(self, seen, *, generator):
    raise AssertionError


def define(base, annotations=None, **facts):
    method = {"build": build} if base is Defense else {"reconstruct": reconstruct}
    namespace = {"__module__": __name__, "__qualname__": "Mine", "__annotations__": annotations or {}}
    return type(base)("Mine", (base,), {**namespace, **method, **facts})


@pytest.mark.parametrize("base", [Attack, Defense])
@pytest.mark.parametrize(
    ("annotations", "facts", "words"),
    [
        ({}, {}, 'Mine has no name; write `name = "..."` in the class Mine'),
        ({}, {"name": None}, "Mine has no name"),
        ({}, {"name": 3}, "the name of Mine is of type int"),
        ({}, {"name": property(lambda self: "x")}, "the name of Mine is of type property"),
        ({}, {"name": ""}, "the name of Mine is ''; expected printable text"),
        ({}, {"name": "two\nlines"}, r"the name of Mine is 'two\\nlines'"),
        ({}, {"name": " x"}, "the name of Mine is ' x'"),
        ({}, {"name": "mine.py:Mine"}, "which names a file"),
        ({"name": str}, {"name": "x"}, r"Mine\.name is declared as a parameter.*write `name: ClassVar\[str\] = "),
        ({"name": "str"}, {}, r"Mine\.name is declared as a parameter"),
        ({"version": int}, {"name": "x", "version": 2}, r"Mine\.version is declared as a parameter.*ClassVar\[int\]"),
        ({}, {"name": "x", "version": "2"}, r"Mine\.version is '2'; expected a whole number from 1"),
        ({}, {"name": "x", "version": True}, r"Mine\.version is True"),
    ],
)
def test_a_class_without_a_usable_name_or_version_is_refused(base, annotations, facts, words):
    with pytest.raises(DpbenchError, match=words) as caught:
        define(base, annotations, **facts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("annotations", "needs", "words"),
    [
        ({}, "wieghts", r"Mine\.needs is 'wieghts'; expected one of: 'nothing', 'query', 'weights'"),
        ({}, ["query"], r"Mine\.needs is \['query'\]"),
        ({"needs": str}, "query", r"Mine\.needs is declared as a parameter"),
    ],
)
def test_an_attack_that_needs_what_nobody_grants_is_refused(annotations, needs, words):
    with pytest.raises(DpbenchError, match=words):
        define(Attack, annotations, name="x", needs=needs)


def test_names_that_are_fine():
    for name in ("mine", "Mine 2", "κ-anonymous", "a/b"):
        assert define(Defense, name=name).name == name
    assert define(Defense, {"name": "ClassVar[str]"}, name="x").name == "x"
    assert define(Attack, {"name": ClassVar[str]}, name="x", needs="weights").needs == "weights"


def test_a_base_needs_no_name_but_what_is_derived_from_it_does():
    class Unfinished(Defense):
        strength: float = 1.0

    class Whole(Defense, abc.ABC):
        def build(self, split):
            raise AssertionError

    for base in (Unfinished, Whole):
        assert type(base)("Mine", (base,), {"__module__": __name__, "build": build, "name": "mine"}).name == "mine"
        with pytest.raises(DpbenchError, match="Mine has no name"):
            type(base)("Mine", (base,), {"__module__": __name__, "build": build})


def test_a_variant_may_go_by_the_name_of_what_it_is_derived_from():
    class Named(Defense):
        name = "named"
        build = build

    class Variant(Named):
        pass

    assert Variant.name == "named"
