"""Event Grid by HTTP: both validation handshakes, and 200 only after the mark (facts/azure.md 1.4)."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable

from aiohttp import web

from federation.errors import RetryLater
from federation.payloads import EVENT_LIMIT_BYTES, Malformed
from federation.payloads.event_grid import BlobScope, parse
from federation.ports import ChangeSink
from federation.sources.common import Tell

_BODY_LIMIT_BYTES = 4 * EVENT_LIMIT_BYTES
"""Batches hold several events; a single one above the event limit is refused by the parser."""
_RATE = "120"


class EventGridWebhook:
    """``ports.Source``: listens on *listen* (``host:port``, port 0 picks one) at ``/events``."""

    name = "event_grid_webhook"

    def __init__(self, listen: str, secret: str | None, scope: BlobScope, sink: ChangeSink, on_gap: Callable[[], None]) -> None:
        self._host, _, port = listen.rpartition(":")
        self._port = int(port)
        self._secret = secret
        self._scope = scope
        self._sink = sink
        self._on_gap = on_gap
        self._tell = Tell(self.name)
        self.bound = asyncio.Event()
        self.port = 0

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port."""
        return self._tell.as_dict()

    async def run(self) -> None:
        """As in the port."""
        app = web.Application(client_max_size=_BODY_LIMIT_BYTES)
        app.router.add_route("OPTIONS", "/events", self._handshake)
        app.router.add_post("/events", self._events)
        app.router.add_get("/healthz", self._healthz)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host or "127.0.0.1", self._port)
            await site.start()
            self.port = runner.addresses[0][1]
            self._tell.up()
            self.bound.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"status": "ok"})

    async def _handshake(self, request: web.Request) -> web.Response:
        """CloudEvents abuse protection: allow the origin that asks."""
        if not self._allowed(request):
            return _problem(401, "the shared secret is missing or wrong")
        origin = request.headers.get("WebHook-Request-Origin", "*")
        return web.Response(headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": _RATE})

    async def _events(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            self._tell.counts["refused_secret"] += 1
            return _problem(401, "the shared secret is missing or wrong; send it as ?code= or x-fedplane-key")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            self._tell.counts["refused_too_large"] += 1
            return _problem(413, f"the body is above {_BODY_LIMIT_BYTES} bytes; Event Grid sends at most 1 MB an event")
        self._tell.counts["received"] += 1
        try:
            parsed = parse(body, self._scope)
        except Malformed as fault:
            self._tell.counts["refused_malformed"] += 1
            # The sender keeps what it gets no 200 for (dead letter of the subscription), so it is not kept here.
            return _problem(413 if len(body) > EVENT_LIMIT_BYTES else 400, f"not accepted: {fault}")
        self._tell.parsed(parsed)
        if parsed.validation_code:
            return web.json_response({"validationResponse": parsed.validation_code})
        if parsed.needs_scan:
            self._on_gap()
        try:
            self._tell.marked(await self._sink.mark(parsed.changes))
        except RetryLater as error:
            self._tell.down(error)
            return _problem(503, "the state cannot be reached; send it again", {"Retry-After": "10"})
        self._tell.up()
        return web.json_response({"marked": len(parsed.changes), "refused": sum(parsed.refused.values())})

    def _allowed(self, request: web.Request) -> bool:
        if self._secret is None:
            return True
        given = request.headers.get("x-fedplane-key") or request.query.get("code") or ""
        return hmac.compare_digest(given.encode(), self._secret.encode())


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": text}, status=status, headers=headers)
