"""Marks that were acknowledged and are not there any more: a shard went back (design 5).

Every process counts its calls of ``mark`` by shard, in Redis, under a name of its own (the *marker*), in the same step as the
marks. Nobody else moves that count: so when it is lower than the process remembers, or than a cursor remembers that the
process moved, a fail-over or a restored snapshot of that shard took marks back, however many others were made since.

Nor do our own later marks hide it. Each call carries the count that was known when it was sent; one that finds less does not
count, so that what is there stays lower until the loss is accepted. Calls that were under way together over the fail-over know
no better, but then a count comes twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from federation.state.calls import Calls
from federation.state.layout import Layout

OURS = ""
"""Stands for this process among the names of sources and scans."""
SCANNED_US = 7 * 86_400_000_000
"""How long what a scan marked is remembered after it was kept last: far longer than a scan that was cut off is gone on with."""
_NEVER_THERE = 1 << 40
"""More than any count: remembered of a shard that went back, it stays lower than what we know."""


class Counted(msgspec.Struct, frozen=True):
    """Calls of one marker that were carried out, by shard."""

    marker: str
    shards: dict[int, int]
    at_us: int = 0
    """Of a scan: when it was kept."""


class Marks:
    """Counts of this process and of the pair's cursors. Without a *marker* nothing is counted."""

    def __init__(self, calls: Calls, layout: Layout, marker: str) -> None:
        self._calls = calls
        self._layout = layout
        self.marker = marker
        self._made: dict[int, int] = {}
        self._under_way: dict[int, list[int]] = {}
        """Of each shard what was known when the calls were sent that are not answered."""
        self._answered: dict[int, set[int]] = {}
        """Counts that came in while one of those was under way."""

    @property
    def key(self) -> str:
        """The hash of what each cursor stands for."""
        return self._layout.of_pair("marks")

    @property
    def scans_key(self) -> str:
        """The hash of what the marks of scans stand for."""
        return self._layout.of_pair("marks:scans")

    def sent(self, shard: int) -> int:
        """A call goes out; the count it must find there, at least. ``ended`` is told of it, whatever becomes of the call."""
        known = self._made.get(shard, 0)
        self._under_way.setdefault(shard, []).append(known)
        return known

    def ended(self, shard: int, known: int, count: int = 0) -> None:
        """The call that was sent with *known* was the *count*-th; 0: it was not counted, or its answer is lost."""
        answered = self._answered.setdefault(shard, set())
        if count:
            self._made[shard] = max(self._made.get(shard, 0), count + _NEVER_THERE if count in answered else count)
            answered.add(count)
        under_way = self._under_way[shard]
        under_way.remove(known)
        # Whatever is sent from now on knows of the others.
        self._answered[shard] = {one for one in answered if one > min(under_way)} if under_way else set()

    def packed(self) -> bytes:
        """What a cursor that is moved now stands for."""
        return msgspec.json.encode(Counted(self.marker, self._made))

    async def keep(self, task: str, now_us: int) -> None:
        """Remember, as a cursor does, what this process made so far: *task* rests on it, though the process may end."""
        if self.marker:
            kept = Counted(self.marker, self._made, now_us)
            await self._calls.pipe([("HSET", self.scans_key, f"{task}:{self.marker}", msgspec.json.encode(kept))])

    async def drop(self, task: str) -> None:
        """*task* is over: forget what all processes kept of it."""
        [names] = await self._calls.pipe([("HKEYS", self.scans_key)])
        if ours := [name for name in names if name.startswith(f"{task}:".encode())]:
            await self._calls.pipe([("HDEL", self.scans_key, *ours)])

    async def lost(self) -> tuple[str, ...]:
        """Names of the cursors that stand for marks which are gone; ``OURS`` when this process made such."""
        known = await self._known()
        there = await self._there(known)
        return tuple(name for name, counted in known.items() if _less(counted, there))

    async def accept(self) -> None:
        """What is there is what there is: a whole scan has to find the rest."""
        packed = await self._packed_of_cursors()
        known = {OURS: Counted(self.marker, dict(self._made))} | _unpacked(packed)
        there = await self._there(known)
        ours = known.pop(OURS)
        # Not what was answered meanwhile: it is known from its answer.
        self._made |= {shard: count for shard, count in _less(ours, there).items() if self._made[shard] == ours.shards[shard]}
        self._answered = {}
        left = {
            name: msgspec.structs.replace(one, shards=one.shards | less)
            for name, one in known.items()
            if (less := _less(one, there))
        }
        # Not of a cursor that was moved meanwhile: what it stands for now is looked at the next time.
        calls = [([self._place(one)], [name, packed[name], msgspec.json.encode(one)]) for name, one in left.items()]
        await self._calls.run_all("replace", calls)

    def _place(self, counted: Counted) -> str:
        """``at_us``: only what a scan keeps has it."""
        return self.scans_key if counted.at_us else self.key

    async def _known(self) -> dict[str, Counted]:
        return {OURS: Counted(self.marker, dict(self._made))} | await self._of_cursors()

    async def _there(self, known: Mapping[str, Counted]) -> dict[tuple[str, int], int]:
        """What is counted now, by marker and shard."""
        wanted = sorted({(one.marker, shard) for one in known.values() for shard in one.shards})
        found = await self._calls.pipe([("HGET", self._layout.of_shard(shard, "marks"), marker) for marker, shard in wanted])
        return {place: int(count or 0) for place, count in zip(wanted, found, strict=True)}

    async def forget(self, live: Sequence[str], now_us: int) -> int:
        """Drop the counts of markers that no cursor or scan refers to and that do not begin with one of *live*; how many."""
        kept = await self._of_cursors()
        old = [name for name, one in kept.items() if one.at_us and one.at_us < now_us - SCANNED_US]
        await self._calls.pipe([("HDEL", self.scans_key, name) for name in old])
        needed = {counted.marker for name, counted in kept.items() if name not in old} | {self.marker}
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
        return _unpacked(await self._packed_of_cursors())

    async def _packed_of_cursors(self) -> dict[str, bytes]:
        """And of scans."""
        keys = (self.key, self.scans_key)
        names = await self._calls.pipe([("HKEYS", key) for key in keys])
        named = [(key, name) for key, there in zip(keys, names, strict=True) for name in there]
        packed = await self._calls.pipe([("HGET", key, name) for key, name in named])
        return {name.decode(): bytes(one) for (_, name), one in zip(named, packed, strict=True) if one is not None}


def _unpacked(packed: Mapping[str, bytes]) -> dict[str, Counted]:
    return {name: msgspec.json.decode(one, type=Counted) for name, one in packed.items()}


def _less(counted: Counted, there: Mapping[tuple[str, int], int]) -> dict[int, int]:
    """The shards where less is there than was counted, and how much."""
    found = {shard: there[counted.marker, shard] for shard in counted.shards}
    return {shard: count for shard, count in found.items() if count < counted.shards[shard]}
