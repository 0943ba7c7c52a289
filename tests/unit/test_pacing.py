"""Back-off and the gate in front of a side."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import sent
from federation.backoff import LONGEST_BACKOFF_SECONDS, backoff_seconds
from federation.errors import RetryLater
from federation.model import Metadata, Side
from federation.stores.memory import MemoryStore
from federation.sync.confirm import confirmed_by
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import Gate, PaceLimits


class _Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now_us(self) -> int:
        return int(self.seconds * 1_000_000)

    def monotonic_seconds(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@given(st.integers(0, 10_000), st.floats(0, 0.999))
def test_backoff_grows_to_a_bound_and_keeps_at_least_half(attempts: int, jitter: float) -> None:
    """Whatever the attempt and the jitter, the pause lies between half of the bounded doubling and all of it."""
    full = min(LONGEST_BACKOFF_SECONDS, 2.0 ** min(attempts, 16))
    assert full / 2 <= backoff_seconds(attempts, jitter=jitter) <= full


def test_gate_honours_retry_after_then_opens_by_itself() -> None:
    """A throttled side is left alone exactly as long as it asked, without a request being sent."""
    clock = _Clock()
    gate = Gate(Side.BLOB, clock)
    gate.admit()
    gate.failed(RetryLater("503 ServerBusy", reason="throttled", after_seconds=7))

    with pytest.raises(RetryLater) as caught:
        gate.admit()
    assert caught.value.reason == "paced"
    assert caught.value.after_seconds == pytest.approx(7)
    assert gate.failing_since_us == 100_000_000

    clock.seconds += 7.01
    gate.admit()


def test_gate_backs_off_over_consecutive_failures_and_forgets_them_on_success() -> None:
    """Without Retry-After the pauses grow; one good answer starts over and ends the failing state."""
    clock = _Clock()
    gate = Gate(Side.VAST, clock)
    pauses = []
    for _ in range(6):
        gate.failed(RetryLater("connection refused", reason="unreachable"))
        pauses.append(gate.closed_for_seconds())
        clock.seconds += pauses[-1] + 0.001
    assert pauses[-1] > pauses[0] * 4
    assert gate.failing_since_us is not None

    gate.succeeded()
    assert gate.failing_since_us is None
    assert gate.failures == 0


async def test_requests_beyond_the_first_of_a_call_are_waited_for_by_the_next() -> None:
    """One call of a store may take several requests; the rate is that of requests."""
    clock = _Clock()
    gate = Gate(Side.BLOB, clock, PaceLimits(requests_per_second=10.0))
    store = PacedStore(_Many(clock), gate)  # type: ignore[arg-type]
    begun = clock.monotonic_seconds()
    for _ in range(4):
        await store.head("a")  # 6 requests each; a second's worth may come at once
    assert clock.monotonic_seconds() - begun == pytest.approx((3 * 6 + 1 - 10) / 10)
    assert sent.current.get() is None


async def test_a_long_call_of_many_requests_is_paid_for_while_it_lasts() -> None:
    """Below the rate it owes nothing at its end, however many requests it took."""
    clock = _Clock()
    store = PacedStore(_Many(clock, pause_seconds=1.0), Gate(Side.BLOB, clock, PaceLimits(requests_per_second=10.0)))  # type: ignore[arg-type]
    for _ in range(50):
        await store.head("a")
    begun = clock.monotonic_seconds()
    await store.head("b")
    assert clock.monotonic_seconds() - begun == pytest.approx(6.0)


async def test_what_is_asked_before_a_write_waits_for_no_second_place() -> None:
    """Where one call may be under way at a time the write has that place; what it asks rides on it, and the next request pays."""
    clock = _Clock()
    gate = Gate(Side.VAST, clock, PaceLimits(requests_per_second=10.0, max_concurrency=1))
    raw = MemoryStore(Side.VAST, clock=clock)
    store = PacedStore(raw, gate)
    etag = (await store.put("k", b"1", Metadata(), stamp=None, expected_etag=None)).etag

    async def look() -> None:
        await store.head("k")

    async with asyncio.timeout(5):
        for _ in range(10):
            with confirmed_by(look):
                etag = (await store.put("k", b"2", Metadata(), stamp=None, expected_etag=etag)).etag
    assert [call for call, _ in raw.calls] == ["put"] + 10 * ["head", "put"]
    begun = clock.monotonic_seconds()
    await store.head("k")
    assert clock.monotonic_seconds() - begun == pytest.approx(0.2), "for the last look and for itself"


class _Many:
    side = Side.BLOB

    def __init__(self, clock: _Clock, pause_seconds: float = 0.0) -> None:
        self._clock = clock
        self._pause_seconds = pause_seconds

    async def head(self, key: str) -> str:
        for _ in range(6):
            sent.one()
            await self._clock.sleep(self._pause_seconds)
        return key
