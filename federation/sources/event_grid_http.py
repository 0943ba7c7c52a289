"""How Event Grid's HTTP deliveries are answered, whether our own server took them or a Functions host (facts/azure.md 1.4)."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from federation.errors import RetryLater
from federation.payloads import EVENT_LIMIT_BYTES, Malformed, Parsed
from federation.payloads.event_grid import BlobScope, parse
from federation.ports import ChangeSink
from federation.sources.common import OnGap, Tell

BODY_LIMIT_BYTES = 4 * EVENT_LIMIT_BYTES
"""Batches hold several events; a single one above the event limit is refused by the parser."""
_RATE = "120"


class BodyTooLarge(Exception):
    """The body is above ``BODY_LIMIT_BYTES``; a server raises it instead of reading on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back; *body* becomes JSON."""

    status: int
    body: dict[str, str | int] | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """One pair that wants the events. ``secret`` None: whoever reaches the port may deliver (loopback)."""

    scope: BlobScope
    sink: ChangeSink
    secret: str | None
    on_gap: OnGap


class EventGridHttp:
    """Both validation handshakes, and 200 only after the mark (rule 6)."""

    def __init__(self, targets: Sequence[Target], tell: Tell) -> None:
        self._targets = targets
        self._tell = tell

    def handshake(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Answer:
        """CloudEvents' abuse protection (OPTIONS): allow the origin that asks."""
        if not self._admitted(headers, query):
            return self._unauthorized()
        origin = headers.get("WebHook-Request-Origin", "*")
        return Answer(200, headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": _RATE})

    async def events(self, headers: Mapping[str, str], query: Mapping[str, str], read: Callable[[], Awaitable[bytes]]) -> Answer:
        """A delivery or a subscription handshake (POST). *read* gives the body, or raises BodyTooLarge."""
        targets = self._admitted(headers, query)
        if not targets:
            return self._unauthorized()
        try:
            body = await read()
        except BodyTooLarge:
            self._tell.counts["refused_too_large"] += 1
            return _problem(413, f"the body is above {BODY_LIMIT_BYTES} bytes; Event Grid sends at most 1 MB an event")
        self._tell.counts["received"] += 1
        try:
            parsed = [(target, parse(body, target.scope)) for target in targets]
        except Malformed as fault:
            self._tell.counts["refused_malformed"] += 1
            # The sender keeps what it gets no 200 for (dead letter of the subscription), so it is not kept here.
            return _problem(413 if len(body) > EVENT_LIMIT_BYTES else 400, f"not accepted: {fault}")
        return await self._mark(parsed)

    async def _mark(self, parsed: list[tuple[Target, Parsed]]) -> Answer:
        code = parsed[0][1].validation_code
        if code:
            return Answer(200, {"validationResponse": code})
        marked = refused = 0
        try:
            for target, found in parsed:
                self._tell.parsed(found)
                if found.needs_scan:
                    target.on_gap()
                self._tell.marked(await target.sink.mark(found.changes))
                marked += len(found.changes)
                refused += sum(found.refused.values())
        except RetryLater as error:
            self._tell.down(error)
            return _problem(503, "the state cannot be reached; send it again", {"Retry-After": "10"})
        self._tell.up()
        return Answer(200, {"marked": marked, "refused": refused})

    def _admitted(self, headers: Mapping[str, str], query: Mapping[str, str]) -> list[Target]:
        """The pairs whose secret was given. Compared in constant time: the answer's delay must not tell how much was right."""
        given = (headers.get("x-fedplane-key") or query.get("code") or "").encode(errors="surrogateescape")
        return [one for one in self._targets if one.secret is None or hmac.compare_digest(given, one.secret.encode())]

    def _unauthorized(self) -> Answer:
        self._tell.counts["refused_secret"] += 1
        return _problem(401, "the shared secret is missing or wrong; send it as ?code= or x-fedplane-key")


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, {"error": text}, headers or {})
