"""Writes change feeds as the service does (facts/azure.md 2.2 and 2.6): true schema, one block an append."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import ContainerClient

from federation.sources.change_feed_layout import CONTAINER, INDEX
from fedplane.localstack.azurite import ACCOUNT_ID

SYNC = bytes(range(16))
_LARGEST_APPEND = 4 * 1024 * 1024


@cache
def schema_text(version: int = 5) -> str:
    """The schema of version 5 as recorded; above it with the fields and types that later versions add (facts/azure.md 2.4)."""
    text = (Path(__file__).parent / "schemas" / "v5.avsc").read_text()
    if version <= 5:
        return text
    schema = json.loads(text)
    kinds = next(one for one in schema["fields"] if one["name"] == "eventType")["type"]["symbols"]
    kinds += ["AppendBlobDataUpdated", "BlobLastAccessTimeUpdated", "BlobTypeOfTomorrow"]
    data = next(one for one in schema["fields"] if one["name"] == "data")["type"]["fields"]
    for name in ("restoredContainerVersion", "contentOffset", "createTime", "lastAccessTime", "fieldOfTomorrow"):
        data.append({"name": name, "type": ["null", "string"], "default": None})
    return json.dumps(schema)


@cache
def _parsed(version: int) -> Any:  # noqa: ANN401 - fastavro's own form
    return fastavro.parse_schema(json.loads(schema_text(version)))


def varint(value: int) -> bytes:
    """Avro's zig-zag number."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def header(version: int = 5, codec: str = "null") -> bytes:
    """What stands before the first block of a chunk."""
    out = b"Obj\x01" + varint(2)
    for name, value in (("avro.schema", schema_text(version).encode()), ("avro.codec", codec.encode())):
        out += varint(len(name)) + name.encode() + varint(len(value)) + value
    return out + varint(0) + SYNC


def block(records: Iterable[Mapping[str, Any]], version: int = 5, codec: str = "null") -> bytes:
    """One append: a block of *records*."""
    out = io.BytesIO()
    count = 0
    for one in records:
        fastavro.schemaless_writer(out, _parsed(version), dict(one))
        count += 1
    data = out.getvalue()
    if codec == "deflate":
        squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = squeeze.compress(data) + squeeze.flush()
    return varint(count) + varint(len(data)) + data + SYNC


def record(number: int, name: str, at: datetime, *, container: str = "datasets", kind: str = "BlobCreated", **data: Any) -> Any:  # noqa: ANN401
    """A record of everyday size; *data* replaces fields of its ``data``; ``id`` is made of *number*."""
    details = {
        "api": "PutBlob",
        "clientRequestId": f"c-{number:032x}",
        "requestId": str(UUID(int=number)),
        "etag": f"0x8DD{number:012X}",
        "contentType": "application/octet-stream",
        "contentLength": 1024 + number % 4096,
        "blobType": "BlockBlob",
        "blobVersion": None,
        "containerVersion": None,
        "blobTier": None,
        "url": f"https://devstoreaccount1.blob.core.windows.net/{container}/{name}",
        "sequencer": f"{number:048x}",
        "previousInfo": None,
        "snapshot": None,
        "blobPropertiesUpdated": None,
        "asyncOperationInfo": None,
        "blobTagsUpdated": None,
        "restorePointMarker": None,
        "storageDiagnostics": {"bid": str(UUID(int=number)), "seq": f"({number},1,2,3)", "sid": str(UUID(int=7))},
    }
    return {
        "schemaVersion": 5,
        "topic": ACCOUNT_ID,
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": kind,
        "eventTime": at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "7Z",
        "id": str(UUID(int=number)),
        "data": details | data,
    }


def iso(at: datetime) -> str:
    """As the feed's documents write times."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass
class Feed:
    """A feed as a tree of blobs. ``upload`` brings what was added since to a container of a storage account."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    version: int = 5
    codec: str = "null"

    def index(self, last_consumable: datetime, modified: datetime | None = None) -> None:
        """``meta/segments.json``."""
        told = {"version": 0, "lastModifiedTime": iso(modified or last_consumable), "data": {"aid": "a", "lfz": None}}
        self._put(INDEX, {"version": 0, "lastConsumable": iso(last_consumable), "storageDiagnostics": told})

    def segment(self, begin: datetime, *, shards: int = 1, finalized: bool = False, seconds: int = 3600) -> None:
        """A segment's manifest, new or changed. *seconds*: how long it lasts."""
        paths = [f"{CONTAINER}/{shard_path(begin, shard)}" for shard in range(shards)]
        self.manifest(begin, paths, finalized=finalized, seconds=seconds)

    def manifest(self, begin: datetime, paths: list[str], *, finalized: bool, seconds: int = 3600) -> None:
        """The same, with any paths."""
        config = {"version": 1, "numShards": len(paths), "recordsFormat": "avro", "formatSchemaVersion": self.version}
        status = "Finalized" if finalized else "Publishing"
        told = {"version": 0, "begin": iso(begin), "intervalSecs": seconds, "status": status}
        self._put(manifest_name(begin), told | {"config": config, "chunkFilePaths": paths})

    def placeholder(self) -> None:
        """The segment of 1601, which every feed has."""
        path = f"{CONTAINER}/log/00/1601/01/01/0000/"
        told = {"version": 0, "begin": "1601-01-01T00:00:00.000Z", "intervalSecs": 3600, "status": "Finalized"}
        self._put("idx/segments/1601/01/01/0000/meta.json", told | {"config": {}, "chunkFilePaths": [path]})

    def markers(self) -> None:
        """Folder markers, as some accounts have them."""
        self.blobs |= dict.fromkeys(
            ("idx/segments/1601", "idx/segments/2026/11/01/0000", "log/00", "log/00/2026/11/01/0000"), b""
        )

    def append(self, begin: datetime, records: Iterable[Mapping[str, Any]], *, shard: int = 0, chunk: int = 0) -> str:
        """One block at the end of a chunk, which begins with it if it is new; the chunk's name."""
        name = f"{shard_path(begin, shard)}{chunk:05d}.avro"
        self.blobs[name] = (self.blobs.get(name) or header(self.version, self.codec)) + block(records, self.version, self.codec)
        return name

    def drop(self, begin: datetime) -> None:
        """Retention takes a segment away."""
        time = begin.strftime("%Y/%m/%d/%H%M/")
        self.blobs = {name: data for name, data in self.blobs.items() if f"/{time}" not in name}

    def upload(self, container: ContainerClient) -> None:
        """Bring what is new to a real container: chunks as append blobs that grow by whole blocks, then the documents."""
        for name in sorted(self.blobs, key=lambda one: (not one.endswith(".avro"), one)):
            data, there = self.blobs[name], self.uploaded.get(name)
            if data == there:
                continue
            blob = container.get_blob_client(name)
            if not name.endswith(".avro"):
                blob.upload_blob(data, overwrite=True)
            else:
                if there is None:
                    blob.create_append_blob()
                for at in range(len(there or b""), len(data), _LARGEST_APPEND):
                    blob.append_block(data[at : at + _LARGEST_APPEND])
            self.uploaded[name] = data

    def _put(self, name: str, document: Mapping[str, Any]) -> None:
        self.blobs[name] = json.dumps(document).encode()


def shard_path(begin: datetime, shard: int = 0) -> str:
    """Folder of a shard's chunks."""
    return f"log/{shard:02d}/{begin:%Y/%m/%d/%H%M}/"


def manifest_name(begin: datetime) -> str:
    """Name of a segment's manifest."""
    return f"idx/segments/{begin:%Y/%m/%d/%H%M}/meta.json"


def hour(number: int, minute: int = 0) -> datetime:
    """The *number*-th hour of these tests' time."""
    return datetime(2026, 11, 1, tzinfo=UTC) + timedelta(hours=number, minutes=minute)


def fresh_container(connection_string: str) -> ContainerClient:
    """``$blobchangefeed``, empty: what it held is deleted."""
    client = ContainerClient.from_connection_string(connection_string, CONTAINER)
    try:
        client.create_container()
    except ResourceExistsError:
        for blob in client.list_blob_names():
            client.delete_blob(blob)
    return client
