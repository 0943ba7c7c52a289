"""The VAST side (facts/vast.md 3 and 4): one bucket and a prefix in it, over S3.

One request is one request: no SDK retries, no hidden HEADs; botocore's signer signs them. Path style, no checksum trailers. What
the server does with conditions is probed, never assumed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from http.client import HTTPMessage
from typing import Final
from urllib.parse import quote, urlencode

from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from yarl import URL

from federation import hashing
from federation import metadata as mapping
from federation.capabilities import Capabilities
from federation.errors import FederationError, Halt, NotPresent, Park, Reobserve, RetryLater
from federation.keys import policy_for
from federation.model import ETagKind, Metadata, OriginStamp, Present, Side, Tags, s3_etag_kind
from federation.ports import Halfway, WriteResult
from federation.record_ports import UploadLog
from federation.stores import faults, wire
from federation.stores.base import HttpStore, Request
from federation.stores.lane import Answer, unquote_etag, wall_us
from federation.stores.pages import Markers, Page, parse_s3_page
from federation.stores.probe import PROBE_BODY, WRONG_ETAG, Probe
from federation.stores.tags import parse_tags, tags_body
from federation.stores.vast_upload import S3Upload, begin, copy_in_parts, etag_in

COPY_LIMIT_BYTES = 5 * 1024**3
"""Largest source of one CopyObject; beyond it a copy goes in parts."""
PAGE_SIZE = 1_000
_WRITE_TRIES = 3
_PAYLOAD, _HEADERS = "fedplane_payload", "fedplane_headers"


class _Signer(S3SigV4Auth):
    """botocore's, but for what is known already: it prepares a whole request for the payload's hash, and its headers twice."""

    def payload(self, request: AWSRequest) -> str:
        """SHA-256 of the body in hex, or the word for an unsigned one."""
        known: str = request.context[_PAYLOAD]
        return known

    def headers_to_sign(self, request: AWSRequest) -> HTTPMessage:
        """Asked for once to be signed, and once for their names."""
        found: HTTPMessage | None = request.context.get(_HEADERS)
        if found is None:
            found = request.context[_HEADERS] = super().headers_to_sign(request)
        return found


def signing_fault(error: BaseException) -> FederationError:
    """What a failure to sign means: without a signature nothing can be asked. The text never holds the library's own."""
    text = f"a request to VAST cannot be signed: {type(error).__name__}. Check the access key and the secret key."
    return Halt(text, reason="credentials_refused", side=Side.VAST)


class VastS3Store(HttpStore):
    """``ports.ObjectStore`` over one bucket."""

    version_parameter = "versionId"

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        prefix: str = "",
        region: str = "us-east-1",
        ca_file: str = "",
        name_policy: str = "common",
        map_tags: bool = False,
        uploads: UploadLog | None = None,
        now_us: Callable[[], int] = wall_us,
    ) -> None:
        """Address *bucket* in path style below *endpoint*; *ca_file* replaces the system's certificate authorities.

        *map_tags*: object tags are part of the metadata. *uploads* hears of those that copies in parts begin.
        """
        super().__init__(Side.VAST, policy_for(Side.VAST, name_policy), prefix, ca_file=ca_file, map_tags=map_tags, now_us=now_us)
        self.uploads: Final = uploads
        self._bucket: Final = bucket
        self._bucket_url: Final = f"{endpoint.rstrip('/')}/{quote(bucket)}"
        self._place = self._bucket_url
        self._plain: Final = endpoint.lower().startswith("http:")
        self.sealed = not self._plain
        self._host: Final = URL(endpoint).host_port_subcomponent
        self._signer: Final = _Signer(Credentials(access_key, secret_key), "s3", region)

    # ------------------------------------------------------------------------------------------------------------- writes

    async def put(
        self, key: str, data: bytes, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str | None
    ) -> WriteResult:
        """As in the port."""
        stored = mapping.to_side(metadata, stamp, Side.VAST)
        md5 = await hashing.md5(data)
        left_etag = ""
        for _ in range(_WRITE_TRIES):
            try:
                conditions = await self.conditions(key, expected_etag, honoured=self.capabilities.conditional_put) or {}
                headers = {**wire.s3_headers(stored), "Content-MD5": wire.content_md5(md5), **conditions}
                request = Request("PUT", "PutObject", self.written_name(key), headers=headers, body=data, key=key)
                answer = await self.write(request)
                result = self.result(answer.headers.get("ETag"), lossy=stored.lossy)
            except FederationError as error:
                error.left_etag = left_etag  # it may stand there still
                raise
            if self.etag_kind(result.etag, answer.headers) is not ETagKind.MD5 or result.etag.lower() == md5.hex():
                return result
            # The server let damaged bytes through: they are ours, so what stands there is replaced at once.
            expected_etag = left_etag = result.etag
        text = (
            "what was written arrived damaged each time: check the network to this side, then write the object anew on the other"
        )
        raise Park(text, reason="damaged_write", key=key, side=self.side, left_etag=left_etag)

    async def begin_upload(self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, size_bytes: int) -> S3Upload:
        """As in the port."""
        del size_bytes
        return await begin(self, key, self.written_name(key), mapping.to_side(metadata, stamp, Side.VAST))

    def resume_upload(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, upload_id: str, parts: Mapping[int, str]
    ) -> S3Upload:
        """As in the port."""
        lossy = mapping.to_side(metadata, stamp, Side.VAST).lossy
        return S3Upload(self, key, self.written_name(key), upload_id, lossy=lossy, etags=parts)

    async def replace_metadata(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str, halfway: Halfway | None = None
    ) -> WriteResult:
        """As in the port: the object copied onto itself with other metadata, at once."""
        del halfway
        stored = mapping.to_side(metadata, stamp, Side.VAST)
        if stored.tags is not None and await self._only_tags_differ(key, metadata, expected_etag):
            await self.set_tags(key, stored.tags)
            return WriteResult(expected_etag, stored.lossy)
        headers = {**wire.s3_headers(stored), "x-amz-metadata-directive": "REPLACE"}
        headers |= {"x-amz-tagging-directive": "REPLACE"} if stored.tags is not None else {}
        headers |= await self._source(key, expected_etag)
        request = Request("PUT", "CopyObject", self._name(key), headers=headers, key=key)
        try:
            answer = await self.call_and_check(request)
        except Park:
            present = await self.head(key)
            if present.version.size_bytes <= COPY_LIMIT_BYTES:
                raise
            return await copy_in_parts(self, key, key, present, stored, expected_etag=expected_etag, target_etag=expected_etag)
        etag = etag_in(answer.body, self.side)
        if ETagKind.MD5 is s3_etag_kind(expected_etag) is self.etag_kind(etag, answer.headers) and etag != expected_etag:
            # The condition was not honoured: content that came meanwhile now has our metadata, so decide again.
            raise Reobserve("the content changed meanwhile", reason="precondition", key=key, side=self.side)
        return WriteResult(etag, stored.lossy)

    async def copy(self, source_key: str, target_key: str, *, source_etag: str) -> WriteResult:
        """As in the port; beyond the limit of one request it goes in parts."""
        try:
            return WriteResult((await self.head(target_key)).version.etag)
        except NotPresent:
            pass
        source = await self.head(source_key)
        if source.version.etag != source_etag:
            raise Reobserve("the source is another version", reason="precondition", key=source_key, side=self.side)
        if source.version.size_bytes > COPY_LIMIT_BYTES:
            stored = mapping.to_side(source.metadata, source.origin, Side.VAST)
            return await copy_in_parts(self, source_key, target_key, source, stored, expected_etag=source_etag, target_etag=None)
        headers = self.copy_source(source_key, source_etag) | {"x-amz-metadata-directive": "COPY"}
        request = Request("PUT", "CopyObject", self.written_name(target_key), headers=headers, key=source_key)
        answer = await self.call_and_check(request)
        etag = etag_in(answer.body, self.side)
        await self._copy_is_of(source_key, target_key, source, etag, self.etag_kind(etag, answer.headers))
        return WriteResult(etag)

    # ------------------------------------------------------------------------------- also used by uploads and copies in parts

    def copy_source(self, key: str, etag: str) -> dict[str, str]:
        """Headers that name a copy's source and the version it must be."""
        source = {"x-amz-copy-source": f"/{quote(self._bucket)}/{wire.url_path(self._name(key))}"}
        return source | {f"x-amz-copy-source-{name.lower()}": value for name, value in wire.condition(etag).items()}

    async def call_and_check(self, request: Request) -> Answer:
        """As ``call``; an error that comes with status 200, after the server had begun to answer, is raised too."""
        answer = await self.call(request)
        if b"<Error" in answer.body:
            refused = faults.refusal(answer.status, answer.headers, answer.body)
            known = faults.known(self.side, refused.code)
            raise await self.refused(request, refused if known else replace(refused, status=500))
        return answer

    def etag_kind(self, etag: str, headers: Mapping[str, str]) -> ETagKind:
        """What an ETag that came with *headers* says about content, on this server."""
        return wire.s3_kind(etag, headers, hashes=self.capabilities.etag_is_md5)

    def result(self, etag: str | None, *, lossy: bool = False) -> WriteResult:
        """What a write left. Raises RetryLater when the server did not say."""
        if not etag:
            raise RetryLater("the server did not say what it wrote", reason="bad_answer", side=self.side)
        return WriteResult(unquote_etag(etag), lossy)

    # ------------------------------------------------------------------------------------------------------------- inside

    async def _only_tags_differ(self, key: str, metadata: Metadata, expected_etag: str) -> bool:
        found = await self.head(key)
        if found.version.etag != expected_etag:
            raise Reobserve("the object is another version", reason="precondition", key=key, side=self.side)
        held = mapping.held(metadata, self.side)
        return mapping.digest(replace(found.metadata, tags=None)) == mapping.digest(replace(held, tags=None))

    async def _source(self, key: str, etag: str) -> dict[str, str]:
        if not self.capabilities.conditional_copy or wire.needs_look(etag):
            # RACE: the server ignores the condition on a copy's source; the look narrows the window.
            self.race_windows += 1
            if (await self.head(key)).version.etag != etag:
                raise Reobserve("the object is another version", reason="precondition", key=key, side=self.side)
        return self.copy_source(key, etag)

    async def _copy_is_of(self, source_key: str, target_key: str, source: Present, etag: str, kind: ETagKind) -> None:
        """Undo a copy that is of another version than the one looked at. Raises Reobserve then."""
        if source.version.etag_kind is kind is ETagKind.MD5:
            same = source.version.etag == etag
        elif self.capabilities.conditional_copy and not wire.needs_look(source.version.etag):
            return
        else:
            # RACE: neither a condition nor a hash proves the copy; the source still being that version after it does.
            self.race_windows += 1
            same = (await self.head(source_key)).version.etag == source.version.etag
        if not same:
            await self.delete(target_key, expected_etag=etag)
            raise Reobserve("the source changed while it was copied", reason="precondition", key=source_key, side=self.side)

    async def _authorised(self, request: Request) -> tuple[str, Mapping[str, str]]:
        url = f"{self._bucket_url}/{wire.url_path(request.name)}" if request.name else self._bucket_url
        if request.query:
            url = f"{url}?{urlencode(request.query, quote_via=quote, safe='')}"
        body = request.body or b""
        headers = {"Host": self._host, **(request.headers or {})}
        signed = AWSRequest(request.method, url, headers=headers)
        if "Content-MD5" in headers and not self._plain:
            signed.context[_PAYLOAD] = UNSIGNED_PAYLOAD  # the body is covered by Content-MD5 and the channel
        else:
            signed.context[_PAYLOAD] = (await hashing.sha256(body)).hex()
        try:
            self._signer.add_auth(signed)
        except BotoCoreError as error:
            raise signing_fault(error) from None
        return url, dict(signed.headers.items())

    async def _pages(self, prefix: str, start_after: str) -> AsyncIterator[Page]:
        query = {"list-type": "2", "encoding-type": "url", "max-keys": str(PAGE_SIZE)}
        query |= {"prefix": prefix} if prefix else {}
        query |= {"start-after": start_after} if start_after else {}
        markers = Markers(self.side)
        while True:
            answer = await self.call(Request("GET", "ListObjectsV2", query=query))
            page = parse_s3_page(answer.body, hashes=self.capabilities.etag_is_md5)
            marker = markers.after(page)
            yield page
            if not marker:
                return
            query["continuation-token"] = marker

    async def list_page(self, prefix: str, count: int) -> bytes:
        """As in the base."""
        query = {"list-type": "2", "encoding-type": "url", "max-keys": str(count)}
        query |= {"prefix": self._prefix + prefix} if self._prefix + prefix else {}
        return (await self.call(Request("GET", "ListObjectsV2", query=query))).body

    @staticmethod
    def parse_page(body: bytes) -> Page:
        """As in the base."""
        return parse_s3_page(body)

    async def read_tags(self, key: str, version_id: str = "") -> Tags:
        """As in the base."""
        query = {"tagging": "", **self.of_version(version_id)}
        try:
            answer = await self.call(Request("GET", "GetObjectTagging", self._name(key), query, key=key))
        except Park as error:
            if error.reason != "no_tags":
                raise
            return ()
        return parse_tags(answer.body, self.side)

    async def write_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """As in the base."""
        if not tags:
            await self.call(Request("DELETE", "DeleteObjectTagging", self._name(key), {"tagging": ""}, key=key))
            return
        body = tags_body(tags, "Tagging")
        headers = {"Content-MD5": wire.content_md5(await hashing.md5(body)), "Content-Type": "application/xml"}
        await self.call(Request("PUT", "PutObjectTagging", self._name(key), {"tagging": ""}, headers, body, key))

    async def put_probe(self, key: str, headers: Mapping[str, str]) -> Answer:
        """As in the base."""
        # With a checksum, as all our writes: a bucket with retention (Object Lock) takes none without.
        headers = {"Content-MD5": wire.content_md5(await hashing.md5(PROBE_BODY)), **headers}
        return await self.write(Request("PUT", "PutObject", self._name(key), headers=headers, body=PROBE_BODY, key=key))

    async def probe_more(self, key: str, found: Capabilities) -> Capabilities:
        """As in the base."""
        name = self._name(key)
        wrong_copy = {**self.copy_source(key, WRONG_ETAG), "x-amz-metadata-directive": "REPLACE", "x-amz-meta-probe": "1"}
        copy = await Probe.refuses(self.call(Request("PUT", "CopyObject", name, headers=wrong_copy, key=key)))
        complete = True
        for etag in (None, WRONG_ETAG):
            upload = await begin(self, key, name, mapping.Stored({}, {}, lossy=False))
            try:
                await upload.put_part(1, PROBE_BODY)
                complete = await Probe.refuses(upload.commit(wire.condition(etag))) and complete
            finally:
                await upload.abort()
        slash = not await self._answers_to(f"{key}/")
        return replace(found, conditional_copy=copy, conditional_complete=complete, trailing_slash=slash)

    async def _answers_to(self, key: str) -> bool:
        """Whether there is such an object; no, where a server over files fails on the name."""
        try:
            await self.head(key)
        except (NotPresent, Park, Reobserve):
            return False
        except RetryLater as error:
            if error.reason != "server_error":
                raise
            return False
        return True
