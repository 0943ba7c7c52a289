"""The decision as a table: what is here, what is there, what was agreed, and what follows.

Rows know no Blob and no VAST: every row runs twice, with "here" on either side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from federation.model import Absent, Base, Mode, Observation, OriginStamp, Present, Side, Stamp, StampOrigin, Unknown, Version
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
    forged: bool = False
    """The stamp's hash is not that of the content."""

    def etag(self, side: Side) -> str:
        """Blob's moves with every write, VAST's with the content."""
        tail = f"-{self.metadata}" if side is Side.BLOB else ""
        return f"{side}-{self.content}{tail}{'~' if self.touched else ''}"

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
            Version(self.etag(side), len(self.content), moment(self.at), md5=md5 if self.hashed else None),
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
GONE, UNREAD = Gone(), Unread()
BASE, TOMB, NEVER = Agreed(), Agreed(tombstone=True), None
HERE_ONLY, THERE_ONLY = Agreed(there=False), Agreed(here=False)
ANY, BOTH, HERE, THERE = ("both", "here", "there"), ("both",), ("here",), ("there",)
OWN, PEER = ("both", "here"), ("both", "there")
"""Whose writes count: in mode two_way, where "here" is the master, where "there" is the master."""

A, R = Action, Reason


@dataclass(frozen=True)
class Row:
    """One described case."""

    text: str
    here: Obj | Gone | Unread
    there: Obj | Gone | Unread
    base: Agreed | None
    modes: tuple[str, ...]
    action: Action
    reason: Reason
    source: Place | None = None
    keep: Place | None = None
    hashes: tuple[Place, ...] = ()
    tie: Place = "here"
    deletes: bool = True
    uncertainty_us: int = 500_000


def row(*args: Any, **named: Any) -> Row:  # noqa: ANN401 - a table reads best in short lines
    """One line of the table."""
    return Row(*args, **named)


ROWS = [
    # ---- question 1: is a side unknown
    row("unread beside a present object waits", UNREAD, ONE, BASE, ANY, A.WAIT, R.UNREADABLE),
    row("unread beside a deleted object waits", UNREAD, GONE, BASE, ANY, A.WAIT, R.UNREADABLE),
    row("unread beside a new object waits", UNREAD, ONE, NEVER, ANY, A.WAIT, R.UNREADABLE),
    row("unread beside nothing, never agreed, waits", UNREAD, GONE, NEVER, ANY, A.WAIT, R.UNREADABLE),
    row("unread under a tombstone waits", UNREAD, ONE, TOMB, ANY, A.WAIT, R.UNREADABLE),
    row("both unread wait", UNREAD, UNREAD, BASE, ANY, A.WAIT, R.UNREADABLE),
    # ---- question 2: are they equal
    row("never seen on either side", GONE, GONE, NEVER, ANY, A.ADOPT, R.BOTH_ABSENT),
    row("two deletes merge", GONE, GONE, BASE, ANY, A.ADOPT, R.BOTH_ABSENT),
    row("two timed deletes merge", Gone(5), Gone(9), BASE, ANY, A.ADOPT, R.BOTH_ABSENT),
    row("a tombstone and nothing", GONE, GONE, TOMB, ANY, A.ADOPT, R.BOTH_ABSENT),
    row("the last of a one-sided object goes", GONE, GONE, HERE_ONLY, ANY, A.ADOPT, R.BOTH_ABSENT),
    row("as agreed", ONE, ONE, BASE, ANY, A.NOTHING, R.IN_STEP),
    row("as agreed, without a hash in the base", ONE, ONE, Agreed(hashed=False), ANY, A.NOTHING, R.IN_STEP),
    row("equal, never agreed", ONE, ONE, NEVER, ANY, A.ADOPT, R.EQUAL),
    row("equal under a tombstone", ONE, ONE, TOMB, ANY, A.ADOPT, R.EQUAL),
    row("both changed to the same", TWO, replace(TWO, at=900), BASE, ANY, A.ADOPT, R.EQUAL),
    row("one touched, content the same", replace(ONE, touched=True, at=50), ONE, BASE, ANY, A.ADOPT, R.EQUAL),
    row("both touched", replace(ONE, touched=True), replace(ONE, touched=True), BASE, ANY, A.ADOPT, R.EQUAL),
    row("both empty need no hash", EMPTY, EMPTY, NEVER, ANY, A.ADOPT, R.EQUAL),
    row("our copy names the version beside it", replace(TWO, hashed=False), replace(TWO, ours=100), NEVER, ANY, A.ADOPT, R.EQUAL),
    row("our copy was not settled yet", TWO, replace(TWO, ours=100, at=101), BASE, ANY, A.ADOPT, R.EQUAL),
    row("equal although one side was let go before", ONE, ONE, HERE_ONLY, ANY, A.ADOPT, R.EQUAL),
    row("same size, no hash on either", replace(ONE, hashed=False), replace(TWO, hashed=False), NEVER, ANY,
        A.HASH, R.EQUALITY_UNKNOWN, hashes=("here", "there")),
    row("same size, no hash here", replace(TRE, hashed=False), TWO, BASE, ANY, A.HASH, R.EQUALITY_UNKNOWN, hashes=("here",)),
    row("other sizes need no hash", replace(LONGER, hashed=False, at=900), TWO, BASE, BOTH,
        A.COPY, R.LATER_WRITE, "here", "there"),
    # ---- question 3: one side changed; without a base
    row("new here", ONE, GONE, NEVER, OWN, A.COPY, R.NEW, "here"),
    row("new in a read-only zone stays there", ONE, GONE, NEVER, THERE, A.KEEP, R.FOREIGN_IN_ZONE, "here"),
    row("a delete nobody agreed on deletes nothing", ONE, Gone(900), NEVER, OWN, A.COPY, R.NEW, "here"),
    row("our copy alone, base lost, is copied back", replace(ONE, ours=0), GONE, NEVER, OWN, A.COPY, R.NEW, "here"),
    row("created again after a delete", TWO, GONE, TOMB, OWN, A.COPY, R.RECREATED, "here"),
    row("created again, older than the tombstone", Obj("two", at=-900), Gone(5), TOMB, OWN, A.COPY, R.RECREATED, "here"),
    row("created again in a zone", TWO, GONE, TOMB, THERE, A.KEEP, R.FOREIGN_IN_ZONE, "here"),
    row("our older copy, base lost", TRE, replace(TWO, ours=0), NEVER, OWN, A.COPY, R.CHANGED, "here"),
    row("the zone is ahead of its older copy", TRE, replace(TWO, ours=0), NEVER, THERE,
        A.COPY, R.READ_ONLY_ZONE, "there", "here"),
    # ---- question 3: one side changed since the base
    row("content changed", TWO, ONE, BASE, OWN, A.COPY, R.CHANGED, "here"),
    row("content changed in a zone is undone, and kept", TWO, ONE, BASE, THERE, A.COPY, R.READ_ONLY_ZONE, "there", "here"),
    row("changed here, touched there", TWO, replace(ONE, touched=True, at=900), BASE, OWN, A.COPY, R.CHANGED, "here"),
    row("emptied here", EMPTY, ONE, BASE, OWN, A.COPY, R.CHANGED, "here"),
    row("changed before the base's time still is a change", Obj("two", at=-900), ONE, BASE, OWN, A.COPY, R.CHANGED, "here"),
    row("touched, hash unknown: taken for a change", replace(ONE, touched=True, hashed=False), ONE, BASE, OWN,
        A.COPY, R.CHANGED, "here"),
    row("metadata changed", RENAMED, ONE, BASE, OWN, A.METADATA, R.METADATA_CHANGED, "here"),
    row("metadata changed in a zone is undone, and kept", RENAMED, ONE, BASE, THERE,
        A.METADATA, R.READ_ONLY_ZONE, "there", "here"),
    row("metadata changed beside a touch", RENAMED, replace(ONE, touched=True), BASE, OWN,
        A.METADATA, R.METADATA_CHANGED, "here"),
    row("metadata that never fitted is no change", replace(RENAMED, touched=True), ONE, Agreed(lossy=True), ANY,
        A.ADOPT, R.EQUAL),
    row("content and metadata changed", replace(TWO, metadata="changed"), ONE, BASE, OWN, A.COPY, R.CHANGED, "here"),
    row("changed again beside our unsettled copy", TRE, replace(TWO, ours=100, at=101), BASE, OWN, A.COPY, R.CHANGED, "here"),
    row("put back beside our unsettled copy", replace(ONE, touched=True, at=300), replace(TWO, ours=100), BASE, ANY,
        A.COPY, R.CHANGED, "here"),
    row("metadata put back beside our unsettled copy of it", replace(ONE, touched=True, at=300), replace(RENAMED, ours=100),
        BASE, ANY, A.METADATA, R.METADATA_CHANGED, "here"),
    row("metadata changed again beside our unsettled copy", Obj("one", at=100.2, metadata="again"), replace(RENAMED, ours=100),
        BASE, OWN, A.METADATA, R.METADATA_CHANGED, "here", tie="there"),
    row("an old copy of ours put back is a user's write", ONE, replace(TWO, ours=-900, at=500), BASE, PEER,
        A.COPY, R.CHANGED, "there"),
    row("a stamp whose hash does not fit hides nothing", ONE, replace(TWO, ours=100, forged=True), BASE, PEER,
        A.COPY, R.CHANGED, "there"),
    # ---- question 3: deletes
    row("deleted here", GONE, ONE, BASE, OWN, A.DELETE, R.DELETED, "here"),
    row("deleted here at a known time", Gone(5), ONE, BASE, OWN, A.DELETE, R.DELETED, "here"),
    row("deleted here, touched there", GONE, replace(ONE, touched=True), BASE, OWN, A.DELETE, R.DELETED, "here"),
    row("deleted here beside our unsettled copy", GONE, replace(TWO, ours=100), BASE, OWN, A.DELETE, R.DELETED, "here"),
    row("deletes switched off", GONE, ONE, BASE, OWN, A.KEEP, R.DELETE_IGNORED, "there", deletes=False),
    row("deleted in a zone comes back", GONE, ONE, BASE, THERE, A.COPY, R.READ_ONLY_ZONE, "there"),
    row("deleted in a zone, changed at its master", GONE, TWO, BASE, THERE, A.COPY, R.READ_ONLY_ZONE, "there"),
    row("deleted by the master, changed in the zone: kept", GONE, TWO, BASE, HERE, A.DELETE, R.DELETED, "here", "there"),
    row("the same with deletes switched off", GONE, TWO, BASE, HERE, A.KEEP, R.DELETE_IGNORED, "there", deletes=False),
    # ---- one side let go by rule earlier
    row("let go earlier, unchanged", ONE, GONE, HERE_ONLY, ANY, A.NOTHING, R.DELETE_IGNORED),
    row("let go earlier, a delete told again", ONE, Gone(5), HERE_ONLY, ANY, A.NOTHING, R.DELETE_IGNORED),
    row("let go earlier, changed since", TWO, GONE, HERE_ONLY, OWN, A.COPY, R.CHANGED, "here"),
    row("a zone's own object changed", TWO, GONE, HERE_ONLY, THERE, A.KEEP, R.FOREIGN_IN_ZONE, "here"),
    row("let go earlier, created anew there", ONE, TRE, HERE_ONLY, BOTH, A.COPY, R.LATER_WRITE, "there", "here"),
    row("what one side alone held is gone, the other's new object stays", TWO, Gone(900), THERE_ONLY, BOTH,
        A.COPY, R.CHANGED, "here"),
    # ---- question 4: both changed
    row("the later write wins", TRE, TWO, BASE, BOTH, A.COPY, R.LATER_WRITE, "here", "there"),
    row("whatever the tie rule says", TRE, TWO, BASE, BOTH, A.COPY, R.LATER_WRITE, "here", "there", tie="there"),
    row("different, never agreed", TRE, TWO, NEVER, BOTH, A.COPY, R.LATER_WRITE, "here", "there"),
    row("different under a tombstone", TRE, TWO, TOMB, BOTH, A.COPY, R.LATER_WRITE, "here", "there"),
    row("the same second: the tie rule, here", Obj("x", 50), Obj("y", 51), BASE, BOTH, A.COPY, R.TIE, "here", "there"),
    row("the same second: the tie rule, there", Obj("x", 51), Obj("y", 50), BASE, BOTH,
        A.COPY, R.TIE, "there", "here", tie="there"),
    row("event times decide within a second", Obj("x", 50, event=50.9), Obj("y", 50, event=50.1), BASE, BOTH,
        A.COPY, R.LATER_WRITE, "here", "there", tie="there"),
    row("unless the clocks are not that good", Obj("x", 50, event=50.4), Obj("y", 50, event=50.1), BASE, BOTH,
        A.COPY, R.TIE, "there", "here", tie="there"),
    row("the master wins, however early", TWO, TRE, BASE, HERE, A.COPY, R.READ_ONLY_ZONE, "here", "there"),
    row("the master wins without a base", TWO, TRE, NEVER, HERE, A.COPY, R.READ_ONLY_ZONE, "here", "there"),
    row("metadata on both sides", replace(RENAMED, at=300), Obj("one", 100, "else"), BASE, BOTH,
        A.METADATA, R.LATER_WRITE, "here", "there"),
    row("metadata on both sides, one of them a zone", RENAMED, Obj("one", 900, "else"), BASE, HERE,
        A.METADATA, R.READ_ONLY_ZONE, "here", "there"),
    row("content here, later metadata there", TWO, replace(RENAMED, at=900), BASE, BOTH, A.COPY, R.LATER_WRITE, "there", "here"),
    row("equal content, other metadata, never agreed", replace(RENAMED, at=900), ONE, NEVER, BOTH,
        A.METADATA, R.LATER_WRITE, "here", "there"),
    row("an edit beats a delete of unknown time", TWO, GONE, BASE, BOTH, A.COPY, R.EDIT_BEATS_DELETE, "here"),
    row("an edit beats an earlier delete", TWO, Gone(50), BASE, BOTH, A.COPY, R.EDIT_BEATS_DELETE, "here"),
    row("a later delete beats an edit, which is kept", TWO, Gone(150), BASE, BOTH,
        A.DELETE, R.DELETE_BEATS_EDIT, "there", "here"),
    row("a metadata edit beats a delete of unknown time", RENAMED, GONE, BASE, BOTH, A.COPY, R.EDIT_BEATS_DELETE, "here"),
    row("edit and delete tie: the edit's side", TWO, Gone(100.2), BASE, BOTH, A.COPY, R.EDIT_BEATS_DELETE, "here"),
    row("edit and delete tie: the delete's side", TWO, Gone(100.2), BASE, BOTH,
        A.DELETE, R.DELETE_BEATS_EDIT, "there", "here", tie="there"),
    row("a later delete with deletes off loses", GONE, replace(TWO, event=100), Agreed(), BOTH,
        A.COPY, R.EDIT_BEATS_DELETE, "there",
        deletes=False),
    row("a later timed delete with deletes off loses", Gone(900), TWO, BASE, BOTH,
        A.COPY, R.EDIT_BEATS_DELETE, "there", deletes=False),
]  # fmt: skip


def outcome(one: Row, here: Side, mode: str) -> tuple[Decision, Decision]:
    """What was decided and what the row says, with "here" on that side."""
    place = {"here": here, "there": here.other}
    rules = Rules(
        mode=Mode.TWO_WAY if mode == "both" else Mode(f"{place[mode]}_master"),
        tie_winner=place[one.tie],
        clock_uncertainty_us=one.uncertainty_us,
        deletes_to_blob=one.deletes,
        deletes_to_vast=one.deletes,
    )
    seen: dict[Side, Observation] = {here: one.here.on(here), here.other: one.there.on(here.other)}
    base = one.base.base(here) if one.base is not None else None
    want = Decision(
        one.action,
        one.reason,
        source=place[one.source] if one.source else None,
        preserve=place[one.keep] if one.keep else None,
        sides=tuple(side for side in Side if side in [place[which] for which in one.hashes]),
    )
    return decide(seen[Side.BLOB], seen[Side.VAST], base, rules), want


@pytest.mark.parametrize("here", list(Side), ids=lambda side: f"here_is_{side}")
@pytest.mark.parametrize("one", ROWS, ids=lambda one: one.text.replace(" ", "_"))
def test_the_table(one: Row, here: Side) -> None:
    """Each described situation leads to exactly this decision, on either side and in each of its modes."""
    for mode in one.modes:
        decided, want = outcome(one, here, mode)
        assert decided == want, f"mode: {mode}"


def test_rows_are_told_apart_by_their_words() -> None:
    """Two rows with one description would hide one of them."""
    assert len({one.text for one in ROWS}) == len(ROWS) >= 60


def test_a_decision_without_a_source_has_no_direction() -> None:
    """Asking where a WAIT writes to is a mistake that shows."""
    with pytest.raises(ValueError, match="wait has no direction"):
        _ = Decision(Action.WAIT, Reason.UNREADABLE).destination
    assert Decision(Action.COPY, Reason.NEW, source=Side.BLOB).destination is Side.VAST
