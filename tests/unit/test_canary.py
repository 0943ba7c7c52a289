"""The canary: a small object whose event must come back, or the freshness of VAST's events is in doubt."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from federation.model import Metadata, Side
from federation.payloads.vast import CANARY_KEY, CanaryEvent
from federation.progress import HaltRecord
from federation.sources import canary
from federation.sources.canary import Back, Canary, Proof, Sent, conclude
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
EVERY = 300.0


class StepClock:
    """Stands still while nobody sleeps; a sleep passes its time at once, at most *sleeps* of them."""

    def __init__(self, sleeps: int) -> None:
        self.us = NOW
        self.left = sleeps

    def now_us(self) -> int:
        """Wall clock."""
        return self.us

    def monotonic_seconds(self) -> float:
        """The same."""
        return self.us / SECOND

    async def sleep(self, seconds: float) -> None:
        """Ends the task when there were enough."""
        self.left -= 1
        if self.left <= 0:
            raise asyncio.CancelledError
        self.us += int(seconds * SECOND)


class World:
    """One pair's state and VAST side."""

    def __init__(self) -> None:
        self.clock = StepClock(0)
        self.state = MemoryState("p", shards=1, clock=self.clock)
        self.store = MemoryStore(Side.VAST, clock=self.clock)

    async def run(self, *, sleeps: int = 1, owner: str = "one", every: float = EVERY) -> Canary:
        """A writer that looks so many times."""
        self.clock.left = sleeps
        writer = Canary(self.store, self.state, self.clock, owner=owner, every_seconds=every)
        with suppress(asyncio.CancelledError):
            await writer.run()
        return writer

    async def comes_back(self, etag: str | None = None) -> None:
        """The event of the object as it is now is read."""
        there = await self.store.head(CANARY_KEY)
        event = CanaryEvent(there.version.etag if etag is None else etag, frozenset({"raw"}))
        await canary.note_back(self.state, event, self.clock.us)

    async def proof(self) -> Proof:
        """What status says."""
        return await canary.proof(self.state, EVERY, self.clock.us)


def _ago(seconds: float) -> int:
    return NOW - int(seconds * SECOND)


@pytest.mark.parametrize(
    ("sent", "seen", "age", "doubt"),
    [
        (None, None, None, "no canary was written"),
        (None, Back(("e",), _ago(5)), None, "no canary was written"),
        (Sent("e", _ago(5)), None, None, "no event of the canary has come back yet"),
        (Sent("e", _ago(5)), Back(("e",), _ago(4)), 5.0, ""),
        (Sent("e", _ago(5)), Back(("",), _ago(4)), 5.0, ""),
        (Sent("e", _ago(5)), Back(("",), _ago(6)), None, "no event of the canary has come back yet"),
        (Sent("new", _ago(5), _ago(305)), Back(("old",), _ago(304)), 305.0, ""),
        (Sent("new", _ago(61), _ago(361)), Back(("old",), _ago(360)), 361.0, "61 s ago brought no event"),
        (Sent("e", _ago(660)), Back(("e",), _ago(659)), 660.0, ""),
        (Sent("e", _ago(661)), Back(("e",), _ago(660)), 661.0, "no canary was written for 661 s"),
        (Sent("e", _ago(5)), Back(("e", "another pair's"), _ago(2)), 5.0, ""),
        (Sent("e", NOW + SECOND), Back(("e",), NOW), 0.0, ""),
    ],
)
def test_what_is_concluded(sent: Sent | None, seen: Back | None, age: float | None, doubt: str) -> None:
    """Proved only by the event of what was written, for as long as the next one may take; all else is a doubt (rule 9)."""
    found = conclude(sent, seen, EVERY, NOW)
    assert found.age_seconds == age
    assert (doubt in found.doubt) if doubt else not found.doubt


async def test_it_is_written_and_its_event_proves_the_way() -> None:
    """The first at once, and every event that comes back makes the proof fresh."""
    world = World()
    await world.run()
    assert (await world.proof()).doubt
    await world.comes_back()
    assert await world.proof() == Proof(sent_us=NOW, proved_us=NOW, age_seconds=0.0)


async def test_one_process_writes_when_it_is_due() -> None:
    """While another holds the task, or the last proved one is young, nothing is written."""
    world = World()
    await world.run()
    first = (await world.store.head(CANARY_KEY)).version.etag
    await world.comes_back()
    await world.run(sleeps=3, owner="two")
    assert (await world.store.head(CANARY_KEY)).version.etag == first
    await world.run(sleeps=30)
    second = (await world.store.head(CANARY_KEY)).version.etag
    assert second != first
    found = await world.proof()
    assert found.proved_us == NOW
    assert found.sent_us is not None
    assert found.sent_us >= NOW + EVERY * SECOND - SECOND


async def test_one_that_does_not_come_back_is_written_again_sooner() -> None:
    """A single lost event is healed by the next one, long before its turn."""
    world = World()
    await world.run(sleeps=8)
    found = await world.proof()
    assert found.proved_us is None
    assert found.sent_us == NOW + 60 * SECOND


async def test_an_object_changed_by_others_is_replaced_on_what_is_there() -> None:
    """Conditional on what is seen, so nobody's write is overwritten unseen; also after the notes were lost."""
    world = World()
    theirs = await world.store.put(CANARY_KEY, b"x", Metadata(), stamp=None, expected_etag=None)
    writer = await world.run()
    now = (await world.store.head(CANARY_KEY)).version.etag
    assert now != theirs.etag
    assert (writer.health()["written"], writer.health()["last_error"]) == (1, "")


async def test_two_pairs_on_one_bucket_prove_their_own() -> None:
    """A chain of pairs shares the object: each proves the way by its own write, whoever wrote last."""
    one, two = World(), World()
    two.store = one.store
    await one.run()
    for pair in (one, two):
        await pair.comes_back()
    await two.run()
    for pair in (one, two):
        await pair.comes_back()
    assert [(await pair.proof()).doubt for pair in (one, two)] == ["", ""]


async def test_a_halted_pair_is_left_alone() -> None:
    """Nothing is written to a side while the pair is halted."""
    world = World()
    await world.state.halt(HaltRecord("side_emptied_vast", "why", NOW, self_lifting=False))
    await world.run(sleeps=3)
    assert [entry async for entry in world.store.list(prefix=".federation/")] == []


async def test_a_store_that_refuses_is_told_and_tried_again() -> None:
    """Its failure never ends the pair's work; status tells that nothing is proved."""
    world = World()
    world.store.missing_container = True
    writer = await world.run(sleeps=3)
    assert CANARY_KEY in str(writer.health()["last_error"])
    world.store.missing_container = False
    await world.run()
    assert (await world.proof()).sent_us is not None
