"""Users of both sides: they write through the event proxies with the services' SDKs, at a rate, and remember what they wrote."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import boto3
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import ContainerClient, ContentSettings
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

TYPES = ("text/plain", "application/json", "application/octet-stream", "image/png")
ATTEMPTS = 60
"""Users repeat what a fault knob or a server that is away refused."""


class BlobUser:
    """Somebody with the Azure SDK."""

    side = "blob"

    def __init__(self, stack: dict[str, Any], *, direct: bool = False) -> None:
        endpoint = stack["blob_direct_endpoint" if direct else "blob_endpoint"]
        text = (
            f"DefaultEndpointsProtocol=http;AccountName={stack['account_name']};AccountKey={stack['account_key']};"
            f"BlobEndpoint={endpoint};"
        )
        self._base = f"{endpoint}/{stack['container']}"
        self.container = ContainerClient.from_connection_string(text, stack["container"], retry_total=0, read_timeout=30)

    def put(self, key: str, data: bytes, content_type: str = "text/plain", metadata: dict[str, str] | None = None) -> None:
        """Write a blob."""
        settings = ContentSettings(content_type=content_type)
        self.container.upload_blob(key, data, overwrite=True, content_settings=settings, metadata=metadata)

    def delete(self, key: str) -> None:
        """Delete a blob."""
        self.container.delete_blob(key)

    def copy(self, key: str, target: str) -> None:
        """Copy on the server."""
        self.container.get_blob_client(target).start_copy_from_url(f"{self._base}/{key}", requires_sync=False)

    def metadata(self, key: str, metadata: dict[str, str]) -> None:
        """Replace the metadata and nothing else."""
        self.container.get_blob_client(key).set_blob_metadata(metadata)

    def close(self) -> None:
        """Release connections."""
        self.container.close()


class VastUser:
    """Somebody with an S3 SDK."""

    side = "vast"

    def __init__(self, stack: dict[str, Any], *, direct: bool = False) -> None:
        options: dict[str, Any] = {"signature_version": "s3v4", "s3": {"addressing_style": "path"}}
        # Not every server knows the checksums that the SDK adds of itself.
        options["request_checksum_calculation"] = options["response_checksum_validation"] = "when_required"
        config = Config(max_pool_connections=4, retries={"total_max_attempts": 1}, read_timeout=30, **options)
        self.s3 = boto3.client(
            "s3",
            endpoint_url=stack["s3_direct_endpoint" if direct else "s3_endpoint"],
            aws_access_key_id=stack["access_key"],
            aws_secret_access_key=stack["secret_key"],
            region_name="us-east-1",
            config=config,
        )
        self.bucket = stack["bucket"]

    def put(self, key: str, data: bytes, content_type: str = "text/plain", metadata: dict[str, str] | None = None) -> None:
        """Write an object."""
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=content_type, Metadata=metadata or {})

    def delete(self, key: str) -> None:
        """Delete an object."""
        self.s3.delete_object(Bucket=self.bucket, Key=key)

    def copy(self, key: str, target: str) -> None:
        """Copy on the server."""
        self.s3.copy_object(Bucket=self.bucket, Key=target, CopySource={"Bucket": self.bucket, "Key": key})

    def metadata(self, key: str, metadata: dict[str, str]) -> None:
        """Replace the metadata and nothing else: a copy onto itself."""
        self.s3.copy_object(
            Bucket=self.bucket,
            Key=key,
            CopySource={"Bucket": self.bucket, "Key": key},
            Metadata=metadata,
            MetadataDirective="REPLACE",
            ContentType="text/plain",
        )

    def close(self) -> None:
        """Release connections."""
        self.s3.close()


User = BlobUser | VastUser


@dataclass
class Written:
    """What the users of one run did. ``content``: MD5 each private key ended with; empty: deleted."""

    changes: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    content: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    missed: int = 0
    """Changes of shared keys that a colliding delete of the other side came before."""
    seconds: float = 0.0


@dataclass
class Plan:
    """How users behave. Weights by kind of change; *shared* keys are written by everybody."""

    seconds: float
    rate: float
    weights: dict[str, float]
    writers_a_side: int = 3
    shared: int = 40
    seed: int = 1
    largest_bytes: int = 20_000


LIVE = {"create": 30.0, "overwrite": 25.0, "delete": 12.0, "rename": 8.0, "metadata": 10.0, "collide": 15.0}
DISJOINT = {"create": 40.0, "overwrite": 35.0, "delete": 15.0, "rename": 10.0}


class Crowd:
    """Several writers a side, each in a thread with keys of its own, together at the plan's rate."""

    def __init__(self, stack: dict[str, Any], plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.written = Written()
        writers = [(user, number) for number in range(plan.writers_a_side) for user in (BlobUser(stack), VastUser(stack))]
        self._threads = [
            threading.Thread(target=self._write, args=(user, number, len(writers)), daemon=True) for user, number in writers
        ]
        self._failure: BaseException | None = None
        self._started = 0.0

    def start(self) -> None:
        """Begin writing."""
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    def join(self) -> Written:
        """Wait until all are done; raises what ended one early."""
        for thread in self._threads:
            thread.join()
        self.written.seconds = time.monotonic() - self._started
        if self._failure is not None:
            raise self._failure
        return self.written

    def stop(self) -> None:
        """End early."""
        self._stop.set()

    @property
    def running(self) -> bool:
        """Whether somebody still writes."""
        return any(thread.is_alive() for thread in self._threads)

    def _write(self, user: User, number: int, writers: int) -> None:
        try:
            _Writer(user, number, self._plan, self._done, self._stop).run(self._plan.rate / writers)
        except BaseException as error:
            self._failure = error
        finally:
            user.close()

    def _done(self, kind: str, changes: int, content: dict[str, str], *, repeated: int, missed: bool) -> None:
        with self._lock:
            self.written.changes += changes
            self.written.by_kind[kind] += changes
            self.written.content |= content
            self.written.repeated += repeated
            self.written.missed += missed


class _Writer:
    def __init__(self, user: User, number: int, plan: Plan, done: Any, stop: threading.Event) -> None:
        self._user = user
        self._plan = plan
        self._done = done
        self._stop = stop
        self._random = random.Random(f"{plan.seed}/{user.side}/{number}")
        self._prefix = f"{user.side}/{number}"
        self._keys: list[str] = []
        self._count = 0

    def run(self, rate: float) -> None:
        """Make changes at *rate* a second until the plan's end."""
        started = due = time.monotonic()
        kinds, weights = list(self._plan.weights), list(self._plan.weights.values())
        while time.monotonic() - started < self._plan.seconds and not self._stop.is_set():
            [kind] = self._random.choices(kinds, weights)
            if kind not in ("create", "collide") and len(self._keys) < 3:
                kind = "create"
            changes = self._change(kind)
            due += changes / rate
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _change(self, kind: str) -> int:
        content: dict[str, str] = {}
        changes, missed, repeated = 1, False, 0
        key = self._pick(kind)
        data = self._random.randbytes(self._random.randint(1, self._plan.largest_bytes))
        if kind in ("create", "overwrite", "collide"):
            metadata = {"owner": f"w{self._random.randint(0, 9)}", "batch": str(self._count)}
            repeated = self._surely(lambda: self._user.put(key, data, self._random.choice(TYPES), metadata))
            if kind != "collide":
                content[key] = hashlib.md5(data, usedforsecurity=False).hexdigest()
        elif kind == "delete":
            self._keys.remove(key)
            repeated = self._surely(lambda: self._user.delete(key), gone_is_fine=True)
            content[key] = ""
        elif kind == "rename":
            changes = 2
            target = self._new_key()
            repeated = self._surely(lambda: self._user.copy(key, target))
            repeated += self._surely(lambda: self._user.delete(key), gone_is_fine=True)
            self._keys.remove(key)
            self._keys.append(target)
            content[key] = ""
            content[target] = f"as {key}"
        else:
            metadata = {"note": str(self._count)}
            repeated = self._surely(lambda: self._user.metadata(key, metadata))
        self._done(kind, changes, content, repeated=repeated, missed=missed)
        return changes

    def _pick(self, kind: str) -> str:
        if kind == "collide":
            return f"shared/{self._random.randrange(self._plan.shared):03d}.bin"
        if kind == "create":
            key = self._new_key()
            self._keys.append(key)
            return key
        return self._random.choice(self._keys)

    def _new_key(self) -> str:
        self._count += 1
        return f"{self._prefix}/dir{self._count % 7}/file {self._count:05d}.bin"

    def _surely(self, step: Any, *, gone_is_fine: bool = False) -> int:
        """Repeat a step that a fault kept from happening, as users' tools do; returns how often."""
        for attempt in range(ATTEMPTS):
            try:
                step()
            except ResourceNotFoundError:
                if gone_is_fine and attempt:
                    return attempt
                raise
            except (HttpResponseError, ClientError, BotoCoreError, OSError) as error:
                if _final(error):
                    raise
                time.sleep(0.5)
            else:
                return attempt
        raise AssertionError(f"{self._prefix}: a step did not succeed in {ATTEMPTS} attempts")


def _final(error: Exception) -> bool:
    """Whether repeating cannot help."""
    if isinstance(error, HttpResponseError):
        return error.status_code is not None and error.status_code < 500 and error.status_code != 429
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return bool(status < 500 and status != 429)
    return False
