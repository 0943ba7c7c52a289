"""``fedplane reconcile --dry-run`` foretells what a run would refuse and what it would hold, and writes nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from federation.capabilities import Capabilities
from federation.clock import SystemClock
from federation.errors import RetryLater, UsageError
from federation.model import Absent, Change, Metadata, Side, Source
from federation.progress import OPTIONS_NOTE, Backlog, DeleteBudget, DeleteTally, HaltRecord, Held
from federation.rules.decision import Action
from federation.rules.guards import DELETE_FLOOR, MASS_DELETE
from federation.sync.identity import check_identity
from fedplane import exit_codes
from fedplane.commands import explain, reconcile
from fedplane.commands.reconcile import Part
from fedplane.commands.would_hold import would_hold
from operations import capabilities
from operations.scanning import scanner_of
from tests.unit.test_pair_guards import pair as settings_of
from tests.unit.world import World

WHOLE = Part("", ())


class _Bench:
    """A pair of some agreed keys, as a command opens it."""

    def __init__(self) -> None:
        self.world = World()
        self.settings = settings_of({"pair": {"rules": {"deletes": "propagate"}}})

    async def begin(self, keys: int = 60) -> _Bench:
        """Agree on them, as a running engine."""
        for number in range(keys):
            await self.world.write(Side.BLOB, f"d{number % 2}/k{number:03d}", "x")
        await self.world.step()
        await self.world.state.put_note(OPTIONS_NOTE, json.dumps(self.settings.identity).encode())
        await check_identity(self.world.ctx.stores, self.world.state, self.settings.name)
        return self

    def runtime(self) -> Any:  # noqa: ANN401 - stands in
        """The pair, opened."""
        context = self.world.ctx
        budget = SimpleNamespace(tombstone_us=1, delete_budget=DeleteBudget(count=1000, share=0.2, window_seconds=600))
        settings = SimpleNamespace(name="p", rules=budget, blob=self.settings.blob, vast=self.settings.vast)
        return SimpleNamespace(stores=context.stores, state=context.state, context=context, settings=settings, sink=context.state)

    def lose(self, count: int) -> None:
        """A user deletes on VAST."""
        held = self.world.raw[Side.VAST].objects
        for key in [key for key in sorted(held) if key.startswith("d")][:count]:
            del held[key]

    async def hold(self, key: str) -> None:
        """Its delete waits for a person."""
        state = self.world.state
        await state.mark([Change(key, Side.VAST, Source.RECONCILER, deleted=True)])
        lease = self.world.lease
        assert lease is not None
        [claim] = await state.claim(lease, limit=9, now_us=self.world.clock.now_us())
        await state.hold(lease, key, claim.hint.generation, Held(key, Side.BLOB, "over the budget", 1))

    async def show(self, part: Part = WHOLE, *, as_json: bool = True) -> int:
        """The command; it must leave everything as it was."""
        before = [copy.deepcopy(store.objects) for store in self.world.raw.values()], dict(self.world.state._notes)
        settings: Any = SimpleNamespace(reconcile=SimpleNamespace(range_rows=200_000, parallel_ranges=4))
        code = await reconcile._show(settings, self.settings, part, as_json=as_json)
        after = [store.objects for store in self.world.raw.values()], dict(self.world.state._notes)
        assert before == after
        assert await self.world.state.dirty_keys(limit=9) == []
        return code


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> _Bench:
    """Opened by the command."""
    made = _Bench()

    @asynccontextmanager
    async def open_pair(*_: object, **__: object) -> AsyncIterator[Any]:
        yield made.runtime()

    monkeypatch.setattr(reconcile, "open_pair", open_pair)
    monkeypatch.setattr(explain, "open_pair", open_pair)
    monkeypatch.setattr(reconcile, "scanner_of", scanner_of)
    return made


def _summary(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    told = capsys.readouterr()
    return json.loads(told.out.splitlines()[-1]), told.err


async def test_deletes_that_a_run_would_hold_are_called_so(bench: _Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """More of a side than the budget allows at once: none would be carried out."""
    await bench.begin()
    bench.lose(30)
    assert await bench.show() == exit_codes.OK
    summary, _ = _summary(capsys)
    assert (summary["summary"]["delete"], summary["would_be_held"], summary["complete"]) == (30, {"blob": 30}, True)
    assert await bench.show(as_json=False) == exit_codes.OK
    assert "; these 30 deletes on blob would be held, all of them; nothing was written" in capsys.readouterr().out


async def test_few_deletes_are_held_where_an_earlier_scan_found_too_many(
    bench: _Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its word stands until a scan of the whole pair finds few."""
    await bench.begin()
    bench.lose(5)
    await bench.world.state.put_note(f"{MASS_DELETE}{Side.VAST}", b"1")
    for part, held in ((WHOLE, {}), (Part("d0/", ()), {"blob": 5})):
        assert await bench.show(part) == exit_codes.OK
        assert _summary(capsys)[0]["would_be_held"] == held


async def test_what_is_held_already_and_what_the_window_has_no_room_for_is_called_so(
    bench: _Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Few deletes, of a pair whose window's budget is nearly used up."""
    await bench.begin()
    bench.lose(5)
    state, at_us = bench.world.state, SystemClock().now_us()
    budget = bench.settings.rules.delete_budget
    for n in range(DELETE_FLOOR - 2):
        assert await state.reserve_delete(f"gone{n}", budget, objects=0, now_us=at_us)
    assert await bench.show() == exit_codes.OK
    assert _summary(capsys)[0]["would_be_held"] == {"blob": 3}

    await bench.hold("d0/k000")
    assert await bench.show(as_json=False) == exit_codes.OK
    told = capsys.readouterr().out
    assert next(line for line in told.splitlines() if "held" in line).endswith("(deleted_on_vast: deleted; held)")
    assert "; 3 of these 5 deletes on blob would be held; nothing was written" in told


@pytest.mark.parametrize(
    ("objects", "done", "deletes", "waiting", "held"),
    [
        (170, 30, 10, 0, {}),  # a fifth of the 200 that there were are 40
        (170, 30, 11, 0, {Side.BLOB: 1}),
        (170, 30, 11, 1, {Side.BLOB: 1}),
        (170, 30, 34, 34, {Side.BLOB: 34}),
        (170, 30, 35, 0, {Side.BLOB: 35}),  # too many at once
        (170, 45, 1, 0, {Side.BLOB: 1}),
        (10_000_000, 999, 2, 0, {Side.BLOB: 1}),
        (0, 24, 1, 0, {}),
    ],
)
async def test_the_windows_room_is_reckoned_as_the_guard_does(
    objects: int, done: int, deletes: int, waiting: int, held: dict[Side, int]
) -> None:
    """Of what there was before the window's deletes."""

    class State:
        async def backlog(self) -> Backlog:
            return Backlog(0, {}, {}, parked=0, held=0, conflicts=0, objects=objects)

        async def delete_tally(self, budget: DeleteBudget, *, now_us: int) -> DeleteTally:
            del budget, now_us
            return DeleteTally(done=done)

        async def note(self, name: str) -> bytes | None:
            raise AssertionError(name)

    state: Any = State()
    counts, wait, budget = {Side.BLOB: deletes}, {Side.BLOB: waiting}, DeleteBudget(count=1000, share=0.2, window_seconds=600)
    assert await would_hold(state, budget, counts, wait, whole=True, now_us=1) == held


async def test_a_difference_that_is_met_again_after_a_fault_counts_once(
    bench: _Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may be away for a moment between its decision and its record."""
    await bench.begin()
    bench.lose(2)
    state, faults = bench.world.state, [RetryLater("away", reason="redis_unavailable", after_seconds=0.0)]
    original = state.held

    async def held(keys: Sequence[str] | None = None) -> list[Held]:
        if faults:
            raise faults.pop()
        return await original(keys)

    monkeypatch.setattr(state, "held", held)
    assert await bench.show() == exit_codes.OK
    assert _summary(capsys)[0]["summary"]["delete"] == 2


@pytest.mark.parametrize("part", [WHOLE, Part("d1/", ()), Part("", ("d0/k000",))], ids=["whole", "prefix", "key"])
@pytest.mark.parametrize(("also", "halt"), [("", "side_emptied_vast"), ("other", "bucket_swapped_vast")])
async def test_a_side_that_is_away_or_swapped_is_named_and_its_deletes_are_not_believed(
    bench: _Bench, part: Part, also: str, halt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the run would: its text, its exit status."""
    await bench.begin()
    vast = bench.world.raw[Side.VAST]
    vast.objects.clear()
    if also:
        await vast.put(also, b"x", Metadata(), stamp=None, expected_etag=None)
    assert await bench.show(part) == exit_codes.HALTED
    summary, said = _summary(capsys)
    assert (summary["halts"], summary["complete"]) == ([halt], False)
    assert f"fedplane lift {halt}" in said


async def test_settings_that_the_records_do_not_rest_on_are_named(bench: _Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """All of the pair would look deleted."""
    await bench.begin()
    bench.settings = settings_of({"vast": {"prefix": "other/"}})
    assert await bench.show() == exit_codes.HALTED
    summary, said = _summary(capsys)
    assert (summary["halts"], summary["differences"]) == (["pair_options_changed"], 0)
    assert "vast.prefix" in said


async def test_a_halt_that_stands_is_told_beside_what_it_keeps_waiting(bench: _Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Who is to lift it wants to know what then happens."""
    await bench.begin()
    bench.lose(2)
    await bench.world.state.halt(HaltRecord("container_missing", "no such bucket", 1, self_lifting=False))
    assert await bench.show(as_json=False) == exit_codes.HALTED
    told = capsys.readouterr().out
    assert "HALTED container_missing: no such bucket" in told
    assert "2 delete, " in told


@pytest.mark.parametrize("probed", [True, False])
async def test_etags_that_are_no_hashes_foretell_that_contents_are_read(
    bench: _Bench, capsys: pytest.CaptureFixture[str], *, probed: bool
) -> None:
    """As the run does: neither conflict nor agreement follows from them. Where nobody probed, that is said, and nobody does."""
    await bench.begin(0)
    vast = bench.world.raw[Side.VAST]
    vast.capabilities = replace(vast.capabilities, etag_is_md5=False)
    for side in Side:
        await bench.world.write(side, "same", "x", told=False)
    if probed:
        await capabilities.know(bench.runtime(), probe_again=True)
    vast.capabilities = Capabilities()  # as a store is that was just opened
    assert await bench.show() == exit_codes.OK
    summary, _ = _summary(capsys)
    assert summary["summary"] == {"hash": 1}
    assert summary["assumed_capabilities"] == ([] if probed else ["blob", "vast"])
    assert await bench.show(as_json=False) == exit_codes.OK
    assert ("can do is assumed" in capsys.readouterr().out) is not probed
    vast.capabilities = Capabilities()
    unused: Any = None
    found, planned = await explain._explain(unused, bench.settings, "same")
    assert (planned.decision.action, bool(found.assumed_capabilities)) == (Action.HASH, not probed)
    assert ("can do is assumed" in explain._text(found, planned)) is not probed


async def test_a_dry_run_that_read_nothing_was_cut_short_before_the_first_key(
    bench: _Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """No empty name stands for a key."""
    await bench.begin(3)
    bench.world.raw[Side.VAST].objects.clear()
    assert await bench.show(as_json=False) == exit_codes.HALTED
    assert "CUT SHORT before the first key" in capsys.readouterr().out


async def test_a_key_that_nobody_knows_is_explained_as_such(bench: _Bench) -> None:
    """It may be misspelt; one that is agreed, or was and is gone, is known."""
    await bench.begin(3)
    unused: Any = None
    told = {key: explain._text(*await explain._explain(unused, bench.settings, key)) for key in ("no/such", "d0/k000")}
    assert "No side has it and nothing is recorded of it" in told["no/such"]
    assert "nothing is recorded" not in told["d0/k000"]
    for side in Side:
        del bench.world.raw[side].objects["d0/k000"]
    found, planned = await explain._explain(unused, bench.settings, "d0/k000")
    assert (planned.blob, planned.vast, found.base is None) == (Absent(), Absent(), False)
    assert "nothing is recorded" not in explain._text(found, planned)


@pytest.mark.parametrize(("key", "why"), [(".vast_trash", "it is ours or VAST's"), ("", "An empty text is no key")])
async def test_a_key_that_is_never_synchronised_is_not_explained_but_told_why(bench: _Bench, key: str, why: str) -> None:
    """There is nothing to decide."""
    unused: Any = None
    with pytest.raises(UsageError, match=why):
        await explain._explain(unused, bench.settings, key)
