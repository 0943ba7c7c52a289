"""A shard that went back: marks that were acknowledged and are gone are noticed, whatever else was marked since."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.progress import Cursor
from federation.settings import RedisSettings
from federation.state.embedded import connect
from federation.state.redis_state import RedisState
from tests.contract.state_support import TestClock, event


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
