"""Every metric: name, unit, dimensions, meaning. Instruments, docs/metrics.md, alerts and dashboards are made from this.

No dimension ever holds the name of an object (rule 10): pairs, directions, sides, sources, results and kinds are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation

METER = "fedplane"


class Kind(StrEnum):
    """How values of a metric add up."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. *unit* is UCUM: ``s`` or a count of something in braces."""

    name: str
    kind: Kind
    unit: str
    dimensions: tuple[str, ...]
    text: str


Point = tuple[Metric, float, Mapping[str, str]]
"""A metric, its value and its dimensions."""


def _gauge(name: str, unit: str, dimensions: tuple[str, ...], text: str) -> Metric:
    return Metric(f"federation.{name}", Kind.GAUGE, unit, dimensions, text)


def _counter(name: str, unit: str, dimensions: tuple[str, ...], text: str) -> Metric:
    return Metric(f"federation.{name}", Kind.COUNTER, unit, dimensions, text)


_WAY, _PAIR, _SIDE, _SOURCE = ("pair", "direction"), ("pair",), ("pair", "side"), ("pair", "source")

LAG = _gauge(
    "lag.seconds",
    "s",
    _WAY,
    "Age of the oldest change that is not applied yet. Not sent while it cannot be known: see lag.unknown.",
)
LAG_UNKNOWN = _gauge(
    "lag.unknown",
    "1",
    _WAY,
    "1 while the lag cannot be known (a side, a source or a process is away), else 0. Sent every minute, also when idle.",
)
LAG_AT_LEAST = _gauge("lag.at_least.seconds", "s", _WAY, "What is known of the lag even while it is unknown: it is no less.")
BACKLOG = _gauge("backlog", "{key}", _WAY, "Keys with changes that wait to be applied.")
PARKED = _gauge("parked", "{key}", _PAIR, "Keys that wait for a change of their own or for a person.")
HELD = _gauge("held", "{delete}", _PAIR, "Deletes that wait for a person.")
CONFLICTS = _gauge("conflicts", "{conflict}", _PAIR, "Kept losers that nobody has looked at.")
DEAD_LETTERS = _gauge("dead_letters", "{event}", _PAIR, "Events that could not be parsed, kept for a person.")
HALTS = _gauge("halts", "{halt}", _PAIR, "Named states that stop the pair.")
OBJECTS = _gauge("objects", "{key}", _PAIR, "Keys that both sides agreed on.")
CONVERGED_AGE = _gauge(
    "converged.age.seconds",
    "s",
    _PAIR,
    "How long ago both sides were known to be equal, save parked and held keys. Not sent while that is not known.",
)
SCAN_AGE = _gauge("scan.age.seconds", "s", _PAIR, "Since the start of the last whole scan. Not sent before the first.")
SCAN_DURATION = _gauge("scan.duration.seconds", "s", _PAIR, "How long the last whole scan took.")
SCAN_DRIFT = _gauge("scan.drift", "{key}", ("pair", "kind"), "Differences that the last whole scan found, by kind.")
SCAN_MISSED = _gauge("scan.missed_by_events", "{key}", _SIDE, "Of these, changes that no event had told of.")
UNADDRESSABLE = _gauge(
    "unaddressable", "{name}", _SIDE, "Names that the last whole scan left out, because no key has them (docs/names.md)."
)
SOURCE_AGE = _gauge("source.age.seconds", "s", _SOURCE, "Age of the newest event that was read.")
SOURCE_CONNECTED = _gauge("source.connected", "1", _SOURCE, "1 while the source answers, else 0.")
CANARY_AGE = _gauge("canary.age.seconds", "s", _PAIR, "Since the canary object's own event last came back through VAST's topic.")
SIDE_ANSWERS = _gauge("side.answers", "1", _SIDE, "1 while a side answers, else 0.")
SIDE_BREAKER = _gauge(
    "side.breaker",
    "1",
    _SIDE,
    "1 while a process leaves a side alone: it asked for rest, or failed several times in a row; else 0.",
)
PROCESSES = _gauge("processes", "{process}", _PAIR, "Processes that work on the pair now.")

EVENTS = _counter("events", "{event}", ("pair", "source", "result"), "Events read, by what became of them.")
REQUESTS = _counter("requests", "{request}", _SIDE, "Storage requests made for changes.")
THROTTLES = _counter("throttles", "{response}", _SIDE, "Answers that asked us to slow down.")
RACES = _counter("race_windows", "{write}", _SIDE, "Writes whose condition the server could not promise (rule 5).")
OUTCOMES = _counter("outcomes", "{key}", ("pair", "outcome"), "Passes over keys, by how they ended.")
MOVED = _counter("moved.bytes", "By", _PAIR, "Bytes written to either side.")
APPLY_DELAY = Metric(
    "federation.apply.delay",
    Kind.HISTOGRAM,
    "s",
    _WAY,
    "From a change's own time to its application on the other side, where that time is known.",
)

REGISTRY: tuple[Metric, ...] = (
    LAG, LAG_UNKNOWN, LAG_AT_LEAST, APPLY_DELAY, BACKLOG, CONVERGED_AGE,
    PARKED, HELD, CONFLICTS, DEAD_LETTERS, HALTS, OBJECTS,
    SCAN_AGE, SCAN_DURATION, SCAN_DRIFT, SCAN_MISSED, UNADDRESSABLE,
    SOURCE_AGE, SOURCE_CONNECTED, CANARY_AGE, SIDE_ANSWERS, SIDE_BREAKER, PROCESSES,
    EVENTS, REQUESTS, THROTTLES, RACES, OUTCOMES, MOVED,
)  # fmt: skip

DELAY_BOUNDS_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)


class Instruments:
    """The registry over one OpenTelemetry meter. What exports it is set up at the edge (``operations.exporters``)."""

    def __init__(self, meter: Meter) -> None:
        self._levels: dict[str, list[Observation]] = {}
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for one in REGISTRY:
            if one.kind is Kind.GAUGE:
                meter.create_observable_gauge(one.name, [partial(self._observe, one.name)], one.unit, one.text)
            elif one.kind is Kind.COUNTER:
                self._counters[one.name] = meter.create_counter(one.name, one.unit, one.text)
            else:
                self._histograms[one.name] = meter.create_histogram(
                    one.name, one.unit, one.text, explicit_bucket_boundaries_advisory=DELAY_BOUNDS_SECONDS
                )

    def hold(self, points: Iterable[Point]) -> None:
        """The levels from now on; what is not among them is not sent any more (unknown is no number, rule 9)."""
        levels: dict[str, list[Observation]] = {}
        for metric, value, dimensions in points:
            levels.setdefault(_checked(metric, dimensions).name, []).append(Observation(value, dict(dimensions)))
        self._levels = levels

    def count(self, points: Iterable[Point]) -> None:
        """What came on top."""
        for metric, value, dimensions in points:
            self._counters[_checked(metric, dimensions).name].add(value, dict(dimensions))

    def distribute(self, point: Point) -> None:
        """One value of a histogram."""
        metric, value, dimensions = point
        self._histograms[_checked(metric, dimensions).name].record(value, dict(dimensions))

    def _observe(self, name: str, _: CallbackOptions) -> list[Observation]:
        return self._levels.get(name, [])


def _checked(metric: Metric, dimensions: Mapping[str, str]) -> Metric:
    if set(dimensions) != set(metric.dimensions):
        raise KeyError(f"{metric.name} has the dimensions {metric.dimensions}, not {tuple(dimensions)}")
    return metric
