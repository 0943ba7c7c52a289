"""Worker processes over one Redis: they share, join, leave, are stopped and go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.clock import SystemClock
from federation.model import Change, Side, Source
from federation.settings import RedisSettings
from federation.state.checking import check
from federation.state.embedded import connect
from federation.state.redis_state import RedisState

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 16
SECONDS = 40.0


class Pool:
    """One Redis and some worker processes."""

    def __init__(self, state: RedisState, folder: Path) -> None:
        self.state = state
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, lease_seconds: float) -> subprocess.Popen[bytes]:
        """One more worker."""
        command = [sys.executable, "-m", "tests.servers.worker_main", str(self.folder), str(SHARDS), str(lease_seconds)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        self.processes.append(process)
        return process

    async def shares(self) -> dict[int, int]:
        """How many shards each process holds, by its id."""
        tokens = await self.state.calls.pipe([("GET", self.state.layout.of_shard(shard, "lease")) for shard in range(SHARDS)])
        return dict(Counter(int(token.decode().split(":")[-3]) for token in tokens if token))

    async def until_shared(self, *counts: int) -> None:
        """Wait until the shards are held so, whoever holds them."""
        await self.until(lambda shares: sorted(shares.values()) == sorted(counts))

    async def until(self, condition: object) -> None:
        """Wait until *condition* holds of the shares."""
        assert callable(condition)
        end = time.monotonic() + SECONDS
        while not condition(shares := await self.shares()):
            assert time.monotonic() < end, shares
            await asyncio.sleep(0.05)

    async def mark_and_wait(self, count: int) -> None:
        """New keys, and all of them worked off."""
        now = time.monotonic_ns()
        await self.state.mark([Change(f"k{now}-{number}", Side.BLOB, Source.EVENT_GRID) for number in range(count)])
        end = time.monotonic() + SECONDS
        while (await self.state.backlog()).dirty:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    """Redis and no worker."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    state = RedisState(client, "pair", shards=SHARDS, clock=SystemClock())
    await state.open()
    made = Pool(state, tmp_path / "redis")
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
    await state.close()
    await server.stop()


async def test_processes_share_and_a_stopped_one_gives_its_shards_back_at_once(pool: Pool) -> None:
    """The lease lasts a minute: what moves in less was given back, when one joins as when one is told to stop."""
    pool.start(60.0)
    await pool.until_shared(16)
    second = pool.start(60.0)
    # The first looks again at a third of its lease.
    await pool.until_shared(8, 8)
    await pool.mark_and_wait(200)
    second.send_signal(signal.SIGTERM)
    await pool.until(lambda shares: second.pid not in shares)
    assert await asyncio.to_thread(second.wait, 20) == 0
    await pool.until_shared(16)
    assert (await check(pool.state.calls, pool.state.layout)).faults == []


async def test_a_process_paused_past_its_lease_does_no_harm(pool: Pool) -> None:
    """The other works on everything meanwhile; when it wakes it shares again, and what it held before is nothing to it."""
    first, second = pool.start(1.5), pool.start(1.5)
    await pool.until_shared(8, 8)
    await pool.state.mark([Change(f"paused-{number}", Side.BLOB, Source.EVENT_GRID) for number in range(400)])
    os.kill(second.pid, signal.SIGSTOP)
    await pool.until(lambda shares: shares == {first.pid: 16})
    await pool.mark_and_wait(200)
    os.kill(second.pid, signal.SIGCONT)
    await pool.until_shared(8, 8)
    await pool.mark_and_wait(200)
    assert [process.poll() for process in (first, second)] == [None, None]
    assert await pool.state.parked() == []
    assert (await check(pool.state.calls, pool.state.layout)).faults == []


async def test_the_shards_of_a_killed_process_are_worked_on_when_its_leases_end(pool: Pool) -> None:
    """Nothing stays with the dead, what it had claimed included."""
    first, second = pool.start(1.5), pool.start(1.5)
    await pool.until_shared(8, 8)
    await pool.state.mark([Change(f"killed-{number}", Side.BLOB, Source.EVENT_GRID) for number in range(400)])
    second.kill()
    await pool.until(lambda shares: shares == {first.pid: 16})
    await pool.mark_and_wait(50)
    assert (await check(pool.state.calls, pool.state.layout)).faults == []
