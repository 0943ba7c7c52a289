"""The external sort of a listing."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import sorting
from federation.errors import RetryLater
from federation.model import ListEntry, Stamp
from federation.sorting import sort_entries

_KEYS = st.lists(st.text(min_size=1, max_size=4).filter(lambda key: key.isprintable()))


async def _listing(keys: list[str]) -> AsyncIterator[ListEntry]:
    for number, key in enumerate(keys):
        yield ListEntry(key, f"e{number}", number, Stamp(number), "0" * 32 if number % 2 else None)


@given(_KEYS, st.integers(1, 4))
async def test_the_entries_come_sorted_by_bytes_the_last_of_each_key(keys: list[str], run_entries: int) -> None:
    """Whatever the order and however small the runs, nothing is lost or changed."""
    expected = {entry.key: entry async for entry in _listing(keys)}
    found = [entry async for entry in sort_entries(_listing(keys), run_entries=run_entries)]
    assert found == [expected[key] for key in sorted(expected, key=str.encode)]


async def test_more_runs_than_may_be_open_are_merged_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of open files is bounded."""
    monkeypatch.setattr(sorting, "MOST_RUNS", 3)
    keys = [f"{number * 37 % 100:03d}" for number in range(100)]
    found = [entry.key async for entry in sort_entries(_listing(keys), run_entries=2)]
    assert found == sorted(keys)


async def test_a_listing_that_fails_gives_nothing() -> None:
    """Not even the entries read before: their order is not known."""

    async def failing() -> AsyncIterator[ListEntry]:
        yield ListEntry("a", "e", 1, Stamp(0))
        raise RetryLater("503", reason="throttled")

    with pytest.raises(RetryLater):
        await anext(sort_entries(failing(), run_entries=1))


async def test_memory_does_not_grow_with_the_listing() -> None:
    """One run and a block of each file are held."""

    async def listing() -> AsyncIterator[ListEntry]:
        for number in range(60_000):
            yield ListEntry(f"{number * 7_919 % 60_000:016d}", "e", 1, Stamp(0))

    tracemalloc.start()
    rows = 0
    async for _ in sort_entries(listing(), run_entries=2_000):
        rows += 1
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 60_000
    assert peak_bytes < 10_000_000
