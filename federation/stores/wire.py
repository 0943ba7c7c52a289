"""Small conversions between HTTP headers and our values, shared by both stores. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote, unquote, unquote_plus, urlencode

from federation import metadata
from federation.model import SECOND_US, ETagKind, Present, Side, Stamp, Tags, Version, s3_etag_kind
from federation.stores.lane import http_date_us, unquote_etag

_HEADER_NAMES = {
    "content_type": "Content-Type",
    "content_encoding": "Content-Encoding",
    "content_language": "Content-Language",
    "content_disposition": "Content-Disposition",
    "cache_control": "Cache-Control",
}
USER_PREFIX = {Side.BLOB: "x-ms-meta-", Side.VAST: "x-amz-meta-"}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MD5_BYTES = 16
_ENCRYPTION, _CUSTOMER_KEY = "x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-algorithm"
_BY_KMS = "aws:kms"
"""So begin the words for keys of a key management service: ``aws:kms`` and, for two layers, ``aws:kms:dsse``."""


def url_path(name: str) -> str:
    """*name* percent-encoded byte by byte, slashes kept: no server may read anything else into it."""
    return quote(name, safe="/")


def from_url_form(text: str, *, plus: bool = False) -> str:
    """Inverse of percent-encoding; with *plus*, a plus sign is a space. Bytes that are not UTF-8 become lone surrogates.

    No key holds those, so such a name (NFS takes any bytes) is not taken for another one.
    """
    return unquote_plus(text, errors="surrogateescape") if plus else unquote(text, errors="surrogateescape")


def content_md5(digest: bytes) -> str:
    """An MD5 digest as a Content-MD5 header has it."""
    return base64.b64encode(digest).decode()


def md5_hex_of(content_md5: str | None) -> str | None:
    """Lower-case hex of a Content-MD5 value; None when there is none or it is no MD5."""
    try:
        raw = base64.b64decode(content_md5 or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == _MD5_BYTES else None


def quoted(etag: str) -> str:
    """An ETag as a header wants it."""
    return f'"{etag}"'


_MARK = "~"


def version_token(etag: str, modified_us: int, size_bytes: int) -> str:
    """What stands for a version on the S3 side: its ETag, where that follows the content.

    A version written as a file may have a metadata-derived ETag (VAST), one that never changes, or none at all (gateways over a
    file system): then time and size, which listings and HEAD tell alike, are part of the token.
    """
    if etag and s3_etag_kind(etag) is not ETagKind.FILE_SIDE:
        return etag
    return f"{etag}{_MARK}{modified_us // SECOND_US:x}{_MARK}{size_bytes:x}"


def needs_look(token: str) -> bool:
    """Whether a server's condition on *token* proves less than the token says: then one looks as well."""
    return _MARK in token


def condition(expected_etag: str | None) -> dict[str, str]:
    """The header that makes a write conditional: on that version, or on absence. None where the version has no ETag."""
    if expected_etag is None:
        return {"If-None-Match": "*"}
    etag = expected_etag.partition(_MARK)[0]
    return {"If-Match": quoted(etag)} if etag else {}


def byte_range(start: int, length: int | None) -> dict[str, str]:
    """The Range header of ``[start, start+length)``; none for the whole object."""
    if start == 0 and length is None:
        return {}
    return {"Range": f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"}


def answers_range(status: int, headers: Mapping[str, str], start: int, length: int | None) -> bool:
    """Whether an answer to ``byte_range`` holds just that: a server that does not know Range sends everything, with 200.

    Everything is right where it is no more than was asked for. The end may be the object's, if that comes first. Some send the
    range, name it and say 200 (rclone's server); then its length has to fit as well.
    """
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return False  # such as 204, which describes no object
    if status == HTTPStatus.OK and "Content-Range" not in headers:
        return start == 0 and (length is None or int(headers.get("Content-Length", length + 1)) <= length)
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None:
        return False
    first, last, size_bytes = map(int, found.groups())
    if status == HTTPStatus.OK and int(headers.get("Content-Length", -1)) != last + 1 - first:
        return False
    return first == start and last + 1 == (size_bytes if length is None else min(start + length, size_bytes))


def range_md5(status: int, headers: Mapping[str, str]) -> str | None:
    """The MD5 of just the range that an answer holds, in base64; None where it has none.

    What is stored as the whole content's (and Azurite repeats where the range is everything) may be anybody's word.
    """
    told = headers.get("Content-MD5") if status == HTTPStatus.PARTIAL_CONTENT else None
    return None if told == headers.get("x-ms-blob-content-md5") else told


def version_id(headers: Mapping[str, str], side: Side) -> str | None:
    """The id under which the version stays readable; None where versions are not kept."""
    told = headers.get("x-ms-version-id" if side is Side.BLOB else "x-amz-version-id")
    return None if told == "null" else told


def keeps_md5(blob_type: str | None) -> bool:
    """Whether a blob of this type has no other content than its Content-MD5 says: appends and page writes leave it as it was."""
    return blob_type in (None, "BlockBlob")


def s3_kind(etag: str, headers: Mapping[str, str], *, hashes: bool = True) -> ETagKind:
    """What the unquoted ETag of an S3 answer with *headers* says about content.

    Under a KMS key or a customer's own it is no hash, though it looks like one; nor on a server that was seen to answer others
    (not *hashes*: ``Capabilities.etag_is_md5``). Lists have no such headers: what they tell of content decides nothing.
    """
    kind = s3_etag_kind(etag)
    if kind is ETagKind.FILE_SIDE:
        return kind
    encrypted = headers.get(_ENCRYPTION, "").startswith(_BY_KMS) or _CUSTOMER_KEY in headers
    return ETagKind.OPAQUE if encrypted or not hashes else kind


def present(headers: Mapping[str, str], side: Side, *, hashes: bool = True) -> Present:
    """The version that a HEAD or GET answer describes; *hashes* as in ``s3_kind``.

    Raises KeyError or ValueError when it is no such answer.
    """
    content_range = headers.get("Content-Range")
    size_bytes = int(content_range.rpartition("/")[2] if content_range else headers["Content-Length"])
    modified = Stamp(http_date_us(headers["Last-Modified"]))
    if side is Side.BLOB:
        etag, kind = unquote_etag(headers["ETag"]), ETagKind.OPAQUE
        told_md5 = headers.get("x-ms-blob-content-md5") or (None if content_range else headers.get("Content-MD5"))
        md5 = md5_hex_of(told_md5) if keeps_md5(headers.get("x-ms-blob-type")) else None
    else:
        told = unquote_etag(headers.get("ETag", ""))
        etag = version_token(told, modified.at_us, size_bytes)
        kind = s3_kind(told, headers, hashes=hashes) if told else ETagKind.FILE_SIDE
        md5 = etag.lower() if kind is ETagKind.MD5 else None
    marker = USER_PREFIX[side]
    user = {name[len(marker) :]: value for name, value in headers.items() if name.lower().startswith(marker)}
    fields = {field: headers.get(name) for field, name in _HEADER_NAMES.items()}
    fields["content_encoding"] = _without_chunked(fields["content_encoding"])
    common, origin = metadata.from_side(fields, user, side)
    return Present(Version(etag, size_bytes, modified, kind, md5, version_id(headers, side)), common, origin)


def s3_headers(stored: metadata.Stored) -> dict[str, str]:
    """Headers of an S3 write."""
    plain = {_HEADER_NAMES[field]: value for field, value in stored.headers.items()}
    return plain | _user(stored, Side.VAST) | tags_header(stored.tags, Side.VAST)


def tags_header(tags: Tags | None, side: Side) -> dict[str, str]:
    """The header of a write that sets tags; none where there are none."""
    return {"x-ms-tags" if side is Side.BLOB else "x-amz-tagging": urlencode(tags, quote_via=quote)} if tags else {}


def no_tags(headers: Mapping[str, str], side: Side) -> bool:
    """Whether the answer itself says that the object has no tags: Azure counts them, an S3 server may."""
    count = headers.get("x-ms-tag-count", "0") if side is Side.BLOB else headers.get("x-amz-tagging-count")
    return count == "0"


def azure_properties(stored: metadata.Stored) -> dict[str, str]:
    """The ``x-ms-blob-`` headers of a Blob write, without user metadata."""
    return {f"x-ms-blob-{_HEADER_NAMES[field].lower()}": value for field, value in stored.headers.items()}


def azure_user(stored: metadata.Stored) -> dict[str, str]:
    """The ``x-ms-meta-`` headers of a Blob write."""
    return _user(stored, Side.BLOB)


def _user(stored: metadata.Stored, side: Side) -> dict[str, str]:
    return {USER_PREFIX[side] + name: value for name, value in stored.user.items()}


def _without_chunked(encoding: str | None) -> str | None:
    # A writer's transfer framing that some S3 servers keep as if it were the content's encoding.
    if not encoding or "aws-chunked" not in encoding:
        return encoding
    return ", ".join(part for part in (piece.strip() for piece in encoding.split(",")) if part != "aws-chunked") or None
