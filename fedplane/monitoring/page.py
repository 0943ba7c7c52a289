"""docs/metrics.md, printed from the registry so that it cannot drift."""

from __future__ import annotations

from federation.metrics import DELAY_BOUNDS_SECONDS, REGISTRY

_HEAD = """# Metrics

Printed by `make docs` from `federation/metrics.py`; a test fails when this page and the code differ.

Set a place in the `[metrics]` section: `prometheus_listen = "127.0.0.1:9464"`, `otlp_endpoint`, or
`azure_connection_string_env` (with `azure_entra = true`
where local authentication is switched off; the identity then needs *Monitoring Metrics Publisher*).

- Gauges of a pair are sent by one of its processes, each minute, also when nothing happens: **absence is an alarm**.
  Which one is kept in the pair's state.
- What is unknown is not sent as a number: `federation.lag.seconds` stops and `federation.lag.unknown` is 1. Alert on
  both.
- Counters and the histogram are sent by every process for itself; add them up.
- No dimension holds the name of an object. In Application Insights switch on *custom metrics with dimensions*, or
  alerts cannot split by pair.

Alerts for Azure Monitor and Prometheus, a workbook and a Grafana dashboard are made from the same list into
`infra/monitor/`; each alert has its page in
[runbooks](runbooks).

| metric | kind | unit | dimensions | meaning |
|---|---|---|---|---|
"""


def document() -> str:
    """The page."""
    rows = [f"| `{one.name}` | {one.kind} | {one.unit} | {', '.join(one.dimensions)} | {one.text} |" for one in REGISTRY]
    bounds = ", ".join(f"{bound:g}" for bound in DELAY_BOUNDS_SECONDS)
    tail = f"Bounds of the histogram in seconds: {bounds}. Azure Monitor keeps sum, count, least and most of it only."
    return f"{_HEAD}{chr(10).join(rows)}\n\n{tail}\n"
