"""What a protocol of one's own is made of, under one name: see the page `writing-a-protocol` of the guide."""

from __future__ import annotations

from dpbench.board.columns import BoardKind as BoardKind
from dpbench.board.columns import Layout as Layout
from dpbench.contract.spec import Spec
from dpbench.records.record import Envelope as Envelope
from dpbench.records.store import Store as Store
from dpbench.running.protocol import Lab as Lab
from dpbench.running.protocol import Planned as Planned
from dpbench.running.protocol import Protocol as Protocol
from dpbench.text.hashing import content_hash


class SuiteFile(Spec):
    """What every suite file holds; a protocol's own derives from it and adds its keys."""

    protocol: str
    name: str


class PlainUnit(Spec):
    """A unit that its fields identify. One with plug-ins needs an `asked` of its own, without what identifies code."""

    @property
    def identity(self) -> str:
        """A hash of all fields."""
        return content_hash(self.model_dump(mode="json"))[:10]

    @property
    def id(self) -> str:
        """The name of the class, and the hash."""
        return f"{type(self).__name__.lower()}-{self.identity}"

    @property
    def asked(self) -> str:
        """See `dpbench.running.unit.Unit`."""
        return self.id
