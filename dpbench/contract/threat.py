"""The threat models: what an attacker is granted, holds and may spend."""

from __future__ import annotations

from typing import Literal, get_args

Needs = Literal["nothing", "query", "weights"]
"""What an attack must be granted: nothing but the released features and auxiliary images, the client as a
black box that answers queries, or the client's weights (white box, differentiable)."""

ThreatModel = Literal["observe", "static", "query", "weights"]
"""What access the attacker is granted. `observe`: it sees releases and may ask nothing; `static`: query and weights of
the *undefended* client (the attacker does not know the defense); `query`: the defended client as a black box;
`weights`: the defended client itself."""

ServerRole = Literal["attacker", "trusted"]
"""Who holds the server's half: the attacker, who then sees whatever `predict` computes from a release, or somebody
whom it cannot look at (the attacker listens on the wire)."""

AuxiliaryData = Literal["shifted", "same"]
"""Which images the attacker has: of another data set, or of the victims' own (never the victims)."""

Budget = Literal["small", "standard", "large"]
"""How much an attack may spend: steps, network size, and the share of its auxiliary images."""

UNDEFENDED = "none"
"""The name of the defense that does nothing: the reference of every board, and what `static` attackers know."""

DERIVED = ("worst-case", "floor")
"""What boards call the best of several attacks, and of several floors: no attack has such a name."""

THREAT_MODELS: tuple[ThreatModel, ...] = get_args(ThreatModel)
"""Weakest first, as the next two."""

AUXILIARY_DATA: tuple[AuxiliaryData, ...] = get_args(AuxiliaryData)

BUDGETS: tuple[Budget, ...] = get_args(Budget)

AUXILIARY_SHARE: dict[Budget, float] = {"small": 0.5, "standard": 0.8, "large": 1.0}
"""Budget -> share of the auxiliary images that the attacker gets."""


def grants(threat_model: ThreatModel, needs: Needs) -> bool:
    """Whether the threat model gives an attack what it needs."""
    return needs == "nothing" or threat_model in ("static", "weights") or threat_model == needs
