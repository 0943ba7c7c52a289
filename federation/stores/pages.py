"""List pages without an SDK object, or an XML tree, for each entry. Pure.

A page as the services write it is cut into its entries by plain text search, which costs a fraction of building its tree. That
is sound because element text never holds a "<", so that no name can forge an element. A page with anything unusual in it (other
order of elements, comments, CDATA, unknown entities, cut short) goes to the XML parser, which is the judge of what it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from xml.etree import ElementTree as ET

from federation.errors import RetryLater
from federation.model import SECOND_US, ETagKind, ListEntry, Side, Stamp, s3_etag_kind
from federation.stores.lane import http_date_us, unquote_etag
from federation.stores.wire import from_url_form, keeps_md5, md5_hex_of, version_token

_UNUSUAL = ("<!", "\r", "\0")
_ENTITY = re.compile(r"&(?:#x([0-9A-Fa-f]{1,6})|#([0-9]{1,7})|([a-z]+));|&")
_NO_DATE = "1970-01-01T00:00:00Z"
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_AZURE_HEAD = re.compile(r"(?:<\?xml [^<>]*\?>)?\s*<EnumerationResults[ >]")
_AZURE_TAIL = re.compile(r"</Blobs>\s*<NextMarker(?: ?/>|>([^<]*)</NextMarker>)\s*</EnumerationResults>\s*\Z")


@dataclass(frozen=True, slots=True)
class Page:
    """One page: names as the side has them (in place of keys), in its order, and where to go on (empty: the end)."""

    entries: list[ListEntry]
    marker: str


class Markers:
    """Where one listing goes on: from page to page for as long as that leads anywhere.

    A server may send many empty pages (facts/azure.md 3.5), or sort otherwise than we do. One that sends a marker again
    before any later name came is going round in circles.
    """

    def __init__(self, side: Side) -> None:
        self._side = side
        self._last = ""
        self._sent: set[str] = set()

    def after(self, page: Page) -> str:
        """What to ask with after *page*; empty: the end. Raises RetryLater."""
        if page.entries and page.entries[-1].key > self._last:
            self._last = page.entries[-1].key
            self._sent.clear()
        if page.marker in self._sent:
            text = f"{self._side}: a listing goes round in circles: the server repeats a continuation marker"
            raise RetryLater(text, reason="bad_listing", side=self._side)
        self._sent.add(page.marker)
        return page.marker


def parse_azure_page(body: bytes) -> Page:
    """A List Blobs answer (facts/azure.md 3.5). Raises RetryLater when it is no whole list page."""
    try:
        return _azure_text(body) or _azure_tree(body)
    except (ValueError, TypeError):
        raise _broken(Side.BLOB) from None


def _azure_text(body: bytes) -> Page | None:
    """None: not as the service writes it."""
    text = _usual(body)
    if text is None or not _AZURE_HEAD.match(text):
        return None
    start = text.rfind("</Blob>") + len("</Blob>")
    tail = _AZURE_TAIL.match(text, start) if start >= len("</Blob>") else None
    if tail is None:
        return None
    pieces = text[:start].split("<Blob>")[1:]
    if len(pieces) != text.count("</Blob>"):
        return None
    entries = []
    for piece in pieces:
        raw, at = _field(piece, "<Name>", "</Name>", 0)
        encoded = raw is None
        if encoded:
            raw, at = _field(piece, '<Name Encoded="true">', "</Name>", 0)
        date, at = _field(piece, "<Last-Modified>", "</Last-Modified>", at)
        etag, at = _field(piece, "<Etag>", "</Etag>", at)
        size, _ = _field(piece, "<Content-Length>", "</Content-Length>", at)
        md5, _ = _field(piece, "<Content-MD5>", "</Content-MD5>", at)
        kind, _ = _field(piece, "<BlobType>", "</BlobType>", at)
        if not (raw and date and etag and size and piece.rstrip().endswith("</Blob>")):
            return None
        if "<ResourceType>directory<" in piece:
            continue
        name = from_url_form(_text(raw)) if encoded else _text(raw)
        known = md5_hex_of(md5) if md5 and keeps_md5(kind) else None
        entries.append(ListEntry(name, unquote_etag(_text(etag)), int(size), _date(date), known))
    return Page(entries, _text(tail[1] or ""))


def _azure_tree(body: bytes) -> Page:
    root = _root(body, Side.BLOB, "EnumerationResults")
    entries = []
    for blob in root.iterfind("Blobs/Blob"):
        properties = blob.find("Properties")
        name = blob.find("Name")
        if properties is None or name is None:
            raise _broken(Side.BLOB)
        text = properties.findtext
        if text("ResourceType") == "directory":
            continue  # a hierarchical namespace lists its directories too; they are no objects
        raw = name.text or ""
        entries.append(
            ListEntry(
                from_url_form(raw) if name.get("Encoded") == "true" else raw,
                unquote_etag(text("Etag") or ""),
                int(text("Content-Length") or -1),
                Stamp(http_date_us(text("Last-Modified") or "")),
                md5_hex_of(text("Content-MD5")) if keeps_md5(text("BlobType")) else None,
            )
        )
    marker = root.find("NextMarker")
    if marker is None or any(not entry.etag or entry.size_bytes < 0 for entry in entries):
        raise _broken(Side.BLOB)
    return Page(entries, marker.text or "")


def parse_s3_page(body: bytes, *, hashes: bool = True) -> Page:
    """A ListObjectsV2 answer, asked for with ``encoding-type=url``. Raises RetryLater when it is no whole list page.

    Not *hashes*: no ETag is taken for an MD5.
    """
    try:
        return _s3_text(body, hashes=hashes) or _s3_tree(body, hashes=hashes)
    except (ValueError, TypeError):
        raise _broken(Side.VAST) from None


def _s3_text(body: bytes, *, hashes: bool = True) -> Page | None:
    """None: not as the service writes it. What stands around the entries is left to the XML parser, without them."""
    text = _usual(body)
    if text is None:
        return None
    start, end = text.find("<Contents>"), text.rfind("</Contents>") + len("</Contents>")
    if start < 0 or end < start:
        return None
    around = _s3_tree((text[:start] + text[end:]).encode(), hashes=hashes)
    encoded = "<EncodingType>url</EncodingType>" in text[:start] or "<EncodingType>url</EncodingType>" in text[end:]
    pieces = text[start:end].split("<Contents>")[1:]
    if len(pieces) != text.count("</Contents>"):
        return None
    entries = []
    for piece in pieces:
        raw, _ = _field(piece, "<Key>", "</Key>", 0)
        date, _ = _field(piece, "<LastModified>", "</LastModified>", 0)
        quoted, _ = _field(piece, "<ETag>", "</ETag>", 0)
        size, _ = _field(piece, "<Size>", "</Size>", 0)
        if not (raw and date and size and piece.rstrip().endswith("</Contents>")):
            return None
        name = _text(raw)
        name = from_url_form(name, plus=True) if encoded else name
        entries.append(_s3_entry(name, _text(quoted or ""), date, int(size), hashes=hashes))
    return Page(entries, around.marker)


def _s3_tree(body: bytes, *, hashes: bool = True) -> Page:
    root = _root(body, Side.VAST, "ListBucketResult")
    space = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    encoded = root.findtext(f"{space}EncodingType") == "url"
    name_tag, etag_tag, size_tag, date_tag = (space + tag for tag in ("Key", "ETag", "Size", "LastModified"))
    entries = []
    for item in root.iterfind(f"{space}Contents"):
        text = item.findtext
        raw, etag, size, date = text(name_tag), unquote_etag(text(etag_tag) or ""), text(size_tag), text(date_tag)
        if raw is None:
            raise _broken(Side.VAST)
        name = from_url_form(raw, plus=True) if encoded else raw
        if name.endswith("/") and not (etag or size or date):
            size, date = "0", _NO_DATE  # a folder of a gateway over files; what else it is, a HEAD tells
        if not size or not date:
            raise _broken(Side.VAST)
        entries.append(_s3_entry(name, etag, date, int(size), hashes=hashes))
    truncated = root.findtext(f"{space}IsTruncated")
    marker = root.findtext(f"{space}NextContinuationToken") or ""
    if truncated not in {"true", "false"} or (truncated == "true") != bool(marker):
        raise _broken(Side.VAST)
    return Page(entries, marker)


def _s3_entry(name: str, quoted: str, date: str, size_bytes: int, *, hashes: bool) -> ListEntry:
    etag = unquote_etag(quoted)
    md5 = etag.lower() if hashes and s3_etag_kind(etag) is ETagKind.MD5 else None
    stamp = _iso(date)
    token = etag if md5 is not None else version_token(etag, stamp.at_us, size_bytes)
    return ListEntry(name, token, size_bytes, stamp, md5)


def _usual(body: bytes) -> str | None:
    """The page as text, if it is plain UTF-8 without comments, CDATA, carriage returns and processing instructions."""
    try:
        text = body.decode("utf-8-sig")  # Azure begins its pages with a byte order mark, the emulator does not
    except UnicodeDecodeError:
        return None
    # The declaration at the very beginning is the one "<?" that is usual.
    return None if any(sign in text for sign in _UNUSUAL) or text.find("<?", 1) >= 0 else text


def _field(piece: str, opening: str, closing: str, start: int) -> tuple[str | None, int]:
    """The text of the next such element from *start*, and where it ends; None where there is none, or it holds another one."""
    begin = piece.find(opening, start)
    if begin < 0:
        return None, start
    begin += len(opening)
    end = piece.find("<", begin)
    return (piece[begin:end], end) if piece.startswith(closing, end) else (None, start)


def _text(raw: str) -> str:
    """Element text without its entities. Raises ValueError on one that XML does not know."""
    return _ENTITY.sub(_character, raw) if "&" in raw else raw


def _character(found: re.Match[str]) -> str:
    hexadecimal, decimal, name = found.groups()
    if name is not None and name in _NAMED:
        return _NAMED[name]
    if hexadecimal is None and decimal is None:
        raise ValueError("unknown entity")
    return chr(int(hexadecimal, 16) if hexadecimal is not None else int(decimal))


@lru_cache(maxsize=4096)
def _date(text: str) -> Stamp:
    return Stamp(http_date_us(text))


@lru_cache(maxsize=4096)
def _iso(text: str) -> Stamp:
    # Cut to whole seconds, as HEAD gives them: the two are compared.
    return Stamp(int(datetime.fromisoformat(text).timestamp()) * SECOND_US)


def _root(body: bytes, side: Side, tag: str) -> ET.Element:
    try:
        root = ET.fromstring(body)  # noqa: S314 - the configured, authenticated service; bounded by one page
    except (ET.ParseError, LookupError):  # the latter: an encoding that nobody knows
        raise _broken(side) from None
    if root.tag.rpartition("}")[2] != tag:
        raise _broken(side)
    return root


def _broken(side: Side) -> RetryLater:
    return RetryLater(f"{side}: a list page was cut short or is no list page", reason="bad_listing", side=side)
