"""A topic of its own on any broker, and sources over it that share one state and one sink."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from uuid import uuid4

from confluent_kafka import Producer

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.payloads.vast import VastScope
from federation.progress import DeadLetter
from federation.settings import VastEventSettings
from federation.sources.build import kafka_options
from federation.sources.vast_kafka import VastKafka
from federation.state.memory_state import MemoryState
from tests.servers.support import QuickClock, Sink, eventually

SCOPE = VastScope("datasets", "", "percent", lambda name: name)
PARTITIONS = 4


class BuryingState(MemoryState):
    """Fails to bury *failures* times first."""

    failures = 0

    async def bury(self, letter: DeadLetter) -> None:
        """As in the port."""
        if self.failures:
            self.failures -= 1
            raise RetryLater("Redis does not answer", reason="redis_unavailable")
        await super().bury(letter)


@dataclass
class Lab:
    """A topic of its own, and sources over it that share one state."""

    bootstrap: str
    topic: str
    producer: Producer
    state: BuryingState
    sink: Sink = field(default_factory=Sink)
    gaps: int = 0
    deaf: bool = False
    """Nobody can be asked for a scan now."""
    refusals: int = 0
    api_version: str = "2.3"
    clock: SystemClock = field(default_factory=QuickClock)

    def source(self, owner: str = "one", *, group_id: str = "", **settings: str) -> VastKafka:
        """A new one, as after a restart."""
        settings = {"api_version": self.api_version} | settings
        events = VastEventSettings(bootstrap=(self.bootstrap,), topic=self.topic, **settings)  # type: ignore[arg-type]
        options, gap = kafka_options(events, client_id=f"fedplane-{owner}"), self._gap
        return VastKafka(
            options, self.topic, SCOPE, self.state, self.sink, self.clock, on_gap=gap, owner=owner, group_id=group_id
        )

    async def _gap(self, prefix: str = "") -> None:
        assert prefix == ""
        if self.deaf:
            self.refusals += 1
            raise RetryLater("the state is away", reason="test")
        self.gaps += 1

    def send(self, *keys: str, partition: int = 0) -> None:
        """A record each."""
        for key in keys:
            self.send_raw(record(key), partition)

    def send_raw(self, value: bytes | None, partition: int = 0) -> None:
        """Any bytes."""
        self.producer.produce(self.topic, value, partition=partition)
        assert self.producer.flush(10) == 0

    async def position(self) -> dict[str, int]:
        """Where the cursors stand that are not at the beginning."""
        cursors = [await self.state.cursor(f"vast_events/{partition}") for partition in range(PARTITIONS)]
        return {name: at for one in cursors if one is not None for name, at in one.position.items() if at}

    async def reaches(self, **position: int) -> None:
        """Wait until the cursor stands there (``p0=3``)."""
        wanted = {name.removeprefix("p"): offset for name, offset in position.items()}

        async def there() -> bool:
            return await self.position() == wanted

        await eventually(there, f"the cursor is at {wanted}")


def record(key: str, bucket: str = "datasets") -> bytes:
    """A plain notification."""
    record = {
        "eventName": "s3:ObjectCreated:Put",
        "eventTime": "2023-11-14T22:13:20.123456Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "eTag": "0cc175b9c0f1b6a831c399e269772661", "size": 1}},
    }
    return json.dumps({"Records": [record]}).encode()


def open_lab(bootstrap: str) -> Lab:
    """A fresh topic of the mock broker, with nothing in it."""
    topic = f"events-{uuid4().hex[:12]}"
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    producer.list_topics(topic, timeout=10)  # asking for it makes it, with 4 partitions
    return Lab(bootstrap, topic, producer, BuryingState("pair", shards=1, clock=QuickClock()))
