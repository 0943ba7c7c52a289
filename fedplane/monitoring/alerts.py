"""When a person is woken: conditions over the metrics of the registry, as data. Queries and rules are made from these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from federation import metrics
from federation.metrics import Metric

Worst = Literal["max", "sum"]


@dataclass(frozen=True, slots=True)
class Alert:
    """Fires when the worst value of *metric* in *window_minutes* is above *above*, for any one combination of its dimensions.

    With ``absent``: when the metric did not come at all. ``hold`` windows must breach. ``severity``: 0 most urgent, 4 least.
    """

    name: str
    metric: Metric
    severity: int
    window_minutes: int
    text: str
    above: float = 0.0
    below: float | None = None
    """Instead of *above*: fires when even the best value is less."""
    worst: Worst = "max"
    hold: int = 1
    absent: bool = False


ALERTS: tuple[Alert, ...] = (
    Alert("lag-over-slo", metrics.LAG, 2, 5, "A direction is further behind than its objective.", above=300.0, hold=2),
    Alert("lag-unknown", metrics.LAG_UNKNOWN, 2, 15, "The lag cannot be known: something is away.", hold=2),
    Alert("metrics-absent", metrics.LAG_UNKNOWN, 1, 10, "Nothing reports: no process runs, or its state is away.", absent=True),
    Alert("pair-halted", metrics.HALTS, 1, 5, "A pair stands still until somebody acts."),
    Alert("deletes-held", metrics.HELD, 2, 5, "Deletes wait for a person: a mass delete, or a broken job on one side."),
    Alert("parked-growing", metrics.PARKED, 3, 30, "Keys pile up that need a person or a change of their own.", above=100.0),
    Alert("conflicts-burst", metrics.CONFLICTS, 3, 30, "Both sides write the same keys.", above=100.0),
    Alert("scan-overdue", metrics.SCAN_AGE, 2, 30, "No whole scan for long: lost events stay unnoticed.", above=2 * 86_400.0),
    Alert("converged-too-old", metrics.CONVERGED_AGE, 2, 30, "Long ago both sides were known equal.", above=2 * 86_400.0),
    Alert("dead-letters", metrics.DEAD_LETTERS, 3, 15, "Events could not be read; what they told of may be missed until a scan."),
    Alert("side-away", metrics.SIDE_ANSWERS, 2, 10, "A side does not answer.", below=1.0),
    Alert("canary-overdue", metrics.CANARY_AGE, 2, 15, "VAST's events do not come through.", above=1_800.0),
    Alert("throttled", metrics.THROTTLES, 3, 15, "A side keeps asking us to slow down.", above=1_000.0, worst="sum"),
)  # fmt: skip


def query(alert: Alert) -> str:
    """What the rule looks at, as Kusto over the ``AppMetrics`` table of the workspace behind Application Insights.

    Rows with their own times, so that Azure Monitor itself cuts them into windows; which value is too much is said by the rule
    (``azure.alert_rules``). Only who fell silent is told by the query: the rule looks at nothing but rows.
    """
    dimensions = ", ".join(f"{name} = tostring(Properties.{name})" for name in alert.metric.dimensions)
    named = f"AppMetrics | where Name == '{alert.metric.name}'"
    if alert.absent:
        return f"{named} | summarize last = max(TimeGenerated) by {dimensions} | where last < ago({alert.window_minutes}m)"
    return f"{named} | project TimeGenerated, value = {'Sum' if alert.worst == 'sum' else 'Max'}, {dimensions}"
