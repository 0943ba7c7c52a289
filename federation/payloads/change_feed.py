"""Records of the Blob change feed, already decoded from Avro (facts/azure.md 2.4, 2.6). Pure.

What a record says is read from the fields it has, never from ``schemaVersion``: headers and records disagree about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from federation import keys
from federation.errors import Park
from federation.model import Change, Side, Source, Stamp, StampOrigin
from federation.payloads import Malformed, Parsed
from federation.payloads.event_grid import BlobScope
from federation.payloads.times import event_stamp

Record = Mapping[str, Any]

_CONTAINERS, _BLOBS = "/containers/", "/blobs/"
_MICROS = 6
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CONTENT_EVENTS = frozenset({"BlobCreated", "AppendBlobDataUpdated", "BlobPropertiesUpdated"})
"""Their ETag is that of the version they made; a tier or tag change keeps the ETag, or says nothing of it."""
_OF_SNAPSHOTS_TOO = frozenset({"BlobDeleted", "BlobTierChanged"})
"""Where these name a snapshot, the blob itself stays as it was."""
_HARMLESS = {
    "Control": "control",
    "BlobSnapshotCreated": "snapshot",
    "BlobLastAccessTimeUpdated": "access_time",
    "RestorePointMarkerCreated": "restore_point",
}


def parse(records: Iterable[Record], scope: BlobScope, *, from_us: int = 0) -> tuple[Parsed, list[tuple[str, Record]]]:
    """The changes of *records* that are this pair's, and the records that could not be read, each with the reason.

    Records of before *from_us* are counted and passed over.
    """
    parsed = Parsed()
    unreadable: list[tuple[str, Record]] = []
    for record in records:
        try:
            _one(record, scope, parsed, from_us)
        except Malformed as fault:
            unreadable.append((str(fault), record))
            parsed.scan_prefixes.add("")
    return parsed, unreadable


def blob_of(record: Record) -> tuple[str, str] | None:
    """Container and blob name of a record's subject, as they are: raw UTF-8, never percent-decoded. None: it names no blob."""
    subject = record.get("subject")
    if not isinstance(subject, str):
        return None
    # A blob's name may itself hold either marker: only the first of each counts.
    _, found, rest = subject.partition(_CONTAINERS)
    container, found_blob, name = rest.partition(_BLOBS)
    return (container, name) if found and found_blob and container and name else None


def time_of(record: Record) -> Stamp | None:
    """The stamp of a record's ``eventTime``; None when it is missing or no time."""
    text = record.get("eventTime")
    if not isinstance(text, str):
        return None
    whole, micros = text[:19], text[20:26]
    if text[19:20] == "." and text[26:].endswith("Z") and text[20:-1].isascii() and text[20:-1].isdecimal():
        # As the service writes it, seven digits of fraction: many records share a second, which is the costly part.
        at_us = _second_us(whole)
        return Stamp(at_us + int(micros), 1, StampOrigin.CHANGE_FEED) if at_us is not None and len(micros) == _MICROS else None
    stamp = event_stamp(text)
    return Stamp(stamp.at_us, stamp.precision_us, StampOrigin.CHANGE_FEED) if stamp is not None else None


@lru_cache(maxsize=4096)
def _second_us(text: str) -> int | None:
    stamp = event_stamp(f"{text}Z")
    return stamp.at_us if stamp is not None else None


def names_pair(record: Record, scope: BlobScope) -> bool:
    """Whether *record* is about the pair's container and prefix."""
    found = blob_of(record)
    return found is not None and found[0] == scope.container and found[1].startswith(scope.prefix)


def _one(record: Record, scope: BlobScope, parsed: Parsed, from_us: int) -> None:
    kind, data = record.get("eventType"), record.get("data")
    if not isinstance(kind, str) or not kind:
        raise Malformed("a record has no eventType")
    if not isinstance(data, Mapping):
        raise Malformed("a record has no data")
    stamp = time_of(record)
    parsed.newest_us = max(parsed.newest_us, stamp.at_us if stamp is not None else 0)
    if stamp is not None and stamp.at_us < from_us:
        parsed.ignored["before_start"] += 1
        return
    if scope.account_id and str(record.get("topic")).rstrip("/").lower() != scope.account_id.rstrip("/").lower():
        parsed.refused["foreign_account"] += 1
        return
    if kind in _HARMLESS:
        parsed.ignored[_HARMLESS[kind]] += 1
        return
    name = _name(record, scope, parsed)
    if name is None:
        return
    if kind in _OF_SNAPSHOTS_TOO and data.get("snapshot"):
        parsed.ignored["of_a_snapshot"] += 1
        return
    key = _key(name, scope, parsed)
    if key is not None:
        parsed.changes.append(_change(key, kind, data, stamp))


def _name(record: Record, scope: BlobScope, parsed: Parsed) -> str | None:
    """The blob's name inside our prefix; None when it is not ours."""
    found = blob_of(record)
    if found is None:
        raise Malformed("a record's subject names no blob")
    container, name = found
    if container != scope.container:
        # One feed holds all containers of the account: nothing is wrong with these.
        parsed.ignored["other_container"] += 1
        return None
    if not name.startswith(scope.prefix) or name == scope.prefix:
        parsed.ignored["outside_prefix"] += 1
        return None
    return name[len(scope.prefix) :]


def _change(key: str, kind: str, data: Mapping[str, Any], at: Stamp | None) -> Change:
    """What the record says of its blob."""
    if kind == "BlobDeleted" and not _of_a_version(data):
        # Its ETag proves nothing about what was deleted (facts/azure.md 2.6).
        return Change(key, Side.BLOB, Source.CHANGE_FEED, deleted=True, at=at)
    etag = data.get("etag") if kind in _CONTENT_EVENTS else None
    told = etag.strip('"') or None if isinstance(etag, str) else None
    # Anything else, types we do not know included, is news of an unknown kind: looked at, and never taken for an echo.
    return Change(key, Side.BLOB, Source.CHANGE_FEED, etag=told, at=at)


def _of_a_version(data: Mapping[str, Any]) -> bool:
    """Whether a delete was of one version: no word about the blob, whose current version may be another, or that one.

    A delete of the blob of a versioned account has no ``blobVersion``; its former version is ``previousInfo.LastVersion``.
    """
    previous = data.get("previousInfo")
    return bool(data.get("blobVersion")) and not (isinstance(previous, Mapping) and previous.get("LastVersion"))


def _key(name: str, scope: BlobScope, parsed: Parsed) -> str | None:
    if _REPLACEMENT in name:
        # A name that may have been mangled on its way, as Event Grid's are (facts/azure.md 1.2).
        parsed.ignored["unreadable_name"] += 1
        parsed.scan_prefixes.add(scope.beginning(scope.prefix + name.partition(_REPLACEMENT)[0]))
        return None
    try:
        key = scope.decode(name)
    except Park:
        parsed.refused["unrepresentable"] += 1
        return None
    if keys.excluded(key):
        parsed.ignored["excluded"] += 1
        return None
    return key
