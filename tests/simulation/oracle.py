"""What must hold, kept apart from the engine: every acknowledged write is accounted for, by rules of the oracle's own.

A *value* is content and user metadata of one key. A user who overwrites or deletes what a side holds has seen it: those writes
are superseded. Everything else must end as the current value of both sides, or preserved where ``conflicts`` lists it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from federation.model import SECOND_US, Base, Foreign, Metadata, Mode, Side
from federation.progress import ConflictRecord
from federation.state.memory_state import MemoryState
from federation.stores.memory import _Object
from federation.sync.preserve import CONFLICTS_PREFIX
from tests.simulation.conflicts import is_false
from tests.simulation.script import Script
from tests.simulation.sides import Server
from tests.simulation.values import Value, agreed_digest, has_big, kept_as, md5_of, plain, value_of

BUDGET_SECONDS = 600.0
LWW_SLACK_US = 3_600_000
"""A second of precision on either side, clock uncertainty as set, uncertainty of two skew measurements and their errors."""
GRANTED_SECONDS = 60.0
"""How long a delete that was granted before the state lost that may be under way."""
SURE_TIE_US = 50_000
"""Closer than any uncertainty: the tie winner must win."""


@dataclass(slots=True)
class Write:
    """One acknowledged write."""

    number: int
    side: Side
    key: str
    value: Value
    etags: dict[str, list[int]]
    """Under which its side held it, with true times: a rewrite of equal bytes or a touch gives a new one."""
    when: float
    """Virtual time."""
    told_us: int
    """Time in its event."""
    metadata: Metadata
    superseded: str = ""
    unagreed: bool = False
    raced: bool = False
    agreed_again: bool = False
    """Content and metadata were the agreed ones at that time: the same version once more, whatever came between."""
    gave_way: bool = False
    """And the engine wrote over it what the other side's user had changed."""


@dataclass
class Oracle:
    """Hears of everything that changes. ``violations`` says what went wrong, in words."""

    script: Script
    known: Callable[[], MemoryState]
    """The state as it is now."""
    servers: dict[Side, Server] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    partial: set[tuple[str, bytes]] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    mutations: int = 0
    deletes: dict[tuple[Side, str], float] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    """Keys of held deletes that the operator released."""
    rejected: dict[tuple[str, Side], float] = field(default_factory=dict)
    """Held deletes that the operator refused: key, side of the delete, and when."""
    concerned: dict[str, float] = field(default_factory=dict)
    """Keys of which the state lost something, and when it last did."""
    lost_at: float | None = None
    """When the state last lost anything."""
    late: set[str] = field(default_factory=set)
    """Keys that a process created which no longer held the lease."""
    undone: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    """Of a key in a read-only zone the versions that the engine has undone."""
    user_acts: Counter[tuple[Side, str]] = field(default_factory=Counter)
    gone: dict[tuple[Side, str], float] = field(default_factory=dict)
    """When a user last deleted the key on that side."""
    wrote: Callable[[Side, str, _Object | None, _Object | None], None] = field(default=lambda *_: None)
    """Told of the engine's writes first (claims.Claims)."""
    rewritten: set[tuple[Side, str, str]] = field(default_factory=set)
    """Side, key and ETag of what users wrote once more."""
    values: dict[tuple[str, Value], list[Write]] = field(default_factory=dict)
    embodied: dict[tuple[Side, str], list[Write]] = field(default_factory=dict)
    """The users' writes that an object stands for."""
    deleted_by_engine: dict[tuple[Side, str], tuple[int, float]] = field(default_factory=dict)
    """Last delete of a key by the engine: time in its event, virtual time."""
    retried: Counter[str] = field(default_factory=Counter)
    """How often the operator tried a parked key again: each time it may be put back once more."""
    delete_times: dict[tuple[Side, str], list[int]] = field(default_factory=dict)

    def fail(self, what: str) -> None:
        """Note a violation once."""
        if what not in self.violations:
            self.violations.append(what)

    @property
    def state_lost(self) -> bool:
        """Whether the state ever lost anything."""
        return self.lost_at is not None

    def lost(self, keys: set[str]) -> None:
        """The state lost what it knew of *keys*, and who had been granted what."""
        self.lost_at = asyncio.get_running_loop().time()
        self.concerned.update(dict.fromkeys(keys, self.lost_at))
        self.deletes.clear()

    # ------------------------------------------------------------------------------------------------------------ writes

    def acknowledged(self, side: Side, key: str, held: _Object, number: int, base: Base | None) -> None:
        """A user's write was answered; *base* is what was agreed then."""
        write = Write(
            number,
            side,
            key,
            value_of(held),
            {held.etag: [self._true_us(side, held)]},
            asyncio.get_running_loop().time(),
            self.servers[side].clock.now_us(),
            held.metadata,
        )
        if base is not None and base.live:
            same = base.md5 == md5_of(held.data)
            write.agreed_again = same and base.metadata_digest == agreed_digest(held.metadata)
        self.writes.append(write)
        self.values.setdefault((key, write.value), []).append(write)
        self.embodied[side, key] = [write]
        self.equal(key)

    def _true_us(self, side: Side, held: _Object) -> int:
        """When it was written: now, unless its own time says that it is older (an NFS rename keeps the time)."""
        clock = self.servers[side].clock
        now_us = clock.now_us()
        return (now_us if now_us - held.modified.at_us < SECOND_US else held.modified.at_us) - clock.ahead_us()

    def superseding(self, side: Side, key: str, held: _Object | None, *, how: str, base: Base | None) -> None:
        """A user on *side* overwrites or deletes *held*."""
        if how == "delete":
            self.gone[side, key] = asyncio.get_running_loop().time()
            true_us = self.servers[side].clock.now_us() - self.servers[side].clock.ahead_us()
            self.delete_times.setdefault((side, key), []).append(true_us)
        if held is None:
            return
        for write in self.embodied.pop((side, key), []):
            if write.side is not side and not self.script.mode.writable(side):
                continue  # what is done to the master's copy in a read-only zone does not count
            write.superseded = f"{how} on {side}"
            # Nobody but the user can know that he saw our copy, if it went before we had recorded it (no base, no delete).
            agreed = base if base is not None and base.live else Base()
            unrecorded = agreed.etag(side) != held.etag and (how == "delete" or write.side is not side)
            # Metadata changes under VAST's ETag: as long as it is not agreed on, our copy may be a user's (docs/adr/0009, Known).
            unrecorded |= agreed.etag(side) == held.etag and agreed.metadata_digest != agreed_digest(held.metadata)
            unrecorded = unrecorded and self._may_be_copied(side, key, held)
            # Nor can he have seen what the other side's user wrote and we had not agreed on, be it the same bytes.
            write.unagreed = unrecorded or (write.side is not side and agreed.etag(write.side) not in write.etags)

    def _may_be_copied(self, side: Side, key: str, held: _Object) -> bool:
        """Whether a copy of *held* is on the other side, or on its way there."""
        there = self.servers[side.other].objects.get(key)
        return key in self.known()._dirty or (there is not None and value_of(there) == value_of(held))

    def raced(self, side: Side, key: str) -> None:
        """A write came between look and unconditional write, where the server honours no condition (design, rule 5)."""
        for write in self.embodied.get((side, key), []):
            write.raced = True

    def is_equal(self, key: str) -> bool:
        """Whether both sides hold one value and the header that goes with it, or neither any."""
        held = [server.objects.get(key) for server in self.servers.values()]
        return len({(value_of(one), one.metadata.content_type) if one is not None else None for one in held}) == 1

    def equal(self, key: str) -> None:
        """Where both sides hold one value, each stands for the other's writes too: that is what adopting means."""
        if self.is_equal(key) and key in self.servers[Side.BLOB].objects:
            both = {id(write): write for side in Side for write in self.embodied.get((side, key), [])}
            for side in Side:
                self.embodied[side, key] = list(both.values())

    def engine_changed(self, side: Side, key: str, before: _Object | None, after: _Object | None) -> None:
        """The engine wrote or deleted something of the users' namespace."""
        self._unseen_race(side, key, before)
        self.wrote(side, key, before, after)
        replaced = self.embodied.pop((side, key), [])
        if before is not None and replaced and all(write.side is side for write in replaced):
            self._undone(side, key, before, after)
        if after is None:
            self._permitted(side, key, foreign=any(write.side is side for write in replaced))
        elif before is not None:
            self._kept_what_did_not_fit(side, key, before, after)
        if after is None:
            self._guarded(side, key)
            return
        for write in replaced:
            write.gave_way = write.agreed_again  # a change on the other side goes before what is as agreed (docs/consistency.md)
        self.embodied[side, key] = list(self.values.get((key, value_of(after)), []))
        if (key, value_of(after)) not in self.values:
            part = " (a part of a file)" * ((key, after.data) in self.partial)
            self.fail(f"the engine wrote {value_of(after)!r} to {side}:{key}, which no user wrote{part}")

    def _unseen_race(self, side: Side, key: str, before: _Object | None) -> None:
        """Under the ETag that was looked at, other metadata is there now: no condition on an S3 ETag sees that (ADR 0001)."""
        looked_at, etag = self.servers[side].looked.get((key, asyncio.current_task()), (0.0, ""))
        if side is not Side.VAST or before is None or before.etag != etag:
            return
        for write in self.embodied.get((side, key), []):
            if write.side is side and looked_at < write.when:
                write.raced = True

    def _guarded(self, side: Side, key: str) -> None:
        """A delete by the engine: within the budget (rule 8)."""
        now = asyncio.get_running_loop().time()
        self.deleted_by_engine[side, key] = self.servers[side].clock.now_us(), now
        if key not in self.released:
            # A second delete of one key costs nothing more.
            self.deletes = {one: at for one, at in self.deletes.items() if at > now - BUDGET_SECONDS} | {(side, key): now}
            granted_before = self.lost_at is not None and now < self.lost_at + GRANTED_SECONDS
            if len(self.deletes) > self.script.delete_budget and not granted_before:
                self.fail(f"{len(self.deletes)} deletes within {BUDGET_SECONDS:g} s, {self.script.delete_budget} allowed")

    def _undone(self, side: Side, key: str, before: _Object, after: _Object | None) -> None:
        """A write in a read-only zone is undone: no more often than the settings say, within the hour that a world lasts."""
        if self.script.mode.writable(side) or self.state_lost or (after is None and (side.other, key) in self.gone):
            return
        if after is not None and value_of(after) == value_of(before):
            return
        undone = self.undone.setdefault(key, set())
        undone.add((before.etag, before.modified.at_us))
        allowed = self.script.revert_limit + self.retried[key]
        if len(undone) > allowed:
            self.fail(f"{side}:{key} was put back {len(undone)} times, {allowed} are allowed")

    def _permitted(self, side: Side, key: str, *, foreign: bool) -> None:
        """A delete by the engine: one that the settings and the operator allow."""
        # Without stamps, or after the records went back, our own copy in a zone looks like its users'.
        foreign = foreign or not self.script.stamps or key in self.concerned
        removal = foreign and not self.script.mode.writable(side) and self.script.foreign is Foreign.PRESERVE_AND_REMOVE
        if not removal and not any((one, key) in self.gone for one in Side):
            self.fail(f"{side}:{key} was deleted, which no user has deleted on either side")
        if side in self.script.deletes_ignored and not removal:
            self.fail(f"a delete was carried to {side}:{key}, where deletes are ignored")
        refused = self.rejected.get((key, side))
        if refused is not None and max(self.gone.get((side.other, key), -1.0), self.gone.get((side, key), -1.0)) < refused:
            self.fail(f"the delete of {side}:{key} was carried out although the operator rejected it")

    def _kept_what_did_not_fit(self, side: Side, key: str, before: _Object, after: _Object) -> None:
        """What VAST could not take of Blob's metadata is not erased by what comes back from there, or it is preserved."""
        if side is not Side.BLOB or not has_big(before) or has_big(after) or key in self.concerned:
            return
        names = [name for name in self.servers[side].objects if name.startswith(f"{CONFLICTS_PREFIX}{key}~")]
        kept = [one for name in names if (one := kept_as(self.servers[side], name)) is not None]
        copied = any((one.data, one.metadata.user) == (before.data, before.metadata.user) for one in kept)
        lost = [one.loser_metadata for one in self.known()._conflicts.values() if one.key == key]
        # The headers may be new already: Blob takes metadata in two requests.
        if not copied and not any(one.user == before.metadata.user for one in lost if one is not None):
            self.fail(f"metadata that VAST could not take was erased on {side}:{key}")

    def again(self, side: Side, key: str, held: _Object) -> None:
        """A user wrote or touched what is there: the same version, later, and his own if it was our copy."""
        self.rewritten.add((side, key, held.etag))
        for write in self.embodied.get((side, key), []):
            if write.side is side:
                write.etags.setdefault(held.etag, []).append(self._true_us(side, held))

    # ----------------------------------------------------------------------------------------------------------- the end

    def settle_accounts(self, state: MemoryState) -> None:
        """At rest: both sides equal, every write accounted for, every winner right."""
        conflicts = list(state._conflicts.values())
        keys = {write.key for write in self.writes} | {key for server in self.servers.values() for key in server.objects}
        for key in sorted(keys):
            if not key.startswith(".federation/"):
                self._key(key, state, [record for record in conflicts if record.key == key])
        for record in conflicts:
            self._winner(record)

    def _key(self, key: str, state: MemoryState, records: list[ConflictRecord]) -> None:
        held = {side: server.objects.get(key) for side, server in self.servers.items()}
        now = {side: value_of(one) if one is not None else None for side, one in held.items()}
        parked = state._parked.get(key)
        told_off = parked is not None and parked.reason == "revert_limit"
        if told_off:
            self._told_off(key)
        kept = self.kept_alone(key, now) or told_off
        if now[Side.BLOB] != now[Side.VAST] and not kept:
            self.fail(f"not equal: {key}: blob {now[Side.BLOB]!r}, vast {now[Side.VAST]!r}")
        gone = all(value is None for value in now.values())
        for write in (one for one in self.writes if one.key == key and not one.superseded and not one.raced):
            if write.gave_way or (write.agreed_again and not (gone and write.side is Side.BLOB)):
                continue  # what a peer's user changed, he had seen; but an older delete may not take it along
            current = write.value in now.values() if kept else all(value == write.value for value in now.values())
            if not current and not self._preserved(write, records) and not self._only_in_the_state(write):
                self.fail(f"lost: #{write.number} {write.value!r} of {write.side}:{key}; now {now!r}")
        refused = max((at for (name, _), at in self.rejected.items() if name == key), default=None)
        if gone and refused is not None and not any(at >= refused for (_, name), at in self.gone.items() if name == key):
            self.fail(f"the delete of {key} was rejected, and the object is gone")
        self._resurrected(key, now)

    def _told_off(self, key: str) -> None:
        """Parked for being put back too often: somebody must have changed it more often than that, in a read-only zone."""
        zones = [side for side in Side if not self.script.mode.writable(side)]
        if key in self.concerned:
            return  # to a base that went back in time our own delete in the zone is its users'
        if not any(self.user_acts[zone, key] > self.script.revert_limit for zone in zones):
            self.fail(f"parked as put back too often, which it was not: {key}")

    def kept_alone(self, key: str, now: dict[Side, Value | None]) -> bool:
        """One side may hold what the other does not: where deletes are ignored, and what a read-only zone's users made."""
        present = [side for side in Side if now[side] is not None]
        if len(present) != 1:
            return False
        [side] = present
        mode, value = self.script.mode, now[side]
        first = min((write.when for write in self.values.get((key, value or (b"", ())), [])), default=0.0)
        gone = self.gone.get((side.other, key), -1.0)
        # Where the side may be written to, what was written after the delete travels; in a read-only zone it stays beside it.
        if side in self.script.deletes_ignored and mode.writable(side.other) and gone >= (first if mode.writable(side) else 0.0):
            return True
        if mode.writable(side):
            return False
        foreign = key in self.concerned or any(write.side is side for write in self.embodied.get((side, key), []))
        return foreign and (self.script.foreign is Foreign.KEEP or (key, side) in self.rejected)

    def _preserved(self, write: Write, records: list[ConflictRecord]) -> bool:
        content, metadata = write.value
        for record in records:
            if record.preserved_as:
                kept = kept_as(self.servers[record.loser_side], record.preserved_as)
                if kept is not None and value_of(kept) == write.value:
                    return True
            elif record.loser_metadata is not None and plain(record.loser_metadata) == metadata:
                md5 = md5_of(content)
                same = [one.value[1] for one in self.writes if (one.key, one.value[0]) == (write.key, content)]
                if set(same) - {metadata} or record.loser_etag == md5:
                    return True
        return False

    def _only_in_the_state(self, write: Write) -> bool:
        """Metadata that lost to equal content is kept in the conflict's record alone: it goes with the state.

        And to a base that went back in time a content of old is the agreed one, however new it is.
        """
        twins = [one for one in self.writes if one.key == write.key and one.value[0] == write.value[0] and one is not write]
        return write.key in self.concerned and bool(twins)

    def _resurrected(self, key: str, now: dict[Side, Value | None]) -> None:
        value = now[Side.BLOB]
        if key in self.concerned or not self.script.stamps or value is None or value != now[Side.VAST]:
            return
        if key in self.late or any(name == key for name, _ in self.rejected):
            return
        writes = self.values.get((key, value), [])
        if writes and all(one.superseded and not one.unagreed and not one.raced for one in writes):
            self.fail(f"came back: {key}: {value!r}, superseded by {writes[-1].superseded}")

    def _winner(self, record: ConflictRecord) -> None:
        """The oracle's own rule: who wrote clearly later must not lose."""
        if record.preserved_as and kept_as(self.servers[record.loser_side], record.preserved_as) is None:
            self.fail(f"conflict {record.key}: the preserved copy {record.preserved_as} is not there")
        if self.script.mode is not Mode.TWO_WAY:
            if not self.script.mode.writable(record.winner_side):
                self.fail(f"conflict {record.key}: the read-only zone won")
            return
        if is_false(self, record):
            self.fail(f"false conflict: {record.key}: no user wrote {record.loser_etag} on {record.loser_side} ({record.reason})")
        losses = self._written(record.key, record.loser_side, record.loser_etag)
        wins = self._written(record.key, record.winner_side, record.winner_etag)
        if not record.winner_etag:
            wins = self.delete_times.get((record.winner_side, record.key), [])
        if not losses or not wins:
            return
        apart_us, once = min(losses) - max(wins), len(losses) == len(wins) == 1
        tied = once and abs(apart_us) < SURE_TIE_US and record.winner_etag
        if tied and record.winner_side is not self.script.tie_winner:
            self.fail(f"wrong winner of a tie: {record.key}: {record.winner_side} ({record.reason})")
        if apart_us > LWW_SLACK_US:
            later = f"{record.loser_side} wrote {apart_us / 1e6:.1f} s later and lost"
            self.fail(f"wrong winner: {record.key}: {later} ({record.reason})")

    def _written(self, key: str, side: Side, etag: str) -> list[int]:
        """When users wrote what *side* held under *etag*; empty when that cannot be told for sure."""
        found = [one.etags[etag] for one in self.writes if (one.key, one.side) == (key, side) and etag in one.etags]
        return found[0] if len(found) == 1 else []
