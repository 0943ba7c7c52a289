"""The probe through a network that loses requests and answers, and a server that is busy now and then."""

from __future__ import annotations

import random
from collections.abc import Mapping

import aiohttp
import pytest

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.stores.base import HttpStore
from federation.stores.lane import HttpLane
from tests.contract.store_support import Made, listed_keys

SHARE = 0.08
SEEDS = range(6)


class _Quick(SystemClock):
    async def sleep(self, seconds: float) -> None:
        """No time passes: what is tried is not what it waits for."""


def _flaky(store: HttpStore, rng: random.Random, monkeypatch: pytest.MonkeyPatch, faults: list[str]) -> None:
    """From now on some requests do not arrive, or arrive and are not answered: *faults*."""
    lane = store._lane
    start = HttpLane.start

    async def flaky(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> aiohttp.ClientResponse:
        kind = rng.choices(("well", "lost", "unanswered"), (1 - SHARE, SHARE / 2, SHARE / 2))[0]
        if kind == "lost":
            faults.append(f"{method} lost")
            raise RetryLater("the request was lost", reason="unreachable", side=store.side)
        response = await start(lane, method, url, headers, body)
        if kind == "unanswered":
            faults.append(f"{method} unanswered")
            response.close()
            raise RetryLater("the answer was lost", reason="unreachable", side=store.side)
        return response

    monkeypatch.setattr(lane, "start", flaky)
    monkeypatch.setattr(store, "clock", _Quick())


async def test_faults_that_pass_change_neither_what_is_found_nor_that_it_is(case: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request in twelve fails: nearly every probe ends, finds what one without faults does, and leaves nothing behind."""
    store = case.make()
    if not isinstance(store, HttpStore):
        pytest.skip("no requests in memory")
    found = await case.make().probe()
    ended = 0
    faults: list[str] = []
    for seed in SEEDS:
        with monkeypatch.context() as patch:
            _flaky(store, random.Random(seed), patch, faults)  # noqa: S311 - repeatable chance
            try:
                assert await store.probe() == found
            except RetryLater:
                continue
            ended += 1
        assert await listed_keys(case.make(), prefix=".federation/probe/") == []
    assert ended >= len(SEEDS) - 1, faults
