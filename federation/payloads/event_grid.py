"""Event Grid storage events, in the Event Grid schema and in CloudEvents 1.0 (facts/azure.md 1). Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from federation import keys
from federation.errors import Park
from federation.model import Change, Side, Source
from federation.payloads import EVENT_LIMIT_BYTES, Malformed, Parsed
from federation.payloads.times import event_stamp

_PREFIX = "Microsoft.Storage."
_VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"
_CONTAINERS, _BLOBS = "/containers/", "/blobs/"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_DIRECTORY_EVENTS = frozenset({"DirectoryCreated", "DirectoryRenamed", "DirectoryDeleted"})
_NO_ETAG_EVENTS = frozenset({"BlobTierChanged", "AsyncOperationInitiated"})


@dataclass(frozen=True, slots=True)
class BlobScope:
    """What an event may name. ``account_id``: ARM id, compared without case; empty: not checked."""

    account_id: str
    container: str
    prefix: str
    decode: Callable[[str], str]
    """Side name (without the prefix) to key."""


def parse(body: bytes, scope: BlobScope) -> Parsed:
    """All changes of one delivery: an event or an array of events, of either schema.

    Raises:
        Malformed: no JSON, no event, or an event above the documented size.
    """
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed("not JSON") from None
    events = decoded if isinstance(decoded, list) else [decoded]
    if len(body) > EVENT_LIMIT_BYTES and len(events) == 1:
        raise Malformed(f"an event of {len(body)} bytes; Event Grid sends none above {EVENT_LIMIT_BYTES}")
    parsed = Parsed()
    faults = []
    for event in events:
        try:
            _one(event, scope, parsed)
        except Malformed as fault:
            faults.append(fault)
    if faults and len(faults) == len(events):
        raise faults[0]
    parsed.malformed(len(faults))
    return parsed


def decode_queue_text(text: str) -> bytes:
    """The event in a Storage Queue message: base64 as Event Grid writes it, or plain JSON. Raises Malformed."""
    stripped = text.strip()
    if stripped.startswith(("{", "[")):
        return stripped.encode()
    try:
        return base64.b64decode(stripped, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("neither JSON nor base64") from None


def _one(event: Any, scope: BlobScope, parsed: Parsed) -> None:  # noqa: ANN401 - any JSON
    if not isinstance(event, dict):
        raise Malformed("an event is not a JSON object")
    kind = event.get("eventType") or event.get("type")
    subject = event.get("subject")
    data = event.get("data")
    if not isinstance(kind, str) or not kind:
        raise Malformed("an event has no type")
    data = data if isinstance(data, dict) else {}
    if kind == _VALIDATION:
        parsed.validation_code = str(data.get("validationCode", ""))
        return
    if not kind.startswith(_PREFIX):
        parsed.ignored["unknown_type"] += 1
        return
    if not isinstance(subject, str):
        raise Malformed("a storage event has no subject")
    topic = event.get("topic") or event.get("source")
    if scope.account_id and str(topic).rstrip("/").lower() != scope.account_id.rstrip("/").lower():
        parsed.refused["foreign_account"] += 1
        return
    stamp = event_stamp(event.get("eventTime") or event.get("time"))
    parsed.newest_us = max(parsed.newest_us, stamp.at_us if stamp is not None else 0)
    _Storage(scope, parsed, event.get("eventTime") or event.get("time")).read(kind.removeprefix(_PREFIX), subject, data)


@dataclass(frozen=True, slots=True)
class _Storage:
    """One storage event of our account."""

    scope: BlobScope
    parsed: Parsed
    time: object

    def read(self, kind: str, subject: str, data: dict[str, Any]) -> None:
        if kind == "BlobCreated":
            # A create of no length by CreateFile is only the start of a write: its version is never final.
            begun = data.get("api") == "CreateFile" and data.get("contentLength") in (0, None)
            self._change(subject, etag=None if begun else _etag(data))
        elif kind == "BlobDeleted":
            self._change(subject, deleted=True)
        elif kind in _NO_ETAG_EVENTS:
            self._change(subject)
        elif kind == "BlobRenamed":
            self._renamed(subject, data)
        elif kind in _DIRECTORY_EVENTS:
            if self._name(subject) is not None:
                self.parsed.ignored["directory"] += 1
                self.parsed.needs_scan = True
        else:
            self.parsed.ignored["other_type"] += 1

    def _renamed(self, subject: str, data: dict[str, Any]) -> None:
        self._change(subject)
        for name in (data.get("destinationUrl"), data.get("sourceUrl")):
            # URLs name the blob percent-encoded in a way no page defines; the subject names one end, a scan finds the other.
            self.parsed.needs_scan = self.parsed.needs_scan or isinstance(name, str)

    def _change(self, subject: str, *, etag: str | None = None, deleted: bool = False) -> None:
        name = self._name(subject)
        if name is None:
            return
        if _REPLACEMENT in name:
            # Names outside the BMP may arrive mangled (facts/azure.md 1.2).
            self.parsed.ignored["unreadable_name"] += 1
            self.parsed.needs_scan = True
            return
        try:
            key = self.scope.decode(name)
        except Park:
            self.parsed.refused["unrepresentable"] += 1
            return
        if keys.excluded(key):
            self.parsed.ignored["excluded"] += 1
            return
        at = event_stamp(self.time)
        self.parsed.changes.append(Change(key, Side.BLOB, Source.EVENT_GRID, etag=etag, deleted=deleted, at=at))

    def _name(self, subject: str) -> str | None:
        """The blob's name inside our prefix; None when it is not ours. A name may itself hold ``/containers/`` or ``/blobs/``."""
        _, found, rest = subject.partition(_CONTAINERS)
        container, found_blob, name = rest.partition(_BLOBS)
        if not found or not found_blob or not name:
            raise Malformed("a storage event's subject names no blob")
        if container != self.scope.container:
            self.parsed.refused["foreign_container"] += 1
            return None
        if not name.startswith(self.scope.prefix) or name == self.scope.prefix:
            self.parsed.refused["outside_prefix"] += 1
            return None
        return name[len(self.scope.prefix) :]


def _etag(data: dict[str, Any]) -> str | None:
    etag = data.get("eTag")
    return etag.strip('"') or None if isinstance(etag, str) else None
