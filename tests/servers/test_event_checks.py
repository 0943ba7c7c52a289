"""What doctor says of Event Grid's ways to us."""

from __future__ import annotations

import pytest

from federation.event_settings import BlobEventSettings
from federation.settings import BlobSettings, PairSettings, VastSettings
from fedplane import event_checks
from tests.servers.namespace import KEY, SUBSCRIPTION, TOPIC, Namespace


def _pair(**events: str) -> PairSettings:
    blob = BlobSettings(account_url="https://acct.blob.core.windows.net", container="c", events=BlobEventSettings(**events))  # type: ignore[arg-type]
    vast = VastSettings(endpoint="https://vast.example", bucket="b", access_key_env="A", secret_key_env="S")
    return PairSettings(name="p", blob=blob, vast=vast)


async def _found(pair: PairSettings) -> list[tuple[str, str, str]]:
    findings = await event_checks.sources(pair, None)
    return [(one.level, one.found, one.then) for one in findings if one.what.startswith("events of blob")]


async def test_without_any_way_it_says_what_to_set() -> None:
    """Changes are then found by scans only."""
    [(level, found, then)] = await _found(_pair())
    assert (level, found, "queue_url" in then) == ("note", "not set up", True)


@pytest.mark.parametrize(
    ("events", "level", "told"),
    [
        ({}, "note", "whoever"),
        ({"webhook_secret_env": "X"}, "ok", "a shared secret"),
        ({"webhook_entra_tenant": "t", "webhook_entra_audience": "a"}, "ok", "a token of Entra ID"),
    ],
)
async def test_it_says_who_may_deliver_to_the_webhook(events: dict[str, str], level: str, told: str) -> None:
    """And that any account's events are taken, where none is named."""
    webhook, sender = await _found(_pair(webhook_listen="127.0.0.1:0", **events))
    assert (webhook[0], told in webhook[1]) == (level, True)
    assert (sender[0], "account_id" in sender[2]) == ("note", True)
    assert len(await _found(_pair(webhook_listen="127.0.0.1:0", account_id="/x", **events))) == 1


@pytest.mark.parametrize(
    ("key", "status", "topic", "level"),
    [
        (KEY, 200, TOPIC, "ok"),
        (KEY, 400, TOPIC, "ok"),
        ("wrong", 200, TOPIC, "broken"),
        (KEY, 403, TOPIC, "broken"),
        (KEY, 200, "other", "broken"),
    ],
)
async def test_a_namespace_is_asked_without_receiving(
    monkeypatch: pytest.MonkeyPatch, key: str, status: int, topic: str, level: str
) -> None:
    """Address, right and names are proved, and no delivery of any event is used up."""
    monkeypatch.setenv("TEST_KEY", key)
    async with Namespace(status=status).serving() as namespace:
        namespace.publish({"any": "event"})
        pair = _pair(
            account_id="/x",
            namespace_endpoint=namespace.endpoint,
            namespace_topic=topic,
            namespace_subscription=SUBSCRIPTION,
            namespace_key_env="TEST_KEY",
        )
        [(found, text, then)] = await _found(pair)
    assert (found, namespace.receives) == (level, 0)
    assert key not in text + then


async def test_a_namespace_that_is_away_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the setting to look at is named."""
    monkeypatch.setenv("TEST_KEY", KEY)
    names = {"namespace_topic": TOPIC, "namespace_subscription": SUBSCRIPTION, "namespace_key_env": "TEST_KEY"}
    [(level, _, then)] = await _found(_pair(account_id="/x", namespace_endpoint="http://127.0.0.1:1", **names))
    assert (level, "namespace_endpoint" in then) == ("unreachable", True)
