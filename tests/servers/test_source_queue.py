"""Event Grid through a Storage Queue, on Azurite."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue.aio import QueueClient

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.model import Change
from federation.payloads.event_grid import BlobScope
from federation.ports import ChangeSink
from federation.progress import MarkResult
from federation.sources import event_grid_queue
from federation.sources.event_grid_queue import EventGridQueue, open_queue
from federation.state.embedded import EmbeddedRedis
from federation.state.memory_state import MemoryState
from fedplane.localstack.info import StackInfo
from tests.servers.support import Counting, QuickClock, Sink, eventually, running, state_in

pytestmark = pytest.mark.servers
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
SCOPE = BlobScope(ACCOUNT, "datasets", "", lambda name: name)


@dataclass
class Lab:
    """A queue of its own, and a source over it."""

    info: StackInfo
    name: str
    queue: QueueClient
    poison: QueueClient
    sink: Sink = field(default_factory=Sink)
    gaps: list[str] = field(default_factory=list)
    deaf: bool = False
    """Nobody can be asked for a scan now."""
    refusals: int = 0
    state: MemoryState = field(default_factory=lambda: MemoryState("pair", shards=1, clock=SystemClock()))

    def source(self, sink: ChangeSink | None = None) -> EventGridQueue:
        """A new one."""
        url, text = f"{self.info.queue_endpoint}/{self.name}", self.info.connection_string()
        sink, clock = sink or self.sink, QuickClock()
        return open_queue(url, text, None, scope=SCOPE, sink=sink, clock=clock, on_gap=self._gap, state=self.state)

    async def _gap(self, prefix: str = "") -> None:
        if self.deaf:
            self.refusals += 1
            raise RetryLater("the state is away", reason="test")
        self.gaps.append(prefix)

    async def send(self, *events: Any) -> None:  # noqa: ANN401 - any JSON
        """Each as Event Grid does: one event a message, base64."""
        for event in events:
            await self.queue.send_message(base64.b64encode(json.dumps(event).encode()).decode())

    async def left(self) -> int:
        """Messages in the queue, invisible ones too."""
        return (await self.queue.get_queue_properties()).approximate_message_count or 0

    async def empty(self) -> bool:
        """Whether none is left."""
        return await self.left() == 0

    async def letters(self) -> list[dict[str, Any]]:
        """What was moved to the poison queue."""
        return [json.loads(message.content) for message in await self.poison.peek_messages(max_messages=32)]


class OneByOne(Sink):
    """Takes one mark, and the next when its gate is opened again."""

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port."""
        result = await super().mark(changes)
        self.gate.clear()
        return result


def _event(name: str, container: str = "datasets", kind: str = "BlobCreated", topic: str = ACCOUNT) -> dict[str, Any]:
    return {
        "topic": topic,
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": f"Microsoft.Storage.{kind}",
        "eventTime": "2023-11-14T22:13:20.1234567Z",
        "data": {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 5},
    }


@pytest.fixture
async def lab(info: StackInfo) -> AsyncIterator[Lab]:
    """A fresh queue; its poison queue does not exist yet."""
    name, text = f"events-{uuid4().hex[:12]}", info.connection_string()
    async with (
        QueueClient.from_connection_string(text, name) as queue,
        QueueClient.from_connection_string(text, f"{name}-poison") as poison,
    ):
        await queue.create_queue()
        yield Lab(info, name, queue, poison)


async def test_messages_are_marked_and_then_deleted(lab: Lab) -> None:
    """Everything in the queue is marked once, 32 messages in one step, and gone afterwards."""
    names = [f"dir/{number} ü.txt" for number in range(40)]
    await lab.send(*(_event(name) for name in names))
    source = lab.source()
    async with running(source):
        await eventually(lab.empty, "the queue is empty")
    assert sorted(lab.sink.keys) == sorted(names)
    assert len(lab.sink.calls) == 2
    health = source.health()
    assert (health["received"], health["marked"], health["connected"], health["last_error"]) == (40, 40, 1, "")
    assert health["newest_us"] == 1_700_000_000_123_456


async def test_plain_json_and_arrays_are_taken(lab: Lab) -> None:
    """A message may hold plain JSON, or several events."""
    await lab.queue.send_message(json.dumps([_event("a"), _event("b")]))
    async with running(lab.source()):
        await eventually(lab.empty, "the queue is empty")
    assert lab.sink.keys == ["a", "b"]


async def test_nothing_is_deleted_before_its_mark_returned(lab: Lab) -> None:
    """While the mark is under way, also when the source is stopped then, the message is still there (rule 6)."""
    await lab.send(_event("a"))
    lab.sink.gate.clear()
    source = lab.source()
    async with running(source):
        await eventually(lambda: source.health().get("received") == 1, "the message was received")
        assert await lab.left() == 1
    assert await lab.left() == 1
    assert lab.sink.calls == []


async def test_what_waits_is_told_with_the_age_of_the_oldest(lab: Lab) -> None:
    """Since when it is in the queue by the service, whatever times the events bear; and nothing once all was taken."""
    before_us = SystemClock().now_us()
    await lab.send(*(_event(str(number)) for number in range(70)))
    after_us = SystemClock().now_us()
    sink = OneByOne()
    source = lab.source(sink)
    async with running(source):
        await eventually(lambda: source.health()["behind"] == 1, "more waits")
        told = source.health()["read_to_us"]

        def caught_up() -> bool:
            sink.gate.set()
            return source.health()["behind"] == 0

        await eventually(caught_up, "nothing waits")
    assert isinstance(told, int)
    assert before_us - 1_000_000 <= told <= after_us, "the service tells whole seconds"


async def test_a_failing_mark_is_not_poison(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often marking fails, the message comes back and nothing is moved to the poison queue; health tells why."""
    monkeypatch.setattr(event_grid_queue, "_VISIBILITY_SECONDS", 1)
    await lab.send(_event("a"))
    lab.sink.failures = 6
    source = lab.source()
    async with running(source):
        await eventually(lambda: source.health()["last_error"] == "Redis does not answer", "health tells")
        await eventually(lab.empty, "the queue is empty")
    assert (lab.sink.failed, lab.sink.keys) == (6, ["a"])
    with pytest.raises(ResourceNotFoundError):
        await lab.letters()


@pytest.mark.parametrize("content", ["no base64!", base64.b64encode(b"no JSON").decode(), "{}", "[1]"])
async def test_a_malformed_message_is_kept_and_the_stream_goes_on(lab: Lab, content: str) -> None:
    """It is moved whole with its reason, and those around it are marked."""
    await lab.send(_event("before"))
    await lab.queue.send_message(content)
    await lab.send(_event("after"))
    source = lab.source()
    async with running(source):
        await eventually(lab.empty, "the queue is empty")
    assert sorted(lab.sink.keys) == ["after", "before"]
    [letter] = await lab.letters()
    assert letter["content"] == content
    assert letter["reason"]
    assert letter["at_us"] > 0
    assert source.health()["dead_lettered"] == 1


@pytest.mark.parametrize("content", ["x" * 65_500, '"' * 40_000, "ü" * 32_750], ids=["full", "escaped", "wide"])
async def test_a_malformed_message_that_fills_a_message_is_kept_too(lab: Lab, content: str) -> None:
    """What leaves no room for its reason is moved untouched, and the reason after it; the stream goes on."""
    await lab.queue.send_message(content)
    await lab.send(_event("after"))
    async with running(lab.source()):
        await eventually(lab.empty, "the queue is empty")
    whole, reason = [message.content async for message in lab.poison.receive_messages()]
    assert whole == content
    assert json.loads(reason)["reason"]
    assert lab.sink.keys == ["after"]


async def test_a_malformed_message_is_told_by_the_state_and_waits_for_ever(lab: Lab) -> None:
    """Status and `fedplane events dead` know of it, and the poison queue never forgets it."""
    await lab.queue.send_message("no base64!")
    async with running(lab.source()):
        await eventually(lab.empty, "the queue is empty")
    assert [(one.source, one.raw) for one in await lab.state.dead_letters()] == [("event_grid_queue", b"no base64!")]
    [message] = await lab.poison.peek_messages()
    assert message.expires_on is not None
    assert message.expires_on.year == 9999


async def test_while_marks_fail_nothing_else_is_received(lab: Lab) -> None:
    """One round is held, however many wait; then all are marked."""
    await lab.send(*(_event(str(number)) for number in range(70)))
    lab.sink.failures = 20
    source = lab.source()
    async with running(source):
        await eventually(lambda: lab.sink.failed == 19, "the mark was tried again and again")
        assert source.health()["received"] == 32
        await eventually(lab.empty, "the queue is empty")
    assert sorted(lab.sink.keys, key=int) == [str(number) for number in range(70)]


async def test_redis_gone_and_back_loses_nothing(lab: Lab, own_redis: EmbeddedRedis) -> None:
    """While the real Redis is stopped one round is held and the rest stays in the queue; then every event is marked."""
    async with state_in(own_redis) as state:
        sink = Counting(state)
        source = lab.source(sink)
        async with running(source):
            await lab.send(_event("before"))
            await eventually(lab.empty, "the queue is empty")
            await own_redis.stop()
            await lab.send(*(_event(f"meanwhile/{number}") for number in range(100)))
            await eventually(lambda: sink.failed > 8, "the mark was tried again and again")
            assert int(source.health()["received"] or 0) <= 1 + 32
            assert await lab.left() == 100
            await own_redis.start()
            await eventually(lab.empty, "the queue is empty")
        assert (await state.backlog()).dirty == 101


async def test_what_is_not_ours_is_counted_and_deleted(lab: Lab) -> None:
    """Another account's or container's events are no poison: they are refused by reason."""
    await lab.send(_event("a", "other"), _event("b", "other"), _event("c", topic=ACCOUNT + "x"), _event("ours"))
    source = lab.source()
    async with running(source):
        await eventually(lab.empty, "the queue is empty")
    assert lab.sink.keys == ["ours"]
    health = source.health()
    assert (health["refused_foreign_container"], health["refused_foreign_account"], health["marked"]) == (2, 1, 1)


async def test_an_event_for_a_scan_asks_for_one(lab: Lab) -> None:
    """A directory event cannot be marked key by key."""
    await lab.send(_event("dir", kind="DirectoryRenamed"))
    async with running(lab.source()):
        await eventually(lab.empty, "the queue is empty")
    assert (lab.gaps, lab.sink.keys) == (["", "dir/"], [])


async def test_a_message_stays_until_its_scan_was_asked_for(lab: Lab) -> None:
    """What asks for a scan is acknowledged after the asking (rule 6): a process that dies in between leaves it in the queue."""
    await lab.send(_event("dir", kind="DirectoryRenamed"))
    lab.deaf = True
    async with running(lab.source()):
        await eventually(lambda: lab.refusals > 1, "it was tried")
        assert await lab.left() == 1
        lab.deaf = False
        await eventually(lab.empty, "the queue is empty")
    assert lab.gaps == ["", "dir/"]


async def test_a_missing_queue_is_told_and_awaited(lab: Lab) -> None:
    """Health names the fault, and once the queue is there the source goes on by itself."""
    await lab.queue.delete_queue()
    source = lab.source()
    async with running(source) as task:
        await eventually(lambda: "QueueNotFound" in str(source.health()["last_error"]), "health tells")
        assert (source.health()["connected"], task.done()) == (0, False)
        await lab.queue.create_queue()
        await lab.send(_event("a"))
        await eventually(lambda: lab.sink.keys == ["a"], "the event is marked")
        await eventually(lambda: source.health()["connected"] == 1, "health tells")


async def test_two_sources_share_a_queue(lab: Lab) -> None:
    """Processes side by side take each message once between them."""
    await lab.send(*(_event(str(number)) for number in range(100)))
    async with running(lab.source()), running(lab.source()):
        await eventually(lab.empty, "the queue is empty")
    assert sorted(lab.sink.keys, key=int) == [str(number) for number in range(100)]


async def test_stopping_is_quick(lab: Lab) -> None:
    """An idle source ends at once when cancelled."""
    source = lab.source()
    async with running(source) as task:
        await eventually(lambda: source.health()["connected"] == 1, "connected")
        task.cancel()
        _, pending = await asyncio.wait({task}, timeout=2)
        assert not pending
