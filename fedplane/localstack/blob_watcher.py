"""What Event Grid would say of a confirmed write on the Blob side (facts/azure.md 1)."""

from __future__ import annotations

import base64
import itertools
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

import aiohttp
import msgspec
from azure.eventgrid import SystemEventNames
from azure.storage.queue import AccountSasPermissions, ResourceTypes, Services, generate_account_sas
from multidict import CIMultiDictProxy
from yarl import URL

from fedplane.localstack.azurite import ACCOUNT, ACCOUNT_ID, KEY
from fedplane.localstack.delivery import Delivery
from fedplane.localstack.proxy import Exchange, Watcher, Words

_OPERATIONS_BY_COMP = {
    "block": "put_block", "blocklist": "put_block_list", "metadata": "set_metadata", "properties": "set_properties",
    "tags": "tags", "tier": "set_tier", "lease": "lease", "list": "list", "copy": "abort_copy", "snapshot": "snapshot",
    "appendblock": "append_block", "page": "put_page", "acl": "acl", "batch": "batch",
}  # fmt: skip
_OPERATIONS = {"GET": "get", "HEAD": "head", "DELETE": "delete", "OPTIONS": "options"}


class BlobWatcher(Watcher):
    """Writes Event Grid's messages into a Storage Queue: Event Grid schema, one event a message, base64."""

    def __init__(self, blob_upstream: str, queue_upstream: str, queue: str, public_endpoint: str) -> None:
        self.delivery = Delivery(self._send)
        self._blob = blob_upstream
        self._queue = f"{queue_upstream}/{ACCOUNT}/{queue}/messages"
        self._public = public_endpoint
        self._sequence = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None
        self._sas = generate_account_sas(
            ACCOUNT,
            KEY,
            ResourceTypes(service=True, container=True, object=True),
            AccountSasPermissions(read=True, write=True, add=True, list=True),
            datetime.now(UTC) + timedelta(days=7),
            services=Services(queue=True, blob=True),
        )

    async def open(self) -> None:
        """Begin to deliver."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        self.delivery.start()

    async def close(self, drain_seconds: float) -> None:
        """Deliver what is left, within a bound."""
        await self.delivery.drain(drain_seconds)
        if self._session is not None:
            await self._session.close()

    def operation(self, method: str, raw_path: str, query: dict[str, str], headers: CIMultiDictProxy[str]) -> str:
        """As in the base."""
        del raw_path
        if query.get("restype"):
            return "list" if query.get("comp") == "list" else f"container_{method.lower()}"
        comp = query.get("comp", "")
        if method == "PUT" and not comp:
            return "copy" if "x-ms-copy-source" in headers else "put"
        if comp:
            named = _OPERATIONS_BY_COMP.get(comp, "other")
            return named if method == "PUT" or comp == "list" else f"{_OPERATIONS.get(method, 'other')}_{comp}"
        return _OPERATIONS.get(method, "other")

    def refusal(self, status: int) -> Words:
        """As in the base."""
        return _error({403: "AuthorizationFailure", 404: "ContainerNotFound"}.get(status, "ServerBusy"))

    def nothing(self) -> tuple[Words, Words]:
        """As in the base."""
        page = b'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs /><NextMarker /></EnumerationResults>'
        return (page, {"Content-Type": "application/xml"}), _error("BlobNotFound")

    async def confirmed(self, exchange: Exchange) -> None:
        """As in the base."""
        if not exchange.ok or exchange.query.get("restype"):
            return
        operation = self.operation(exchange.method, exchange.raw_path, exchange.query, exchange.headers)
        kind, api = {
            "put": (SystemEventNames.StorageBlobCreatedEventName, "PutBlob"),
            "put_block_list": (SystemEventNames.StorageBlobCreatedEventName, "PutBlockList"),
            "copy": (SystemEventNames.StorageBlobCreatedEventName, "CopyBlob"),
            "delete": (SystemEventNames.StorageBlobDeletedEventName, "DeleteBlob"),
            "set_tier": (SystemEventNames.StorageBlobTierChangedEventName, "SetBlobTier"),
        }.get(operation, (None, ""))
        if kind is None or "snapshot" in exchange.query or "versionid" in exchange.query:
            return
        _, _, rest = exchange.raw_path.partition("?")[0].lstrip("/").partition("/")
        container, _, blob = rest.partition("/")
        if not blob:
            return
        event = await self._event(exchange, kind.value, api, (unquote(container), unquote(blob)))
        self.delivery.emit(msgspec.json.encode(event), echo=exchange.client == "fedplane")

    async def _event(self, exchange: Exchange, kind: str, api: str, name: tuple[str, str]) -> dict[str, Any]:
        container, blob = name
        data: dict[str, Any] = {
            "api": api,
            "clientRequestId": exchange.headers.get("x-ms-client-request-id", ""),
            "requestId": exchange.answer_headers.get("x-ms-request-id", ""),
            "contentType": exchange.headers.get("x-ms-blob-content-type", "application/octet-stream"),
            "blobType": exchange.headers.get("x-ms-blob-type", "BlockBlob"),
            "url": f"{self._public}/{container}/{quote(blob)}",
            "sequencer": f"{next(self._sequence):032X}",
            "storageDiagnostics": {"batchId": str(uuid.uuid4())},
        }
        if kind == SystemEventNames.StorageBlobCreatedEventName.value:
            data["eTag"] = exchange.answer_headers.get("ETag", "").strip('"')
            data["contentLength"] = await self._length(exchange, api)
        return {
            "topic": ACCOUNT_ID,
            "subject": f"/blobServices/default/containers/{container}/blobs/{blob}",
            "eventType": kind,
            "eventTime": exchange.at.strftime("%Y-%m-%dT%H:%M:%S.%f0Z"),
            "id": str(uuid.uuid4()),
            "data": data,
            "dataVersion": "",
            "metadataVersion": "1",
        }

    async def _length(self, exchange: Exchange, api: str) -> int:
        if api == "PutBlob":
            return int(exchange.headers.get("Content-Length", "0"))
        # A block list or a copy does not carry the length; the service knows it.
        assert self._session is not None  # noqa: S101 - open() came first
        path = exchange.raw_path.partition("?")[0]
        async with self._session.head(URL(f"{self._blob}{path}?{self._sas}", encoded=True)) as answer:
            return int(answer.headers.get("Content-Length", "0")) if answer.ok else 0

    async def _send(self, event: bytes) -> None:
        assert self._session is not None  # noqa: S101 - open() came first
        text = escape(base64.b64encode(event).decode())
        body = f"<QueueMessage><MessageText>{text}</MessageText></QueueMessage>"
        url = URL(f"{self._queue}?messagettl=604800&{self._sas}", encoded=True)
        async with self._session.post(url, data=body, headers={"Content-Type": "application/xml"}) as answer:
            if not answer.ok:
                raise ConnectionError(f"queue answered {answer.status}: {(await answer.text())[:200]}")


def _error(code: str) -> Words:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}, as asked for.</Message></Error>'
    return body.encode(), {"Content-Type": "application/xml", "x-ms-error-code": code, "x-ms-request-id": str(uuid.uuid4())}
