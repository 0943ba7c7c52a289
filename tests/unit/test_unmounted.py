"""A side that is not mounted, or was swapped, looks like one whose objects were deleted: no delete follows from that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from unittest.mock import AsyncMock

import pytest

from federation.errors import Halt, Reobserve, RetryLater
from federation.model import Metadata, Side
from federation.ports import ObjectStore
from federation.progress import DeleteBudget
from federation.rules.guards import MAY_BE_EMPTY
from federation.stores.memory import MemoryStore
from federation.sync.identity import MAY_BE_NEW, check_identity, identity_key, require_side
from reconciler.report import Report
from reconciler.scan import Scanner
from tests.unit.test_scan import DAY, _Pair
from tests.unit.world import World

KEYS = 100
SOME = [f"p{number % 4}/k{number:03d}" for number in range(KEYS)]


class _Mounted(_Pair):
    """A pair that agreed on some keys, marked on both sides, with the scan's guard."""

    async def begin(self, *, budget: int = 1000) -> _Mounted:
        """Agree on the keys."""
        stores: dict[Side, ObjectStore] = dict(self.raw)

        async def guard() -> None:
            await check_identity(stores, self.state, "pair")

        for key in SOME:
            await self.agree(key)
        await guard()
        self.scanner = Scanner(
            stores,
            self.state,
            self.state,
            self.clock,
            quiet_us=0,
            tombstone_us=30 * DAY,
            delete_budget=DeleteBudget(count=budget, share=1.0, window_seconds=600),
            guard=guard,
        )
        return self

    def swap(self, *, also: str = "") -> None:
        """VAST's bucket is another one from now on: empty, but for *also*."""
        held = self.raw[Side.VAST].objects
        kept = next(iter(held.values()))
        held.clear()
        if also:
            held[also] = kept


SCANS: dict[str, Callable[[Scanner], Awaitable[Report]]] = {
    "prefix": lambda scanner: scanner.scan(prefix="p3/"),
    "keys": lambda scanner: scanner.scan_keys(SOME[3:4]),
    "whole": lambda scanner: scanner.scan(),
}


@pytest.mark.parametrize("budget", [1000, 5])
@pytest.mark.parametrize("scan", ["prefix", "keys"])
async def test_a_scan_of_a_part_of_an_unmounted_side_marks_no_delete_and_halts(scan: str, budget: int) -> None:
    """However small the part, and however many deletes it finds at once: the side lists nothing at all."""
    pair = await _Mounted().begin(budget=budget)
    pair.swap()
    report = await SCANS[scan](pair.scanner)
    assert (report.complete, report.halted, report.marked) == (False, "side_emptied_vast", 0)
    assert [record.name for record in await pair.state.halts()] == ["side_emptied_vast"]
    assert await pair.state.dirty_keys(limit=9) == []


@pytest.mark.parametrize("budget", [1000, 5])
@pytest.mark.parametrize(("also", "halted"), [("", "side_emptied_vast"), ("other", "bucket_swapped_vast")])
async def test_a_side_that_goes_away_while_it_is_listed_lost_nothing(also: str, halted: str, budget: int) -> None:
    """The listing ends early and without a fault; what it did not come to is not gone."""
    pair = await _Mounted().begin(budget=budget)
    vast = pair.raw[Side.VAST]
    listed, before = vast.list, dict(vast.objects)

    async def cut(**asked: str):  # type: ignore[no-untyped-def] # noqa: ANN202 - an async generator, as the store's
        many = 0
        vast.objects.update(before)
        async for entry in listed(**asked):
            many += 1
            if many > KEYS - 15:
                pair.swap(also=also)
                vast.list = listed  # type: ignore[method-assign]
                return
            yield entry

    vast.list = cut  # type: ignore[method-assign]
    report = await pair.scanner.scan()
    assert (report.complete, report.halted, report.marked) == (False, halted, 0)
    assert await pair.state.dirty_keys(limit=9) == []


@pytest.mark.parametrize(("scan", "marked"), [("prefix", 25), ("keys", 1), ("whole", 100)])
async def test_a_side_that_a_person_called_empty_has_its_deletes_marked(scan: str, marked: int) -> None:
    """The word given with ``fedplane lift`` holds for each kind of scan."""
    pair = await _Mounted().begin()
    pair.swap()
    await pair.state.put_note(f"{MAY_BE_EMPTY}{Side.VAST}", b"1")
    report = await SCANS[scan](pair.scanner)
    assert (report.halted, report.marked) == ("", marked)


@pytest.mark.parametrize("scanned", [True, False])
async def test_what_comes_to_a_side_that_a_person_called_empty_is_the_pair_s(*, scanned: bool) -> None:
    """Its id went with the rest; the first copy that comes there does not make it another bucket."""
    pair = await _Mounted().begin()
    pair.swap()
    await pair.state.put_note(f"{MAY_BE_EMPTY}{Side.VAST}", b"1")
    if scanned:
        await pair.scanner.scan()
    await pair.raw[Side.VAST].put("new", b"new", Metadata(), stamp=None, expected_etag=None)
    await require_side(pair.raw[Side.VAST], pair.state, "pair")
    report = await pair.scanner.scan()
    assert (report.complete, report.halted) == (True, "")
    assert identity_key("pair") in pair.raw[Side.VAST].objects


async def test_a_person_s_word_on_a_swapped_side_outlives_a_crash_before_its_id_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the same start halts anew, and the word must be given again."""
    pair = await _Mounted().begin()
    pair.swap(also="other")
    word = f"{MAY_BE_NEW}{Side.VAST}"
    await pair.state.put_note(word, b"1")
    put_note = pair.state.put_note

    async def away_when_recorded(name: str, value: bytes) -> None:
        if name != word:
            raise RetryLater("Redis does not answer", reason="redis_unavailable")
        await put_note(name, value)

    monkeypatch.setattr(pair.state, "put_note", away_when_recorded)
    stores: dict[Side, ObjectStore] = dict(pair.raw)
    foreign = b'{"pair": "pair", "id": "another"}'
    await pair.raw[Side.VAST].put(identity_key("pair"), foreign, Metadata(), stamp=None, expected_etag=None)
    with pytest.raises(RetryLater):
        await check_identity(stores, pair.state, "pair")
    monkeypatch.setattr(pair.state, "put_note", put_note)
    assert await pair.state.note(word) == b"1"
    await check_identity(stores, pair.state, "pair")
    assert await pair.state.note(word) is None


async def test_a_word_on_a_swapped_side_is_spent_when_the_right_one_is_back() -> None:
    """It was given for what was there then: another bucket that comes later halts the pair."""
    pair = await _Mounted().begin()
    stores: dict[Side, ObjectStore] = dict(pair.raw)
    await pair.state.put_note(f"{MAY_BE_NEW}{Side.VAST}", b"1")
    await check_identity(stores, pair.state, "pair")
    pair.swap(also="other")
    with pytest.raises(Halt, match="not the one"):
        await check_identity(stores, pair.state, "pair")


async def test_a_side_that_comes_back_after_a_person_called_it_empty_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile its id could neither be read nor made; what was recorded of it stays."""
    pair = await _Mounted().begin()
    vast, kept = pair.raw[Side.VAST], dict(pair.raw[Side.VAST].objects)
    pair.swap()
    await pair.state.put_note(f"{MAY_BE_EMPTY}{Side.VAST}", b"1")
    monkeypatch.setattr(vast, "put", AsyncMock(side_effect=Reobserve("412", reason="precondition")))
    assert (await pair.scanner.scan()).complete
    monkeypatch.undo()
    vast.objects.update(kept)
    report = await pair.scanner.scan()
    assert (report.complete, report.halted) == (True, "")
    await require_side(vast, pair.state, "pair")


@pytest.mark.parametrize("budget", [1000, 5])
async def test_a_scan_asks_again_only_while_a_side_s_deletes_may_be_carried_out(
    monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """Once they are too many, all that follow are held: however large the incident, it is asked about once or twice."""
    monkeypatch.setattr("reconciler.comparison.BATCH", 10)
    pair = await _Mounted().begin(budget=budget)
    asked, holds_any = 0, pair.raw[Side.VAST].holds_any

    async def counted() -> bool:
        nonlocal asked
        asked += 1
        return await holds_any()

    monkeypatch.setattr(pair.raw[Side.VAST], "holds_any", counted)
    for key in SOME[:-1]:
        del pair.raw[Side.VAST].objects[key]
    report = await pair.scanner.scan()
    assert (report.complete, report.mass_delete) == (True, ["vast"] if budget == 5 else [])
    assert asked == 1


# ------------------------------------------------------------------------------------------------------------ deletes by event


async def _agreed(*keys: str) -> World:
    world = World()
    for key in keys:
        await world.write(Side.BLOB, key, "x")
    await world.step()
    await check_identity(world.ctx.stores, world.state, world.ctx.name)
    world.requests = 0
    return world


@pytest.mark.parametrize(("also", "halted"), [("", "side_emptied_vast"), ("other", "bucket_swapped_vast")])
async def test_an_event_of_a_side_that_is_not_there_deletes_nothing(also: str, halted: str) -> None:
    """A late, doubled or forged event makes us look; a side without its id object has no say."""
    world = await _agreed("k")
    vast = world.raw[Side.VAST]
    vast.objects.clear()
    if also:
        await vast.put(also, b"x", Metadata(), stamp=None, expected_etag=None)
    await world.tell(Side.VAST, "k", deleted=True)
    with pytest.raises(Halt) as refused:
        await world.step()
    assert refused.value.reason == halted
    assert await world.text(Side.BLOB, "k") == "x"


async def test_an_id_object_that_cannot_be_read_puts_the_delete_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Could not read is not absent: no halt, no delete (rule 3)."""
    world = await _agreed("k")
    await world.remove(Side.VAST, "k")
    opened = MemoryStore.open

    async def unread(store: MemoryStore, key: str, **asked: object) -> object:
        if key == identity_key("pair"):
            raise RetryLater("no answer", side=store.side)
        return await opened(store, key, **asked)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryStore, "open", unread)
    with pytest.raises(RetryLater):
        await world.step()
    assert await world.text(Side.BLOB, "k") == "x"


async def test_a_delete_that_was_meant_costs_one_read_more() -> None:
    """The look, the read of the id object, the delete; a person's word that the side may be empty lets it pass too."""
    world = await _agreed("k", "l")
    await world.remove(Side.VAST, "k")
    await world.step()
    assert (await world.both("k"), world.requests) == ((None, None), 3)
    world.raw[Side.VAST].objects.clear()
    await world.state.put_note(f"{MAY_BE_EMPTY}{Side.VAST}", b"1")
    await world.tell(Side.VAST, "l", deleted=True)
    await world.step()
    assert await world.both("l") == (None, None)


async def test_deletes_at_a_time_share_a_read_that_began_after_the_last_asked() -> None:
    """One read under way serves nobody who asks meanwhile; the next serves all of them."""
    world = await _agreed("k")
    vast, reads, go_on = world.raw[Side.VAST], 0, asyncio.Event()

    async def held(call: str, key: str) -> None:
        nonlocal reads
        if call == "open" and key == identity_key("pair"):
            reads += 1
            await go_on.wait()

    vast._hook = held
    first = asyncio.create_task(world.ctx.require_side(Side.VAST))
    while not reads:
        await asyncio.sleep(0)
    rest = [asyncio.create_task(world.ctx.require_side(Side.VAST)) for _ in range(9)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, *rest)
    assert reads == 2
