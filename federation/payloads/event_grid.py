"""Event Grid storage events, in the Event Grid schema and in CloudEvents 1.0 (facts/azure.md 1). Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from federation import keys, trace
from federation.model import Change, Side, Source, Stamp, Trace
from federation.payloads import EVENT_LIMIT_BYTES, Malformed, Parsed
from federation.payloads.blob_scope import BlobScope, Elsewhere, Named
from federation.payloads.sequencer import coalesce
from federation.payloads.times import event_stamp

__all__ = ["BlobScope", "decode_queue_text", "parse", "structured"]

_PREFIX = "Microsoft.Storage."
_VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"
_DIRECTORY_EVENTS = frozenset({"DirectoryCreated", "DirectoryRenamed", "DirectoryDeleted"})
_NO_ETAG_EVENTS = frozenset({"BlobTierChanged", "AsyncOperationInitiated"})
_OF_NO_BLOB = frozenset(
    {
        "LifecyclePolicyCompleted",
        "StorageTaskQueued",
        "StorageTaskCompleted",
        "StorageTaskAssignmentQueued",
        "StorageTaskAssignmentCompleted",
    }
)
_DEAD_LETTERED = "deadLetterProperties"
"""Beside ``event`` in what a namespace's subscription dead-letters."""


def parse(body: bytes, scope: BlobScope) -> Parsed:
    """All changes of one delivery: an event or an array of events, of either schema, dead-lettered ones too.

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
    delivery = _Delivery(scope)
    faults = []
    for event in events:
        try:
            delivery.take(event)
        except Malformed as fault:
            faults.append(fault)
    if faults and len(faults) == len(events):
        raise faults[0]
    delivery.parsed.malformed(len(faults))
    delivery.parsed.changes = coalesce(delivery.told)
    return delivery.parsed


def decode_queue_text(text: str) -> bytes:
    """The event in a Storage Queue message: base64 as Event Grid writes it, or plain JSON. Raises Malformed."""
    stripped = text.strip()
    if stripped.startswith(("{", "[")):
        return stripped.encode(errors="surrogatepass")
    try:
        return base64.b64decode(stripped, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("neither JSON nor base64") from None


def structured(headers: Mapping[str, str], body: bytes) -> bytes:
    """The event in JSON, also where a sender used CloudEvents' binary mode: attributes in ``ce-`` headers, data in the body.

    *headers* are looked up without case. Raises Malformed when the data of a binary-mode event is no JSON.
    """
    given = {name.lower(): value for name, value in headers.items()}
    attributes = {name[3:]: unquote(value) for name, value in given.items() if name.startswith("ce-")}
    if "type" not in attributes or "specversion" not in attributes:
        return body
    try:
        data = msgspec.json.decode(body) if body else None
        return msgspec.json.encode(attributes | {"data": data})
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Malformed("the data of an event in binary mode is not JSON") from None


class _Delivery:
    """One delivery being read: *told* holds its changes with their sequencers."""

    def __init__(self, scope: BlobScope) -> None:
        self.scope = scope
        self.parsed = Parsed()
        self.told: list[tuple[Change, object]] = []
        self.trace: Trace | None = None

    def take(self, event: Any) -> None:  # noqa: ANN401 - any JSON
        if isinstance(event, dict) and _DEAD_LETTERED in event:
            event = event.get("event")
        if not isinstance(event, dict):
            raise Malformed("an event is not a JSON object")
        kind = event.get("eventType") or event.get("type")
        if not isinstance(kind, str) or not kind:
            raise Malformed("an event has no type")
        if kind == _VALIDATION:
            self.parsed.validation_code = str(_data(event).get("validationCode", ""))
        elif not kind.startswith(_PREFIX):
            self.parsed.ignored["unknown_type"] += 1
        else:
            try:
                self._storage(kind.removeprefix(_PREFIX), event)
            except Elsewhere as why:
                self.parsed.refused[str(why)] += 1

    def _storage(self, kind: str, event: dict[str, Any]) -> None:
        subject, data = event.get("subject"), _data(event)
        if not isinstance(subject, str):
            raise Malformed("a storage event has no subject")
        self.scope.require_account(event.get("topic") or event.get("source"))
        at = event_stamp(event.get("eventTime") or event.get("time"))
        self.trace = trace.read(event.get(trace.HEADER))  # CloudEvents' extension for distributed tracing
        self.parsed.newest_us = max(self.parsed.newest_us, at.at_us if at is not None else 0)
        if kind == "BlobCreated":
            # A create of no length by CreateFile is only the start of a write: its version is never final.
            begun = data.get("api") == "CreateFile" and data.get("contentLength") in (0, None)
            self._blob(self.scope.subject(subject), data, at, etag=None if begun else _etag(data))
        elif kind == "BlobDeleted":
            self._blob(self.scope.subject(subject), data, at, deleted=True)
        elif kind in _NO_ETAG_EVENTS:
            self._blob(self.scope.subject(subject), data, at)
        elif kind == "BlobRenamed":
            self._renamed(subject, data, at)
        elif kind in _DIRECTORY_EVENTS:
            self._directories(kind, subject, data)
        else:
            self._of_no_blob(kind, data)

    def _of_no_blob(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "BlobInventoryPolicyCompleted" and data.get("policyRunStatus") != "Failed":
            self.parsed.ignored["inventory"] += 1
            self.parsed.scan_prefixes.add("")
        else:
            known = kind in _OF_NO_BLOB or kind == "BlobInventoryPolicyCompleted"
            self.parsed.ignored["other_type" if known else "unknown_type"] += 1

    def _blob(
        self, named: Named, data: dict[str, Any], at: Stamp | None, *, etag: str | None = None, deleted: bool = False
    ) -> None:
        if not named.exact:
            self.parsed.ignored["unreadable_name"] += 1
            self._scan(named.name)
            return
        key = self.scope.key(named.name)
        if keys.excluded(key):
            self.parsed.ignored["excluded"] += 1
            return
        change = Change(key, Side.BLOB, Source.EVENT_GRID, etag=etag, deleted=deleted, at=at, trace=self.trace)
        self.told.append((change, data.get("sequencer")))

    def _scan(self, beginning: str, *, needed: bool = True) -> None:
        prefix = self.scope.beginning(beginning)
        if keys.excluded_below(prefix):
            self.parsed.ignored["excluded"] += 1
        elif needed:
            self.parsed.scan_prefixes.add(prefix)

    def _renamed(self, subject: str, data: dict[str, Any], at: Stamp | None) -> None:
        """The subject is the new name. A name that can be read in two ways is looked for by a scan of its folder."""
        source, target = self._ends(data)
        self._each(
            lambda: self._blob(self.scope.subject(subject), {}, at),
            lambda: self._blob(self.scope.url(source), {}, at, deleted=True),
            lambda: self._blob(self.scope.url(target), {}, at),
        )

    def _directories(self, kind: str, subject: str, data: dict[str, Any]) -> None:
        """A directory event may stand for many blobs: all those below each directory it names. A new one holds none yet."""

        def below(named: Named) -> None:
            self._scan(f"{named.name.rstrip('/')}/" if named.exact else named.name, needed=kind != "DirectoryCreated")

        steps = [lambda: below(self.scope.subject(subject))]
        if kind == "DirectoryRenamed":
            source, target = self._ends(data)
            steps += [lambda: below(self.scope.url(source)), lambda: below(self.scope.url(target))]
        self._each(*steps)
        self.parsed.ignored["directory"] += 1

    def _ends(self, data: dict[str, Any]) -> tuple[str, str]:
        """Both URLs of a rename; one that is missing reads as a name that is not known."""
        known = f"https://{self.scope.account_name}/{self.scope.container}/"
        source, target = data.get("sourceUrl"), data.get("destinationUrl")
        return source if isinstance(source, str) else known, target if isinstance(target, str) else known

    def _each(self, *steps: Callable[[], None]) -> None:
        """Take what one event names in several places: it is refused only when none of them is ours."""
        elsewhere = []
        for step in steps:
            try:
                step()
            except Elsewhere as why:
                elsewhere.append(why)
        if len(elsewhere) == len(steps):
            raise elsewhere[0]
        if elsewhere:
            self.parsed.ignored["other_end_elsewhere"] += len(elsewhere)


def _data(event: dict[str, Any]) -> dict[str, Any]:
    """``data``, or ``data_base64`` of a CloudEvent whose publisher sent bytes."""
    data, packed = event.get("data"), event.get("data_base64")
    if data is None and isinstance(packed, str):
        try:
            data = msgspec.json.decode(base64.b64decode(packed, validate=True))
        except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
            raise Malformed("data_base64 of an event is no JSON in base64") from None
    return data if isinstance(data, dict) else {}


def _etag(data: dict[str, Any]) -> str | None:
    etag = data.get("eTag")
    return etag.strip('"') or None if isinstance(etag, str) else None
