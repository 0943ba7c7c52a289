"""Where fuzzing begins: well-formed payloads of every kind, and words that parsers look for."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import fastavro

ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
CONTAINER = BUCKET = "datasets"

_SUBJECT = f"/blobServices/default/containers/{CONTAINER}/blobs/"
_FILES = f"https://acct.dfs.core.windows.net/{CONTAINER}/"
_KINDS = (
    "BlobCreated", "BlobDeleted", "BlobTierChanged", "AsyncOperationInitiated", "BlobRenamed", "DirectoryCreated",
    "DirectoryRenamed", "DirectoryDeleted", "BlobInventoryPolicyCompleted", "LifecyclePolicyCompleted",
)  # fmt: skip
_TIME = "2023-11-14T22:13:20.1234567Z"

WORDS: tuple[str, ...] = (
    ACCOUNT, ACCOUNT.upper(), _SUBJECT + "a.txt", _SUBJECT + "in/dir/a", _SUBJECT + "in/\ufffd", _SUBJECT + ".federation/x",
    "/blobServices/default/containers/other/blobs/a", _FILES + "in/a", _FILES + "a%20b", _FILES, "https://other/datasets/a",
    *(f"Microsoft.Storage.{kind}" for kind in _KINDS), "Microsoft.EventGrid.SubscriptionValidationEvent", "1.0", _TIME,
    "eventType", "type", "topic", "source", "subject", "data", "data_base64", "eventTime", "time", "specversion", "event",
    "deadLetterProperties", "api", "CreateFile", "PutBlob", "contentLength", "eTag", '"0x8DC1"', "sequencer", "0" * 31 + "A",
    "sourceUrl", "destinationUrl", "policyRunStatus", "Failed", "validationCode", "Records", "s3", "bucket", "object", "name",
    "key", "eventName", "s3:ObjectCreated:Put", "ObjectRemoved:Delete", "ObjectTagging:Put", "Event", "s3:TestEvent", BUCKET,
    "in/a+b%20c", "in/a%252Fb", "\u201b\uff0e", "\uff3c", "../", "a//b", ".snapshot/", "\U0001f600", "fedplane_origin",
    "fedplane-origin", "utf-8''%41", "_x2d_",
)  # fmt: skip


def _event(kind: str, name: str = "in/dir/a.txt") -> dict[str, Any]:
    urls = {"sourceUrl": _FILES + "in/old", "destinationUrl": _FILES + name}
    told = {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 0, "sequencer": "0" * 31 + "1"} | urls
    named = {"topic": ACCOUNT, "subject": _SUBJECT + name, "eventType": f"Microsoft.Storage.{kind}", "eventTime": _TIME}
    return named | {"id": "1", "data": told}


def _cloud(kind: str) -> dict[str, Any]:
    names = {"topic": "source", "eventType": "type", "eventTime": "time"}
    return {names.get(name, name): value for name, value in _event(kind).items()} | {"specversion": "1.0"}


def _record(name: str, key: str) -> dict[str, Any]:
    item = {"bucket": {"name": BUCKET}, "object": {"key": key, "size": "5", "eTag": '"ab"'}}
    return {"eventName": name, "eventTime": "2023-11-14T22:13:20.12345Z", "s3": item}


def _grid() -> list[bytes]:
    events = [_event(kind) for kind in _KINDS]
    packed = base64.b64encode(b'{"eTag": "0x1"}').decode()
    wrapped = {"deadLetterProperties": {"deadletterreason": "x"}, "event": _cloud("BlobCreated")}
    handshake = {"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "x"}}
    others = [_cloud("BlobDeleted"), _cloud("BlobCreated") | {"data": None, "data_base64": packed}, wrapped, handshake, events]
    return [json.dumps(event).encode() for event in [*events, *others, [_event("BlobCreated", "in/\ufffd")]]]


def _vast() -> list[bytes]:
    records = [_record(name, key) for name in ("s3:ObjectCreated:Put", "ObjectRemoved:Delete") for key in ("in/a+b%20c", "in/a")]
    bodies: list[Any] = [{"Records": records}, {"data": {"Records": records}}, {"Event": "s3:TestEvent"}, [{"Records": records}]]
    return [json.dumps(body).encode() for body in bodies]


def _change_feed() -> list[bytes]:
    known = ("BlobCreated", "BlobDeleted", "BlobTierChanged", "BlobPropertiesUpdated", "BlobSnapshotCreated", "Control")
    said = {"etag": "0x1", "blobVersion": "v", "snapshot": "", "previousInfo": {"LastVersion": "w"}}
    records = [_event(kind) | {"eventType": kind, "data": said} for kind in known]
    return [json.dumps(one).encode() for one in [*records, records]]


def _avro() -> list[bytes]:
    fields = [{"name": "eventType", "type": "string"}, {"name": "at", "type": ["null", "long"]}]
    found = []
    for codec in ("null", "deflate"):
        out = io.BytesIO()
        schema = {"type": "record", "name": "Event", "fields": fields}
        fastavro.writer(out, schema, [{"eventType": "BlobCreated", "at": 1}, {"eventType": "x", "at": None}], codec=codec)
        found.append(out.getvalue())
    return [*found, found[0][: len(found[0]) // 2]]


def seeds() -> dict[str, list[bytes]]:
    """By target."""
    head = {name: value for name, value in _cloud("BlobDeleted").items() if name != "data"}
    binary = "\n".join(f"ce-{name}: {value}" for name, value in head.items()).encode() + b'\n\n{"api": "DeleteBlob"}'
    found = ["a/b", "a.", "..", "//a", "\u201b\uff0e", "a\uff3cb", "in/.federation/x", "con:|?*", "\x01"]
    stamp = b"fedplane_origin: 1;blob;0x1;1700000000000000;1;event;-;0123456789abcdef\nk: utf-8''%C3%BC\nK_x2d_: v"
    return {
        "event_grid": _grid(),
        "binary_mode": [binary],
        "queue_text": [*_grid(), *(base64.b64encode(one) for one in _grid())],
        "vast": _vast(),
        "change_feed": _change_feed(),
        "avro": _avro(),
        "times": [_TIME.encode(), b"2023-11-14T22:13:20", b"2023-11-15T00:13:20.5+02:00", b"0001-01-01T00:00:00+23:59"],
        "names": [name.encode() for name in found],
        "metadata": [stamp, stamp.replace(b"_", b"-")],
    }
