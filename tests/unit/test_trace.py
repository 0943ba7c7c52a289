"""W3C trace context: from the event that told of a key, into its decision line and the requests of both stores."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from federation import trace
from federation.model import Change, Side, Source, Trace
from federation.stores.lane import HttpLane
from function_app import process
from tests.unit.function_lab import App, call, decoded, fresh_app

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{ID}-{SPAN}-01"
_ONE = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PARENT, Trace(ID, "01")),
        (f"cc-{ID}-{SPAN}-00-of-a-later-version", Trace(ID, "00")),
        (f"ff-{ID}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{ID}-{'0' * 16}-01", None),
        (PARENT.upper(), None),
        (f"{PARENT}\r\nx: y", None),
        (PARENT + "-" + "x" * 500, None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_what_is_no_trace_is_ignored(text: object, found: Trace | None) -> None:
    """As the standard says: an unknown version by its first parts, an id of zeros not at all."""
    assert trace.read(text) == found


def test_traces_that_wait_are_bounded() -> None:
    """Keys that are worked on elsewhere are never asked for here: the oldest go; the newest trace of a key counts."""
    traces = trace.Traces()
    told = [Change(str(number), Side.BLOB, Source.EVENT_GRID, trace=trace.new()) for number in range(trace._MOST_KEYS + 5)]
    traces.note(told)
    newest = Change("7", Side.BLOB, Source.EVENT_GRID, trace=Trace(ID))
    traces.note([newest, Change("7", Side.BLOB, Source.EVENT_GRID)])
    assert len(traces._of) == trace._MOST_KEYS
    begun = [copy_context().run(traces.begin, key) for key in ("7", "7", "0", str(trace._MOST_KEYS))]
    assert [one in (Trace(ID), told[-5].trace) for one in begun] == [True, False, False, True]


@pytest.mark.parametrize("side", Side)
async def test_requests_for_a_key_carry_its_trace(side: Side) -> None:
    """Each is a span of its own; Blob's log of requests gets it as the client's id too. Other requests carry none."""
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    lane = HttpLane(side)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        await lane.call("GET", url, {})
        token = trace.current.set(Trace(ID, "01"))
        for _ in range(2):
            await lane.call("GET", url, {})
        trace.current.reset(token)
        await lane.close()
    told = [dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line) for head in heads]
    assert "traceparent" not in told[0]
    spans = [_ONE.fullmatch(one["traceparent"]) for one in told[1:]]
    assert [(one[1], one[3]) for one in spans if one] == [(ID, "01")] * 2
    assert len({one["traceparent"] for one in told[1:]}) == 2
    assert [one.get("x-ms-client-request-id") == one["traceparent"] for one in told[1:]] == [side is Side.BLOB] * 2


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two pairs on one account."""
    async with fresh_app(tmp_path, monkeypatch) as made:
        made.halted = False
        yield made


@pytest.mark.parametrize("by", ["the trigger", "the webhook", "the webhook, in binary mode"])
async def test_the_trace_of_a_cloud_event_is_its_decisions(app: App, by: str) -> None:
    """One id finds the event, the decision and the requests; without one the key's work begins a trace of its own."""
    event = await app.put("traced")
    cloud: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": event["topic"], "type": event["eventType"]}
    cloud |= {"time": event["eventTime"], "subject": event["subject"], "traceparent": PARENT}
    if by == "the trigger":
        await call("event_grid", decoded(cloud | {"data": event["data"]}))
    elif by == "the webhook":
        assert (await app.post(cloud | {"data": event["data"]})).status_code == 200
    else:
        assert (await app.post(event["data"], **{f"ce-{name}": value for name, value in cloud.items()})).status_code == 200
    await call("event_grid", decoded(await app.put("untraced")))
    lines = {line.key: line for line in (await process.PROCESS.pair("one")).worker.stats.last}
    assert lines["traced"].fields()["trace_id"] == ID
    assert re.fullmatch("[0-9a-f]{32}", lines["untraced"].trace_id)
    assert lines["untraced"].trace_id != ID
