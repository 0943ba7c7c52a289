"""Where metrics go: a Prometheus page, OTLP, Azure Monitor. Nothing is exported unless the settings name a place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from federation.errors import UsageError
from federation.metrics import METER, Instruments
from federation.settings import MetricsSettings, secret

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

FLUSH_SECONDS = 10.0


class Exporters:
    """The instruments, and the readers that send what they hold."""

    def __init__(self, readers: list[MetricReader]) -> None:
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - only where metrics are exported
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

        resource = Resource.create({"service.name": "fedplane"})
        self._provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self.instruments = Instruments(self._provider.get_meter(METER))

    def flush(self) -> bool:
        """Send now; False when a place did not take it in time. Blocking: call it in a thread."""
        return self._provider.force_flush(FLUSH_SECONDS * 1_000)

    def close(self) -> None:
        """Send once more and end."""
        self._provider.shutdown(FLUSH_SECONDS * 1_000)


@contextmanager
def exporting(settings: MetricsSettings) -> Iterator[Exporters | None]:
    """The exporters that the settings ask for; None when they ask for none. Raises UsageError."""
    try:
        readers = [*_prometheus(settings), *_otlp(settings), *_azure(settings)]
    except ImportError as error:
        raise UsageError(
            f"[metrics] names a place, but the package {error.name} that speaks to it is not installed. "
            "Install it: pip install 'fedplane[metrics]'",
            reason="metrics_packages",
        ) from None
    if not readers:
        yield None
        return
    exporters = Exporters(readers)
    try:
        yield exporters
    finally:
        exporters.close()


def _prometheus(settings: MetricsSettings) -> Iterator[MetricReader]:
    if not settings.prometheus_listen:
        return
    from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415
    from prometheus_client import start_http_server  # noqa: PLC0415

    host, _, port = settings.prometheus_listen.rpartition(":")
    reader = PrometheusMetricReader()
    try:
        start_http_server(int(port), host or "127.0.0.1")
    except OSError as error:
        raise UsageError(
            f"metrics.prometheus_listen = {settings.prometheus_listen!r} cannot be listened on: {error}. Choose another port.",
            reason="metrics_port",
        ) from None
    yield reader


def _otlp(settings: MetricsSettings) -> Iterator[MetricReader]:
    if not settings.otlp_endpoint:
        return
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415

    # Sent when told, each minute after the levels were read: a timer of its own would send old ones.
    yield PeriodicExportingMetricReader(OTLPMetricExporter(settings.otlp_endpoint, timeout=FLUSH_SECONDS), math.inf)


def _azure(settings: MetricsSettings) -> Iterator[MetricReader]:
    if not settings.azure_connection_string_env:
        return
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415
    from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415

    text = secret(settings.azure_connection_string_env, "metrics.azure_connection_string_env")
    options = {"credential": DefaultAzureCredential()} if settings.azure_entra else {}
    try:
        exporter = AzureMonitorMetricExporter(connection_string=text, disable_offline_storage=True, **options)
    except ValueError as error:
        raise UsageError(
            f"The variable {settings.azure_connection_string_env} (metrics.azure_connection_string_env) holds no connection "
            f"string of Application Insights: {error}. Copy it from the resource's overview page.",
            reason="metrics_connection_string",
        ) from None
    yield PeriodicExportingMetricReader(exporter, math.inf)
