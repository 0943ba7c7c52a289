"""Base records of objects that are on neither side any more: no listing shows them, and no record holds its key's name.

Each whole scan looks at a few shards. While it runs it remembers of their keys the beginnings of the digests; what the base holds
besides is suspected, with the exact record. The next whole scan, begun after that, sweeps the same shards: a record that is still
unseen and byte for byte the same was of no object while both listings were read, so it is dropped. What it agreed on is gone on
both sides; a key written anew is news with or without it (tests/unit/test_decide_cells.py).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from secrets import token_hex

import msgspec

from federation.model import Base
from federation.ports import State
from federation.state.records import key_digest

SWEEPS = 16
"""Whole scans after which every shard was looked through, in a pair that is not larger than ``MOST_KEYS`` a scan."""
MOST_KEYS = 1_000_000
"""Keys remembered in one scan, about: 8 bytes each."""
MOST_SUSPECTS = 10_000
_SUSPECTS = "scan:suspects"
_BEGINNING = 8
_DELETED = 1
"""Flag in a record's first byte (``state.records``)."""


class Turn(msgspec.Struct, frozen=True):
    """The shards that one scan sweeps; ``token`` names the suspects that were known when it began."""

    shards: int
    first: int = 0
    many: int = 0
    token: str = ""

    def has(self, shard: int) -> bool:
        """Whether the shard is swept."""
        return (shard - self.first) % self.shards < self.many

    @property
    def all(self) -> list[int]:
        """The shards."""
        return [(self.first + step) % self.shards for step in range(self.many)]


class Search(msgspec.Struct):
    """How far one scan's search for suspects is: shards of its turn looked through, the place in the next, what was found."""

    shards: int = 0
    cursor: int = 0
    found: list[tuple[int, bytes, bytes]] = msgspec.field(default_factory=list)


class _Suspects(msgspec.Struct):
    """Where the sweep stands, and what the last scan did not see: shard, digest, record."""

    first: int
    token: str = ""
    records: list[tuple[int, bytes, bytes]] = []


async def turn(state: State, objects: int) -> Turn:
    """What a scan that begins now should sweep in a pair of so many objects."""
    packed = await state.note(_SUSPECTS)
    stands = msgspec.msgpack.decode(packed, type=_Suspects) if packed else _Suspects(0)
    many = -(-state.shards // SWEEPS)
    if objects:
        many = max(1, min(many, MOST_KEYS * state.shards // objects))
    return Turn(state.shards, stands.first % state.shards, many, stands.token)


def remember(of: Turn, state: State, keys: Sequence[str], bases: Sequence[Base | None]) -> bytes:
    """Of the keys that are swept and have a live base: the beginnings of their digests."""
    swept = [at for at, key in enumerate(keys) if of.has(state.shard_of(key))]
    return b"".join(key_digest(keys[at])[:_BEGINNING] for at in swept if (base := bases[at]) is not None and not base.deleted)


async def sweep(
    state: State, of: Turn, seen: Iterable[bytes], search: Search, now_and_then: Callable[[], Awaitable[None]]
) -> int:
    """At the end of a whole scan: drop what is proved to be of no object, or suspect what was not seen. Returns how many went.

    The search goes on where *search*, which moves with it, says; after each piece *now_and_then* is called.
    """
    known = array("Q")
    for part in seen:
        known.frombytes(part)
    known = array("Q", sorted(known))
    packed = await state.note(_SUSPECTS)
    stands = msgspec.msgpack.decode(packed, type=_Suspects) if packed else _Suspects(of.first)
    if of.token and stands.token == of.token:
        dropped = await _drop(state, [one for one in stands.records if of.has(one[0]) and not _has(known, one[1])])
        await _note(state, _Suspects((of.first + of.many) % of.shards))
        return dropped
    await _search(state, of, known, search, now_and_then)
    if search.found:
        await _note(state, _Suspects(of.first, token_hex(8), search.found))
    else:
        await _note(state, _Suspects((of.first + of.many) % of.shards))
    return 0


def _has(known: array[int], digest: bytes) -> bool:
    [value] = array("Q", digest[:_BEGINNING])
    at = bisect_left(known, value)
    return at < len(known) and known[at] == value


async def _search(state: State, of: Turn, known: array[int], search: Search, now_and_then: Callable[[], Awaitable[None]]) -> None:
    while search.shards < of.many and len(search.found) < MOST_SUSPECTS:
        shard = of.all[search.shards]
        search.cursor, records = await state.base_records(shard, cursor=search.cursor)
        unseen = [(shard, name, record) for name, record in records if not record[0] & _DELETED and not _has(known, name)]
        search.found += unseen[: MOST_SUSPECTS - len(search.found)]
        search.shards += not search.cursor
        await now_and_then()


async def _drop(state: State, stale: list[tuple[int, bytes, bytes]]) -> int:
    dropped = 0
    for shard in sorted({shard for shard, _, _ in stale}):
        dropped += await state.forget_bases(shard, [(name, record) for of, name, record in stale if of == shard])
    return dropped


async def _note(state: State, suspects: _Suspects) -> None:
    await state.put_note(_SUSPECTS, msgspec.msgpack.encode(suspects))
