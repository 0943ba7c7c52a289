"""The ways by which events travel: a Storage Queue and a Kafka topic, losing, doubling, delaying and reordering."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, Self
from urllib.parse import quote

from azure.core.exceptions import ResourceNotFoundError, ServiceRequestError
from kafka.errors import KafkaConnectionError

from federation.keys import encode, policy_for
from federation.model import Side
from federation.sources.kafka_reader import Polled
from tests.simulation.loop import UNIT
from tests.simulation.script import Rates

CONTAINER, BUCKET, ACCOUNT = "data", "data", "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/sim"
PARTITIONS = 2
_POLL_AT_MOST = 5


@dataclass(slots=True)
class Told:
    """One event, as sent."""

    side: Side
    key: str
    body: bytes
    sent: float
    """Virtual time."""
    at_us: int = 0
    """As its side's clock told it."""


def blob_event(key: str, etag: str | None, at_us: int) -> bytes:
    """As Event Grid sends it."""
    kind = "BlobCreated" if etag is not None else "BlobDeleted"
    data = {"api": "PutBlob", "eTag": etag, "contentLength": 1} if etag is not None else {"api": "DeleteBlob"}
    return json.dumps(
        {
            "topic": ACCOUNT,
            "subject": f"/blobServices/default/containers/{CONTAINER}/blobs/{encode(key, policy_for(Side.BLOB))}",
            "eventType": f"Microsoft.Storage.{kind}",
            "eventTime": datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z"),
            "id": "e",
            "data": data,
        }
    ).encode()


def vast_event(key: str, name: str, etag: str | None, at_us: int) -> bytes:
    """As VAST sends it."""
    item = {"key": quote(encode(key, policy_for(Side.VAST)), safe="/"), "size": 1} | ({"eTag": etag} if etag is not None else {})
    record = {
        "eventName": name,
        "eventTime": datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "s3": {"bucket": {"name": BUCKET}, "object": item},
    }
    return json.dumps({"Records": [record]}).encode()


class Delivery:
    """From the service to the queue or topic."""

    def __init__(
        self, rng: Random, rates: Callable[[], Rates], count: Callable[[str], None], arrive: Callable[[Told], None]
    ) -> None:
        self._rng = rng
        self._rates = rates
        self._count = count
        self._arrive = arrive
        self.past: list[Told] = []
        self.under_way = 0

    def send(self, told: Told) -> None:
        """Send it, as well as this service does."""
        self.past.append(told)
        rates, rng = self._rates(), self._rng
        if rng.random() < rates.event_lost:
            self._count("event lost")
            return
        self._post(told, rng.uniform(0, 0.5))
        if rng.random() < rates.event_twice:
            self._count("event doubled")
            self._post(told, rng.uniform(0, 10))

    def _post(self, told: Told, delay: float) -> None:
        if self._rng.random() < self._rates().event_late:
            self._count("event late")
            delay += self._rng.uniform(0, self._rates().late_seconds)
        self.under_way += 1
        asyncio.get_running_loop().call_later(delay, self._deliver, told, context=Context())

    def replay(self, number: int) -> None:
        """Old events come once more."""
        for told in self._rng.sample(self.past, min(number, len(self.past))):
            self._count("event replayed")
            self.under_way += 1
            asyncio.get_running_loop().call_later(self._rng.uniform(0, 5), self._deliver, told, context=Context())

    def _deliver(self, told: Told) -> None:
        self.under_way -= 1
        self._arrive(told)


@dataclass(slots=True)
class Message:
    """A queue message as received."""

    id: str
    content: str
    receipt: int
    told: Told


@dataclass(slots=True)
class Queue:
    """The Storage Queue."""

    messages: dict[str, Message] = field(default_factory=dict)
    visible: dict[str, float] = field(default_factory=dict)
    serial: int = 0

    def add(self, told: Told) -> None:
        """Enqueue."""
        self.serial += 1
        name = str(self.serial)
        self.messages[name] = Message(name, base64.b64encode(told.body).decode(), 0, told)
        self.visible[name] = 0.0


class QueueEnd:
    """What the engine uses of ``azure.storage.queue.aio.QueueClient``, of one process."""

    def __init__(
        self, queue: Queue, rng: Random, rates: Callable[[], Rates], count: Callable[[str], None], deleted: Callable[[Told], None]
    ) -> None:
        self._queue = queue
        self._rng = rng
        self._rates = rates
        self._count = count
        self._deleted = deleted

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def _go(self) -> None:
        await asyncio.sleep(self._rng.uniform(0, 0.05))
        await slowly(self._rng, self._rates().slow_broker, lambda: self._count("queue call slow"))
        if self._rng.random() < self._rates().broker:
            self._count("queue call failed")
            raise ServiceRequestError("queue away")

    async def receive_messages(
        self, *, messages_per_page: int, max_messages: int, visibility_timeout: int
    ) -> AsyncIterator[Message]:
        """As the client."""
        del messages_per_page
        await self._go()
        now = asyncio.get_running_loop().time()
        names = [name for name, at in self._queue.visible.items() if at <= now][:max_messages]
        self._rng.shuffle(names)
        got = []
        for name in names:
            held = self._queue.messages[name]
            self._queue.visible[name] = now + visibility_timeout
            held = self._queue.messages[name] = Message(name, held.content, held.receipt + 1, held.told)
            got.append(held)
        await self._go()  # an answer may be lost: the messages come back when their visibility ends
        for message in got:
            yield message

    async def delete_message(self, message: Message) -> None:
        """As the client."""
        await self._go()
        held = self._queue.messages.get(message.id)
        if held is None or held.receipt != message.receipt:
            raise ResourceNotFoundError("the receipt does not fit")
        del self._queue.messages[message.id], self._queue.visible[message.id]
        self._deleted(message.told)
        await self._go()


async def slowly(rng: Random, rate: float, count: Callable[[], None]) -> None:
    """Now and then a call takes seconds, some more than a lease."""
    if rate and rng.random() < rate:
        count()
        await asyncio.sleep(rng.choice([rng.uniform(0.5, 5), rng.uniform(5, 15)]))


@dataclass(slots=True)
class Record:
    """A Kafka record."""

    partition: int
    offset: int
    value: bytes
    told: Told
    headers: tuple[tuple[str, bytes], ...] = ()


class Topic:
    """The topic: partitions with a first offset that retention moves."""

    def __init__(self) -> None:
        self.partitions: list[list[Record]] = [[] for _ in range(PARTITIONS)]
        self.first = [0] * PARTITIONS

    def add(self, told: Told) -> None:
        """Append."""
        number = sum(told.key.encode()) % PARTITIONS
        records = self.partitions[number]
        records.append(Record(number, len(records), told.body, told))

    def truncate(self) -> None:
        """Retention passed everything there is."""
        self.first = [len(records) for records in self.partitions]


class TopicEnd:
    """Stands in for the thread with kafka-python in ``federation.sources.vast_kafka``; made by the source itself."""

    def __init__(self, options: dict[str, Any], topic: str) -> None:
        del topic
        self._topic: Topic = options["sim_topic"]
        self._rng: Random = options["sim_rng"]
        self._rates: Callable[[], Rates] = options["sim_rates"]
        self._count: Callable[[str], None] = options["sim_count"]
        self._position: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def _go(self) -> None:
        await asyncio.sleep(self._rng.uniform(0, 0.05))
        await slowly(self._rng, self._rates().slow_broker, lambda: self._count("broker call slow"))
        if self._rng.random() < self._rates().broker:
            self._count("broker call failed")
            raise KafkaConnectionError("broker away")

    async def topic(self) -> tuple[frozenset[int], str]:
        """As the real one; nobody makes the topic anew."""
        await self._go()
        return frozenset(range(PARTITIONS)), ""

    async def assign(self, positions: Mapping[int, int | None]) -> dict[int, int]:
        """As the real one."""
        await self._go()
        self._position = {one: self._topic.first[one] if at is None else at for one, at in positions.items()}
        return dict(self._position)

    async def ends(self) -> dict[int, int]:
        """As the real one."""
        return {one: len(self._topic.partitions[one]) for one in self._position}

    async def poll(self) -> Polled:
        """As the real one: some records by partition, or nothing after a while."""
        await self._go()
        polled = Polled()
        for number, at in self._position.items():
            if at < self._topic.first[number]:
                polled.restarted[number] = self._position[number] = self._topic.first[number]
                return polled
            if found := self._topic.partitions[number][at : at + _POLL_AT_MOST]:
                polled.records[number] = list(found)
            self._position[number] = at + len(found)
        if not polled.records:
            await asyncio.sleep(0.5)
        return polled


def unit_name() -> str:
    """Of the process that asks."""
    unit = UNIT.get()
    return unit.name if unit is not None else "world"
