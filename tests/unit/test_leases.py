"""Who works on which shards: shares that follow the workers there are. In-memory twin, a clock set by hand."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from federation.errors import LeaseLost, RetryLater
from federation.progress import Lease
from federation.state.memory_state import MemoryState
from federation.sync.leases import Leases

TTL = 9.0


class HandClock:
    """Set by the test."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now_us(self) -> int:
        """Follows the monotonic one."""
        return int(self.seconds * 1_000_000)

    def monotonic_seconds(self) -> float:
        """As set."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Nobody sleeps here: rounds are made by the test."""
        raise AssertionError(seconds)


class Pool:
    """Some workers over one state."""

    def __init__(self, shards: int = 16) -> None:
        self.clock = HandClock()
        self.state = MemoryState("pair", shards=shards, clock=self.clock)
        self.busy: set[tuple[str, int]] = set()

    def join(self, name: str) -> Leases:
        """One more."""
        return Leases(
            self.state,
            owner=name,
            ttl_seconds=TTL,
            clock=self.clock,
            on_new=lambda _: None,
            busy=lambda shard: (name, shard) in self.busy,
        )

    async def rounds(self, *workers: Leases, count: int = 2) -> list[int]:
        """Each makes its rounds, a third of a lease apart; how many shards each holds then."""
        for _ in range(count):
            for worker in workers:
                await worker._round()
                worker._drop_expired()
            self.clock.seconds += TTL / 3
        return [len(worker.held) for worker in workers]


async def test_shards_are_shared_when_one_joins_and_taken_over_when_one_leaves() -> None:
    """Two rounds are enough either way, and no shard has two owners or none."""
    pool = Pool()
    one, two, three = (pool.join(name) for name in ("one", "two", "three"))
    assert await pool.rounds(one) == [16]
    assert await pool.rounds(one, two) == [8, 8]
    assert sorted(await pool.rounds(one, two, three)) == [4, 6, 6]
    assert sorted([*one.held, *two.held, *three.held]) == list(range(16))
    await two.leave()
    assert two.held == {}
    assert await pool.rounds(one, three) == [8, 8]


async def test_the_shards_of_one_that_hangs_are_taken_when_its_leases_end() -> None:
    """It is counted for as long as its leases last, and drops them itself when it comes back."""
    pool = Pool()
    one, two = pool.join("one"), pool.join("two")
    await pool.rounds(one, two, count=3)
    held = dict(two.held)
    assert len(held) == 8
    assert await pool.rounds(one, count=5) == [16]
    with pytest.raises(Exception, match="may belong to another"):
        two.require(next(iter(held.values())))
    assert await pool.rounds(one, two) == [8, 8]


async def test_a_shard_at_work_is_given_back_when_its_keys_are_done() -> None:
    """No more is claimed of it, and nothing is taken from under a worker."""
    pool = Pool(shards=2)
    one, two = pool.join("one"), pool.join("two")
    await pool.rounds(one)
    pool.busy = {("one", 0), ("one", 1)}
    assert await pool.rounds(one, two) == [2, 0]
    assert len(one.yielding) == 1
    pool.busy.clear()
    assert await pool.rounds(one, two) == [1, 1]
    assert not one.yielding


async def test_a_shard_with_a_key_that_takes_long_is_worked_on_again() -> None:
    """While one file is copied for hours the shard's other keys are not kept from everybody."""
    pool = Pool(shards=1)
    one = pool.join("one")
    await pool.rounds(one)
    pool.busy = {("one", 0)}
    one._share = 0
    one._choose()
    assert list(one.yielding) == [0]
    pool.clock.seconds += TTL + 1
    one._choose()
    assert not one.yielding


async def test_what_cannot_be_renewed_keeps_no_other_from_it() -> None:
    """One node of a cluster is away: the shards of the others stay ours, its own are dropped when their time is over."""
    pool = Pool(shards=4)
    one = pool.join("one")
    await pool.rounds(one)
    renew = pool.state.renew

    async def half_away(lease: Lease, *, ttl_seconds: float) -> bool:
        if lease.shard < 2:
            raise RetryLater("that node is away")
        return await renew(lease, ttl_seconds=ttl_seconds)

    pool.state.renew = half_away  # type: ignore[method-assign]
    for _ in range(4):
        with pytest.raises(RetryLater):
            await one._round()
        one._drop_expired()
        pool.clock.seconds += TTL / 3
        if len(one.held) < 4:
            break
    assert {2, 3} <= one.held.keys()


async def test_what_is_under_way_ends_when_the_lease_is_lost() -> None:
    """No server knows our fencing number: a request still on its way could take effect after the next worker's."""
    pool = Pool(shards=2)
    one = pool.join("one")
    await pool.rounds(one, count=1)
    lease, other = one.held.values()
    began = asyncio.Event()

    async def work() -> None:
        async with one.while_held(lease):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    one.lost(lease)
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(task, 5)
    with pytest.raises(LeaseLost):
        async with one.while_held(lease):
            raise AssertionError("nothing may begin")
    async with one.while_held(other):
        pass


async def test_leases_that_could_not_be_renewed_are_told_at_once_and_in_one_line() -> None:
    """Redis was away: one line with their number, not one for each of all shards."""
    pool = Pool(shards=16)
    one = pool.join("one")
    await pool.rounds(one, count=1)
    pool.clock.seconds += TTL
    with capture_logs() as told:
        one._drop_expired()
    assert one.held == {}
    assert [(line["event"], line["shards"]) for line in told] == [("leases lost", 16)]


async def test_a_time_out_of_the_work_itself_stays_one() -> None:
    """Only the loss of the lease is told as such."""
    pool = Pool(shards=1)
    one = pool.join("one")
    await pool.rounds(one, count=1)
    with pytest.raises(TimeoutError):
        async with one.while_held(one.held[0]):
            raise TimeoutError


def test_processes_of_one_host_name_and_number_have_names_of_their_own() -> None:
    """As in containers, where each is number 1: else one would go on with what another owns, and tell in its place."""
    program = "import os, socket; os.getpid = lambda: 1; socket.gethostname = lambda: 'h'; from federation import wiring; "
    command = [sys.executable, "-c", program + "print(wiring.owner_name(), wiring.owner_name())"]
    told = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(2)]  # noqa: S603
    assert len({name for names in told for name in names}) == 2
    assert all(name.startswith("h:1:") for names in told for name in names)
