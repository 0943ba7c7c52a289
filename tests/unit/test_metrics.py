"""What metrics say, and what is made from their registry."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest
import typer
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from federation import metrics
from federation.errors import RetryLater
from federation.metrics import Kind
from federation.model import Side
from federation.state.memory_state import MemoryState
from federation.sync.stats import DecisionLine
from fedplane.cli import app
from fedplane.monitoring import azure, generate, grafana
from fedplane.monitoring.alerts import ALERTS, Alert
from operations.exporters import Exporters
from operations.heartbeat import SideHealth
from operations.publish import EVERY_SECONDS, Publisher, counters, gauges, publish
from tests.unit import monitor_schema as schema
from tests.unit.test_status import NOW, Known, StillClock, beat, change, settings, status

ROOT = Path(__file__).parents[2]


def sent(reader: InMemoryMetricReader) -> dict[tuple[str, str], float]:
    """What an exporter would get: by metric and the values of its dimensions, joined."""
    found = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else []:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = point.value if hasattr(point, "value") else point.sum
                    found[metric.name, " ".join(str(one) for one in (point.attributes or {}).values())] = value
    return found


async def test_levels_say_what_the_status_says() -> None:
    """Lag by direction, backlog and the ages, in seconds."""
    found = {(metric.name, " ".join(dimensions.values())): value for metric, value, dimensions in gauges(await status(Known(
        changes=[change("a", Side.BLOB, 5), change("b", Side.BLOB, 9), change("c", Side.VAST, 2.5)]
    )))}  # fmt: skip
    assert found["federation.lag.seconds", "p blob_to_vast"] == 9.0
    assert found["federation.lag.seconds", "p vast_to_blob"] == 2.5
    assert found["federation.lag.unknown", "p blob_to_vast"] == 0.0
    assert found["federation.backlog", "p blob_to_vast"] == 2
    assert found["federation.scan.age.seconds", "p"] == 600
    assert found["federation.source.age.seconds", "p vast_events"] == 300
    assert found["federation.side.answers", "p blob"] == 1.0
    assert found["federation.processes", "p"] == 1


async def test_a_side_that_is_left_alone_shows() -> None:
    """Told by any process: its breaker is open, so that side's changes wait although it may answer others."""
    healths = {Side.BLOB: SideHealth(answers=True), Side.VAST: SideHealth(answers=False, left_alone=True)}
    known = Known(beats=[beat(), beat(sides=healths)])
    found = {
        dimensions["side"]: value for metric, value, dimensions in gauges(await status(known)) if metric is metrics.SIDE_BREAKER
    }
    assert found == {"blob": 0.0, "vast": 1.0}


async def test_an_unknown_lag_is_no_number() -> None:
    """Rule 9: while no process works, the lag metric stops and lag.unknown is 1; what is known at least is still said."""
    known = Known(beats=[], whole=None, last=None, changes=[change("a", Side.BLOB, 9)])
    found = [(metric, value) for metric, value, _ in gauges(await status(known))]
    assert metrics.LAG not in [metric for metric, _ in found]
    assert metrics.CONVERGED_AGE not in [metric for metric, _ in found]
    assert metrics.SCAN_AGE not in [metric for metric, _ in found]
    assert [value for metric, value in found if metric is metrics.LAG_UNKNOWN] == [1.0, 1.0]
    assert max(value for metric, value in found if metric is metrics.LAG_AT_LEAST) == 9.0


def test_counters_are_what_came_on_top() -> None:
    """Heartbeats hold totals; a metric gets the difference, and never less than nothing after a restart."""
    before = beat(
        sources={"vast_events": {"marked": 5, "echoes": 1, "newest_us": 3}},
        worker={"requests_by_side": {"vast": 10, "blob": 2}, "outcomes": {"settled": 4}},
    )
    throttled = dict.fromkeys(Side, SideHealth(answers=True, throttles=2, race_windows=3))
    now = beat(
        sources={"vast_events": {"marked": 9, "echoes": 1, "refused_foreign_bucket": 2, "newest_us": 8}},
        worker={"requests_by_side": {"vast": 4, "blob": 5}, "outcomes": {"settled": 6}},
        sides=throttled,
    )
    found = {(metric.name, *dimensions.values()): value for metric, value, dimensions in counters("p", now, before)}
    assert found["federation.events", "p", "vast_events", "marked"] == 4
    assert found["federation.events", "p", "vast_events", "refused_foreign_bucket"] == 2
    assert (found["federation.requests", "p", "vast"], found["federation.requests", "p", "blob"]) == (0, 3)
    assert found["federation.outcomes", "p", "settled"] == 2
    assert (found["federation.throttles", "p", "vast"], found["federation.race_windows", "p", "vast"]) == (2, 3)
    assert not [name for name in found if "newest_us" in name]


async def test_one_process_sends_the_levels_and_every_one_its_counts() -> None:
    """Two processes that both sent gauges would disagree; an idle pair is heard of all the same."""
    state = MemoryState("p", shards=1, clock=StillClock())
    await state.own("publish metrics", owner="another", ttl_seconds=60)
    reader = InMemoryMetricReader()
    exporters = Exporters([reader])
    publisher = Publisher(exporters.instruments, state, settings(), StillClock())
    assert await publisher.levels() == []
    await state.disown("publish metrics", owner="another")
    exporters.instruments.hold(await publisher.levels())
    publisher.count(beat(worker={"requests_by_side": {"blob": 3}}))
    publisher.line(line(source="blob", delay=1.5))
    publisher.line(line(source="", delay=None))
    found = sent(reader)
    assert found["federation.lag.unknown", "p blob_to_vast"] == 1.0
    assert found["federation.requests", "p blob"] == 3
    assert found["federation.apply.delay", "p blob_to_vast"] == 1.5
    exporters.instruments.hold([])
    assert ("federation.lag.unknown", "p blob_to_vast") not in sent(reader)


def line(*, source: str, delay: float | None) -> DecisionLine:
    """A finished pass over a key whose name no metric may hold."""
    return DecisionLine("secret/name.txt", "copy", "changed", source, "settled", 2, 5, 5, 0.1, delay, 0, "event_grid", NOW)


class TwoRounds(StillClock):
    """Ends the publishing when it sleeps for the second time."""

    naps = 0

    async def sleep(self, seconds: float) -> None:
        """A minute, twice."""
        assert seconds == EVERY_SECONDS
        self.naps += 1
        if self.naps == 2:
            raise asyncio.CancelledError


async def test_a_state_that_is_away_sends_nothing_and_stops_nothing() -> None:
    """The alert on absence is what tells; the next minute is tried again."""

    class Away(MemoryState):
        async def own(self, task: str, *, owner: str, ttl_seconds: float) -> bool:
            raise RetryLater(f"no {task} for {owner} within {ttl_seconds} s")

    reader, clock = InMemoryMetricReader(), TwoRounds()
    exporters = Exporters([reader])
    publisher = Publisher(exporters.instruments, Away("p", shards=1, clock=clock), settings(), clock)
    with pytest.raises(asyncio.CancelledError):
        await publish([(publisher, lambda: None)], exporters, clock)
    assert clock.naps == 2
    assert sent(reader) == {}


def test_a_dimension_that_the_registry_does_not_know_is_refused() -> None:
    """So no name of an object gets in by mistake (rule 10)."""
    instruments = Exporters([InMemoryMetricReader()]).instruments
    with pytest.raises(KeyError, match="parked has the dimensions"):
        instruments.hold([(metrics.PARKED, 1, {"pair": "p", "key": "a.txt"})])
    assert {name for one in metrics.REGISTRY for name in one.dimensions} == {
        "pair", "direction", "side", "source", "kind", "result", "outcome",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ made from it


def test_the_made_files_are_those_in_the_repository() -> None:
    """Page, alerts, workbook and dashboard cannot drift from the code: ``make docs`` renews them."""
    for name, text in generate.files().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, name


@pytest.mark.parametrize("alert", ALERTS, ids=lambda one: one.name)
def test_every_alert_has_its_runbook(alert: Alert) -> None:
    """Who is woken finds what it means, where to look, what to type, how to mend it and whom to call."""
    text = (ROOT / "docs" / "runbooks" / f"{alert.name}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Meaning", "First look", "Commands", "Fix", "Escalation"]
    assert f"`{alert.metric.name}`" in text


def test_the_runbooks_commands_exist() -> None:
    """Whoever is woken at night types what is written there."""
    root = typer.main.get_command(app)
    known = set()
    for page in sorted((ROOT / "docs" / "runbooks").glob("*.md")):
        for typed in re.findall(r"^fedplane ([^#\n]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            words, command = typed.split(), root
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
            options = {name for one in command.params for name in one.opts}
            assert command is not root, f"{page.name}: fedplane {typed}"
            assert {word for word in words if word.startswith("-")} <= options, f"{page.name}: fedplane {typed}"
            known.add(command.name)
    assert {"status", "explain", "doctor", "lift", "reconcile"} <= known


def test_queries_name_metrics_and_dimensions_as_they_are_exported() -> None:
    """A rule over a name that nobody sends never fires."""
    for rule, alert in zip(azure.alert_rules()["resources"], ALERTS, strict=True):
        [criterion] = rule["properties"]["criteria"]["allOf"]
        assert f"Name == '{alert.metric.name}'" in criterion["query"]
        assert {one["name"] for one in criterion["dimensions"]} == set(alert.metric.dimensions)
        for name in alert.metric.dimensions:
            assert f"{name} = tostring(Properties.{name})" in criterion["query"]
    assert {alert.metric.kind for alert in ALERTS} <= {Kind.GAUGE, Kind.COUNTER}


def test_the_workbook_holds_a_chart_for_every_metric() -> None:
    """None is forgotten, and its content is the JSON that the portal reads."""
    [resource] = azure.workbook()["resources"]
    items = msgspec.json.decode(resource["properties"]["serializedData"])["items"]
    assert [item["name"] for item in items[1:]] == [one.name for one in metrics.REGISTRY]
    assert re.fullmatch(r"[0-9a-f-]{36}", resource["name"])
    assert len(grafana.dashboard()["panels"]) == len(metrics.REGISTRY)


def _made(name: str) -> bytes:
    return (ROOT / "infra" / "monitor" / name).read_bytes()


def test_rules_workbook_and_dashboard_are_of_the_shapes_that_are_read() -> None:
    """By schemas that refuse what they do not know: a misspelt field or a window that Azure does not offer."""
    rules = msgspec.json.decode(_made("alerts.json"), type=schema.RuleTemplate)
    assert {one.properties.override_query_time_range for one in rules.resources} == {None, "P2D"}
    [workbook] = msgspec.json.decode(_made("workbook.json"), type=schema.WorkbookTemplate).resources
    content = msgspec.json.decode(msgspec.json.decode(workbook.properties.serialized_data, type=str), type=schema.Notebook)
    assert len(content.items) == len(metrics.REGISTRY) + 1
    dashboard = msgspec.json.decode(_made("grafana.json"), type=schema.Dashboard)
    assert len({one.id for one in dashboard.panels}) == len({(one.grid_pos.x, one.grid_pos.y) for one in dashboard.panels})
    assert {panel.datasource["uid"] for panel in dashboard.panels} == {f"${{{dashboard.templating['list'][0].name}}}"}


@pytest.mark.parametrize(("text", "wrong"), [("PT15M", "PT20M"), ('"autoMitigate"', '"autoMitigates"'), ("Maximum", "Max")])
def test_the_schema_of_rules_refuses_what_azure_would(text: str, wrong: str) -> None:
    """Else it would prove nothing."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(_made("alerts.json").decode().replace(text, wrong), type=schema.RuleTemplate)
