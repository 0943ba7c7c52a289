"""Cut a failing script down to what still fails, so that a person can read it: acts, faults, settings, and the schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from federation.model import Mode, Side
from tests.simulation.loop import Spans
from tests.simulation.script import Act, Rates, Script

MOST_RUNS = 400
MOST_RUNS_OF_SCHEDULES = 200
_PLAIN_SETTINGS = (
    "mixed_settings",
    "new_settings",
    "deletes_ignored",
    "foreign",
    "revert_limit",
    "rejects",
    "retries",
    "versioned_not",
    "ignored",
    "patience_seconds",
    "rich",
    "versioned",
)


@dataclass(frozen=True, slots=True)
class Run:
    """What shrinking needs to know of a run."""

    violations: list[str]
    choices: int
    """Of its schedule."""


def kind_of(violation: str) -> str:
    """What a violation is about, without its particulars."""
    return violation.partition(":")[0].partition(" after ")[0]


def shrink(script: Script, run: Callable[[Script], Run]) -> Script:
    """The smallest script found that fails in the way *script* does; itself when nothing can be left out."""
    wanted = kind_of(run(script).violations[0])

    def fails(candidate: Script) -> bool:
        return any(kind_of(one) == wanted for one in run(candidate).violations)

    script = _descend(script, fails)
    # The schedule last: of what is left as few choices as possible are drawn, the others are first come, first served.
    orderly = replace(script, drawn=())
    if fails(orderly):
        return orderly
    whole = replace(script, drawn=((0, run(script).choices + 1),))
    return _in_order(whole, fails) if fails(whole) else script


def _descend(script: Script, fails: Callable[[Script], bool]) -> Script:
    """Take the first of the smaller ones that fails, again and again."""
    runs, progress = 0, True
    while progress and runs < MOST_RUNS:
        progress = False
        for candidate in _smaller(script):
            if runs >= MOST_RUNS:
                break
            runs += 1
            if fails(candidate):
                script, progress = candidate, True
                break
    return script


def _smaller(script: Script) -> Iterator[Script]:
    calm = script.without_noise()
    if calm != script:
        yield calm
    plain: dict[str, Any] = {one.name: one.default for one in fields(Script) if one.name in _PLAIN_SETTINGS}
    for candidate in (
        replace(script, processes=1),
        replace(script, shards=1),
        replace(script, skew_us=dict.fromkeys(Side, 0), drift_ppm=dict.fromkeys(Side, 0)),
        replace(script, page=1000),
        replace(script, feed_lag_seconds=0.0, grid_lost=0.0, scans=script.scans or script.scan_at_start, scan_at_start=False),
        replace(script, stamps=True),
        replace(script, conditions=True),
        replace(script, delete_budget=1000),
        replace(script, mode=Mode.TWO_WAY),
        *(replace(script, **{name: value}) for name, value in plain.items()),
    ):
        if candidate != script:
            yield candidate
    for users in _fewer(script.users):
        yield replace(script, users=users)
    for faults in _fewer(script.faults):
        yield replace(script, faults=faults)
    for one in fields(Rates):
        if one.name not in {"late_seconds", "latency_seconds"} and getattr(script.rates, one.name):
            yield replace(script, rates=replace(script.rates, **{one.name: 0.0}))


def _in_order(script: Script, fails: Callable[[Script], bool]) -> Script:
    """Take ever smaller stretches out of the choices that are drawn, while it fails without them."""
    spans, runs = script.drawn or (), 0
    size = max((end for _, end in spans), default=0) // 2
    while size and runs < MOST_RUNS_OF_SCHEDULES:
        for start, end in [(at, at + size) for first, last in spans for at in range(first, last, size)]:
            fewer = _without(spans, start, end)
            runs += 1
            if runs <= MOST_RUNS_OF_SCHEDULES and fewer != spans and fails(replace(script, drawn=fewer)):
                spans = fewer
        size //= 2
    return replace(script, drawn=spans)


def _without(spans: Spans, start: int, end: int) -> Spans:
    cut = [piece for first, last in spans for piece in ((first, min(last, start)), (max(first, end), last))]
    return tuple((first, last) for first, last in cut if first < last)


def _fewer(acts: tuple[Act, ...]) -> Iterator[tuple[Act, ...]]:
    size = len(acts)
    while size >= 1:
        for start in range(0, len(acts), size):
            if len(acts) > size or size == 1:
                yield acts[:start] + acts[start + size :]
        size //= 2
