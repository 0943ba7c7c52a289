"""Does a pair's state fit together? It is read and never repaired: what to do about a fault is a person's to say.

| kind | what it means |
|---|---|
| never_due | a dirty key nobody will be handed: it waits until it is marked again or a scan finds it |
| no_age | a dirty key that counts in no lag |
| dirty_and_parked | a key both at work and waiting for a person |
| due_, claimed_, since_..._without_hint | left over: handed out to nobody, but lag or backlog may be told too high |
| wrong_shard | a record that no look-up finds: made under another layout |
| bad_record | a base record that cannot be read |
| count | the number of objects, which the delete budget is a share of, is not that of the records |
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.errors import UsageError
from federation.model import Side
from federation.state.calls import Calls
from federation.state.layout import Layout
from federation.state.portable import whole_records
from federation.state.records import unpack_base

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


async def check(calls: Calls, layout: Layout) -> Checked:
    """Look at every shard; safe beside a running plane."""
    checked = Checked(layout.pair, layout.shards)
    for shard in range(layout.shards):
        keys = [layout.of_shard(shard, "due"), *(layout.since(shard, side) for side in Side)]
        keys += [layout.of_shard(shard, name) for name in ("hint", "claimed", "parked")]
        for kind, count, *names in await calls.run("check", keys, [NAMED]):
            checked.faults.append(Fault(shard, kind.decode(), count, tuple(name.decode() for name in names)))
        await _places(calls, layout, shard, checked)
        await _records(calls, layout, shard, checked)
    return checked


async def _places(calls: Calls, layout: Layout, shard: int, checked: Checked) -> None:
    names = ("hint", "parked", "held")
    found = await calls.pipe([("HKEYS", layout.of_shard(shard, name)) for name in names])
    checked.dirty += len(found[0])
    _tell(
        checked, shard, "wrong_shard", [key.decode() for keys in found for key in keys if layout.shard_of(key.decode()) != shard]
    )


async def _records(calls: Calls, layout: Layout, shard: int, checked: Checked) -> None:
    count = ("GET", layout.of_shard(shard, "count"))
    [before] = await calls.pipe([count])
    objects, wrong, bad = 0, [], []
    for bucket in layout.buckets_of(shard):
        [found] = await calls.pipe([("HGETALL", bucket)])
        for digest, record in whole_records(found).items():
            checked.records += 1
            if layout.bucket_of_digest(digest) != bucket:
                wrong.append(digest.hex())
            try:
                objects += unpack_base(record).on_both
            except UsageError:
                bad.append(digest.hex())
    [after] = await calls.pipe([count])
    _tell(checked, shard, "wrong_shard", wrong)
    _tell(checked, shard, "bad_record", bad)
    if before == after and int(after or 0) != objects:  # else it is being worked on: not to be compared
        checked.faults.append(Fault(shard, "count", abs(int(after or 0) - objects), ()))


def _tell(checked: Checked, shard: int, kind: str, keys: Sequence[str]) -> None:
    if keys:
        checked.faults.append(Fault(shard, kind, len(keys), tuple(keys[:NAMED])))
