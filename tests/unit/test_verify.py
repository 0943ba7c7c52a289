"""Reading everything: what no ETag tells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from federation.errors import Park, Reobserve, RetryLater
from federation.model import Change, ListEntry, Present, Side, Source
from federation.ports import ObjectStore
from federation.progress import DeleteBudget
from federation.sync.budget import ByteBudget
from federation.sync.paced_store import PacedStore
from federation.sync.transfer import Transfer, TransferLimits
from fedplane.commands import reconcile
from reconciler import verify as verification
from reconciler.verify import AT_ONCE, PATIENCE_SECONDS, TRIES, Hasher, Verified, verify
from tests.unit.test_patience import _Clock
from tests.unit.test_scan import DAY, _Pair
from tests.unit.world import FakeClock, World


async def test_contents_that_differ_under_agreed_versions_are_named() -> None:
    """Rot, or a write that kept its ETag: found by reading both sides fully; nothing is changed by looking."""
    pair = _Pair()
    for key in ("fine", "rotten", "busy", "alone", "locked"):
        await pair.agree(key)
    held = pair.raw[Side.VAST].objects
    held["rotten"] = replace(held["rotten"], data=b"y")
    del held["alone"]
    await pair.state.mark([Change("busy", Side.BLOB, Source.EVENT_GRID, etag="new")])
    transfer = Transfer(TransferLimits(1_000, 1_000, 1), ByteBudget(1_000_000))
    read = transfer.hash_object

    async def hash_object(store: ObjectStore, key: str, present: Present) -> str:
        if key == "locked":
            raise Park("archived", reason="archived", key=key)
        return await read(store, key, present)

    transfer.hash_object = hash_object  # type: ignore[method-assign, assignment]
    found = await verify(dict(pair.raw), pair.state, transfer, _Clock())
    assert (found.read, found.in_flight, found.differ, found.one_sided) == (2, 1, ["rotten"], ["alone"])
    assert found.unreadable == ["locked (archived)"]
    assert not found.fine
    assert "OTHER CONTENT on the two sides: rotten" in found.text()
    assert await pair.state.dirty_keys(limit=9) == ["busy"]


async def _busy(pair: _Pair, *keys: str) -> None:
    await pair.state.mark([Change(key, Side.BLOB, Source.EVENT_GRID, etag="new") for key in keys])


async def test_what_is_never_read_is_not_called_equal() -> None:
    """Keys that wait to be applied (the pair is halted, a side throttles) are looked at again, then counted and named."""
    pair, clock = _Pair(), _Clock()
    for key in ("a", "b"):
        await pair.agree(key)
    await _busy(pair, "a", "b")
    found = await verify(dict(pair.raw), pair.state, _Reading(), clock)
    assert (found.read, found.in_flight, found.changing, found.complete) == (0, 2, ["a", "b"], True)
    assert not found.fine
    assert "2 keys wait to be applied, or kept changing: nothing is said about them" in found.text()
    assert "equal" not in found.text()
    assert clock.slept_seconds > 0


async def test_what_was_in_flight_is_read_once_it_rests() -> None:
    """It was applied, deleted on both sides, or its writer stopped, while the rest was read: everything is said then."""
    pair = _Pair()
    for key in ("applied", "deleted", "moving", "rests"):
        await pair.agree(key)
    await _busy(pair, "applied", "deleted")

    moved: list[str] = []

    class Moving(_Reading):
        async def hash_object(self, store: ObjectStore, key: str, present: Present) -> str:
            if key == "moving" and not moved:
                moved.append(key)
                raise Reobserve("another version", reason="precondition")
            return await super().hash_object(store, key, present)

    class Worked(_Clock):
        async def sleep(self, seconds: float) -> None:
            for side in Side:
                pair.raw[side].objects.pop("deleted", None)
            lease = await pair.state.acquire(0, owner="t", ttl_seconds=60)
            assert lease is not None
            for claim in await pair.state.claim(lease, limit=9, now_us=pair.clock.us + DAY):
                await pair.state.settle(lease, claim.hint.key, claim.hint.generation, None)
            await pair.state.release(lease)
            await super().sleep(seconds)

    found = await verify(dict(pair.raw), pair.state, Moving(), Worked())
    assert (found.read, found.in_flight, found.changing, found.one_sided) == (3, 0, [], [])
    assert found.fine


async def test_much_that_is_in_flight_is_looked_at_again_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is named stays bounded and yet, of a pair at work, everything is read in the end."""
    monkeypatch.setattr(verification, "_PAGE", 5)
    monkeypatch.setattr(verification, "MOST_NAMED", 10)
    pair = _Pair()
    for number in range(40):
        await pair.agree(f"k{number:02d}")
    reading = _Reading()
    once: set[str] = set()

    async def hash_object(store: ObjectStore, key: str, present: Present) -> str:
        if key not in once:
            once.add(key)
            raise Reobserve("another version", reason="precondition")
        return await reading.hash_object(store, key, present)

    found = await verify(dict(pair.raw), pair.state, SimpleNamespace(hash_object=hash_object), _Clock())
    assert (found.read, found.in_flight, found.fine) == (40, 0, True)


class _Reading:
    """Reads contents, and fails as often as is said for a key."""

    def __init__(self, **failing: int) -> None:
        self.left = Counter(failing)
        self.transfer = Transfer(TransferLimits(1_000, 1_000, 1), ByteBudget(1_000_000))

    async def hash_object(self, store: ObjectStore, key: str, present: Present) -> str:
        """As a transfer."""
        if self.left[key]:
            self.left[key] -= 1
            raise RetryLater("503", reason="server_error")
        return await self.transfer.hash_object(store, key, present)


def _cut(pair: _Pair, *rows: int) -> None:
    """VAST's listings end with a fault after so many entries, one after the other; then they are whole."""
    store, left = pair.raw[Side.VAST], list(rows)
    original = store.list

    async def cut(*, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        most, count = left.pop(0) if left else -1, 0
        async for entry in original(prefix=prefix, start_after=start_after):
            if count == most:
                raise RetryLater("503", reason="throttled")
            count += 1
            yield entry

    store.list = cut  # type: ignore[method-assign]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> _Pair:
    """A pair of 40 keys that the commands open: one key differs, one is on Blob only."""
    pair = _Pair()

    @asynccontextmanager
    async def open_pair(*_: object, **__: object) -> AsyncIterator[Any]:
        context = SimpleNamespace(transfer=_Reading(), clock=_Clock())
        settings = SimpleNamespace(name="p")
        yield SimpleNamespace(stores=pair.raw, state=pair.state, context=context, settings=settings)

    async def planned(_: object, key: str) -> SimpleNamespace:
        return SimpleNamespace(key=key, decision=SimpleNamespace(action="copy", source=None, reason="", preserve=None))

    monkeypatch.setattr(reconcile, "open_pair", open_pair)
    monkeypatch.setattr(reconcile, "scanner_of", lambda *_, **__: pair.scanner)
    monkeypatch.setattr(reconcile, "plan", planned)
    monkeypatch.setattr(reconcile, "SystemClock", _Clock)
    monkeypatch.setattr(verification, "_PAGE", 5)
    monkeypatch.setattr("reconciler.comparison.BATCH", 5)
    return pair


def _documents(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was emitted, without the log."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


async def _fill(pair: _Pair) -> None:
    for number in range(40):
        await pair.agree(f"k{number:02d}")
    held = pair.raw[Side.VAST].objects
    held["k03"] = replace(held["k03"], data=b"y")
    del held["k10"]


async def test_one_fault_among_many_reads_is_passed_over_and_one_that_stays_is_named() -> None:
    """Neither ends what may take days."""
    pair = _Pair()
    for key in ("fine", "sick", "slow"):
        await pair.agree(key)
    reading: Hasher = _Reading(slow=TRIES - 1, sick=TRIES)
    found = await verify(dict(pair.raw), pair.state, reading, _Clock())
    assert (found.read, found.differ, found.unreadable, found.complete) == (2, [], ["sick (server_error)"], True)


class _Asked(FakeClock):
    """Counts the pauses."""

    pauses = 0

    async def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.pauses += 1
        await super().sleep(seconds)


async def test_a_side_that_asks_for_rest_is_waited_for() -> None:
    """A closed gate says nothing about the keys: all are read, also those that were in flight when it closed."""
    world = World()
    for number in range(40):
        await world.write(Side.BLOB, f"k{number:02d}", "x")
    await world.step()
    vast = world.ctx.stores[Side.VAST]
    assert isinstance(vast, PacedStore)
    rest = RetryLater("503", reason="throttled", side=Side.VAST, after_seconds=100.0)

    async def hash_object(store: ObjectStore, key: str, present: Present) -> str:
        if rests:
            vast.gate.failed(rests.pop())
        return await world.ctx.transfer.hash_object(store, key, present)

    rests, begun = [rest], world.clock.monotonic_seconds()
    hasher = SimpleNamespace(hash_object=hash_object)
    found = await verify(world.ctx.stores, world.state, hasher, world.clock)
    assert (found.read, found.unreadable, found.fine) == (40, [], True)
    assert world.clock.monotonic_seconds() - begun >= 100
    rests.append(rest)
    later = Verified(changing=["k00"], in_flight=1, resume="k99")
    found = await verify(world.ctx.stores, world.state, hasher, world.clock, found=later)
    assert (found.read, found.in_flight) == (1, 0)


async def test_a_side_that_rests_for_ever_is_blamed_itself_and_not_waited_for_again() -> None:
    """Patience is long but ends, once for all keys, also while the other side answers; the keys are not blamed."""
    pair, clock, reading = _Pair(), _Asked(), _Reading()
    for number in range(40):
        await pair.agree(f"k{number:02d}")

    async def hash_object(store: ObjectStore, key: str, present: Present) -> str:
        if store.side is Side.VAST:
            raise RetryLater("vast asked for rest", reason="paced", side=Side.VAST, after_seconds=60.0)
        return await reading.hash_object(store, key, present)

    begun = clock.monotonic_seconds()
    found = await verify(dict(pair.raw), pair.state, SimpleNamespace(hash_object=hash_object), clock)
    assert found.unreadable == [f"k{number:02d} (not its fault: vast asked for rest)" for number in range(40)]
    assert (clock.monotonic_seconds() - begun) >= PATIENCE_SECONDS
    assert clock.pauses <= AT_ONCE * (PATIENCE_SECONDS // 60 + 1)


async def test_many_objects_that_cannot_be_read_are_named_soon() -> None:
    """A server's error on each of them is no request for rest: a few tries, and the next one."""
    pair, clock = _Pair(), _Asked()
    for number in range(40):
        await pair.agree(f"k{number:02d}")

    async def hash_object(*_: object) -> str:
        raise RetryLater("500", reason="server_error", side=Side.VAST)

    found = await verify(dict(pair.raw), pair.state, SimpleNamespace(hash_object=hash_object), clock)
    assert found.unreadable == [f"k{number:02d} (server_error)" for number in range(40)]
    assert clock.pauses == 40 * (TRIES - 1)


async def test_the_line_of_large_objects_is_waited_out() -> None:
    """It is our own, and moves: a key behind many is read when its turn comes."""
    pair, clock, reading = _Pair(), _Asked(), _Reading()
    await pair.agree("large")

    async def hash_object(store: ObjectStore, key: str, present: Present) -> str:
        if clock.pauses < 100:
            raise RetryLater("other large objects go first", reason="bulk_busy", after_seconds=60.0)
        return await reading.hash_object(store, key, present)

    found = await verify(dict(pair.raw), pair.state, SimpleNamespace(hash_object=hash_object), clock)
    assert (found.read, found.fine) == (1, True)


async def test_a_verification_goes_on_where_its_listing_was_cut(opened: _Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """However often: each key is read once, none is called one-sided for it."""
    await _fill(opened)
    _cut(opened, *[12] * 13, 100)
    settings: Any = SimpleNamespace(name="p", reconcile=None)
    code = await reconcile._verify(settings, settings, "", as_json=True)
    [document] = _documents(capsys)
    found = document["verified"]
    assert (code, found["read"], found["differ"], found["one_sided"]) == (1, 39, ["k03"], ["k10"])
    assert found["complete"]
    assert document["assumed_capabilities"] == ["blob", "vast"]  # nobody probed, nor does it
    assert not opened.raw[Side.VAST].capabilities.etag_is_md5


async def test_what_a_verification_found_is_told_when_it_is_cut_short(opened: _Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """Hours of reading are not for nothing."""
    await _fill(opened)
    _cut(opened, 12, *[0] * 50)
    settings: Any = SimpleNamespace(name="p", reconcile=None)
    with pytest.raises(RetryLater):
        await reconcile._verify(settings, settings, "", as_json=False)
    told = capsys.readouterr().out
    assert "OTHER CONTENT on the two sides: k03" in told
    assert "CUT SHORT" in told
    assert "equal" not in told


@pytest.mark.parametrize("cuts", [[12], [12, 0, 8, 3]])
async def test_a_dry_run_goes_on_where_its_listing_was_cut(
    opened: _Pair, cuts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each difference is told once."""
    await _fill(opened)
    for number in range(20, 30):
        await opened.put(Side.BLOB, f"k{number}x")
    _cut(opened, *cuts)
    rules = SimpleNamespace(delete_budget=DeleteBudget(count=1000, share=0.2, window_seconds=600))
    settings: Any = SimpleNamespace(name="p", reconcile=None, rules=rules)
    await reconcile._show(settings, settings, reconcile.Part("", ()), as_json=True)
    *lines, summary = _documents(capsys)
    assert [line["key"] for line in lines] == ["k10", *(f"k{number}x" for number in range(20, 30))]
    assert (summary["differences"], summary["complete"]) == (11, True)


async def test_a_dry_run_that_is_cut_short_says_so(opened: _Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """What it told until then is no whole picture."""
    await _fill(opened)
    _cut(opened, 25, *[0] * 50)
    settings: Any = SimpleNamespace(name="p", reconcile=None)
    with pytest.raises(RetryLater):
        await reconcile._show(settings, settings, reconcile.Part("", ()), as_json=False)
    assert "1 copy; nothing was written; CUT SHORT after" in capsys.readouterr().out
