"""What the functions count is sent, wherever it was counted: by pushes, by readers, by a process that is gone soon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from federation.errors import RetryLater
from federation.model import Side
from federation.settings import MetricsSettings
from function_app import process, readers
from operations.exporters import Exporters
from tests.unit.function_lab import App, blob_event, call, decoded, fresh_app, message
from tests.unit.test_metrics import sent

Sent = dict[tuple[str, str], float]
_EVENTS = "federation.events"


class Taking(Exporters):
    """Keeps what was sent by each flush; totals since the start."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        super().__init__([self.reader])
        self.flushed: list[Sent] = []

    def flush(self) -> bool:
        """As in the real one."""
        self.flushed.append(sent(self.reader))
        return True


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Taking:
    """The place where metrics go."""
    made = Taking()

    @contextmanager
    def exporting(_: MetricsSettings) -> Iterator[Exporters]:
        yield made

    monkeypatch.setattr(process, "exporting", exporting)
    return made


@pytest.fixture
async def app(taking: Taking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two pairs on one account."""
    del taking
    async with fresh_app(tmp_path, monkeypatch) as made:
        made.halted = False
        yield made


@pytest.mark.parametrize("by", ["event_grid", "events"])
async def test_what_a_pushed_event_did_is_sent_before_the_function_ends(app: App, taking: Taking, by: str) -> None:
    """These functions have processes of their own, which no sweep ever runs in."""
    event = await app.put()
    if by == "events":
        assert (await app.post(event)).status_code == 200
    else:
        await call("event_grid", decoded(event))
    assert app.arrived() == {"a.txt"}
    source = "event_grid_webhook" if by == "events" else "event_grid_queue"
    assert taking.flushed[-1]["federation.outcomes", "one settled"] == 1
    assert taking.flushed[-1][_EVENTS, f"one {source} marked"] == 1
    assert ("federation.apply.delay", "one blob_to_vast") in taking.flushed[-1]


async def test_a_webhook_that_refuses_everything_is_heard_of(app: App, taking: Taking) -> None:
    """With each pair that it serves, although none of them was ever opened in its process."""
    for _ in range(2):
        assert (await app.post(blob_event(), secret="guessed")).status_code == 401
        process.PROCESS._counted = float("-inf")
    assert app.opened == []
    refused = {name: value for name, value in taking.flushed[-1].items() if name[0] == _EVENTS}
    assert refused == {(_EVENTS, f"{pair} event_grid_webhook refused_secret"): 2 for pair in ("one", "two")}


async def test_a_process_that_falls_idle_sends_what_it_counted(app: App, taking: Taking) -> None:
    """Nobody knows whether there will be a later invocation; a busy one waits its minute, and a moment ago is soon enough."""
    await call("event_grid_queue", message(await app.put("a")))
    await call("event_grid_queue", message(await app.put("b")))
    assert len(taking.flushed) == 1
    process.PROCESS._counted -= process._IDLE_SECONDS
    async with process.PROCESS.work(1):
        await call("event_grid_queue", message(await app.put("c")))
        assert len(taking.flushed) == 1
    assert len(taking.flushed) == 2
    assert taking.flushed[-1]["federation.outcomes", "one settled"] == 3


class ReadSource:
    """A source that read five events in this invocation and is at its end."""

    name = "change_feed"

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port."""
        return {"connected": 1, "behind": 0, "marked": 5, "newest_us": None}

    async def run(self) -> None:
        """As in the port."""


async def test_what_readers_count_is_sent(app: App, taking: Taking) -> None:
    """Each invocation makes a reader anew, which begins to count anew: they add up."""
    await app.health()
    for _ in range(2):
        async with process.PROCESS.work(1, publishes=False):
            pair = await process.PROCESS.pair("one")
            await readers._read(pair, "change_feed", [ReadSource()], 1, lambda told: not told["behind"])
    await process.PROCESS.publish([])
    assert taking.flushed[-1][_EVENTS, "one change_feed marked"] == 10


async def test_requests_and_breakers_are_told_by_side(app: App, taking: Taking) -> None:
    """What a change cost on either side adds up to its decision line; a side that asked for rest shows as left alone."""
    await call("event_grid_queue", message(await app.put()))
    pair = await process.PROCESS.pair("one")
    by_side = {side: taking.flushed[-1]["federation.requests", f"one {side}"] for side in Side}
    assert min(by_side.values()) > 0
    assert sum(by_side.values()) == pair.worker.stats.last[-1].requests
    pair.runtime.gates[Side.VAST].failed(RetryLater("503", reason="throttled", after_seconds=60, side=Side.VAST))
    told = await pair.beat(fresh_seconds=60)
    assert {side: health.left_alone for side, health in told.sides.items()} == {Side.BLOB: False, Side.VAST: True}
