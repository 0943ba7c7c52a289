"""The Storage Queues of the app: its own doorbells and scans, and what is left in the one that Event Grid fills."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.identity.aio import DefaultAzureCredential
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

from federation.errors import RetryLater, UsageError
from federation.function_settings import FunctionSettings
from federation.settings import PairSettings, secret, variable
from federation.sources.event_grid_queue import waits_since_us

POISON = "-poison"
"""What the host appends to the name of the queue whose message failed ``maxDequeueCount`` times."""
_OPTIONS: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 15, "user_agent": "fedplane/0.1"}
_AT_ONCE = 32


class Queues:
    """Clients made when first needed and kept as long as the process lives. Every method raises RetryLater."""

    def __init__(self, settings: FunctionSettings) -> None:
        self._settings = settings
        self._clients: dict[str, QueueClient] = {}
        self._credential: DefaultAzureCredential | None = None

    def check(self, pairs: Sequence[PairSettings]) -> None:
        """Raise UsageError where the settings do not say where the app's own queues are, or name two accounts for one of events.

        The host reads a queue of events at the account of its connection, the sweep at the one of ``queue_url``.
        """
        self._own(self._settings.doorbell_queue)
        connection = self._settings.event_connection
        theirs = _endpoint(variable(connection)) or _service_url(connection)
        for pair in pairs:
            url = pair.blob.events.queue_url
            if not url or pair.blob.events.connection_string_env or not theirs:
                continue  # the same connection for both; or none, of which the host complains
            ours = url.rstrip("/").rpartition("/")[0]
            if _place(ours) != _place(theirs):
                raise UsageError(
                    f"The queue of pair {pair.name!r} is at {_place(ours)} by blob.events.queue_url, but at {_place(theirs)} "
                    f"by the app setting {connection} (functions.event_connection), which the host reads it by. Correct one.",
                    reason="bad_settings",
                )

    async def send(self, queue: str, text: str, *, delay_seconds: int = 0) -> None:
        """Put *text* into one of the app's own queues, to be seen after *delay_seconds*; a missing queue is made."""
        client = self._own(queue)
        async with _faults(queue):
            try:
                await client.send_message(text, visibility_timeout=delay_seconds)
            except ResourceNotFoundError:
                await self._create(client)
                await client.send_message(text, visibility_timeout=delay_seconds)

    async def waiting(self, pair: PairSettings) -> tuple[int, int | None]:
        """About how many messages are in the pair's queue of events; since when one waits there (``waits_since_us``)."""
        client = self._of_events(pair, "")
        async with _faults(pair.blob.events.queue_url):
            count = (await client.get_queue_properties()).approximate_message_count or 0
            return count, await waits_since_us(client) if count else None

    async def poisoned(self, pair: PairSettings, *, hidden_seconds: int) -> list[QueueMessage]:
        """Some of what the host gave up on in the pair's queue of events, hidden from others meanwhile; none if there is none."""
        client = self._of_events(pair, POISON)
        async with _faults(pair.blob.events.queue_url + POISON):
            try:
                return [
                    one
                    async for one in client.receive_messages(
                        messages_per_page=_AT_ONCE, max_messages=_AT_ONCE, visibility_timeout=hidden_seconds
                    )
                ]
            except ResourceNotFoundError:
                return []

    async def forget_poisoned(self, pair: PairSettings, message: QueueMessage) -> None:
        """Delete it there; it is kept elsewhere by now. One that another process deleted is no error."""
        async with _faults(pair.blob.events.queue_url + POISON):
            try:
                await self._of_events(pair, POISON).delete_message(message)
            except ResourceNotFoundError:
                return

    async def hide_poisoned(self, pair: PairSettings, message: QueueMessage, *, hidden_seconds: int) -> None:
        """Leave it there, unseen for so long. One that another process has by now is left to it."""
        async with _faults(pair.blob.events.queue_url + POISON):
            try:
                await self._of_events(pair, POISON).update_message(
                    message.id, message.pop_receipt, visibility_timeout=hidden_seconds
                )
            except ResourceNotFoundError:
                return

    async def drop_poisoned(self, queue: str) -> int:
        """Empty the poison queue of one of the app's own queues, whose messages are only calls to look; returns how many."""
        client = self._own(queue + POISON)
        dropped = 0
        async with _faults(queue + POISON):
            try:
                async for message in client.receive_messages(messages_per_page=_AT_ONCE):
                    await client.delete_message(message)
                    dropped += 1
            except ResourceNotFoundError:
                return dropped
        return dropped

    async def close(self) -> None:
        """Release connections; for tests, since no host asks for it."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
        if self._credential is not None:
            await self._credential.close()

    async def _create(self, client: QueueClient) -> None:
        try:
            await client.create_queue()
        except ResourceExistsError:
            return  # another process was first

    def _own(self, queue: str) -> QueueClient:
        name = self._settings.queue_connection
        return self._client(queue, variable(name), _service_url(name))

    def _of_events(self, pair: PairSettings, suffix: str) -> QueueClient:
        events = pair.blob.events
        account_url, _, queue = events.queue_url.rstrip("/").rpartition("/")
        named = events.connection_string_env
        text = secret(named, "pair.blob.events.connection_string_env") if named else ""
        return self._client(queue + suffix, text, account_url)

    def _client(self, queue: str, connection_string: str, account_url: str) -> QueueClient:
        place = f"{account_url or 'own'}/{queue}"
        if place not in self._clients:
            self._clients[place] = self._new(queue, connection_string, account_url)
        return self._clients[place]

    def _new(self, queue: str, connection_string: str, account_url: str) -> QueueClient:
        if connection_string:
            try:
                return QueueClient.from_connection_string(connection_string, queue, **_OPTIONS)
            except ValueError as error:
                raise UsageError(
                    f"The connection string of the queues is not whole ({error}). Set the app setting that "
                    "functions.queue_connection names to a whole one.",
                    reason="bad_settings",
                ) from None
        if not account_url:
            name = self._settings.queue_connection
            raise UsageError(
                f"functions.queue_connection names {name}, but neither {name} nor {name}__queueServiceUri nor "
                f"{name}__accountName is set. Set one of them among the app settings.",
                reason="missing_secret",
            )
        if self._credential is None:
            client_id = variable(f"{self._settings.queue_connection}__clientId")
            self._credential = DefaultAzureCredential(**({"managed_identity_client_id": client_id} if client_id else {}))
        return QueueClient(account_url, queue, credential=self._credential, **_OPTIONS)


def _service_url(connection: str) -> str:
    """As the host finds it from the settings of an identity-based connection (facts/azure.md 5.2)."""
    account = variable(f"{connection}__accountName")
    told = variable(f"{connection}__queueServiceUri")
    return told.rstrip("/") or (f"https://{account}.queue.core.windows.net" if account else "")


def _endpoint(connection_string: str) -> str:
    """Where its queues are; empty where it does not say."""
    told = {name.lower(): value for name, _, value in (part.partition("=") for part in connection_string.split(";"))}
    if told.get("usedevelopmentstorage") == "true":
        return "http://127.0.0.1:10001/devstoreaccount1"
    if endpoint := told.get("queueendpoint"):
        return endpoint.partition("?")[0]
    account, suffix = told.get("accountname"), told.get("endpointsuffix", "core.windows.net")
    return f"https://{account}.queue.{suffix}" if account else ""


def _place(account_url: str) -> str:
    """Host, and path where the account is in it (Azurite): what tells accounts apart, and no secret."""
    parts = urlsplit(account_url)
    return f"{parts.netloc}{parts.path}".rstrip("/").lower()


@asynccontextmanager
async def _faults(what: str) -> AsyncIterator[None]:
    try:
        yield
    except AzureError as error:
        raise RetryLater(f"the queue {what} does not answer: {type(error).__name__}", reason="queue_unavailable") from error
