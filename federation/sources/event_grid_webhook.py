"""Event Grid by HTTP, on a port of our own. What is answered is in ``event_grid_http``."""

from __future__ import annotations

import asyncio

from aiohttp import web

from federation.sources.common import Tell
from federation.sources.event_grid_http import BODY_LIMIT_BYTES, Answer, BodyTooLarge, EventGridHttp, Target


class EventGridWebhook:
    """``ports.Source``: listens on *listen* (``host:port``, port 0 picks one) at ``/events``."""

    name = "event_grid_webhook"

    def __init__(self, listen: str, target: Target) -> None:
        self._host, _, port = listen.rpartition(":")
        self._port = int(port)
        self._tell = Tell(self.name)
        self._http = EventGridHttp([target], self._tell)
        self.bound = asyncio.Event()
        self.port = 0

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port."""
        return self._tell.as_dict()

    async def run(self) -> None:
        """As in the port."""
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
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
        return _response(self._http.handshake(request.headers, request.query))

    async def _events(self, request: web.Request) -> web.Response:
        async def read() -> bytes:
            try:
                return await request.read()
            except web.HTTPRequestEntityTooLarge:
                raise BodyTooLarge from None

        return _response(await self._http.events(request.headers, request.query, read))


def _response(answer: Answer) -> web.Response:
    if answer.body is None:
        return web.Response(status=answer.status, headers=answer.headers)
    return web.json_response(answer.body, status=answer.status, headers=answer.headers)
