"""The words in which the rows of the decision table are written. They know no Blob and no VAST: "here" is run on either."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from federation.model import (
    Absent,
    Base,
    Foreign,
    Mode,
    Observation,
    OriginStamp,
    Present,
    Side,
    Stamp,
    StampOrigin,
    Unknown,
    Version,
)
from federation.rules.decide import decide
from federation.rules.decision import Action, Decision, Reason, Rules

SECOND = 1_000_000
Place = Literal["here", "there"]


def moment(seconds: float, *, precision_us: int = SECOND) -> Stamp:
    """A time after the base was agreed."""
    return Stamp(1_700_000_000 * SECOND + int(seconds * SECOND), precision_us)


@dataclass(frozen=True)
class Obj:
    """An object as a user sees it; ETag and hash follow from content and metadata as each service makes them."""

    content: str
    at: float = 0
    metadata: str = "plain"
    hashed: bool = True
    touched: bool = False
    event: float | None = None
    ours: float | None = None
    """Carries our stamp, saying that a user wrote it on the other side at this time."""
    under: str = ""
    """The content whose ETag it has: written as a file on a server that keeps ETags (docs/adr/0005)."""
    forged: bool = False
    """The stamp's hash is not that of the content."""

    def etag(self, side: Side) -> str:
        """Blob's moves with every write, VAST's with the content."""
        tail = f"-{self.metadata}" if side is Side.BLOB else ""
        return f"{side}-{self.under or self.content}{tail}{'~' if self.touched else ''}"

    def on(self, side: Side) -> Present:
        """As observed on *side*."""
        md5 = f"md5-{self.content}"
        peer = replace(self, touched=False).etag(side.other)
        stamp = (
            OriginStamp(side.other, peer, moment(self.ours), "other" if self.forged else md5, "")
            if self.ours is not None
            else None
        )
        return Present(
            Version(
                self.etag(side),
                len(self.content),
                moment(self.at),
                md5=md5 if self.hashed else None,
                content_moved=bool(self.under),
            ),
            origin=stamp,
            metadata_digest=self.metadata.encode(),
            written=Stamp(moment(self.event).at_us, 1, StampOrigin.EVENT) if self.event is not None else None,
        )


@dataclass(frozen=True)
class Gone:
    """Nothing there; ``at`` when an event told of the delete."""

    at: float | None = None

    def on(self, _: Side) -> Absent:
        """As observed."""
        return Absent(moment(self.at, precision_us=1) if self.at is not None else None)


@dataclass(frozen=True)
class Unread:
    """A side that does not answer."""

    def on(self, _: Side) -> Unknown:
        """As observed."""
        return Unknown("503")


@dataclass(frozen=True)
class Agreed:
    """The base: both held ``content``, unless one side or both are said to be gone."""

    content: str = "one"
    here: bool = True
    there: bool = True
    lossy: bool = False
    tombstone: bool = False
    hashed: bool = True

    def base(self, here: Side) -> Base:
        """As recorded when "here" is that side."""
        if self.tombstone:
            return Base(deleted=True, written=moment(0))
        obj = Obj(self.content)
        etags = {here: obj.etag(here) if self.here else "", here.other: obj.etag(here.other) if self.there else ""}
        md5 = f"md5-{self.content}" if self.hashed else None
        return Base(etags[Side.BLOB], etags[Side.VAST], md5, b"plain", moment(0), len(self.content), lossy=self.lossy)


ONE, TWO, TRE = Obj("one"), Obj("two", at=100), Obj("tre", at=200)
LONGER = Obj("longer", at=100)
EMPTY = Obj("", at=100, hashed=False)
RENAMED = Obj("one", at=100, metadata="changed")
MOVED = Obj("two", at=100, under="one")
GONE, UNREAD = Gone(), Unread()
BASE, TOMB, NEVER = Agreed(), Agreed(tombstone=True), None
HERE_ONLY, THERE_ONLY = Agreed(there=False), Agreed(here=False)
ANY, BOTH, HERE, THERE = ("both", "here", "there"), ("both",), ("here",), ("there",)
OWN, PEER = ("both", "here"), ("both", "there")
"""Whose writes count: in mode two_way, where "here" is the master, where "there" is the master."""

NO_DELETES = {"deletes_here": False, "deletes_there": False}
REMOVE = Foreign.PRESERVE_AND_REMOVE

A, R = Action, Reason


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The rules of a case, beside its mode."""

    tie: Place = "here"
    deletes_here: bool = True
    deletes_there: bool = True
    foreign: Foreign = Foreign.KEEP
    rebuilding: bool = False
    skew_us: int = 0
    """Uncertainty of the measured difference of the clocks."""
    there_ahead_s: int = 0
    """How far the clock of "there" is ahead; all times of a row are those that its own side's clock showed."""
    by_size_and_time: bool = False
    """The operator's word on what was never agreed on."""


@dataclass(frozen=True)
class Case(Terms):
    """What a row describes, without what follows."""

    text: str
    here: Obj | Gone | Unread
    there: Obj | Gone | Unread
    base: Agreed | None


@dataclass(frozen=True)
class Row(Case):
    """One described case."""

    modes: tuple[str, ...]
    action: Action
    reason: Reason
    source: Place | None = None
    keep: Place | None = None
    hashes: tuple[Place, ...] = ()


def row(*args: Any, **named: Any) -> Row:  # noqa: ANN401 - a table reads best in short lines
    """One line of the table."""
    return Row(*args, **named)


def decided(one: Case, here: Side, mode: str) -> Decision:
    """What is decided with "here" on that side."""
    place = {"here": here, "there": here.other}
    rules = Rules(
        mode=Mode.TWO_WAY if mode == "both" else Mode(f"{place[mode]}_master"),
        tie_winner=place[one.tie],
        deletes_to_blob=one.deletes_here if here is Side.BLOB else one.deletes_there,
        deletes_to_vast=one.deletes_there if here is Side.BLOB else one.deletes_here,
        foreign=one.foreign,
        rebuilding=one.rebuilding,
        skew_uncertainty_us=one.skew_us,
        vast_ahead_us=one.there_ahead_s * (SECOND if here is Side.BLOB else -SECOND),
        adopt_by_size_and_time=one.by_size_and_time,
    )
    seen: dict[Side, Observation] = {here: one.here.on(here), here.other: one.there.on(here.other)}
    return decide(seen[Side.BLOB], seen[Side.VAST], one.base.base(here) if one.base is not None else None, rules)


def outcome(one: Row, here: Side, mode: str) -> tuple[Decision, Decision]:
    """What was decided and what the row says, with "here" on that side."""
    place = {"here": here, "there": here.other}
    want = Decision(
        one.action,
        one.reason,
        source=place[one.source] if one.source else None,
        preserve=place[one.keep] if one.keep else None,
        sides=tuple(side for side in Side if side in [place[which] for which in one.hashes]),
    )
    return decided(one, here, mode), want
