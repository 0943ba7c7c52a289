"""What VAST would publish of a confirmed S3 write (facts/vast.md 1)."""

from __future__ import annotations

import asyncio
import itertools
import re
import uuid
from email import message_from_bytes
from email.policy import HTTP
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import aiohttp
import boto3
import msgspec
from botocore.config import Config
from confluent_kafka import KafkaException, Producer
from multidict import CIMultiDictProxy
from yarl import URL

from fedplane.localstack.delivery import Delivery
from fedplane.localstack.proxy import Exchange, Watcher, Words

_CREDENTIAL = re.compile(r"Credential=([^/]+)/|[?&]X-Amz-Credential=([^/%&]+)")
_POLL_SECONDS = 0.05


class VastWatcher(Watcher):
    """Publishes VAST-shaped records to a topic."""

    def __init__(self, s3_upstream: str, keys: tuple[str, str], bootstrap: str, topic: str, *, raw_keys: bool = False) -> None:
        self.delivery = Delivery(self._send)
        self._upstream = s3_upstream
        self._topic = topic
        self._raw_keys = raw_keys
        self._sequence = itertools.count(1_000_001)
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": False, "linger.ms": 5, "log_level": 3})
        self._session: aiohttp.ClientSession | None = None
        self._poller: asyncio.Task[None] | None = None
        self._s3 = boto3.client(
            "s3",
            endpoint_url=s3_upstream,
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    async def open(self) -> None:
        """Begin to publish."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        self._poller = asyncio.create_task(self._poll())
        self.delivery.start()

    async def close(self, drain_seconds: float) -> None:
        """Publish what is left, within a bound."""
        await self.delivery.drain(drain_seconds)
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        await asyncio.to_thread(self._producer.flush, drain_seconds)
        if self._session is not None:
            await self._session.close()
        self._s3.close()

    async def _poll(self) -> None:
        while True:
            self._producer.poll(0)
            await asyncio.sleep(_POLL_SECONDS)

    def operation(self, method: str, raw_path: str, query: dict[str, str], headers: CIMultiDictProxy[str]) -> str:
        """As in the base."""
        has_key = bool(raw_path.lstrip("/").partition("?")[0].partition("/")[2])
        if not has_key:
            return _bucket_operation(method, query)
        if "uploadId" in query:
            return {"PUT": "upload_part", "POST": "complete", "DELETE": "abort", "GET": "list_parts"}.get(method, "other")
        if "uploads" in query:
            return "create_upload"
        for name in ("tagging", "acl", "retention", "legal-hold"):
            if name in query:
                return f"{method.lower()}_{name}"
        if method == "PUT":
            return "copy" if "x-amz-copy-source" in headers else "put"
        return {"GET": "get", "HEAD": "head", "DELETE": "delete", "POST": "post"}.get(method, "other")

    def refusal(self, status: int) -> Words:
        """As in the base."""
        return _error({403: "AccessDenied", 404: "NoSuchBucket"}.get(status, "SlowDown"))

    def nothing(self) -> tuple[Words, Words]:
        """As in the base."""
        page = (
            b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            b"<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
        )
        return (page, {"Content-Type": "application/xml"}), _error("NoSuchKey")

    async def confirmed(self, exchange: Exchange) -> None:
        """As in the base."""
        if not exchange.ok or b"<Error>" in (exchange.answer or b""):
            return  # Complete and Copy may say 200 and mean an error
        operation = self.operation(exchange.method, exchange.raw_path, exchange.query, exchange.headers)
        bucket, key = exchange.segments
        if operation == "delete_many":
            for deleted in _found(exchange.answer, "Deleted", "Key"):
                self._emit(exchange, "ObjectRemoved:Delete", bucket, deleted)
            return
        if operation == "bucket_post":
            key = _form_key(exchange)
            operation = "post" if key else operation
        name = {
            "put": "ObjectCreated:Put",
            "post": "ObjectCreated:Post",
            "copy": "ObjectCreated:Copy",
            "complete": "ObjectCreated:CompleteMultipartUpload",
            "delete": "ObjectRemoved:Delete",
            "put_tagging": "ObjectTagging:Put",
            "delete_tagging": "ObjectTagging:Delete",
        }.get(operation)
        if name is None:
            return
        if exchange.answer_headers.get("x-amz-delete-marker") == "true" and "versionId" not in exchange.query:
            name = "ObjectRemoved:DeleteMarkerCreated"
        etag, size = exchange.answer_headers.get("ETag"), int(exchange.headers.get("Content-Length", "0"))
        if operation == "post":
            etag, size = await self._held(bucket, key)
        elif operation in ("copy", "complete"):
            found = next(iter(_found(exchange.answer, None, "ETag")), None)
            etag, size = found, (await self._held(bucket, key))[1]
        self._emit(exchange, name, bucket, key, etag=etag, size=size)

    async def _held(self, bucket: str, key: str) -> tuple[str | None, int]:
        """ETag and size of what the server holds now, for answers that do not tell."""
        assert self._session is not None  # noqa: S101 - open() came first
        url = self._s3.generate_presigned_url("head_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=60)
        async with self._session.head(URL(url, encoded=True)) as answer:
            size = int(answer.headers.get("Content-Length", "0")) if answer.ok else 0
            return answer.headers.get("ETag"), size

    def _emit(self, exchange: Exchange, name: str, bucket: str, key: str, *, etag: str | None = None, size: int = 0) -> None:
        request_id = exchange.answer_headers.get("x-amz-request-id") or uuid.uuid4().hex
        credential = _CREDENTIAL.search(exchange.headers.get("Authorization", "") or exchange.raw_path)
        who = (credential[1] or credential[2]) if credential else "anonymous"
        item: dict[str, Any] = {
            "key": key if self._raw_keys else quote(key, safe="/"),
            "size": size,
            "sequencer": f"00f1{next(self._sequence):016x}",
        }
        if etag:
            item["eTag"] = etag.strip('"')
        record = {
            "eventVersion": "2.2",
            "eventSource": "vast:s3",
            "awsRegion": "local",
            "eventTime": exchange.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "eventName": f"s3:{name}",
            "userIdentity": {"principalId": who},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": request_id, "x-amz-id-2": request_id},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "fedplane-local",
                "bucket": {"name": bucket, "ownerIdentity": {"principalId": "local"}, "arn": f"arn:vast:s3:::{bucket}"},
                "object": item,
            },
        }
        self.delivery.emit(msgspec.json.encode({"Records": [record]}), echo=exchange.client == "fedplane")

    async def _send(self, event: bytes) -> None:
        # No message key: events of one object spread over the partitions, as VAST's samples do (facts/vast.md 1).
        try:
            self._producer.produce(self._topic, event)
        except (BufferError, KafkaException) as error:
            raise ConnectionError(str(error)) from error


def _error(code: str) -> Words:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}, as asked for.</Message></Error>'
    return body.encode(), {"Content-Type": "application/xml", "x-amz-request-id": uuid.uuid4().hex}


def _bucket_operation(method: str, query: dict[str, str]) -> str:
    if method == "POST" and "delete" in query:
        return "delete_many"
    if method == "GET" and not ({"versioning", "location", "policy", "acl", "uploads", "tagging"} & set(query)):
        return "list"
    return f"bucket_{method.lower()}"


def _form_key(exchange: Exchange) -> str:
    """The key of a browser's form upload, which is in the form; empty when it is none, or too large to be passed in one piece."""
    kind = exchange.headers.get("Content-Type", "")
    if exchange.body is None or not kind.startswith("multipart/form-data"):
        return ""
    form = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + exchange.body, policy=HTTP)
    texts = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in form.iter_parts()}
    key = texts.get("key")
    return key.decode().rstrip("\r\n") if isinstance(key, bytes) else ""


def _found(body: bytes | None, parent: str | None, name: str) -> list[str]:
    """Texts of all *name* elements, below *parent* elements if given, whatever the namespace."""
    if not body:
        return []
    root = ET.fromstring(body)  # noqa: S314 - a server of ours on this machine
    places = [root] if parent is None else [one for one in root.iter() if one.tag.rpartition("}")[2] == parent]
    return [one.text or "" for place in places for one in place.iter() if one.tag.rpartition("}")[2] == name]
