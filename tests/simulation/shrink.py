"""Cut a failing script down to what still fails, so that a person can read it: acts, faults, settings, and the schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from federation.model import Side
from tests.simulation.loop import Spans
from tests.simulation.script import Act, Rates, Script

MOST_RUNS = 400
MOST_RUNS_OF_SCHEDULES = 200
_PLAIN_SETTINGS = ("mixed_settings", "new_settings", "deletes_ignored", "foreign", "revert_limit", "rejects", "rich", "versioned")


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

    script = _descend(script, _smaller, fails, MOST_RUNS)
    # The schedule last: of what is left as few choices as possible are drawn, the others are first come, first served.
    orderly = replace(script, drawn=())
    if fails(orderly):
        return orderly
    whole = replace(script, drawn=((0, run(script).choices + 1),))
    return _descend(whole, _more_orderly, fails, MOST_RUNS_OF_SCHEDULES) if fails(whole) else script


def _descend(
    script: Script, smaller: Callable[[Script], Iterator[Script]], fails: Callable[[Script], bool], most_runs: int
) -> Script:
    """Take the first of the *smaller* ones that fails, again and again."""
    runs, progress = 0, True
    while progress and runs < most_runs:
        progress = False
        for candidate in smaller(script):
            if runs >= most_runs:
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


def _more_orderly(script: Script) -> Iterator[Script]:
    """With half of a span, or a span, of drawn choices less."""
    spans = script.drawn or ()
    for index, (start, end) in enumerate(spans):
        middle = (start + end) // 2
        for kept in ((), ((start, middle),), ((middle, end),)):
            if kept != ((start, end),):
                yield replace(script, drawn=_without_empty(spans[:index] + kept + spans[index + 1 :]))
    for index, (start, end) in enumerate(spans):
        if (quarter := (end - start) // 4) > 0:
            cut = ((start, start + quarter), (end - quarter, end))
            yield replace(script, drawn=spans[:index] + cut + spans[index + 1 :])


def _without_empty(spans: Spans) -> Spans:
    return tuple((start, end) for start, end in spans if start < end)


def _fewer(acts: tuple[Act, ...]) -> Iterator[tuple[Act, ...]]:
    size = len(acts)
    while size >= 1:
        for start in range(0, len(acts), size):
            if len(acts) > size or size == 1:
                yield acts[:start] + acts[start + size :]
        size //= 2
