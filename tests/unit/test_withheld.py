"""A mass delete that a scan finds waits as a whole: nothing of it is carried out before a person says so."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from federation.model import Change, Side
from federation.progress import DeleteBudget, Held, MarkResult
from federation.rules.guards import MASS_DELETE, MAY_BE_EMPTY
from reconciler import withheld
from reconciler.scan import Scanner
from tests.unit.test_scan import DAY, _Pair

BUDGET = DeleteBudget(count=1000, share=0.2, window_seconds=600)
"""Of 100 objects 25 may go (the floor)."""


async def _made(gone: int, side: Side) -> tuple[_Pair, Scanner]:
    pair = _Pair()
    for number in range(100):
        await pair.agree(f"k{number:03d}")
    for number in range(gone):
        del pair.raw[side].objects[f"k{number:03d}"]
    state = pair.state
    scanner = Scanner(dict(pair.raw), state, state, pair.clock, quiet_us=0, tombstone_us=30 * DAY, delete_budget=BUDGET)
    return pair, scanner


@pytest.mark.parametrize("side", list(Side))
async def test_more_deletes_than_the_budget_are_known_to_be_held_before_the_first_is_marked(side: Side) -> None:
    """The word that they are held is durable before any worker can see one; the report says so."""
    pair, scanner = await _made(60, side)
    order = _recorded(pair)
    report = await scanner.scan()
    assert (report.complete, report.mass_delete, report.marked) == (True, [side], 60)
    assert order.index(f"{MASS_DELETE}{side}") < order.index(f"{side} is marked")
    assert "MASS DELETE" in report.text()


async def test_deletes_of_both_sides_mixed_are_too_many_by_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few of each side come in a piece: both words are durable before the first of either is marked."""
    monkeypatch.setattr("reconciler.comparison.BATCH", 10)
    pair, _ = await _made(0, Side.VAST)
    for number in range(80):
        del pair.raw[Side.VAST if number % 2 else Side.BLOB].objects[f"k{number:03d}"]
    order = _recorded(pair)
    budget = DeleteBudget(count=30, share=0.3, window_seconds=600)
    state = pair.state
    scanner = Scanner(dict(pair.raw), state, state, pair.clock, quiet_us=0, tombstone_us=30 * DAY, delete_budget=budget)
    report = await scanner.scan()
    assert (report.complete, report.mass_delete, report.marked) == (True, sorted(Side), 80)
    assert [await state.note(f"{MASS_DELETE}{side}") for side in Side] == [b"1", b"1"]
    for side in Side:
        assert order.index(f"{MASS_DELETE}{side}") < order.index(f"{side} is marked")


def _recorded(pair: _Pair) -> list[str]:
    """Notes and marks of *pair*'s state from now on, in their order."""
    order: list[str] = []
    mark, put_note = pair.state.mark, pair.state.put_note

    async def marking(changes: Sequence[Change]) -> MarkResult:
        order.extend(f"{change.side} is marked" for change in changes)
        return await mark(changes)

    async def noting(name: str, value: bytes) -> None:
        order.append(name)
        await put_note(name, value)

    pair.state.mark, pair.state.put_note = marking, noting  # type: ignore[method-assign]
    return order


async def test_of_the_held_deletes_only_those_at_hand_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait for a person: a piece of the scan's deletes asks for its own. What is held already is not marked."""
    pair, scanner = await _made(60, Side.VAST)
    monkeypatch.setattr(withheld, "_MARK_AT_ONCE", 25)
    pair.state._held = {key: Held(key, side, "delete_budget", 1) for key, side in (("k001", Side.BLOB), ("k002", Side.VAST))}
    asked: list[Sequence[str]] = []
    held = pair.state.held

    async def asking(keys: Sequence[str] | None = None) -> list[Held]:
        assert keys is not None
        asked.append(keys)
        return await held(keys)

    pair.state.held = asking  # type: ignore[method-assign]
    report = await scanner.scan()
    assert report.marked == 59
    assert await pair.state.are_dirty(["k000", "k001", "k002"]) == [True, False, True]
    assert [len(keys) for keys in asked][-3:] == [25, 25, 10]


async def test_few_deletes_go_on_and_end_the_word() -> None:
    """Within the budget nothing is held; once a whole scan finds few, deletes are carried out again."""
    pair, scanner = await _made(25, Side.VAST)
    await pair.state.put_note(f"{MASS_DELETE}{Side.VAST}", b"1")
    report = await scanner.scan()
    assert (report.mass_delete, report.marked) == ([], 25)
    assert await pair.state.note(f"{MASS_DELETE}{Side.VAST}") is None


async def test_a_scan_that_is_cut_off_marks_no_delete() -> None:
    """What was not compared to its end says nothing about how many are gone."""
    pair, scanner = await _made(10, Side.VAST)
    pair.raw[Side.BLOB].missing_container = True
    report = await scanner.scan()
    assert (report.complete, report.marked) == (False, 0)


async def test_a_side_that_a_person_called_empty_on_purpose_stays_so_until_it_lists_something() -> None:
    """Else the next scan would halt the pair again while its deletes are held, and rejecting them could restore nothing."""
    pair, scanner = await _made(100, Side.VAST)
    assert (await scanner.scan()).halted == "side_emptied_vast"
    await pair.state.put_note(f"{MAY_BE_EMPTY}{Side.VAST}", b"1")
    assert [(await scanner.scan()).halted for _ in range(2)] == ["", ""]
    await pair.put(Side.VAST, "k000")
    await scanner.scan()
    assert await pair.state.note(f"{MAY_BE_EMPTY}{Side.VAST}") is None
