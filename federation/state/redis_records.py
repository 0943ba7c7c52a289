"""The reading half of ``RedisState``, and the records of a pair: conflicts, halts, cursors, notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from federation.errors import UsageError
from federation.model import Base, Hint, Side
from federation.progress import (
    PACE_KEPT_SECONDS,
    RENAMES_KEPT,
    Backlog,
    ConflictRecord,
    Cursor,
    DeadLetter,
    DeadTally,
    DeleteBudget,
    DeleteTally,
    HaltRecord,
    Held,
    Parked,
)
from federation.state.calls import Call, Calls, Client
from federation.state.faults import redis_faults
from federation.state.layout import Layout, of_endpoint
from federation.state.lists import oldest, records
from federation.state.pieces import hash_piece, hash_pieces
from federation.state.records import PackedBases, key_digest, unpack_base, unpack_hint

_BUCKETS_AT_ONCE = 16
_DIGEST_BYTES = 16
_LOOK_AT_ONCE = 1_000
_NAME_ERRORS = "surrogateescape"
"""Names of processes that are no UTF-8 are not ours, and can be told apart and removed all the same."""
Known = tuple[bytes, bytes, bytes]


class RecordQueries:
    """See ``ports.State``; the docstrings there hold."""

    def __init__(self, client: Client, layout: Layout) -> None:
        self._redis = client
        self.calls = Calls(client)
        self.layout = layout

    def shard_of(self, key: str) -> int:
        """As in the port."""
        return self.layout.shard_of(key)

    # ----------------------------------------------------------------------------------------------------------- queries

    async def bases(self, keys: Sequence[str]) -> Sequence[Base | None]:
        """As in the port; one round trip."""
        return PackedBases([base for base, _, _ in await self._look(keys)])

    async def _look(self, keys: Sequence[str]) -> list[Known]:
        """Base record, held record and intent of each key, packed; empty where there is none."""
        by_shard: dict[int, list[tuple[int, str, bytes]]] = {}
        for at, key in enumerate(keys):
            digest = key_digest(key)
            by_shard.setdefault(self.layout.shard_of_digest(digest), []).append((at, key, digest))
        parts = [
            (shard, wanted[at : at + _LOOK_AT_ONCE])
            for shard, wanted in by_shard.items()
            for at in range(0, len(wanted), _LOOK_AT_ONCE)
        ]
        replies = await self.calls.run_all("look", [self._looking(shard, wanted) for shard, wanted in parts])
        found: list[Known] = [(b"", b"", b"")] * len(keys)
        for (_, wanted), reply in zip(parts, replies, strict=True):
            fields = _fields(reply)
            for at, _, _ in wanted:
                found[at] = (next(fields), next(fields), next(fields))
        return found

    def _looking(self, shard: int, wanted: Sequence[tuple[int, str, bytes]]) -> Call:
        places: dict[str, int] = {}
        args: list[Any] = []
        for _, key, digest in wanted:
            args += [key, digest, places.setdefault(self.layout.bucket_of_digest(digest), len(places) + 1)]
        return [self.layout.of_shard(shard, "held"), self.layout.of_shard(shard, "intent"), *places], args

    async def base_records(self, shard: int, *, cursor: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        """As in the port; a few buckets at a time. A record's second part, if it has one, is in a field one byte longer."""
        until = min(cursor + _BUCKETS_AT_ONCE, self.layout.buckets)
        found = await self.calls.pipe([("HGETALL", bucket) for bucket in self.layout.buckets_of(shard)[cursor:until]])
        fields = {name: value for bucket in found for name, value in bucket.items()}
        records = [(name, head + fields.get(name + b"+", b"")) for name, head in fields.items() if len(name) == _DIGEST_BYTES]
        return until % self.layout.buckets, records

    async def are_dirty(self, keys: Sequence[str]) -> list[bool]:
        """As in the port; one round trip."""
        return [bool(n) for n in await self.calls.pipe([("HEXISTS", self._of(key, "hint"), key) for key in keys])]

    async def are_parked(self, keys: Sequence[str]) -> list[bool]:
        """As in the port; one round trip."""
        return [bool(n) for n in await self.calls.pipe([("HEXISTS", self._of(key, "parked"), key) for key in keys])]

    def _of(self, key: str, name: str) -> str:
        return self.layout.of_shard(self.shard_of(key), name)

    async def explain(self, key: str) -> tuple[Hint | None, Base | None, Parked | None, Held | None]:
        """As in the port."""
        hint, parked = await self.calls.pipe([("HGET", self._of(key, "hint"), key), ("HGET", self._of(key, "parked"), key)])
        [(base, held, _)] = await self._look([key])
        return (
            unpack_hint(key, hint) if hint else None,
            unpack_base(base) if base else None,
            msgspec.json.decode(parked, type=Parked) if parked else None,
            msgspec.json.decode(held, type=Held) if held else None,
        )

    async def backlog(self) -> Backlog:
        """As in the port; one round trip."""
        commands: list[tuple[Any, ...]] = [
            ("HLEN", self.layout.of_pair("conflicts")),
            ("XLEN", self.layout.of_pair("dead")),
            ("HGETALL", self.layout.of_pair("dead:tally")),
        ]
        for shard in range(self.layout.shards):
            commands += [("HLEN", self.layout.of_shard(shard, name)) for name in ("hint", "parked", "held")]
            commands.append(("GET", self.layout.of_shard(shard, "count")))
            for side in Side:
                since = self.layout.since(shard, side)
                commands += [("ZCARD", since), ("ZRANGE", since, 0, 0, "WITHSCORES")]
        conflicts, dead, tally, *replies = await self.calls.pipe(commands)
        rows = [replies[at : at + 8] for at in range(0, len(replies), 8)]
        oldest = {side: [row[5 + 2 * i][0][1] for row in rows if row[5 + 2 * i]] for i, side in enumerate(Side)}
        return Backlog(
            dirty=sum(row[0] for row in rows),
            dirty_by_side={side: sum(row[4 + 2 * i] for row in rows) for i, side in enumerate(Side)},
            oldest_us_by_side={side: int(min(times)) if times else None for side, times in oldest.items()},
            parked=sum(row[1] for row in rows),
            held=sum(row[2] for row in rows),
            conflicts=conflicts,
            objects=sum(int(row[3] or 0) for row in rows),
            dead=_dead_tally(dead, tally),
        )

    async def waiting(self, shards: Sequence[int] | None = None) -> dict[int, int]:
        """As in the port; one round trip."""
        asked = range(self.layout.shards) if shards is None else shards
        commands: list[tuple[Any, ...]] = []
        for shard in asked:
            commands.append(("EXISTS", self.layout.of_shard(shard, "claimed")))
            commands.append(("ZRANGE", self.layout.of_shard(shard, "due"), 0, 0, "WITHSCORES"))
        replies = await self.calls.pipe(commands)
        found = {}
        for shard, claimed, due in zip(asked, replies[::2], replies[1::2], strict=True):
            if claimed or due:
                found[shard] = 0 if claimed else int(due[0][1])
        return found

    async def due_since_us(self, *, from_us: int, now_us: int) -> int | None:
        """As in the port; one round trip."""
        due = [self.layout.of_shard(shard, "due") for shard in range(self.layout.shards)]
        first = await self.calls.pipe([("ZRANGEBYSCORE", key, from_us, now_us, "WITHSCORES", "LIMIT", 0, 1) for key in due])
        return min((int(found[0][1]) for found in first if found), default=None)

    async def dirty_keys(self, *, limit: int) -> list[str]:
        """As in the port."""
        keys: list[str] = []
        async for fields in hash_pieces(self.calls, [self.layout.of_shard(shard, "hint") for shard in range(self.layout.shards)]):
            keys += [key.decode() for key, _ in fields]
            if len(keys) >= limit:
                break
        return list(dict.fromkeys(keys))[:limit]

    async def parked(self) -> list[Parked]:
        """As in the port."""
        return await oldest(records(self.calls, self.layout, Parked))

    async def parked_records(self, shard: int, *, cursor: int) -> tuple[int, list[Parked]]:
        """As in the port; one round trip."""
        after, found = await hash_piece(self.calls, self.layout.of_shard(shard, "parked"), cursor)
        readable = []
        for _, packed in found:
            with suppress(msgspec.MsgspecError):  # such a one must not end a scan; `state check` tells of it
                readable.append(msgspec.json.decode(packed, type=Parked))
        return after, readable

    async def held(self, keys: Sequence[str] | None = None) -> list[Held]:
        """As in the port; of *keys* in one round trip."""
        if keys is None:
            return await oldest(records(self.calls, self.layout, Held))
        packed = [value for value in await self._held_of(list(dict.fromkeys(keys))) if value is not None]
        return sorted((msgspec.json.decode(value, type=Held) for value in packed), key=lambda one: (one.since_us, one.key))

    async def _held_of(self, keys: Sequence[str]) -> list[bytes | None]:
        """Held records of *keys*, packed."""
        return await self.calls.pipe([("HGET", self._of(key, "held"), key) for key in keys])

    async def remember_renames(self, keys: Sequence[str], *, now_us: int) -> None:
        """Deletes of these keys were halves of renames; the oldest are dropped beyond ``RENAMES_KEPT``."""
        if keys:
            await self.calls.run("remember", [self.layout.of_pair("renames")], [now_us, RENAMES_KEPT, *keys])

    async def delete_tally(self, budget: DeleteBudget, *, now_us: int) -> DeleteTally:
        """As in the port."""
        start = now_us - int(budget.window_seconds * 1_000_000)
        counts: list[tuple[Any, ...]] = [("HLEN", self.layout.of_shard(shard, "held")) for shard in range(self.layout.shards)]
        deletes, renames = self.layout.of_pair("deletes"), self.layout.of_pair("renames")
        names, renamed, *held = await self.calls.pipe(
            [("ZRANGEBYSCORE", deletes, f"({start}", "+inf"), ("ZRANGE", renames, 0, -1), *counts]
        )
        done = [name.decode().partition(":")[2] for name in names]
        known = [key.decode() for key in renamed]
        waiting = await self.calls.pipe([("HEXISTS", self._of(key, "held"), key) for key in known]) if sum(held) else []
        halves = set(known)
        return DeleteTally(len(done), sum(key in halves for key in done), sum(held), sum(waiting))

    # ----------------------------------------------------------------------------------------------- records of the pair

    async def _put(self, key: str, name: str | bytes, value: bytes, how: str = "") -> None:
        await self.calls.run("put", [key], [name, value, how])

    async def record_conflict(self, record: ConflictRecord) -> None:
        """As in the port."""
        await self._put(self.layout.of_pair("conflicts"), record.conflict_id, msgspec.json.encode(record), "first")

    async def conflicts(self, key: str | None = None) -> list[ConflictRecord]:
        """As in the port."""
        pieces = records(self.calls, self.layout, ConflictRecord)
        return await oldest([one for one in piece if key in (None, one.key)] async for piece in pieces)

    async def conflict_ids(self) -> set[str]:
        """As in the port."""
        pieces = hash_pieces(self.calls, [self.layout.of_pair("conflicts")])
        return {name.decode() async for fields in pieces for name, _ in fields}

    async def drop_conflict(self, conflict_id: str) -> bool:
        """As in the port."""
        with redis_faults():
            return bool(await self._redis.hdel(self.layout.of_pair("conflicts"), conflict_id))

    async def halt(self, record: HaltRecord) -> None:
        """As in the port; the first record of a name stays."""
        await self._put(self.layout.of_pair("halts"), record.name, msgspec.json.encode(record), "first")

    async def halts(self) -> list[HaltRecord]:
        """As in the port."""
        with redis_faults():
            found = await self._redis.hvals(self.layout.of_pair("halts"))
        return sorted((msgspec.json.decode(one, type=HaltRecord) for one in found), key=lambda one: one.name)

    async def lift(self, name: str) -> bool:
        """As in the port."""
        with redis_faults():
            return bool(await self._redis.hdel(self.layout.of_pair("halts"), name))

    async def cursor(self, source: str) -> Cursor | None:
        """As in the port."""
        with redis_faults():
            found = await self._redis.get(self.layout.of_pair(f"cursor:{source}"))
        return msgspec.json.decode(found, type=Cursor) if found else None

    async def owners(self, prefix: str) -> dict[str, str]:
        """As in the port."""
        with redis_faults():
            seconds, micros = await self._redis.time()
            found: dict[Any, Any] = await self._redis.hgetall(self.layout.of_pair("owners"))
        owned = {}
        for task, entry in found.items():
            until_ms, _, owner = entry.decode().partition(" ")
            if task.startswith(prefix.encode()) and int(until_ms) * 1_000 > seconds * 1_000_000 + micros:
                owned[task.decode()] = owner
        return owned

    async def put_note(self, name: str, value: bytes) -> None:
        """As in the port; an empty value removes the note."""
        if value:
            await self._put(self.layout.of_pair("notes"), name, value)
            return
        with redis_faults():
            await self._redis.hdel(self.layout.of_pair("notes"), name)

    async def note(self, name: str) -> bytes | None:
        """As in the port."""
        with redis_faults():
            found: Any = await self._redis.hget(self.layout.of_pair("notes"), name)
        return bytes(found) if found is not None else None

    async def notes(self, prefix: str) -> dict[str, bytes]:
        """As in the port."""
        with redis_faults():
            names: list[Any] = await self._redis.hkeys(self.layout.of_pair("notes"))
            wanted = [name.decode() for name in names if name.startswith(prefix.encode())]
            values: list[Any] = await self._redis.hmget(self.layout.of_pair("notes"), wanted) if wanted else []
        return {name: bytes(value) for name, value in zip(wanted, values, strict=True) if value is not None}

    async def tell_pace(self, endpoint: str, process: str, told: bytes) -> None:
        """As in the port."""
        key, name = of_endpoint(endpoint), process.encode(errors=_NAME_ERRORS)
        with _pace_faults(key):
            if not told:
                await self._redis.hdel(key, name)
                return
            await self._put(key, name, told)
            await self._redis.expire(key, PACE_KEPT_SECONDS)

    async def paces(self, endpoint: str) -> dict[str, bytes]:
        """As in the port."""
        key = of_endpoint(endpoint)
        with _pace_faults(key):
            found: dict[Any, Any] = await self._redis.hgetall(key)
        return {name.decode(errors=_NAME_ERRORS): bytes(told) for name, told in found.items()}

    async def dead_letters(self) -> list[DeadLetter]:
        """As in the port."""
        with redis_faults():
            found: Any = await self._redis.xrange(self.layout.of_pair("dead"))
        return [msgspec.json.decode(fields[b"letter"], type=DeadLetter) for _, fields in found]


@contextmanager
def _pace_faults(key: str) -> Iterator[None]:
    """As ``redis_faults``; a server that will not do this with *key* means what is there: it is not ours alone, and no lock."""
    try:
        with redis_faults():
            yield
    except ResponseError as error:
        text = (
            f"Redis does not take the key {key!r} for what processes tell each other of an endpoint; delete it, nothing is lost."
        )
        raise UsageError(text, reason="pace_unusable") from error


def _dead_tally(kept: int, fields: dict[bytes, bytes]) -> DeadTally:
    found = {name.decode(): int(value) for name, value in fields.items()}
    newest = {name.removeprefix("newest:"): at for name, at in found.items() if name.startswith("newest:")}
    return DeadTally(kept, max(0, found.get("bytes", 0)), found.get("dropped", 0), newest)


def _fields(packed: bytes) -> Iterator[bytes]:
    """What ``look.lua`` put together."""
    at = 0
    while at < len(packed):
        end = at + 4 + int.from_bytes(packed[at : at + 4], "big")
        yield packed[at + 4 : end]
        at = end
