"""VAST's S3 event records (facts/vast.md 1): plain notifications and DataEngine CloudEvents around them. Pure.

A CloudEvent comes structured (attributes and ``data`` in the message) or binary (attributes in Kafka headers, the message is the
data). Where it holds no ``Records``, its element attributes say which object it is about.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_plus

import msgspec

from federation import keys
from federation.errors import Park
from federation.model import PRESERVED_PREFIX, Change, Side, Source
from federation.payloads import EVENT_LIMIT_BYTES, Malformed, Parsed
from federation.payloads.times import event_stamp

CANARY_KEY = f"{PRESERVED_PREFIX}canary a+b%20c"
"""Object whose events prove that the topic works. Only by the spelling that the sender uses is its name read rightly."""
_ELEMENT = "vastdata.com:Element."
_ELEMENT_EVENTS = {
    "ElementCreated": "ObjectCreated:Element",
    "ElementDeleted": "ObjectRemoved:Element",
    "ElementTagCreated": "ObjectTagging:Element",
    "ElementTagDeleted": "ObjectTagging:Element",
}
_SPELLINGS: dict[str, Callable[[str], str]] = {"percent": unquote, "raw": str, "plus": unquote_plus}


@dataclass(frozen=True, slots=True)
class VastScope:
    """What a record may name. ``key_encoding``: ``raw``, ``percent``, ``plus`` or ``auto`` (not known; facts/vast.md 1)."""

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


@dataclass(frozen=True, slots=True)
class CanaryEvent:
    """The canary's event: the ETag it tells (empty: none), and the spellings by which its key is the canary's."""

    etag: str
    spellings: frozenset[str]


@dataclass(slots=True)
class VastParsed(Parsed):
    """``changes`` of records that can be read in one way, and the others."""

    ambiguous: list[Ambiguous] = field(default_factory=list)
    canary: CanaryEvent | None = None


def parse(body: bytes, scope: VastScope, headers: Iterable[tuple[str, bytes | None]] = ()) -> VastParsed:
    """All changes of one message with the Kafka *headers* it came with.

    Raises:
        Malformed: no JSON, or nothing in it that VAST documents.
    """
    if len(body) > EVENT_LIMIT_BYTES:
        raise Malformed(f"a message of {len(body)} bytes; the broker takes none above {EVENT_LIMIT_BYTES}")
    parsed = VastParsed()
    attributes = {name: value for name, value in headers if name.startswith(("ce_", "ce-"))}
    decoded = _json(body) if body or not attributes else None
    records = _records(decoded)
    if records is None and attributes:
        records = _element({name[3:]: (value or b"").decode(errors="replace") for name, value in attributes.items()})
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


def _json(text: bytes | str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError, RecursionError):
        raise Malformed("not JSON") from None


def _records(decoded: Any) -> list[Any] | None:  # noqa: ANN401 - any JSON
    """``Records`` at the top, or of a CloudEvent; of one event or of an array of them."""
    if isinstance(decoded, dict) and isinstance(plain := decoded.get("Records"), list):
        return plain
    events = decoded if isinstance(decoded, list) else [decoded]
    records: list[Any] = []
    for event in events:
        found = _records_of(event)
        if found is None and isinstance(event, dict):
            inner = _records_of(_data(event))
            found = inner if inner is not None else _element(event)
        if found is None:
            return None
        records += found
    return records if events else None


def _records_of(place: Any) -> list[Any] | None:  # noqa: ANN401 - any JSON
    records = place.get("Records") if isinstance(place, dict) else None
    return records if isinstance(records, list) else None


def _data(event: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """What a structured CloudEvent carries: a value, a text that holds JSON, or base64 (CloudEvents 1.0, JSON format)."""
    data = event.get("data")
    try:
        if isinstance(coded := event.get("data_base64"), str) and data is None:
            return _json(base64.b64decode(coded))
        return _json(data) if isinstance(data, str) else data
    except (Malformed, binascii.Error, ValueError):
        return None


def _element(event: Mapping[str, Any]) -> list[Any] | None:
    """A record made from the element attributes of a DataEngine CloudEvent: ``elementpath`` is bucket, slash, key."""
    kind, path = event.get("type"), event.get("elementpath")
    if not isinstance(kind, str) or not kind.startswith(_ELEMENT) or not isinstance(path, str):
        return None
    bucket, _, key = path.removeprefix("/").partition("/")
    name = _ELEMENT_EVENTS.get(kind.removeprefix(_ELEMENT), kind)
    return [{"eventName": name, "eventTime": event.get("time"), "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}]


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
    if (spellings := _canary(raw, scope)) and kind == "ObjectCreated":
        parsed.canary = CanaryEvent(etag or "", spellings)
    readings = tuple(
        (Change(key, Side.VAST, Source.VAST_EVENTS, etag=etag, deleted=kind == "ObjectRemoved", at=stamp), spellings)
        for key, spellings in _keys(raw, scope, parsed).items()
    )
    if len(readings) == 1:
        parsed.changes.append(readings[0][0])
    elif readings:
        parsed.ambiguous.append(Ambiguous(readings))


def _canary(raw: str, scope: VastScope) -> frozenset[str]:
    """The spellings by which *raw* names the canary; none for any other object."""
    if "canary" not in raw:
        return frozenset()
    return frozenset(one for one, read in _SPELLINGS.items() if read(raw) == scope.prefix + CANARY_KEY)


def _keys(raw: str, scope: VastScope, parsed: Parsed) -> dict[str, frozenset[str]]:
    """The keys that *raw* may mean, ours only, with the spellings that lead to each."""
    names: dict[str, frozenset[str]] = {}
    if "%" in raw or "+" in raw:
        for spelling, read in _SPELLINGS.items():
            if scope.key_encoding in ("auto", spelling):
                name = read(raw)
                names[name] = names.get(name, frozenset()) | {spelling}
    else:
        names[raw] = frozenset(_SPELLINGS)
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
