"""The sweep: what one pair cannot do keeps no other from being called, told of and published. On in-memory state and stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from azure.functions.timer import TimerRequest

from federation.errors import FederationError, Halt, UsageError
from federation.metrics import Point
from federation.model import Side
from federation.progress import OPTIONS_NOTE, UNION_NOTE, MarkResult
from federation.settings import PairSettings
from function_app import process, queues, sweeping
from function_app.pair import FunctionPair
from operations.heartbeat import Heartbeat
from tests.unit.function_lab import App, LabState, blob_event, call, fresh_app, message
from tests.unit.world import FakeClock

SECOND = 1_000_000


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two pairs on one account, the first with a queue, which is empty."""

    async def empty(_: queues.Queues, __: PairSettings) -> tuple[int, int | None]:
        return 0, None

    async def none(*_: object, **__: object) -> list[object]:
        return []

    async with fresh_app(tmp_path, monkeypatch) as made:
        monkeypatch.setattr(queues.Queues, "waiting", empty)
        monkeypatch.setattr(queues.Queues, "poisoned", none)
        monkeypatch.setattr(queues.Queues, "drop_poisoned", none)
        yield made


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[list[Point]]:
    """What each sweep publishes."""
    sent: list[list[Point]] = []

    async def publish(_: process.Process, points: list[Point]) -> None:
        sent.append(points)

    monkeypatch.setattr(process.Process, "publish", publish)
    return sent


def _called(app: App) -> set[str]:
    """The pairs that the sweep rang for."""
    return {json.loads(text)["pair"] for queue, text, _ in app.sent if queue == "fedplane-doorbell"}


async def test_a_side_that_hangs_stops_nothing_else(
    app: App, published: list[list[Point]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its look is given up; both pairs were called for before, the queue's word is told, and what there is is published."""
    monkeypatch.setattr(sweeping, "_STEP_SECONDS", 0.05)
    asked: list[set[str]] = []

    async def hang(name: str, _: str) -> None:
        if name == "check":
            asked.append(_called(app))
            await asyncio.Event().wait()

    app.store(_settings("one"), Side.BLOB)._hook = hang  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        await call("sweep", TimerRequest())
    assert (asked, len(published)) == ([{"one", "two"}], 1)
    assert await app.states["one"].note("process:functions")


def _settings(name: str) -> PairSettings:
    found = process.PROCESS.settings_of(name)
    assert found is not None
    return found


@pytest.mark.parametrize("step", ["look_at_sides", "notice_lost_state"])
@pytest.mark.parametrize(
    "error", [UsageError("a secret is missing"), Halt("refused", reason="access_denied"), AssertionError("a fault of ours")]
)
async def test_an_error_of_one_pair_stops_nothing_else(
    app: App, published: list[list[Point]], monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    """Whatever it is; a fault of ours fails the invocation in the end, so that the host shows it."""
    real = getattr(FunctionPair, step)

    async def fail(self: FunctionPair) -> None:
        if self.name == "one":
            raise error
        await real(self)

    monkeypatch.setattr(FunctionPair, step, fail)
    if isinstance(error, FederationError):
        await call("sweep", TimerRequest())
    else:
        with pytest.raises(AssertionError, match="a fault of ours"):
            await call("sweep", TimerRequest())
    assert "two" in _called(app)
    assert len(published) == 1
    assert await app.states["two"].note("process:functions")


async def test_a_state_emptied_under_the_app_is_begun_anew_with_its_guards(app: App, published: list[list[Point]]) -> None:
    """Union mode, and the options that its records will rest on: a later start with others is refused."""
    del published
    await call("sweep", TimerRequest())
    state = app.states["one"]
    noted = await state.note(OPTIONS_NOTE)
    assert noted
    union = await state.note(UNION_NOTE)
    fresh = LabState("one", shards=state.shards, clock=FakeClock())
    vars(state).update(vars(fresh))
    await call("sweep", TimerRequest())
    assert await state.note(OPTIONS_NOTE) == noted
    assert await state.note(UNION_NOTE) not in (None, union), "a scan that began before does not end it"


@dataclass
class Queue:
    """What the sweep sees of the queue of events."""

    count: int = 0
    since_us: int | None = None


@pytest.fixture
def queue(app: App, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Of the first pair."""
    del app
    made = Queue()

    async def waiting(_: queues.Queues, __: PairSettings) -> tuple[int, int | None]:
        return made.count, made.since_us

    monkeypatch.setattr(queues.Queues, "waiting", waiting)
    return made


async def _source(app: App) -> dict[str, Any]:
    """All that a sweep says of the queue."""
    await call("sweep", TimerRequest())
    packed = await app.states["one"].note("process:functions")
    assert packed
    return msgspec.json.decode(packed, type=Heartbeat).sources[process.QUEUE]


async def _told(app: App) -> tuple[bool, bool, str]:
    """Of it whether it can be taken from, whether it is behind, and what fails."""
    found = await _source(app)
    return bool(found["connected"]), bool(found["behind"]), str(found["last_error"])


@pytest.mark.parametrize("ahead_seconds", [-60, 0, 60])
async def test_a_message_s_age_is_taken_by_the_clock_that_it_bears(app: App, queue: Queue, ahead_seconds: int) -> None:
    """One that waits too long is told with its time as the service has it, which is no event that was read; others are not."""
    await app.health()
    app.stores["one", Side.BLOB]._skew_us = ahead_seconds * SECOND
    now_us = process.PROCESS._clock.now_us() + ahead_seconds * SECOND
    queue.count = 1
    for waited, behind, read_to_us in ((30, 1, now_us - 30 * SECOND), (1, 0, None)):
        queue.since_us = now_us - waited * SECOND
        found = await _source(app)
        assert (found["behind"], found["read_to_us"], found["newest_us"]) == (behind, read_to_us, None)


async def test_a_message_in_flight_is_not_waiting(app: App, queue: Queue) -> None:
    """The server counts it, and shows it to nobody, while an invocation has it: a busy queue is not behind."""
    queue.count = 1
    assert await _told(app) == (True, False, "")
    queue.since_us = 1
    assert await _told(app) == (True, True, "")
    queue.since_us = process.PROCESS._clock.now_us()
    assert await _told(app) == (True, False, "")


async def test_messages_that_nobody_could_take_are_told(app: App, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are hidden too until they come back; as long as a process's last try failed the queue is not known to be read."""
    queue.count = 1
    mark = LabState.mark

    async def fail(_: LabState, __: object) -> MarkResult:
        raise UsageError("The state has another layout.", reason="state_layout")

    monkeypatch.setattr(LabState, "mark", fail)
    with pytest.raises(UsageError):
        await call("event_grid_queue", message(blob_event()))
    assert await _told(app) == (False, False, "The state has another layout.")
    monkeypatch.setattr(LabState, "mark", mark)
    await call("event_grid_queue", message(blob_event()))
    await process.PROCESS._pairs["one"].say()
    assert await _told(app) == (True, False, "")
