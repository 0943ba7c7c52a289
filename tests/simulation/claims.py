"""The oracle of what a worker was handed: its own echoes cost nothing, and an edit and a delete are weighed by their times."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.model import Base, Change, HintEntry, Mode, Side, StampOrigin
from federation.progress import Claim
from federation.stores.memory import _Object
from tests.simulation.loop import UNIT, Unit
from tests.simulation.oracle import LWW_SLACK_US, Oracle, Write
from tests.simulation.values import agreed_digest, md5_of, value_of

ROUNDING_US = 2
SLACK_US = 500_000
"""How long after our own write on VAST a change of the same content may be taken for its echo (docs/adr/0001)."""
_TOLD = (StampOrigin.EVENT, StampOrigin.CHANGE_FEED)

Place = tuple[Unit | None, str]
"""A process and a key."""


@dataclass
class Claims:
    """Hears of claims, of requests and of the engine's writes."""

    oracle: Oracle
    handed: dict[Place, Claim] = field(default_factory=dict)
    """Last claim of each key by each process."""
    last: dict[str, Unit | None] = field(default_factory=dict)
    """Who was handed a key last."""
    free: set[Place] = field(default_factory=set)
    """Claims in which nothing is news but our own writes."""
    deleted_us: dict[tuple[Side, str], int] = field(default_factory=dict)
    """The latest delete that a worker was told of since the key was last settled, by its true time."""
    puts: dict[tuple[Side, str], list[tuple[str, int]]] = field(default_factory=dict)
    """The engine's own writes: ETag, and the time in their event."""

    # -------------------------------------------------------------------------------------------------------------- echoes

    def claimed(self, claim: Claim) -> None:
        """A worker was handed *claim*."""
        place = UNIT.get(), claim.hint.key
        self.handed[place], self.last[claim.hint.key] = claim, UNIT.get()
        entries = [(side, entry) for side in Side for entry in claim.hint.entries(side)]
        for side in Side:
            if told := self._told_deletes(side, claim):
                self.deleted_us[side, claim.hint.key] = max(told)
        ours = entries and all(self._ours(claim.hint.key, side, entry, claim.base) for side, entry in entries)
        if ours and claim.intent is None and claim.held is None:
            self.free.add(place)
        else:
            self.free.discard(place)

    def ended(self, key: str, how: str) -> None:
        """The work on a claim ended. What is held for a person keeps its time; of what is parked nothing is remembered."""
        self.free.discard((UNIT.get(), key))
        if how != "hold":
            for side in Side:
                self.deleted_us.pop((side, key), None)

    def agreed(self, key: str, base: Base | None, claimed_at: float) -> None:
        """A claim was settled with *base*: what came while the worker looked, and is taken for older, is that once more."""
        for write in self.oracle.writes:
            meanwhile = write.key == key and write.when > claimed_at
            if meanwhile and base is not None and base.live and base.etag(write.side) in write.etags:
                same = base.md5 == md5_of(write.value[0]) and base.metadata_digest == agreed_digest(write.metadata)
                write.agreed_again |= same and base.written.at_us < write.told_us - LWW_SLACK_US

    def asked(self, key: str) -> None:
        """A process sends a request about *key*."""
        if (UNIT.get(), key) in self.free:
            self.oracle.fail(f"a request was sent about {key}, of which nothing is news but our own writes")

    def taken(self, change: Change, base: Base | None) -> None:
        """*change* of a clean key was taken for news."""
        if change.etag is None or change.at is None or change.at.origin not in _TOLD:
            return
        entry = HintEntry(change.etag, change.deleted, change.at)
        if not change.deleted and self._ours(change.key, change.side, entry, base):
            self.oracle.fail(f"the echo of our own write of {change.side}:{change.key} was taken for news")

    def _ours(self, key: str, side: Side, entry: HintEntry, base: Base | None) -> bool:
        """Whether *entry* tells of a write of ours that was recorded as agreed (rule 7)."""
        if base is None or entry.at is None or entry.at.origin not in _TOLD:
            return False
        at_us = entry.at.at_us
        if entry.deleted:
            ours = self.oracle.deleted_by_engine.get((side, key))
            return base.deleted and ours is not None and abs(ours[0] - at_us) <= ROUNDING_US
        if not base.live or not entry.etag or entry.etag != base.etag(side):
            return False
        if side is Side.VAST and at_us > base.vast_as_of_us + SLACK_US:
            return False  # as far as anybody can tell somebody's metadata
        return any(etag == entry.etag and abs(put_us - at_us) <= ROUNDING_US for etag, put_us in self.puts.get((side, key), []))

    # ------------------------------------------------------------------------------------------------- edits against deletes

    def wrote(self, side: Side, key: str, before: _Object | None, after: _Object | None) -> None:
        """The engine wrote or deleted; to be told before the oracle forgets what *before* stood for."""
        if after is not None:
            self.puts.setdefault((side, key), []).append((after.etag, self.oracle.servers[side].clock.now_us()))
        if before is None and self.last.get(key) is not UNIT.get():
            # RACE: a stalled process sent this before its lease ended, and nothing was there any more when it arrived.
            self.oracle.late.add(key)
        claim = self.handed.get((UNIT.get(), key))
        if claim is None or claim.intent is not None or self.oracle.script.mode is not Mode.TWO_WAY:
            return
        if before is None and after is not None:
            self._brought_back(side, key, after, claim)
        elif before is not None and after is None:
            self._deleted(side, key, before, claim)

    def _brought_back(self, side: Side, key: str, after: _Object, claim: Claim) -> None:
        """A delete of known time that is clearly later than the edit on the other side must win."""
        agreed = claim.base is not None and claim.base.live and all(claim.base.etag(one) for one in Side)
        judged = claim.held is not None and claim.held.verdict == "rejected"
        if not agreed or judged or side.other in self.oracle.script.deletes_ignored:
            return
        deleted_us = self.deleted_us.get((side, key))
        times = [
            at
            for write in self.oracle.values.get((key, value_of(after)), [])
            for all_times in write.etags.values()
            for at in all_times
            if write.side is side.other
        ]
        if deleted_us is not None and times and max(times) + LWW_SLACK_US < deleted_us:
            late = (deleted_us - max(times)) / 1e6
            self.oracle.fail(f"an older edit beat a delete: {key}: deleted on {side} {late:.1f} s after the edit was written")

    def _deleted(self, side: Side, key: str, before: _Object, claim: Claim) -> None:
        """A delete of unknown time never takes an edit along."""
        base = claim.base
        if base is None or not base.live or base.md5 is None or (side.other, key) in self.deleted_us:
            return
        edits = [one for one in self.oracle.embodied.get((side, key), []) if self._is_edit(one, side)]
        differs = md5_of(before.data) != base.md5 or (agreed_digest(before.metadata) != base.metadata_digest)
        if edits and differs:
            self.oracle.fail(f"a delete of unknown time beat an edit: #{edits[0].number} of {side}:{key}")

    @staticmethod
    def _is_edit(write: Write, side: Side) -> bool:
        return write.side is side and not write.superseded and not write.raced

    def _told_deletes(self, side: Side, claim: Claim) -> list[int]:
        """True times of the deletes on *side* that the worker was told of."""
        ahead_us = self.oracle.servers[side].clock.ahead_us()
        return [
            entry.at.at_us - ahead_us
            for entry in claim.hint.entries(side)
            if entry.deleted and entry.at is not None and entry.at.origin in _TOLD
        ]
