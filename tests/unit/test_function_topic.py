"""Topics that the host reads: one function each, whose records are news for the pairs of that topic and no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest

from federation.errors import RetryLater
from federation.settings import load
from federation.wiring import owner_name
from function_app import process, topic
from operations.heartbeat import heartbeats
from tests.unit.function_index import index
from tests.unit.function_lab import App, call, fresh_app

SECOND = 1_000_000


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two pairs, each with a topic of the same name on a cluster of its own."""
    monkeypatch.setenv("FEDERATION__FUNCTIONS__VAST_EVENTS", "kafka_trigger")
    for number, cluster in enumerate(("one:9092", "two:9092")):
        _events(monkeypatch, number, cluster)
    async with fresh_app(tmp_path, monkeypatch) as made:
        yield made


def _events(monkeypatch: pytest.MonkeyPatch, number: int, cluster: str) -> None:
    prefix = f"FEDERATION__PAIR__{number}__VAST__EVENTS__"
    monkeypatch.setenv(f"{prefix}BOOTSTRAP", json.dumps([cluster]))
    monkeypatch.setenv(f"{prefix}TOPIC", "changes")


def _topics() -> dict[str, dict[str, Any]]:
    bindings = {str(one.get_function_name()): json.loads(one.get_function_json())["bindings"][0] for one in index(load())}
    return {name: one for name, one in bindings.items() if one["type"] == "kafkaTrigger"}


def _record(key: str = "a.txt", bucket: str = "datasets", at_us: int = 0) -> bytes:
    told = {"bucket": {"name": bucket}, "object": {"key": key, "eTag": "0" * 32, "size": 4}}
    when = {"eventTime": datetime.fromtimestamp(at_us / SECOND, UTC).isoformat()} if at_us else {}
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": told} | when]}).encode()


def _event(body: bytes, offset: int = 1, partition: int = 0) -> func.KafkaEvent:
    return func.KafkaEvent(body=body, topic="changes", partition=partition, offset=offset)


@pytest.mark.usefixtures("app")
def test_topics_of_one_name_on_two_clusters_are_two() -> None:
    """Each is read at its own brokers, in a group of its own."""
    assert {name: (one["brokerList"], one["topic"], one["consumerGroup"]) for name, one in _topics().items()} == {
        "vast_events_one": ("one:9092", "changes", "fedplane-one"),
        "vast_events_two": ("two:9092", "changes", "fedplane-two"),
    }


async def test_records_are_told_to_the_pairs_of_their_topic(app: App) -> None:
    """A pair of the same topic's name on another cluster heard nothing, and its source must not be called connected."""
    await call("vast_events_one", [_event(_record())])
    assert await app.dirty("one") == 1
    assert "functions/vast_events" in {beat.process for beat in await heartbeats(app.states["one"])}
    assert "two" not in app.opened


async def test_one_topic_of_two_pairs_is_read_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records are news for both."""
    _events(monkeypatch, 1, "ONE:9092")
    assert list(_topics()) == ["vast_events"]
    await call("vast_events", [_event(_record(bucket="models"))])
    assert (await app.dirty("one"), await app.dirty("two")) == (0, 1)


async def _words(app: App) -> list[tuple[int, int | None]]:
    """How far behind the topic is, by what this process says and by what all of them say in turn."""
    await process.PROCESS._pairs["one"].say()
    beats = {beat.process: beat.sources["vast_events"] for beat in await heartbeats(app.states["one"]) if beat.sources}
    own, shared = beats[owner_name()], beats["functions/vast_events"]
    return [(told["behind"], told["read_to_us"]) for told in (own, shared)]


async def test_a_partition_whose_records_come_late_is_behind(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until one comes in time, whatever others bring; or until nothing came for so long that nothing can be left."""
    now_us = process.PROCESS._clock.now_us()
    late_us = now_us - 3600 * SECOND
    await call("vast_events_one", [_event(_record(at_us=now_us)), _event(_record(at_us=late_us), 2, partition=1)])
    assert await _words(app) == [(1, late_us), (0, None)]
    await call("vast_events_one", [_event(_record(at_us=now_us), 3)])
    assert await _words(app) == [(1, late_us), (0, None)]
    await call("vast_events_one", [_event(_record(at_us=now_us), 4, partition=1)])
    assert await _words(app) == [(0, None), (0, None)]
    monkeypatch.setattr(topic, "_LATE_SECONDS", 0.0)
    await call("vast_events_one", [_event(_record(at_us=late_us), 5, partition=1)])
    waiting = process.PROCESS._pairs["one"].tell("vast_events").waiting
    async with asyncio.timeout(10):
        while waiting:
            await asyncio.sleep(0.001)
    assert await _words(app) == [(0, None), (0, None)]


async def test_a_batch_that_is_tried_again_buries_once(app: App) -> None:
    """What cannot be read is kept after the marks: while they cannot be made the host brings the batch again and again."""
    await app.health()
    batch = [_event(b"no JSON", 1), _event(_record(), 2)]
    real, app.states["one"].mark = app.states["one"].mark, _refuse  # type: ignore[method-assign,assignment]
    for _ in range(2):
        with pytest.raises(RetryLater):
            await call("vast_events_one", batch)
    app.states["one"].mark = real  # type: ignore[method-assign]
    await call("vast_events_one", batch)
    assert [(one.raw, one.offset) for one in await app.states["one"].dead_letters()] == [(b"no JSON", 1)]


async def _refuse(*_: object) -> None:
    raise RetryLater("Redis takes no marks", reason="redis_unavailable")
