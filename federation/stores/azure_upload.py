"""A large write to Azure Blob: staged blocks and one conditional commit (facts/azure.md 3.3)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from uuid import uuid4

from federation import metadata as mapping
from federation.ports import WriteResult
from federation.stores import wire
from federation.stores.base import Request
from federation.stores.lane import Answer

if TYPE_CHECKING:
    from federation.stores.azure_blob import AzureBlobStore


class AzureUpload:
    """``ports.Upload``. Block ids hold a random name of this upload, so two uploads of one key cannot mix blocks."""

    def __init__(
        self, store: AzureBlobStore, key: str, name: str, stored: mapping.Stored, upload_id: str = "", numbers: Iterable[int] = ()
    ) -> None:
        self._store = store
        self._key = key
        self._name = name
        self._stored = stored
        self.upload_id = upload_id or uuid4().hex
        self._numbers = set(numbers)

    async def put_part(self, number: int, data: bytes, *, md5: bytes | None = None) -> str:
        """As in the port."""
        query = {"comp": "block", "blockid": self._block_id(number)}
        headers = {"Content-MD5": wire.md5_base64(data, md5)}
        await self._store.call(Request("PUT", "Put Block", self._name, query, headers, data, self._key))
        self._numbers.add(number)
        return self._block_id(number)

    async def complete(self, *, expected_etag: str | None, md5_hex: str) -> WriteResult:
        """As in the port."""
        store = self._store
        honoured = store.capabilities.conditional_complete
        conditions = await store.conditions(self._key, expected_etag, honoured=honoured) or {}
        answer = await self.commit(conditions, base64.b64encode(bytes.fromhex(md5_hex)).decode())
        return store.result(answer, lossy=self._stored.lossy)

    async def commit(self, conditions: Mapping[str, str], content_md5: str) -> Answer:
        """Put Block List of all parts in order of their numbers. Raises Reobserve."""
        headers = self._store.blob_headers(self._stored, content_md5) | dict(conditions)
        blocks = "".join(f"<Latest>{self._block_id(number)}</Latest>" for number in sorted(self._numbers))
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'.encode()
        headers["Content-Type"] = "application/xml"
        request = Request("PUT", "Put Block List", self._name, {"comp": "blocklist"}, headers, body, self._key)
        return await self._store.write(request)

    async def abort(self) -> None:
        """As in the port; the service drops blocks that nobody commits after a week, or at the next commit."""
        self._numbers.clear()

    def _block_id(self, number: int) -> str:
        return base64.b64encode(f"{self.upload_id}{number:08d}".encode()).decode()
