"""``fedplane state check`` of shards with many keys: in pieces, beside a plane that works between any two of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from federation.model import Side
from federation.settings import RedisSettings
from federation.state.checking import NAMED, check
from federation.state.embedded import connect
from federation.state.pieces import AT_ONCE
from federation.state.redis_state import RedisState
from tests.contract.state_support import AGREED, TestClock, event, lease_of

DIRTY = [f"key-{number:05d}" for number in range(3_000)]


@pytest.fixture
async def busy(clock: TestClock, tmp_path: Path) -> AsyncIterator[RedisState]:
    """One shard with thousands of dirty keys, some hundred of them claimed."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    state = RedisState(client, "pair", shards=1, clock=clock)
    await state.open()
    await state.mark([event(key, side) for key in DIRTY for side in Side])
    lease = await lease_of(state, DIRTY[0])
    await state.claim(lease, limit=700, now_us=clock.us)
    await state.mark([event(key, etag="0x8DD7") for key in DIRTY[:200]])
    yield state
    await state.close()
    await server.stop()


async def test_no_command_of_a_check_takes_all_of_a_shard(busy: RedisState) -> None:
    """Redis is asked for some hundred keys at a time, of each part of the dirty set; all are counted."""
    await busy._redis.config_resetstat()
    checked = await check(busy.calls, busy.layout)
    told: dict[str, Any] = await busy._redis.info("commandstats")

    assert (checked.dirty, checked.faults) == (len(DIRTY), [])
    calls = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in told.items()}
    assert not calls.keys() & {"hkeys", "hvals", "zrange", "zrangebyscore", "smembers"}
    parts_walked = 4 * len(DIRTY) / AT_ONCE  # due and claimed together, since of two sides, hints
    assert calls["evalsha"] + calls.get("eval", 0) >= 0.6 * parts_walked


async def test_keys_that_change_between_two_pieces_are_no_fault(
    busy: RedisState, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims, settles, deferrals and marks go on after every piece, of keys that were walked and of keys that were not."""
    await busy._redis.delete(busy.layout.of_shard(0, "lease"))  # as if the first worker's had run out
    lease = await lease_of(busy, DIRTY[0])
    run, worked = busy.calls.run, 0

    async def run_and_work(name: str, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401
        nonlocal worked
        reply = await run(name, keys, args)
        if name == "check":
            worked += 1
            for at, claim in enumerate(await busy.claim(lease, limit=30, now_us=clock.us, newest=10)):
                key, generation = claim.hint.key, claim.hint.generation
                if at % 3 == 0:
                    await busy.defer(lease, key, generation, not_before_us=clock.us + 9, error="later")
                else:
                    await busy.settle(lease, key, generation, AGREED)
            await busy.mark([event(f"new-{worked}-{number}") for number in range(9)])
        return reply

    monkeypatch.setattr(busy.calls, "run", run_and_work)
    assert (await check(busy.calls, busy.layout)).faults == []
    assert worked > 3 * len(DIRTY) / AT_ONCE


@pytest.mark.parametrize("off", [0, 3])
async def test_a_count_is_off_when_it_is_so_in_every_walk(busy: RedisState, monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    """One record goes where the walk has been and one comes where it has not: the count is the same and right throughout."""
    await busy._redis.delete(busy.layout.of_shard(0, "lease"))  # as if the first worker's had run out
    lease = await lease_of(busy, DIRTY[0])
    buckets = busy.layout.buckets_of(0)
    first, *_, last = sorted((f"settled-{n}" for n in range(400)), key=lambda key: buckets.index(busy.layout.base_bucket(key)))
    await busy.settle(lease, first, 0, AGREED)
    await busy.calls.pipe([("INCRBY", busy.layout.of_shard(0, "count"), off)])
    pipe, walks = busy.calls.pipe, 0

    async def pipe_and_work(commands: Any) -> list[Any]:  # noqa: ANN401
        nonlocal walks
        replies = await pipe(commands)
        if commands[0] == ("HGETALL", busy.layout.base_bucket(first)):
            walks += 1
            if not off and walks == 1:
                await busy.settle(lease, first, 0, None)
                await busy.settle(lease, last, 0, AGREED)
        return replies

    monkeypatch.setattr(busy.calls, "pipe", pipe_and_work)
    counts = [one.count for one in (await check(busy.calls, busy.layout)).faults if one.kind == "count"]
    assert (counts, walks) == (([3], 3) if off else ([], 2))


async def test_many_faults_of_a_kind_are_counted_and_some_are_named(busy: RedisState) -> None:
    """What is told stays small however much is wrong."""
    await busy.calls.pipe([("DEL", busy.layout.of_shard(0, "hint"))])
    kinds = {one.kind: one for one in (await check(busy.calls, busy.layout)).faults}
    assert kinds.keys() == {"due_without_hint", "claimed_without_hint", "since_blob_without_hint", "since_vast_without_hint"}
    assert kinds["since_vast_without_hint"].count >= len(DIRTY)
    assert {len(one.keys) for one in kinds.values()} == {NAMED}
