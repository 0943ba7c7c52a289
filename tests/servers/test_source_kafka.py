"""VAST's events over the Kafka protocol, on librdkafka's mock broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from federation.errors import UsageError
from federation.progress import Cursor
from federation.settings import VastEventSettings
from federation.sources import kafka_reader
from federation.sources.build import kafka_options
from federation.sources.vast_kafka import VastKafka
from federation.state.memory_state import MemoryState
from fedplane.localstack import servers
from fedplane.localstack.info import StackInfo
from fedplane.localstack.process import ManagedProcess, free_port
from tests.servers.kafka_lab import SCOPE, Lab, open_lab, record
from tests.servers.support import QuickClock, Sink, eventually, no_scan, running

pytestmark = pytest.mark.servers


@pytest.fixture
def lab(info: StackInfo) -> Lab:
    """A fresh topic."""
    return open_lab(info.kafka_bootstrap)


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


async def test_it_is_up_to_date_once_it_read_what_the_broker_has(lab: Lab) -> None:
    """Also in partitions in which there never was a record; a batch that is not all there is leaves it behind, as of its end."""
    lab.send(*map(str, range(kafka_reader.AT_ONCE + 1)))
    source = lab.source()
    lab.sink.gate.clear()
    async with running(source):
        await eventually(lambda: bool(source.health().get("received")), "a batch is in hand")
        assert (source.health()["behind"], source.health()["read_to_us"]) == (1, None)
        lab.sink.gate.set()
        await lab.reaches(p0=kafka_reader.AT_ONCE + 1)
        await eventually(lambda: source.health()["behind"] == 0, "nothing waits")
    assert (source.health()["read_to_us"], source.health()["lag_records"]) == (None, 0)


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
    assert [(one.raw, one.source, one.topic, one.partition, one.offset) for one in letters] == [
        (raw, "vast_events", lab.topic, 0, 1)
    ]
    assert letters[0].reason


async def test_another_buckets_records_are_counted_and_passed(lab: Lab) -> None:
    """A record of another bucket is refused by reason and marks nothing."""
    lab.send_raw(record("a", "other"))
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=1)
    assert (source.health()["refused_foreign_bucket"], lab.sink.calls, await lab.state.dead_letters()) == (1, [], [])


async def _overtaken(lab: Lab) -> Cursor:
    """Two records were read, and the cursor then points beyond what the broker has."""
    lab.send("a", "b")
    async with running(lab.source()):
        await lab.reaches(p0=2)
    before = await lab.state.cursor("vast_events/0")
    assert before is not None
    lost = Cursor({"0": 1_000}, before.options_digest, 1)
    assert await lab.state.move_cursor("vast_events/0", before, lost)
    return lost


async def test_an_offset_out_of_range_is_a_gap(lab: Lab) -> None:
    """Retention overtook the cursor, or the topic was made anew: read what is there, count the gap and ask for a scan."""
    await _overtaken(lab)
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=2)
    assert (lab.gaps, source.health()["gaps"]) == (1, 1)
    assert lab.sink.keys == ["a", "b", "a", "b"]


async def test_no_cursor_passes_a_gap_before_its_scan_was_asked_for(lab: Lab) -> None:
    """A process that dies in between leaves the gap to be found again (rule 6)."""
    lost = await _overtaken(lab)
    lab.deaf = True
    source = lab.source()
    async with running(source):
        await eventually(lambda: lab.refusals > 1, "it was tried")
        assert await lab.state.cursor("vast_events/0") == lost
        lab.deaf = False
        await lab.reaches(p0=2)
    assert lab.gaps >= 1


async def test_a_cursor_of_another_topic_is_not_used(lab: Lab) -> None:
    """Its offsets mean nothing here: read from the beginning and ask for a scan."""
    lab.send("a")
    assert await lab.state.move_cursor("vast_events/0", None, Cursor({"0": 1}, "digest of another topic", 1))
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=1)
        await eventually(lambda: lab.sink.keys == ["a"], "marked")
    assert (lab.gaps, source.health()["cursor_of_other_options"]) == (1, 1)


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
    lab = open_lab((tmp_path / "address").read_text())
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
    monkeypatch.setattr(kafka_reader, "_ANSWER_SECONDS", 1.0)
    bootstrap = (f"127.0.0.1:{free_port()}",)
    options = kafka_options(VastEventSettings(bootstrap=bootstrap, topic="t", api_version="2.3"))
    state = MemoryState("pair", shards=1, clock=QuickClock())
    source = VastKafka(options, "t", SCOPE, state, Sink(), QuickClock(), on_gap=no_scan)
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


def test_secrets_come_from_the_named_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SASL names variables, never values."""
    authorities = tmp_path / "ca.pem"
    authorities.write_text("")
    monkeypatch.setenv("KAFKA_USER", "someone")
    monkeypatch.setenv("KAFKA_PASSWORD", "made-up")
    events = VastEventSettings(
        bootstrap=("a:1",),
        topic="t",
        security_protocol="SASL_SSL",
        sasl_username_env="KAFKA_USER",
        sasl_password_env="KAFKA_PASSWORD",
        ca_file=str(authorities),
    )
    options = kafka_options(events)
    assert (options["sasl_mechanism"], options["sasl_plain_username"], options["sasl_plain_password"]) == (
        "PLAIN",
        "someone",
        "made-up",
    )
    assert (options["security_protocol"], options["ssl_cafile"]) == ("SASL_SSL", str(authorities))


def test_authorities_that_are_not_there_are_a_users_mistake() -> None:
    """The setting and the file are named, and what to do."""
    with pytest.raises(UsageError, match=r"pair\.vast\.events\.ca_file names '/nowhere\.pem'.*Put"):
        kafka_options(VastEventSettings(bootstrap=("a:1",), topic="t", ca_file="/nowhere.pem"))
