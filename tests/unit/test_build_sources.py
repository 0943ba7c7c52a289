"""Which listeners a pair's settings ask for."""

from __future__ import annotations

from typing import Any

import pytest

from federation.clock import SystemClock
from federation.errors import UsageError
from federation.event_settings import BlobEventSettings
from federation.model import Side
from federation.settings import BlobSettings, PairSettings, VastSettings
from federation.sources import build
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore

KEY = "bWFkZSB1cA=="
CONNECTION = f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};EndpointSuffix=core.windows.net"
ALL: dict[str, Any] = {
    "queue_url": "https://acct.queue.core.windows.net/events",
    "connection_string_env": "TEST_CONNECTION",
    "webhook_listen": "127.0.0.1:0",
    "webhook_secret_env": "TEST_SECRET",
    "webhook_entra_tenant": "contoso.example",
    "webhook_entra_audience": "api://fedplane",
    "namespace_endpoint": "https://ns.westus-1.eventgrid.azure.net",
    "namespace_topic": "events",
    "namespace_subscription": "fedplane",
    "namespace_key_env": "TEST_KEY",
}


def _pair(**events: Any) -> PairSettings:  # noqa: ANN401 - settings
    blob = BlobSettings(account_url="https://acct.blob.core.windows.net", container="c", events=BlobEventSettings(**events))
    vast = VastSettings(endpoint="https://vast.example", bucket="b", access_key_env="A", secret_key_env="S")
    return PairSettings(name="p", blob=blob, vast=vast)


def _built(pair: PairSettings) -> list[str]:
    state = MemoryState("p", shards=1, clock=SystemClock())
    vast = MemoryStore(Side.VAST, clock=SystemClock())
    found = build.sources(pair, state, state, SystemClock(), credential=None, on_gap=_no_gap, vast=vast, owner="me")
    return [one.name for one in found]


async def _no_gap(prefix: str = "") -> None:
    raise AssertionError(prefix)


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the settings name."""
    for name, value in (("TEST_CONNECTION", CONNECTION), ("TEST_SECRET", "made-up"), ("TEST_KEY", KEY)):
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("variables")
async def test_each_way_is_a_source_of_its_own() -> None:
    """All three at once, or none; nothing is asked of any service before they run."""
    assert _built(_pair(**ALL)) == ["event_grid_queue", "event_grid_webhook", "event_grid_pull"]
    assert _built(_pair()) == []


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("name", ["connection_string_env", "webhook_secret_env", "namespace_key_env"])
async def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With the setting that names it."""
    monkeypatch.delenv(ALL[name])
    with pytest.raises(UsageError) as caught:
        _built(_pair(**ALL))
    assert f"pair.blob.events.{name}" in str(caught.value)
    assert ALL[name] in str(caught.value)


@pytest.mark.usefixtures("variables")
async def test_a_sender_by_http_proves_what_the_settings_say() -> None:
    """Secret and token, each where it is set."""
    state = MemoryState("p", shards=1, clock=SystemClock())
    both = build.http_target(_pair(**ALL), state, SystemClock(), on_gap=_no_gap)
    neither = build.http_target(_pair(), state, SystemClock(), on_gap=_no_gap)
    assert (both.secret, both.tokens is not None) == ("made-up", True)
    assert (neither.secret, neither.tokens) == (None, None)
