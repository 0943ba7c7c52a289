"""Event Grid through a Storage Queue: receive, mark, then delete (rule 6).

While a mark fails, what was received is held and nothing else is received; its messages stay in the queue, where another process
may take them when their visibility ends. One that cannot be parsed is moved, whole and with its reason, to ``<queue>-poison``,
noted in the state, and only then deleted, so the stream goes on and nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

from federation.model import Change
from federation.payloads import Malformed, Parsed
from federation.payloads.event_grid import BlobScope, decode_queue_text, parse
from federation.ports import ChangeSink, Clock, State
from federation.progress import DeadLetter
from federation.sources.common import OnGap, Tell, ask_scans

_AT_ONCE = 32
_VISIBILITY_SECONDS = 60
_DELETES_AT_ONCE = 16
_IDLE_SECONDS = (0.1, 1.0)
_POISON_SUFFIX = "-poison"
_MESSAGE_BYTES = 64 * 1024
_FOR_EVER = -1
"""Life of a message in the poison queue: it waits for a person, however long."""


class EventGridQueue:
    """``ports.Source``. Build with ``open_queue``."""

    name = "event_grid_queue"

    def __init__(
        self,
        queue: QueueClient,
        poison: QueueClient,
        scope: BlobScope,
        sink: ChangeSink,
        clock: Clock,
        on_gap: OnGap,
        *,
        state: State | None = None,
    ) -> None:
        self._queue = queue
        self._poison = poison
        self._scope = scope
        self._sink = sink
        self._clock = clock
        self._on_gap = on_gap
        self._state = state
        self._lanes = asyncio.Semaphore(_DELETES_AT_ONCE)
        self._tell = Tell(self.name)

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port."""
        return self._tell.as_dict()

    async def run(self) -> None:
        """As in the port."""
        idle = _IDLE_SECONDS[0]
        async with self._queue, self._poison:
            while True:
                async for attempt in self._tell.patiently(self._clock, AzureError):
                    with attempt:
                        received = await self._round()
                        self._tell.up()
                        idle = _IDLE_SECONDS[0] if received else min(idle * 2, _IDLE_SECONDS[1])
                        if not received:
                            await self._clock.sleep(idle)

    async def _round(self) -> int:
        messages = [
            message
            async for message in self._queue.receive_messages(
                messages_per_page=_AT_ONCE, max_messages=_AT_ONCE, visibility_timeout=_VISIBILITY_SECONDS
            )
        ]
        changes: list[Change] = []
        for message in messages:
            try:
                parsed = self._read(message)
            except Malformed as fault:
                await self._bury(message, str(fault))
                continue
            changes += parsed.changes
            await self._until_taken(partial(ask_scans, parsed, self._on_gap))
        if changes:
            await self._until_taken(lambda: self._mark(changes))
        await asyncio.gather(*(self._delete(message) for message in messages))
        oldest_us = await waits_since_us(self._queue) if len(messages) == _AT_ONCE else None
        self._tell.waiting = {"": oldest_us} if oldest_us is not None else {}
        return len(messages)

    async def _mark(self, changes: list[Change]) -> None:
        self._tell.marked(await self._sink.mark(changes))

    async def _until_taken(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do *step* until the state takes it: meanwhile nothing else is received, so what we hold stays bounded."""
        async for attempt in self._tell.patiently(self._clock):
            with attempt:
                await step()

    def _read(self, message: QueueMessage) -> Parsed:
        self._tell.counts["received"] += 1
        parsed = parse(decode_queue_text(str(message.content)), self._scope)
        self._tell.parsed(parsed)
        return parsed

    async def _bury(self, message: QueueMessage, reason: str) -> None:
        content = str(message.content)
        for text in _letters(content, reason, message.id, self._clock.now_us()):
            await self._send_poison(text)
        if self._state is not None:
            state, letter = self._state, DeadLetter(self.name, reason, content.encode(), self._clock.now_us())
            await self._until_taken(lambda: state.bury(letter))
        self._tell.dead(reason)

    async def _send_poison(self, text: str) -> None:
        try:
            await self._poison.send_message(text, time_to_live=_FOR_EVER)
        except ResourceNotFoundError:
            try:
                await self._poison.create_queue()
            except ResourceExistsError:
                self._tell.counts["poison_queue_races"] += 1
            await self._poison.send_message(text, time_to_live=_FOR_EVER)

    async def _delete(self, message: QueueMessage) -> None:
        async with self._lanes:
            try:
                await self._queue.delete_message(message)
            except ResourceNotFoundError:
                # Its visibility ended and another receiver has it: it will be marked once more, which is harmless.
                self._tell.counts["deleted_elsewhere"] += 1


async def waits_since_us(queue: QueueClient) -> int | None:
    """Since when the oldest message that can be seen waits in *queue*, by the service's clock; None: none can. Raises AzureError.

    Of those at its front, since one that came back after its visibility ended may stand behind younger ones. In whole seconds,
    rounded down; the clock is taken to be that of the account's blobs.
    """
    front = await queue.peek_messages(max_messages=_AT_ONCE)
    since = min((one.inserted_on for one in front if one.inserted_on is not None), default=None)
    return int(since.timestamp() * 1_000_000) if since is not None else None


def _letters(content: str, reason: str, message_id: str, at_us: int) -> list[str]:
    """One message with the content and its reason; where a message cannot hold both, the content untouched, then the reason."""
    letter = {"reason": reason, "at_us": at_us, "message_id": message_id}
    whole = msgspec.json.encode(letter | {"content": content})
    if len(whole) <= _MESSAGE_BYTES:
        return [whole.decode()]
    return [content, msgspec.json.encode(letter | {"content_is_the_message_before": True}).decode()]


def open_queue(
    queue_url: str,
    connection_string: str | None,
    credential: object | None,
    *,
    scope: BlobScope,
    sink: ChangeSink,
    clock: Clock,
    on_gap: OnGap,
    state: State | None = None,
) -> EventGridQueue:
    """The source over the queue at *queue_url*, with a connection string's key or a credential."""
    name = queue_url.rstrip("/").rpartition("/")[2]
    options: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 30, "user_agent": "fedplane/0.1"}

    def client(queue: str) -> QueueClient:
        if connection_string is not None:
            return QueueClient.from_connection_string(connection_string, queue, **options)
        account_url = queue_url.rstrip("/").rpartition("/")[0]
        return QueueClient(account_url, queue, credential=credential, **options)  # type: ignore[arg-type]

    return EventGridQueue(client(name), client(f"{name}{_POISON_SUFFIX}"), scope, sink, clock, on_gap, state=state)
