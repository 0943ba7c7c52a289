"""Another container or bucket under the pair's settings is noticed before anything looks deleted."""

from __future__ import annotations

import pytest

from federation.clock import SystemClock
from federation.errors import Halt
from federation.model import Metadata, Side
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from federation.sync.identity import MAY_BE_NEW, check_identity, identity_key
from tests.contract.state_support import agree
from tests.unit.store_server import refusal, served

KEY = identity_key("p")


class _Pair:
    """Two sides, their state, and the check."""

    def __init__(self) -> None:
        self.stores = {side: MemoryStore(side, clock=SystemClock()) for side in Side}
        self.state = MemoryState("p", shards=1, clock=SystemClock())

    async def check(self) -> None:
        """As at a start."""
        await check_identity(dict(self.stores), self.state, "p")

    async def put(self, side: Side, key: str, data: bytes = b"x") -> None:
        """A user's write."""
        await self.stores[side].put(key, data, Metadata(), stamp=None, expected_etag=None)

    def id_on(self, side: Side) -> bytes:
        """What the side's object holds."""
        return self.stores[side].objects[KEY].data

    def swap(self, side: Side) -> None:
        """Another bucket in its place."""
        self.stores[side] = MemoryStore(side, clock=SystemClock())


@pytest.fixture
async def pair() -> _Pair:
    """A pair that agreed on a key."""
    made = _Pair()
    for side in Side:
        await made.put(side, "k")
    await made.check()
    await agree(made.state, "k")
    return made


async def test_the_first_start_marks_both_sides_alike_and_later_ones_write_nothing(pair: _Pair) -> None:
    """One small object on each side; it is never synchronised."""
    assert pair.id_on(Side.BLOB) == pair.id_on(Side.VAST)
    for store in pair.stores.values():
        store.calls.clear()
    await pair.check()
    assert {name for store in pair.stores.values() for name, _ in store.calls} == {"open"}
    assert [entry.key async for entry in pair.stores[Side.BLOB].list()] == ["k"]


@pytest.mark.parametrize("side", list(Side))
async def test_another_bucket_halts_until_a_person_says_that_it_is_right(pair: _Pair, side: Side) -> None:
    """Refilled by somebody, or another pair's; with the word of a person it is marked, and the next start is quiet."""
    pair.swap(side)
    await pair.put(side, "other")
    with pytest.raises(Halt, match=f"fedplane lift bucket_swapped_{side}") as refused:
        await pair.check()
    assert (refused.value.reason, refused.value.side) == (f"bucket_swapped_{side}", side)
    await pair.put(side, KEY, b'{"pair": "q", "id": "another"}')
    with pytest.raises(Halt, match="another one's"):
        await pair.check()
    await pair.state.put_note(f"{MAY_BE_NEW}{side}", b"1")
    await pair.check()
    await pair.check()


async def test_an_empty_side_is_left_to_the_guard_of_emptied_sides(pair: _Pair) -> None:
    """An unmounted or emptied bucket has its own halt, with its own advice, and is not marked anew meanwhile."""
    pair.swap(Side.VAST)
    await pair.check()
    assert KEY not in pair.stores[Side.VAST].objects


async def test_a_lost_state_takes_the_marks_that_are_there(pair: _Pair) -> None:
    """Nothing rests on an empty state: what both sides say is recorded again."""
    before = pair.id_on(Side.BLOB)
    pair.state = MemoryState("p", shards=1, clock=SystemClock())
    await pair.check()
    assert pair.id_on(Side.BLOB) == pair.id_on(Side.VAST) == before


async def test_a_side_that_cannot_be_read_is_not_another_one(pair: _Pair) -> None:
    """Its own halt is raised, and nothing is recorded."""
    pair.stores[Side.BLOB].missing_container = True
    with pytest.raises(Halt) as refused:
        await pair.check()
    assert refused.value.reason == "container_missing"


@pytest.mark.parametrize(
    "held", [b"", b'{"pair":"p","id":"\xff"}', b'{"pair":"p","id":5}', b"[" * 4096], ids=["empty", "no text", "no id", "deep"]
)
async def test_an_id_object_without_an_id_is_another_ones(pair: _Pair, held: bytes) -> None:
    """Whatever somebody wrote there is told by name; it ends no check by an error of its own."""
    blob = pair.stores[Side.BLOB]
    etag = (await blob.head(KEY)).version.etag
    await blob.put(KEY, held, Metadata(), stamp=None, expected_etag=etag)
    with pytest.raises(Halt) as error:
        await pair.check()
    assert error.value.reason == "bucket_swapped_blob"


@pytest.mark.parametrize("side", Side)
async def test_an_id_object_without_a_byte_is_another_ones(pair: _Pair, side: Side) -> None:
    """The services refuse a range of what is empty."""
    async with served(side, lambda _: refusal(416, "InvalidRange", side)) as (store, _):
        with pytest.raises(Halt) as error:
            await check_identity({**pair.stores, side: store}, pair.state, "p")
    assert error.value.reason == f"bucket_swapped_{side}"
