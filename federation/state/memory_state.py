"""The in-memory twin of ``RedisState``, for unit tests and the simulation. Same contract suite."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from federation.errors import LeaseLost
from federation.model import Base, Change, Hint, Side, Source
from federation.ports import Clock
from federation.progress import SCAN_BEHIND_US, Backlog, Claim, Held, Lease, MarkResult, Parked
from federation.state.layout import Layout
from federation.state.memory_dirty import Dirty
from federation.state.memory_records import MemoryRecords
from federation.state.memory_transfers import MemoryTransfers
from federation.state.records import key_digest, pack_base


@dataclass(slots=True)
class _Owner:
    lease: Lease
    until_seconds: float


class MemoryState(MemoryRecords, MemoryTransfers):
    """``ports.State`` in plain dictionaries; lives as long as the object. *marker*: as of ``RedisState``."""

    def __init__(self, pair: str, *, shards: int, clock: Clock, marker: str = "") -> None:
        super().__init__()
        self._marker = marker
        self._transfers = {}
        self.pair = pair
        self.shards = shards
        self.ahead_us = dict.fromkeys(Side, 0)
        self._layout = Layout(pair, shards, 1)
        self._clock = clock
        self._opened = False
        self._dirty: dict[str, Dirty] = {}
        self._base: dict[str, Base] = {}
        self._intents: dict[str, Base] = {}
        self._parked: dict[str, Parked] = {}
        self._owners: dict[int, _Owner] = {}
        self._fences: dict[int, int] = {}
        self._sequences: dict[int, int] = {}

    async def open(self, *, create: bool = True) -> bool:
        """As in the port."""
        was, self._opened = self._opened, self._opened or create
        return was

    async def close(self) -> None:
        """Nothing to release."""

    def shard_of(self, key: str) -> int:
        """As in the port."""
        return self._layout.shard_of(key)

    # ------------------------------------------------------------------------------------------------------------- marks

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port."""
        marked = sum(self._mark(change) for change in changes)
        if self._marker:
            self._count_calls({self.shard_of(change.key) for change in changes})
        return MarkResult(marked=marked, echoes=len(changes) - marked)

    def _mark(self, change: Change) -> bool:
        # Of a dirty key nothing is an echo yet: its base is about to change.
        if change.key not in self._dirty and self._is_echo(change):
            return False
        now = self._clock.now_us()
        only_scan = change.source is Source.RECONCILER and change.key not in self._dirty
        dirty = self._dirty.setdefault(change.key, Dirty())
        announced = dirty.sources == {Source.RECONCILER} and change.source is not Source.RECONCILER
        if dirty.claimed == dirty.generation:
            dirty.newer_us = {}
        dirty.generation = self._next_generation(change.key)
        dirty.sources.add(change.source)
        dirty.add(change)
        # A time that its side's clock has not reached (a file's may be anything) makes nothing younger than its mark.
        marked_us = now + self.ahead_us[change.side]
        at_us = min(change.at.at_us, marked_us) if change.at is not None else marked_us
        for since_us in (dirty.since_us, dirty.newer_us):
            since_us[change.side] = min(at_us, since_us.get(change.side, at_us))
        due_us = max(now - SCAN_BEHIND_US if only_scan else now, change.not_before_us)
        if dirty.claimed:
            dirty.due_us = None
        else:
            dirty.due_us = due_us if dirty.due_us is None or announced else min(dirty.due_us, due_us)
        self._parked.pop(change.key, None)
        return True

    def _next_generation(self, key: str) -> int:
        shard = self.shard_of(key)
        self._sequences[shard] = self._sequences.get(shard, 0) + 1
        return self._sequences[shard]

    def _is_echo(self, change: Change) -> bool:
        base = self._base.get(change.key)
        if base is None:
            return False
        if base.deleted:
            return change.deleted
        if change.deleted or change.etag is None or change.etag != base.etag(change.side):
            return False
        return base.told_by(change.side, change.at)

    # ------------------------------------------------------------------------------------------------------------ leases

    async def acquire(self, shard: int, *, owner: str, ttl_seconds: float) -> Lease | None:
        """As in the port."""
        del owner
        now = self._clock.monotonic_seconds()
        current = self._owners.get(shard)
        if current is not None and current.until_seconds > now:
            return None
        self._fences[shard] = self._fences.get(shard, 0) + 1
        lease = Lease(shard=shard, token=secrets.token_hex(8), fence=self._fences[shard])
        self._owners[shard] = _Owner(lease, now + ttl_seconds)
        for key, dirty in self._dirty.items():
            if dirty.claimed and self.shard_of(key) == shard:
                dirty.claimed, dirty.due_us = 0, self._clock.now_us()
        return lease

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> bool:
        """As in the port."""
        owner = self._owners.get(lease.shard)
        now = self._clock.monotonic_seconds()
        if owner is None or owner.lease != lease or owner.until_seconds <= now:
            return False
        owner.until_seconds = now + ttl_seconds
        return True

    async def release(self, lease: Lease) -> None:
        """As in the port."""
        owner = self._owners.get(lease.shard)
        if owner is not None and owner.lease == lease:
            del self._owners[lease.shard]

    def _owned(self, lease: Lease) -> None:
        owner = self._owners.get(lease.shard)
        if owner is None or owner.lease != lease or owner.until_seconds <= self._clock.monotonic_seconds():
            raise LeaseLost(f"shard {lease.shard} belongs to another worker", reason="lease_lost")

    # -------------------------------------------------------------------------------------------------------------- work

    async def claim(self, lease: Lease, *, limit: int, now_us: int, newest: int = 0, from_us: int = 0) -> list[Claim]:
        """As in the port."""
        self._owned(lease)
        due = [
            (dirty.due_us, key)
            for key, dirty in self._dirty.items()
            if dirty.due_us is not None and from_us <= dirty.due_us <= now_us
            if not dirty.claimed and self.shard_of(key) == lease.shard
        ]
        claims = []
        ordered = sorted(due)
        oldest, rest = ordered[: limit - newest], ordered[limit - newest :]
        for _, key in oldest + rest[::-1][:newest]:
            dirty = self._dirty[key]
            dirty.claimed, dirty.due_us = dirty.generation, None
            claims.append(Claim(dirty.hint(key), self._base.get(key), self._held.get(key), self._intents.get(key)))
        return claims

    async def reclaim(self, lease: Lease, *, at_work: Sequence[str], now_us: int) -> int:
        """As in the port."""
        self._owned(lease)
        working = set(at_work)
        lost = [
            dirty
            for key, dirty in self._dirty.items()
            if dirty.claimed and key not in working and self.shard_of(key) == lease.shard
        ]
        for dirty in lost:
            dirty.claimed, dirty.due_us = 0, now_us
        return len(lost)

    async def intend(self, lease: Lease, key: str, intent: Base) -> None:
        """As in the port."""
        self._owned(lease)
        self._intents[key] = intent

    async def settle(self, lease: Lease, key: str, generation: int, base: Base | None) -> bool:
        """As in the port."""
        self._owned(lease)
        dirty = self._dirty.get(key)
        if generation and (dirty is None or dirty.claimed != generation):
            # A repeat after a lost reply: what it says was recorded, and may have been overtaken since.
            return dirty is None
        if base is None:
            self._base.pop(key, None)
        else:
            self._base[key] = base
        self._intents.pop(key, None)
        self._held.pop(key, None)
        if dirty is None or dirty.generation == generation:
            self._dirty.pop(key, None)
            return True
        self._keep_newer(dirty, generation)
        return False

    def _keep_newer(self, dirty: Dirty, generation: int) -> None:
        dirty.claimed, dirty.due_us, dirty.attempts, dirty.last_error = 0, self._clock.now_us(), 0, ""
        for side in Side:
            dirty.entries[side] = [entry for entry in dirty.entries[side] if entry.generation > generation]
        dirty.since_us = dict(dirty.newer_us)

    async def defer(
        self, lease: Lease, key: str, generation: int, *, not_before_us: int, error: str, count_attempt: bool = True
    ) -> None:
        """As in the port."""
        self._owned(lease)
        dirty = self._dirty.get(key)
        if dirty is None or dirty.claimed != generation:
            return
        dirty.claimed = 0
        dirty.due_us = not_before_us if dirty.generation == generation else min(not_before_us, self._clock.now_us())
        # The next claim is told from this one, which a repeat of this call must not take for its own.
        dirty.generation = self._next_generation(key)
        dirty.attempts += count_attempt
        dirty.last_error = error

    async def park(self, lease: Lease, key: str, generation: int, *, reason: str, detail: str, now_us: int) -> None:
        """As in the port."""
        self._owned(lease)
        if self._taken_off(key, generation):
            self._parked[key] = Parked(key, reason, detail, now_us)

    async def hold(self, lease: Lease, key: str, generation: int, held: Held) -> None:
        """As in the port."""
        self._owned(lease)
        if self._taken_off(key, generation):
            self._held[key] = held

    def _taken_off(self, key: str, generation: int) -> bool:
        dirty = self._dirty.get(key)
        if dirty is None or dirty.claimed != generation:
            return False
        if dirty.generation == generation:
            del self._dirty[key]
            return True
        dirty.claimed, dirty.due_us = 0, self._clock.now_us()
        return False

    # ----------------------------------------------------------------------------------------------------------- queries

    async def bases(self, keys: Sequence[str]) -> list[Base | None]:
        """As in the port."""
        return [self._base.get(key) for key in keys]

    async def forget_tombstones(self, shard: int, *, before_us: int) -> int:
        """As in the port."""
        old = [
            key
            for key, base in self._base.items()
            if base.deleted and base.written.at_us < before_us and self.shard_of(key) == shard
        ]
        for key in old:
            del self._base[key]
        return len(old)

    async def base_records(self, shard: int, *, cursor: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        """As in the port; all at once."""
        del cursor
        return 0, [(key_digest(key), pack_base(base)) for key, base in self._base.items() if self.shard_of(key) == shard]

    async def forget_bases(self, shard: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """As in the port."""
        seen = set(records)
        stale = [key for key, base in self._base.items() if (key_digest(key), pack_base(base)) in seen]
        for key in stale:
            if self.shard_of(key) == shard:
                del self._base[key]
        return len(stale)

    async def are_dirty(self, keys: Sequence[str]) -> list[bool]:
        """As in the port."""
        return [key in self._dirty for key in keys]

    async def are_parked(self, keys: Sequence[str]) -> list[bool]:
        """As in the port."""
        return [key in self._parked for key in keys]

    async def explain(self, key: str) -> tuple[Hint | None, Base | None, Parked | None, Held | None]:
        """As in the port."""
        dirty = self._dirty.get(key)
        hint = dirty.hint(key) if dirty is not None else None
        return hint, self._base.get(key), self._parked.get(key), self._held.get(key)

    async def backlog(self) -> Backlog:
        """As in the port."""
        since = {side: [dirty.since_us[side] for dirty in self._dirty.values() if side in dirty.since_us] for side in Side}
        return Backlog(
            dirty=len(self._dirty),
            dirty_by_side={side: len(since[side]) for side in Side},
            oldest_us_by_side={side: min(since[side], default=None) for side in Side},
            parked=len(self._parked),
            held=len(self._held),
            conflicts=len(self._conflicts),
            objects=sum(base.on_both for base in self._base.values()),
            dead=self._dead_tally(),
        )

    async def waiting(self, shards: Sequence[int] | None = None) -> dict[int, int]:
        """As in the port."""
        found: dict[int, int] = {}
        for key, dirty in self._dirty.items():
            shard = self.shard_of(key)
            if shards is None or shard in shards:
                found[shard] = min(dirty.due_us or 0, found.get(shard, dirty.due_us or 0))
        return found

    async def due_since_us(self, *, from_us: int, now_us: int) -> int | None:
        """As in the port."""
        times = (dirty.due_us for dirty in self._dirty.values())
        return min((at_us for at_us in times if at_us is not None and from_us <= at_us <= now_us), default=None)

    async def dirty_keys(self, *, limit: int) -> list[str]:
        """As in the port."""
        return list(self._dirty)[:limit]

    async def parked(self) -> list[Parked]:
        """As in the port."""
        return sorted(self._parked.values(), key=lambda one: (one.since_us, one.key))

    async def parked_records(self, shard: int, *, cursor: int) -> tuple[int, list[Parked]]:
        """As in the port; all at once."""
        del cursor
        return 0, [one for key, one in self._parked.items() if self.shard_of(key) == shard]

    async def unpark(self, keys: Sequence[str], *, now_us: int) -> int:
        """As in the port."""
        del now_us
        known = [key for key in keys if key in self._parked]
        await self.mark([Change(key, side, Source.OPERATOR) for key in known for side in Side])
        return len(known)

    async def held(self, keys: Sequence[str] | None = None) -> list[Held]:
        """As in the port."""
        found = self._held.values() if keys is None else [self._held[key] for key in set(keys) if key in self._held]
        return sorted(found, key=lambda one: (one.since_us, one.key))

    async def judge(self, keys: Sequence[str], *, verdict: str, now_us: int) -> int:
        """As in the port."""
        del now_us
        known = [key for key in dict.fromkeys(keys) if key in self._held]
        for key in known:
            self._held[key] = replace(self._held[key], verdict=verdict)
        await self.mark([Change(key, side, Source.OPERATOR) for key in known for side in Side])
        return len(known)
