"""List pages without an SDK object for each entry, and the order of keys on top of the order of names.

A listing comes in the order of the side's names. A key whose name is escaped (``federation.keys``) may belong elsewhere, and some
servers sort by UTF-16. So a first pass over the listing keeps the few entries that come late, and a second one merges them in.
When a whole first pass found nothing late and no escaped name, later listings make one pass only; one that finds a late entry
after all asks to be repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from xml.etree import ElementTree as ET

from federation import keys
from federation.errors import Park, RetryLater
from federation.keys import NamePolicy
from federation.model import PRESERVED_PREFIX, SECOND_US, ETagKind, ListEntry, Side, Stamp, s3_etag_kind
from federation.sorting import sort_entries
from federation.stores.lane import http_date_us, unquote_etag
from federation.stores.wire import from_url_form, md5_hex_of, version_token

LATE_LIMIT = 200_000
"""Entries out of order that are kept in memory (about 60 MB); beyond that the whole listing is sorted on disk."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: names as the side has them (in place of keys), in its order, and where to go on (empty: the end)."""

    entries: list[ListEntry]
    marker: str


Pages = Callable[[str, str], AsyncIterator[Page]]
"""All pages of names with a prefix and after a name; the server may ignore the latter."""


def parse_azure_page(body: bytes) -> Page:
    """A List Blobs answer (facts/azure.md 3.5). Raises RetryLater when it is no whole list page."""
    try:
        return _azure_page(body)
    except (ValueError, TypeError):
        raise _broken(Side.BLOB) from None


def _azure_page(body: bytes) -> Page:
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
                md5_hex_of(text("Content-MD5")),
            )
        )
    marker = root.find("NextMarker")
    if marker is None or any(not entry.etag or entry.size_bytes < 0 for entry in entries):
        raise _broken(Side.BLOB)
    return Page(entries, marker.text or "")


def parse_s3_page(body: bytes) -> Page:
    """A ListObjectsV2 answer, asked for with ``encoding-type=url``. Raises RetryLater when it is no whole list page."""
    try:
        return _s3_page(body)
    except (ValueError, TypeError):
        raise _broken(Side.VAST) from None


def _s3_page(body: bytes) -> Page:
    root = _root(body, Side.VAST, "ListBucketResult")
    space = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    encoded = root.findtext(f"{space}EncodingType") == "url"
    name_tag, etag_tag, size_tag, date_tag = (space + tag for tag in ("Key", "ETag", "Size", "LastModified"))
    entries = []
    for item in root.iterfind(f"{space}Contents"):
        text = item.findtext
        raw, etag, size, date = text(name_tag), unquote_etag(text(etag_tag) or ""), text(size_tag), text(date_tag)
        if raw is None or not size or not date:
            raise _broken(Side.VAST)
        md5 = etag.lower() if s3_etag_kind(etag) is ETagKind.MD5 else None
        # Cut to whole seconds, as HEAD gives them: the two are compared.
        modified_us = int(datetime.fromisoformat(date).timestamp()) * SECOND_US
        token = version_token(etag, modified_us, int(size))
        entries.append(ListEntry(from_url_form(raw, plus=True) if encoded else raw, token, int(size), Stamp(modified_us), md5))
    truncated = root.findtext(f"{space}IsTruncated")
    marker = root.findtext(f"{space}NextContinuationToken") or ""
    if truncated not in {"true", "false"} or (truncated == "true") != bool(marker):
        raise _broken(Side.VAST)
    return Page(entries, marker)


class OrderedListing:
    """Entries by key, in ascending UTF-8 order, from pages of names."""

    def __init__(self, side: Side, policy: NamePolicy, prefix: str, pages: Pages) -> None:
        self.skipped_names = 0
        """Names of the last listing that no key has: illegal under the policy, so they cannot be addressed."""
        self._side = side
        self._policy = policy
        self._prefix = prefix
        self._pages = pages
        self.in_order = False
        """Whether the last whole first pass, and no listing since, found nothing late and no escaped name."""
        self._escaped = False

    def disturb(self) -> None:
        """Say that an escaped name is about to be written, so that the next listing looks for late entries again."""
        self.in_order = False

    async def entries(self, prefix: str, start_after: str) -> AsyncIterator[ListEntry]:
        """As ``ObjectStore.list``. Raises RetryLater with reason "listing_order"."""
        after = last = _order(start_after)
        source = self._decoded(prefix, start_after) if self.in_order else self._merged(prefix)
        async for entry in source:
            order = _order(entry.key)
            if order <= after:
                continue
            if order <= last:
                self.in_order = False
                raise RetryLater("a listing came out of order; listing again", reason="listing_order", side=self._side)
            last = order
            yield entry

    async def _merged(self, prefix: str) -> AsyncIterator[ListEntry]:
        late = await self._late(prefix)
        if late is None:
            async for entry in sort_entries(self._decoded(prefix, "")):
                yield entry
            return
        waiting = deque(sorted(late.values(), key=lambda entry: _order(entry.key)))
        async for entry in self._decoded(prefix, ""):
            if entry.key in late:
                continue
            while waiting and _order(waiting[0].key) < _order(entry.key):
                yield waiting.popleft()
            yield entry
        for entry in waiting:
            yield entry

    async def _late(self, prefix: str) -> dict[str, ListEntry] | None:
        """Entries below their predecessors, by key; None when they are more than ``LATE_LIMIT``."""
        late: dict[str, ListEntry] = {}
        last = b""
        async for entry in self._decoded(prefix, ""):
            order = _order(entry.key)
            if order > last:
                last = order
                continue
            late[entry.key] = entry
            if len(late) > LATE_LIMIT:
                self.in_order = False
                return None
        self.in_order = not prefix and not late and not self._escaped
        return late

    async def _decoded(self, prefix: str, start_after: str) -> AsyncIterator[ListEntry]:
        self.skipped_names, self._escaped = 0, False
        wanted = self._prefix + keys.server_prefix(prefix, self._policy)
        keep_excluded = keys.excluded(prefix) or prefix.startswith(PRESERVED_PREFIX)
        start = self._prefix + start_after if start_after else ""
        cut = len(self._prefix)
        async for page in self._pages(wanted, start):
            for entry in page.entries:
                if not keep_excluded and keys.excluded(entry.key[cut:]):
                    continue
                found = self._keyed(entry, cut)
                if found is not None and found.key.startswith(prefix):
                    yield found

    def _keyed(self, entry: ListEntry, cut: int) -> ListEntry | None:
        name = entry.key
        if self._policy.plain(name[cut:]) and len(name) > cut:
            return entry if not cut else ListEntry(name[cut:], entry.etag, entry.size_bytes, entry.modified, entry.md5)
        self._escaped = True
        self.in_order = False
        try:
            key = keys.decode(name, self._policy, prefix=self._prefix)
        except Park:
            self.skipped_names += 1
            return None
        return ListEntry(key, entry.etag, entry.size_bytes, entry.modified, entry.md5)


def _order(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _root(body: bytes, side: Side, tag: str) -> ET.Element:
    try:
        root = ET.fromstring(body)  # noqa: S314 - the configured, authenticated service; bounded by one page
    except ET.ParseError:
        raise _broken(side) from None
    if root.tag.rpartition("}")[2] != tag:
        raise _broken(side)
    return root


def _broken(side: Side) -> RetryLater:
    return RetryLater(f"{side}: a list page was cut short or is no list page", reason="bad_listing", side=side)
