"""Azure Monitor's side of it: alert rules and a workbook, as ARM templates (facts/azure.md 6)."""

from __future__ import annotations

import json
import uuid
from typing import Any

from federation import metrics
from federation.metrics import Kind, Metric
from fedplane.monitoring.alerts import ALERTS, Alert, query

_SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
_RUNBOOKS = "docs/runbooks"
_WORKBOOK_ID = str(uuid.uuid5(uuid.NAMESPACE_URL, "fedplane/workbook"))


def alert_rules() -> dict[str, Any]:
    """One scheduled query rule an alert, over the workspace, with the action group given at deployment."""
    parameters = {
        "workspaceId": {"type": "string", "metadata": {"description": "Resource id of the Log Analytics workspace."}},
        "actionGroupId": {"type": "string", "metadata": {"description": "Resource id of the action group that is told."}},
        "location": {"type": "string", "defaultValue": "[resourceGroup().location]"},
        "namePrefix": {"type": "string", "defaultValue": "fedplane"},
    }
    return _template(parameters, [_rule(alert) for alert in ALERTS])


def _rule(alert: Alert) -> dict[str, Any]:
    criterion: dict[str, Any] = {
        "query": query(alert),
        **_condition(alert),
        "failingPeriods": {"numberOfEvaluationPeriods": alert.hold, "minFailingPeriodsToAlert": alert.hold},
        "dimensions": [{"name": name, "operator": "Include", "values": ["*"]} for name in alert.metric.dimensions],
    }
    # Who fell silent can only be told from who spoke before.
    override = {"overrideQueryTimeRange": "P2D"} if alert.absent else {}
    return {
        "type": "Microsoft.Insights/scheduledQueryRules",
        "apiVersion": "2023-12-01",
        "name": f"[concat(parameters('namePrefix'), '-{alert.name}')]",
        "location": "[parameters('location')]",
        "properties": {
            "displayName": f"fedplane: {alert.name}",
            "description": f"{alert.text} Runbook: {_RUNBOOKS}/{alert.name}.md",
            "severity": alert.severity,
            "enabled": True,
            "autoMitigate": True,
            "scopes": ["[parameters('workspaceId')]"],
            "evaluationFrequency": "PT5M",
            "windowSize": f"PT{alert.window_minutes}M",
            **override,
            "criteria": {"allOf": [criterion]},
            "actions": {"actionGroups": ["[parameters('actionGroupId')]"]},
        },
    }


def _condition(alert: Alert) -> dict[str, Any]:
    if alert.absent:
        return {"timeAggregation": "Count", "operator": "GreaterThan", "threshold": 0}
    worst = {"timeAggregation": "Total" if alert.worst == "sum" else "Maximum", "metricMeasureColumn": "value"}
    if alert.below is not None:
        return worst | {"operator": "LessThan", "threshold": alert.below}
    return worst | {"operator": "GreaterThan", "threshold": alert.above}


def workbook() -> dict[str, Any]:
    """A chart for every metric, the lag first."""
    parameters = {
        "workspaceId": {"type": "string"},
        "location": {"type": "string", "defaultValue": "[resourceGroup().location]"},
    }
    intro = "## fedplane\nLag first. *lag.unknown* at 1 means that the lag is not known, not that it is zero."
    items: list[dict[str, Any]] = [{"type": 1, "name": "intro", "content": {"json": intro}}]
    items += [_chart(metric) for metric in metrics.REGISTRY]
    content = {"version": "Notebook/1.0", "items": items, "fallbackResourceIds": ["[parameters('workspaceId')]"]}
    resource = {
        "type": "Microsoft.Insights/workbooks",
        "apiVersion": "2023-06-01",
        "name": _WORKBOOK_ID,
        "location": "[parameters('location')]",
        "kind": "shared",
        "properties": {
            "displayName": "fedplane",
            "category": "workbook",
            "version": "1.0",
            "sourceId": "[parameters('workspaceId')]",
            "serializedData": json.dumps(content),
        },
    }
    return _template(parameters, [resource])


def _chart(metric: Metric) -> dict[str, Any]:
    by = ", ".join(f"{name} = tostring(Properties.{name})" for name in metric.dimensions)
    value = {Kind.GAUGE: "max(Max)", Kind.COUNTER: "sum(Sum)", Kind.HISTOGRAM: "sum(Sum) / sum(ItemCount)"}[metric.kind]
    text = f"AppMetrics | where Name == '{metric.name}' | summarize value = {value} by bin(TimeGenerated, 5m), {by}"
    return {
        "type": 3,
        "name": metric.name,
        "content": {
            "version": "KqlItem/1.0",
            "title": f"{metric.name} ({metric.unit}): {metric.text}",
            "query": f"{text} | render timechart",
            "size": 1,
            "queryType": 0,
            "resourceType": "microsoft.operationalinsights/workspaces",
            "crossComponentResources": ["[parameters('workspaceId')]"],
        },
    }


def _template(parameters: dict[str, Any], resources: list[dict[str, Any]]) -> dict[str, Any]:
    return {"$schema": _SCHEMA, "contentVersion": "1.0.0.0", "parameters": parameters, "resources": resources}
