"""How Event Grid's HTTP deliveries are answered, whether our own server took them or a Functions host (facts/azure.md 1.4)."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from federation.errors import RetryLater
from federation.payloads import EVENT_LIMIT_BYTES, Malformed, Parsed
from federation.payloads.event_grid import BlobScope, parse, structured
from federation.ports import ChangeSink
from federation.sources.common import OnGap, Tell, ask_scans
from federation.sources.entra import EntraTokens

BODY_LIMIT_BYTES = 4 * EVENT_LIMIT_BYTES
"""Batches hold several events; a single one above the event limit is refused by the parser."""
AT_ONCE = 16
"""Deliveries whose bodies are held at a time; more are sent away, to come again."""
_ANSWER_SECONDS = 25.0
"""Event Grid waits 30 s for an answer."""
_AGAIN_SECONDS = "10"
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
    """One pair that wants the events. ``secret`` and ``tokens`` None: whoever reaches the port may deliver (loopback)."""

    scope: BlobScope
    sink: ChangeSink
    secret: str | None
    on_gap: OnGap
    tokens: EntraTokens | None = None

    def knows(self, given: bytes) -> bool:
        """Whether *given* is the secret, if one is asked for. In constant time: the delay must not tell how much was right."""
        return self.secret is None or hmac.compare_digest(given, self.secret.encode())


class EventGridHttp:
    """Both validation handshakes, and 200 only after the mark (rule 6)."""

    def __init__(self, targets: Sequence[Target], tell: Tell) -> None:
        self._targets = targets
        self._tell = tell
        self._under_way = 0

    def handshake(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Answer:
        """CloudEvents' abuse protection (OPTIONS): allow the origin that asks. It brings no token, and grants nothing yet."""
        if not self._knowing(headers, query):
            return self._unauthorized()
        origin = headers.get("WebHook-Request-Origin", "*")
        return Answer(200, headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": _RATE})

    async def events(self, headers: Mapping[str, str], query: Mapping[str, str], read: Callable[[], Awaitable[bytes]]) -> Answer:
        """A delivery or a subscription handshake (POST). *read* gives the body, or raises BodyTooLarge."""
        try:
            targets = [one for one in self._knowing(headers, query) if await _admitted(one, headers)]
        except RetryLater as error:
            return self._later(error)
        if not targets:
            return self._unauthorized()
        if self._under_way >= AT_ONCE:
            self._tell.counts["refused_busy"] += 1
            return _problem(503, "too many deliveries at a time; send it again", {"Retry-After": _AGAIN_SECONDS})
        self._under_way += 1
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._delivered(targets, headers, read)
        except (RetryLater, TimeoutError) as error:
            return self._later(error)
        finally:
            self._under_way -= 1

    async def _delivered(self, targets: list[Target], headers: Mapping[str, str], read: Callable[[], Awaitable[bytes]]) -> Answer:
        try:
            body = await read()
        except BodyTooLarge:
            self._tell.counts["refused_too_large"] += 1
            return _problem(413, f"the body is above {BODY_LIMIT_BYTES} bytes; Event Grid sends at most 1 MB an event")
        self._tell.counts["received"] += 1
        try:
            event = structured(headers, body)
            parsed = [(target, parse(event, target.scope)) for target in targets]
        except Malformed as fault:
            self._tell.counts["refused_malformed"] += 1
            # The sender keeps what it gets no 200 for (dead letter of the subscription), so it is not kept here.
            return _problem(413 if len(body) > EVENT_LIMIT_BYTES else 400, f"not accepted: {fault}")
        return await self._mark(parsed, headers.get("aeg-event-type", ""))

    async def _mark(self, parsed: list[tuple[Target, Parsed]], event_type: str) -> Answer:
        marked = refused = 0
        for target, found in parsed:
            self._tell.parsed(found)
            await ask_scans(found, target.on_gap)
            if found.changes:
                self._tell.marked(await target.sink.mark(found.changes))
            marked += len(found.changes)
            refused += sum(found.refused.values())
        self._tell.up()
        code = parsed[0][1].validation_code
        if code and event_type in ("", "SubscriptionValidation"):
            return Answer(200, {"validationResponse": code})
        self._tell.counts["subscriptions_ended"] += event_type in ("Unsubscribe", "SubscriptionDeletion")
        return Answer(200, {"marked": marked, "refused": refused})

    def _knowing(self, headers: Mapping[str, str], query: Mapping[str, str]) -> list[Target]:
        given = (headers.get("x-fedplane-key") or query.get("code") or "").encode(errors="surrogateescape")
        return [one for one in self._targets if one.knows(given)]

    def _unauthorized(self) -> Answer:
        by_token = any(one.tokens is not None for one in self._targets)
        self._tell.counts["refused_token" if by_token else "refused_secret"] += 1
        if by_token:
            return _problem(401, "the bearer token (or the shared secret, where one is set) is missing or wrong")
        return _problem(401, "the shared secret is missing or wrong; send it as ?code= or x-fedplane-key")

    def _later(self, error: Exception) -> Answer:
        """What is not answered with 200 is sent again; 401 or 400 never are (facts/azure.md 1.4)."""
        self._tell.down(error if isinstance(error, RetryLater) else f"no mark within {_ANSWER_SECONDS:.0f} s")
        return _problem(503, "the event cannot be taken now; send it again", {"Retry-After": _AGAIN_SECONDS})


async def _admitted(target: Target, headers: Mapping[str, str]) -> bool:
    return target.tokens is None or await target.tokens.admits(headers.get("Authorization") or "")


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, {"error": text}, headers or {})
