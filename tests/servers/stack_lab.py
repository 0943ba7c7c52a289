"""Clients of the local stack, as a user of it has them, and everything its proxies told."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import boto3
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient
from azure.storage.queue import QueueClient
from botocore.config import Config
from confluent_kafka import Consumer, TopicPartition

from fedplane.localstack.info import StackInfo

SIDES = ["blob", "vast"]


class Lab:
    """Clients of both sides, through the proxies and past them, and all the events that came."""

    def __init__(self, info: StackInfo) -> None:
        self.info = info
        text, direct = info.connection_string(), info.connection_string(direct=True)
        self.blobs = ContainerClient.from_connection_string(text, info.container, retry_total=0)
        self.engine_blobs = ContainerClient.from_connection_string(text, info.container, retry_total=0, user_agent="fedplane/0.1")
        self.blobs_direct = ContainerClient.from_connection_string(direct, info.container)
        self.s3 = self._s3(info.s3_endpoint)
        self.engine_s3 = self._s3(info.s3_endpoint, user_agent="fedplane/0.1")
        self.s3_direct = self._s3(info.s3_direct_endpoint)
        self._queue = QueueClient.from_connection_string(text, info.queue)
        self._consumer = Consumer({"bootstrap.servers": info.kafka_bootstrap, "group.id": "lab", "enable.auto.commit": False})
        self._consumer.assign([TopicPartition(info.topic, partition, 0) for partition in range(4)])
        self._heard: dict[str, list[tuple[str, dict[str, Any]]]] = {side: [] for side in SIDES}

    def _s3(self, endpoint: str, user_agent: str | None = None) -> Any:  # noqa: ANN401 - boto3 makes its clients
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, user_agent=user_agent)
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.info.access_key,
            aws_secret_access_key=self.info.secret_key,
            config=config,
        )

    def close(self) -> None:
        """Release all connections."""
        for client in (self.blobs, self.engine_blobs, self.blobs_direct, self._queue, self.s3, self.engine_s3, self.s3_direct):
            client.close()
        self._consumer.close()

    def put(self, side: str, key: str, data: bytes = b"x", *, engine: bool = False) -> str:
        """Write through the proxy; the ETag, bare."""
        if side == "blob":
            blobs = self.engine_blobs if engine else self.blobs
            return str(blobs.upload_blob(key, data, overwrite=True).get_blob_properties().etag).strip('"')
        s3 = self.engine_s3 if engine else self.s3
        return str(s3.put_object(Bucket=self.info.bucket, Key=key, Body=data)["ETag"]).strip('"')

    def get(self, side: str, key: str) -> bytes:
        """Read through the proxy; raises as the SDKs do."""
        if side == "blob":
            return bytes(self.blobs.download_blob(key).readall())
        return bytes(self.s3.get_object(Bucket=self.info.bucket, Key=key)["Body"].read())

    def names(self, side: str) -> list[str]:
        """One page of a listing through the proxy."""
        if side == "blob":
            return [str(name) for name in next(self.blobs.list_blob_names().by_page(), [])]
        found = self.s3.list_objects_v2(Bucket=self.info.bucket).get("Contents", [])
        return [str(one["Key"]) for one in found]

    def get_direct(self, side: str, key: str) -> bytes | None:
        """Read past the proxy; None when it is not there."""
        try:
            if side == "blob":
                return bytes(self.blobs_direct.download_blob(key).readall())
            return bytes(self.s3_direct.get_object(Bucket=self.info.bucket, Key=key)["Body"].read())
        except (ResourceNotFoundError, self.s3_direct.exceptions.NoSuchKey):
            return None

    def events(self, side: str, key: str, count: int = 1) -> list[dict[str, Any]]:
        """The events of *key*, once there are *count*, and after a later write's event came too (so that none is missed)."""
        found = self.until(side, key, count)
        after = f"after/{uuid4().hex}"
        self.control("PUT", f"/faults/{side}", {})
        self.put(side, after)
        self.until(side, after, 1)
        found = [event for name, event in self._heard[side] if name == key]
        assert len(found) == count
        return found

    def until(self, side: str, key: str, count: int) -> list[dict[str, Any]]:
        """The events of *key* so far, once there are *count*."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            (self._listen_blob if side == "blob" else self._listen_vast)()
            found = [event for name, event in self._heard[side] if name == key]
            if len(found) >= count:
                return found
        raise AssertionError(f"{count} events of {key!r} did not come")

    def _listen_blob(self) -> None:
        for message in self._queue.receive_messages(max_messages=32):
            event = json.loads(base64.b64decode(message.content))
            self._heard["blob"].append((event["subject"].partition("/blobs/")[2], event))
            self._queue.delete_message(message)

    def _listen_vast(self) -> None:
        for message in self._consumer.consume(100, timeout=0.2):
            assert message.error() is None
            [record] = json.loads(message.value() or b"")["Records"]
            self._heard["vast"].append((unquote(record["s3"]["object"]["key"]), record))

    def control(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """Ask the proxies' control port."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.info.control_url + path, data=data, method=method)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read())

    def stats(self, side: str) -> dict[str, Any]:
        """Counters of one side."""
        found: dict[str, Any] = self.control("GET", "/stats")[side]
        return found
