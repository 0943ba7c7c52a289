"""The shapes that Azure Resource Manager, the workbook viewer and Grafana read, as far as ours go; anything else is refused.

Of ``Microsoft.Insights/scheduledQueryRules`` 2023-12-01 and ``workbooks`` 2023-06-01 (facts/azure.md 6), of workbook content
``Notebook/1.0``, and of Grafana's dashboards of schema version 39.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1)]
Span = Literal["PT1M", "PT5M", "PT10M", "PT15M", "PT30M", "PT45M", "PT1H", "PT2H", "PT3H", "PT4H", "PT5H", "PT6H", "P1D", "P2D"]
Guid = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Reference = Annotated[str, Meta(pattern=r"^\[(parameters\('\w+'\)|resourceGroup\(\)\.location)\]$")]
Kusto = Annotated[str, Meta(pattern=r"^AppMetrics \| where Name == 'federation\.[a-z_.]+' \| ")]


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Refuses what it does not know."""


class Dimension(Strict):
    """What splits a rule into series."""

    name: Text
    operator: Literal["Include", "Exclude"]
    values: Annotated[list[str], Meta(min_length=1)]


class Failing(Strict):
    """How many windows must breach."""

    number_of_evaluation_periods: Annotated[int, Meta(ge=1, le=6)]
    min_failing_periods_to_alert: Annotated[int, Meta(ge=1, le=6)]


class Criterion(Strict):
    """One condition."""

    query: Kusto
    time_aggregation: Literal["Average", "Count", "Maximum", "Minimum", "Total"]
    operator: Literal["Equals", "GreaterThan", "GreaterThanOrEqual", "LessThan", "LessThanOrEqual"]
    threshold: float
    failing_periods: Failing
    dimensions: Annotated[list[Dimension], Meta(max_length=6)]
    metric_measure_column: Text | None = None


class Criteria(Strict):
    """All conditions of a rule."""

    all_of: Annotated[list[Criterion], Meta(min_length=1, max_length=1)]


class Actions(Strict):
    """Who is told."""

    action_groups: Annotated[list[Reference], Meta(min_length=1)]


class RuleProperties(Strict):
    """A rule."""

    display_name: Text
    description: Text
    severity: Annotated[int, Meta(ge=0, le=4)]
    enabled: bool
    auto_mitigate: bool
    scopes: Annotated[list[Reference], Meta(min_length=1, max_length=1)]
    evaluation_frequency: Span
    window_size: Span
    criteria: Criteria
    actions: Actions
    override_query_time_range: Span | None = None


class Rule(Strict):
    """Its resource."""

    type: Literal["Microsoft.Insights/scheduledQueryRules"]
    api_version: Literal["2023-12-01"]
    name: Annotated[str, Meta(pattern=r"^\[concat\(parameters\('namePrefix'\), '[a-z-]+'\)\]$")]
    location: Reference
    properties: RuleProperties


class Parameter(Strict):
    """What is given at deployment."""

    type: Literal["string"]
    default_value: str | None = None
    metadata: dict[Literal["description"], str] = {}


class RuleTemplate(Strict):
    """``alerts.json``."""

    schema: str = msgspec.field(name="$schema")
    content_version: Literal["1.0.0.0"]
    parameters: dict[str, Parameter]
    resources: Annotated[list[Rule], Meta(min_length=1)]


class WorkbookProperties(Strict):
    """A workbook."""

    display_name: Text
    category: Literal["workbook"]
    version: str
    source_id: Reference
    serialized_data: msgspec.Raw


class Workbook(Strict):
    """Its resource."""

    type: Literal["Microsoft.Insights/workbooks"]
    api_version: Literal["2023-06-01"]
    name: Guid
    location: Reference
    kind: Literal["shared"]
    properties: WorkbookProperties


class WorkbookTemplate(Strict):
    """``workbook.json``."""

    schema: str = msgspec.field(name="$schema")
    content_version: Literal["1.0.0.0"]
    parameters: dict[str, Parameter]
    resources: Annotated[list[Workbook], Meta(min_length=1, max_length=1)]


class TextContent(Strict):
    """A paragraph in Markdown."""

    json: Text


class TextItem(Strict, tag_field="type", tag=1):
    """The item that holds it."""

    name: Text
    content: TextContent


class QueryContent(Strict):
    """A chart; ``size`` 1 is medium, ``queryType`` 0 is Logs."""

    version: Literal["KqlItem/1.0"]
    title: Text
    query: Kusto
    size: Literal[0, 1, 2, 3, 4]
    query_type: Literal[0]
    resource_type: Literal["microsoft.operationalinsights/workspaces"]
    cross_component_resources: Annotated[list[Reference], Meta(min_length=1)]


class QueryItem(Strict, tag_field="type", tag=3):
    """The item that holds it."""

    name: Text
    content: QueryContent


class Notebook(Strict):
    """What ``serializedData`` holds, as a string."""

    version: Literal["Notebook/1.0"]
    items: Annotated[list[TextItem | QueryItem], Meta(min_length=1)]
    fallback_resource_ids: list[Reference]


class Place(Strict):
    """Of a panel, on a grid 24 wide."""

    x: Annotated[int, Meta(ge=0, le=23)]
    y: Annotated[int, Meta(ge=0)]
    w: Annotated[int, Meta(ge=1, le=24)]
    h: Annotated[int, Meta(ge=1)]


class Target(Strict):
    """A query of Prometheus."""

    ref_id: Text
    expr: Text
    legend_format: str


class Panel(Strict):
    """A chart."""

    id: Annotated[int, Meta(ge=1)]
    type: Literal["timeseries"]
    title: Text
    description: Text
    datasource: dict[Literal["type", "uid"], str]
    grid_pos: Place
    field_config: dict[Literal["defaults", "overrides"], Any]
    targets: Annotated[list[Target], Meta(min_length=1)]


class Variable(Strict):
    """What the reader chooses."""

    name: Text
    type: Literal["datasource"]
    query: Text
    label: str


class Dashboard(Strict):
    """``grafana.json``."""

    uid: Annotated[str, Meta(max_length=40)]
    title: Text
    schema_version: Literal[39]
    time: dict[Literal["from", "to"], str]
    refresh: str
    templating: dict[Literal["list"], list[Variable]]
    panels: list[Panel]
