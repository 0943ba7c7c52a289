"""Event Grid by pull delivery of a namespace: receive, mark, then acknowledge (facts/azure.md 1.5, rule 6).

While the state does not take marks nothing is received, since each receipt counts towards the number after which Event Grid gives
an event up: what is in hand is released, with a delay, and its mark is tried until it is taken. One that cannot be parsed is kept
in the state and then rejected.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from urllib.parse import quote

import msgspec
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import AzureError
from azure.core.rest import HttpRequest
from azure.eventgrid.aio import EventGridConsumerClient
from azure.eventgrid.models import AcknowledgeResult, RejectResult, ReleaseDelay, ReleaseResult, RenewLocksResult

from federation.errors import RetryLater
from federation.event_settings import BlobEventSettings
from federation.payloads import Malformed, Parsed
from federation.payloads.event_grid import BlobScope, parse
from federation.ports import ChangeSink, Clock, State
from federation.progress import DeadLetter
from federation.sources.common import OnGap, Tell, ask_scans

_AT_ONCE = 100
_WAIT_SECONDS = 20
_PATIENCE_SECONDS = 15
"""How much longer than it was asked to wait the service may take to answer."""
_RENEW_EVERY_SECONDS = 20.0
"""A lock holds for 60 s at least."""
_IDLE_SECONDS = 0.5
"""Pause after an empty answer: it may come at once."""
_API_VERSION = "2024-06-01"


class _Broker(msgspec.Struct, rename="camel"):
    lock_token: str


class _Received(msgspec.Struct, rename="camel"):
    broker_properties: _Broker
    event: msgspec.Raw

    @property
    def token(self) -> str:
        return self.broker_properties.lock_token


class _Answer(msgspec.Struct):
    value: list[_Received]


class EventGridPull:
    """``ports.Source``. Build with ``open_pull``."""

    name = "event_grid_pull"

    def __init__(
        self,
        client: EventGridConsumerClient,
        path: str,
        scope: BlobScope,
        state: State,
        sink: ChangeSink,
        clock: Clock,
        on_gap: OnGap,
    ) -> None:
        self._client = client
        self._path = path
        self._scope = scope
        self._state = state
        self._sink = sink
        self._clock = clock
        self._on_gap = on_gap
        self._tell = Tell(self.name)

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port."""
        return self._tell.as_dict()

    async def run(self) -> None:
        """As in the port."""
        async with self._client:
            while True:
                async for attempt in self._tell.patiently(self._clock, AzureError):
                    with attempt:
                        await self._round()

    async def _round(self) -> None:
        received = await self._receive()
        self._tell.up()
        # No order is kept and nothing tells how old the rest is (facts/azure.md 1.3, 1.5).
        self._tell.waiting = {"": None} if len(received) == _AT_ONCE else {}
        if not received:
            await self._clock.sleep(_IDLE_SECONDS)
            return
        told, letters = self._read(received)
        tokens = [one.token for one in received]
        try:
            async with self._renewing(tokens):
                await self._keep(told, letters.values())
        except (RetryLater, TimeoutError) as error:
            self._tell.down(error)
            await self._release(tokens)
            await self._until_taken(told)
            return
        good = [token for token in tokens if token not in letters]
        if good:
            self._settled(await self._client.acknowledge(lock_tokens=good))
        if letters:
            self._settled(await self._client.reject(lock_tokens=list(letters)))

    async def _receive(self) -> list[_Received]:
        """Not by the client's ``receive``: its model refuses a whole batch for one event, and rounds times."""
        params: dict[str, str | int] = {"api-version": _API_VERSION, "maxEvents": _AT_ONCE, "maxWaitTime": _WAIT_SECONDS}
        request = HttpRequest("POST", f"{self._path}:receive", params=params, headers={"Accept": "application/json"})
        answer = await self._client.send_request(request)
        answer.raise_for_status()
        try:
            return msgspec.json.decode(answer.content, type=_Answer).value
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise RetryLater("the namespace's answer is not what its interface documents", reason="bad_answer") from None

    def _read(self, received: list[_Received]) -> tuple[Parsed, dict[str, DeadLetter]]:
        """What is to be marked and scanned, and what cannot be parsed by its lock."""
        told = Parsed()
        letters: dict[str, DeadLetter] = {}
        for one in received:
            self._tell.counts["received"] += 1
            try:
                parsed = parse(bytes(one.event), self._scope)
            except Malformed as fault:
                letters[one.token] = DeadLetter(self.name, str(fault), bytes(one.event), self._clock.now_us())
                continue
            self._tell.parsed(parsed)
            told.scan_prefixes |= parsed.scan_prefixes
            told.changes += parsed.changes
        return told, letters

    async def _keep(self, told: Parsed, letters: Collection[DeadLetter]) -> None:
        await ask_scans(told, self._on_gap)
        if told.changes:
            self._tell.marked(await self._sink.mark(told.changes))
        for letter in letters:
            await self._state.bury(letter)
            self._tell.dead(letter.reason)

    async def _until_taken(self, told: Parsed) -> None:
        """Wait until the state answers and takes these marks. Their events come again and are settled then."""
        async for attempt in self._tell.patiently(self._clock):
            with attempt:
                await self._state.halts()
                await self._keep(told, [])

    async def _release(self, tokens: list[str]) -> None:
        try:
            self._settled(await self._client.release(lock_tokens=tokens, release_delay=ReleaseDelay.TEN_SECONDS))
        except AzureError as error:
            # Then their locks end by themselves.
            self._tell.counts["releases_failed"] += 1
            self._tell.down(error)

    @asynccontextmanager
    async def _renewing(self, tokens: list[str]) -> AsyncIterator[None]:
        """Hold the locks while the block runs."""
        task = asyncio.create_task(self._renew(tokens))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _renew(self, tokens: list[str]) -> None:
        while True:
            await self._clock.sleep(_RENEW_EVERY_SECONDS)
            try:
                self._settled(await self._client.renew_locks(lock_tokens=tokens))
                self._tell.counts["renewals"] += 1
            except AzureError as error:
                # Without its lock an event comes again, which is harmless.
                self._tell.counts["renewals_failed"] += 1
                self._tell.last_error = str(error)[:300]

    def _settled(self, result: AcknowledgeResult | RejectResult | ReleaseResult | RenewLocksResult) -> None:
        """Count the locks that had ended: their events come again, and are marked once more."""
        if result.failed_lock_tokens:
            self._tell.counts["locks_lost"] += len(result.failed_lock_tokens)


def open_pull(
    events: BlobEventSettings,
    key: str | None,
    credential: object | None,
    *,
    scope: BlobScope,
    state: State,
    sink: ChangeSink,
    clock: Clock,
    on_gap: OnGap,
) -> EventGridPull:
    """The source over the namespace's subscription that *events* name, with an access key or a credential."""
    topic, subscription = events.namespace_topic, events.namespace_subscription
    client = consumer(events, key, credential)
    path = f"/topics/{quote(topic, safe='')}/eventsubscriptions/{quote(subscription, safe='')}"
    return EventGridPull(client, path, scope, state, sink, clock, on_gap)


def consumer(events: BlobEventSettings, key: str | None, credential: object | None) -> EventGridConsumerClient:
    """The client of the subscription; its own retries are off."""
    given = AzureKeyCredential(key) if key is not None else credential
    return EventGridConsumerClient(
        events.namespace_endpoint.rstrip("/"),
        given,  # type: ignore[arg-type]
        namespace_topic=events.namespace_topic,
        subscription=events.namespace_subscription,
        retry_total=0,
        connection_timeout=5,
        read_timeout=_WAIT_SECONDS + _PATIENCE_SECONDS,
        user_agent="fedplane/0.1",
    )
