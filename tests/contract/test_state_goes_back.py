"""A shard that went back: marks that were acknowledged and are gone are noticed, whatever else was marked since."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from federation.ports import State
from federation.progress import Cursor
from federation.settings import RedisSettings
from federation.state.calls import Call
from federation.state.embedded import connect
from federation.state.redis_state import RedisState
from tests.contract.state_support import TestClock, event, go_back, kept, states


class Two:
    """One Redis, a process and another."""

    def __init__(self, one: RedisState, other: RedisState) -> None:
        self.one = one
        self.other = other

    async def saved(self, shard: int) -> dict[bytes, bytes]:
        """What a replica of the shard's server holds now."""
        keys = [key async for key in self.one._redis.scan_iter(f"fed:{{pair/{shard}}}:*")]
        return {key: await self.one._redis.dump(key) or b"" for key in keys}

    async def go_back(self, shard: int, to: dict[bytes, bytes]) -> None:
        """The replica takes over."""
        async for key in self.one._redis.scan_iter(f"fed:{{pair/{shard}}}:*"):
            await self.one._redis.delete(key)
        for key, value in to.items():
            await self.one._redis.restore(key, 0, value)


@pytest.fixture
async def two(clock: TestClock, tmp_path: Path) -> AsyncIterator[Two]:
    """Both opened, empty."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    one = RedisState(client, "pair", shards=2, clock=clock, marker="one")
    other = RedisState(client, "pair", shards=2, clock=clock, marker="other")
    await one.open()
    yield Two(one, other)
    await one.close()
    await server.stop()


async def test_marks_lost_behind_others_of_more_are_noticed_by_who_made_them(two: Two) -> None:
    """The count is the process's own: another's marks after the fail-over do not hide the loss, and it did not lose any."""
    shard = two.one.shard_of("k")
    await two.one.mark([event("k")])
    assert await two.one.lost_marks() == ()
    before = await two.saved(shard)
    await two.one.mark([event("k", etag="0x8DCB")])
    await two.go_back(shard, before)
    for number in range(5):
        await two.other.mark([event("k", etag=f"0x8DD{number}")])

    assert await two.other.lost_marks() == ()
    assert await two.one.lost_marks() == ("",)
    await two.one.accept_lost_marks()
    assert await two.one.lost_marks() == ()
    await two.one.mark([event("k", etag="0x8DCF")])
    assert await two.one.lost_marks() == ()


async def test_a_second_failover_is_told_after_the_first_was_accepted(two: Two) -> None:
    """Of a process' own marks and of those a cursor stands for; the repeated counts do not hide it."""
    shard = two.one.shard_of("k")
    await two.one.mark([event("k")])
    before = await two.saved(shard)
    cursor = None
    for number in range(2):
        await two.one.mark([event("k", etag=f"0x8DD{number}")])
        new = Cursor({"0": number}, "opts", 1)
        assert await two.one.move_cursor("vast_events", cursor, new)
        cursor = new
        await two.go_back(shard, before)
        assert await two.one.lost_marks() == ("", "vast_events")
        await two.one.accept_lost_marks()
        assert await two.one.lost_marks() == ()


async def test_a_cursor_remembers_the_marks_it_stands_for(two: Two) -> None:
    """The process that moved it may be gone: its successor learns from the cursor that marks are missing."""
    shard = two.one.shard_of("k")
    before = await two.saved(shard)
    await two.one.mark([event("k")])
    cursor = Cursor({"0": 7}, "opts", 1)
    assert await two.one.move_cursor("vast_events", None, cursor)
    assert await two.other.lost_marks() == ()
    await two.go_back(shard, before)

    assert await two.other.lost_marks() == ("vast_events",)
    assert await two.other.cursor("vast_events") == cursor
    await two.other.mark([event("k")])
    assert await two.other.move_cursor("vast_events", cursor, Cursor({"0": 9}, "opts", 2))
    assert await two.other.lost_marks() == ()


async def test_an_emptied_shard_is_a_loss_too(two: Two) -> None:
    """Nothing is there of what was counted."""
    await two.one.mark([event("k")])
    await two.go_back(two.one.shard_of("k"), {})
    assert await two.one.lost_marks() == ("",)


async def test_counts_of_processes_that_are_gone_are_dropped(two: Two) -> None:
    """Not those a cursor rests on, nor our own, nor those of the living."""
    await two.one.mark([event("k")])
    await two.other.mark([event("k")])
    assert await two.one.forget_markers(["oth"]) == 0
    await two.other.move_cursor("s", None, Cursor({}, "", 1))
    assert await two.one.forget_markers([]) == 0
    await two.one.move_cursor("s", Cursor({}, "", 1), Cursor({}, "", 2))
    assert await two.one.forget_markers([]) == 1
    assert await two.one.lost_marks() == ()


@pytest.fixture(params=["memory", "redis"])
async def marking(request: pytest.FixtureRequest, clock: TestClock, tmp_path: Path) -> AsyncIterator[State]:
    """Either kind, of a process that counts its marks."""
    async for state in states(request.param, clock, tmp_path, marker="one"):
        await state.open()
        yield state


async def test_our_own_marks_after_it_do_not_hide_a_loss(marking: State) -> None:
    """Events do not wait for the next look: as many as there were before, and more, come in between; nor is it told twice."""
    await marking.mark([event("k")])
    before = await kept(marking)
    await marking.mark([event("k", etag="0x8DCB")])
    await go_back(marking, before)
    for number in range(3):
        await marking.mark([event("k", etag=f"0x8DD{number}")])
        assert await marking.lost_marks() == ("",)

    await marking.accept_lost_marks()
    assert await marking.lost_marks() == ()
    before = await kept(marking)
    await marking.mark([event("k", etag="0x8DE0")])
    assert await marking.lost_marks() == ()
    await go_back(marking, before)
    await marking.mark([event("k", etag="0x8DE1")])
    assert await marking.lost_marks() == ("",)


async def test_what_was_marked_before_a_loss_was_accepted_is_remembered(marking: State) -> None:
    """A second failover that goes back further is told, in whichever shard."""
    empty = await kept(marking)
    for key in ("k", "l", "m", "n"):
        await marking.mark([event(key)])
    before = await kept(marking)
    await marking.mark([event("k", etag="0x8DCB")])
    await go_back(marking, before)
    await marking.accept_lost_marks()
    assert await marking.lost_marks() == ()
    await go_back(marking, empty)
    assert await marking.lost_marks() == ("",)


async def test_a_cursor_moved_after_it_stands_for_what_was_lost(two: Two) -> None:
    """The process marks, moves its cursor and dies before it looks: its successor learns of the loss."""
    before = await two.saved(two.one.shard_of("k"))
    await two.one.mark([event("k")])
    await two.go_back(two.one.shard_of("k"), before)
    await two.one.mark([event("k", etag="0x8DCB")])
    assert await two.one.move_cursor("vast_events", None, Cursor({"0": 7}, "opts", 1))
    assert await two.other.lost_marks() == ("vast_events",)
    await two.other.accept_lost_marks()
    assert await two.other.lost_marks() == ()


async def test_a_cursor_moved_while_a_loss_is_accepted_keeps_its_count(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process moves it between the look and the word: what was lost of its marks later is told."""
    shard, moved = two.one.shard_of("k"), Cursor({"0": 8}, "opts", 2)
    before = await two.saved(shard)
    await two.one.mark([event("k")])
    assert await two.one.move_cursor("vast_events", None, Cursor({"0": 7}, "opts", 1))
    await two.go_back(shard, before)
    run_all = two.other.calls.run_all

    async def behind(name: str, calls: Sequence[Call]) -> list[object]:
        await two.one.accept_lost_marks()
        await two.one.mark([event("k", etag="0x8DCB"), event("k", etag="0x8DCC")])
        await two.one.mark([event("k", etag="0x8DCD")])
        assert await two.one.move_cursor("vast_events", Cursor({"0": 7}, "opts", 1), moved)
        return await run_all(name, calls)

    with monkeypatch.context() as slow:
        slow.setattr(two.other.calls, "run_all", behind)
        await two.other.accept_lost_marks()
    await two.go_back(shard, before)
    assert await two.other.lost_marks() == ("vast_events",)


async def test_a_call_under_way_over_the_failover_does_not_hide_a_loss(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was sent before the lost one was answered, and is the same in number: a number twice tells."""
    shard, answered, away = two.one.shard_of("k"), asyncio.Event(), asyncio.Event()
    await two.one.mark([event("k")])
    before = await two.saved(shard)
    run_all = two.one.calls.run_all

    async def held_up(name: str, calls: Sequence[Call]) -> list[object]:
        away.set()
        await answered.wait()
        return await run_all(name, calls)

    with monkeypatch.context() as slow:
        slow.setattr(two.one.calls, "run_all", held_up)
        late = asyncio.create_task(two.one.mark([event("k", etag="0x8DC0")]))
        await away.wait()
    await two.one.mark([event("k", etag="0x8DCB")])
    await two.go_back(shard, before)
    answered.set()
    await late
    assert await two.one.lost_marks() == ("",)
    await two.one.mark([event("k", etag="0x8DCC")])
    assert await two.one.lost_marks() == ("",)
    await two.one.accept_lost_marks()
    await two.one.mark([event("k", etag="0x8DCD")])
    assert await two.one.lost_marks() == ()


async def test_calls_at_one_time_are_no_loss(two: Two) -> None:
    """Their answers come in any order."""
    for number in range(20):
        await asyncio.gather(*(two.one.mark([event(f"k{number}/{one}")]) for one in range(8)))
        assert await two.one.lost_marks() == ()
