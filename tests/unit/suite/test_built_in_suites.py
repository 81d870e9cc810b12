"""What the suites that come with dpbench promise."""

import pytest
from parsing import load_suite

from dpbench.contract.attack import Attack
from dpbench.protocols.known import loaded
from dpbench.suite import files as suite_files
from dpbench.suite.words import built_in


def test_every_built_in_suite_parses():
    texts = suite_files.built_in_suites()
    assert {"quick", "smoke", "cifar10", "faces", "sharing"} <= set(texts)
    for name, text in texts.items():
        assert text
        assert load_suite(name).name == name


GRIDS = {name for name in suite_files.built_in_suites() if loaded(name)[0].name == "inference"}


@pytest.mark.parametrize(
    "name", sorted(GRIDS - {"defenses", "depth", "encoders", "portfolio", "priors", "priors-imagenet", "waist"})
)  # those compare something else
def test_every_built_in_suite_holds_the_whole_ladder(name):
    suite = load_suite(name)
    assert suite.threat_models == ["static", "query", "weights"]
    assert suite.auxiliary == (
        ["same"] if name in {"quick", "cifar10", "faces", "vit"} else ["same", "shifted"]
    )  # these are long
    # with which the published boards are measured, but for `cifar10`: its page says what its board leaves out
    assert suite.ensemble == ("ensemble-v2.4" if name == "cifar10" else "ensemble-v1.1")
    assert "none" in {entry.name for entry in suite.defenses}


def test_the_portfolio_holds_every_attack_that_needs_no_special_images():
    suite = load_suite("portfolio")
    assert {entry.name for entry in suite.all_attacks()} == set(built_in(Attack)) - {"gan-faces"}
    assert suite.threat_models == ["observe", "query", "weights"]
