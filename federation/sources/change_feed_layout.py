"""Names and small documents inside ``$blobchangefeed`` (facts/azure.md 2.2 and 2.3). Pure.

Names are parsed and never made: minutes may be odd, and what a segment holds is said by its manifest alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from federation.model import SECOND_US
from federation.payloads import Malformed
from federation.payloads.times import event_stamp

CONTAINER = "$blobchangefeed"
INDEX = "meta/segments.json"
SEGMENTS = "idx/segments/"
INTERVAL_US = 3600 * SECOND_US
SLACK_US = 900 * SECOND_US
"""A segment's time is right to within a quarter of an hour (facts/azure.md 2.2)."""

_SEGMENT = re.compile(r"idx/segments/(\d{4})/(\d\d)/(\d\d)/(\d\d)(\d\d)/meta\.json\Z", re.ASCII)
_DAYS_BY_DAY, _DAYS_BY_MONTH = 4, 400
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Index:
    """``meta/segments.json``: segments up to and including *last_consumable_us* may be read, the last of them still grows."""

    last_consumable_us: int
    modified_us: int | None
    """When the service last wrote it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A segment's ``meta.json``. Shard paths are relative to the container and end in a slash."""

    finalized: bool
    interval_us: int
    shards: tuple[str, ...]


def parse_index(body: bytes) -> Index:
    """Read ``meta/segments.json``. Raises Malformed."""
    data = _object(body, INDEX)
    last = event_stamp(data.get("lastConsumable"))
    if last is None:
        raise Malformed(f"{INDEX} has no lastConsumable")
    diagnostics = data.get("storageDiagnostics")
    modified = event_stamp(diagnostics.get("lastModifiedTime")) if isinstance(diagnostics, Mapping) else None
    return Index(last.at_us, modified.at_us if modified is not None else None)


def parse_manifest(body: bytes, name: str) -> Manifest:
    """Read a segment's manifest; *name* is for the error. Raises Malformed."""
    data = _object(body, name)
    status, seconds, paths = data.get("status"), data.get("intervalSecs", 3600), data.get("chunkFilePaths")
    if not isinstance(status, str) or not isinstance(paths, list) or not isinstance(seconds, int):
        raise Malformed(f"{name} has no status, interval or chunkFilePaths")
    return Manifest(status == "Finalized", seconds * SECOND_US, tuple(_shard(path, name) for path in paths))


def segment_begin_us(name: str) -> int | None:
    """When the segment of manifest *name* begins; None for anything else, the placeholder of 1601 and folder markers included."""
    match = _SEGMENT.match(name)
    if match is None:
        return None
    try:
        begin = datetime(*(int(part) for part in match.groups()), tzinfo=UTC)  # type: ignore[arg-type,misc]
    except ValueError:
        return None
    return int(begin.timestamp()) * SECOND_US if begin.year > 1970 else None  # noqa: PLR2004 - 1601 is Windows' first year


def segment_prefixes(from_us: int, to_us: int) -> list[str]:
    """Prefixes that between them list every segment that begins in ``[from_us, to_us]``: of days, months, or all of them."""
    first, last = (datetime.fromtimestamp(max(0, at_us) / SECOND_US, UTC).date() for at_us in (from_us, to_us))
    days = (last - first).days
    if days < 0:
        return []
    if days > _DAYS_BY_MONTH:
        return [SEGMENTS]
    form = "%Y/%m/%d/" if days <= _DAYS_BY_DAY else "%Y/%m/"
    return sorted({SEGMENTS + (first + timedelta(days=day)).strftime(form) for day in range(days + 1)})


def _shard(path: object, name: str) -> str:
    inside = path.removeprefix(f"{CONTAINER}/") if isinstance(path, str) else ""
    if not inside.startswith("log/"):
        raise Malformed(f"{name} names a shard that is not in the feed")
    return inside if inside.endswith("/") else f"{inside}/"


def _object(body: bytes, name: str) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(body.removeprefix(_BOM))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed(f"{name} is not JSON") from None
    if not isinstance(data, dict):
        raise Malformed(f"{name} is no JSON object")
    return data
