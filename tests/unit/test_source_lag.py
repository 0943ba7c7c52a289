"""How far sources say that they have read: never newer than what waits. On far ends in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Self

import msgspec
import pytest
from azure.core.rest import HttpRequest
from kafka.errors import KafkaError

from federation.clock import SystemClock
from federation.payloads.event_grid import BlobScope
from federation.payloads.vast import VastScope
from federation.sources import vast_kafka
from federation.sources.event_grid_pull import EventGridPull
from federation.sources.event_grid_queue import EventGridQueue
from federation.sources.kafka_reader import Polled
from federation.sources.vast_kafka import VastKafka
from federation.state.memory_state import MemoryState
from tests.servers.support import QuickClock, Sink, eventually, no_scan, running

SECOND = 1_000_000
NOON = 1_700_000_000 * SECOND
AN_HOUR_AGO = NOON - 3600 * SECOND
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
BLOBS = BlobScope(ACCOUNT, "datasets", "", lambda name: name)
BUCKET = VastScope("datasets", "", "percent", lambda name: name)


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / SECOND, UTC).isoformat().replace("+00:00", "Z")


def _record(partition: int, offset: int, at_us: int) -> Any:  # noqa: ANN401 - kafka-python's record
    told = {"bucket": {"name": "datasets"}, "object": {"key": "k", "size": 1}}
    event = {"eventName": "s3:ObjectCreated:Put", "s3": told} | ({"eventTime": _iso(at_us)} if at_us else {})
    return SimpleNamespace(value=msgspec.json.encode({"Records": [event]}), headers=(), partition=partition, offset=offset)


@dataclass
class Broker:
    """A topic of two partitions, in place of ``Reader``: what each poll brings, and where the broker says that they end."""

    ends_at: dict[int, int] = field(default_factory=dict)
    polls: deque[Polled | KafkaError] = field(default_factory=deque)
    next: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})

    def brings(self, **times: int | list[int]) -> None:
        """Records of these times (0: none is told) of ``p0`` and ``p1``, in one poll."""
        found: dict[int, list[Any]] = {}
        for name, at_us in times.items():
            one = int(name.removeprefix("p"))
            for at in at_us if isinstance(at_us, list) else [at_us]:
                found.setdefault(one, []).append(_record(one, self.next[one], at))
                self.next[one] += 1
        self.polls.append(Polled(found))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def topic(self) -> tuple[frozenset[int], str]:
        """As in ``Reader``."""
        return frozenset({0, 1}), "t"

    async def assign(self, positions: Mapping[int, int | None]) -> dict[int, int]:
        """As in ``Reader``."""
        return {one: at or 0 for one, at in positions.items()}

    async def poll(self) -> Polled:
        """As in ``Reader``."""
        await asyncio.sleep(0)
        polled = self.polls.popleft() if self.polls else Polled()
        if isinstance(polled, KafkaError):
            raise polled
        return polled

    async def ends(self) -> dict[int, int]:
        """As in ``Reader``."""
        return dict(self.ends_at)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """With nothing in it."""
    made = Broker()
    monkeypatch.setattr(vast_kafka, "Reader", lambda *_: made)
    return made


def _kafka() -> VastKafka:
    state = MemoryState("pair", shards=1, clock=QuickClock())
    return VastKafka({}, "t", BUCKET, state, Sink(), QuickClock(), on_gap=no_scan, owner="one")


async def _tells(source: VastKafka, behind: int, read_to_us: int | None, received: int) -> None:
    """Wait until it does, having read so many records."""

    def so() -> bool:
        told = source.health()
        found = (told["connected"], told["behind"], told["read_to_us"], told.get("received", 0))
        return found == (1, behind, read_to_us, received)

    await eventually(so, f"behind {behind}, read to {read_to_us}, {received} records")


async def test_a_partition_that_is_current_hides_none_that_is_behind(broker: Broker) -> None:
    """Told is how far the one that is behind was read, until it is at its end too."""
    broker.ends_at = {0: 3, 1: 1}
    broker.brings(p0=AN_HOUR_AGO, p1=NOON)
    source = _kafka()
    async with running(source):
        await _tells(source, 1, AN_HOUR_AGO, 2)
        assert (source.health()["newest_us"], source.health()["lag_records"]) == (NOON, 2)
        broker.brings(p0=[AN_HOUR_AGO + 1, AN_HOUR_AGO + 2])
        await _tells(source, 0, None, 4)


async def test_of_two_partitions_behind_the_one_read_less_far_is_told_or_none(broker: Broker) -> None:
    """As long as nothing was read of one of them, nobody knows how old what waits there is."""
    broker.ends_at = {0: 9, 1: 9}
    broker.brings(p1=NOON)
    source = _kafka()
    async with running(source):
        await _tells(source, 1, None, 1)
        broker.brings(p0=AN_HOUR_AGO)
        await _tells(source, 1, AN_HOUR_AGO, 2)


async def test_the_record_read_last_counts_and_not_the_newest(broker: Broker) -> None:
    """Times go back in a partition; a record without a time leaves the one before it."""
    broker.ends_at = {0: 9, 1: 0}
    broker.brings(p0=[NOON, AN_HOUR_AGO, 0])
    source = _kafka()
    async with running(source):
        await _tells(source, 1, AN_HOUR_AGO, 3)
        broker.brings(p0=0)
        await _tells(source, 1, AN_HOUR_AGO, 4)


async def test_where_the_broker_did_not_say_where_a_partition_ends_anything_may_wait(broker: Broker) -> None:
    """Just connected, a source is not called up to date."""
    broker.ends_at = {0: 0}
    source = _kafka()
    async with running(source):
        await _tells(source, 1, None, 0)
        broker.ends_at = {0: 0, 1: 0}
        await _tells(source, 0, None, 0)


@pytest.mark.parametrize("restarted", [True, False], ids=["the broker lost our place", "a new session"])
async def test_a_place_that_was_left_is_forgotten(broker: Broker, restarted: bool) -> None:
    """What was read from a position further on says nothing of what waits behind the one that is read from now."""
    broker.ends_at = {0: 9, 1: 0}
    broker.brings(p0=NOON)
    source = _kafka()
    async with running(source):
        await _tells(source, 1, NOON, 1)
        broker.polls.append(Polled(restarted={0: 0}) if restarted else KafkaError("gone"))
        await _tells(source, 1, None, 1)
        assert source.health()["newest_us"] == NOON
        broker.brings(p0=AN_HOUR_AGO)
        await _tells(source, 1, AN_HOUR_AGO, 2)


# ----------------------------------------------------------------------------------------------------------- no order


def _event(at_us: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "e",
        "source": ACCOUNT,
        "subject": "/blobServices/default/containers/datasets/blobs/k",
        "type": "Microsoft.Storage.BlobCreated",
        "time": _iso(at_us),
        "data": {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 5},
    }


@dataclass
class Queue:
    """In place of ``QueueClient``: what is received, and what can be seen waiting after that."""

    messages: list[Any] = field(default_factory=list)
    front: list[Any] = field(default_factory=list)
    peeks: int = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def receive_messages(self, **_: int) -> AsyncIterator[Any]:
        """As in the client."""
        taken, self.messages = self.messages, []
        for one in taken:
            yield one

    async def delete_message(self, _: object) -> None:
        """As in the client."""

    async def peek_messages(self, *, max_messages: int) -> list[Any]:
        """As in the client."""
        self.peeks += 1
        return self.front[:max_messages]


@pytest.mark.parametrize(
    ("count", "waiting", "told"),
    [
        (32, [NOON, AN_HOUR_AGO, NOON], (1, AN_HOUR_AGO, 1)),
        (32, [], (0, None, 1)),
        (31, [AN_HOUR_AGO], (0, None, 0)),
    ],
    ids=["more waits", "others took the rest", "the queue was emptied"],
)
async def test_a_queue_tells_since_when_its_oldest_message_waits(
    count: int, waiting: list[int], told: tuple[int, int | None, int]
) -> None:
    """Not what the events said that were received: the service keeps no order. Asked only while more may wait."""
    queue = Queue(front=[SimpleNamespace(inserted_on=datetime.fromtimestamp(at / SECOND, UTC)) for at in waiting])
    queue.messages = [SimpleNamespace(id="m", content=msgspec.json.encode(_event(NOON)).decode()) for _ in range(count)]
    source = EventGridQueue(queue, queue, BLOBS, Sink(), SystemClock(), no_scan)  # type: ignore[arg-type]
    assert await source._round() == count
    health = source.health()
    assert (health["behind"], health["read_to_us"], queue.peeks) == told
    assert health["newest_us"] == NOON


@dataclass
class Namespace:
    """In place of ``EventGridConsumerClient``: one answer after the other."""

    counts: list[int]

    async def send_request(self, _: HttpRequest) -> Any:  # noqa: ANN401 - the client's answer
        """As in the client."""
        one = {"brokerProperties": {"lockToken": "t"}, "event": _event(NOON)}
        return SimpleNamespace(content=msgspec.json.encode({"value": [one] * self.counts.pop(0)}), raise_for_status=lambda: None)

    async def acknowledge(self, *, lock_tokens: list[str]) -> Any:  # noqa: ANN401 - the client's answer
        """As in the client."""
        assert lock_tokens
        return SimpleNamespace(failed_lock_tokens=[])


async def test_a_namespace_that_holds_more_does_not_tell_how_old_it_is() -> None:
    """After a full answer more may wait, and what was read says nothing of its age; after another one nothing does."""
    state = MemoryState("pair", shards=1, clock=SystemClock())
    source = EventGridPull(Namespace([100, 99]), "/p", BLOBS, state, Sink(), SystemClock(), no_scan)  # type: ignore[arg-type]
    told = []
    for _ in range(2):
        await source._round()
        told.append((source.health()["behind"], source.health()["read_to_us"], source.health()["newest_us"]))
    assert told == [(1, None, NOON), (0, None, NOON)]
