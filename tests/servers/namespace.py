"""An Event Grid namespace in pull delivery: the documented REST protocol on loopback, with the locks in the hands of the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from aiohttp import web

KEY = "made-up access key"
TOPIC, SUBSCRIPTION = "events", "fedplane"
_WAIT_SECONDS = 0.1


@dataclass
class Kept:
    """One event of the subscription."""

    event: Any
    state: str = "ready"
    """``ready``, ``locked``, ``acknowledged``, ``rejected`` or ``released`` (until its delay is over)."""
    token: str = ""
    deliveries: int = 0


@dataclass
class Namespace:
    """One topic with one subscription."""

    events: list[Kept] = field(default_factory=list)
    status: int = 200
    """What every request is answered with; other than 200: nothing is done."""
    receives: int = 0
    renewed: list[str] = field(default_factory=list)
    delays: list[str] = field(default_factory=list)
    endpoint: str = ""

    def publish(self, *events: Any) -> None:  # noqa: ANN401 - any JSON
        """New events."""
        self.events += [Kept(event) for event in events]

    def count(self, state: str) -> int:
        """How many events are in that state."""
        return sum(one.state == state for one in self.events)

    def delays_over(self) -> None:
        """What was released can be received again."""
        for one in self.events:
            one.state = "ready" if one.state == "released" else one.state

    def locks_over(self) -> None:
        """What was received and not settled can be received again, under another lock."""
        for one in self.events:
            one.state = "ready" if one.state == "locked" else one.state

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Namespace]:
        """Listen while the block runs."""
        app = web.Application()
        app.router.add_post(f"/topics/{TOPIC}/eventsubscriptions/{{call}}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        subscription, _, verb = request.match_info["call"].partition(":")
        if request.headers.get("Authorization") != f"SharedAccessKey {KEY}":
            return web.json_response({"error": {"code": "Unauthorized", "message": "no"}}, status=401)
        if subscription != SUBSCRIPTION or request.query["api-version"] != "2024-06-01":
            return web.json_response({"error": {"code": "NotFound", "message": "no such subscription"}}, status=404)
        if self.status != 200:
            return web.json_response({"error": {"code": f"Code{self.status}", "message": "no"}}, status=self.status)
        if verb == "receive":
            return await self._receive(int(request.query["maxEvents"]), int(request.query["maxWaitTime"]))
        return self._settle(verb, json.loads(await request.read())["lockTokens"], request.query)

    async def _receive(self, most: int, wait_seconds: int) -> web.Response:
        self.receives += 1
        assert 1 <= most <= 100
        assert 10 <= wait_seconds <= 120
        if not self.count("ready"):
            await asyncio.sleep(_WAIT_SECONDS)
        value = []
        for one in [one for one in self.events if one.state == "ready"][:most]:
            one.state, one.token, one.deliveries = "locked", uuid4().hex, one.deliveries + 1
            broker = {"lockToken": one.token, "deliveryCount": one.deliveries}
            value.append({"brokerProperties": broker, "event": one.event})
        return web.json_response({"value": value})

    def _settle(self, verb: str, tokens: list[str], query: Any) -> web.Response:  # noqa: ANN401 - a mapping of strings
        states = {"acknowledge": "acknowledged", "reject": "rejected", "release": "released", "renewLock": "locked"}
        held = {one.token: one for one in self.events if one.state == "locked"}
        good = [token for token in tokens if token in held]
        for token in good:
            held[token].state = states[verb]
        if verb == "renewLock":
            self.renewed += good
        if verb == "release":
            self.delays += [query["releaseDelayInSeconds"]] * len(good)
        error = {"code": "TokenLost", "message": "the lock has ended"}
        failed = [{"lockToken": token, "error": error} for token in tokens if token not in held]
        return web.json_response({"failedLockTokens": failed, "succeededLockTokens": good})
