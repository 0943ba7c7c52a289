"""How a whole scan is cut into ranges that several tasks and processes take, and put together again. Pure.

The boundaries come from the previous scan: each range keeps some of its keys, evenly spaced, in memory that does not grow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

from federation.model import Side
from reconciler.ground import SCAN_TASK, Ground
from reconciler.report import Report, add_counts
from reconciler.sweep import Turn
from reconciler.withheld import Gone

MOST_RANGES = 256
KEPT_SAMPLES = 256
"""Keys that a range keeps, at most twice as many."""


class Samples(msgspec.Struct):
    """Every ``stride``-th key of a range, ascending. The stride doubles when there are too many."""

    keys: list[str] = msgspec.field(default_factory=list)
    stride: int = 64
    rows: int = 0

    def add(self, keys: Sequence[str]) -> None:
        """The keys that follow."""
        first = -self.rows % self.stride
        self.keys.extend(keys[first :: self.stride])
        self.rows += len(keys)
        while len(self.keys) > 2 * KEPT_SAMPLES:
            self.keys = self.keys[::2]
            self.stride *= 2


class Progress(msgspec.Struct, kw_only=True):
    """One range so far: its report, which knows the last key compared and marked, and the samples."""

    scan: str
    report: Report
    samples: Samples = msgspec.field(default_factory=Samples)
    withheld: list[Gone] = msgspec.field(default_factory=list)
    seen: bytes = b""
    """Of the keys in the shards that are swept: the beginnings of their digests (``reconciler.sweep``)."""
    ordered: list[Side] = msgspec.field(default_factory=list)
    """Sides of which a whole first pass had shown that names are keys, in order: the next process need not make it again."""
    asked_us: int = 0
    """When a command that asked for this scan kept it last."""

    @property
    def done(self) -> bool:
        """Compared to its end."""
        return self.report.complete


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """A whole scan: range n holds the keys after ``bounds[n - 1]`` up to and including ``bounds[n]``."""

    scan: str
    started_us: int
    fresh_state: bool
    turn: Turn
    bounds: list[str] = msgspec.field(default_factory=list)
    union: str = "1"
    """Value of the note of union mode when it began, if ``fresh_state``."""
    gap: str = ""
    """Of the note of lost marks: those were gone before it began."""
    asked: bool = False
    """Begun by a command, for somebody who wants to know how it is now."""

    @property
    def ranges(self) -> list[tuple[str, str]]:
        """After which key, up to which key; empty: from the start, to the end."""
        return list(pairwise(["", *self.bounds, ""]))

    @property
    def ground(self) -> Ground:
        """What it rests on."""
        return Ground(f"{SCAN_TASK}{self.scan}", self.union if self.fresh_state else "", self.gap)

    def begun(self, number: int) -> Progress:
        """A range of which nothing was done yet."""
        after, until = self.ranges[number]
        report = Report(started_us=self.started_us, fresh_state=self.fresh_state, after=after, until=until)
        return Progress(scan=self.scan, report=report)


def boundaries(ranges: Sequence[Samples], *, rows_a_range: int) -> list[str]:
    """Keys that cut what was scanned into ranges of about that many rows, at most ``MOST_RANGES``; none when one is enough."""
    rows = sum(one.rows for one in ranges)
    count = min(MOST_RANGES, rows // rows_a_range)
    bounds: list[str] = []
    passed = 0
    for one in ranges:
        for at, key in enumerate(one.keys):
            here = passed + at * one.stride
            if len(bounds) + 1 < count and here * count >= rows * (len(bounds) + 1):
                bounds.append(key)
        passed += one.rows
    return bounds


def merged(plan: Plan, progress: Mapping[int, Progress]) -> Report:
    """The report of the whole scan so far. ``complete`` only when every range is; what is missing says so."""
    whole = Report(started_us=plan.started_us, fresh_state=plan.fresh_state, scan=plan.scan, ranges=len(plan.ranges))
    for number in sorted(progress):
        add_counts(whole, progress[number].report)
    done = [number for number, one in progress.items() if one.done]
    whole.ranges_done = len(done)
    whole.complete = len(done) == len(plan.ranges)
    return whole
