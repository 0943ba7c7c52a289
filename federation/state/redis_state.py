"""``ports.State`` in Redis: marks, leases, claims and settles, each one atomic script on one hash tag (design 5)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from federation.errors import LeaseLost, UsageError
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
from federation.state.faults import redis_faults
from federation.state.layout import Layout
from federation.state.records import key_digest, pack_base, pack_changes, unpack_base, unpack_hint
from federation.state.redis_records import RecordQueries
from federation.state.redis_transfers import RedisTransfers

SCHEMA = 1
RENAME_INDEX_FIELDS = 1_024
"""Contents remembered per shard and window; past it renames are called deletes, so their number is a lower bound."""
DEFAULT_BUCKETS = 160
"""Base hashes per shard: with 64 shards about 100 records each at a million objects, the compact encoding's limit being 128."""

_MARK_KEYS = ("due", "since:blob", "since:vast", "hint", "claimed", "parked", "seq")


@cache
def script(name: str) -> str:
    """The text of ``scripts/<name>.lua``."""
    return resources.files("federation.state").joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


class RedisState(RecordQueries, RedisTransfers):
    """Progress of one pair. Queries and records of the pair are in ``RecordQueries``."""

    def __init__(self, client: Redis, pair: str, *, shards: int, clock: Clock, buckets: int = DEFAULT_BUCKETS) -> None:
        super().__init__(client, Layout(pair, shards, buckets))
        self.shards = shards
        self._clock = clock
        names = (
            "mark",
            "claim",
            "settle",
            "defer",
            "take_off",
            "intend",
            "acquire",
            "renew",
            "judge",
            "reserve",
            "move_cursor",
            "own",
            "forget",
            "forget_bases",
            "reclaim",
            "rename",
            "bury",
            "transfer",
            "part",
        )
        self._scripts = {name: client.register_script(script(name)) for name in names}

    async def open(self, *, create: bool = True) -> bool:
        """As in the port. Raises UsageError when the state was made by another layout or a newer program."""
        meta = self._layout.of_pair("meta")
        want: dict[Any, Any] = {"schema": SCHEMA, "shards": self.shards, "buckets": self._layout.buckets}
        with redis_faults():
            if not create and not await self._redis.exists(meta):
                return False
            new = await self._redis.hsetnx(meta, "epoch", secrets.token_hex(8))
            if new:
                await self._redis.hset(meta, mapping=want | {"created_us": self._clock.now_us()})
                return False
            held: dict[Any, Any] = await self._redis.hgetall(meta)
        found = {name.decode(): value.decode() for name, value in held.items()}
        self._check_meta(found, want)
        return True

    def _check_meta(self, found: dict[str, str], want: dict[Any, Any]) -> None:
        for name, value in want.items():
            # An opener that died between its two steps left only the epoch: the values are ours to assume.
            if int(found.get(name, value)) != value:
                raise UsageError(
                    f"The state of pair {self._layout.pair!r} in Redis has {name}={found[name]}, this program wants {value}. "
                    + ("Use the fedplane version that made it." if name == "schema" else f"Set worker.{name} to {found[name]}.")
                    + " Or empty the state; nothing is deleted by that, equal objects are adopted again.",
                    reason="state_layout",
                )

    async def close(self) -> None:
        """Release connections."""
        await self._redis.aclose()

    async def _run(self, name: str, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401 - Redis' own reply types
        with redis_faults():
            return await self._scripts[name](keys=keys, args=args)

    async def _run_all(self, name: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[int]:
        """The replies of one script run with each of *calls*, in one round trip. What failed may have run or not."""
        with redis_faults():
            replies = await self._send(name, calls)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                # A server that was restarted or replaced; whatever ran already has the same effect again.
                await self._redis.script_load(script(name))
                replies = await self._send(name, calls)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    async def _send(self, name: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for keys, args in calls:
                pipe.evalsha(self._scripts[name].sha, len(keys), *keys, *args)
            return await pipe.execute(raise_on_error=False)

    async def _run_leased(self, name: str, lease: Lease, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401
        reply = await self._run(name, [self._layout.of_shard(lease.shard, "lease"), *keys], [lease.token, *args])
        if reply is None:
            raise LeaseLost(f"shard {lease.shard} belongs to another worker", reason="lease_lost")
        return reply

    # ------------------------------------------------------------------------------------------------------------- marks

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port."""
        by_shard: dict[int, list[Change]] = {}
        for change in changes:
            by_shard.setdefault(self.shard_of(change.key), []).append(change)
        calls = [self._marking(shard, batch) for shard, batch in by_shard.items()]
        marked = sum(await self._run_all("mark", calls))
        return MarkResult(marked=marked, echoes=len(changes) - marked)

    def _marking(self, shard: int, batch: list[Change]) -> tuple[list[str], list[Any]]:
        keys = [self._layout.of_shard(shard, name) for name in _MARK_KEYS]
        places: dict[str, int] = {}
        buckets = [places.setdefault(self._layout.base_bucket(change.key), len(places) + 1) for change in batch]
        return [*keys, *places], [self._clock.now_us(), *pack_changes(batch, buckets)]

    # ------------------------------------------------------------------------------------------------------------ leases

    async def acquire(self, shard: int, *, owner: str, ttl_seconds: float) -> Lease | None:
        """As in the port. The owner's name is part of the token, for people who look."""
        token = f"{owner}:{secrets.token_hex(8)}"
        keys = [self._layout.of_shard(shard, name) for name in ("lease", "epoch", "due", "claimed")]
        fence = await self._run("acquire", keys, [token, _milliseconds(ttl_seconds), self._clock.now_us()])
        return None if fence is None else Lease(shard, token, int(fence))

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> bool:
        """As in the port."""
        key = self._layout.of_shard(lease.shard, "lease")
        return bool(await self._run("renew", [key], [lease.token, _milliseconds(ttl_seconds)]))

    async def release(self, lease: Lease) -> None:
        """As in the port."""
        await self._run("renew", [self._layout.of_shard(lease.shard, "lease")], [lease.token, 0])

    # -------------------------------------------------------------------------------------------------------------- work

    async def claim(self, lease: Lease, *, limit: int, now_us: int, newest: int = 0) -> list[Claim]:
        """As in the port; two round trips."""
        keys = [self._layout.of_shard(lease.shard, name) for name in ("due", "hint", "claimed")]
        reply = await self._run_leased("claim", lease, keys, [now_us, limit, newest])
        if not reply:
            return []
        names = [name.decode() for name in reply[::2]]
        with redis_faults():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hmget(self._layout.of_shard(lease.shard, "held"), names)
                pipe.hmget(self._layout.of_shard(lease.shard, "intent"), names)
                for name in names:
                    pipe.hget(self._layout.base_bucket(name), key_digest(name))
                held, intents, *bases = await pipe.execute()
        return [
            Claim(
                hint=unpack_hint(name, hint),
                base=unpack_base(base) if base else None,
                held=msgspec.json.decode(on_hold, type=Held) if on_hold else None,
                intent=unpack_base(intent) if intent else None,
            )
            for name, hint, base, on_hold, intent in zip(names, reply[1::2], bases, held, intents, strict=True)
        ]

    async def reclaim(self, lease: Lease, *, at_work: Sequence[str], now_us: int) -> int:
        """As in the port."""
        keys = [self._layout.of_shard(lease.shard, name) for name in ("due", "hint", "claimed")]
        return int(await self._run_leased("reclaim", lease, keys, [now_us, *at_work]))

    async def intend(self, lease: Lease, key: str, intent: Base) -> None:
        """As in the port."""
        await self._run_leased("intend", lease, [self._layout.of_shard(lease.shard, "intent")], [key, pack_base(intent)])

    async def settle(self, lease: Lease, key: str, generation: int, base: Base | None) -> bool:
        """As in the port."""
        names = ("due", "since:blob", "since:vast", "hint", "claimed", "held", "intent", "count")
        keys = [*(self._layout.of_shard(lease.shard, name) for name in names), self._layout.base_bucket(key)]
        record = b"" if base is None else pack_base(base)
        args = [key, generation, key_digest(key), record, self._clock.now_us()]
        return bool(await self._run_leased("settle", lease, keys, args))

    async def defer(
        self, lease: Lease, key: str, generation: int, *, not_before_us: int, error: str, count_attempt: bool = True
    ) -> None:
        """As in the port."""
        keys = [self._layout.of_shard(lease.shard, name) for name in ("due", "hint", "claimed")]
        args = [key, generation, not_before_us, error[:500], int(count_attempt), self._clock.now_us()]
        await self._run_leased("defer", lease, keys, args)

    async def park(self, lease: Lease, key: str, generation: int, *, reason: str, detail: str, now_us: int) -> None:
        """As in the port."""
        await self._take_off(lease, key, generation, "parked", msgspec.json.encode(Parked(key, reason, detail[:500], now_us)))

    async def hold(self, lease: Lease, key: str, generation: int, held: Held) -> None:
        """As in the port."""
        await self._take_off(lease, key, generation, "held", msgspec.json.encode(held))

    async def _take_off(self, lease: Lease, key: str, generation: int, to: str, record: bytes) -> None:
        names = ("due", "since:blob", "since:vast", "hint", "claimed", to)
        keys = [self._layout.of_shard(lease.shard, name) for name in names]
        await self._run_leased("take_off", lease, keys, [key, generation, record, self._clock.now_us()])

    # ------------------------------------------------------------------------------------------------- an operator's word

    async def unpark(self, keys: Sequence[str], *, now_us: int) -> int:
        """As in the port; the mark itself takes the key off the parked list."""
        del now_us
        wanted = set(keys)
        known = [parked.key for parked in await self.parked() if parked.key in wanted]
        await self.mark([Change(key, side, Source.OPERATOR) for key in known for side in Side])
        return len(known)

    async def judge(self, keys: Sequence[str], *, verdict: str, now_us: int) -> int:
        """As in the port."""
        del now_us
        judged = []
        for key in keys:
            held = self._layout.of_shard(self.shard_of(key), "held")
            with redis_faults():
                record = await self._redis.hget(held, key)
            if record is None:
                continue
            new = replace(msgspec.json.decode(record, type=Held), verdict=verdict)
            if await self._run("judge", [held], [key, record, msgspec.json.encode(new)]):
                judged.append(key)
        await self.mark([Change(key, side, Source.OPERATOR) for key in judged for side in Side])
        return len(judged)

    async def forget_tombstones(self, shard: int, *, before_us: int) -> int:
        """As in the port; a bucket at a time, so that Redis is never busy with it for long."""
        buckets = [self._layout.of_shard(shard, f"base:{number}") for number in range(self._layout.buckets)]
        return sum([int(await self._run("forget", [bucket], [before_us])) for bucket in buckets])

    async def forget_bases(self, shard: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """As in the port."""
        by_bucket: dict[int, list[bytes]] = {}
        for digest, record in records:
            by_bucket.setdefault(int.from_bytes(digest[:4], "big") % self._layout.buckets, []).extend((digest, record))
        count = self._layout.of_shard(shard, "count")
        forgotten = 0
        for bucket, args in by_bucket.items():
            keys = [self._layout.of_shard(shard, f"base:{bucket}"), count]
            for at in range(0, len(args), 1_000):
                forgotten += int(await self._run("forget_bases", keys, args[at : at + 1_000]))
        return forgotten

    async def bury(self, letter: DeadLetter) -> None:
        """As in the port."""
        keys = [self._layout.of_pair("dead"), self._layout.of_pair("dead:tally")]
        packed = msgspec.json.encode(letter)
        await self._run("bury", keys, [packed, letter.source, letter.at_us, DEAD_LETTERS, DEAD_LETTER_BYTES])

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
        renamed: list[bytes] = await self._run("rename", [self._layout.of_shard(shard, name) for name in names], args)
        await self.remember_renames([one.decode() for one in renamed], now_us=now_us)

    async def reserve_delete(self, name: str, budget: DeleteBudget, *, objects: int, now_us: int) -> bool:
        """As in the port."""
        window_us = int(budget.window_seconds * 1_000_000)
        args = [now_us, window_us, name, budget.count, budget.share, DELETE_FLOOR, objects]
        return bool(await self._run("reserve", [self._layout.of_pair("deletes")], args))

    async def reserve_revert(self, key: str, name: str, *, limit: int, window_seconds: float, now_us: int) -> bool:
        """As in the port; a budget of its own for each key that somebody contests, gone with its window."""
        reverts = self._layout.of_shard(self.shard_of(key), f"reverts:{key_digest(key).hex()}")
        args = [now_us, int(window_seconds * 1_000_000), name, limit, 0, limit, 0]
        return bool(await self._run("reserve", [reverts], args))

    async def own(self, task: str, *, owner: str, ttl_seconds: float) -> bool:
        """As in the port."""
        return bool(await self._run("own", [self._layout.of_pair("owners")], [task, owner, _milliseconds(ttl_seconds)]))

    async def disown(self, task: str, *, owner: str) -> None:
        """As in the port."""
        await self._run("own", [self._layout.of_pair("owners")], [task, owner, 0])

    async def move_cursor(self, source: str, old: Cursor | None, new: Cursor) -> bool:
        """As in the port."""
        before = b"" if old is None else msgspec.json.encode(old)
        key = self._layout.of_pair(f"cursor:{source}")
        return bool(await self._run("move_cursor", [key], [before, msgspec.json.encode(new)]))


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1_000))
