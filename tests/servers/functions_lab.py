"""The functions app on the local stack, in workers of its real runtime."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from azure.storage.queue.aio import QueueClient

from federation.ports import State
from federation.settings import Settings, load
from federation.wiring import open_state
from fedplane.localstack.azurite import ACCOUNT_ID
from fedplane.localstack.info import StackInfo
from tests.functions_host.instance import Instance

SECRET = "made-up shared secret"


class App:
    """One deployment: its settings, and instances of it."""

    def __init__(self, info: StackInfo, home: Path) -> None:
        self.info = info
        self.home = home
        self.name = f"p{uuid4().hex[:12]}"
        self.prefix = f"{self.name}/"
        self.queue = f"events-{self.name}"
        self.environment = {
            "PATH": os.environ["PATH"],
            **info.environment(),
            "AzureWebJobsStorage": info.connection_string(),
            "TEST_SECRET": SECRET,
            "FEDERATION_CONFIG": str(home / "federation.toml"),
            "FEDERATION__FUNCTIONS__DOORBELL_QUEUE": f"bell-{self.name}",
            "FEDERATION__FUNCTIONS__RECONCILE_QUEUE": f"scan-{self.name}",
        }
        self._write()

    def _write(self) -> None:
        text = self.info.settings_toml().replace('name = "demo"', f'name = "{self.name}"')
        text = text.replace(f'/{self.info.queue}"', f'/{self.queue}"')
        text = text.replace(
            "[pair.blob.events]", f'prefix = "{self.prefix}"\n[pair.blob.events]\nwebhook_secret_env = "TEST_SECRET"'
        )
        text = text.replace("[pair.vast.events]", f'prefix = "{self.prefix}"\n[pair.vast.events]')
        text = text.replace("[pair.vast.events]", "[pair.vast.events]\ncanary_seconds = 0")
        text += "quiet_seconds = 0\n[functions]\nevent_grid = true\n"
        (self.home / "federation.toml").write_text(text)

    def settings(self) -> Settings:
        """As the app reads them."""
        return load(self.home / "federation.toml", self.environment)

    @asynccontextmanager
    async def instance(self, number: int = 0, /, **environment: str) -> AsyncIterator[Instance]:
        """A worker, killed at the end."""
        made = await Instance(self.environment | environment, self.home / f"instance-{number}.jsonl").start()
        assert not made.refused, made.refused
        try:
            yield made
        finally:
            await made.kill()

    @asynccontextmanager
    async def state(self) -> AsyncIterator[State]:
        """The pair's state."""
        settings = self.settings()
        async with open_state(settings, settings.pair[0]) as state:
            yield state

    def event(self, key: str, etag: str = "") -> dict[str, Any]:
        """What Event Grid says of a blob that was written."""
        return {
            "topic": ACCOUNT_ID,
            "subject": f"/blobServices/default/containers/{self.info.container}/blobs/{self.prefix}{key}",
            "eventType": "Microsoft.Storage.BlobCreated",
            "eventTime": "2023-11-14T22:13:20.1234567Z",
            "id": str(uuid4()),
            "data": {"api": "PutBlob", "eTag": etag or "0x8DC1", "contentLength": 5},
            "dataVersion": "",
            "metadataVersion": "1",
        }

    def message(self, key: str) -> str:
        """The same as Event Grid writes it into a queue."""
        return base64.b64encode(json.dumps(self.event(key)).encode()).decode()

    def queue_client(self, name: str) -> QueueClient:
        """A queue of the account."""
        return QueueClient.from_connection_string(self.info.connection_string(), name)

    def log(self, number: int = 0) -> list[dict[str, Any]]:
        """What an instance logged."""
        file = self.home / f"instance-{number}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]
