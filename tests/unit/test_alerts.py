"""Each alert, as it is deployed, over recorded metrics: it fires on what it is for, in time, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from federation.metrics import Point
from federation.model import Side
from federation.sources.canary import Proof
from fedplane.monitoring.alerts import ALERTS, Alert
from fedplane.monitoring.grafana import prometheus_name
from operations.heartbeat import SideHealth
from operations.publish import counters, gauges
from tests.unit.alert_rules import Row, azure_fires, azure_rules, prometheus_fires, prometheus_rules
from tests.unit.test_status import NOW, WELL, Known, ago, beat, change, scan, status

TWO_DAYS = 2 * 86_400
WELL_MINUTES, AFTER = 130, 70
"""How long a pair is well, and how long then not: longer than any alert may take."""
Minutes = Sequence[Sequence[Point]]
"""What is sent in a minute, in the next one, and so on; then from the first again."""


async def _sent(known: Known | None = None, **told: object) -> list[Point]:
    """What a process sends in a minute while the state says *known*, and the status *told*."""
    return list(gauges(msgspec.structs.replace(await status(known or Known()), **told)))


async def _side(answers: bool) -> list[Point]:
    healths = {Side.BLOB: WELL, Side.VAST: SideHealth(answers=answers, clock_ahead_us=0)}
    return await _sent(Known(beats=[beat(sides=healths)]))


def _throttled(times: int) -> list[Point]:
    before, after = (beat(sides=dict.fromkeys(Side, SideHealth(answers=True, throttles=total))) for total in (0, times))
    return list(counters("p", after, before))


async def _incidents() -> dict[str, tuple[Minutes, Minutes]]:
    """By the alert's name: what it is for, and what is just not."""
    late, soon = (Known(changes=[change("a", Side.VAST, seconds)]) for seconds in (301, 300))
    overdue, fresh = (Proof(proved_us=NOW, age_seconds=seconds) for seconds in (1801.0, 1800.0))
    return {
        "lag-over-slo": ([await _sent(late)], [await _sent(soon)]),
        "lag-unknown": ([await _sent(Known(beats=[]))], [await _sent()]),
        "metrics-absent": ([[]], [[], [], [], [], [], [], [], [], await _sent()]),
        "pair-halted": ([await _sent(Known(halts=["side_emptied_vast"]))], [await _sent()]),
        "deletes-held": ([await _sent(held=1)], [await _sent(held=0)]),
        "parked-growing": ([await _sent(parked=101)], [await _sent(parked=100)]),
        "conflicts-burst": ([await _sent(conflicts=101)], [await _sent(conflicts=100)]),
        "scan-overdue": ([await _sent(Known(whole=scan(TWO_DAYS + 1)))], [await _sent(Known(whole=scan(TWO_DAYS)))]),
        "converged-too-old": (
            [await _sent(converged_as_of_us=ago(TWO_DAYS + 1))],
            [await _sent(converged_as_of_us=ago(TWO_DAYS))],
        ),
        "dead-letters": ([await _sent(dead_letters=1)], [await _sent(dead_letters=0)]),
        "side-away": ([await _side(answers=False)], [*[await _side(answers=False)] * 8, await _side(answers=True)]),
        "canary-overdue": ([await _sent(canary=overdue)], [await _sent(canary=fresh)]),
        "throttled": ([_throttled(67)], [_throttled(66)]),
    }


def _recorded(alert: Alert, *parts: tuple[Minutes, int], pair: str = "p") -> list[Row]:
    """Of the alert's metric: *parts*, each for so many minutes."""
    rows: list[Row] = []
    minute = 0
    for minutes, many in parts:
        for number in range(many):
            sent = [point for point in minutes[number % len(minutes)] if point[0] is alert.metric]
            rows += [Row(minute, alert.metric.name, value, {**dimensions, "pair": pair}) for _, value, dimensions in sent]
            minute += 1
    return rows


def _azure(alert: Alert, rows: list[Row]) -> Callable[[int], bool]:
    rule = azure_rules()[alert.name]
    return lambda minute: azure_fires(rule, rows, minute)


def _prometheus(alert: Alert, rows: list[Row]) -> Callable[[int], bool]:
    name = prometheus_name(alert.metric)
    rule, recorded = prometheus_rules()[alert.name], [Row(row.minute, name, row.value, row.dimensions) for row in rows]
    return lambda minute: prometheus_fires(rule, recorded, minute)


Fires = Callable[[Alert, list[Row]], Callable[[int], bool]]
"""Whether the alert fires at a minute, in one of the two places, with what was recorded."""
PLACES = pytest.mark.parametrize("fires", [_azure, _prometheus], ids=["azure", "prometheus"])
EACH = pytest.mark.parametrize("alert", ALERTS, ids=lambda one: one.name)


async def test_there_is_a_rule_and_an_incident_for_every_alert() -> None:
    """In both places, none left over from an alert that is no more."""
    names = {alert.name for alert in ALERTS}
    assert set(azure_rules()) == set(prometheus_rules()) == set(await _incidents()) == names


@PLACES
@EACH
async def test_each_alert_fires_on_what_it_is_for(alert: Alert, fires: Fires) -> None:
    """Of two pairs one stays well, the other until something happens: not before, and within the time that it should take."""
    well, (bad, _) = [await _sent()], (await _incidents())[alert.name]
    still = [_throttled(0)] if alert.name == "throttled" else well
    rows = _recorded(alert, (still, WELL_MINUTES), (bad, AFTER))
    rows += _recorded(alert, (still, WELL_MINUTES + AFTER), pair="another")
    at = fires(alert, rows)
    assert not [minute for minute in range(100, WELL_MINUTES) if at(minute)]
    began = next(minute for minute in range(WELL_MINUTES, WELL_MINUTES + AFTER) if at(minute))
    assert began - WELL_MINUTES <= alert.window_minutes * alert.hold + alert.window_minutes


@PLACES
@EACH
async def test_each_alert_is_silent_on_what_is_just_not_its_own(alert: Alert, fires: Fires) -> None:
    """At its threshold, or with one good word in each window, for as long as one likes."""
    _, nearly = (await _incidents())[alert.name]
    at = fires(alert, _recorded(alert, (nearly, WELL_MINUTES + AFTER)))
    assert not [minute for minute in range(100, WELL_MINUTES + AFTER) if at(minute)]


@PLACES
async def test_a_lag_that_passes_wakes_nobody(fires: Fires) -> None:
    """A minute above the objective, in one window, is no breach of it."""
    [alert] = [one for one in ALERTS if one.name == "lag-over-slo"]
    bad, well = (await _incidents())[alert.name][0], [await _sent()]
    at = fires(alert, _recorded(alert, (well, 100), (bad, 1), (well, 60)))
    assert not [minute for minute in range(100, 160) if at(minute)]
