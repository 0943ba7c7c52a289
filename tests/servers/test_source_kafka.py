"""VAST's events over the Kafka protocol, on librdkafka's mock broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from federation.errors import RetryLater
from federation.payloads.vast import VastScope
from federation.progress import Cursor, DeadLetter
from federation.settings import VastEventSettings
from federation.sources import vast_kafka
from federation.sources.build import kafka_options
from federation.sources.vast_kafka import VastKafka
from federation.state.memory_state import MemoryState
from fedplane.localstack import servers
from fedplane.localstack.info import StackInfo
from fedplane.localstack.process import ManagedProcess, free_port
from tests.servers.support import QuickClock, Sink, eventually, running

pytestmark = pytest.mark.servers
SCOPE = VastScope("datasets", "", "percent", lambda name: name)


class _State(MemoryState):
    """Fails to bury *failures* times first."""

    failures = 0

    async def bury(self, letter: DeadLetter) -> None:
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
    state: _State
    sink: Sink = field(default_factory=Sink)
    gaps: int = 0

    def source(self, **settings: str) -> VastKafka:
        """A new one, as after a restart."""
        events = VastEventSettings(bootstrap=(self.bootstrap,), topic=self.topic, api_version="2.3", **settings)  # type: ignore[arg-type]
        sink, clock = self.sink, QuickClock()
        return VastKafka(kafka_options(events), self.topic, SCOPE, self.state, sink, clock, on_gap=self._gap)

    def _gap(self) -> None:
        self.gaps += 1

    def send(self, *keys: str, partition: int = 0) -> None:
        """A record each."""
        for key in keys:
            self.send_raw(_record(key), partition)

    def send_raw(self, value: bytes | None, partition: int = 0) -> None:
        """Any bytes."""
        self.producer.produce(self.topic, value, partition=partition)
        assert self.producer.flush(10) == 0

    async def position(self) -> dict[str, int]:
        """Where the cursor stands."""
        cursor = await self.state.cursor("vast_events")
        return {} if cursor is None else cursor.position

    async def reaches(self, **position: int) -> None:
        """Wait until the cursor stands there (``p0=3``)."""
        wanted = {name.removeprefix("p"): offset for name, offset in position.items()}

        async def there() -> bool:
            return await self.position() == wanted

        await eventually(there, f"the cursor is at {wanted}")


def _record(key: str, bucket: str = "datasets") -> bytes:
    record = {
        "eventName": "s3:ObjectCreated:Put",
        "eventTime": "2023-11-14T22:13:20.123456Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "eTag": "0cc175b9c0f1b6a831c399e269772661", "size": 1}},
    }
    return json.dumps({"Records": [record]}).encode()


def _lab(bootstrap: str) -> Lab:
    topic = f"events-{uuid4().hex[:12]}"
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    producer.list_topics(topic, timeout=10)  # asking for it makes it, with 4 partitions
    return Lab(bootstrap, topic, producer, _State("pair", shards=1, clock=QuickClock()))


@pytest.fixture
def lab(info: StackInfo) -> Lab:
    """A fresh topic."""
    return _lab(info.kafka_bootstrap)


async def test_every_partition_is_read_from_its_beginning(lab: Lab) -> None:
    """What was produced before the first start is not missed, in whatever partition it lies."""
    for partition in range(4):
        lab.send(*(f"p{partition}/{number}" for number in range(3)), partition=partition)
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=3, p1=3, p2=3, p3=3)
    assert sorted(lab.sink.keys) == [f"p{partition}/{number}" for partition in range(4) for number in range(3)]
    health = source.health()
    assert (health["received"], health["marked"], health["connected"], health["position_3"]) == (12, 12, 1, 3)
    assert health["newest_us"] == 1_700_000_000_123_456
    assert lab.gaps == 0


async def test_a_restart_goes_on_exactly_where_it_was(lab: Lab) -> None:
    """Nothing twice and nothing left out after a clean restart, also in partitions that were empty before."""
    lab.send("a", "b")
    async with running(lab.source()):
        await lab.reaches(p0=2)
    lab.send("c")
    lab.send("d", partition=2)
    async with running(lab.source()):
        await lab.reaches(p0=3, p2=1)
    assert sorted(lab.sink.keys) == ["a", "b", "c", "d"]


async def test_the_cursor_never_runs_ahead_of_the_mark(lab: Lab) -> None:
    """However often marks fail the cursor stays and health tells why; then everything is marked (rule 6)."""
    lab.send("a", "b", "c")
    lab.sink.failures = 1_000
    source = lab.source()
    async with running(source):
        await eventually(lambda: lab.sink.failed >= 3, "marks failed")
        await eventually(lambda: "Redis does not answer" in str(source.health()["last_error"]), "health tells")
        assert (await lab.position(), lab.sink.calls) == ({}, [])
        lab.sink.failures = lab.sink.failed
        await lab.reaches(p0=3)
    assert lab.sink.keys == ["a", "b", "c"]


async def test_stopped_between_receipt_and_mark_it_reads_again(lab: Lab) -> None:
    """A process that ends while a mark is under way has lost nothing."""
    lab.send("a")
    lab.sink.gate.clear()
    source = lab.source()
    async with running(source):
        await eventually(lambda: source.health().get("received") == 1, "received")
    assert await lab.position() == {}
    lab.sink.gate.set()
    async with running(lab.source()):
        await lab.reaches(p0=1)
    assert lab.sink.keys == ["a"]


@pytest.mark.parametrize("raw", [b"no JSON", b"{}", b"\xff\xfe", b""], ids=["text", "no-records", "binary", "empty"])
async def test_a_record_that_cannot_be_parsed_is_kept_and_passed(lab: Lab, raw: bytes) -> None:
    """It is buried before the cursor passes it, also when that fails at first, and the stream goes on."""
    lab.state.failures = 2
    lab.send("before")
    lab.send_raw(raw)
    lab.send("after")
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=3)
    assert set(lab.sink.keys) == {"before", "after"}
    letters = await lab.state.dead_letters()
    assert [(letter.raw, letter.source) for letter in letters] == [(raw, "vast_events")]
    assert letters[0].reason


async def test_another_buckets_records_are_counted_and_passed(lab: Lab) -> None:
    """A record of another bucket is refused by reason and marks nothing."""
    lab.send_raw(_record("a", "other"))
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=1)
    assert (source.health()["refused_foreign_bucket"], lab.sink.calls, await lab.state.dead_letters()) == (1, [], [])


async def test_an_offset_out_of_range_is_a_gap(lab: Lab) -> None:
    """Retention overtook the cursor, or the topic was made anew: read what is there, count the gap and ask for a scan."""
    lab.send("a", "b")
    async with running(lab.source()):
        await lab.reaches(p0=2)
    before = await lab.state.cursor("vast_events")
    assert before is not None
    lost = Cursor({"0": 1_000}, before.options_digest, 1)
    assert await lab.state.move_cursor("vast_events", before, lost)
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=2)
    assert (lab.gaps, source.health()["gaps"]) == (1, 1)
    assert lab.sink.keys == ["a", "b", "a", "b"]


async def test_a_cursor_of_another_topic_is_not_used(lab: Lab) -> None:
    """Its offsets mean nothing here: read from the beginning and ask for a scan."""
    lab.send("a")
    assert await lab.state.move_cursor("vast_events", None, Cursor({"0": 1}, "digest of another topic", 1))
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=1)
        await eventually(lambda: lab.sink.keys == ["a"], "marked")
    assert (lab.gaps, source.health()["cursor_of_other_options"]) == (1, 1)


async def test_two_processes_keep_one_cursor(lab: Lab) -> None:
    """Whoever loses the compare-and-set starts over from the winner's position; nothing is lost."""
    async with running(lab.source()), running(lab.source()):
        for number in range(20):
            lab.send(str(number), partition=number % 4)
        await lab.reaches(p0=5, p1=5, p2=5, p3=5)
    assert {int(key) for key in lab.sink.keys} == set(range(20))


async def test_a_missing_topic_is_told_and_awaited(lab: Lab) -> None:
    """Nothing is created by us; health tells, and reading begins once the topic is there."""
    lab.topic = f"later-{uuid4().hex[:12]}"
    source = lab.source()
    async with running(source) as task:
        await eventually(lambda: lab.topic in str(source.health()["last_error"]), "health tells")
        assert (source.health()["connected"], task.done()) == (0, False)
        lab.send("a")
        await lab.reaches(p0=1)
    assert lab.sink.keys == ["a"]


async def _stopped_within(task: asyncio.Task[None], seconds: float) -> bool:
    task.cancel()
    _, pending = await asyncio.wait({task}, timeout=seconds)
    return not pending


async def test_stopping_is_quick(lab: Lab) -> None:
    """An idle source ends within 2.5 s when cancelled."""
    source = lab.source()
    async with running(source) as task:
        await eventually(lambda: source.health()["connected"] == 1, "connected")
        assert await _stopped_within(task, 2.5)


@pytest.fixture
async def own_broker(tmp_path: Path) -> AsyncIterator[ManagedProcess]:
    """A broker that a test may kill."""
    broker = servers.kafka_mock(tmp_path / "address", "unused", tmp_path)
    await broker.start()
    yield broker
    await broker.stop()


async def test_a_broker_that_goes_away_is_told(own_broker: ManagedProcess, tmp_path: Path) -> None:
    """Status is honest while the broker is away, and the source still stops in time (rule 9)."""
    lab = _lab((tmp_path / "address").read_text())
    lab.send("a")
    source = lab.source()
    async with running(source) as task:
        await lab.reaches(p0=1)
        assert source.health()["connected"] == 1
        await own_broker.stop()
        await eventually(lambda: source.health()["connected"] == 0, "health tells")
        assert source.health()["last_error"]
        assert not task.done()
        assert await _stopped_within(task, 2.5)


async def test_a_broker_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """At start too: not connected, why, and still trying; the client itself would wait for ever."""
    monkeypatch.setattr(vast_kafka, "_ANSWER_SECONDS", 1.0)
    bootstrap = (f"127.0.0.1:{free_port()}",)
    options = kafka_options(VastEventSettings(bootstrap=bootstrap, topic="t", api_version="2.3"))
    state = _State("pair", shards=1, clock=QuickClock())
    source = VastKafka(options, "t", SCOPE, state, Sink(), QuickClock(), on_gap=lambda: None)
    async with running(source) as task:
        await eventually(lambda: bootstrap[0] in str(source.health()["last_error"]), "health tells")
        assert (source.health()["connected"], task.done()) == (0, False)
        assert await _stopped_within(task, 2.5)


def test_the_client_stays_inside_what_vast_supports() -> None:
    """No group, no fetch sessions, committed reads only, no topic made by asking; a named version skips negotiation."""
    options = kafka_options(VastEventSettings(bootstrap=("a:1", "b:2"), topic="t", api_version="2.3"))
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert (options["group_id"], options["enable_auto_commit"], options["auto_offset_reset"]) == (None, False, "none")
    assert (options["isolation_level"], options["enable_incremental_fetch_sessions"]) == ("read_committed", False)
    assert (options["allow_auto_create_topics"], options["api_version"]) == (False, (2, 3))
    assert "api_version" not in kafka_options(VastEventSettings(bootstrap=("a:1",), topic="t"))


def test_secrets_come_from_the_named_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """SASL names variables, never values."""
    monkeypatch.setenv("KAFKA_USER", "someone")
    monkeypatch.setenv("KAFKA_PASSWORD", "made-up")
    events = VastEventSettings(
        bootstrap=("a:1",),
        topic="t",
        security_protocol="SASL_SSL",
        sasl_username_env="KAFKA_USER",
        sasl_password_env="KAFKA_PASSWORD",
        ca_file="/etc/ca.pem",
    )
    options = kafka_options(events)
    assert (options["sasl_mechanism"], options["sasl_plain_username"], options["sasl_plain_password"]) == (
        "PLAIN",
        "someone",
        "made-up",
    )
    assert (options["security_protocol"], options["ssl_cafile"]) == ("SASL_SSL", "/etc/ca.pem")
