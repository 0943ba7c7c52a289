"""Is this the container, is this the bucket the pair's records are of? An object under ``.federation/`` on each side says so.

Written once, conditionally, and compared at each start, before each scan, before the deletes it found are marked, and before a
delete is carried out: another bucket under the same name, one restored empty and half refilled, or one that is not mounted would
make everything look deleted (design 4.5, docs/adr/0017).
"""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_hex
from typing import NamedTuple

import msgspec

from federation.errors import Halt, NotPresent, Reobserve
from federation.model import PRESERVED_PREFIX, Metadata, Side
from federation.ports import ObjectStore, State
from federation.rules.guards import BUCKET_SWAPPED, MAY_BE_EMPTY, SIDE_EMPTIED

MAY_BE_NEW = "may_be_new:"
"""Note, by side: a person looked; what is found there now is the pair's."""
_NOTE = "pair:identity"
_MOST_BYTES = 4096
_NO_ID = "unreadable"
"""Of an id object that holds none."""


class _Mark(msgspec.Struct, frozen=True):
    """What the object holds."""

    pair: str
    id: str


def identity_key(pair: str) -> str:
    """Where the object is; each pair has its own, since a bucket may be in several (chains)."""
    return f"{PRESERVED_PREFIX}pairs/{pair}.json"


class Looked(NamedTuple):
    """The ids that the state recorded and those that the sides hold; the sides that may be taken as they are, unlike recorded."""

    recorded: dict[Side, str]
    found: dict[Side, str]
    new: list[Side]


async def look_at_identity(stores: Mapping[Side, ObjectStore], state: State, pair: str) -> Looked:
    """Compare both sides with what the state recorded, and write nothing. Raises Halt, and as reads do."""
    recorded = await _recorded(state)
    found = {side: await _read(store, identity_key(pair)) for side, store in stores.items()}
    new = []
    for side in Side:
        if side in recorded and found[side] == recorded[side]:
            continue
        # One that lists nothing is not new: it is the guard of emptied sides' business.
        if side not in recorded or await _may_be_new(stores[side], state, side, found[side]):
            new.append(side)
    return Looked(recorded, found, new)


async def check_identity(stores: Mapping[Side, ObjectStore], state: State, pair: str) -> None:
    """The same; record and write what is new. Raises Halt, and as reads and writes do."""
    recorded, found, new = await look_at_identity(stores, state, pair)
    known = dict(recorded)
    # The right one is there (again): a word given meanwhile was of another, and may not let a later one in.
    taken = [side for side in Side if side not in new and await state.note(f"{MAY_BE_NEW}{side}")]
    for side in new:
        there = found[side] or await _write(stores[side], pair, found[side.other] or known.get(side.other) or token_hex(16))
        if not there:
            continue  # it cannot be read, and cannot be made: a side that is not mounted may answer so
        found[side] = known[side] = there
        taken.append(side)
    if known != recorded:
        await state.put_note(_NOTE, msgspec.json.encode(known))
    for side in taken:  # after it is recorded: who dies before repeats it, and needs no other word for that
        await state.put_note(f"{MAY_BE_NEW}{side}", b"")


async def require_side(store: ObjectStore, state: State, pair: str) -> None:
    """See that a side which says that an object is gone is the one recorded, and there at all. Raises Halt, and as reads do.

    One read. A side whose id was never written is not asked; a person's word that it may be new or empty holds here too.
    """
    recorded = (await _recorded(state)).get(store.side)
    if recorded is None:
        return
    found = await _read(store, identity_key(pair))
    if found != recorded and not await _may_be_new(store, state, store.side, found):
        raise emptied(store.side)


def emptied(side: Side) -> Halt:
    """The halt of a side that lists nothing."""
    return Halt(
        f"the {side} side lists no object at all, yet the base knows some. Nothing was deleted. If it was emptied on "
        f"purpose: fedplane lift {SIDE_EMPTIED}_{side}",
        reason=f"{SIDE_EMPTIED}_{side}",
        side=side,
    )


async def _recorded(state: State) -> dict[Side, str]:
    packed = await state.note(_NOTE)
    return msgspec.json.decode(packed, type=dict[Side, str]) if packed else {}


async def _may_be_new(store: ObjectStore, state: State, side: Side, found: str) -> bool:
    """Whether a side that is not the recorded one may be taken for it. Raises Halt where it would look deleted."""
    # Emptied on purpose, as a person said, its id went too, and what came since is ours.
    emptied_on_purpose = not found and await state.note(f"{MAY_BE_EMPTY}{side}")
    if emptied_on_purpose or await state.note(f"{MAY_BE_NEW}{side}") or not (await state.backlog()).objects:
        return True
    if not found and not await store.holds_any():
        return False
    what = "is marked as another one's" if found else f"lacks the id that was written there under {PRESERVED_PREFIX}pairs/"
    raise Halt(
        f"the {side} side is not the one this pair's records are of: it {what}. Was it replaced, or restored? Nothing was done. "
        f"If it is the right one: fedplane lift {BUCKET_SWAPPED}_{side}; what it lacks then counts as deleted, within the budget",
        reason=f"{BUCKET_SWAPPED}_{side}",
        side=side,
    )


async def _read(store: ObjectStore, key: str) -> str:
    """The id found; empty when there is none. What is there and no id of ours counts as another one's."""
    try:
        reader = await store.open(key, start=0, length=_MOST_BYTES)
    except NotPresent:
        return ""
    except Reobserve:  # it has not a byte
        return _NO_ID
    try:
        return msgspec.json.decode(await reader.read(), type=_Mark).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _NO_ID
    finally:
        await reader.close()


async def _write(store: ObjectStore, pair: str, wanted: str) -> str:
    """Write the id where there is none; the one that is there if another process was first."""
    data = msgspec.json.encode(_Mark(pair, wanted))
    try:
        await store.put(identity_key(pair), data, Metadata("application/json"), stamp=None, expected_etag=None)
    except Reobserve:
        return await _read(store, identity_key(pair))
    return wanted
