"""A Grafana dashboard over the Prometheus page, and Prometheus' own alert rules."""

from __future__ import annotations

from typing import Any

from federation.metrics import REGISTRY, Kind, Metric
from fedplane.monitoring.alerts import ALERTS, Alert

_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 24
_SUFFIX = {"s": "_seconds", "By": "_bytes"}
_FORMAT = {"s": "s", "By": "bytes", "1": "short"}


def prometheus_name(metric: Metric) -> str:
    """The name under which the OpenTelemetry exporter shows it."""
    name = metric.name.replace(".", "_")
    suffix = _SUFFIX.get(metric.unit, "")
    if not name.endswith(suffix):
        name += suffix
    return f"{name}_total" if metric.kind is Kind.COUNTER else name


def dashboard() -> dict[str, Any]:
    """One panel a metric, two in a row."""
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": metric.name,
            "description": metric.text,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {
                "x": number * _WIDTH % _COLUMNS,
                "y": number * _WIDTH // _COLUMNS * _HEIGHT,
                "w": _WIDTH,
                "h": _HEIGHT,
            },
            "fieldConfig": {"defaults": {"unit": _FORMAT.get(metric.unit, "short")}, "overrides": []},
            "targets": [{"refId": "A", "expr": _expression(metric), "legendFormat": _legend(metric)}],
        }
        for number, metric in enumerate(REGISTRY)
    ]
    datasource = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": "fedplane",
        "title": "fedplane",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [datasource]},
        "panels": panels,
    }


def _expression(metric: Metric) -> str:
    name, by = prometheus_name(metric), ", ".join(metric.dimensions)
    if metric.kind is Kind.COUNTER:
        return f"sum by ({by}) (rate({name}[5m]))"
    if metric.kind is Kind.HISTOGRAM:
        return f"histogram_quantile(0.99, sum by ({by}, le) (rate({name}_bucket[5m])))"
    return f"max by ({by}) ({name})"


def _legend(metric: Metric) -> str:
    return " ".join(f"{{{{{name}}}}}" for name in metric.dimensions)


def prometheus_rules() -> dict[str, Any]:
    """Rule file, as JSON (which is YAML)."""
    rules = [
        {
            "alert": alert.name,
            "expr": _alert_expression(alert),
            "for": f"{alert.window_minutes * alert.hold}m",
            "labels": {"severity": str(alert.severity)},
            "annotations": {"summary": alert.text, "runbook": f"docs/runbooks/{alert.name}.md"},
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "fedplane", "rules": rules}]}


def _alert_expression(alert: Alert) -> str:
    name = prometheus_name(alert.metric)
    if alert.absent:
        return f"absent({name}) or ({name} offset 1h unless {name})"
    if alert.below is not None:
        return f"{name} < {alert.below:g}"
    if alert.worst == "sum":
        return f"increase({name}[{alert.window_minutes}m]) > {alert.above:g}"
    return f"{name} > {alert.above:g}"
