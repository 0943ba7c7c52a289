"""Large writes over S3: multipart uploads, and copies in parts beyond what one CopyObject may hold (facts/vast.md 3)."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from xml.sax.saxutils import escape, unescape

from federation import hashing
from federation import metadata as mapping
from federation.backoff import backoff_seconds
from federation.errors import FederationError, NotPresent, Reobserve, RetryLater
from federation.model import ETagKind, Present, Side, s3_etag_kind
from federation.ports import WriteResult
from federation.stores import wire
from federation.stores.base import Request
from federation.stores.lane import Answer, unquote_etag

if TYPE_CHECKING:
    from federation.stores.vast_s3 import VastS3Store

COPY_PART_BYTES = 512 * 1024**2
_MAX_PARTS = 10_000
_PATIENCE = 6
"""Times a step of a copy is repeated, about a minute in all without a Retry-After; then the copy begins anew, later."""
_LONGEST_PATIENCE_SECONDS = 600.0
"""No pause ends later than this after the step's first fault."""
_T = TypeVar("_T")
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")
_ETAG = re.compile(rb"<ETag>([^<]+)</ETag>")
_ENTITIES = {"&quot;": '"', "&#34;": '"', "&#x22;": '"', "&apos;": "'"}


def etag_in(body: bytes, side: Side) -> str:
    """The ETag element of an answer, unquoted. Raises RetryLater when there is none."""
    return unquote_etag(_element(_ETAG, body, side))


async def begin(store: VastS3Store, key: str, name: str, stored: mapping.Stored) -> S3Upload:
    """CreateMultipartUpload."""
    request = Request("POST", "CreateMultipartUpload", name, {"uploads": ""}, wire.s3_headers(stored), key=key)
    answer = await store.write(request)
    return S3Upload(store, key, name, _element(_UPLOAD_ID, answer.body, store.side), lossy=stored.lossy)


class S3Upload:
    """``ports.Upload``."""

    def __init__(
        self, store: VastS3Store, key: str, name: str, upload_id: str, *, lossy: bool, etags: Mapping[int, str] | None = None
    ) -> None:
        self._store = store
        self.key = key
        self._name = name
        self.upload_id = upload_id
        self._lossy = lossy
        self._etags = dict(etags or {})
        self._hashes = True
        """Whether the parts' ETags are their MD5s, as far as was seen here."""

    async def put_part(self, number: int, data: bytes, *, md5: bytes | None = None) -> str:
        """As in the port."""
        sent = wire.content_md5(md5 or await hashing.md5(data))
        answer = await self._store.write(self._part("UploadPart", number, {"Content-MD5": sent}, data))
        etag = self._store.result(answer.headers.get("ETag")).etag
        kind = self._store.etag_kind(etag, answer.headers)
        self._hashes = self._hashes and kind is ETagKind.MD5
        if kind is ETagKind.MD5 and etag.lower() != wire.md5_hex_of(sent):
            raise RetryLater("a part arrived damaged", reason="checksum_mismatch", key=self.key, side=self._store.side)
        self._etags[number] = etag
        return etag

    async def copy_part(self, number: int, headers: Mapping[str, str]) -> None:
        """UploadPartCopy; *headers* name the source, its version and the range. Raises Reobserve."""
        answer = await self._store.call_and_check(self._part("UploadPartCopy", number, headers, None))
        etag = self._etags[number] = etag_in(answer.body, self._store.side)
        self._hashes = self._hashes and self._store.etag_kind(etag, answer.headers) is ETagKind.MD5

    async def complete(self, *, expected_etag: str | None, md5_hex: str) -> WriteResult:
        """As in the port; S3 has no place for the content's MD5, so the parts' hashes are checked against the ETag."""
        del md5_hex
        honoured = self._store.capabilities.conditional_complete
        conditions = await self._store.conditions(self.key, expected_etag, honoured=honoured) or {}
        answer = await self.commit(conditions)
        etag = etag_in(answer.body, self._store.side)
        if self._store.etag_kind(etag, answer.headers) is ETagKind.MULTIPART and etag.lower() != self._expected(etag):
            text, side = "the parts arrived damaged", self._store.side
            raise RetryLater(text, reason="checksum_mismatch", key=self.key, side=side, left_etag=etag)
        return WriteResult(etag, self._lossy)

    async def commit(self, conditions: Mapping[str, str]) -> Answer:
        """CompleteMultipartUpload. Raises Reobserve."""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(wire.quoted(etag))}</ETag></Part>"
            for number, etag in sorted(self._etags.items())
        )
        body = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{parts}</CompleteMultipartUpload>'
        headers = {"Content-Type": "application/xml", **conditions}
        query = {"uploadId": self.upload_id}
        request = Request("POST", "CompleteMultipartUpload", self._name, query, headers, body.encode(), self.key)
        try:
            return await self._store.call_and_check(request)
        except NotPresent as error:
            raise Reobserve(str(error), reason="precondition", key=self.key, side=self._store.side) from None
        except Reobserve:
            await self._store.require_free(request)
            raise

    async def abort(self) -> None:
        """As in the port."""
        query = {"uploadId": self.upload_id}
        try:
            await self._store.call(Request("DELETE", "AbortMultipartUpload", self._name, query, key=self.key))
        except (NotPresent, Reobserve):
            return  # completed or aborted already

    def _part(self, operation: str, number: int, headers: Mapping[str, str], data: bytes | None) -> Request:
        query = {"partNumber": str(number), "uploadId": self.upload_id}
        return Request("PUT", operation, self._name, query, headers, data, self.key)

    def _expected(self, etag: str) -> str:
        """The ETag that the parts must give; *etag* itself where a part's ETag is no hash."""
        parts = [part for _, part in sorted(self._etags.items())]
        if not self._hashes or any(s3_etag_kind(part) is not ETagKind.MD5 for part in parts):
            return etag.lower()
        sums = b"".join(map(bytes.fromhex, parts))
        return f"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(parts)}"


async def copy_in_parts(
    store: VastS3Store,
    source_key: str,
    target_key: str,
    source: Present,
    stored: mapping.Stored,
    *,
    expected_etag: str,
    target_etag: str | None,
) -> WriteResult:
    """Copy *source* on the server in parts, with the metadata *stored*.

    Raises:
        Reobserve: the source is no longer *expected_etag*, or the target not *target_etag* (None: free).
        RetryLater: among others checksum_mismatch, when it arrived damaged; what that left under a free name is removed.
    """
    if stored.tags is None and store.capabilities.tags:
        # Not mapped, so nobody's to drop: a copy in one request takes them along, parts do not.
        stored = replace(stored, tags=await store.read_tags(source_key))
    upload = await begin(store, target_key, store.written_name(target_key), stored)
    try:
        if store.uploads is not None:
            await store.uploads.begun(target_key, upload.upload_id)
        await _copy_parts(store, upload, source_key, source, expected_etag)
        result = await upload.complete(expected_etag=target_etag, md5_hex="")
    except BaseException as error:
        with suppress(FederationError):  # what led here is the one to report
            await asyncio.shield(_give_up(store, upload))
        if target_etag is None and isinstance(error, FederationError) and error.left_etag:
            with suppress(FederationError):
                await store.delete(target_key, expected_etag=error.left_etag)  # else it would pass for a copy
        raise
    with suppress(RetryLater):  # the record of a completed upload is cleared by a later sweep
        await _ended(store, upload)
    return result


async def _copy_parts(store: VastS3Store, upload: S3Upload, source_key: str, source: Present, expected_etag: str) -> None:
    size_bytes = source.version.size_bytes
    part_bytes = max(COPY_PART_BYTES, math.ceil(size_bytes / _MAX_PARTS))
    for number, start in enumerate(range(0, size_bytes, part_bytes), start=1):
        end = min(start + part_bytes, size_bytes) - 1
        headers = {**store.copy_source(source_key, expected_etag), "x-amz-copy-source-range": f"bytes={start}-{end}"}
        await _patiently(store, partial(upload.copy_part, number, headers))
    proved = store.capabilities.conditional_copy and not wire.needs_look(expected_etag)
    # RACE: metadata set in place meanwhile keeps the ETag, and S3 has no condition on it: looked at last (docs/adr/0008).
    in_place = upload.key == source_key
    if proved and not in_place:
        return
    now = await _patiently(store, partial(store.head, source_key))
    if now.version.etag != expected_etag or (in_place and now.metadata != source.metadata):
        raise Reobserve("the source changed while it was copied", reason="precondition", key=source_key, side=store.side)


async def _patiently(store: VastS3Store, step: Callable[[], Awaitable[_T]]) -> _T:
    """Repeat a step that may be repeated, after a throttle or a cut: of thousands of parts one has such a fault nearly always."""
    attempt, since_seconds = 0, None
    while True:
        try:
            return await step()
        except RetryLater as error:
            pause = error.after_seconds if error.after_seconds is not None else backoff_seconds(attempt)
            now = store.clock.monotonic_seconds()
            since_seconds = since_seconds if since_seconds is not None else now
            late = now + pause > since_seconds + _LONGEST_PATIENCE_SECONDS
            if late or attempt >= _PATIENCE or error.reason == "checksum_mismatch":
                raise
            attempt += 1
            await store.clock.sleep(pause)


async def _give_up(store: VastS3Store, upload: S3Upload) -> None:
    await upload.abort()
    await _ended(store, upload)


async def _ended(store: VastS3Store, upload: S3Upload) -> None:
    if store.uploads is not None:
        await store.uploads.ended(upload.upload_id)


def _element(pattern: re.Pattern[bytes], body: bytes, side: Side) -> str:
    found = pattern.search(body)
    if found is None:
        raise RetryLater("the server did not say what it wrote", reason="bad_answer", side=side)
    return unescape(found[1].decode(), _ENTITIES)
