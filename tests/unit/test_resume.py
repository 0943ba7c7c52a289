"""Large transfers that end early: what is remembered, gone on with, and cleared away. Everything over the in-memory twins."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from federation.errors import FederationError, Halt, LeaseLost, RetryLater
from federation.model import Metadata, Side
from federation.ports import WriteResult
from federation.progress import Lease, TransferRecord
from federation.sync.journal import KEPT_US, UploadNotes, sweep
from federation.sync.sync_key import NotQuiet
from tests.unit.world import World

BIG = "".join(f"{number:04d}" for number in range(60))
"""240 characters: eight parts of 32."""


@pytest.fixture(params=list(Side), ids=str)
def side(request: pytest.FixtureRequest) -> Side:
    """The side a user writes on."""
    chosen: Side = request.param
    return chosen


class _Killed(BaseException):
    """The process ends here: no ``except Exception`` sees it."""


async def _dies_at(world: World, side: Side, call: str, number: int, how: BaseException | None = None) -> None:
    """Work until the *number*-th *call* on *side*, which never reaches the server, nor any later; then the process is gone."""
    store, left = world.raw[side], number

    async def hook(name: str, key: str) -> None:
        nonlocal left
        del key
        left -= name == call
        if left <= 0 and name == call:
            raise how or _Killed

    store._hook = hook
    with pytest.raises((BaseExceptionGroup, _Killed, FederationError)):
        await world.step()
    store._hook = None
    await world.crash()


def _sent(world: World, side: Side) -> int:
    return sum(call == "put_part" for call, _ in world.raw[side].calls)


async def _agreed_small(side: Side) -> World:
    world = World()
    for store in world.raw.values():
        store.capabilities = replace(store.capabilities, min_part_bytes=1)
    await world.write(side, "big", "small")
    await world.step()
    world.later()
    return world


async def test_finished_parts_are_not_sent_again_after_a_crash(side: Side) -> None:
    """The next process reads them again for the content's hash and sends only what is missing; one upload from first to last."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    await _dies_at(world, side.other, "put_part", 6)
    before = _sent(world, side.other)
    [record] = await world.state.transfers(0)
    known = await world.state.transfer("big")
    assert known is not None
    await world.step()

    assert await world.both("big") == (BIG, BIG)
    assert len(known.parts) >= 3, "parts that arrived were remembered"
    assert _sent(world, side.other) - before == 8 - len(known.parts)
    assert sum(call == "begin_upload" for call, _ in world.raw[side.other].calls) == 1
    assert await world.state.transfers(0) == []
    assert world.raw[side.other].uploads == {}
    assert record.upload_id == known.upload_id


@pytest.mark.parametrize("reason", ["throttled", "unreachable", "redis_unavailable"])
async def test_a_fault_leaves_the_parts_to_the_next_attempt(side: Side, reason: str) -> None:
    """Not only a crash: a side that stays away longer than a part has patience costs no part that arrived."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    await _dies_at(world, side.other, "put_part", 6, RetryLater("later", reason=reason))
    known = await world.state.transfer("big")
    assert known is not None
    before = _sent(world, side.other)
    world.later(200)
    await world.step()

    assert await world.both("big") == (BIG, BIG)
    assert _sent(world, side.other) - before == 8 - len(known.parts)


async def test_one_throttle_costs_one_part(side: Side) -> None:
    """A part is tried again by itself: the transfer goes on, and nothing else is sent twice."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    world.raw[side.other].fail_next("put_part", RetryLater("503", reason="throttled", after_seconds=3))
    before = _sent(world, side.other)
    await world.step()

    assert await world.both("big") == (BIG, BIG)
    assert _sent(world, side.other) - before == 8 + 1


async def test_a_throttled_commit_reads_nothing_again(side: Side) -> None:
    """All of it was read and sent: only the commit is asked for again."""
    counts = []
    for faults in (0, 2):
        world = await _agreed_small(side)
        await world.write(side, "big", BIG)
        for _ in range(faults):
            world.raw[side.other].fail_next("complete", RetryLater("503", reason="throttled", after_seconds=3))
        await world.step()
        assert await world.both("big") == (BIG, BIG)
        counts.append(Counter(call for store in world.raw.values() for call, _ in store.calls))
    looks = {"head": 2} if side is Side.BLOB else {}  # at VAST's metadata, right before each commit (docs/adr/0008)
    assert counts[1] - counts[0] == {"complete": 2} | looks


async def test_while_the_gate_lets_nothing_through_no_part_loses_its_patience(side: Side) -> None:
    """Another part tries whether the side is back; that takes longer than a few looks at a closed gate."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    for _ in range(30):
        world.raw[side.other].fail_next("put_part", RetryLater("closed", reason="paced", after_seconds=0.1))
    before = _sent(world, side.other)
    await world.step()

    assert await world.both("big") == (BIG, BIG)
    assert _sent(world, side.other) - before == 8 + 30


async def test_a_source_that_changed_meanwhile_starts_over_and_the_old_upload_is_aborted(side: Side) -> None:
    """Nothing of the old version is used; its parts are cleared away before the new ones are sent."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    await _dies_at(world, side.other, "put_part", 6)
    [old] = await world.state.transfers(0)
    await world.write(side, "big", BIG[::-1])
    try:
        await world.step()
    except NotQuiet:
        await world.crash()
        world.later(20)
        await world.step()

    assert await world.both("big") == (BIG[::-1], BIG[::-1])
    assert old.upload_id not in world.raw[side.other].uploads
    assert world.raw[side.other].uploads == {}


async def test_a_part_whose_bytes_are_not_those_recorded_is_sent_again(side: Side) -> None:
    """The record is not believed against the bytes: the whole is hashed, and what differs goes once more."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    await _dies_at(world, side.other, "put_part", 6)
    transfer = world.state._transfers["big"]
    first = min(transfer.parts)
    transfer.parts[first] = f"{'0' * 32} {transfer.parts[first].partition(' ')[2]}"
    known, before = len(transfer.parts), _sent(world, side.other)
    await world.step()

    assert await world.both("big") == (BIG, BIG)
    assert _sent(world, side.other) - before == 8 - known + 1


async def test_an_upload_the_server_forgot_is_begun_anew(side: Side) -> None:
    """Aborted by a lifecycle rule meanwhile: one failed attempt, then from the beginning, in the same pass."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    await _dies_at(world, side.other, "put_part", 6)
    world.raw[side.other].uploads.clear()
    world.later(20)
    await world.step()

    assert await world.both("big") == (BIG, BIG)
    assert await world.state.transfers(0) == []


@pytest.mark.parametrize(
    ("at_source", "fault", "kept"),
    [
        (True, Halt("401", reason="credentials_refused"), True),
        (False, Halt("401", reason="credentials_refused"), True),
        (True, RetryLater("500", reason="server_error"), True),
        (False, RetryLater("500", reason="server_error"), False),
        (None, RetryLater("500", reason="server_error"), False),
    ],
    ids=["halt at the source", "halt at the destination", "source fails", "destination fails", "nobody knows who fails"],
)
async def test_only_a_destination_that_fails_may_have_forgotten_the_upload(
    side: Side, at_source: bool | None, fault: FederationError, kept: bool
) -> None:
    """A key rotation, or a source in trouble, says nothing of the parts that arrived: they are gone on with."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    await _dies_at(world, side.other, "put_part", 6)
    fault.side = {True: side, False: side.other, None: None}[at_source]
    world.later(20)
    if at_source:
        await _dies_at(world, side, "open", 3, fault)
    else:
        await _dies_at(world, side.other, "put_part", 1, fault)
    assert bool(world.raw[side.other].uploads) is kept
    assert bool(await world.state.transfers(0)) is kept
    world.later(200)
    await world.step()
    assert await world.both("big") == (BIG, BIG)


async def test_a_worker_without_the_lease_records_nothing() -> None:
    """Every write of the record compares the lease's token."""
    world = World()
    stale = Lease(0, "not the token", 1)
    record = TransferRecord("big", Side.VAST, "u", "f", 1)
    for step in (
        world.state.begin_transfer(stale, record),
        world.state.note_part(stale, "big", 1, "x"),
        world.state.end_transfer(stale, "big"),
    ):
        with pytest.raises(LeaseLost):
            await step


async def test_the_sweep_aborts_ours_that_nobody_goes_on_with_and_no_others() -> None:
    """Of keys that are in step by now, or begun too long ago; never one that may still be gone on with, never a user's."""
    world = World()
    vast = world.raw[Side.VAST]
    lease = await world.state.acquire(0, owner="test", ttl_seconds=1e9)
    assert lease is not None
    uploads = {}
    for key in ("settled", "dirty", "old", "at work", "a user's"):
        uploads[key] = (await vast.begin_upload(key, Metadata(), stamp=None, size_bytes=9)).upload_id
    now = world.clock.now_us()
    for key, begun in (("settled", now), ("dirty", now), ("old", now - KEPT_US - 1), ("at work", now)):
        await world.state.begin_transfer(lease, TransferRecord(key, Side.VAST, uploads[key], "f", begun))
    await world.tell(Side.BLOB, "dirty", etag="x")
    await world.tell(Side.BLOB, "old", etag="x")

    assert await sweep(world.state, world.raw, lease, at_work=["at work"], now_us=now) == 2
    assert set(vast.uploads) == {uploads["dirty"], uploads["at work"], uploads["a user's"]}
    assert {record.key for record in await world.state.transfers(0)} == {"dirty", "at work"}


async def test_the_sweep_of_the_first_shard_aborts_noted_uploads_once_they_are_old() -> None:
    """Only age tells that nobody is at work on them; a note that cannot be read goes, since nothing can be done with it."""
    world = World()
    vast = world.raw[Side.VAST]
    notes = UploadNotes(world.state, Side.VAST, world.clock)
    lease = await world.state.acquire(0, owner="test", ttl_seconds=1e9)
    assert lease is not None
    old, young = [(await vast.begin_upload("k", Metadata(), stamp=None, size_bytes=9)).upload_id for _ in range(2)]
    await notes.begun("k", old)
    world.clock.us += KEPT_US
    await notes.begun("k", young)
    await world.state.put_note("upload:damaged", b"\xff")
    now = world.clock.now_us()
    assert await sweep(world.state, world.raw, replace(lease, shard=1), at_work=[], now_us=now) == 0
    vast.fail_next("abort", RetryLater("away", reason="unreachable"))
    assert await sweep(world.state, world.raw, lease, at_work=[], now_us=now) == 0
    assert await sweep(world.state, world.raw, lease, at_work=[], now_us=now) == 1
    assert list(vast.uploads) == [young]
    assert len(await world.state.notes("upload:")) == 1


async def test_an_upload_that_cannot_be_aborted_now_waits_for_the_next_sweep() -> None:
    """The record stays as long as the server may still hold parts."""
    world = World()
    lease = await world.state.acquire(0, owner="test", ttl_seconds=1e9)
    assert lease is not None
    vast = world.raw[Side.VAST]
    upload = await vast.begin_upload("k", Metadata(), stamp=None, size_bytes=9)
    await world.state.begin_transfer(lease, TransferRecord("k", Side.VAST, upload.upload_id, "f", 0))
    vast.fail_next("abort", RetryLater("away", reason="unreachable"))

    assert await sweep(world.state, world.raw, lease, at_work=[], now_us=1) == 0
    assert await sweep(world.state, world.raw, lease, at_work=[], now_us=1) == 1
    assert vast.uploads == {}


async def test_a_commit_that_wrote_nothing_is_noticed(side: Side) -> None:
    """A server that confirms the end of an upload it forgot: the object is looked for, and the transfer begun anew."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    await _dies_at(world, side.other, "put_part", 6)
    store = world.raw[side.other]
    real, confirmed = store.resume_upload, list[str]()

    def forgetful(*args: object, **named: object) -> object:
        upload = real(*args, **named)  # type: ignore[arg-type]

        async def complete(**_: object) -> WriteResult:
            confirmed.append("with an ETag of nothing")
            return WriteResult("0" * 32)

        upload.complete = complete  # type: ignore[method-assign]
        return upload

    store.resume_upload = forgetful  # type: ignore[assignment, method-assign]
    world.later(20)
    await world.step()

    assert len(confirmed) == 1
    assert await world.both("big") == (BIG, BIG)


async def test_an_upload_that_could_not_be_recorded_is_aborted(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would ever know that it is ours."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)

    async def away(*_: object) -> None:
        raise RetryLater("Redis is away", reason="redis_unavailable")

    monkeypatch.setattr(world.state, "begin_transfer", away)
    with pytest.raises(RetryLater):
        await world.step()
    assert world.raw[side.other].uploads == {}


async def test_an_upload_whose_record_was_interrupted_is_aborted(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shutdown while Redis is slow: nobody would ever know that it is ours."""
    world = await _agreed_small(side)
    await world.write(side, "big", BIG)
    asked = asyncio.Event()

    async def slow(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(world.state, "begin_transfer", slow)
    working = asyncio.create_task(world.step())
    await asked.wait()
    assert world.raw[side.other].uploads
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert world.raw[side.other].uploads == {}
