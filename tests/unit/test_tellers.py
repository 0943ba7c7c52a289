"""Which source should have told of a side's changes: by how it is set up."""

from __future__ import annotations

from typing import Any

import pytest

from federation.model import Side
from federation.settings import PairSettings
from operations.scanning import tellers

_PULL = {"namespace_endpoint": "https://n.eventgrid.azure.net", "namespace_topic": "t", "namespace_subscription": "s"}
_QUEUE = {"queue_url": "https://a.queue.core.windows.net/q"}
_FEED = {"enabled": True}


@pytest.mark.parametrize(
    ("events", "feed", "direct", "who"),
    [
        ({}, {}, False, ""),
        (_QUEUE, {}, False, "event_grid"),
        ({"webhook_listen": "127.0.0.1:1", "webhook_secret_env": "W"}, {}, False, "event_grid"),
        (_PULL, {}, False, "event_grid"),
        ({}, {}, True, "event_grid"),
        ({}, _FEED, False, "change_feed"),
        (_PULL, _FEED, False, "event_grid"),
        ({}, _FEED, True, "event_grid"),
    ],
)
def test_what_tells_of_a_blob_is_named_however_it_comes(
    events: dict[str, Any], feed: dict[str, Any], direct: bool, who: str
) -> None:
    """By a queue, a webhook, pulled or pushed to a function: Event Grid, which is sooner; else the feed, if it is read."""
    pair = _pair(blob={"events": events, "change_feed": feed})
    assert tellers(pair, direct=direct) == {Side.BLOB: who, Side.VAST: ""}


def test_what_tells_of_vast_is_its_topic() -> None:
    """Only where there is one."""
    vast = {"events": {"bootstrap": ["k:9092"], "topic": "t"}}
    assert tellers(_pair(vast=vast), direct=False) == {Side.BLOB: "", Side.VAST: "vast_events"}


def _pair(blob: dict[str, Any] | None = None, vast: dict[str, Any] | None = None) -> PairSettings:
    whole = {
        "name": "p",
        "blob": {"account_url": "https://a.blob.core.windows.net", "container": "c"} | (blob or {}),
        "vast": {"endpoint": "https://v", "bucket": "b", "access_key_env": "A", "secret_key_env": "S"} | (vast or {}),
    }
    return PairSettings.model_validate(whole)
