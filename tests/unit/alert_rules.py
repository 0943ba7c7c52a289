"""Azure Monitor's and Prometheus' alert rules as they are written in ``infra/monitor``, over recorded metrics.

As much of both as our rules use; what else a rule may come to hold is refused, so that no test passes by not understanding it.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MONITOR = Path(__file__).resolve().parents[2] / "infra" / "monitor"
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "GreaterThan": operator.gt,
    "LessThan": operator.lt,
    ">": operator.gt,
    "<": operator.lt,
}
_WORST: dict[str, Callable[[Sequence[float]], float]] = {"Maximum": max, "Total": sum}
_ABSENT = re.compile(r"absent\((\w+)\) or \(\1 offset (\d+)h unless \1\)")


@dataclass(frozen=True, slots=True)
class Row:
    """One value of one series in a minute, as both places hold it."""

    minute: int
    name: str
    value: float
    dimensions: Mapping[str, str]

    @property
    def series(self) -> frozenset[tuple[str, str]]:
        """Its dimensions, to group by."""
        return frozenset(self.dimensions.items())


def azure_rules() -> dict[str, dict[str, Any]]:
    """The properties of each, by the alert's name."""
    resources = json.loads((MONITOR / "alerts.json").read_text())["resources"]
    return {one["properties"]["displayName"].removeprefix("fedplane: "): one["properties"] for one in resources}


def prometheus_rules() -> dict[str, dict[str, Any]]:
    """The same of Prometheus' rules."""
    [group] = json.loads((MONITOR / "prometheus-rules.json").read_text())["groups"]
    return {one["alert"]: one for one in group["rules"]}


def azure_fires(rule: Mapping[str, Any], recorded: Iterable[Row], now: int) -> bool:
    """Whether *rule* fires when it is evaluated at minute *now*."""
    [criterion] = rule["criteria"]["allOf"]
    named, *stages = re.fullmatch(r"AppMetrics \| where Name == '([\w.]+)' \| (.+)", criterion["query"]).groups()  # type: ignore[union-attr]
    rows = [row for row in recorded if row.name == named and row.minute <= now]
    told = sorted(one["name"] for one in criterion["dimensions"])
    assert all(sorted(row.dimensions) == told for row in rows), "a dimension that is not exported splits nothing"
    dimensions = ", ".join(f"{one['name']} = tostring(Properties.{one['name']})" for one in criterion["dimensions"])
    window, periods = _minutes(rule["windowSize"]), criterion["failingPeriods"]
    assert periods["numberOfEvaluationPeriods"] == periods["minFailingPeriodsToAlert"]
    if silent := re.fullmatch(r"summarize last = max\(TimeGenerated\) by (.+) \| where last < ago\((\d+)m\)", stages[0]):
        assert (silent[1], rule["overrideQueryTimeRange"]) == (dimensions, "P2D")
        assert (criterion["timeAggregation"], criterion["operator"], criterion["threshold"]) == ("Count", "GreaterThan", 0)
        return any(max(one.minute for one in series) < now - int(silent[2]) for series in _by_series(rows))
    column, by = re.fullmatch(r"project TimeGenerated, value = (Max|Sum), (.+)", stages[0]).groups()  # type: ignore[union-attr]
    assert (column, criterion["metricMeasureColumn"], by) == (
        "Sum" if criterion["timeAggregation"] == "Total" else "Max",
        "value",
        dimensions,
    )
    return any(_held(series, criterion, now, window) for series in _by_series(rows))


def _held(series: Sequence[Row], criterion: Mapping[str, Any], now: int, window: int) -> bool:
    breaches, worst = _COMPARE[criterion["operator"]], _WORST[criterion["timeAggregation"]]
    ends = [now - window * number for number in range(criterion["failingPeriods"]["numberOfEvaluationPeriods"])]
    parts = [[row.value for row in series if end - window < row.minute <= end] for end in ends]
    return all(part and breaches(worst(part), criterion["threshold"]) for part in parts)


def prometheus_fires(rule: Mapping[str, Any], recorded: Iterable[Row], now: int) -> bool:
    """Whether *rule* is firing at minute *now*: its expression has been true for so long. Rows have Prometheus' names."""
    rows = [row for row in recorded if row.minute <= now]
    moments = range(now - _minutes(rule["for"]), now + 1)
    if silent := _ABSENT.fullmatch(rule["expr"]):
        series = _by_series(row for row in rows if row.name == silent[1])
        return any(all(_was(one, at - 60 * int(silent[2])) and not _was(one, at) for at in moments) for one in series)
    told = re.fullmatch(r"(?:(\w+)|increase\((\w+)\[(\d+)m\]\)) ([<>]) (\S+)", rule["expr"])
    assert told is not None, rule["expr"]
    level, counter, window, compare, threshold = told.groups()
    found = _by_series(row for row in rows if row.name == (level or counter))
    span = int(window) if window else 1

    def breaches(series: Sequence[Row], at: int) -> bool:
        part = [row.value for row in series if at - span < row.minute <= at]
        return bool(part) and _COMPARE[compare](sum(part), float(threshold))

    return any(all(breaches(series, at) for at in moments) for series in found)


def _was(series: Sequence[Row], minute: int) -> bool:
    return any(row.minute == minute for row in series)


def _by_series(rows: Iterable[Row]) -> list[list[Row]]:
    found: dict[frozenset[tuple[str, str]], list[Row]] = {}
    for row in rows:
        found.setdefault(row.series, []).append(row)
    return list(found.values())


def _minutes(span: str) -> int:
    minutes = re.fullmatch(r"PT(\d+)M|(\d+)m", span)
    assert minutes is not None, span
    return int(minutes[1] or minutes[2])
