"""Large transfers gone on with, and cleared away, where clocks are off, rights are missing, or the lease is another's."""

from __future__ import annotations

import pytest

from federation.errors import FederationError, Halt, LeaseLost, Park, RetryLater
from federation.model import ClockSkew, Metadata, OriginStamp, Present, Side, Stamp, Version
from federation.progress import Lease, TransferRecord
from federation.sync import journal
from federation.sync.journal import fingerprint, sweep
from federation.sync.paced_store import fence
from tests.unit.test_resume import BIG, _agreed_small, _dies_at, _sent, side
from tests.unit.world import World

__all__ = ["side"]
OUTAGE = Halt("401", reason="credentials_refused", side=Side.VAST)
FORBIDDEN = Park("403 AccessDenied", reason="access_denied", side=Side.VAST)


def _begun(world: World) -> int:
    return sum(call == "begin_upload" for store in world.raw.values() for call, _ in store.calls)


async def test_a_version_whose_time_is_measured_anew_is_gone_on_with(side: Side) -> None:
    """The skew moves by milliseconds, and an event tells another time than Last-Modified; nothing is left to do afterwards."""
    skew_us = [5_000_000]

    async def clock_skew() -> ClockSkew:
        return ClockSkew(skew_us[0], 400_000)

    world = await _agreed_small(side)
    world.raw[Side.VAST].clock_skew = clock_skew  # type: ignore[method-assign]
    etag = await world.write(side, "big", BIG, told=False)
    world.later(60)
    await world.look("big")
    await _dies_at(world, side.other, "put_part", 6)
    known, before = await world.state.transfer("big"), _sent(world, side.other)
    assert known is not None
    skew_us[0] -= 3000
    await world.tell(side, "big", etag=etag)
    world.later(60)
    await world.step()

    assert await world.both("big") == (BIG, BIG)
    assert len(known.parts) >= 3
    assert _sent(world, side.other) - before == 8 - len(known.parts)
    assert _begun(world) == 1
    for forgets in (False, True):
        if forgets:
            world.forget()
        world.later(60)
        await world.look("big")
        await world.step()
        assert _begun(world) == 1, "whichever attempt's time is in the stamp, it proves the copy"
        assert await world.both("big") == (BIG, BIG)


STAMP = OriginStamp(Side.VAST, "e", Stamp(5), "0" * 32, "seal")
PRESENT = Present(Version("e", 9, Stamp(5)))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (OriginStamp(Side.VAST, "e", Stamp(4, 1), "0" * 32, "seal"), True),
        (OriginStamp(Side.BLOB, "e", Stamp(5), "0" * 32, "seal"), False),
        (OriginStamp(Side.VAST, "f", Stamp(5), "0" * 32, "seal"), False),
        (OriginStamp(Side.VAST, "e", Stamp(5), None, "seal"), False),
        (OriginStamp(Side.VAST, "e", Stamp(5), "0" * 32, "broken"), False),
        (None, False),
    ],
)
def test_all_of_a_stamp_but_its_time_must_be_as_it_was(other: OriginStamp | None, same: bool) -> None:
    """The rest says which version it is a copy of."""
    assert (fingerprint(PRESENT, Metadata(), STAMP, 32) == fingerprint(PRESENT, Metadata(), other, 32)) is same


@pytest.mark.parametrize(
    ("error", "swept", "next_swept"),
    [(OUTAGE, 0, 1), (RetryLater("away", reason="unreachable"), 0, 1), (FORBIDDEN, 1, 0)],
    ids=["halt", "retry", "forbidden"],
)
async def test_only_what_can_never_be_aborted_is_forgotten_by_the_sweep(
    error: FederationError, swept: int, next_swept: int
) -> None:
    """An outage of the credentials costs no record: the upload is aborted by the next sweep."""
    world = World()
    vast = world.raw[Side.VAST]
    lease = await world.state.acquire(0, owner="test", ttl_seconds=1e9)
    assert lease is not None
    upload = await vast.begin_upload("k", Metadata(), stamp=None, size_bytes=9)
    await world.state.begin_transfer(lease, TransferRecord("k", Side.VAST, upload.upload_id, "f", 0))
    vast.fail_next("abort", error)
    assert [await sweep(world.state, world.raw, lease, at_work=[], now_us=1) for _ in range(2)] == [swept, next_swept]
    assert (vast.uploads == {}) is (next_swept == 1)


class _Log:
    def __init__(self) -> None:
        self.told: list[tuple[object, object]] = []

    def warning(self, _: str, **named: object) -> None:
        self.told.append((named.get("side"), named.get("key")))


async def _with_a_stale_upload() -> World:
    world = await _agreed_small(Side.BLOB)
    await world.write(Side.BLOB, "big", BIG)
    await _dies_at(world, Side.VAST, "put_part", 6)
    await world.write(Side.BLOB, "big", BIG[::-1])
    world.later(60)
    return world


async def test_an_upload_that_may_not_be_aborted_blocks_its_key_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An identity without AbortMultipartUpload: told once, with side and key; the new version is copied."""
    world, log = await _with_a_stale_upload(), _Log()
    monkeypatch.setattr(journal, "_log", log)
    world.raw[Side.VAST].fail_next("abort", FORBIDDEN)
    await world.step()

    assert await world.both("big") == (BIG[::-1], BIG[::-1])
    assert log.told == [(Side.VAST, "big")]
    assert await world.state.transfers(0) == []


@pytest.mark.parametrize("error", [OUTAGE, RetryLater("away", reason="unreachable"), LeaseLost("lost")])
async def test_an_upload_that_cannot_be_aborted_now_is_not_forgotten_by_its_key(error: FederationError) -> None:
    """Raised as it is, so that the pair halts or the key waits; the next attempt clears it away."""
    world = await _with_a_stale_upload()
    [old] = await world.state.transfers(0)
    world.raw[Side.VAST].fail_next("abort", error)
    with pytest.raises(type(error)):
        await world.step()
    assert await world.state.transfers(0) == [old]
    await world.crash()
    world.later(60)
    await world.step()
    assert await world.both("big") == (BIG[::-1], BIG[::-1])
    assert world.raw[Side.VAST].uploads == {}


def _lost() -> None:
    raise LeaseLost("lost", reason="lease_lost")


async def test_a_worker_that_lost_its_lease_leaves_the_parts() -> None:
    """Its successor goes on with them; only what was just begun, and may be in no record, is taken away by whoever began it."""
    world = World()
    vast, store = world.raw[Side.VAST], world.ctx.stores[Side.VAST]
    sending, resumed, empty = [await store.begin_upload("k", Metadata(), stamp=None, size_bytes=9) for _ in range(3)]
    await sending.put_part(1, b"part")
    again = store.resume_upload("k", Metadata(), stamp=None, upload_id=resumed.upload_id, parts={})
    token = fence.set(_lost)
    try:
        for upload in (sending, again):
            with pytest.raises(LeaseLost):
                await upload.abort()
        await empty.abort()
    finally:
        fence.reset(token)
    assert set(vast.uploads) == {sending.upload_id, resumed.upload_id}
    for upload in (sending, again):
        await upload.abort()
    assert vast.uploads == {}


@pytest.mark.parametrize("failures", [1, 4])
async def test_a_record_of_a_part_that_waits_for_redis_costs_no_part(side: Side, failures: int) -> None:
    """Redis fails over in the middle of a transfer of hours: nothing is read or sent twice for that."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    note_part, left = world.state.note_part, failures

    async def away(lease: Lease, key: str, number: int, part: str) -> None:
        nonlocal left
        if number >= 5 and left:
            left -= 1
            raise RetryLater("failing over", reason="redis_unavailable")
        await note_part(lease, key, number, part)

    world.state.note_part = away  # type: ignore[method-assign]
    before, opened = _sent(world, side.other), world.raw[side].calls.count(("open", "big"))
    await world.step()

    assert left == 0
    assert _sent(world, side.other) - before == 8
    assert world.raw[side].calls.count(("open", "big")) - opened == 8 + 1, "each part once, after the first look"
    assert await world.both("big") == (BIG, BIG)
    assert await world.state.transfers(0) == []


async def test_an_upload_that_is_gone_and_may_not_be_aborted_is_begun_anew(side: Side) -> None:
    """A lifecycle rule cleared it away, and to an identity without AbortMultipartUpload the server says no more than 403."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    await _dies_at(world, side.other, "put_part", 6)
    world.raw[side.other].uploads.clear()
    for _ in range(10):
        world.raw[side.other].fail_next("abort", FORBIDDEN)
    world.later(20)
    await world.step()
    assert await world.both("big") == (BIG, BIG)
    assert await world.state.transfers(0) == []
