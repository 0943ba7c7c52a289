"""``ports.State`` in Redis: marks, leases, claims and settles, each one atomic script on one hash tag (design 5)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import msgspec

from federation.errors import LeaseLost
from federation.model import Base, Change, Side, Source
from federation.ports import Clock
from federation.progress import (
    DEAD_LETTER_BYTES,
    DEAD_LETTERS,
    RENAME_WINDOW_SECONDS,
    Claim,
    Cursor,
    DeadLetter,
    DeleteBudget,
    Held,
    Lease,
    MarkResult,
    Parked,
)
from federation.rules.guards import DELETE_FLOOR
from federation.settings import WorkerSettings
from federation.state.calls import Call, Client
from federation.state.damaged import DAMAGED, DamagedRecord, unpack_claim
from federation.state.layout import Layout
from federation.state.marks import Marks
from federation.state.records import key_digest, pack_base, pack_changes, split_record
from federation.state.redis_records import RecordQueries
from federation.state.redis_transfers import RedisTransfers
from federation.state.schema import open_layout
from federation.state.settling import Ended, Replies, Settling

RENAME_INDEX_FIELDS = 1_024
"""Contents remembered per shard and window; past it renames are called deletes, so their number is a lower bound."""
DEFAULT_BUCKETS = WorkerSettings().buckets

_MARK_KEYS = ("due", "since:blob", "since:vast", "hint", "claimed", "parked", "seq", "marks")
_SETTLE_KEYS = ("lease", "due", "since:blob", "since:vast", "hint", "claimed", "held", "intent", "count")
_MARKS_A_CALL = 1_000
_JUDGED_AT_ONCE = 1_000
_TRIPS, _MARKS_A_TRIP = 4, 250
"""Round trips of one batch at a time, at most; each with so many marks, about."""


class RedisState(RecordQueries, RedisTransfers):
    """Progress of one pair. Queries and records of the pair are in ``RecordQueries``.

    *marker*: a name no other process has, for one that lives on to notice that its marks were lost (``marks.py``).
    """

    def __init__(
        self, client: Client, pair: str, *, shards: int, clock: Clock, buckets: int = DEFAULT_BUCKETS, marker: str = ""
    ) -> None:
        super().__init__(client, Layout(pair, shards, buckets))
        self._marks = Marks(self.calls, self.layout, marker)
        self.shards = shards
        self.ahead_us = dict.fromkeys(Side, 0)
        self._clock = clock
        self._settling = Settling(self._settle_all)

    async def open(self, *, create: bool = True) -> bool:
        """As in the port. Raises UsageError when the state was made by another layout or a newer program."""
        return await open_layout(self.calls, self.layout, create=create, now_us=self._clock.now_us())

    async def close(self) -> None:
        """Release connections."""
        await self._settling.close()
        await self._redis.aclose()

    async def _run_leased(self, name: str, lease: Lease, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401
        reply = await self.calls.run(name, [self.layout.of_shard(lease.shard, "lease"), *keys], [lease.token, *args])
        if reply is None:
            raise _lost(lease)
        return reply

    # ------------------------------------------------------------------------------------------------------------- marks

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port. Large batches go in some round trips at a time: Redis works on one while the next is packed."""
        by_shard: dict[int, list[tuple[Change, bytes]]] = {}
        for change in changes:
            digest = key_digest(change.key)
            by_shard.setdefault(self.layout.shard_of_digest(digest), []).append((change, digest))
        now = self._clock.now_us()
        parts = [
            (shard, batch[at : at + _MARKS_A_CALL])
            for shard, batch in by_shard.items()
            for at in range(0, len(batch), _MARKS_A_CALL)
        ]
        share = -(-len(parts) // max(1, min(_TRIPS, len(changes) // _MARKS_A_TRIP))) or 1
        trips = [self._mark(parts[at : at + share], now) for at in range(0, len(parts), share)]
        told = await asyncio.gather(*trips, return_exceptions=True)
        for one in told:
            if isinstance(one, BaseException):
                raise one
        marked = sum(one for one in told if isinstance(one, int))
        return MarkResult(marked=marked, echoes=len(changes) - marked)

    async def _mark(self, parts: Sequence[tuple[int, list[tuple[Change, bytes]]]], now: int) -> int:
        known = [self._marks.sent(shard) for shard, _ in parts]
        counts = [0] * len(parts)
        try:
            calls = [self._marking(shard, part, now, least) for (shard, part), least in zip(parts, known, strict=True)]
            replies = await self.calls.run_all("mark", calls)
            counts = [reply[1] for reply in replies]
        finally:
            for (shard, _), least, count in zip(parts, known, counts, strict=True):
                self._marks.ended(shard, least, count)
        return sum(reply[0] for reply in replies)

    def _marking(self, shard: int, batch: list[tuple[Change, bytes]], now: int, known: int) -> Call:
        keys = [self.layout.of_shard(shard, name) for name in _MARK_KEYS]
        places: dict[str, int] = {}
        buckets = [places.setdefault(self.layout.bucket_of_digest(digest), len(places) + 1) for _, digest in batch]
        now_of = [now + self.ahead_us[side] for side in (Side.BLOB, Side.VAST)]
        return [*keys, *places], [now, self._marks.marker, *pack_changes(batch, buckets), *now_of, known]

    # ------------------------------------------------------------------------------------------------------------ leases

    async def acquire(self, shard: int, *, owner: str, ttl_seconds: float) -> Lease | None:
        """As in the port. The owner's name is part of the token, for people who look."""
        token = f"{owner}:{secrets.token_hex(8)}"
        keys = [self.layout.of_shard(shard, name) for name in ("lease", "epoch", "due", "claimed")]
        fence = await self.calls.run("acquire", keys, [token, _milliseconds(ttl_seconds), self._clock.now_us()])
        return None if fence is None else Lease(shard, token, int(fence))

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> bool:
        """As in the port."""
        key = self.layout.of_shard(lease.shard, "lease")
        return bool(await self.calls.run("renew", [key], [lease.token, _milliseconds(ttl_seconds)]))

    async def release(self, lease: Lease) -> None:
        """As in the port."""
        await self.calls.run("renew", [self.layout.of_shard(lease.shard, "lease")], [lease.token, 0])

    # -------------------------------------------------------------------------------------------------------------- work

    async def claim(self, lease: Lease, *, limit: int, now_us: int, newest: int = 0, from_us: int = 0) -> list[Claim]:
        """As in the port; two round trips."""
        keys = [self.layout.of_shard(lease.shard, name) for name in ("due", "hint", "claimed")]
        reply = await self._run_leased("claim", lease, keys, [now_us, limit, newest, from_us])
        if not reply:
            return []
        names = [name.decode() for name in reply[::2]]
        claims = []
        for name, hint, known in zip(names, reply[1::2], await self._look(names), strict=True):
            try:
                claims.append(unpack_claim(name, hint, *known))
            except DamagedRecord as error:
                await self._park_damaged(lease, name, error, now_us)
        return claims

    async def _park_damaged(self, lease: Lease, key: str, error: DamagedRecord, now_us: int) -> None:
        """Until a person acts: a record that cannot be read is neither a base nor none, and nothing may be decided by it."""
        [claimed] = await self.calls.pipe([("HGET", self._of(key, "claimed"), key)])
        detail = f"{error} {error.removal(self.layout, key)}".strip()
        await self.park(lease, key, int(claimed or 0), reason=DAMAGED, detail=detail, now_us=now_us)

    async def reclaim(self, lease: Lease, *, at_work: Sequence[str], now_us: int) -> int:
        """As in the port."""
        keys = [self.layout.of_shard(lease.shard, name) for name in ("due", "hint", "claimed")]
        return int(await self._run_leased("reclaim", lease, keys, [now_us, *at_work]))

    async def intend(self, lease: Lease, key: str, intent: Base) -> None:
        """As in the port."""
        await self._run_leased("intend", lease, [self.layout.of_shard(lease.shard, "intent")], [key, pack_base(intent)])

    async def settle(self, lease: Lease, key: str, generation: int, base: Base | None) -> bool:
        """As in the port; settles that come at one time go in one round trip."""
        return await self._settling.settle(Ended(lease, key, generation, b"" if base is None else pack_base(base)))

    async def _settle_all(self, groups: Sequence[Sequence[Ended]]) -> Replies:
        replies = await self.calls.run_all("settle", [self._ending(group) for group in groups])
        return [_lost(group[0].lease) if reply is None else reply for group, reply in zip(groups, replies, strict=True)]

    def _ending(self, group: Sequence[Ended]) -> Call:
        lease = group[0].lease
        keys = [self.layout.of_shard(lease.shard, name) for name in _SETTLE_KEYS]
        places: dict[str, int] = {}
        args: list[Any] = [lease.token, self._clock.now_us()]
        for one in group:
            digest = key_digest(one.key)
            bucket = places.setdefault(self.layout.bucket_of_digest(digest), len(places) + 1)
            args += [one.key, one.generation, digest, *split_record(one.record), bucket]
        return [*keys, *places], args

    async def defer(
        self, lease: Lease, key: str, generation: int, *, not_before_us: int, error: str, count_attempt: bool = True
    ) -> None:
        """As in the port."""
        keys = [self.layout.of_shard(lease.shard, name) for name in ("due", "hint", "claimed", "seq")]
        args = [key, generation, not_before_us, error[:500], int(count_attempt), self._clock.now_us()]
        await self._run_leased("defer", lease, keys, args)

    async def park(self, lease: Lease, key: str, generation: int, *, reason: str, detail: str, now_us: int) -> None:
        """As in the port."""
        await self._take_off(lease, key, generation, "parked", msgspec.json.encode(Parked(key, reason, detail[:5_000], now_us)))

    async def hold(self, lease: Lease, key: str, generation: int, held: Held) -> None:
        """As in the port."""
        await self._take_off(lease, key, generation, "held", msgspec.json.encode(held))

    async def _take_off(self, lease: Lease, key: str, generation: int, to: str, record: bytes) -> None:
        names = ("due", "since:blob", "since:vast", "hint", "claimed", to)
        keys = [self.layout.of_shard(lease.shard, name) for name in names]
        await self._run_leased("take_off", lease, keys, [key, generation, record, self._clock.now_us()])

    # ------------------------------------------------------------------------------------------------- an operator's word

    async def unpark(self, keys: Sequence[str], *, now_us: int) -> int:
        """As in the port; the mark itself takes the key off the parked list. Two round trips for a thousand keys."""
        del now_us
        wanted, unparked = list(dict.fromkeys(keys)), 0
        for at in range(0, len(wanted), _JUDGED_AT_ONCE):
            piece = wanted[at : at + _JUDGED_AT_ONCE]
            there = await self.calls.pipe([("HEXISTS", self._of(key, "parked"), key) for key in piece])
            await self.mark([Change(key, side, Source.OPERATOR) for key in compress(piece, there) for side in Side])
            unparked += sum(map(bool, there))
        return unparked

    async def judge(self, keys: Sequence[str], *, verdict: str, now_us: int) -> int:
        """As in the port; three round trips for a thousand keys, which are judged and marked before the next are looked at."""
        del now_us
        wanted, judged = list(dict.fromkeys(keys)), 0
        for at in range(0, len(wanted), _JUDGED_AT_ONCE):
            judged += await self._judge(wanted[at : at + _JUDGED_AT_ONCE], verdict)
        return judged

    async def _judge(self, keys: Sequence[str], verdict: str) -> int:
        known = [(key, packed) for key, packed in zip(keys, await self._held_of(keys), strict=True) if packed is not None]
        news = [msgspec.json.encode(replace(msgspec.json.decode(packed, type=Held), verdict=verdict)) for _, packed in known]
        calls = [([self._of(key, "held")], [key, packed, new]) for (key, packed), new in zip(known, news, strict=True)]
        done = await self.calls.run_all("replace", calls)
        judged = [key for (key, _), one in zip(known, done, strict=True) if one]
        await self.mark([Change(key, side, Source.OPERATOR) for key in judged for side in Side])
        return len(judged)

    async def forget_tombstones(self, shard: int, *, before_us: int) -> int:
        """As in the port; a bucket at a time, so that Redis is never busy with it for long."""
        buckets = self.layout.buckets_of(shard)
        return sum([int(await self.calls.run("forget", [bucket], [before_us])) for bucket in buckets])

    async def forget_bases(self, shard: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """As in the port."""
        by_bucket: dict[int, list[bytes]] = {}
        for digest, record in records:
            by_bucket.setdefault(int.from_bytes(digest[:4], "big") % self.layout.buckets, []).extend((digest, record))
        count = self.layout.of_shard(shard, "count")
        forgotten = 0
        for bucket, args in by_bucket.items():
            keys = [self.layout.buckets_of(shard)[bucket], count]
            for at in range(0, len(args), 1_000):
                forgotten += int(await self.calls.run("forget_bases", keys, args[at : at + 1_000]))
        return forgotten

    async def bury(self, letter: DeadLetter) -> None:
        """As in the port."""
        keys = [self.layout.of_pair("dead"), self.layout.of_pair("dead:tally")]
        packed = msgspec.json.encode(letter)
        await self.calls.run("bury", keys, [packed, letter.source, letter.at_us, DEAD_LETTERS, DEAD_LETTER_BYTES])

    async def note_created(self, key: str, content: str, *, now_us: int) -> None:
        """As in the port."""
        await self._note_half("created", "deleted", key, content, now_us)

    async def note_deleted(self, key: str, content: str, *, now_us: int) -> None:
        """As in the port."""
        await self._note_half("deleted", "created", key, content, now_us)

    async def _note_half(self, half: str, other: str, key: str, content: str, now_us: int) -> None:
        """The index is spread over the shards by content, and ends by itself after two windows."""
        window, shard = now_us // (RENAME_WINDOW_SECONDS * 1_000_000), self.shard_of(content)
        names = (f"{half}:{window}", f"{other}:{window}", f"{other}:{window - 1}")
        args = [content, key, half, RENAME_INDEX_FIELDS, 2 * RENAME_WINDOW_SECONDS * 1_000]
        renamed: list[bytes] = await self.calls.run("rename", [self.layout.of_shard(shard, name) for name in names], args)
        await self.remember_renames([one.decode() for one in renamed], now_us=now_us)

    async def reserve_delete(self, name: str, budget: DeleteBudget, *, objects: int, now_us: int) -> bool:
        """As in the port."""
        window_us = int(budget.window_seconds * 1_000_000)
        args = [now_us, window_us, name, budget.count, budget.share, DELETE_FLOOR, objects]
        return bool(await self.calls.run("reserve", [self.layout.of_pair("deletes")], args))

    async def reserve_revert(self, key: str, name: str, *, limit: int, window_seconds: float, now_us: int) -> bool:
        """As in the port; a budget of its own for each key that somebody contests, gone with its window."""
        reverts = self.layout.of_shard(self.shard_of(key), f"reverts:{key_digest(key).hex()}")
        args = [now_us, int(window_seconds * 1_000_000), name, limit, 0, limit, 0]
        return bool(await self.calls.run("reserve", [reverts], args))

    async def own(self, task: str, *, owner: str, ttl_seconds: float) -> bool:
        """As in the port."""
        return bool(await self.calls.run("own", [self.layout.of_pair("owners")], [task, owner, _milliseconds(ttl_seconds)]))

    async def disown(self, task: str, *, owner: str) -> None:
        """As in the port."""
        await self.calls.run("own", [self.layout.of_pair("owners")], [task, owner, 0])

    async def move_cursor(self, source: str, old: Cursor | None, new: Cursor) -> bool:
        """As in the port."""
        before = b"" if old is None else msgspec.json.encode(old)
        keys = [self.layout.of_pair(f"cursor:{source}"), self._marks.key]
        args = [before, msgspec.json.encode(new), source, self._marks.packed()]
        return bool(await self.calls.run("move_cursor", keys, args))

    async def drop_note(self, name: str, value: bytes) -> bool:
        """As in the port."""
        return bool(await self.calls.run("drop_note", [self.layout.of_pair("notes")], [name, value]))

    async def lost_marks(self) -> tuple[str, ...]:
        """As in the port."""
        return await self._marks.lost()

    async def accept_lost_marks(self) -> None:
        """As in the port."""
        await self._marks.accept()

    async def forget_markers(self, live: Sequence[str]) -> int:
        """As in the port."""
        return await self._marks.forget(live, self._clock.now_us())

    async def keep_marks(self, task: str) -> None:
        """As in the port."""
        await self._marks.keep(task, self._clock.now_us())

    async def drop_marks(self, task: str) -> None:
        """As in the port."""
        await self._marks.drop(task)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"shard {lease.shard} belongs to another worker", reason="lease_lost")


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1_000))
