"""What waits for a person, read in pieces: there may be a million of each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec

from federation.progress import ConflictRecord, Held, Parked
from federation.state.calls import Calls
from federation.state.layout import Layout
from federation.state.pieces import hash_pieces

Waiting = TypeVar("Waiting", Parked, Held, ConflictRecord)


def _hashes(layout: Layout, kind: type[Waiting]) -> list[str]:
    if kind is ConflictRecord:
        return [layout.of_pair("conflicts")]
    name = "held" if kind is Held else "parked"
    return [layout.of_shard(shard, name) for shard in range(layout.shards)]


async def count(calls: Calls, layout: Layout, kind: type[Waiting]) -> int:
    """How many there are; one round trip."""
    return sum(await calls.pipe([("HLEN", name) for name in _hashes(layout, kind)]))


async def records(calls: Calls, layout: Layout, kind: type[Waiting]) -> AsyncIterator[list[Waiting]]:
    """All of one kind, in no order; one may come twice."""
    async for fields in hash_pieces(calls, _hashes(layout, kind)):
        if fields:
            yield [msgspec.json.decode(packed, type=kind) for _, packed in fields]


async def oldest(pieces: AsyncIterator[list[Waiting]], limit: int | None = None) -> list[Waiting]:
    """The oldest *limit* of them (None: all), oldest first, each once; never much more than these are kept."""
    kept: dict[tuple[int, str, str], Waiting] = {}
    async for piece in pieces:
        kept.update((_age(one), one) for one in piece)
        if limit is not None and len(kept) > 2 * limit:
            kept = {age: kept[age] for age in sorted(kept)[:limit]}
    return [kept[age] for age in sorted(kept)[:limit]]


def _age(one: Parked | Held | ConflictRecord) -> tuple[int, str, str]:
    return (one.at_us, one.key, one.conflict_id) if isinstance(one, ConflictRecord) else (one.since_us, one.key, "")
