"""What a stack is made of and where it listens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from fedplane.localstack.azurite import ACCOUNT, ACCOUNT_ID, KEY
from fedplane.localstack.faults import Faults

STACK_DIR = Path(".fedplane/stack")
TOOLS_DIR = Path(".fedplane/tools")


class StackOptions(msgspec.Struct, kw_only=True, frozen=True):
    """What to start. Ports of 0 are chosen freely."""

    s3: Literal["moto", "versitygw", "own"] = "moto"
    """``own``: the server that ``own_s3`` names; it is neither started nor stopped."""
    own_s3: tuple[str, str, str] = ("", "", "")
    """Endpoint, access key and secret key."""
    kafka: Literal["mock", "apache"] = "mock"
    redis: Literal["embedded", "system"] = "embedded"
    state_dir: Path = STACK_DIR
    tools_dir: Path = TOOLS_DIR
    keep: bool = False
    """Keep the data of the last run. Not with moto, whose data is in memory: its empty bucket would look like a loss."""
    blobs_in_memory: bool = False
    """Azurite writes its whole index to disk every few seconds: with 100,000 blobs it does little else. A restart loses them."""
    blob_port: int = 0
    s3_port: int = 0
    redis_port: int = 0
    container: str = "datasets"
    bucket: str = "datasets"
    queue: str = "fedplane-events"
    topic: str = "datasets-events"
    raw_keys: bool = False
    """Object keys in VAST's records as they are, not percent-encoded."""
    blob_faults: Faults = msgspec.field(default_factory=Faults)
    vast_faults: Faults = msgspec.field(default_factory=Faults)


class StackInfo(msgspec.Struct, kw_only=True):
    """What a client, a test or a command needs to know of a running stack. Its keys are development keys of local servers."""

    account_name: str = ACCOUNT
    account_key: str = KEY
    account_id: str = ACCOUNT_ID
    blob_endpoint: str
    """The event proxy; path style."""
    blob_direct_endpoint: str
    queue_endpoint: str
    queue: str
    container: str
    s3_endpoint: str
    """The event proxy."""
    s3_direct_endpoint: str
    """Past the proxy: writes here stand for NFS writes, no event tells of them."""
    s3_posix_dir: str = ""
    """With versitygw: the bucket's namespace as files."""
    access_key: str
    secret_key: str
    bucket: str
    kafka_bootstrap: str
    kafka_api_version: str
    """What kafka-python must be told for the mock broker; empty for Apache Kafka."""
    topic: str
    redis_url: str
    control_url: str
    s3_kind: str
    kafka_kind: str
    redis_kind: str
    state_dir: str
    pid: int
    """Of the process that runs the stack."""
    pids: dict[str, int]

    def connection_string(self, *, direct: bool = False) -> str:
        """For azure-storage-blob and azure-storage-queue."""
        blob = self.blob_direct_endpoint if direct else self.blob_endpoint
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account_name};AccountKey={self.account_key};"
            f"BlobEndpoint={blob};QueueEndpoint={self.queue_endpoint};"
        )

    def environment(self) -> dict[str, str]:
        """The variables that the stack's federation.toml names."""
        return {
            "FEDPLANE_STACK_BLOB": self.connection_string(),
            "FEDPLANE_STACK_ACCESS_KEY": self.access_key,
            "FEDPLANE_STACK_SECRET_KEY": self.secret_key,
        }

    def local_settings(self) -> dict[str, object]:
        """``local.settings.json`` for ``func start``; the host's own blobs go past the proxy, so that no event tells of them."""
        values = {
            "FUNCTIONS_WORKER_RUNTIME": "python",
            "AzureWebJobsStorage": self.connection_string(direct=True),
            "FEDERATION_CONFIG": str(Path(self.state_dir) / "federation.toml"),
        }
        return {"IsEncrypted": False, "Values": values | self.environment()}

    def settings_toml(self) -> str:
        """A settings file for this stack."""
        api_version = f'api_version = "{self.kafka_api_version}"\n' if self.kafka_api_version else ""
        return f"""\
# Written by `fedplane stack`; the variables it names are in stack.env beside it.
[redis]
url = "{self.redis_url}"

[[pair]]
name = "demo"
mode = "two_way"

[pair.blob]
account_url = "{self.blob_endpoint}"
container = "{self.container}"
connection_string_env = "FEDPLANE_STACK_BLOB"

[pair.blob.events]
account_id = "{self.account_id}"
queue_url = "{self.queue_endpoint}/{self.queue}"
connection_string_env = "FEDPLANE_STACK_BLOB"

[pair.vast]
endpoint = "{self.s3_endpoint}"
bucket = "{self.bucket}"
access_key_env = "FEDPLANE_STACK_ACCESS_KEY"
secret_key_env = "FEDPLANE_STACK_SECRET_KEY"

[pair.vast.events]
bootstrap = ["{self.kafka_bootstrap}"]
topic = "{self.topic}"
{api_version}
[reconcile]
interval_seconds = 60
"""


def read_info(state_dir: Path = STACK_DIR) -> StackInfo | None:
    """The running stack of *state_dir*; None when there is none or its process is gone."""
    try:
        info = msgspec.json.decode((state_dir / "stack.json").read_bytes(), type=StackInfo)
    except (OSError, msgspec.DecodeError):
        return None
    try:
        os.kill(info.pid, 0)
    except OSError:
        return None
    return info
