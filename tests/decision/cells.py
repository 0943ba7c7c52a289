"""Everything ``decide`` can be asked, as a finite set of cells: tests look at each, docs/consistency.md is printed from them.

A cell speaks of "here" and "there" and knows no Blob and no VAST; ``Cell.decide`` makes real values of it, "here" on either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import product

from federation.model import (
    SECOND_US,
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
from federation.rules.decision import Decision, Rules


class Place(StrEnum):
    """One of the two sides, whichever it is."""

    HERE = "here"
    THERE = "there"

    @property
    def other(self) -> Place:
        """The opposite place."""
        return Place.THERE if self is Place.HERE else Place.HERE


class Seen(StrEnum):
    """What a side shows now. Where nothing was agreed, all that is present is simply there."""

    SAME = "as agreed"
    TAGGED = "tags changed"
    TOUCHED = "rewritten alike"
    METADATA = "metadata changed"
    CONTENT = "content changed"
    IN_PLACE = "content changed under its ETag"
    COPY = "our unrecorded copy"
    GONE_AT = "gone at a known time"
    GONE = "gone"
    UNREAD = "unread"


class Agreed(StrEnum):
    """The base."""

    NEVER = "nothing was ever agreed"
    BOTH = "both held it"
    TOMBSTONE = "both had deleted it"
    HERE_ONLY = "only here is left of it, by rule"
    THERE_ONLY = "only there is left of it, by rule"


class Times(StrEnum):
    """How the times of the two changes lie."""

    HERE_LATER = "here later"
    THERE_LATER = "there later"
    TIE_HERE = "tie, here is the tie winner"
    TIE_THERE = "tie, there is the tie winner"


class Zone(StrEnum):
    """What becomes of an object that only a read-only zone holds."""

    KEEP = "foreign kept"
    REMOVE = "foreign removed"
    REBUILDING = "foreign removed, but the base is being rebuilt"


ABSENT = frozenset({Seen.GONE_AT, Seen.GONE})
UNCHANGED = frozenset({Seen.SAME, Seen.TAGGED, Seen.TOUCHED})
"""Present states in which no user wrote another content or other metadata."""
_TIMES_US = {Times.HERE_LATER: (200, 100), Times.THERE_LATER: (100, 200)}


def _at(seconds: float, precision_us: int = SECOND_US) -> Stamp:
    return Stamp(1_700_000_000 * SECOND_US + int(seconds * SECOND_US), precision_us, StampOrigin.LAST_MODIFIED)


@dataclass(frozen=True)
class Cell:
    """One question. ``hashed``: both services show content hashes; ``alike``: both sides changed to the same."""

    here: Seen
    there: Seen
    agreed: Agreed
    master: Place | None = None
    zone: Zone = Zone.KEEP
    deletes_here: bool = True
    deletes_there: bool = True
    times: Times = Times.HERE_LATER
    hashed: bool = True
    alike: bool = False

    def seen(self, place: Place) -> Seen:
        """What that place shows."""
        return self.here if place is Place.HERE else self.there

    @property
    def mirror(self) -> Cell:
        """The same with here and there changed over."""
        swap = {Times.HERE_LATER: Times.THERE_LATER, Times.TIE_HERE: Times.TIE_THERE}
        swap |= {two: one for one, two in swap.items()}
        only = {Agreed.HERE_ONLY: Agreed.THERE_ONLY, Agreed.THERE_ONLY: Agreed.HERE_ONLY}
        return Cell(
            self.there,
            self.here,
            only.get(self.agreed, self.agreed),
            self.master.other if self.master is not None else None,
            self.zone,
            self.deletes_there,
            self.deletes_here,
            swap[self.times],
            self.hashed,
            self.alike,
        )

    def question(self, here: Side) -> tuple[Observation, Observation, Base | None, Rules]:
        """The cell with "here" on that side, as ``decide`` takes it."""
        sides = {here: self._observation(Place.HERE, here), here.other: self._observation(Place.THERE, here.other)}
        return sides[Side.BLOB], sides[Side.VAST], self._base(here), self._rules(here)

    def decide(self, here: Side = Side.BLOB) -> Outcome:
        """What is decided with "here" on that side."""
        return Outcome.of(decide(*self.question(here)), here)

    @cached_property
    def outcome(self) -> Outcome:
        """What is decided with "here" on Blob."""
        return self.decide()

    def _rules(self, here: Side) -> Rules:
        deletes = {here: self.deletes_here, here.other: self.deletes_there}
        mode = Mode.TWO_WAY
        if self.master is not None:
            mode = Mode(f"{here if self.master is Place.HERE else here.other}_master")
        return Rules(
            mode=mode,
            tie_winner=here.other if self.times is Times.TIE_THERE else here,
            deletes_to_blob=deletes[Side.BLOB],
            deletes_to_vast=deletes[Side.VAST],
            foreign=Foreign.KEEP if self.zone is Zone.KEEP else Foreign.PRESERVE_AND_REMOVE,
            rebuilding=self.zone is Zone.REBUILDING,
        )

    def _base(self, here: Side) -> Base | None:
        if self.agreed is Agreed.NEVER:
            return None
        if self.agreed is Agreed.TOMBSTONE:
            return Base(written=_at(0), deleted=True)
        etags = {
            here: "" if self.agreed is Agreed.THERE_ONLY else f"{here}-0",
            here.other: "" if self.agreed is Agreed.HERE_ONLY else f"{here.other}-0",
        }
        return Base(etags[Side.BLOB], etags[Side.VAST], "0" if self.hashed else None, b"p", _at(0), 3)

    def _observation(self, place: Place, side: Side) -> Observation:
        seen = self.seen(place)
        here_s, there_s = _TIMES_US.get(self.times, (100, 100))
        seconds = here_s if place is Place.HERE else there_s
        if seen is Seen.UNREAD:
            return Unknown("503")
        if seen in ABSENT:
            return Absent(_at(seconds, 1) if seen is Seen.GONE_AT else None)
        own = "new" if self.alike else place.value
        content = {Seen.CONTENT: own, Seen.IN_PLACE: own, Seen.COPY: f"of-{place.other}"}.get(seen, "0")
        digest = own.encode() if seen is Seen.METADATA else b"p"
        # Untouched since the base, or, where there is none, written at that side's time.
        modified = _at(0 if seen is Seen.SAME and self.agreed is Agreed.BOTH else seconds)
        md5 = content if self.hashed else None
        origin = OriginStamp(side.other, "earlier", _at(seconds / 2), md5, "") if seen is Seen.COPY else None
        version = Version(self._etag(seen, side, content, own), 3, modified, md5=md5, content_moved=seen is Seen.IN_PLACE)
        return Present(version, origin=origin, metadata_digest=digest)

    def _etag(self, seen: Seen, side: Side, content: str, own: str) -> str:
        # Tags move no ETag (facts/azure.md 3.1); metadata moves Blob's, and VAST's where it is no plain content hash.
        if seen is Seen.IN_PLACE:
            return f"{side}-0"
        if seen is Seen.TOUCHED:
            return f"{side}-{content}-again"
        if seen is Seen.METADATA and (side is Side.BLOB or not self.hashed):
            return f"{side}-{content}-{own}"
        return f"{side}-{content}"


@dataclass(frozen=True)
class Outcome:
    """A decision in the words of a cell."""

    action: str
    reason: str
    source: Place | None
    preserve: Place | None
    hash_of: tuple[Place, ...]

    @classmethod
    def of(cls, decided: Decision, here: Side) -> Outcome:
        """Sides become places."""
        place = {here: Place.HERE, here.other: Place.THERE}
        return cls(
            decided.action,
            decided.reason,
            place[decided.source] if decided.source is not None else None,
            place[decided.preserve] if decided.preserve is not None else None,
            tuple(sorted(place[side] for side in decided.sides)),
        )

    @property
    def mirror(self) -> Outcome:
        """The same with here and there changed over."""
        return Outcome(
            self.action,
            self.reason,
            self.source.other if self.source else None,
            self.preserve.other if self.preserve else None,
            tuple(sorted(place.other for place in self.hash_of)),
        )

    @property
    def target(self) -> Place | None:
        """Where it writes; None when it writes nothing."""
        if self.source is None or self.action not in ("copy", "metadata", "delete"):
            return None
        return self.source.other


def cells() -> Iterator[Cell]:
    """Every cell once. What cannot matter to a pair of states is not varied: a side that does not answer has one cell a mode."""
    modes = [(None, Zone.KEEP), *product(Place, Zone)]
    for here, there, agreed, (master, zone) in product(Seen, Seen, Agreed, modes):
        if agreed is not Agreed.BOTH and Seen.IN_PLACE in (here, there):
            continue  # there was no ETag that could have stayed
        if Seen.UNREAD in (here, there):
            yield Cell(here, there, agreed, master, zone)
            continue
        both = {here, there} <= {Seen.CONTENT, Seen.IN_PLACE} or here is there is Seen.METADATA
        for deletes_here, deletes_there, times, hashed, alike in product(
            (True, False), (True, False), Times, (True, False), (False, True) if both else (False,)
        ):
            yield Cell(here, there, agreed, master, zone, deletes_here, deletes_there, times, hashed, alike)
