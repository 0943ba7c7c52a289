"""Does a pair's state fit together? It is read and never repaired: what to do about a fault is a person's to say.

It is read in small pieces, so that Redis is never busy with it for long. All that is told of one key is of one moment: one that a
running plane changes between two pieces is no fault. One that has a fault may count twice while Redis moves its table.

| kind | what it means |
|---|---|
| never_due | a dirty key nobody will be handed: it waits until it is marked again or a scan finds it |
| no_age | a dirty key that counts in no lag |
| dirty_and_parked | a key both at work and waiting for a person |
| due_, claimed_, since_..._without_hint | left over: handed out to nobody, but lag or backlog may be told too high |
| wrong_shard | a record that no look-up finds: made under another layout |
| bad_record | a record that cannot be read: of a base its key is parked once it is looked at (`record_damaged`, docs/parked.md) |
| count | the number of objects, which the delete budget is a share of, is not that of the records, three times alike |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from federation.errors import UsageError
from federation.model import Side
from federation.progress import Held, Parked
from federation.state.calls import Calls
from federation.state.layout import Layout
from federation.state.pieces import AT_ONCE, hash_pieces
from federation.state.portable import whole_records
from federation.state.records import unpack_base

_RECOUNTS = 2
NAMED = 5
"""Keys named of each kind of fault in a shard."""


class Fault(msgspec.Struct, frozen=True):
    """One kind of fault in one shard. *keys*: some of them; of a base record its digest in hexadecimal."""

    shard: int
    kind: str
    count: int
    keys: tuple[str, ...]


class Checked(msgspec.Struct):
    """What was found in the whole pair."""

    pair: str
    shards: int
    dirty: int = 0
    records: int = 0
    faults: list[Fault] = []


class _Found:
    """The faults of one shard: how many of each kind, and some keys."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._named: dict[str, list[str]] = {}

    def add(self, kind: str, keys: Sequence[str]) -> None:
        if keys:
            self._counts[kind] += len(keys)
            named = self._named.setdefault(kind, [])
            named += [key for key in dict.fromkeys(keys) if key not in named][: NAMED - len(named)]

    def told(self, shard: int) -> list[Fault]:
        return [Fault(shard, kind, count, tuple(self._named[kind])) for kind, count in self._counts.items()]


async def check(calls: Calls, layout: Layout) -> Checked:
    """Look at every shard; safe beside a running plane."""
    checked = Checked(layout.pair, layout.shards)
    for shard in range(layout.shards):
        found = _Found()
        await _dirty(calls, layout, shard, found)
        for name, kind in (("parked", Parked), ("held", Held)):
            async for fields in hash_pieces(calls, [layout.of_shard(shard, name)]):
                found.add("wrong_shard", _misplaced(layout, shard, [key for key, _ in fields]))
                found.add("bad_record", [key.decode() for key, packed in fields if not _readable(packed, kind)])
        await _records(calls, layout, shard, checked, found)
        [dirty] = await calls.pipe([("HLEN", layout.of_shard(shard, "hint"))])
        checked.dirty += dirty
        checked.faults += found.told(shard)
    return checked


async def _dirty(calls: Calls, layout: Layout, shard: int, found: _Found) -> None:
    keys = [layout.of_shard(shard, "due"), *(layout.since(shard, side) for side in Side)]
    keys += [layout.of_shard(shard, name) for name in ("hint", "claimed", "parked")]
    for part in range(1, len(keys)):
        cursor: Any = 0
        while True:
            cursor, walked, *faults = await calls.run("check", keys, [part, cursor, AT_ONCE])
            if keys[part - 1] == layout.of_shard(shard, "hint"):
                found.add("wrong_shard", _misplaced(layout, shard, walked))
            for kind, *names in faults:
                found.add(kind.decode(), [name.decode() for name in names])
            if int(cursor) == 0:
                break


def _readable(packed: bytes, kind: type[Parked | Held]) -> bool:
    try:
        msgspec.json.decode(packed, type=kind)
    except msgspec.MsgspecError:
        return False
    return True


def _misplaced(layout: Layout, shard: int, names: Sequence[bytes]) -> list[str]:
    keys = [name.decode() for name in names]
    return [key for key in keys if layout.shard_of(key) != shard]


async def _records(calls: Calls, layout: Layout, shard: int, checked: Checked, faults: _Found) -> None:
    off, records = await _counted(calls, layout, shard, faults)
    checked.records += records
    # What is settled during a walk, before and behind where it is, looks like a fault; a real one is the same in every walk.
    for _ in range(_RECOUNTS):
        if off and off != (await _counted(calls, layout, shard, _Found()))[0]:
            off = 0
    if off:
        checked.faults.append(Fault(shard, "count", abs(off), ()))


async def _counted(calls: Calls, layout: Layout, shard: int, faults: _Found) -> tuple[int, int]:
    """By how much the count was off, 0 where it changed meanwhile and cannot be compared; and how many records there are."""
    count = ("GET", layout.of_shard(shard, "count"))
    [before] = await calls.pipe([count])
    objects = records = 0
    for bucket in layout.buckets_of(shard):
        [found] = await calls.pipe([("HGETALL", bucket)])
        for digest, record in whole_records(found).items():
            records += 1
            if layout.bucket_of_digest(digest) != bucket:
                faults.add("wrong_shard", [digest.hex()])
            try:
                objects += unpack_base(record).on_both
            except UsageError:
                faults.add("bad_record", [digest.hex()])
    [after] = await calls.pipe([count])
    return (int(after or 0) - objects if before == after else 0), records
