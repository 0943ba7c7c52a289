"""VAST's events over Apache Kafka: logins, certificates, retention, topics made anew, restarts, told offsets."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from confluent_kafka import Consumer, KafkaException, TopicPartition
from kafka.consumer.fetcher import Fetcher

from federation.settings import VastEventSettings
from federation.sources import kafka_commits, vast_kafka
from federation.sources.build import kafka_options
from federation.sources.kafka_broker import BrokerAway, BrokerFault, Connection
from federation.sources.kafka_reader import Reader
from tests.servers import apache_kafka
from tests.servers.apache_kafka import PASSWORD, USER, Broker
from tests.servers.kafka_lab import BuryingState, Lab
from tests.servers.support import QuickClock, eventually, running

pytestmark = [
    pytest.mark.servers,
    pytest.mark.full,
    # kafka-python leaves the sockets of refused and lost connections to the garbage collector.
    pytest.mark.filterwarnings(r"ignore:unclosed <(ssl\.SSLSocket|socket\.socket):ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <(ssl.SSLSocket|socket.socket):pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def apache(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    """One broker for all tests of this file; a test that kills it starts it again, and runs on the session's loop."""
    apache_kafka.need()
    broker = apache_kafka.broker(tmp_path_factory.mktemp("kafka"))
    await broker.start()
    yield broker
    await broker.process.stop()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """The sockets that kafka-python leaves are collected here, not in the test of another file."""
    yield
    gc.collect()


@pytest.fixture
def lab(apache: Broker) -> Lab:
    """A fresh topic."""
    return _lab(apache)


def _lab(apache: Broker) -> Lab:
    state = BuryingState("pair", shards=1, clock=QuickClock())
    return Lab(apache.address(), apache.make_topic(), apache.producer(), state, api_version="")


async def test_every_partition_is_read_and_a_restart_goes_on(lab: Lab) -> None:
    """Default negotiation: nothing twice and nothing left out over two starts."""
    for partition in range(4):
        lab.send(f"p{partition}", partition=partition)
    async with running(lab.source()):
        await lab.reaches(p0=1, p1=1, p2=1, p3=1)
    lab.send("more", partition=2)
    async with running(lab.source("two")):
        await lab.reaches(p0=1, p1=1, p2=2, p3=1)
    assert sorted(lab.sink.keys) == ["more", "p0", "p1", "p2", "p3"]
    assert lab.gaps == 0


@pytest.mark.parametrize("protocol", ["SSL", "SASL_PLAINTEXT", "SASL_SSL"])
async def test_tls_and_logins(apache: Broker, lab: Lab, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS with authorities of one's own, SASL/PLAIN, and both."""
    _log_in_as(monkeypatch, PASSWORD)
    lab.send("a")
    lab.bootstrap = apache.address(protocol)
    async with running(lab.source(**_settings(apache, protocol))):
        await lab.reaches(p0=1)
    assert lab.sink.keys == ["a"]


def _log_in_as(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("KAFKA_USER", USER)
    monkeypatch.setenv("KAFKA_PASSWORD", password)


def _settings(apache: Broker, protocol: str) -> dict[str, str]:
    settings = {"security_protocol": protocol}
    if "SASL" in protocol:
        settings |= {"sasl_username_env": "KAFKA_USER", "sasl_password_env": "KAFKA_PASSWORD"}
    return settings | ({"ca_file": apache.authorities} if "SSL" in protocol else {})


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
async def test_a_refused_login_is_told_in_words_and_tried_slowly(
    apache: Broker, lab: Lab, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings to correct are named, no secret is, and the pause is the long one: an account may be locked."""
    _log_in_as(monkeypatch, "wrong-and-secret")
    lab.bootstrap, pauses = apache.address(protocol), _Pauses()
    lab.clock = pauses
    source = lab.source(**_settings(apache, protocol))
    source._options["bootstrap_timeout_ms"] = 3_000
    async with running(source):
        await eventually(lambda: vast_kafka._REFUSED_SECONDS in pauses.asked, "it waits long")
        told = str(source.health()["last_error"])
    assert "refuses the user name or the password" in told
    assert "sasl_password_env" in told
    assert "wrong-and-secret" not in told
    assert source.health()["connected"] == 0


class _Pauses(QuickClock):
    """Remembers how long pauses were to be."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """A short one all the same."""
        self.asked.append(seconds)
        await super().sleep(seconds)


@pytest.mark.parametrize(
    ("listener", "settings", "words"),
    [
        ("SSL", {"security_protocol": "SSL"}, "is not trusted: set pair.vast.events.ca_file"),
        ("PLAINTEXT", {"security_protocol": "SSL"}, "check pair.vast.events.security_protocol"),
        ("SSL", {"security_protocol": "PLAINTEXT"}, "hangs up on us: check pair.vast.events.security_protocol"),
    ],
)
def test_a_wrong_protocol_says_what_to_correct(apache: Broker, listener: str, settings: dict[str, str], words: str) -> None:
    """A certificate nobody vouches for, TLS towards a listener without, and the reverse."""
    options = {"bootstrap_servers": [apache.address(listener)], "client_id": "t", "bootstrap_timeout_ms": 2_000, **settings}
    with pytest.raises(BrokerFault, match=words):
        Connection(options)


async def test_a_topic_made_anew_is_read_from_its_beginning(apache: Broker, lab: Lab) -> None:
    """It may hold more records than the old one, so its identity tells, not its offsets: a gap, and all of it is read."""
    lab.send("old1", "old2")
    async with running(lab.source()):
        await lab.reaches(p0=2)
    apache.admin().delete_topics([lab.topic])[lab.topic].result(20)
    await eventually(lambda: _made(apache, lab.topic), "the topic is there again")
    lab.send("new1", "new2", "new3")
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=3)
    assert lab.sink.keys == ["old1", "old2", "new1", "new2", "new3"]
    assert lab.gaps == source.health()["gaps"]
    assert lab.gaps >= 1


def _made(apache: Broker, topic: str) -> bool:
    try:
        apache.make_topic(topic)
    except Exception:  # noqa: BLE001 - the old one is still being deleted
        return False
    return True


async def test_retention_that_overtook_us_is_a_gap(apache: Broker) -> None:
    """Records that the broker dropped before we read them: told, a scan asked for, and the rest is read."""
    lab = _lab(apache)
    lab.send("a")
    async with running(lab.source()):
        await lab.reaches(p0=1)
    lab.send("lost1", "lost2", "kept")
    cut = apache.admin().delete_records([TopicPartition(lab.topic, 0, 3)])
    assert [one.result(20).low_watermark for one in cut.values()] == [3]
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=4)
    assert (lab.sink.keys, lab.gaps, source.health()["gaps"]) == (["a", "kept"], 1, 1)


async def test_new_partitions_are_taken_up(apache: Broker, lab: Lab) -> None:
    """A topic that grew is read whole, from the first record of what is new."""
    from confluent_kafka.cimpl import NewPartitions  # noqa: PLC0415

    lab.send("a")
    async with running(lab.source()):
        await lab.reaches(p0=1)
    apache.admin().create_partitions([NewPartitions(lab.topic, 5)])[lab.topic].result(20)
    await eventually(lambda: len(apache.admin().list_topics(lab.topic, timeout=5).topics[lab.topic].partitions) == 5, "grown")
    lab.producer = apache.producer()  # one that knows of them
    lab.send("b", partition=4)
    async with running(lab.source()):
        await eventually(lambda: lab.sink.keys == ["a", "b"], "the new partition is read")
    assert lab.gaps == 0


async def test_positions_are_told_to_the_broker_without_joining(
    apache: Broker, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool outside sees the group's offsets; the group has no members."""
    monkeypatch.setattr(kafka_commits, "EVERY_SECONDS", 0.1)
    # A consumer, since librdkafka 2.16 ends the process with a segmentation fault when an AdminClient asks for a group's offsets
    # while the coordinator is not there yet.
    tool = Consumer({"bootstrap.servers": apache.address(), "group.id": "watched", "log_level": 0})
    lab.send("a", "b")
    lab.send("c", partition=3)
    async with running(lab.source(group_id="watched")):
        await lab.reaches(p0=2, p3=1)
        await eventually(lambda: _told(tool, lab.topic) == {0: 2, 3: 1}, "the broker knows")
    tool.close()
    described = apache.admin().describe_consumer_groups(["watched"])["watched"].result(20)
    assert described.members == []


def _told(tool: Consumer, topic: str) -> dict[int, int]:
    try:
        found = tool.committed([TopicPartition(topic, one) for one in range(4)], timeout=5)
    except KafkaException:  # the coordinator is not there yet
        return {}
    return {one.partition: one.offset for one in found if one.offset > 0}


@pytest.mark.asyncio(loop_scope="session")
async def test_a_broker_that_is_killed_and_comes_back(apache: Broker) -> None:
    """Told while it is away; afterwards reading goes on where it was, with nothing lost."""
    lab = _lab(apache)
    lab.send("a")
    source = lab.source()
    async with running(source):
        await lab.reaches(p0=1)
        await apache.kill()
        await eventually(lambda: source.health()["connected"] == 0, "health tells")
        await apache.start()
        lab.send("b")
        await lab.reaches(p0=2)
    assert lab.sink.keys == ["a", "b"]
    assert lab.gaps == 0


@pytest.mark.asyncio(loop_scope="session")
async def test_a_leader_that_is_lost(apache: Broker, tmp_path: Path) -> None:
    """The other replica leads from then on: reading goes on there, nothing is lost and nothing is a gap."""
    other = apache_kafka.second(apache, tmp_path)
    await other.start()
    try:
        topic = apache.make_topic(replicas=2)
        await eventually(lambda: 2 in apache.leaders(topic).values(), "the other leads a part")
        [moved, *_] = [one for one, leader in apache.leaders(topic).items() if leader == 2]
        lab = Lab(apache.address(), topic, apache.producer(), BuryingState("pair", shards=1, clock=QuickClock()), api_version="")
        lab.send("before", partition=moved)
        async with running(lab.source()):
            await eventually(lambda: lab.sink.keys == ["before"], "read from the first leader")
            await other.kill()
            await eventually(lambda: apache.leaders(topic)[moved] == 1, "the first broker leads")
            lab.send("after", partition=moved)
            await eventually(lambda: lab.sink.keys == ["before", "after"], "read from the second leader")
        assert lab.gaps == 0
    finally:
        await other.process.stop()


@pytest.mark.parametrize("wait_ms", [0, 200])
async def test_empty_answers_are_paced(lab: Lab, monkeypatch: pytest.MonkeyPatch, wait_ms: int) -> None:
    """A broker that does not wait as asked is not asked in a loop: at most a few fetches for each poll."""
    asked = Counter[str]()
    send = Fetcher.send_fetches

    def counted(self: Fetcher) -> list[object]:
        found: list[object] = send(self) or []
        asked["fetches"] += len(found)
        return found

    monkeypatch.setattr(Fetcher, "send_fetches", counted)
    events = VastEventSettings(bootstrap=(lab.bootstrap,), topic=lab.topic)
    async with Reader(kafka_options(events) | {"fetch_max_wait_ms": wait_ms}, lab.topic) as reader:
        await reader.assign(dict.fromkeys(range(4)))
        for _ in range(20):
            assert (await reader.poll()).records == {}
    assert 1 <= asked["fetches"] <= 60


def test_a_try_that_fails_leaves_no_thread() -> None:
    """A broker that is away for days is asked thousands of times."""
    client_id = f"gone-{os.getpid()}"
    options = {"bootstrap_servers": ["127.0.0.1:9"], "client_id": client_id, "bootstrap_timeout_ms": 200}
    for _ in range(3):
        with pytest.raises(BrokerAway, match=r"127\.0\.0\.1:9"):
            Connection(options)
    assert not [thread.name for thread in threading.enumerate() if client_id in thread.name and thread.is_alive()]
