"""What every parser promises for any bytes: no exception but the typed ones, and no effect outside the pair.

A target takes bytes and returns a word for what became of them; an AssertionError or any exception that is not the parser's own
is a finding. ``run`` feeds them by coverage, tests/unit/test_fuzz_parsers.py by structure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from federation import keys, metadata
from federation.errors import Park
from federation.model import Change, Side, Source
from federation.payloads import Malformed, Parsed, change_feed, event_grid, vast
from federation.payloads.sequencer import order
from federation.payloads.times import event_stamp
from federation.sources import change_feed_avro
from tests.fuzz.seeds import ACCOUNT, BUCKET, CONTAINER

PREFIXES = ("", "in/")
_MOST_RECORDS = 1000
"""Of an Avro block; a schema without bytes would make any number of them of nothing."""
_BLOB, _VAST = keys.policy_for(Side.BLOB), keys.policy_for(Side.VAST)


def grid(data: bytes) -> str:
    """Event Grid deliveries, in any framing, for a pair with and without a prefix."""
    parsed = Parsed()
    for prefix in PREFIXES:
        scope = event_grid.BlobScope(ACCOUNT, CONTAINER, prefix, lambda name: keys.decode(name, _BLOB))
        try:
            parsed = event_grid.parse(data, scope)
        except Malformed:
            return "malformed"
        _require_ours(parsed, data, prefix, wrapped=True)
        for beginning in parsed.scan_prefixes:
            assert not keys.excluded(beginning), beginning
    return _told(parsed)


def binary_mode(data: bytes) -> str:
    """A CloudEvent with its attributes in headers: lines ``name: value``, an empty line, the data."""
    head, _, body = data.partition(b"\n\n")
    lines = [line.partition(": ") for line in head.decode("utf-8", "surrogateescape").split("\n")]
    try:
        return grid(event_grid.structured({name: value for name, _, value in lines}, body))
    except Malformed:
        return "malformed"


def queue_text(data: bytes) -> str:
    """Text of queue messages."""
    try:
        return grid(event_grid.decode_queue_text(data.decode("utf-8", "replace")))
    except Malformed:
        return "malformed"


def vast_records(data: bytes) -> str:
    """VAST's records, for a pair with and without a prefix, however keys are written."""
    parsed: Parsed = Parsed()
    for prefix in PREFIXES:
        for encoding in ("auto", "raw", "percent"):
            scope = vast.VastScope(BUCKET, prefix, encoding, lambda name: keys.decode(name, _VAST))
            try:
                parsed = found = vast.parse(data, scope)
            except Malformed:
                return "malformed"
            changes = found.changes + [change for one in found.ambiguous for change, _ in one.readings]
            for change in changes:
                _require_key(change, Side.VAST, _VAST)
            assert not changes or json.dumps(BUCKET).encode() in data or b"\\u" in data
    return _told(parsed)


def change_feed_records(data: bytes) -> str:
    """Records of the change feed, decoded: JSON stands for Avro."""
    try:
        decoded = json.loads(data)
    except (ValueError, RecursionError):
        return "malformed"
    records = [one for one in (decoded if isinstance(decoded, list) else [decoded]) if isinstance(one, dict)]
    parsed = Parsed()
    for prefix in PREFIXES:
        scope = event_grid.BlobScope(ACCOUNT, CONTAINER, prefix, lambda name: keys.decode(name, _BLOB))
        parsed, unreadable = change_feed.parse(records, scope)
        assert all(reason for reason, _ in unreadable)
        _require_ours(parsed, data, prefix, wrapped=False)
    return _told(parsed)


def avro(data: bytes) -> str:
    """Chunks of the change feed: header, blocks, records."""
    try:
        header = change_feed_avro.read_header(data)
        rest = data[header.size_bytes :]
        blocks, _ = change_feed_avro.frame(rest, header.size_bytes, header)
        few = [block for block in blocks if block.count <= _MOST_RECORDS]
        return "records" if change_feed_avro.decode(rest, few, header) else "no record"
    except change_feed_avro.Incomplete:
        return "incomplete"
    except Malformed:
        return "malformed"


def times(data: bytes) -> str:
    """Times of events, and sequencers."""
    text = data.decode("utf-8", "replace")
    stamp = event_stamp(text)
    assert stamp is None or (stamp.precision_us >= 1 and isinstance(stamp.at_us, int))
    assert order(text, text) in (0, None)
    return "known" if stamp is not None else "unknown"


def names(data: bytes) -> str:
    """Names of both sides: what decodes encodes to itself, and any key has at most one name."""
    text = data.decode("utf-8", "surrogateescape")
    decoded = 0
    for policy in (_BLOB, _VAST, keys.policy_for(Side.VAST, "native")):
        assert policy.unescape(policy.escape(text)) == text
        try:
            key = keys.decode(text, policy)
        except Park:
            continue
        decoded += 1
        try:
            assert keys.encode(key, policy) == text
        except Park:
            assert policy.escape(key) == text  # legal, but beyond a limit of the side
    return f"decoded by {decoded}"


def user_metadata(data: bytes) -> str:
    """Metadata as a side holds it: ``name: value`` lines."""
    text = data.decode("utf-8", "surrogateescape")
    user = dict(line.partition(": ")[::2] for line in text.split("\n"))
    stamped = False
    for side in Side:
        found, stamp = metadata.from_side({"content_type": text[:100]}, user, side)
        stored = metadata.to_side(found, stamp, side)
        assert all(value.isascii() for value in stored.user.values())
        metadata.digest(found)
        stamped = stamped or stamp is not None
    return "stamped" if stamped else "plain"


TARGETS: dict[str, Callable[[bytes], str]] = {
    "event_grid": grid,
    "binary_mode": binary_mode,
    "queue_text": queue_text,
    "vast": vast_records,
    "times": times,
    "names": names,
    "metadata": user_metadata,
    "change_feed": change_feed_records,
    "avro": avro,
}


def _told(parsed: Parsed) -> str:
    if parsed.changes:
        return "changes"
    if parsed.scan_prefixes:
        return "scans"
    return "refused" if parsed.refused else "nothing"


def _require_key(change: Change, side: Side, policy: keys.NamePolicy) -> None:
    assert change.key
    assert change.side is side
    assert not keys.excluded(change.key), change.key
    assert policy.unescape(policy.escape(change.key)) == change.key


def _require_ours(parsed: Parsed, data: bytes, prefix: str, *, wrapped: bool) -> None:
    """Each change's blob is named, whole, by an event of our account, in our container, below our prefix."""
    if not parsed.changes:
        return
    ours = set(_named_by_our_account(json.loads(data), wrapped=wrapped))
    for change in parsed.changes:
        _require_key(change, Side.BLOB, _BLOB)
        assert change.source in (Source.EVENT_GRID, Source.CHANGE_FEED)
        name = prefix + _BLOB.escape(change.key)
        assert any(place.endswith((f"/containers/{CONTAINER}/blobs/{name}", f"/{CONTAINER}/{name}")) for place in ours), name


def _named_by_our_account(value: Any, *, wrapped: bool) -> Iterator[str]:  # noqa: ANN401 - any JSON
    for event in value if isinstance(value, list) else [value]:
        if wrapped and isinstance(event, dict) and "deadLetterProperties" in event:
            event = event.get("event")  # noqa: PLW2901 - as Event Grid keeps it for a namespace
        if not isinstance(event, dict) or str(event.get("topic") or event.get("source")).rstrip("/").lower() != ACCOUNT.lower():
            continue
        yield str(event.get("subject"))
        data = event.get("data")
        for field in ("sourceUrl", "destinationUrl"):
            url = data.get(field) if isinstance(data, dict) else None
            if isinstance(url, str) and url.partition("://")[2].partition(".")[0].lower() == "acct":
                yield url
