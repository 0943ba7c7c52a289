"""Cut a failing script down to what still fails, so that a person can read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from federation.model import Side
from tests.simulation.script import Act, Script

MOST_RUNS = 400


def kind_of(violation: str) -> str:
    """What a violation is about, without its particulars."""
    return violation.partition(":")[0].partition(" after ")[0]


def shrink(script: Script, violations: Callable[[Script], list[str]]) -> Script:
    """The smallest script found that fails in the way *script* does; itself when nothing can be left out."""
    wanted = kind_of(violations(script)[0])
    runs = 0

    def fails(candidate: Script) -> bool:
        nonlocal runs
        runs += 1
        return any(kind_of(one) == wanted for one in violations(candidate))

    progress = True
    while progress and runs < MOST_RUNS:
        progress = False
        for candidate in _smaller(script):
            if runs >= MOST_RUNS:
                break
            if fails(candidate):
                script, progress = candidate, True
                break
    return script


def _smaller(script: Script) -> Iterator[Script]:
    calm = script.without_noise()
    if calm != script:
        yield calm
    for plain in (
        replace(script, processes=1, mixed_settings=False),
        replace(script, shards=1),
        replace(script, skew_us=dict.fromkeys(Side, 0), drift_ppm=dict.fromkeys(Side, 0)),
        replace(script, page=1000),
    ):
        if plain != script:
            yield plain
    for users in _fewer(script.users):
        yield replace(script, users=users)
    for faults in _fewer(script.faults):
        yield replace(script, faults=faults)
    for name in ("call_before", "call_after", "slow", "state_before", "state_after", "broker", "event_lost", "event_twice"):
        if getattr(script.rates, name):
            yield replace(script, rates=replace(script.rates, **{name: 0.0}))


def _fewer(acts: tuple[Act, ...]) -> Iterator[tuple[Act, ...]]:
    size = len(acts)
    while size >= 1:
        for start in range(0, len(acts), size):
            if len(acts) > size or size == 1:
                yield acts[:start] + acts[start + size :]
        size //= 2
