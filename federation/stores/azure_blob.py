"""The Azure Blob side (facts/azure.md 3): one container and a prefix in it, over the REST interface.

One request is one request: no SDK retries, no hidden HEADs. Authorised by a SAS or a bearer token, which leave headers unsigned.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import quote, urlencode

from federation import hashing, keys
from federation import metadata as mapping
from federation.capabilities import Capabilities
from federation.errors import FederationError, NotPresent, Park, Reobserve, RetryLater, UsageError
from federation.keys import AZURE_BLOB
from federation.model import Metadata, OriginStamp, Present, Side, Tags
from federation.ports import Halfway, WriteResult
from federation.stores import faults, wire
from federation.stores.azure_auth import AzureAuth, authorisation, from_connection_string
from federation.stores.azure_recreate import OtherTypes
from federation.stores.azure_upload import AzureUpload
from federation.stores.base import HttpStore, Request
from federation.stores.lane import Answer, unquote_etag, wall_us
from federation.stores.pages import Markers, Page, parse_azure_page
from federation.stores.probe import PROBE_BODY, Probe
from federation.stores.tags import parse_tags, tags_body

API_VERSION = "2025-11-05"
START_FROM_VERSION = "2026-02-06"
"""The first that lets a listing start at a name: used by listings that do, and by nothing else."""
MAX_BLOCKS = 50_000
MAX_BLOCK_BYTES = 4_000 * 1024**2
CHECKED_BYTES = 4 * 1024**2
"""The service tells the MD5 of a range of this size or less, if asked."""
PAGE_SIZE = 5_000
_SCOPE = "x-ms-encryption-scope"
_COPY_POLL_SECONDS = 1.0
_COPY_POLLS = 600


class AzureBlobStore(HttpStore):
    """``ports.ObjectStore`` over one container."""

    version_parameter = "versionid"
    checked_bytes = CHECKED_BYTES

    def __init__(
        self,
        *,
        container: str,
        account_url: str = "",
        prefix: str = "",
        connection_string: str | None = None,
        credential: object | None = None,
        sas: str | None = None,
        delegate: bool = False,
        map_tags: bool = False,
        tiers: Mapping[str, str] | None = None,
        now_us: Callable[[], int] = wall_us,
    ) -> None:
        """Authorise with *connection_string*, else with *sas*, else with *credential* (of azure-identity; the caller closes it).

        *delegate*: make user delegation SAS with the credential instead of sending its tokens.
        *map_tags*: index tags are part of the metadata. *tiers*: access tier of newly written blobs by prefix of the key.

        Raises:
            UsageError: neither is given, or the connection string is incomplete.
        """
        super().__init__(Side.BLOB, AZURE_BLOB, prefix, map_tags=map_tags, now_us=now_us)
        self._tiers: Final = dict(tiers or {})
        self.capabilities = Capabilities(
            min_part_bytes=1, max_part_bytes=MAX_BLOCK_BYTES, max_parts=MAX_BLOCKS, etag_is_md5=False
        )
        endpoint = ""
        self._auth: AzureAuth
        if connection_string is not None:
            self._auth, endpoint = from_connection_string(connection_string, now_us)
        else:
            self._auth = authorisation(account_url, container, sas=sas, credential=credential, delegate=delegate, now_us=now_us)
        account = (account_url or endpoint).rstrip("/")
        if not account:
            raise UsageError("The Azure side needs account_url.", reason="no_account_url")
        self._container_url: Final = f"{account}/{quote(container)}"
        self._place = self._container_url
        self._other_types = OtherTypes()

    # ------------------------------------------------------------------------------------------------------------- writes

    async def put(
        self, key: str, data: bytes, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str | None
    ) -> WriteResult:
        """As in the port."""
        stored = mapping.to_side(metadata, stamp, Side.BLOB)
        headers = self.blob_headers(stored, wire.content_md5(await hashing.md5(data)))
        headers |= {"x-ms-blob-type": "BlockBlob"} | self.tier(key)
        headers |= await self.conditions(key, expected_etag, honoured=self.capabilities.conditional_put) or {}
        answer = await self.write(Request("PUT", "Put Blob", self.written_name(key), headers=headers, body=data, key=key))
        self._other_types.replaced(key)
        return self.result(answer, lossy=stored.lossy)

    async def begin_upload(self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, size_bytes: int) -> AzureUpload:
        """As in the port; blocks need no request to begin."""
        del size_bytes
        return AzureUpload(self, key, self.written_name(key), mapping.to_side(metadata, stamp, Side.BLOB))

    def resume_upload(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, upload_id: str, parts: Mapping[int, str]
    ) -> AzureUpload:
        """As in the port; blocks stay for a week unless something is committed meanwhile (facts/azure.md 3.3)."""
        return AzureUpload(self, key, self.written_name(key), mapping.to_side(metadata, stamp, Side.BLOB), upload_id, parts)

    async def replace_metadata(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str, halfway: Halfway | None = None
    ) -> WriteResult:
        """As in the port: one look, then a conditional request for the headers and one for user metadata, where they differ.

        In this order what stands between them takes nothing from whoever wrote: it is as before but for headers as they shall be.
        """
        name = self._name(key)
        before = await self.call(Request("HEAD", "HEAD", name, key=key))
        found = await self.tagged(self._present(before.headers, key), before.headers, key)
        etag = found.version.etag
        if etag != expected_etag:
            raise Reobserve("the blob is another version", reason="precondition", key=key, side=self.side)
        stored = mapping.to_side(metadata, stamp, Side.BLOB)
        held = mapping.to_side(found.metadata, found.origin, Side.BLOB)
        if stored.headers != held.headers:
            if halfway is not None and stored.user != held.user:
                await halfway(mapping.halfway(found.metadata, stored))
            # Properties that are not sent again are cleared, Content-MD5 too.
            headers = self.blob_headers(replace(stored, user={}, tags=None), before.headers.get("Content-MD5"))
            etag = await self._set(key, name, "properties", headers, etag)
        if stored.user != held.user:
            etag = await self._set_user(key, name, wire.azure_user(stored), etag, before.headers.get(_SCOPE))
        if stored.tags is not None and stored.tags != found.metadata.tags:
            await self.set_tags(key, stored.tags)
        return WriteResult(etag, stored.lossy)

    async def copy(self, source_key: str, target_key: str, *, source_etag: str) -> WriteResult:
        """As in the port; a copy that the service does in the background is waited for."""
        headers = await self.copy_source(source_key) | {"x-ms-source-if-match": wire.quoted(source_etag), "If-None-Match": "*"}
        if self._map_tags:
            headers |= wire.tags_header(await self.read_tags(source_key), Side.BLOB)
        request = Request("PUT", "Copy Blob", self.written_name(target_key), headers=headers, key=source_key)
        try:
            answer = await self.call(request)
        except (Reobserve, RetryLater) as error:
            if isinstance(error, RetryLater) and error.reason not in {"copy_pending", "copy_source"}:
                raise
            kept = await self._kept(source_key, target_key, source_etag)
            if kept is None:
                raise
            return kept
        if answer.headers.get("x-ms-copy-status") == "success":
            return self.result(answer)
        return await self._kept_copy(target_key)

    async def copy_source(self, key: str) -> dict[str, str]:
        """Header that names the source of a copy."""
        sas = await self._auth.query()
        return {"x-ms-copy-source": f"{self._container_url}/{wire.url_path(self._name(key))}" + (f"?{sas}" if sas else "")}

    async def copy_over(self, source_key: str, key: str, headers: Mapping[str, str]) -> WriteResult:
        """Copy on the server over what is at *key*; *headers*: conditions on that, and what a copy is not given by its source.

        Raises RetryLater (copy_failed) with ``left_etag``: an empty blob is at *key* now.
        """
        headers = await self.copy_source(source_key) | dict(headers)
        answer = await self.write(Request("PUT", "Copy Blob", self.written_name(key), headers=headers, key=key))
        if answer.headers.get("x-ms-copy-status") == "success":
            return self.result(answer)
        return await self._finished_copy(key, answer.headers.get("x-ms-copy-id", ""))

    # ------------------------------------------------------------------------------------------------------------- inside

    async def _set_user(self, key: str, name: str, headers: Mapping[str, str], etag: str, scope: str | None) -> str:
        try:
            return await self._set(key, name, "metadata", headers, etag)
        except Park as error:
            if error.reason != "customer_key" or not scope:
                raise
        # Of a blob in an encryption scope other than the container's own; else a container may refuse to be told one.
        return await self._set(key, name, "metadata", {**headers, _SCOPE: scope}, etag)

    async def _set(self, key: str, name: str, what: str, headers: Mapping[str, str], etag: str) -> str:
        request = Request(
            "PUT", f"Set Blob {what.title()}", name, {"comp": what}, {**headers, **wire.condition(etag)}, body=b"", key=key
        )
        return self.result(await self.call(request)).etag

    async def _kept(self, source_key: str, target_key: str, source_etag: str) -> WriteResult | None:
        """The copy that is there already; None when the target is free. Raises when the source is not that version any more."""
        try:
            return await self._kept_copy(target_key)
        except NotPresent:
            pass
        if (await self.head(source_key)).version.etag != source_etag:
            raise Reobserve("the source is another version", reason="precondition", key=source_key, side=self.side)
        return None

    async def _kept_copy(self, key: str) -> WriteResult:
        """A failed copy leaves an empty blob: it must not pass for the version that was to be kept."""
        try:
            return await self._finished_copy(key)
        except RetryLater as error:
            if error.left_etag:
                await self.delete(key, expected_etag=error.left_etag)
                error.left_etag = ""
            raise

    async def _finished_copy(self, key: str, copy_id: str = "") -> WriteResult:
        """What the copy left, that of *copy_id* alone if given. Raises Reobserve where a user's write came after it."""
        for _ in range(_COPY_POLLS):
            answer = await self.call(Request("HEAD", "HEAD", self._name(key), key=key))
            if copy_id and answer.headers.get("x-ms-copy-id") != copy_id:
                # A write takes the id away. Its ETag is not ours to agree on (rule 7).
                raise Reobserve("the blob was written after the copy", reason="precondition", key=key, side=self.side)
            status = answer.headers.get("x-ms-copy-status", "success")
            if status == "success":
                return self.result(answer)
            if status != "pending":
                text = f"the service's copy ended as {status}"
                raise RetryLater(text, reason="copy_failed", key=key, side=self.side, left_etag=self.result(answer).etag)
            await asyncio.sleep(_COPY_POLL_SECONDS)
        raise RetryLater("the service is still copying", reason="copy_pending", key=key, side=self.side)

    def tier(self, key: str) -> dict[str, str]:
        """Header that names the access tier of a blob to be written: that of the longest prefix; none: the account's own."""
        prefix = max((prefix for prefix in self._tiers if key.startswith(prefix)), key=len, default=None)
        return {"x-ms-access-tier": self._tiers[prefix]} if prefix is not None and not keys.excluded(key) else {}

    @staticmethod
    def blob_headers(stored: mapping.Stored, content_md5: str | None) -> dict[str, str]:
        """Headers of a write: properties, user metadata and the content's MD5 in base64 (empty or None: not known)."""
        headers = wire.azure_properties(stored) | wire.azure_user(stored) | wire.tags_header(stored.tags, Side.BLOB)
        if content_md5:
            headers["x-ms-blob-content-md5"] = content_md5
        return headers

    def _ranged(self, start: int, length: int | None) -> dict[str, str]:
        asked = length is not None and length <= CHECKED_BYTES
        return super()._ranged(start, length) | ({"x-ms-range-get-content-md5": "true"} if asked else {})

    def _present(self, headers: Mapping[str, str], key: str) -> Present:
        if headers.get("x-ms-resource-type") == "directory":
            # As in lists: a hierarchical namespace answers for its directories too. What is marked as a folder by its metadata
            # alone (hdi_isfolder, flat accounts) is an object, and listed as one.
            raise NotPresent("a directory has the name", reason="not_present", key=key, side=self.side)
        self._require_whole(headers, key)
        self._other_types.note(key, headers)
        return super()._present(headers, key)

    def _require_whole(self, headers: Mapping[str, str], key: str) -> None:
        """Refuse what a user's copy on the server has not filled: the blob is there before it, empty, and stays so if it fails.

        As a version it would empty the other side, which may hold the last good one. Whoever writes the blob ends that state.
        """
        copied = headers.get("x-ms-copy-status")
        if copied == "pending":
            text = "the service is still copying to this blob"
            raise RetryLater(text, reason="copy_pending", key=key, side=self.side, answered=True)
        if copied in ("failed", "aborted") and headers.get("Content-Length") == "0":
            text = f"the copy to this blob ended as {copied} and left it empty: copy again, or write it; a delete travels"
            raise Park(text, reason="copy_failed", key=key, side=self.side)

    def result(self, answer: Answer, *, lossy: bool = False) -> WriteResult:
        """What a write left. Raises RetryLater when the service did not say."""
        etag = unquote_etag(answer.headers.get("ETag", ""))
        if not etag:
            raise RetryLater("the service did not say what it wrote", reason="bad_answer", side=self.side)
        return WriteResult(etag, lossy)

    async def _fault(self, request: Request, refused: faults.Refusal) -> FederationError:
        if refused.code == "UnauthorizedBlobOverwrite" and (request.headers or {}).get("If-None-Match") == "*":
            # As on a precondition: it was to be made, and is there. Whoever may write it over hears of that instead.
            return Reobserve("there is a blob already", reason="overwrite_refused", key=request.key, side=self.side)
        return await super()._fault(request, refused)

    async def _authorised(self, request: Request) -> tuple[str, Mapping[str, str]]:
        url = f"{self._container_url}/{wire.url_path(request.name)}" if request.name else self._container_url
        query = "&".join(part for part in (urlencode(request.query or {}, quote_via=quote), await self._auth.query()) if part)
        headers = {"x-ms-version": API_VERSION, **(request.headers or {}), **await self._auth.headers()}
        return (f"{url}?{query}" if query else url), headers

    async def _pages(self, prefix: str, start_after: str) -> AsyncIterator[Page]:
        # The caller skips what comes before: startFrom is inclusive (facts/azure.md 3.5), and the emulator ignores it.
        query = {"restype": "container", "comp": "list", "maxresults": str(PAGE_SIZE)}
        if prefix:
            query["prefix"] = prefix
        headers: dict[str, str] = {}
        if start_after:
            query["startFrom"] = start_after
            headers["x-ms-version"] = START_FROM_VERSION
        markers = Markers(self.side)
        while True:
            try:
                answer = await self.call(Request("GET", "List Blobs", query=query, headers=headers))
            except Park:
                if query.pop("startFrom", None) is None or "marker" in query:
                    raise
                headers = {}  # the version is not known everywhere at once: from the beginning then
                continue
            page = self.parse_page(answer.body)
            marker = markers.after(page)
            yield page
            if not marker:
                return
            query["marker"] = marker

    async def list_page(self, prefix: str, count: int) -> bytes:
        """As in the base."""
        query = {"restype": "container", "comp": "list", "maxresults": str(min(count, PAGE_SIZE))}
        query |= {"prefix": self._prefix + prefix} if self._prefix + prefix else {}
        return (await self.call(Request("GET", "List Blobs", query=query))).body

    @staticmethod
    def parse_page(body: bytes) -> Page:
        """As in the base."""
        return parse_azure_page(body)

    async def read_tags(self, key: str, version_id: str = "") -> Tags:
        """As in the base."""
        query = {"comp": "tags", **self.of_version(version_id)}
        answer = await self.call(Request("GET", "Get Blob Tags", self._name(key), query, key=key))
        return parse_tags(answer.body, self.side)

    async def write_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """As in the base."""
        headers = {"Content-Type": "application/xml"}
        body = tags_body(tags, "Tags")
        await self.call(Request("PUT", "Set Blob Tags", self._name(key), {"comp": "tags"}, headers, body, key))

    async def put_probe(self, key: str, headers: Mapping[str, str]) -> Answer:
        """As in the base."""
        request = Request(
            "PUT", "Put Blob", self._name(key), headers={"x-ms-blob-type": "BlockBlob", **headers}, body=PROBE_BODY, key=key
        )
        return await self.write(request)

    async def probe_more(self, key: str, found: Capabilities) -> Capabilities:
        """As in the base."""
        upload = AzureUpload(self, key, self._name(key), mapping.Stored({}, {}, lossy=False))
        await upload.put_part(1, PROBE_BODY)
        return replace(found, conditional_complete=await Probe.refuses(upload.commit({"If-None-Match": "*"}, "")))
