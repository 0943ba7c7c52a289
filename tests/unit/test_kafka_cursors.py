"""Kafka's cursors move side by side: none is behind its marks, and one that cannot move holds up no other (rule 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from federation.errors import RetryLater
from federation.progress import Cursor
from federation.sources import vast_kafka
from federation.sources.kafka_reader import Polled
from federation.sources.vast_kafka import VastKafka
from federation.state.memory_state import MemoryState
from tests.servers.support import QuickClock, Sink, eventually, no_scan, running
from tests.unit.test_source_lag import BUCKET, NOON, Broker, _record

TWO = {0: [0, 1, 2], 1: [0, 1]}
"""Offsets of the records there are, by partition."""


class _Topic(Broker):
    """Brings what is there from the position it was assigned, in one poll, as a broker does to each new session."""

    async def assign(self, positions: Mapping[int, int | None]) -> dict[int, int]:
        """As in ``Reader``."""
        at = await super().assign(positions)
        self.assigned.append(at)
        found: dict[int, list[Any]] = {}
        for one, first in at.items():
            found[one] = [_record(one, offset, NOON + offset) for offset in TWO[one] if offset >= first]
        self.polls.append(Polled({one: records for one, records in found.items() if records}))
        return at

    def __init__(self) -> None:
        super().__init__()
        self.assigned: list[dict[int, int]] = []


class _State(MemoryState):
    """Of whose moves to where records were read some go wrong."""

    def __init__(self) -> None:
        super().__init__("pair", shards=1, clock=QuickClock())
        self.at_once = self.most_at_once = 0
        self.faults: list[str] = []
        self.marked: list[int] = []
        self.sink = Sink()

    async def move_cursor(self, source: str, old: Cursor | None, new: Cursor) -> bool:
        """As in the port."""
        if source == "vast_events/0" and new.position["0"] and self.faults:
            fault = self.faults.pop(0)
            if fault == "answer lost":
                await super().move_cursor(source, old, new)
            if fault == "another's":
                return False
            raise RetryLater("Redis does not answer", reason="redis_unavailable")
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0)
        self.marked.append(len(self.sink.keys))
        moved = await super().move_cursor(source, old, new)
        self.at_once -= 1
        return moved


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> _Topic:
    """With records in both partitions."""
    made = _Topic()
    monkeypatch.setattr(vast_kafka, "Reader", lambda *_: made)
    return made


async def _read(state: _State, topic: _Topic, *, sessions: int = 1) -> VastKafka:
    source = VastKafka({}, "t", BUCKET, state, state.sink, QuickClock(), on_gap=no_scan, owner="one")

    async def at_the_end() -> bool:
        cursors = [await state.cursor(f"vast_events/{one}") for one in TWO]
        at = [cursor.position for cursor in cursors if cursor is not None]
        return at == [{"0": 3}, {"1": 2}] and len(topic.assigned) >= sessions

    async with running(source):
        await eventually(at_the_end, "both partitions are read to their end", seconds=10)
    return source


async def test_cursors_of_one_batch_move_side_by_side_after_its_marks(topic: _Topic) -> None:
    """One after another a slow Redis would be waited for as many times as there are partitions; none moves before the marks."""
    state = _State()
    source = await _read(state, topic)
    assert state.most_at_once == 2
    assert state.marked[-2:] == [5, 5]
    assert source._tell.position == {"0": 3, "1": 2}
    assert topic.assigned == [{0: 0, 1: 0}]


@pytest.mark.parametrize(
    ("fault", "read_again"), [("no answer", 3), ("answer lost", 0), ("another's", 3)], ids=["unmoved", "moved", "refused"]
)
async def test_a_cursor_that_does_not_move_keeps_no_other_from_it(topic: _Topic, fault: str, read_again: int) -> None:
    """A new session begins where each partition was left: what was recorded is not read again, what was not is, none is lost."""
    state = _State()
    state.faults.append(fault)
    await _read(state, topic, sessions=2)
    assert topic.assigned == [{0: 0, 1: 0}, {0: 3 - read_again, 1: 2}]
    assert len(state.sink.keys) == 5 + read_again
