"""Several processes on one topic: fair shares, joining, leaving, dying; cursors of each partition; what Redis' absence does."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

import pytest

from federation.progress import Cursor
from federation.sources import partitions as shares
from federation.sources import vast_kafka
from federation.sources.partitions import Shares, fair_share
from federation.state.memory_state import MemoryState
from fedplane.localstack.info import StackInfo
from fedplane.localstack.process import free_port
from tests.servers.kafka_lab import Lab, open_lab
from tests.servers.support import QuickClock, eventually, running

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares are looked at often."""
    monkeypatch.setattr(vast_kafka, "EVERY_SECONDS", 0.1)


@pytest.fixture
def lab(info: StackInfo) -> Lab:
    """A fresh topic of four partitions."""
    return open_lab(info.kafka_bootstrap)


async def _owned(lab: Lab) -> Counter[str]:
    return Counter((await lab.state.owners("vast_events/partition/")).values())


async def _shared(lab: Lab, **expected: int) -> None:
    async def there() -> bool:
        return await _owned(lab) == expected

    await eventually(there, f"shared out as {expected}")


async def test_processes_share_a_topic_and_lose_nothing(lab: Lab) -> None:
    """Who joins is given a part, who leaves gives it back, and every record is marked; no group is joined."""
    async with AsyncExitStack() as processes:
        await processes.enter_async_context(running(lab.source("one")))
        await _shared(lab, one=4)
        for number in range(20):
            lab.send(f"a{number}", partition=number % 4)
        async with running(lab.source("two")):
            await _shared(lab, one=2, two=2)
            for number in range(20):
                lab.send(f"b{number}", partition=number % 4)
            await lab.reaches(p0=10, p1=10, p2=10, p3=10)
        await _shared(lab, one=4)
        lab.send("c", partition=3)
        await lab.reaches(p0=10, p1=10, p2=10, p3=11)
    assert await _owned(lab) == {}
    assert sorted(lab.sink.keys) == sorted([f"{name}{number}" for name in "ab" for number in range(20)] + ["c"])
    assert lab.gaps == 0


async def test_the_partitions_of_one_that_died_are_taken_over(lab: Lab) -> None:
    """Its leases end by themselves; until then what it held waits, and nothing is lost."""
    for partition in range(4):
        assert await lab.state.own(f"vast_events/partition/{partition}", owner="dead", ttl_seconds=0.5)
    assert await lab.state.own("vast_events/reader/dead", owner="dead", ttl_seconds=0.5)
    lab.send("a")
    source = lab.source("one")
    async with running(source):
        await lab.reaches(p0=1)
        await _shared(lab, one=4)
        assert (source.health()["partitions"], source.health()["held"]) == (4, 4)


async def test_who_does_not_reach_the_broker_is_given_no_part(lab: Lab) -> None:
    """Its share would be read by nobody."""
    sick = lab.source("sick")
    sick._options |= {"bootstrap_servers": [f"127.0.0.1:{free_port()}"], "bootstrap_timeout_ms": 300}
    async with running(sick):
        await eventually(lambda: "ECONNREFUSED" in str(sick.health()["last_error"]), "it does not reach the broker")
        async with running(lab.source("well")):
            await _shared(lab, well=4)
            lab.send("a", partition=3)
            await lab.reaches(p3=1)
            assert await lab.state.owners("vast_events/reader/") == {"vast_events/reader/well": "well"}


async def test_a_second_reader_of_a_partition_does_no_harm(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With leases that protect nothing, whoever loses the compare-and-set starts over from the winner's position."""

    async def everything(self: Shares, partitions: frozenset[int]) -> set[int]:
        await self.check()
        return set(partitions)

    monkeypatch.setattr(shares.Shares, "claim", everything)
    async with running(lab.source("one")), running(lab.source("two")):
        for number in range(20):
            lab.send(str(number), partition=number % 4)
        await lab.reaches(p0=5, p1=5, p2=5, p3=5)
    assert {int(key) for key in lab.sink.keys} == set(range(20))


async def test_the_one_cursor_of_older_releases_is_taken_over(lab: Lab) -> None:
    """It held all partitions: each goes on from there under a cursor of its own, and what it did not know is read whole."""
    lab.send("a", "b", "c")
    lab.send("d", partition=1)
    digest = lab.source()._digest  # as the older release wrote it
    assert await lab.state.move_cursor("vast_events", None, Cursor({"0": 2}, digest, 1))
    async with running(lab.source()):
        await lab.reaches(p0=3, p1=1)
    assert sorted(lab.sink.keys) == ["c", "d"]
    assert lab.gaps == 0


async def test_while_marks_fail_nothing_more_is_read(lab: Lab) -> None:
    """Redis slow or gone: no polling, so memory stays what one batch needs, and all is marked afterwards."""
    lab.send("first")
    lab.sink.gate.clear()
    source = lab.source()
    async with running(source):
        await eventually(lambda: source.health().get("received") == 1, "one batch is in hand")
        lab.send(*(f"later{number}" for number in range(50)))
        assert source.health()["received"] == 1
        lab.sink.failures = 3
        lab.sink.gate.set()
        await lab.reaches(p0=51)
    assert set(lab.sink.keys) == {"first", *(f"later{number}" for number in range(50))}


async def test_lag_is_told(lab: Lab) -> None:
    """Records that wait behind the position are counted, as far as the broker told."""
    lab.send(*map(str, range(7)))
    source = lab.source()
    lab.sink.gate.clear()
    async with running(source):
        await eventually(lambda: bool(source.health().get("received")), "a batch is in hand")
        lab.sink.gate.set()
        await lab.reaches(p0=7)
        await eventually(lambda: source.health()["lag_records"] == 0, "nothing waits")
    assert source.health()["position_0"] == 7


@pytest.mark.parametrize(("partitions", "processes", "share"), [(4, 1, 4), (4, 2, 2), (4, 3, 2), (3, 2, 2), (1, 5, 1), (0, 2, 0)])
def test_a_fair_share_is_rounded_up(partitions: int, processes: int, share: int) -> None:
    """All shares together are at least all partitions."""
    assert fair_share(partitions, processes) == share
    assert share * processes >= partitions


async def test_what_is_above_the_share_is_given_back() -> None:
    """At most partitions over processes, rounded up, whoever came first."""
    state = MemoryState("pair", shards=1, clock=QuickClock())
    one, two = Shares(state, "s", "one"), Shares(state, "s", "two")
    assert await one.claim(range(5)) == {0, 1, 2, 3, 4}
    assert await two.claim(range(5)) == set()
    assert await one.claim(range(5)) == {0, 1, 2}
    assert await two.claim(range(5)) == {3, 4}
    assert (one.processes, two.processes) == (2, 2)
    await one.leave()
    assert await two.claim(range(5)) == {0, 1, 2, 3, 4}
