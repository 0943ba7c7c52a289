"""An object that is never answered for, beside others that are; see ``federation.sync.blame``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from federation.errors import Park, RetryLater
from federation.model import Side
from federation.stores.memory import MemoryReader, MemoryStore
from federation.sync.blame import PERHAPS_THE_KEYS_FAULT, Blame
from federation.sync.pacing import Gate
from tests.simulation.loop import SimLoop
from tests.unit.test_fairness import _Pair, _running, _Shared
from tests.unit.world import FakeClock


def test_one_object_that_is_never_answered_for_closes_no_side_to_the_others() -> None:
    """Fresh changes pass it as if it were not there, and it costs less the longer it fails."""
    pair = _Pair(_Shared(), "one")

    async def poisoned(call: str, key: str) -> None:
        await asyncio.sleep(0.02)
        if key == "bad" and call in ("open", "head"):
            raise RetryLater("500", reason="server_error", side=Side.BLOB)

    async def scenario() -> list[float]:
        async with _running(pair):
            await pair.write("bad")
            pair.raw[Side.BLOB]._hook = poisoned
            delays = []
            for number in range(40):
                await asyncio.sleep(20)
                await pair.write(f"fresh{number}")
                delays.append(await pair.delay(f"fresh{number}"))
            return delays

    delays = SimLoop(1).run(scenario())
    assert max(delays) < 1.0, delays
    assert sum(key == "bad" for _, key in pair.raw[Side.BLOB].calls) < 60


class _CutReader(MemoryReader):
    """A head, and no body."""

    async def read(self) -> bytes:
        """Not a byte."""
        raise RetryLater("bad block", reason="cut_short", side=Side.BLOB)

    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        """The same."""
        del size_bytes
        yield await self.read()


@pytest.mark.parametrize("size_bytes", [8, 1000], ids=["small", "in_parts"])
def test_one_object_whose_body_is_always_cut_leaves_its_side_open(size_bytes: int) -> None:
    """On a quiet side too: its attempts count, but for the last ones, so that it is tried ever less, and it is never parked."""
    shared = _Shared()
    pair = _Pair(shared, "one")
    store, trips = pair.raw[Side.BLOB], []
    real, close = store.open, Gate.close_until

    async def opened(key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        reader = await real(key, if_match=if_match, start=start, length=length)
        return _CutReader(reader.present, b"")

    async def scenario() -> None:
        async with _running(pair):
            await pair.write("bad", size_bytes)
            await asyncio.sleep(3600)

    def closed(gate: Gate, monotonic_seconds: float) -> None:
        trips.append(monotonic_seconds)
        close(gate, monotonic_seconds)

    store.open = opened  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gate, "close_until", closed)
        SimLoop(1).run(scenario())
    assert not trips
    assert pair.state._dirty["bad"].attempts == 12 - 3
    assert not pair.state._parked


class _Sides:
    """Two stores, one of which may not answer at all."""

    def __init__(self) -> None:
        self.away = False
        self.clock = FakeClock()
        self.stores = {side: MemoryStore(side, clock=self.clock, hook=self._hook) for side in Side}
        self.blame = Blame(self.stores, self.clock)

    async def _hook(self, call: str, key: str) -> None:
        if self.away:
            raise RetryLater(f"{call} {key}", reason="unreachable")


@pytest.mark.parametrize("reason", sorted(PERHAPS_THE_KEYS_FAULT))
async def test_a_key_is_to_blame_while_its_side_answers_and_few_others_fail(reason: str) -> None:
    """A side that does not answer, or at many keys, is itself to blame."""
    sides = _Sides()
    error = RetryLater("x", reason=reason, side=Side.VAST)
    assert await sides.blame.lies_with("a", error)
    sides.away = True
    assert not await sides.blame.lies_with("a", error)
    sides.away = False
    assert await sides.blame.lies_with("b", error)
    assert not await sides.blame.lies_with("c", error)
    sides.blame.acquit("b")
    assert await sides.blame.lies_with("c", error)
    assert not await sides.blame.lies_with("b", error)
    sides.clock.us += 601_000_000
    assert await sides.blame.lies_with("b", error)


@pytest.mark.parametrize("error", [RetryLater("x", reason="throttled"), Park("x", reason="archived"), ValueError("x")])
async def test_other_errors_ask_nobody(error: Exception) -> None:
    """They say whose fault they are."""
    sides = _Sides()
    assert not await sides.blame.lies_with("a", error)
    assert not any(store.calls for store in sides.stores.values())
