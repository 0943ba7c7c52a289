"""Event Grid by pull delivery of a namespace, over the documented REST protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.event_settings import BlobEventSettings
from federation.payloads.event_grid import BlobScope
from federation.ports import ChangeSink
from federation.progress import DeadLetter, HaltRecord
from federation.sources.event_grid_pull import EventGridPull, open_pull
from federation.state.embedded import EmbeddedRedis
from federation.state.memory_state import MemoryState
from tests.servers.namespace import KEY, SUBSCRIPTION, TOPIC, Namespace
from tests.servers.support import Counting, QuickClock, Sink, eventually, running, state_in

ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
SCOPE = BlobScope(ACCOUNT, "datasets", "", lambda name: name)


def _event(name: str, container: str = "datasets", kind: str = "BlobCreated", **changes: object) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": name,
        "source": ACCOUNT,
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "type": f"Microsoft.Storage.{kind}",
        "time": "2023-11-14T22:13:20.1234567Z",
        "data": {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 5},
    } | changes


@dataclass
class Lab:
    """A namespace, and a source over it."""

    namespace: Namespace
    sink: Sink = field(default_factory=Sink)
    state: MemoryState = field(default_factory=lambda: MemoryState("pair", shards=1, clock=SystemClock()))
    gaps: list[str] = field(default_factory=list)

    def source(self, *, key: str = KEY, sink: ChangeSink | None = None) -> EventGridPull:
        """A new one."""
        events = BlobEventSettings(
            namespace_endpoint=self.namespace.endpoint, namespace_topic=TOPIC, namespace_subscription=SUBSCRIPTION
        )
        sink = sink or self.sink
        return open_pull(events, key, None, scope=SCOPE, state=self.state, sink=sink, clock=QuickClock(), on_gap=self._gap)

    async def _gap(self, prefix: str = "") -> None:
        self.gaps.append(prefix)

    async def until(self, state: str, count: int) -> None:
        """Wait until so many events are in that state."""
        await eventually(lambda: self.namespace.count(state) == count, f"{count} {state}")


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """A fresh one."""
    async with Namespace().serving() as namespace:
        yield Lab(namespace)


async def test_events_are_marked_and_then_acknowledged(lab: Lab) -> None:
    """More than one receipt holds, with their versions and their times to the microsecond."""
    names = [f"dir/{number} ü" for number in range(150)]
    lab.namespace.publish(*(_event(name) for name in names))
    source = lab.source()
    async with running(source):
        await lab.until("acknowledged", 150)
    assert sorted(lab.sink.keys) == sorted(names)
    assert lab.sink.calls[0][0].etag == "0x8DC1"
    health = source.health()
    assert (health["received"], health["marked"], health["connected"], health["last_error"]) == (150, 150, 1, "")
    assert health["newest_us"] == 1_700_000_000_123_456


async def test_nothing_is_acknowledged_before_its_mark_and_locks_are_held(lab: Lab) -> None:
    """While a mark is slow the locks are renewed; only then the events are acknowledged (rule 6)."""
    lab.namespace.publish(_event("a"), _event("b"))
    lab.sink.gate.clear()
    async with running(lab.source()):
        await eventually(lambda: len(lab.namespace.renewed) >= 6, "the locks are renewed again and again")
        assert lab.namespace.count("locked") == 2
        lab.sink.gate.set()
        await lab.until("acknowledged", 2)
    assert sorted(lab.sink.keys) == ["a", "b"]


async def test_a_failing_mark_releases_and_receives_nothing(lab: Lab) -> None:
    """What is in hand goes back with a delay, and until the state takes marks no delivery is used up."""
    lab.namespace.publish(*(_event(str(number)) for number in range(120)))
    lab.sink.failures = 20
    source = lab.source()
    async with running(source):
        await lab.until("released", 100)
        assert source.health()["last_error"] == "Redis does not answer"
        await eventually(lambda: lab.sink.failed == 20, "the mark was tried again and again")
        assert lab.namespace.receives == 1
        await lab.until("acknowledged", 20)
        lab.namespace.delays_over()
        await lab.until("acknowledged", 120)
    assert set(lab.namespace.delays) == {"10"}
    assert max(one.deliveries for one in lab.namespace.events) == 2
    assert set(lab.sink.keys) == {str(number) for number in range(120)}


@pytest.mark.parametrize("bad", [{"specversion": "1.0"}, {"type": 5}, [1], "text", None], ids=str)
async def test_an_unparseable_event_is_kept_and_rejected(lab: Lab, bad: object) -> None:
    """With its reason and as it came; those around it are marked, though the client's own model would refuse all of them."""
    lab.namespace.publish(_event("before"), bad, _event("after"))
    source = lab.source()
    async with running(source):
        await lab.until("acknowledged", 2)
        await lab.until("rejected", 1)
    assert sorted(lab.sink.keys) == ["after", "before"]
    [letter] = await lab.state.dead_letters()
    assert (letter.source, bool(letter.reason), source.health()["dead_lettered"]) == ("event_grid_pull", True, 1)


async def test_a_letter_is_kept_once_and_not_rejected_before(lab: Lab) -> None:
    """While the mark of the others fails nothing is settled and nothing kept; then both, once."""
    lab.namespace.publish({"type": 5}, _event("a"))
    lab.sink.failures = 3
    async with running(lab.source()):
        await lab.until("released", 2)
        await eventually(lambda: lab.sink.keys == ["a"], "the mark is taken")
        assert (lab.namespace.count("rejected"), await lab.state.dead_letters()) == (0, [])
        lab.namespace.delays_over()
        await lab.until("rejected", 1)
    assert len(await lab.state.dead_letters()) == 1


async def test_a_letter_that_cannot_be_kept_is_not_rejected(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the state it goes back, and nothing else is received until the state answers."""
    away = True

    async def halts() -> list[HaltRecord]:
        if away:
            raise RetryLater("Redis does not answer")
        return []

    async def bury(letter: DeadLetter) -> None:
        await halts()
        await MemoryState.bury(lab.state, letter)

    monkeypatch.setattr(lab.state, "halts", halts)
    monkeypatch.setattr(lab.state, "bury", bury)
    lab.namespace.publish({"type": 5})
    async with running(lab.source()):
        await lab.until("released", 1)
        lab.namespace.publish(_event("a"))
        lab.namespace.delays_over()
        assert lab.namespace.receives == 1
        away = False
        await lab.until("rejected", 1)
        await lab.until("acknowledged", 1)
    assert len(await lab.state.dead_letters()) == 1


async def test_a_lost_lock_costs_a_second_mark(lab: Lab) -> None:
    """A lock that ended under a slow mark is counted; its event comes again and is settled."""
    lab.namespace.publish(_event("a"))
    lab.sink.gate.clear()
    source = lab.source()
    async with running(source):
        await lab.until("locked", 1)
        lab.namespace.locks_over()
        lab.sink.gate.set()
        await lab.until("acknowledged", 1)
    assert lab.sink.keys == ["a", "a"]
    assert int(source.health()["locks_lost"] or 0) >= 1


async def test_what_is_not_ours_is_counted_and_acknowledged(lab: Lab) -> None:
    """Another account's or container's event is no dead letter."""
    lab.namespace.publish(_event("a", "other"), _event("b", source=ACCOUNT + "x"), _event("d", kind="DirectoryDeleted"))
    source = lab.source()
    async with running(source):
        await lab.until("acknowledged", 3)
    health = source.health()
    assert (lab.sink.keys, lab.gaps) == ([], ["d/"])
    assert (health["refused_foreign_container"], health["refused_foreign_account"]) == (1, 1)


@pytest.mark.parametrize(
    ("key", "status", "told"), [("wrong", 200, "Unauthorized"), (KEY, 404, "Code404"), (KEY, 500, "Code500")]
)
async def test_a_far_end_that_refuses_is_told_and_awaited(lab: Lab, key: str, status: int, told: str) -> None:
    """Health names the fault without the key, and the source lives on."""
    lab.namespace.status = status
    source = lab.source(key=key)
    async with running(source) as task:
        await eventually(lambda: source.health()["last_error"] != "", "health tells")
        error = str(source.health()["last_error"])
        assert (told in error, key in error, source.health()["connected"], task.done()) == (True, False, 0, False)


async def test_it_goes_on_when_the_far_end_is_back(lab: Lab) -> None:
    """After an outage nothing has to be restarted."""
    lab.namespace.status = 503
    source = lab.source()
    async with running(source):
        await eventually(lambda: source.health()["last_error"] != "", "health tells")
        lab.namespace.status = 200
        lab.namespace.publish(_event("a"))
        await lab.until("acknowledged", 1)


async def test_an_answer_that_is_none_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else that answers on the address is a fault of the far end, not a stop of ours."""
    monkeypatch.setattr(Namespace, "_receive", _something_else)
    source = lab.source()
    async with running(source) as task:
        await eventually(lambda: "documents" in str(source.health()["last_error"]), "health tells")
        assert not task.done()


async def _something_else(self: Namespace, most: int, wait_seconds: int) -> object:
    from aiohttp import web  # noqa: PLC0415 - as the server it stands for

    del self, most, wait_seconds
    return web.json_response({"hello": "world"})


@pytest.mark.servers
async def test_redis_gone_and_back_loses_nothing(lab: Lab, own_redis: EmbeddedRedis) -> None:
    """While the real state is stopped events are released and none is received; then every one is marked."""
    async with state_in(own_redis) as state:
        sink = Counting(state)
        async with running(lab.source(sink=sink)):
            lab.namespace.publish(_event("before"))
            await lab.until("acknowledged", 1)
            await own_redis.stop()
            lab.namespace.publish(*(_event(f"meanwhile/{number}") for number in range(250)))
            await lab.until("released", 100)
            receives, failed = lab.namespace.receives, sink.failed
            await eventually(lambda: sink.failed > failed + 8, "the mark was tried again and again")
            assert lab.namespace.receives == receives
            await own_redis.start()
            lab.namespace.delays_over()
            await lab.until("acknowledged", 251)
        assert (await state.backlog()).dirty == 251
