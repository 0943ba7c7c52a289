"""A large write to Azure Blob: staged blocks and one conditional commit (facts/azure.md 3.3)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from federation import hashing
from federation import metadata as mapping
from federation.errors import NotPresent, Park
from federation.ports import WriteResult
from federation.stores import azure_recreate, wire
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
        self._resumed = bool(upload_id)
        self._numbers = set(numbers)
        self._staged = azure_recreate.staging_key(self.upload_id)
        """Key of our own for the blocks, where a blob of another type is under the right one."""
        self._holder: mapping.Stored | None = None
        """What holds the name while it changes its type, once the blocks are under the other."""

    async def put_part(self, number: int, data: bytes, *, md5: bytes | None = None) -> str:
        """As in the port."""
        try:
            await self._put_block(number, data, md5)
        except Park as error:
            if error.reason != "not_a_block_blob" or self._stage_elsewhere() is None:
                raise
            await self._put_block(number, data, md5)
        self._numbers.add(number)
        return self._block_id(number)

    async def _put_block(self, number: int, data: bytes, md5: bytes | None) -> None:
        query = {"comp": "block", "blockid": self._block_id(number)}
        headers = {"Content-MD5": wire.content_md5(md5 or await hashing.md5(data))}
        await self._store.call(Request("PUT", "Put Block", self._name, query, headers, data, self._key))

    def _stage_elsewhere(self) -> mapping.Stored | None:
        """Go on under a name of our own: a page or append blob is under this one. None where that would not be safe."""
        self._holder = azure_recreate.holding(self._stored)
        if self._holder is not None:
            self._name = self._store.written_name(self._staged)
        return self._holder

    async def complete(self, *, expected_etag: str | None, md5_hex: str) -> WriteResult:
        """As in the port."""
        store = self._store
        honoured = store.capabilities.conditional_complete
        conditions = await store.conditions(self._key, expected_etag, honoured=honoured) or {}
        content_md5 = base64.b64encode(bytes.fromhex(md5_hex)).decode()
        holder = self._holder
        if holder is None:
            try:
                return store.result(await self.commit(conditions, content_md5), lossy=self._stored.lossy)
            except Park as error:
                # Gone on with when all parts had been sent: the first of our requests that the blob's type can refuse.
                holder = self._stage_elsewhere() if error.reason == "not_a_block_blob" else None
                if holder is None:
                    raise
        await self.commit({}, content_md5)
        result = await azure_recreate.take_over(store, self._key, self._staged, holder, conditions)
        return replace(result, lossy=self._stored.lossy)

    async def commit(self, conditions: Mapping[str, str], content_md5: str) -> Answer:
        """Put Block List of all parts in order of their numbers. Raises Reobserve."""
        headers = self._store.blob_headers(self._stored, content_md5) | self._store.tier(self._key) | dict(conditions)
        blocks = "".join(f"<Latest>{self._block_id(number)}</Latest>" for number in sorted(self._numbers))
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'.encode()
        headers["Content-Type"] = "application/xml"
        request = Request("PUT", "Put Block List", self._name, {"comp": "blocklist"}, headers, body, self._key)
        return await self._store.write(request)

    async def abort(self) -> None:
        """As in the port; the service drops blocks that nobody commits after a week, or at the next commit."""
        self._numbers.clear()
        if self._holder is not None or self._resumed:
            try:
                await self._store.delete(self._staged, expected_etag=(await self._store.head(self._staged)).version.etag)
            except NotPresent:
                return  # never committed

    def _block_id(self, number: int) -> str:
        return base64.b64encode(f"{self.upload_id}{number:08d}".encode()).decode()
