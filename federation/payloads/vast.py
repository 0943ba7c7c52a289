"""VAST's S3 event records (facts/vast.md 1): plain notifications and DataEngine CloudEvents around them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_plus

import msgspec

from federation import keys
from federation.errors import Park
from federation.model import Change, Side, Source
from federation.payloads import EVENT_LIMIT_BYTES, Malformed, Parsed
from federation.payloads.times import event_stamp


@dataclass(frozen=True, slots=True)
class VastScope:
    """What a record may name. ``key_encoding``: ``raw``, ``percent`` or ``auto`` (not known; facts/vast.md 1)."""

    bucket: str
    prefix: str
    key_encoding: str
    decode: Callable[[str], str]
    """Side name (without the prefix) to key."""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """One record whose key can be read in several ways: the change each reading would be, with the spellings that lead to it."""

    readings: tuple[tuple[Change, frozenset[str]], ...]

    def under(self, possible: frozenset[str]) -> list[Change]:
        """The changes of readings by *possible* spellings."""
        return [change for change, spellings in self.readings if spellings & possible]

    def spellings(self, key: str) -> frozenset[str]:
        """The spellings that lead to *key*."""
        return frozenset().union(*(spellings for change, spellings in self.readings if change.key == key))


@dataclass(slots=True)
class VastParsed(Parsed):
    """``changes`` of records that can be read in one way, and the others."""

    ambiguous: list[Ambiguous] = field(default_factory=list)


def parse(body: bytes, scope: VastScope) -> VastParsed:
    """All changes of one message.

    Raises:
        Malformed: no JSON, or nothing in it that VAST documents.
    """
    if len(body) > EVENT_LIMIT_BYTES:
        raise Malformed(f"a message of {len(body)} bytes; the broker takes none above {EVENT_LIMIT_BYTES}")
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed("not JSON") from None
    parsed = VastParsed()
    records = _records(decoded)
    if records is None:
        if isinstance(decoded, dict) and decoded.get("Event") == "s3:TestEvent":
            parsed.ignored["test_event"] += 1
            return parsed
        raise Malformed("no Records")
    faults = []
    for record in records:
        try:
            _one(record, scope, parsed)
        except Malformed as fault:
            faults.append(fault)
    if faults and len(faults) == len(records):
        raise faults[0]
    parsed.malformed(len(faults))
    return parsed


def _records(decoded: Any) -> list[Any] | None:  # noqa: ANN401 - any JSON
    """``Records`` at the top, or under ``data`` of a DataEngine CloudEvent; of one event or of an array of them."""
    events = decoded if isinstance(decoded, list) else [decoded]
    records: list[Any] = []
    for event in events:
        found = _records_of(event)
        if found is None and isinstance(event, dict):
            found = _records_of(event.get("data"))
        if found is None:
            return None
        records += found
    return records if events else None


def _records_of(place: Any) -> list[Any] | None:  # noqa: ANN401 - any JSON
    records = place.get("Records") if isinstance(place, dict) else None
    return records if isinstance(records, list) else None


def _one(record: Any, scope: VastScope, parsed: VastParsed) -> None:  # noqa: ANN401 - any JSON
    s3 = record.get("s3") if isinstance(record, dict) else None
    bucket = s3.get("bucket") if isinstance(s3, dict) else None
    item = s3.get("object") if isinstance(s3, dict) else None
    name = record.get("eventName") if isinstance(record, dict) else None
    if not isinstance(bucket, dict) or not isinstance(item, dict) or not isinstance(name, str):
        raise Malformed("a record without eventName, bucket or object")
    stamp = event_stamp(record.get("eventTime"))
    parsed.newest_us = max(parsed.newest_us, stamp.at_us if stamp is not None else 0)
    if bucket.get("name") != scope.bucket:
        parsed.refused["foreign_bucket"] += 1
        return
    kind = name.removeprefix("s3:").partition(":")[0]
    if kind not in ("ObjectCreated", "ObjectRemoved", "ObjectTagging"):
        parsed.ignored["other_event"] += 1
        return
    raw = item.get("key")
    if not isinstance(raw, str) or not raw:
        raise Malformed("a record without a key")
    etag = item.get("eTag") if kind == "ObjectCreated" else None
    etag = etag.strip('"') or None if isinstance(etag, str) else None
    readings = tuple(
        (Change(key, Side.VAST, Source.VAST_EVENTS, etag=etag, deleted=kind == "ObjectRemoved", at=stamp), spellings)
        for key, spellings in _keys(raw, scope, parsed).items()
    )
    if len(readings) == 1:
        parsed.changes.append(readings[0][0])
    elif readings:
        parsed.ambiguous.append(Ambiguous(readings))


def _keys(raw: str, scope: VastScope, parsed: Parsed) -> dict[str, frozenset[str]]:
    """The keys that *raw* may mean, ours only, with the spellings that lead to each."""
    names: dict[str, frozenset[str]] = {}
    for spelling, name in (("percent", unquote(raw)), ("raw", raw), ("plus", unquote_plus(raw))):
        if scope.key_encoding in ("auto", spelling):
            names[name] = names.get(name, frozenset()) | {spelling}
    found: dict[str, frozenset[str]] = {}
    for name, spellings in names.items():
        if not name.startswith(scope.prefix) or name == scope.prefix:
            continue
        try:
            key = scope.decode(name[len(scope.prefix) :])
        except Park:
            continue
        if keys.excluded(key):
            parsed.ignored["excluded"] += 1
            return {}
        found[key] = found.get(key, frozenset()) | spellings
    if not found:
        parsed.refused["outside_prefix"] += 1
    return found
