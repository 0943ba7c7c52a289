"""The functions app on in-memory states and stores, in one process."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
import structlog
from azure.functions.eventgrid import EventGridEventInConverter
from azure.functions.meta import Datum

from federation import wiring
from federation.errors import RetryLater, UsageError
from federation.model import Change, Metadata, Side
from federation.ports import Clock, ObjectStore, State
from federation.progress import DeadLetter, HaltRecord, Lease, MarkResult
from federation.settings import PairSettings, Settings, load
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from function_app import process, queues
from tests.unit.function_index import index
from tests.unit.world import FakeClock

ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
SECRET = "made-up shared secret"


class LabState(MemoryState):
    """Can be away, and have another layout."""

    away = False
    wrong_layout = False

    async def open(self, *, create: bool = True) -> bool:
        """As in the port."""
        if self.wrong_layout:
            raise UsageError("The state has another layout.", reason="state_layout")
        self._check()
        return await super().open(create=create)

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port."""
        self._check()
        return await super().mark(changes)

    async def bury(self, letter: DeadLetter) -> None:
        """As in the port."""
        self._check()
        await super().bury(letter)

    async def own(self, task: str, *, owner: str, ttl_seconds: float) -> bool:
        """As in the port."""
        self._check()
        return await super().own(task, owner=owner, ttl_seconds=ttl_seconds)

    async def acquire(self, shard: int, *, owner: str, ttl_seconds: float) -> Lease | None:
        """As in the port."""
        self._check()
        return await super().acquire(shard, owner=owner, ttl_seconds=ttl_seconds)

    def _check(self) -> None:
        if self.away:
            raise RetryLater("Redis does not answer", reason="redis_unavailable")


@dataclass
class App:
    """The app in a process of its own, so to say: its functions, the states and stores of its pairs, and what it sent."""

    states: dict[str, LabState] = field(default_factory=dict)
    stores: dict[tuple[str, Side], MemoryStore] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    sent: list[tuple[str, str, int]] = field(default_factory=list)
    halted: bool = True
    """Nothing is worked on, so that marks can be looked at."""
    cannot_open: bool = False
    cannot_send: bool = False

    @asynccontextmanager
    async def open_state(
        self, settings: Settings, pair: PairSettings, clock: Clock | None = None, *, marker: str = ""
    ) -> AsyncIterator[State]:
        """In place of ``wiring.open_state``."""
        del marker
        if self.cannot_open:
            raise RetryLater("Redis did not answer", reason="redis_unavailable")
        self.opened.append(pair.name)
        state = self.states.setdefault(pair.name, LabState(pair.name, shards=settings.worker.shards, clock=clock or FakeClock()))
        if self.halted:
            await state.halt(HaltRecord("listing_order", "so that what is marked stays", 0, self_lifting=False))
        yield state

    def store(self, pair: PairSettings, side: Side) -> ObjectStore:
        """In place of the adapters."""
        return self.stores.setdefault((pair.name, side), MemoryStore(side, clock=FakeClock()))

    async def send(self, queue: str, text: str, *, delay_seconds: int = 0) -> None:
        """In place of ``Queues.send``."""
        if self.cannot_send:
            raise RetryLater("the queue does not answer", reason="queue_unavailable")
        self.sent.append((queue, text, delay_seconds))

    async def put(self, name: str = "a.txt", pair: str = "one") -> dict[str, Any]:
        """A user writes a blob; what Event Grid says of it."""
        if not self.opened:
            await self.health()
        written = await self.stores[pair, Side.BLOB].put(name, b"text", Metadata(), stamp=None, expected_etag=None)
        event = blob_event("datasets" if pair == "one" else "models", name)
        event["data"]["eTag"] = written.etag
        return event

    def arrived(self, pair: str = "one") -> set[str]:
        """Keys on VAST, of users."""
        return {key for key in self.stores[pair, Side.VAST].objects if not key.startswith(".federation/")}

    async def dirty(self, pair: str = "one") -> int:
        """How many keys of *pair* are dirty."""
        return (await self.states[pair].backlog()).dirty if pair in self.states else 0

    async def post(self, body: object, *, secret: str | None = SECRET, method: str = "POST", **headers: str) -> func.HttpResponse:
        """Deliver to the webhook."""
        given = {} if secret is None else {"X-Fedplane-Key": secret}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer: func.HttpResponse = await call(
            "events", func.HttpRequest(method, "https://app/api/events", headers=given | headers, body=content)
        )
        return answer

    async def health(self) -> tuple[int, Any]:
        """Ask for health."""
        answer = await call("health", func.HttpRequest("GET", "https://app/api/health", body=b""))
        return answer.status_code, json.loads(answer.get_body())


def blob_event(container: str = "datasets", name: str = "a.txt") -> dict[str, Any]:
    """What Event Grid says of a blob that was written."""
    return {
        "topic": ACCOUNT,
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": "Microsoft.Storage.BlobCreated",
        "eventTime": "2023-11-14T22:13:20.1234567Z",
        "data": {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 5},
    }


def message(body: object) -> func.QueueMessage:
    """A message of the queue, base64 as Event Grid writes it."""
    content = body if isinstance(body, bytes) else base64.b64encode(json.dumps(body).encode())
    return func.QueueMessage(id="1", body=content)


async def call(name: str, argument: object) -> Any:  # noqa: ANN401 - whatever the function returns
    """Call one function as the worker does; the settings say which there are."""
    [found] = [one for one in index(load()) if one.get_function_name() == name]
    return await found.get_user_function()(argument)


def write_settings(tmp_path: Path, *pairs_: str, secret: bool = True) -> Path:
    """A settings file with pairs told as ``name:container``."""
    sections = [
        f"""
[[pair]]
name = "{name}"
[pair.blob]
account_url = "https://acct.blob.core.windows.net"
container = "{container}"
[pair.blob.events]
account_id = "{ACCOUNT}"
{f'queue_url = "https://acct.queue.core.windows.net/{name}"' if name == "one" else ""}
{'webhook_secret_env = "TEST_WEBHOOK_SECRET"' if secret else ""}
[pair.vast]
endpoint = "https://vast.example"
bucket = "{container}"
access_key_env = "A"
secret_key_env = "S"
"""
        for name, container in (pair.split(":") for pair in pairs_)
    ]
    file = tmp_path / "federation.toml"
    shared = '[redis]\nurl = "redis://127.0.0.1:1/0"\n[functions]\nevent_grid = true\nevent_connection = "E"\n'
    file.write_text(shared + "".join(sections))
    return file


def decoded(event: dict[str, Any]) -> Any:  # noqa: ANN401 - the worker picks the class
    """The event as the worker gives it to the function."""
    return EventGridEventInConverter.decode(Datum(json.dumps(event), "json"), trigger_metadata=None)


@asynccontextmanager
async def fresh_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """A fresh process with two pairs on one account, its functions in place of the app's."""
    made = App()
    monkeypatch.setattr(wiring, "open_state", made.open_state)
    monkeypatch.setattr(wiring, "_blob_store", lambda pair, _: made.store(pair, Side.BLOB))
    monkeypatch.setattr(wiring, "_vast_store", lambda pair, _: made.store(pair, Side.VAST))
    monkeypatch.setattr(queues.Queues, "send", made.send)
    monkeypatch.setattr(process, "PROCESS", process.Process())
    for name, value in {"TEST_WEBHOOK_SECRET": SECRET, "AzureWebJobsStorage__accountName": "acct"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FEDERATION_CONFIG", str(write_settings(tmp_path, "one:datasets", "two:models")))
    yield made
    await process.PROCESS.close()
    structlog.reset_defaults()
