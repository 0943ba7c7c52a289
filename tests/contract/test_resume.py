"""Large transfers that go on: uploads resumed on every store, and what every state remembers of them."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import pytest

from federation.errors import LeaseLost, NotPresent, Reobserve, RetryLater
from federation.model import Change, Side, Source
from federation.ports import ObjectStore, State
from federation.progress import SCAN_BEHIND_US, TransferRecord
from tests.contract.state_support import TestClock, event, lease_of
from tests.contract.store_support import FULL, PART, STAMP, Made, get, listed_keys, put

FIRST, LAST = b"a" * PART, b"z" * 17
MD5 = hashlib.md5(FIRST + LAST, usedforsecurity=False).hexdigest()


async def test_an_upload_goes_on_in_another_process(store: ObjectStore, case: Made) -> None:
    """Another store object sends only what is missing and completes: content, metadata and stamp are whole."""
    begun = await store.begin_upload("big", FULL, stamp=STAMP, size_bytes=PART + 17)
    token = await begun.put_part(1, FIRST)
    other = store if case.kind.startswith("memory") else case.make()
    upload = other.resume_upload("big", FULL, stamp=STAMP, upload_id=begun.upload_id, parts={1: token})
    await upload.put_part(2, LAST)
    assert await listed_keys(store) == []
    result = await upload.complete(expected_etag=None, md5_hex=MD5)

    head = await store.head("big")
    assert (head.version.etag, head.origin, head.metadata.content_type) == (result.etag, STAMP, FULL.content_type)
    assert await get(store, "big") == FIRST + LAST


async def test_a_resumed_upload_can_be_aborted_by_its_name_alone(store: ObjectStore) -> None:
    """What the sweep does: no parts known, metadata gone; nothing is left, and a second abort is fine."""
    begun = await store.begin_upload("big", FULL, stamp=STAMP, size_bytes=PART)
    await begun.put_part(1, FIRST)
    for _ in range(2):
        await store.resume_upload("big", FULL, stamp=None, upload_id=begun.upload_id, parts={}).abort()
    with pytest.raises(NotPresent):
        await store.head("big")


async def test_completing_an_upload_that_is_gone_writes_nothing(store: ObjectStore) -> None:
    """S3 forgets at an abort, Blob at the next commit. What servers then say differs (one confirms it): so transfers look."""
    before = await put(store, "big", b"before")
    begun = await store.begin_upload("big", FULL, stamp=STAMP, size_bytes=PART)
    token = await begun.put_part(1, FIRST)
    await begun.abort()
    etag = await put(store, "big", b"theirs", before)
    gone = store.resume_upload("big", FULL, stamp=STAMP, upload_id=begun.upload_id, parts={1: token})
    with suppress(Reobserve, RetryLater):
        await gone.complete(expected_etag=etag, md5_hex=hashlib.md5(FIRST, usedforsecurity=False).hexdigest())
    # Azurite keeps uncommitted blocks beyond a commit: then it is whole.
    assert await get(store, "big") in (b"theirs", FIRST)


async def test_a_transfer_is_remembered_with_its_parts_until_it_ends(state: State) -> None:
    """Begin, parts, end; another begin forgets the parts of the one before; parts without a transfer are nothing."""
    lease = await lease_of(state, "big")
    record = TransferRecord("big", Side.VAST, "id/1", "print", 7)
    await state.note_part(lease, "big", 1, "before")
    assert await state.transfer("big") is None
    await state.begin_transfer(lease, record)
    assert await state.transfer("big") == record
    for number in (2, 1, 10_000):
        await state.note_part(lease, "big", number, f"{number:032x} etag")
    found = await state.transfer("big")
    assert found is not None
    assert found.parts == {number: f"{number:032x} etag" for number in (1, 2, 10_000)}
    assert await state.transfers(state.shard_of("big")) == [record]

    await state.begin_transfer(lease, record)
    assert await state.transfer("big") == record
    await state.end_transfer(lease, "big")
    assert await state.transfer("big") is None
    assert await state.transfers(state.shard_of("big")) == []


async def test_only_the_holder_of_the_lease_writes_a_transfer(state: State) -> None:
    """A token that is refused changes nothing."""
    lease = await lease_of(state, "big")
    record = TransferRecord("big", Side.VAST, "id", "print", 7)
    await state.begin_transfer(lease, record)
    await state.release(lease)
    for step in (
        state.begin_transfer(lease, record),
        state.note_part(lease, "big", 1, "x"),
        state.end_transfer(lease, "big"),
    ):
        with pytest.raises(LeaseLost):
            await step
    assert await state.transfer("big") == record


async def test_some_of_the_newest_are_claimed_beside_the_oldest(state: State, clock: TestClock) -> None:
    """Under a backlog a fresh change need not wait for all of it; nothing is handed out twice and nothing is passed over."""
    keys = [name for name in (f"k{number}" for number in range(200)) if state.shard_of(name) == state.shard_of("k0")][:12]
    for key in keys:
        await state.mark([event(key)])
        clock.us += 1_000_000
    lease = await lease_of(state, "k0")
    first = [claim.hint.key for claim in await state.claim(lease, limit=4, newest=1, now_us=clock.us)]
    rest = [claim.hint.key for claim in await state.claim(lease, limit=100, newest=25, now_us=clock.us)]

    assert first == [*keys[:3], keys[-1]]
    assert sorted(rest) == sorted(keys[3:-1])


async def test_what_only_a_scan_found_is_never_the_newest(state: State, clock: TestClock) -> None:
    """A change that was announced in the middle of a scan's marks is claimed before the scan's later ones; asked for so."""
    keys = [name for name in (f"k{number}" for number in range(200)) if state.shard_of(name) == state.shard_of("k0")][:9]
    for key in keys:
        await state.mark([event(key) if key == keys[4] else Change(key, Side.BLOB, Source.RECONCILER, etag="e")])
        clock.us += 1_000_000
    lease = await lease_of(state, "k0")
    first = [claim.hint.key for claim in await state.claim(lease, limit=3, newest=1, now_us=clock.us)]
    rest = [claim.hint.key for claim in await state.claim(lease, limit=100, now_us=clock.us)]

    assert first == [keys[0], keys[1], keys[4]]
    assert rest == [keys[2], keys[3], *keys[5:]]


async def test_what_a_scan_found_and_then_is_announced_is_as_fresh_as_any_change(state: State, clock: TestClock) -> None:
    """Once: announced again it keeps that place, or a key that is written all the time would never be among the oldest."""
    keys = [name for name in (f"k{number}" for number in range(200)) if state.shard_of(name) == state.shard_of("k0")][:6]
    await state.mark([Change(key, Side.BLOB, Source.RECONCILER, etag="e") for key in keys])
    for key in (keys[1], keys[4], keys[1]):
        clock.us += 1_000_000
        await state.mark([event(key)])
    await state.mark([Change(keys[4], Side.BLOB, Source.RECONCILER, etag="e")])
    lease = await lease_of(state, "k0")
    first = [claim.hint.key for claim in await state.claim(lease, limit=2, newest=1, now_us=clock.us)]
    rest = [claim.hint.key for claim in await state.claim(lease, limit=100, now_us=clock.us)]

    assert first == [keys[0], keys[4]]
    assert rest == [keys[2], keys[3], keys[5], keys[1]]


async def test_what_is_announced_can_be_claimed_without_what_only_a_scan_found(state: State, clock: TestClock) -> None:
    """So that fresh changes of a shard drag nothing of its backlog along; what was announced long ago is backlog too."""
    keys = [name for name in (f"k{number}" for number in range(200)) if state.shard_of(name) == state.shard_of("k0")][:6]
    await state.mark([event(keys[0])])
    clock.us += SCAN_BEHIND_US
    await state.mark([Change(key, Side.BLOB, Source.RECONCILER, etag="e") for key in keys[1:4]])
    await state.mark([event(key) for key in keys[3:]])
    clock.us += 1_000_000
    lease = await lease_of(state, "k0")
    from_us = clock.us - SCAN_BEHIND_US
    fresh = [claim.hint.key for claim in await state.claim(lease, limit=8, newest=2, from_us=from_us, now_us=clock.us)]
    rest = [claim.hint.key for claim in await state.claim(lease, limit=8, newest=2, now_us=clock.us)]

    assert sorted(fresh) == sorted(keys[3:])
    assert sorted(rest) == sorted(keys[:3])


async def test_since_when_what_was_announced_is_due(state: State, clock: TestClock) -> None:
    """The first over all shards, without what only a scan found, what is not due yet and what is at work."""

    async def since_us() -> int | None:
        return await state.due_since_us(from_us=clock.us - SCAN_BEHIND_US + 10_000_000, now_us=clock.us)

    await state.mark([Change(f"s{number}", Side.BLOB, Source.RECONCILER, etag="e") for number in range(9)])
    assert await since_us() is None
    first_us = clock.us
    await state.mark([event("k")])
    clock.us += 1_000_000
    await state.mark([event(f"later{number}") for number in range(9)])
    clock.us += 1_000_000
    assert await since_us() == first_us
    lease = await lease_of(state, "k")
    claims = await state.claim(lease, limit=1, from_us=first_us, now_us=clock.us)
    assert [claim.hint.key for claim in claims] == ["k"]
    assert await since_us() == first_us + 1_000_000
    await state.defer(lease, "k", claims[0].hint.generation, not_before_us=first_us + 500_000, error="")
    assert await since_us() == first_us + 500_000
