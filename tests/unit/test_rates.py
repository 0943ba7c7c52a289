"""Rates, limits by the time of day, concurrency that follows the side, and the circuit breaker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.bandwidth import parse_timetable
from federation.errors import RetryLater, UsageError
from federation.model import Metadata, Side
from federation.settings import load
from federation.stores.memory import MemoryStore
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import PROBE_SECONDS, SMALL_BODY_BYTES, TRIP_FAILURES, Gate, PaceLimits
from federation.sync.rates import AdaptiveLimit, TokenBucket
from tests.unit.world import FakeClock

KIB = 1024
CUT = RetryLater("cut", reason="unreachable")


def _us(day: int, hour: int, minute: int = 0) -> int:
    """A moment of the week of Monday 2026-11-16, UTC."""
    return int(datetime(2026, 11, 16 + day, hour, minute, tzinfo=UTC).timestamp()) * 1_000_000


# ------------------------------------------------------------------------------------------------------------ time of day


def test_a_timetable_as_rclone_writes_it() -> None:
    """Each rate holds from its time on, over midnight until the next day's first."""
    table = parse_timetable("08:00,512k 19:00,10M 23:00,off")
    rates = {hour: table.bytes_per_second(_us(2, hour)) for hour in (0, 7, 8, 18, 19, 22, 23)}
    half, ten = 512.0 * KIB, 10.0 * KIB * KIB
    assert rates == {0: None, 7: None, 8: half, 18: half, 19: ten, 22: ten, 23: None}


def test_days_and_zones() -> None:
    """A time with a day holds on that day; times are of the named zone, summer time included."""
    table = parse_timetable("Mon-00:00,1M Sat-10:30,off", ZoneInfo("Europe/Zurich"))
    assert table.bytes_per_second(_us(5, 9, 29)) == 1024 * KIB
    assert table.bytes_per_second(_us(5, 9, 30)) is None
    assert table.bytes_per_second(_us(6, 22, 59)) is None
    assert table.bytes_per_second(_us(6, 23, 0)) == 1024 * KIB


def test_one_rate_holds_always() -> None:
    """Units are by 1024, K where none is given; fractions are fine."""
    assert [parse_timetable(text).bytes_per_second(0) for text in ("off", "100B", "2", "1.5M")] == [None, 100, 2048, 1536 * KIB]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "off"),
        ("08:00", "no rate"),
        ("25:00,1M 10:00,off", "'25:00,1M'"),
        ("08:00,1M 8:30,off", "'8:30,off'"),
        ("08:00,fast", "'fast'"),
        ("0", "above 0"),
        ("08:00,1M 08:00,2M", "before"),
        ("08:00,1M:2M", "'1M:2M'"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, told: str) -> None:
    """The wrong part and what is expected are in the error."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse_timetable(text)
    assert told in str(caught.value)


def test_a_wrong_limit_is_a_users_mistake_that_names_its_setting(tmp_path: Path) -> None:
    """Settings are refused with the section, the value and the way out; nothing runs without the limit that was meant."""
    pair = '[[pair]]\nname="p"\nblob={account_url="https://a.b.c",container="c"}\n'
    pair += 'vast={endpoint="https://v",bucket="b",access_key_env="A",secret_key_env="B"}\n'
    file = tmp_path / "f.toml"
    for wrong, told in (('bandwidth="8:00,1M"', "bandwidth: '8:00,1M'"), ('bandwidth_timezone="Mars"', "'Mars' is not known")):
        file.write_text(f"{pair}[pacing]\n{wrong}\n")
        with pytest.raises(UsageError) as caught:
            load(file, {})
        assert "pacing" in str(caught.value)
        assert told in str(caught.value)


# ------------------------------------------------------------------------------------------------------------------ rates


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=50), st.integers(10, 1_000))
def test_a_bucket_lets_through_its_rate_and_one_burst(amounts: list[int], rate: int) -> None:
    """Whatever is asked for, when each waits as told, no more passes than a second's burst and the rate times the time."""
    clock = FakeClock()
    bucket, begun = TokenBucket(clock), clock.us
    for number, amount in enumerate(amounts, start=1):
        clock.us += int(bucket.wait(bucket.take(amount, rate), rate) * 1_000_000) + 1
        assert sum(amounts[:number]) <= rate * (1 + (clock.us - begun) / 1_000_000) + 1


async def test_small_bodies_do_not_wait_behind_large_ones_and_all_stay_in_the_limit() -> None:
    """Under a limit of bandwidth a small object passes while parts of a large one wait; what it took the large ones wait for."""
    clock = FakeClock()
    gate = Gate(Side.BLOB, clock, PaceLimits(bandwidth=parse_timetable("1M")))
    begun = clock.us
    gate._bytes.take(64 * KIB * KIB, 1024.0 * KIB)
    await gate.pay(SMALL_BODY_BYTES)
    assert clock.us == begun
    await gate.pay(KIB * KIB)
    assert clock.us - begun == pytest.approx((64 * KIB * KIB + SMALL_BODY_BYTES) / (KIB * KIB) * 1_000_000, rel=0.01)


async def test_requests_are_held_to_their_rate_and_shared_among_processes() -> None:
    """Ten a second are ten a second; of two processes each takes half."""
    for sharers, seconds in ((1, 9.0), (2, 19.0)):
        clock = FakeClock()
        gate = Gate(Side.BLOB, clock, PaceLimits(requests_per_second=10), sharers=sharers)
        begun = clock.us
        for _ in range(100):
            (await gate.enter()).close()
        assert (clock.us - begun) / 1_000_000 == pytest.approx(seconds, rel=0.02)


async def test_who_waits_for_bandwidth_goes_on_when_its_limit_ends() -> None:
    """A part that came within the last minute of a tight limit does not wait as if that held for ever."""
    clock = FakeClock()
    gate = Gate(Side.BLOB, clock, PaceLimits(bandwidth=parse_timetable("08:00,64k 23:59,off")))
    clock.us = _us(0, 23, 58) + 59_000_000
    await gate.pay(8 * KIB * KIB)
    assert 0 <= clock.us - _us(0, 23, 59) <= 5_000_000


async def test_who_waits_for_bandwidth_takes_the_part_of_a_process_that_left() -> None:
    """The rate is the one of now, not of the moment when the waiting began."""
    clock = _Leaves()
    gate = clock.gate = Gate(Side.BLOB, clock, PaceLimits(bandwidth=parse_timetable("1M")), sharers=2)
    begun = clock.us
    await gate.pay(61 * KIB * KIB)
    assert (clock.us - begun) / 1_000_000 == pytest.approx(60, abs=6), "not 120"


class _Leaves(FakeClock):
    """The other process is gone at the first look."""

    gate: Gate | None = None

    async def sleep(self, seconds: float) -> None:
        """Time passes."""
        await super().sleep(seconds)
        assert self.gate is not None
        self.gate.sharers = 1


async def test_a_body_that_a_closed_gate_refuses_takes_nothing_of_the_bandwidth() -> None:
    """Parts that come again and again while a probe is under way do not run up a debt for what was never sent."""
    clock = FakeClock()
    gate = Gate(Side.VAST, clock, PaceLimits(bandwidth=parse_timetable("1M")))
    gate.failed(RetryLater("503", reason="throttled", after_seconds=5))
    store = PacedStore(MemoryStore(Side.VAST, clock=clock), gate)
    begun = clock.us
    for _ in range(10):
        with pytest.raises(RetryLater):
            await store.put("k", bytes(KIB * KIB), Metadata(), stamp=None, expected_etag=None)
    assert clock.us == begun


def test_concurrency_grows_with_good_answers_and_halves_once_for_a_burst_of_throttles() -> None:
    """Additive up to the ceiling, multiplicative down, never below one; answers to one burst count once."""
    limit = AdaptiveLimit(100)
    start = limit.whole
    for _ in range(20_000):
        limit.answered(0.01, 0.0)
    assert limit.whole == 100 > start
    assert [limit.throttled(10.0) for _ in range(5)] == [50] * 5
    for number in range(20):
        limit.throttled(20.0 + 2 * number)
    assert limit.whole == 1


def test_slow_answers_bring_concurrency_down_to_a_few_and_no_further() -> None:
    """Latency far above the best: fewer calls at once, but what makes a side slow may not be us."""
    limit = AdaptiveLimit(100)
    for _ in range(5_000):
        limit.answered(0.01, 0.0)
    for second in range(1_000):
        limit.answered(1.0, float(second))
    assert limit.whole == 16


async def test_after_throttles_concurrency_grows_again_while_only_large_parts_are_sent() -> None:
    """The destination of one huge upload sees nothing but parts: it must not get them one by one to the end."""
    clock = FakeClock()
    gate = Gate(Side.VAST, clock)
    for _ in range(6):
        gate.failed(RetryLater("503", reason="throttled"))
        clock.us += 200_000_000
    assert gate.adaptive.whole == 1
    store = PacedStore(MemoryStore(Side.VAST, clock=clock), gate)
    upload = await store.begin_upload("k", Metadata(), stamp=None, size_bytes=200 * SMALL_BODY_BYTES)
    for number in range(1, 201):
        await upload.put_part(number, bytes(SMALL_BODY_BYTES))
    assert gate.adaptive.whole > 15
    assert gate._slots.total == gate.adaptive.whole


def test_large_answers_do_not_outweigh_slow_small_ones() -> None:
    """What brought concurrency down is not undone by calls whose time says nothing; from one it still grows to a few."""
    limit = AdaptiveLimit(100)
    limit.answered(0.01, 0.0)
    for second in range(100):
        limit.answered(1.0, float(second))
        for _ in range(1_000):
            limit.answered_untimed()
    assert limit.whole == 16
    for number in range(5):
        limit.throttled(200.0 + 2 * number)
    assert limit.whole == 1
    for _ in range(1_000):
        limit.answered_untimed()
    assert limit.whole == 16


def test_slow_answers_do_not_keep_concurrency_below_a_few() -> None:
    """A side that throttled and has been slow since is asked by a few again, not one by one until its best time is forgotten."""
    limit = AdaptiveLimit(100)
    limit.answered(0.01, 0.0)
    for number in range(10):
        limit.throttled(2.0 * number)
    assert limit.whole == 1
    for second in range(300):
        limit.answered(1.0, 100.0 + second)
    assert limit.whole == 16


async def test_an_hour_s_copy_on_the_server_does_not_make_the_side_look_slow() -> None:
    """It takes long because it is large: small calls beside it are as many at once as before."""
    clock = FakeClock()
    gate = Gate(Side.VAST, clock)

    async def hook(call: str, key: str) -> None:
        del key
        await clock.sleep(3_600 if call in ("copy", "replace_metadata", "complete") else 0.01)

    raw = MemoryStore(Side.VAST, clock=clock, hook=hook)
    store, before = PacedStore(raw, gate), gate.adaptive.whole
    etag = (await store.put("k", b"x", Metadata(), stamp=None, expected_etag=None)).etag
    await store.copy("k", "copy", source_etag=etag)
    etag = (await store.replace_metadata("k", Metadata(user=(("a", "b"),)), stamp=None, expected_etag=etag)).etag
    for _ in range(20):
        await store.head("k")
        clock.us += 1_000_000
    assert gate.adaptive.whole >= before


# -------------------------------------------------------------------------------------------------- circuit breaker


def test_one_cut_connection_closes_nothing_and_a_row_of_them_does() -> None:
    """Below the number of failures in a row all go on; from it on the pause doubles, and an answer forgets it all."""
    clock = FakeClock()
    gate = Gate(Side.VAST, clock, jitter=lambda: 0.0)
    for _ in range(TRIP_FAILURES - 1):
        gate.failed(CUT)
        assert gate.closed_for_seconds() == 0
    pauses = []
    for _ in range(9):
        gate.failed(CUT)
        pauses.append(gate.closed_for_seconds())
        clock.us += int(pauses[-1] * 1_000_000) + 1
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 64, 120, 120])
    gate.succeeded()
    gate.failed(CUT)
    assert gate.closed_for_seconds() == 0


def test_many_calls_that_fail_together_count_as_one_failure_of_the_side() -> None:
    """What was sent before the gate closed tells nothing new: a hundred calls under way do not make the pause two minutes."""
    gate = Gate(Side.VAST, FakeClock(), jitter=lambda: 0.0)
    for _ in range(100):
        gate.failed(CUT)
    assert gate.closed_for_seconds() == pytest.approx(1.0)


def test_after_the_pause_one_probe_is_let_through_and_its_answer_opens_the_gate() -> None:
    """Half open: others wait for the probe; a probe that never ends makes room for another after a while."""
    clock = FakeClock()
    gate = Gate(Side.VAST, clock)
    gate.failed(RetryLater("503", reason="throttled", after_seconds=5))
    clock.us += 5_000_001
    gate.admit()
    with pytest.raises(RetryLater):
        gate.admit()
    clock.us += int(PROBE_SECONDS * 1_000_000)
    gate.admit()
    gate.succeeded()
    for _ in range(3):
        gate.admit()


def test_a_probe_that_is_cancelled_makes_room_for_the_next() -> None:
    """Nobody waits for an answer that cannot come."""
    clock = FakeClock()
    gate = Gate(Side.VAST, clock)
    gate.failed(RetryLater("503", reason="throttled", after_seconds=5))
    clock.us += 5_000_001
    store = PacedStore(MemoryStore(Side.VAST, clock=clock, hook=lambda *_: asyncio.sleep(3600)), gate)

    async def scenario() -> None:
        probe = asyncio.create_task(store.head("k"))
        await asyncio.sleep(0)
        with pytest.raises(RetryLater):
            gate.admit()
        probe.cancel()
        await asyncio.wait([probe])
        gate.admit()

    asyncio.run(scenario())


def test_a_probe_that_fails_closes_the_gate_for_longer() -> None:
    """One failure is enough then, and each pause is longer than the one before."""
    clock = FakeClock()
    gate = Gate(Side.VAST, clock, jitter=lambda: 0.0)
    for _ in range(TRIP_FAILURES):
        gate.failed(CUT)
    first = gate.closed_for_seconds()
    clock.us += int(first * 1_000_000) + 1
    gate.admit()
    gate.failed(CUT)
    assert gate.closed_for_seconds() == pytest.approx(2 * first)
