"""What an invocation that reads a source tells of it, and when. On in-memory state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from function_app import process, readers
from operations.heartbeat import Heartbeat
from tests.unit.function_lab import App, fresh_app


@dataclass
class Topic:
    """A source that connects when it is told to."""

    name: str = "vast_events"
    connected: int = 0
    held: int = 0
    behind: int = 0
    looks: list[int] = field(default_factory=list)

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port."""
        self.looks.append(self.connected)
        return {"connected": self.connected, "held": self.held, "partitions": 4, "behind": self.behind, "read_to_us": None}

    async def run(self) -> None:
        """As in the port."""
        await asyncio.Event().wait()


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two pairs; readers look all the time."""
    monkeypatch.setattr(readers, "_LOOK_SECONDS", 0.001)
    async with fresh_app(tmp_path, monkeypatch) as made:
        yield made


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_reader_tells_what_changed_and_nothing_before_it_is_connected(app: App) -> None:
    """The good word of the invocation before it is not replaced while it connects; from then on each change is told at once."""
    pair = await process.PROCESS.pair("one")
    state, topic = app.states["one"], Topic()
    words: list[tuple[int, int, int]] = []
    put_note = state.put_note

    async def noting(name: str, value: bytes) -> None:
        await put_note(name, value)
        if name == "process:functions/vast_events":
            told = msgspec.json.decode(value, type=Heartbeat).sources["vast_events"]
            words.append((told["connected"], told["held"], told["behind"]))

    state.put_note = noting  # type: ignore[method-assign]
    reading = asyncio.create_task(readers._read(pair, "vast_events", [topic], 3600, lambda _: False))
    await _until(lambda: len(topic.looks) > 20)
    assert words == []
    standings = [(1, 0, 0), (1, 4, 1), (1, 4, 0), (0, 0, 0)]
    for standing in standings:
        topic.connected, topic.held, topic.behind = standing
        await _until(lambda: standing in words)  # noqa: B023 - waited for at once
    assert words == standings
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_reader_that_cannot_connect_says_so_after_a_while(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was told before is then no longer true."""
    monkeypatch.setattr(readers, "_TELL_SECONDS", 0.01)
    pair = await process.PROCESS.pair("one")
    reading = asyncio.create_task(readers._read(pair, "vast_events", [Topic()], 3600, lambda _: False))
    await _until(lambda: "process:functions/vast_events" in app.states["one"]._notes)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
