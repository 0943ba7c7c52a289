"""How a process of the functions app is set up and opens its pairs, beside whoever publishes meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from federation.metrics import Point
from federation.model import Side
from federation.settings import MetricsSettings
from function_app import answers, process
from function_app.pair import FunctionPair
from operations.exporters import Exporters
from operations.publish import Publisher
from tests.unit.function_lab import App, fresh_app


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[Exporters]:
    """The exporters that are open, in place of those of the settings; each sends into memory."""
    made: list[Exporters] = []

    @contextmanager
    def exporting(_: MetricsSettings) -> Iterator[Exporters]:
        made.append(Exporters([InMemoryMetricReader()]))
        yield made[-1]
        made.pop().close()

    monkeypatch.setattr(process, "exporting", exporting)
    return made


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entered: list[Exporters]) -> AsyncIterator[App]:
    """Two pairs on one account, with metrics."""
    del entered
    async with fresh_app(tmp_path, monkeypatch) as made:
        yield made


async def test_a_pair_may_be_opened_while_metrics_are_sent(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another invocation opens it: it is left out until it is open, and whoever sends goes on."""
    del app
    reached, free = asyncio.Event(), asyncio.Event()

    async def say(_: FunctionPair) -> None:
        reached.set()
        await free.wait()

    with monkeypatch.context() as patch:
        patch.setattr(FunctionPair, "say", say)
        opening = asyncio.create_task(process.PROCESS.pair("one"))
        await reached.wait()
        await process.PROCESS.publish([])
        free.set()
        await opening

    async def levels(_: Publisher) -> list[Point]:
        await process.PROCESS.pair("two")
        return []

    monkeypatch.setattr(Publisher, "levels", levels)
    assert await process.PROCESS.levels() == []
    assert list(process.PROCESS._publishers) == ["one", "two"]
    await process.PROCESS.publish([])


async def test_an_app_that_is_not_set_up_leaves_nothing_behind(
    app: App, entered: list[Exporters], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each invocation and each call of health tries again: exporters are begun once, when nothing is refused any more."""
    account = "AzureWebJobsStorage__accountName"
    monkeypatch.delenv(account)
    for _ in range(3):
        assert (await app.health())[0] == 503
    assert entered == []
    monkeypatch.setenv(account, "acct")
    for _ in range(3):
        assert (await app.health())[0] == 200
    assert len(entered) == 1


async def test_what_explain_rests_on_is_told_and_nothing_is_tried_for_it(app: App) -> None:
    """Before the sides were proved no ETag is taken for a hash; afterwards it is as was seen."""
    pair = await process.PROCESS.pair("one")
    assert json.loads(await answers.explained(process.PROCESS, "one", "k"))["assumed_capabilities"] == ["blob", "vast"]
    assert {call for call, _ in app.stores["one", Side.VAST].calls} == {"head"}
    assert await pair.ready()
    assert json.loads(await answers.explained(process.PROCESS, "one", "k"))["assumed_capabilities"] == []
