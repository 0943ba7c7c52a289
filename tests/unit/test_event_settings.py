"""Settings of Event Grid's ways to us: whole or not at all, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import UsageError
from federation.settings import Settings, load

NAMESPACE = {
    "namespace_endpoint": "https://ns.westus-1.eventgrid.azure.net",
    "namespace_topic": "events",
    "namespace_subscription": "fedplane",
}
ENTRA = {"webhook_entra_tenant": "contoso.example", "webhook_entra_audience": "api://fedplane"}


def _pair(name: str, events: dict[str, str]) -> str:
    lines = "\n".join(f"{key} = {value if value.startswith('[') else repr(value)}" for key, value in events.items())
    return f"""
[[pair]]
name = "{name}"
[pair.blob]
account_url = "https://acct.blob.core.windows.net"
container = "{name}"
[pair.blob.events]
{lines}
[pair.vast]
endpoint = "https://vast.example"
bucket = "{name}"
access_key_env = "A"
secret_key_env = "S"
"""


def _load(tmp_path: Path, *pairs: dict[str, str]) -> Settings:
    file = tmp_path / "federation.toml"
    file.write_text("".join(_pair(f"pair{number}", events) for number, events in enumerate(pairs)))
    return load(file, {})


def test_what_is_whole_is_taken(tmp_path: Path) -> None:
    """Pull delivery and token check beside each other; Event Grid's own application may deliver by default."""
    events = _load(tmp_path, NAMESPACE | ENTRA).pair[0].blob.events
    assert (events.any, events.pull_place) == (True, "https://ns.westus-1.eventgrid.azure.net/events/fedplane")
    assert events.webhook_entra_apps == ("4962773b-9cdb-44cf-a8bf-237846a00ab7",)


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ({"namespace_endpoint": NAMESPACE["namespace_endpoint"]}, "set namespace_topic and namespace_subscription"),
        ({"namespace_topic": "t"}, "set namespace_endpoint and namespace_subscription"),
        ({"namespace_key_env": "X"}, "pull delivery needs namespace_endpoint"),
        (NAMESPACE | {"namespace_endpoint": "ns.westus-1.eventgrid.azure.net"}, "is no whole address"),
        (NAMESPACE | {"namespace_endpoint": "http://ns.example"}, "begins with https://"),
        ({"webhook_entra_tenant": "t"}, "set webhook_entra_audience"),
        ({"webhook_entra_audience": "a"}, "set webhook_entra_tenant"),
        (ENTRA | {"webhook_entra_tenant": "common"}, "webhook_entra_tenant must be one tenant's"),
        (ENTRA | {"webhook_entra_tenant": "../x"}, "webhook_entra_tenant must be one tenant's"),
        (ENTRA | {"webhook_entra_apps": "[]"}, "webhook_entra_apps is empty"),
        (ENTRA | {"webhook_entra_authority": "http://login.example"}, "webhook_entra_authority must be"),
    ],
)
def test_what_is_not_whole_is_refused_by_name(tmp_path: Path, events: dict[str, str], told: str) -> None:
    """The text says which setting is missing or wrong."""
    with pytest.raises(UsageError) as caught:
        _load(tmp_path, events)
    assert told in str(caught.value)
    assert "pair.pair0.blob.events" in str(caught.value)


def test_two_pairs_do_not_share_a_subscription(tmp_path: Path) -> None:
    """Each would take the other's events."""
    with pytest.raises(UsageError) as caught:
        _load(
            tmp_path,
            NAMESPACE,
            NAMESPACE | {"namespace_endpoint": NAMESPACE["namespace_endpoint"].upper().replace("HTTPS", "https")},
        )
    assert "namespace_subscription" in str(caught.value)


def test_tombstones_outlive_what_a_subscription_keeps(tmp_path: Path) -> None:
    """A namespace's subscription may bring events that are eight days old."""
    file = tmp_path / "federation.toml"
    file.write_text(_pair("p", NAMESPACE) + "[pair.rules]\ntombstone_days = 8\n")
    with pytest.raises(UsageError) as caught:
        load(file, {})
    assert "namespace_endpoint may bring events 8 days old" in str(caught.value)
