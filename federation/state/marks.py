"""Marks that were acknowledged and are not there any more: a shard went back (design 5).

Every process counts its calls of ``mark`` by shard, in Redis, under a name of its own (the *marker*), in the same step as the
marks. Nobody else moves that count: so when it is lower than the process remembers, or than a cursor remembers that the
process moved, a fail-over or a restored snapshot of that shard took marks back, however many others were made since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from federation.state.calls import Calls
from federation.state.layout import Layout

OURS = ""
"""Stands for this process among the names of sources."""


class Counted(msgspec.Struct, frozen=True):
    """Calls of one marker that were carried out, by shard."""

    marker: str
    shards: dict[int, int]


class Marks:
    """Counts of this process and of the pair's cursors. Without a *marker* nothing is counted."""

    def __init__(self, calls: Calls, layout: Layout, marker: str) -> None:
        self._calls = calls
        self._layout = layout
        self.marker = marker
        self._made: dict[int, int] = {}

    @property
    def key(self) -> str:
        """The hash of what each cursor stands for."""
        return self._layout.of_pair("marks")

    def made(self, shard: int, count: int) -> None:
        """A call was carried out and was the *count*-th."""
        if count > self._made.get(shard, 0):
            self._made[shard] = count

    def packed(self) -> bytes:
        """What a cursor that is moved now stands for."""
        return msgspec.json.encode(Counted(self.marker, self._made))

    async def lost(self) -> tuple[str, ...]:
        """Names of the cursors that stand for marks which are gone; ``OURS`` when this process made such."""
        known = {OURS: Counted(self.marker, dict(self._made))} | await self._of_cursors()
        wanted = sorted({(one.marker, shard) for one in known.values() for shard in one.shards if one.marker})
        found = await self._calls.pipe([("HGET", self._layout.of_shard(shard, "marks"), marker) for marker, shard in wanted])
        there = {place: int(count or 0) for place, count in zip(wanted, found, strict=True)}
        return tuple(name for name, counted in known.items() if _went_back(counted, there))

    async def accept(self) -> None:
        """What is there is what there is: a whole scan has to find the rest."""
        self._made = {}
        empty = msgspec.json.encode(Counted("", {}))
        await self._calls.pipe([("HSET", self.key, name, empty) for name in await self._of_cursors()])

    async def forget(self, live: Sequence[str]) -> int:
        """Drop the counts of markers that no cursor refers to and that do not begin with one of *live*; how many."""
        needed = {counted.marker for counted in (await self._of_cursors()).values()} | {self.marker}
        keys = [self._layout.of_shard(shard, "marks") for shard in range(self._layout.shards)]
        drop = [
            ("HDEL", key, marker)
            for key, markers in zip(keys, await self._calls.pipe([("HKEYS", key) for key in keys]), strict=True)
            for marker in markers
            if marker.decode() not in needed and not marker.decode().startswith(tuple(live))
        ]
        await self._calls.pipe(drop)
        return len(drop)

    async def _of_cursors(self) -> dict[str, Counted]:
        [names] = await self._calls.pipe([("HKEYS", self.key)])
        packed = (await self._calls.pipe([("HMGET", self.key, *names)]))[0] if names else []
        return {
            name.decode(): msgspec.json.decode(one, type=Counted)
            for name, one in zip(names, packed, strict=True)
            if one is not None
        }


def _went_back(counted: Counted, there: Mapping[tuple[str, int], int]) -> bool:
    return bool(counted.marker) and any(there[counted.marker, shard] < count for shard, count in counted.shards.items())
