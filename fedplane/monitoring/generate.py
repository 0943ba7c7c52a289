"""Write what is made from the registry of metrics: ``python -m fedplane.monitoring.generate ROOT``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fedplane.monitoring import azure, grafana, page


def files() -> dict[str, str]:
    """Path from the project's root to content."""
    made = {
        "infra/monitor/alerts.json": azure.alert_rules(),
        "infra/monitor/workbook.json": azure.workbook(),
        "infra/monitor/grafana.json": grafana.dashboard(),
        "infra/monitor/prometheus-rules.json": grafana.prometheus_rules(),
    }
    return {path: json.dumps(content, indent=2) + "\n" for path, content in made.items()} | {"docs/metrics.md": page.document()}


if __name__ == "__main__":
    for name, text in files().items():
        Path(sys.argv[1], name).write_text(text, encoding="utf-8")
