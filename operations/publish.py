"""Status and heartbeats as metrics. One process of a pair sends its gauges, each minute, also when idle: silence is an alarm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from federation import metrics
from federation.errors import RetryLater
from federation.metrics import Instruments, Point
from federation.model import Side
from federation.ports import Clock, State
from federation.settings import PairSettings
from federation.sync.stats import DecisionLine
from federation.telemetry import logger
from federation.wiring import owner_name
from operations.exporters import FLUSH_SECONDS, Exporters
from operations.heartbeat import Heartbeat
from operations.status import PairStatus, pair_status

EVERY_SECONDS = 60.0
TASK = "publish metrics"
"""What a process owns while it sends the pair's gauges (``State.own``)."""
_TTL_SECONDS = 2.5 * EVERY_SECONDS
_RESULTS_OF = ("marked", "echoes", "dead_lettered", "gaps")
_COUNTED_BY_PREFIX = ("refused_", "ignored_")
_log = logger("fedplane.metrics")
Told = Mapping[str, Mapping[str, Any]]
"""What sources tell of themselves, by name."""


def gauges(status: PairStatus) -> Iterator[Point]:
    """Everything that is a level now. What is unknown is not sent as a number (rule 9). Pure."""
    pair = {"pair": status.pair}
    for direction, one in status.directions.items():
        way = pair | {"direction": direction}
        if one.lag_seconds is not None:
            yield metrics.LAG, one.lag_seconds, way
        yield metrics.LAG_UNKNOWN, float(one.lag_seconds is None), way
        yield metrics.LAG_AT_LEAST, one.at_least_seconds or 0.0, way
        yield metrics.BACKLOG, one.backlog, way
    yield metrics.PARKED, status.parked, pair
    yield metrics.HELD, status.held, pair
    yield metrics.CONFLICTS, status.conflicts, pair
    yield metrics.DEAD_LETTERS, status.dead_letters, pair
    yield metrics.HALTS, len(status.halts), pair
    yield metrics.OBJECTS, status.objects, pair
    yield metrics.PROCESSES, sum(beat.fresh(status.at_us) for beat in status.processes), pair
    if status.converged_as_of_us is not None:
        yield metrics.CONVERGED_AGE, _age(status, status.converged_as_of_us), pair
    if status.canary is not None and status.canary.age_seconds is not None:
        yield metrics.CANARY_AGE, status.canary.age_seconds, pair
    yield from _scan(status, pair)
    yield from _processes(status, pair)


def _scan(status: PairStatus, pair: dict[str, str]) -> Iterator[Point]:
    report = status.last_whole_scan
    if report is None:
        return
    yield metrics.SCAN_AGE, _age(status, report.started_us), pair
    yield metrics.SCAN_DURATION, report.seconds, pair
    for kind, count in report.drift.items():
        yield metrics.SCAN_DRIFT, count, pair | {"kind": kind}
    for side in Side:
        yield metrics.SCAN_MISSED, report.missed_by_events[side], pair | {"side": side.value}
        found = report.unaddressable.get(side)
        yield metrics.UNADDRESSABLE, found.count if found is not None else 0, pair | {"side": side.value}


def _processes(status: PairStatus, pair: dict[str, str]) -> Iterator[Point]:
    fresh = [beat for beat in status.processes if beat.fresh(status.at_us)]
    for side in Side:
        of_side = pair | {"side": side.value}
        yield metrics.SIDE_ANSWERS, float(any(beat.sides[side].answers for beat in fresh)), of_side
        yield metrics.SIDE_BREAKER, float(any(beat.sides[side].left_alone for beat in fresh)), of_side
    for source in sorted({name for beat in fresh for name in beat.sources}):
        told = [beat.sources[source] for beat in fresh if source in beat.sources]
        yield metrics.SOURCE_CONNECTED, float(any(one.get("connected") for one in told)), pair | {"source": source}
        newest = max((one.get("newest_us") or 0 for one in told), default=0)
        if newest:
            yield metrics.SOURCE_AGE, _age(status, newest), pair | {"source": source}


def _age(status: PairStatus, at_us: int) -> float:
    # A clock that is ahead shows no negative age.
    return max(0.0, (status.at_us - at_us) / 1_000_000)


def counters(pair: str, now: Heartbeat, before: Heartbeat | None) -> Iterator[Point]:
    """What one process counted since *before*. Pure."""
    of_pair = {"pair": pair}
    yield from events(pair, now.sources, before.sources if before is not None else {})
    worker, past = now.worker, before.worker if before is not None else {}
    yield metrics.MOVED, _more(worker.get("written_bytes"), past.get("written_bytes")), of_pair
    for outcome, count in worker.get("outcomes", {}).items():
        yield metrics.OUTCOMES, _more(count, past.get("outcomes", {}).get(outcome)), of_pair | {"outcome": outcome}
    for side, health in now.sides.items():
        was = before.sides.get(side) if before is not None else None
        of_side = of_pair | {"side": side.value}
        asked, earlier = (one.get("requests_by_side", {}).get(side.value) for one in (worker, past))
        yield metrics.REQUESTS, _more(asked, earlier), of_side
        yield metrics.THROTTLES, _more(health.throttles, was.throttles if was is not None else 0), of_side
        yield metrics.RACES, _more(health.race_windows, was.race_windows if was is not None else 0), of_side


def events(pair: str, now: Told, before: Told) -> Iterator[Point]:
    """What sources counted since *before*, each told as in ``Source.health``. Pure."""
    for source, told in now.items():
        earlier = before.get(source, {})
        for name, count in told.items():
            if name in _RESULTS_OF or name.startswith(_COUNTED_BY_PREFIX):
                yield metrics.EVENTS, _more(count, earlier.get(name)), {"pair": pair, "source": source, "result": name}


def _more(count: Any, before: Any) -> float:  # noqa: ANN401 - counts of a heartbeat
    return max(0, (count or 0) - (before or 0))


class Publisher:
    """Sends one pair's metrics. ``tick`` is called each minute by every process."""

    def __init__(self, instruments: Instruments, state: State, pair: PairSettings, clock: Clock, *, owner: str = "") -> None:
        """*owner*: who sends the pair's levels; empty: this process."""
        self._instruments = instruments
        self._state = state
        self._pair = pair
        self._clock = clock
        self._owner = owner or owner_name()
        self._before: Heartbeat | None = None

    def count(self, beat: Heartbeat) -> None:
        """What this process counted since the last time."""
        self._instruments.count(counters(self._pair.name, beat, self._before))
        self._before = beat

    def read(self, now: Told, before: Told) -> None:
        """What sources counted since *before* that no heartbeat of this process holds."""
        self._instruments.count(events(self._pair.name, now, before))

    async def levels(self) -> list[Point]:
        """The pair's gauges when they are this process's to send, else nothing. Raises RetryLater."""
        if not await self._state.own(TASK, owner=self._owner, ttl_seconds=_TTL_SECONDS):
            return []
        return list(gauges(await pair_status(self._state, self._pair, self._clock.now_us())))

    def line(self, line: DecisionLine) -> None:
        """One finished pass: its delay, where the change's own time is known."""
        if line.apply_delay_seconds is not None and line.source:
            way = {"pair": self._pair.name, "direction": f"{line.source}_to_{Side(line.source).other}"}
            # A clock that is ahead makes no negative delay.
            self._instruments.distribute((metrics.APPLY_DELAY, max(0.0, line.apply_delay_seconds), way))


async def publish(
    publishers: Sequence[tuple[Publisher, Callable[[], Heartbeat | None]]], exporters: Exporters, clock: Clock
) -> None:
    """Each minute: count, read the levels that are ours to send, send them. Runs until cancelled; metrics never stop the work."""
    while True:
        points: list[Point] = []
        for publisher, beat_now in publishers:
            beat = beat_now()
            if beat is not None:
                publisher.count(beat)
            try:
                points += await publisher.levels()
            except RetryLater as error:
                # Nothing is sent for the pair: the alert on absence tells.
                _log.warning("no metrics: the state cannot be read", error=str(error))
        exporters.instruments.hold(points)
        if not await asyncio.to_thread(exporters.flush):
            _log.warning("metrics were not taken in time", seconds=FLUSH_SECONDS)
        await clock.sleep(EVERY_SECONDS)
