"""The thread in which kafka-python's client works: it ends with who began it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from federation.sources import kafka_reader


async def test_who_leaves_while_the_client_connects_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was connected too late is closed, and nothing more is asked of it: a silent broker might never answer."""
    connecting, connected = threading.Event(), threading.Event()
    told: list[str] = []

    class Slow:
        def __init__(self, _: dict[str, Any]) -> None:
            connecting.set()
            connected.wait()

        def close(self) -> None:
            told.append("closed")

        @property
        def consumer(self) -> object:
            told.append("asked")
            raise AssertionError

    monkeypatch.setattr(kafka_reader, "Connection", Slow)

    async with kafka_reader.Reader({"bootstrap_servers": ["broker"]}, "topic") as reader:
        asking = asyncio.create_task(reader.topic())
        await asyncio.to_thread(connecting.wait)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    connected.set()
    await asyncio.to_thread(reader._thread.join, 10)
    assert (reader._thread.is_alive(), told) == (False, ["closed"])
