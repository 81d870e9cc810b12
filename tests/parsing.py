"""Suites from TOML text, or by name, as `dpbench run` reads them."""

from dpbench.protocols.known import loaded
from dpbench.protocols.sharing.suite import SharingSuite
from dpbench.suite.files import parse_toml, validated
from dpbench.suite.suite import Suite


def parse_suite(text, *, origin):
    return validated(Suite, parse_toml(text, origin=origin), origin=origin)


def parse_sharing(text, *, origin):
    return validated(SharingSuite, parse_toml(text, origin=origin), origin=origin)


def load_suite(name):
    return loaded(name)[1]
