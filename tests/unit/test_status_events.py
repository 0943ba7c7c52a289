"""What status concludes from event sources: how far they have read, and VAST's canary."""

from __future__ import annotations

import msgspec
import pytest

from federation.model import Side
from federation.payloads.vast import CanaryEvent
from federation.settings import VastEventSettings
from federation.sources import canary
from federation.sources.canary import Sent
from fedplane.status_text import page
from operations.heartbeat import Heartbeat, SideHealth
from operations.status import pair_status
from tests.unit.test_status import (
    BLOB_TO_VAST,
    CONNECTED,
    NOW,
    SECOND,
    VAST_TO_BLOB,
    WELL,
    Known,
    ago,
    beat,
    build,
    settings,
    status,
)

EVERY = 300.0


def _with_canary() -> Known:
    pair = settings()
    events = VastEventSettings(bootstrap=("k:1",), topic="t", canary_seconds=EVERY)
    return Known(pair=pair.model_copy(update={"vast": pair.vast.model_copy(update={"events": events})}))


@pytest.mark.parametrize(
    ("sent_ago", "back_ago", "known", "words"),
    [
        (20, 19, True, "events proved to arrive as of 20 s ago"),
        (20, None, False, "no event has come back yet"),
        (3000, 2999, False, "OVERDUE"),
        (None, None, False, "no event has come back yet"),
    ],
)
async def test_an_overdue_canary_makes_the_lag_of_vast_unknown(
    sent_ago: float | None, back_ago: float | None, known: bool, words: str
) -> None:
    """A silent topic looks like a quiet one: without a fresh proof the lag is not zero but unknown, of that direction only."""
    one = _with_canary()
    state = await build(one)
    if sent_ago is not None:
        await state.put_note("canary:sent", msgspec.json.encode(Sent("e", ago(sent_ago))))
    if back_ago is not None:
        await canary.note_back(state, CanaryEvent("e", frozenset()), ago(back_ago))
    found = await pair_status(state, one.pair, NOW)
    direction = found.directions[VAST_TO_BLOB]
    assert (direction.lag_seconds is not None) is known
    assert len(direction.unknown_because) == (0 if known else 1)
    assert found.directions[BLOB_TO_VAST].lag_seconds == 0.0
    assert found.canary is not None
    assert words in page(found)


async def test_without_a_canary_nothing_is_said_of_it() -> None:
    """Switched off, or no events at all: the page has no line of it."""
    known = Known()
    found = await pair_status(await build(known), known.pair, NOW)
    assert found.canary is None
    assert "canary" not in page(found)


@pytest.mark.parametrize(("held", "known"), [((2, 2), True), ((2, 1), False), ((4, 0), True), ((0, 0), False)])
async def test_partitions_that_nobody_reads_are_a_doubt(held: tuple[int, int], known: bool) -> None:
    """Processes share a topic: only together must they read all of it."""
    beats = [
        beat(str(number), sources={"event_grid_queue": CONNECTED, "vast_events": CONNECTED | {"partitions": 4, "held": one}})
        for number, one in enumerate(held)
    ]
    one = Known(beats=beats)
    found = (await pair_status(await build(one), one.pair, NOW)).directions[VAST_TO_BLOB]
    assert (found.lag_seconds is not None) is known
    assert known or f"{4 - sum(held)} partitions of the topic of vast are read by no process" in found.unknown_because


def test_a_heartbeat_holds_as_long_as_it_says() -> None:
    """A process that speaks only while it is invoked is not taken for gone between two sweeps; one that speaks often is."""
    sides = {side: SideHealth(answers=True, clock_ahead_us=0) for side in Side}
    often = Heartbeat(process="p", at_us=0, started_us=0, ready=True, sides=sides, sources={}, scan={}, worker={})
    seldom = msgspec.structs.replace(often, fresh_seconds=150.0)
    assert [(beat.fresh(9_000_000), beat.fresh(60_000_000), beat.fresh(151_000_000)) for beat in (often, seldom)] == [
        (True, False, False),
        (True, True, False),
    ]


async def test_of_two_that_are_behind_one_may_not_know_how_far() -> None:
    """Then nobody does; what the other one knows is told all the same."""
    one, two = CONNECTED | {"behind": 1, "read_to_us": ago(70)}, CONNECTED | {"behind": 1}
    beats = [
        beat("one", sources={"event_grid_queue": CONNECTED, "vast_events": one}),
        beat("two", sources={"event_grid_queue": CONNECTED, "vast_events": two}),
    ]
    found = (await status(Known(beats=beats))).directions[VAST_TO_BLOB]
    assert (found.lag_seconds, found.at_least_seconds) == (None, 70.0)
    assert found.unknown_because == ["events of vast wait to be read, of an age that is not known"]


@pytest.mark.parametrize("ahead", [-30, 0, 30])
async def test_what_a_source_has_read_is_told_by_our_clock(ahead: int) -> None:
    """Events bear the time of their side's service: one that runs ahead of ours hides no lag, one behind adds none."""
    sides = dict.fromkeys(Side, WELL) | {Side.VAST: SideHealth(answers=True, clock_ahead_us=ahead * SECOND)}
    behind = CONNECTED | {"behind": 1, "read_to_us": ago(40 - ahead)}
    found = await status(Known(beats=[beat(sides=sides, sources={"event_grid_queue": CONNECTED, "vast_events": behind})]))
    assert found.directions[VAST_TO_BLOB].lag_seconds == 40.0
