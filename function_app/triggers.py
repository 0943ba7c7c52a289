"""The functions and their bindings. They parse and mark; what to do is decided by the worker (rule 2).

Everything but the bindings is imported in the first invocation: indexing has a time limit, and an exception at import would leave
an app without functions (facts/functions.md).
"""

from __future__ import annotations

import json

import azure.functions as func

from federation.errors import FederationError, RetryLater

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.queue_trigger(arg_name="message", queue_name="%FEDERATION_QUEUE_NAME%", connection="FEDERATION_QUEUE")
async def event_grid_queue(message: func.QueueMessage) -> None:
    """Mark what one message of Event Grid names. A failure leaves it in the queue, to come back (host.json, queues)."""
    from function_app.pairs import PAIRS  # noqa: PLC0415 - see above

    await PAIRS.take_message(message.get_body())


@app.event_grid_trigger(arg_name="event")
async def event_grid(event: func.EventGridEvent) -> None:
    """Mark what one event names, of either schema. A failure makes Event Grid send it again, as its subscription says."""
    from function_app.pairs import PAIRS  # noqa: PLC0415 - see above

    await PAIRS.take_message(_event_json(event))


@app.route(route="events", methods=["POST", "OPTIONS"])
async def events(req: func.HttpRequest) -> func.HttpResponse:
    """Event Grid by HTTP. Anonymous for the host, because the shared secret of the settings is asked for instead."""
    from function_app.pairs import PAIRS  # noqa: PLC0415 - see above

    try:
        answer = await PAIRS.take_request(req.method, req.headers, req.params, req.get_body())
    except RetryLater as error:
        return _json(503, {"error": "the state cannot be reached; send it again", "reason": error.reason}, {"Retry-After": "10"})
    return _json(answer.status, answer.body, answer.headers)


@app.route(route="health", methods=["GET"])
async def health(req: func.HttpRequest) -> func.HttpResponse:
    """Whether marks can be made now. Open to everybody, so it tells no more than that."""
    from function_app.pairs import PAIRS  # noqa: PLC0415 - see above

    del req
    try:
        await PAIRS.check()
    except FederationError as error:
        return _json(503, {"status": "unavailable", "reason": error.reason})
    return _json(200, {"status": "ok"})


def _event_json(event: func.EventGridEvent | func.CloudEvent) -> bytes:
    """The event as it was sent, but for digits of its time below the microsecond. The worker picks the class by the payload."""
    if isinstance(event, func.CloudEvent):
        named = {"specversion": event.specversion, "source": event.source, "type": event.type, "time": event.time}
    else:
        named = {"topic": event.topic, "eventType": event.event_type, "eventTime": event.event_time}
    told = named | {"id": event.id, "subject": event.subject, "data": event.get_json()}
    return json.dumps(told, default=lambda time: time.isoformat()).encode()


def _json(status: int, body: dict[str, str | int] | None, headers: dict[str, str] | None = None) -> func.HttpResponse:
    if body is None:
        return func.HttpResponse(status_code=status, headers=headers)
    return func.HttpResponse(json.dumps(body), status_code=status, headers=headers, mimetype="application/json")
