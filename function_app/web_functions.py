"""Functions that answer: health for anybody, status and explain for who has a key, and the webhook."""

from __future__ import annotations

import json
import logging

import azure.functions as func

from federation.errors import FederationError, RetryLater, UsageError
from federation.settings import Settings

_KEY = func.AuthLevel.FUNCTION
_ANYBODY = func.AuthLevel.ANONYMOUS
_ANSWER_SECONDS = 27.0
"""Event Grid waits 30 s (facts/azure.md 1.4); the marks give up before, so that it is told to send again."""
_log = logging.getLogger("fedplane.functions")


def blueprint(settings: Settings | None) -> func.Blueprint:
    """Health always; the others where the settings can be read; the webhook where a pair asks its senders for a proof."""
    made = func.Blueprint()  # type: ignore[no-untyped-call]
    made.function_name("health")(made.route("health", methods=["GET"], auth_level=_ANYBODY)(health))
    if settings is None:
        return made
    made.function_name("status")(made.route("status", methods=["GET"], auth_level=_KEY)(status))
    made.function_name("explain")(made.route("explain", methods=["GET"], auth_level=_KEY)(explain))
    proofs = [pair.blob.events for pair in settings.pair]
    if any(one.webhook_secret_env or one.webhook_entra_tenant for one in proofs):
        # Anonymous for the host, because the shared secret or token of the settings is asked for instead.
        made.function_name("events")(made.route("events", methods=["POST", "OPTIONS"], auth_level=_ANYBODY)(events))
    return made


async def health(req: func.HttpRequest) -> func.HttpResponse:
    """Whether marks can be made now. Open to everybody, so it tells no more than that: why not is in the log."""
    from function_app.process import PROCESS  # noqa: PLC0415 - imported in the first invocation (triggers.py)

    del req
    try:
        await PROCESS.check()
    except FederationError as error:
        _log.error("not healthy: %s", error)
        return _json(503, {"status": "unavailable"})
    return _json(200, {"status": "ok"})


async def status(req: func.HttpRequest) -> func.HttpResponse:
    """What ``fedplane status --json`` prints, of one pair or of all."""
    from function_app.answers import statuses  # noqa: PLC0415 - as above
    from function_app.process import PROCESS  # noqa: PLC0415

    try:
        return func.HttpResponse(await statuses(PROCESS, req.params.get("pair", "")), mimetype="application/json")
    except FederationError as error:
        return _fault(error)


async def explain(req: func.HttpRequest) -> func.HttpResponse:
    """What ``fedplane explain KEY --json`` prints."""
    from function_app.answers import explained  # noqa: PLC0415 - as above
    from function_app.process import PROCESS  # noqa: PLC0415

    try:
        found = await explained(PROCESS, req.params.get("pair", ""), req.params.get("key", ""))
    except FederationError as error:
        return _fault(error)
    return func.HttpResponse(found, mimetype="application/json")


async def events(req: func.HttpRequest) -> func.HttpResponse:
    """Event Grid by HTTP: both handshakes, and deliveries."""
    from function_app.process import PROCESS  # noqa: PLC0415 - as above

    async with PROCESS.work(PROCESS.config.functions.drain_seconds, within_seconds=_ANSWER_SECONDS):
        answer = await PROCESS.take_request(req.method, req.headers, req.params, req.get_body())
    return _json(answer.status, answer.body, answer.headers)


def _fault(error: FederationError) -> func.HttpResponse:
    code = 400 if isinstance(error, UsageError) else 503 if isinstance(error, RetryLater) else 409
    return _json(code, {"error": str(error), "reason": error.reason})


def _json(status_code: int, body: dict[str, str | int] | None, headers: dict[str, str] | None = None) -> func.HttpResponse:
    if body is None:
        return func.HttpResponse(status_code=status_code, headers=headers)
    return func.HttpResponse(json.dumps(body), status_code=status_code, headers=headers, mimetype="application/json")
