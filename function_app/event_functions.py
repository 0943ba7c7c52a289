"""Functions that hear of changes. They mark, and what was marked is worked on before they end if its shard is free."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, List  # noqa: UP035 - as vast_records says

import azure.functions as func

from federation.settings import PairSettings, Settings

if TYPE_CHECKING:
    from function_app.pair import FunctionPair

PUSH_SECONDS = 25.0
"""Event Grid waits 30 s, and sends again what failed (facts/azure.md 1.4)."""
OFTEN = "*/5 * * * * *"
"""A timer whose run outlasts its period is started again after it ended (facts/azure.md 5.1): so a reader is soon back."""
EACH_MINUTE = "40 * * * * *"


def blueprint(settings: Settings) -> func.Blueprint:
    """Those whose sources the settings name."""
    made = func.Blueprint()  # type: ignore[no-untyped-call]
    with_queue = [pair for pair in settings.pair if pair.blob.events.queue_url]
    for pair in with_queue:
        events = pair.blob.events
        name = "event_grid_queue" if len(with_queue) == 1 else f"event_grid_queue_{pair.name}"
        connection = events.connection_string_env or settings.functions.event_connection
        queue = events.queue_url.rstrip("/").rpartition("/")[2]
        made.function_name(name)(made.queue_trigger("message", queue, connection)(event_grid_queue))
    if settings.functions.event_grid:
        made.function_name("event_grid")(made.event_grid_trigger("event")(event_grid))
    if any(pair.blob.events.namespace_endpoint for pair in settings.pair):
        made.function_name("event_grid_pull")(made.timer_trigger("timer", OFTEN, use_monitor=False)(event_grid_pull))
    if any(pair.blob.change_feed.enabled for pair in settings.pair):
        made.function_name("change_feed")(made.timer_trigger("timer", EACH_MINUTE)(change_feed))
    if settings.functions.vast_events == "kafka_trigger":
        _topics(made, settings)
    elif any(pair.vast.events.bootstrap for pair in settings.pair):
        made.function_name("vast_events")(made.timer_trigger("timer", OFTEN, use_monitor=False)(vast_events))
    return made


def _topics(made: func.Blueprint, settings: Settings) -> None:
    """A function for each topic that the host reads. A batch that fails is tried again for as long as its instance lives."""
    topics: dict[tuple[frozenset[str], str], list[PairSettings]] = {}
    for pair in settings.pair:
        if pair.vast.events.bootstrap:
            place = frozenset(map(str.lower, pair.vast.events.bootstrap)), pair.vast.events.topic
            topics.setdefault(place, []).append(pair)
    for pairs in topics.values():
        first = pairs[0]
        events = first.vast.events
        trigger = made.kafka_trigger(
            "records",
            events.topic,
            ",".join(events.bootstrap),
            consumer_group=events.group_id.replace("{pair}", first.name) or f"fedplane-{first.name}",
            protocol=events.security_protocol.replace("_", ""),
            authentication_mode="PLAIN" if events.sasl_username_env else "NOTSET",
            username=f"%{events.sasl_username_env}%" if events.sasl_username_env else None,
            password=f"%{events.sasl_password_env}%" if events.sasl_password_env else None,
            ssl_ca_location=events.ca_file or None,
            cardinality="MANY",
            data_type="BINARY",
        )
        retry = made.retry("fixed_delay", "-1", "00:00:05")
        name = "vast_events" if len(topics) == 1 else f"vast_events_{first.name}"
        made.function_name(name)(retry(trigger(_records_for(frozenset(pair.name for pair in pairs)))))


def _records_for(pairs: frozenset[str]) -> Callable[[list[func.KafkaEvent]], Awaitable[None]]:
    """The function of a topic: its records are news for *pairs*, whose topic it is."""

    async def vast_records(records: List[func.KafkaEvent]) -> None:  # noqa: UP006 - the worker takes no other list
        """Mark what VAST's records name, read by the host."""
        from function_app.process import PROCESS  # noqa: PLC0415 - imported in the first invocation (triggers.py)
        from function_app.topic import take_records  # noqa: PLC0415

        async with PROCESS.work(PROCESS.config.functions.drain_seconds):
            await take_records(PROCESS, records, pairs)

    return vast_records


async def event_grid_queue(message: func.QueueMessage) -> None:
    """Mark what one message of Event Grid names. A failure leaves it in the queue, to come back (host.json, queues)."""
    from function_app.process import PROCESS  # noqa: PLC0415 - imported in the first invocation (triggers.py)

    async with PROCESS.work(PROCESS.config.functions.drain_seconds):
        await PROCESS.take_message(message.get_body())


async def event_grid(event: func.EventGridEvent) -> None:
    """Mark what one event names, of either schema. A failure makes Event Grid send it again, as its subscription says."""
    from function_app.process import PROCESS  # noqa: PLC0415 - as above

    async with PROCESS.work(PROCESS.config.functions.drain_seconds, within_seconds=PUSH_SECONDS):
        await PROCESS.take_message(_event_json(event))


async def event_grid_pull(timer: func.TimerRequest) -> None:
    """Receive what the namespaces hold for as long as one invocation may."""
    from function_app.readers import read_namespace  # noqa: PLC0415 - as above

    del timer
    await _read(lambda pair: bool(pair.blob.events.namespace_endpoint), read_namespace)


async def change_feed(timer: func.TimerRequest) -> None:
    """Read the change feeds to their ends, or for as long as one invocation may."""
    from function_app.readers import read_feed  # noqa: PLC0415 - as above

    del timer
    await _read(lambda pair: pair.blob.change_feed.enabled, read_feed)


async def vast_events(timer: func.TimerRequest) -> None:
    """Read the topics of VAST's events for as long as one invocation may."""
    from function_app.readers import read_topic  # noqa: PLC0415 - as above

    del timer
    await _read(lambda pair: bool(pair.vast.events.bootstrap), read_topic)


async def _read(wanted: Callable[[PairSettings], bool], read: Callable[[FunctionPair, float], Awaitable[None]]) -> None:
    """All pairs at once; the fault of one ends none of the others."""
    from function_app.process import PROCESS  # noqa: PLC0415 - as above

    seconds = PROCESS.config.functions.reading_seconds
    async with PROCESS.work(seconds):
        chosen = [pair async for pair in PROCESS.pairs() if wanted(pair.settings)]
        results = await asyncio.gather(*(read(pair, seconds) for pair in chosen), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _event_json(event: func.EventGridEvent | func.CloudEvent) -> bytes:
    """The event as it was sent, but for digits of its time below the microsecond. The worker picks the class by the payload."""
    if isinstance(event, func.CloudEvent):
        named = {"specversion": event.specversion, "source": event.source, "type": event.type, "time": event.time}
        named |= {name: value for name, value in event.extension_attrs.items() if name == "traceparent"}
    else:
        named = {"topic": event.topic, "eventType": event.event_type, "eventTime": event.event_time}
    told = named | {"id": event.id, "subject": event.subject, "data": event.get_json()}
    return json.dumps(told, default=lambda time: time.isoformat()).encode()
