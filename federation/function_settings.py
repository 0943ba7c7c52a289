"""Settings of the Azure Functions app (docs/functions.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

QueueName = Annotated[str, Field(pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$")]
"""What Azure allows for the name of a Storage Queue."""
MOST_SECONDS = 540
"""The host ends a worker, with all that runs in it, ``functionTimeout`` (host.json) after one of its functions began."""
Seconds = Annotated[float, Field(gt=0, le=MOST_SECONDS)]


class FunctionSettings(BaseModel):
    """How the pairs are worked on where no process lives on. Nothing of it matters to ``fedplane run``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue_connection: str = "AzureWebJobsStorage"
    """App setting that holds a connection string of the account of the next two queues, or, with ``__queueServiceUri`` or
    ``__accountName`` behind it, says where they are: then the app's identity is used."""
    doorbell_queue: QueueName = "fedplane-doorbell"
    reconcile_queue: QueueName = "fedplane-reconcile"
    event_connection: str = "FEDERATION_QUEUE"
    """The same for the queues that Event Grid fills, of pairs that name no ``connection_string_env``."""
    event_grid: bool = False
    """Whether Event Grid delivers to the function ``event_grid`` itself, without a queue between."""
    vast_events: Literal["timer", "kafka_trigger"] = "timer"
    """Who reads the topics: a function, for ``reading_seconds`` at a time, or the host, as a member of the group ``group_id``."""
    drain_seconds: Annotated[float, Field(gt=0, le=15)] = 10.0
    """How long an invocation that marked works on what it marked; Event Grid waits 30 s for it."""
    doorbell_seconds: Seconds = 120.0
    reading_seconds: Seconds = 270.0
    """How long one invocation reads a topic, or at most the change feed."""
    scan_seconds: Seconds = 240.0
    """How long one invocation scans; another goes on from there."""
