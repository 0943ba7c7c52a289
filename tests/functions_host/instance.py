"""One instance of the app: a worker process of its own, invoked by name."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[2]
_LINE_BYTES = 16 * 1024 * 1024


class WorkerGone(Exception):
    """The worker process ended under way: the host sees a failed invocation."""


@dataclass(frozen=True)
class Function:
    """As the worker indexed it; ``bindings``: as the host is told of them."""

    name: str
    function_id: str
    bindings: list[dict[str, Any]]

    @property
    def trigger(self) -> dict[str, Any]:
        """Its trigger."""
        return self.bindings[0]


@dataclass(frozen=True)
class Outcome:
    """What the host sees of an invocation. ``failed``: the exception's text, empty after success."""

    failed: str
    value: Any

    @property
    def body(self) -> Any:
        """JSON of an HTTP answer."""
        return json.loads(self.value["body"]) if self.value and self.value["body"] else None


class Instance:
    """Start with ``start``; everything it logs is in *log*."""

    def __init__(self, environment: Mapping[str, str], log: Path, app: Path = ROOT) -> None:
        self._environment = dict(environment) | {"PYTHONPATH": str(app)}
        self._log = log
        self._app = app
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self.functions: dict[str, Function] = {}
        self.refused = ""
        """Why the app could not be indexed."""

    @property
    def pid(self) -> int:
        """Of the worker process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> Self:
        """Start the worker and index the app."""
        command = [sys.executable, "-m", "tests.functions_host.worker_main", str(self._log)]
        environment = self._environment | {"PYTHONPATH": f"{self._app}:{ROOT}"}
        with self._log.with_suffix(".err").open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=self._app,
                limit=_LINE_BYTES,
            )
        self._reading = asyncio.create_task(self._read())
        told = await self._ask({"root": str(self._app)}, "index")
        self.refused = told.get("failed", "")
        found = [Function(one["name"], one["id"], one["bindings"]) for one in told.get("functions", [])]
        self.functions = {one.name: one for one in found}
        return self

    async def invoke(self, name: str, data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> Outcome:
        """Invoke one function with a value of the protocol. Raises WorkerGone."""
        function = self.functions[name]
        arg = function.trigger["name"]
        told = {"function": function.function_id, "arg": arg, "data": data, "metadata": metadata or {}}
        answer = await self._ask(told, str(uuid4()))
        return Outcome(answer["failed"], answer["value"])

    async def message(self, name: str, body: str, *, dequeue_count: int = 1) -> Outcome:
        """A message of a Storage Queue."""
        metadata = {"Id": {"string": str(next(self._numbers))}, "DequeueCount": {"json": str(dequeue_count)}}
        return await self.invoke(name, {"string": body}, metadata)

    async def timer(self, name: str) -> Outcome:
        """Its time has come."""
        return await self.invoke(name, {"json": json.dumps({"IsPastDue": False, "ScheduleStatus": {}, "Schedule": {}})})

    async def records(self, name: str, topic: str, records: Sequence[tuple[int, bytes]]) -> Outcome:
        """A batch that the Kafka extension read of partition 0: offsets and values."""
        many = len(records)
        metadata = {
            "TimestampArray": {"json": json.dumps(["2026-11-21T10:00:00Z"] * many)},
            "KeyArray": {"json": json.dumps([None] * many)},
            "PartitionArray": {"json": json.dumps([0] * many)},
            "OffsetArray": {"collection_sint64": [offset for offset, _ in records]},
            "TopicArray": {"collection_string": [topic] * many},
            "HeadersArray": {"json": json.dumps([[]] * many)},
        }
        values = [base64.b64encode(value).decode() for _, value in records]
        return await self.invoke(name, {"collection_bytes": values}, metadata)

    async def event(self, name: str, event: object) -> Outcome:
        """One event that Event Grid delivers to the trigger."""
        return await self.invoke(name, {"json": json.dumps(event)})

    async def request(
        self,
        name: str,
        method: str = "GET",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Outcome:
        """An HTTP request that the host let through."""
        told = {
            "method": method,
            "url": f"https://app.example/api/{name}",
            "headers": {key.lower(): value for key, value in (headers or {}).items()},
            "query": dict(query or {}),
            "body": base64.b64encode(body).decode(),
        }
        return await self.invoke(name, {"http": told})

    async def _ask(self, told: dict[str, Any], number: str) -> dict[str, Any]:
        if self._process is None or self._process.returncode is not None or (self._reading and self._reading.done()):
            raise WorkerGone
        assert self._process.stdin is not None
        answer: asyncio.Future[dict[str, Any]]
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._process.stdin.write(json.dumps(told | {"id": number}).encode() + b"\n")
            await self._process.stdin.drain()
        except ConnectionError:
            raise WorkerGone from None
        else:
            return await answer
        finally:
            del self._waiting[number]

    async def _read(self) -> None:
        assert self._process is not None
        lines = self._process.stdout
        assert lines is not None
        while line := await lines.readline():
            told = json.loads(line)
            if told["id"] in self._waiting:
                self._waiting[told["id"]].set_result(told)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(WorkerGone())

    async def kill(self) -> None:
        """SIGKILL, as the platform does; invocations under way end with WorkerGone."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if self._reading is not None:
            await self._reading
