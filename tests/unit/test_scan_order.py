"""Scans in ranges of a server that sorts by a rule of its own: nothing is passed over, and nothing is taken for deleted."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise

import pytest

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.keys import VAST_COMMON
from federation.model import Base, ListEntry, Metadata, Side
from federation.stores.listing import OrderedListing
from federation.stores.memory import MemoryStore
from federation.stores.pages import Page
from reconciler import parallel
from reconciler.book import Book, whole_scans
from reconciler.scan import ScanOptions
from reconciler.seams import in_span
from tests.unit.test_ranges import _Pair as Ranges


def _by_directory(name: str) -> list[bytes]:
    return [part.encode() for part in name.split("/")]


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")


class _Server(MemoryStore):
    """Sorts names by *order* and starts a listing there, as a real one does; its store checks the order."""

    def __init__(self, side: Side, order: Callable[[str], object], *, starts_by_bytes: bool = False) -> None:
        self._listed = OrderedListing(side, VAST_COMMON, "", self._pages)
        super().__init__(side, clock=SystemClock())
        self._order = order
        self._starts_by = str.encode if starts_by_bytes else order

    @property
    def ordered(self) -> bool:
        """As the stores of real servers."""
        return self._listed.in_order

    @ordered.setter
    def ordered(self, known: bool) -> None:
        self._listed.in_order = known

    async def _pages(self, prefix: str, start_after: str) -> AsyncIterator[Page]:
        entries = [entry async for entry in MemoryStore.list(self, prefix=prefix)]
        left = [one for one in entries if not start_after or self._starts_by(one.key) > self._starts_by(start_after)]  # type: ignore[operator]
        left.sort(key=lambda one: self._order(one.key))  # type: ignore[arg-type,return-value]
        for at in range(0, len(left), 100):
            yield Page(left[at : at + 100], "")

    async def list(self, *, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        """Through the listing of real stores."""
        async for entry in self._listed.entries(prefix, start_after):
            yield entry


class _Pair(Ranges):
    """Blob sorts by bytes, VAST otherwise."""

    def __init__(self, order: Callable[[str], object], *, starts_by_bytes: bool = False) -> None:
        super().__init__()
        vast = _Server(Side.VAST, order, starts_by_bytes=starts_by_bytes)
        self.servers = {Side.BLOB: _Server(Side.BLOB, str.encode), Side.VAST: vast}  # type: ignore[dict-item]

    async def put(self, side: Side, key: str) -> None:
        """A write without an event."""
        await self.servers[side].put(key, b"x", Metadata(), stamp=None, expected_etag=None)

    async def agreed(self, keys: list[str]) -> None:
        """Keys that both sides hold as the base says, in a first scan that cuts the next one into four ranges."""
        for key in keys:
            await self.agree(key)
        assert (await self.process("a").scan()).in_step == len(keys)
        assert len(await Book(self.state).bounds()) == 3


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.comparison.BATCH", 50)
    monkeypatch.setattr(parallel, "POLL_SECONDS", 0.01)


FOLDER = [f"data/k{number:05d}" for number in range(2_000)]
HIGH = [f"{chr(0xF900 + number // 200)}{number:05d}" for number in range(2_000)]
ODD = [(_by_directory, FOLDER, "data.bak"), (_utf16, HIGH, "\U0001f600.txt")]


@pytest.mark.parametrize(("order", "keys", "new"), ODD)
async def test_a_name_that_the_server_sorts_elsewhere_ends_the_cutting(
    order: Callable[[str], object], keys: list[str], new: str
) -> None:
    """It lies in no range, or cuts one short: the scan says so, takes nothing for deleted, and the next finds it as one range."""
    pair = _Pair(order)
    await pair.agreed(keys)
    await pair.put(Side.VAST, new)
    cut = await pair.process("a").scan()
    assert (cut.complete, "order" in cut.error, set(cut.drift) <= {"only_on_vast"}) == (False, True, True)
    whole = await pair.process("a").scan()
    assert (whole.complete, whole.ranges, whole.in_step, whole.drift) == (True, 1, len(keys), {"only_on_vast": 1})
    assert await pair.state.dirty_keys(limit=9_999) == [new]
    assert (await pair.process("a").scan()).ranges == 1


@pytest.mark.parametrize(("limit", "how"), [(2, "what came late sorted in memory"), (1, "all sorted on disk")])
async def test_a_scan_says_why_a_side_is_listed_twice(limit: int, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with an order of its own, sorted by its store: in memory, or on disk where too much comes late. It is kept."""
    monkeypatch.setattr("federation.stores.listing.LATE_LIMIT", limit)
    pair = _Pair(_by_directory)
    pair.servers[Side.VAST].ordered = False  # as nothing was listed yet
    for key in ("data.bak", "data.new", "data/a", "data/b"):
        await pair.agree(key)
    report = await pair.process("a").scan()
    assert (report.in_step, report.reordered) == (4, {Side.VAST: limit == 1})
    assert f"  vast lists otherwise than by keys: listed twice, {how}" in report.text().splitlines()
    kept = await whole_scans(pair.state)
    assert [one.reordered for one in kept] == [report.reordered]


@pytest.mark.parametrize(("order", "keys", "new"), ODD)
async def test_a_server_that_sorts_one_way_and_starts_another_is_found_out_in_time(
    order: Callable[[str], object], keys: list[str], new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No seam shows it. From time to time a whole scan is one range, and that sees it."""
    monkeypatch.setattr(parallel, "MOST_CUTS", 2)
    pair = _Pair(order, starts_by_bytes=True)
    await pair.agreed(keys)
    await pair.put(Side.VAST, new)
    *_, last = [await pair.process("a").scan() for _ in range(4)]
    assert (last.complete, last.ranges, last.in_step) == (True, 1, len(keys))
    assert new in await pair.state.dirty_keys(limit=9_999)


async def test_a_listing_goes_on_from_its_own_side_s_last_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server sorts a key that only the other side has is not known: nothing before it there is taken for deleted."""
    pair = _Pair(_by_directory)
    for number in range(400):
        await pair.agree(f"a/{number:03d}")
    await pair.put(Side.BLOB, "data.bak")
    for key in FOLDER[:400]:
        await pair.agree(key)
    monkeypatch.setattr("reconciler.comparison.BATCH", 10)
    bases = pair.state.bases

    async def away(keys: Sequence[str]) -> Sequence[Base | None]:
        if max(keys) > "data.bak":
            raise RetryLater("the state is away")
        return await bases(keys)

    monkeypatch.setattr(pair.state, "bases", away)
    cut_off = await pair.process("a", ScanOptions(owner="a", save_rows=10)).scan()
    assert (cut_off.complete, cut_off.rows, cut_off.drift) == (False, 401, {"only_on_blob": 1})  # the last is data.bak
    monkeypatch.undo()
    report = await pair.process("b").scan()
    assert (report.complete, report.resumed, report.drift, report.in_step) == (True, 1, {"only_on_blob": 1}, 800)


async def _spans(store: MemoryStore, bounds: Sequence[str]) -> list[str]:
    """The keys of all ranges, one after the other."""
    return [
        entry.key
        for after, until in pairwise(["", *bounds, ""])
        async for entry in in_span(store, prefix="", after=after, until=until)
    ]


@pytest.mark.parametrize("bounds", [["b"], ["bb"], ["", "a"], ["c"], ["z"], ["a", "b", "c"], ["0", "bb", "z"]])
async def test_ranges_are_the_whole_wherever_they_are_cut(bounds: list[str]) -> None:
    """At a key, between two, before the first, after the last: each key once."""
    store = MemoryStore(Side.BLOB, clock=SystemClock())
    for key in "abc":
        await store.put(key, b"x", Metadata(), stamp=None, expected_etag=None)
    assert await _spans(store, [bound for bound in bounds if bound]) == ["a", "b", "c"]


@pytest.mark.parametrize("change", ["-c", "+bc", "-b", "+aa", "-c-d"])
async def test_a_key_that_comes_or_goes_between_two_looks_at_a_seam_is_no_disorder(change: str) -> None:
    """Beyond the bound or before it: the range is read on, and what stayed is there once."""
    store = MemoryStore(Side.BLOB, clock=SystemClock())
    for key in "abcd":
        await store.put(key, b"x", Metadata(), stamp=None, expected_etag=None)
    calls: list[str] = []

    async def changing(call: str, _: str) -> None:
        calls.append(call)
        if calls.count("list") == 2:
            for gone in re.findall("-([a-z]+)", change):
                store.objects.pop(gone, None)
            for new in re.findall(r"\+([a-z]+)", change):
                store.objects[new] = store.objects["a"]

    store._hook = changing
    found = await _spans(store, ["b"])
    stayed = [key for key in "abcd" if f"-{key}" not in change]
    assert [key for key in found if key in stayed] == stayed
    assert len(found) == len(set(found))
    assert store.ordered


async def test_a_seam_that_never_agrees_is_disorder() -> None:
    """The store is no longer believed, and the scan is told to begin anew."""
    store = _Server(Side.VAST, _by_directory)
    for key in ("a", "data.bak", "data/a", "data/b"):
        await store.put(key, b"x", Metadata(), stamp=None, expected_etag=None)
    store.ordered = True
    with pytest.raises(RetryLater) as error:
        [entry async for entry in in_span(store, prefix="", after="", until="data.zzz")]
    assert (error.value.reason, error.value.side, store.ordered) == ("listing_order", Side.VAST, False)
