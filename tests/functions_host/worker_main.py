"""One Python worker of the Functions host, as a process: the real runtime package, driven by lines of JSON on standard input.

``azure-functions-runtime`` is what production runs on Python 3.13 (facts/functions.md). It only reads attributes of messages, so
plain objects stand for the host's protocol. Answers go to standard output; logs, with the invocation's id, to the file named.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

INVOCATION: ContextVar[str] = ContextVar("invocation", default="")


class Protos:
    """The protocol's message classes: whatever is asked for keeps what it is given."""

    class BindingInfo(SimpleNamespace):
        """Its directions are compared with."""

        inout, out, undefined = 2, 1, 0

    class StatusResult(SimpleNamespace):
        """Its states too."""

        Success, Failure = "success", "failure"

    def __getattr__(self, name: str) -> Any:
        """Any other class."""
        return SimpleNamespace


class TypedData(SimpleNamespace):
    """One value on its way in."""

    def WhichOneof(self, _: str) -> str:  # noqa: N802 - the protocol's name
        """Which of its fields is set."""
        return next(iter(vars(self)))


def typed(told: Mapping[str, Any]) -> TypedData:
    """A value as it came over the line."""
    [(kind, value)] = told.items()
    if kind == "http":
        body = TypedData(bytes=base64.b64decode(value["body"]))
        return TypedData(http=SimpleNamespace(**value | {"body": body, "params": {}}))
    if kind == "collection_bytes":
        return TypedData(collection_bytes=SimpleNamespace(bytes=[base64.b64decode(one) for one in value]))
    if kind.startswith("collection_"):
        return TypedData(**{kind: SimpleNamespace(**{kind.removeprefix("collection_"): value})})
    return TypedData(**{kind: value})


class Lines(logging.Handler):
    """Keeps each record with the id of its invocation; the host drops those without one (facts/functions.md, Logs)."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file.open("a", buffering=1)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            told = json.loads(record.getMessage())
        except ValueError:
            told = {"event": record.getMessage(), "logger": record.name}
        text = json.dumps(told | {"level": record.levelname.lower(), "invocation": INVOCATION.get()}, default=str)
        self._file.write(text + "\n")


def install_logging(file: Path) -> None:
    """As the worker does before it loads the app."""
    root = logging.getLogger()
    root.addHandler(Lines(file))
    root.setLevel(logging.INFO)
    logging.getLogger("azure.functions").setLevel(logging.WARNING)


class Worker:
    """Serves one host."""

    def __init__(self, out: Any) -> None:
        import azure_functions_runtime as runtime  # noqa: PLC0415 - it is what this process is about

        self._runtime = runtime
        self._out = out
        self._properties = {"protos": Protos(), "host": "127.0.0.1"}

    def _message(self, **request: object) -> SimpleNamespace:
        return SimpleNamespace(request=SimpleNamespace(**request), properties=self._properties)

    async def index(self, root: str) -> dict[str, Any]:
        """Load the app and list its functions, as the host asks at its start."""
        init = SimpleNamespace(capabilities={}, function_app_directory=root)
        begun = await self._runtime.worker_init_request(self._message(worker_init_request=init))
        if begun.result.status != Protos.StatusResult.Success:
            return {"failed": begun.result.exception.message}
        listed = await self._runtime.functions_metadata_request(self._message())
        return {
            "functions": [
                {"name": one.name, "id": one.function_id, "bindings": [json.loads(raw) for raw in one.raw_bindings]}
                for one in listed.function_metadata_results or []
            ]
        }

    async def invoke(self, told: dict[str, Any]) -> dict[str, Any]:
        """One invocation; what the host would see of it."""
        INVOCATION.set(told["id"])
        none = SimpleNamespace(trace_parent="", trace_state="", attributes={}, retry_count=0, max_retry_count=0, exception=None)
        data = typed(told["data"])
        bound = SimpleNamespace(name=told["arg"], data=data, WhichOneof=lambda _: "data")
        request = SimpleNamespace(
            invocation_id=told["id"],
            function_id=told["function"],
            input_data=[bound],
            trigger_metadata={name: typed(value) for name, value in told.get("metadata", {}).items()},
            trace_context=none,
            retry_context=none,
        )
        answer = await self._runtime.invocation_request(self._message(invocation_request=request))
        failed = answer.result.status != Protos.StatusResult.Success
        return {
            "failed": answer.result.exception.message if failed else "",
            "value": _value(getattr(answer, "return_value", None)),
        }

    async def serve(self, lines: asyncio.StreamReader) -> None:
        """Answer until the host goes away; invocations run side by side on one loop."""
        self._runtime.start_threadpool_executor()
        running: set[asyncio.Task[None]] = set()
        while line := await lines.readline():
            task = asyncio.create_task(self._answer(json.loads(line)))
            running.add(task)
            task.add_done_callback(running.discard)

    async def _answer(self, told: dict[str, Any]) -> None:
        answer = await (self.index(told["root"]) if "root" in told else self.invoke(told))
        self._out.write(json.dumps({"id": told["id"]} | answer) + "\n")
        self._out.flush()


def _value(returned: Any) -> Any:
    """An HTTP answer, as JSON takes it."""
    http = getattr(returned, "http", None)
    if http is None:
        return None
    body = http.body
    raw = getattr(body, "bytes", None) or getattr(body, "string", None) or b""
    text = raw.decode() if isinstance(raw, bytes) else raw
    return {"status": int(http.status_code), "headers": dict(http.headers), "body": text}


async def main() -> None:
    """Serve standard input."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the app prints must not be taken for an answer
    install_logging(Path(sys.argv[1]))
    lines = asyncio.StreamReader(limit=16 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    with contextlib.suppress(asyncio.CancelledError):
        await Worker(out).serve(lines)


if __name__ == "__main__":
    asyncio.run(main())
