"""Metrics on the wire: the Prometheus page, OTLP, and Application Insights' ingestion, each spoken to over real connections."""

from __future__ import annotations

import asyncio
import gzip
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from federation import metrics
from federation.errors import UsageError
from federation.settings import MetricsSettings
from fedplane.localstack.process import free_port
from fedplane.monitoring.grafana import prometheus_name
from operations.exporters import exporting

LAG = (metrics.LAG, 12.5, {"pair": "datasets", "direction": "blob_to_vast"})
KEY = "00000000-0000-0000-0000-000000000001"


class Place:
    """Takes what is posted; answers as told."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.statuses: list[int] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        """One post."""
        body = await request.read()
        self.bodies.append(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        status = self.statuses.pop(0) if self.statuses else 200
        count = self.bodies[-1].count(b'"ver"') or 1
        return web.json_response({"itemsReceived": count, "itemsAccepted": count, "errors": []}, status=status)


@asynccontextmanager
async def place(port: int = 0) -> AsyncIterator[Place]:
    """A server that takes everything, at *port*; 0: at any."""
    taken = Place()
    app = web.Application()
    app.router.add_post("/{path:.*}", taken.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    taken.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield taken
    finally:
        await runner.cleanup()


async def test_lag_arrives_at_application_insights_with_its_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The envelope holds name, value, pair and direction, and nothing that names an object."""
    async with place() as taken:
        monkeypatch.setenv("INSIGHTS", f"InstrumentationKey={KEY};IngestionEndpoint={taken.url}/")
        with exporting(MetricsSettings(azure_connection_string_env="INSIGHTS")) as exporters:
            assert exporters is not None
            exporters.instruments.hold([LAG])
            assert await asyncio.to_thread(exporters.flush)
        envelopes = [one for body in taken.bodies for one in _envelopes(body)]
        lags = [one["data"]["baseData"] for one in envelopes if one["data"]["baseType"] == "MetricData"]
        found = [(one["metrics"][0]["name"], one["metrics"][0]["value"], one["properties"]) for one in lags]
        assert ("federation.lag.seconds", 12.5, {"pair": "datasets", "direction": "blob_to_vast"}) in found


def _envelopes(body: bytes) -> list[dict[str, Any]]:
    text = body.decode()
    return json.loads(text) if text.startswith("[") else [json.loads(one) for one in text.splitlines() if one]


@pytest.mark.parametrize("status", [402, 439, 500, 503])
async def test_quota_and_outage_of_application_insights_do_no_harm(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """What was not taken is gone, and the next minute's is sent again."""
    async with place() as taken:
        taken.statuses = [status]
        monkeypatch.setenv("INSIGHTS", f"InstrumentationKey={KEY};IngestionEndpoint={taken.url}/")
        with exporting(MetricsSettings(azure_connection_string_env="INSIGHTS")) as exporters:
            assert exporters is not None
            for _ in range(2):
                exporters.instruments.hold([LAG])
                await asyncio.to_thread(exporters.flush)
        assert sum(b"federation.lag.seconds" in body for body in taken.bodies) >= 2


async def test_a_place_that_is_not_there_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens: the flush ends, and once somebody does what is sent then arrives."""
    port = free_port()
    monkeypatch.setenv("INSIGHTS", f"InstrumentationKey={KEY};IngestionEndpoint=http://127.0.0.1:{port}/")
    with exporting(MetricsSettings(azure_connection_string_env="INSIGHTS")) as exporters:
        assert exporters is not None
        exporters.instruments.hold([LAG])
        await asyncio.to_thread(exporters.flush)
        async with place(port) as taken:
            exporters.instruments.hold([LAG])
            await asyncio.to_thread(exporters.flush)
    assert any(b"federation.lag.seconds" in body for body in taken.bodies)


async def test_a_wrong_connection_string_is_told_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named; what is in it is a secret."""
    monkeypatch.setenv("INSIGHTS", "InstrumentationKey=not-a-key-but-a-secret")
    with pytest.raises(UsageError, match="INSIGHTS") as told, exporting(MetricsSettings(azure_connection_string_env="INSIGHTS")):
        pass
    assert "not-a-key" not in str(told.value)


async def test_lag_arrives_at_an_otlp_collector() -> None:
    """As OTLP over HTTP."""
    async with place() as taken:
        with exporting(MetricsSettings(otlp_endpoint=f"{taken.url}/v1/metrics")) as exporters:
            assert exporters is not None
            exporters.instruments.hold([LAG])
            assert await asyncio.to_thread(exporters.flush)
        names = {
            metric.name
            for body in taken.bodies
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        assert "federation.lag.seconds" in names


async def test_prometheus_reads_every_metric_under_the_name_that_the_dashboard_asks_for() -> None:
    """A panel over a name that is not there shows nothing, and nobody notices."""
    port = free_port()
    with exporting(MetricsSettings(prometheus_listen=f"127.0.0.1:{port}")) as exporters:
        assert exporters is not None
        named = [(one, 1.0, dict.fromkeys(one.dimensions, "x")) for one in metrics.REGISTRY]
        exporters.instruments.hold([point for point in named if point[0].kind is metrics.Kind.GAUGE])
        exporters.instruments.count([point for point in named if point[0].kind is metrics.Kind.COUNTER])
        exporters.instruments.distribute((metrics.APPLY_DELAY, 1.0, {"pair": "x", "direction": "x"}))
        page = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
        series = {line.partition("{")[0] for line in page.splitlines() if not line.startswith("#")}
        for one in metrics.REGISTRY:
            name = prometheus_name(one)
            assert name in series or f"{name}_bucket" in series, name
        with (
            pytest.raises(UsageError, match="prometheus_listen"),
            exporting(MetricsSettings(prometheus_listen=f"127.0.0.1:{port}")),
        ):
            pass


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own page
        return str(answer.read().decode())
