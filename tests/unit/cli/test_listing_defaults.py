"""What `dpbench list` says of parameters, whatever their defaults are."""

import json
from pathlib import Path

from pydantic import Field
from rich.console import Console

from dpbench.cli import listing
from dpbench.cli.verbs import look
from dpbench.contract.feature_transform import FeatureTransform


class Masked(FeatureTransform):
    """A defense with every sort of default."""

    name = "masked"
    needed: int = Field(description="has none")
    where: Path = Field(Path(__file__), description="a path")
    made: list[int] = Field(default_factory=lambda: [1, 2], description="made anew")

    def transform(self, features, state, *, generator):
        return features


def test_defaults_of_every_sort_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(listing, "defenses", lambda: {"masked": Masked})
    look.list_("defenses", "", as_json=True)
    (entry,) = json.loads(capsys.readouterr().out)
    defaults = {name: told["default"] for name, told in entry["parameters"].items()}
    assert defaults == {"needed": listing.REQUIRED, "where": __file__, "made": [1, 2]}
    listing.print_listing(listing.listing("defenses"), Console(width=200))
    assert "needed = (to be given)" in capsys.readouterr().out
