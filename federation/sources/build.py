"""Which listeners a pair's settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from federation import keys
from federation.model import Side
from federation.payloads.event_grid import BlobScope
from federation.payloads.vast import VastScope
from federation.ports import ChangeSink, Clock, Source, State
from federation.settings import PairSettings, VastEventSettings, secret
from federation.sources.change_feed_index import FeedBlobs


def sources(
    pair: PairSettings,
    state: State,
    sink: ChangeSink,
    clock: Clock,
    *,
    credential: object | None,
    on_gap: Callable[[], None],
    feed: FeedBlobs | None = None,
    owner: str = "",
) -> list[Source]:
    """Build them; *feed* is the change feed's container, read in the name of *owner*, which the source closes.

    Raises UsageError when a named variable is not set.
    """
    built: list[Source] = []
    events = pair.blob.events
    if events.queue_url:
        from federation.sources.event_grid_queue import open_queue  # noqa: PLC0415 - only what is configured is imported

        name = events.connection_string_env
        text = secret(name, "pair.blob.events.connection_string_env") if name else None
        scope = blob_scope(pair)
        built.append(open_queue(events.queue_url, text, credential, scope=scope, sink=sink, clock=clock, on_gap=on_gap))
    if events.webhook_listen:
        from federation.sources.event_grid_webhook import EventGridWebhook  # noqa: PLC0415

        name = events.webhook_secret_env
        shared = secret(name, "pair.blob.events.webhook_secret_env") if name else None
        built.append(EventGridWebhook(events.webhook_listen, shared, blob_scope(pair), sink, on_gap))
    if feed is not None:
        built.append(_change_feed(pair, feed, state, sink, clock, owner, on_gap))
    if pair.vast.events.bootstrap:
        from federation.sources.vast_kafka import VastKafka  # noqa: PLC0415

        options = kafka_options(pair.vast.events)
        topic = pair.vast.events.topic
        built.append(VastKafka(options, topic, vast_scope(pair), state, sink, clock, on_gap=on_gap))
    return built


def _change_feed(
    pair: PairSettings, feed: FeedBlobs, state: State, sink: ChangeSink, clock: Clock, owner: str, on_gap: Callable[[], None]
) -> Source:
    from federation.sources.change_feed import ChangeFeed, FeedOptions  # noqa: PLC0415 - as above

    wanted = pair.blob.change_feed
    how = FeedOptions(wanted.start_at, wanted.poll_seconds, wanted.lease_seconds)
    account = pair.identity["blob account"]
    return ChangeFeed(feed, account, blob_scope(pair), state, sink, clock, owner=owner, on_gap=on_gap, options=how)


def blob_scope(pair: PairSettings) -> BlobScope:
    """What an Event Grid event of this pair may name."""
    policy = keys.policy_for(Side.BLOB)
    return BlobScope(pair.blob.events.account_id, pair.blob.container, pair.blob.prefix, lambda name: keys.decode(name, policy))


def vast_scope(pair: PairSettings) -> VastScope:
    """What a VAST record of this pair may name."""
    policy = keys.policy_for(Side.VAST, pair.vast.name_policy)
    return VastScope(pair.vast.bucket, pair.vast.prefix, pair.vast.events.key_encoding, lambda name: keys.decode(name, policy))


def kafka_options(events: VastEventSettings) -> dict[str, Any]:
    """kafka-python settings that stay inside what VAST's broker supports (facts/vast.md 2)."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(events.bootstrap),
        "client_id": "fedplane",
        "group_id": None,
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        "enable_incremental_fetch_sessions": False,
        "allow_auto_create_topics": False,
        "auto_offset_reset": "none",
        "security_protocol": events.security_protocol,
        "request_timeout_ms": 15_000,
        "bootstrap_timeout_ms": 10_000,
        "fetch_max_wait_ms": 200,
    }
    if events.api_version:
        options["api_version"] = tuple(int(part) for part in events.api_version.split("."))
    if events.ca_file:
        options["ssl_cafile"] = events.ca_file
    if events.sasl_username_env:
        options["sasl_mechanism"] = "PLAIN"
        options["sasl_plain_username"] = secret(events.sasl_username_env, "pair.vast.events.sasl_username_env")
        options["sasl_plain_password"] = secret(events.sasl_password_env, "pair.vast.events.sasl_password_env")
    return options
