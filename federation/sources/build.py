"""Which listeners a pair's settings ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation import keys
from federation.errors import UsageError
from federation.model import Side
from federation.payloads.event_grid import BlobScope
from federation.payloads.vast import VastScope
from federation.ports import ChangeSink, Clock, ObjectStore, Source, State
from federation.settings import PairSettings, VastEventSettings, secret
from federation.sources.change_feed_index import FeedBlobs
from federation.sources.common import OnGap

if TYPE_CHECKING:
    from federation.sources.event_grid_http import Target

FETCH_BYTES = 8 * 1024 * 1024
"""What one answer of a broker may hold: with one batch, all that is kept of a topic in memory."""
PARTITION_FETCH_BYTES = 1024 * 1024
"""VAST's limit of a message (facts/vast.md 2); a larger one is read all the same, alone."""


def sources(
    pair: PairSettings,
    state: State,
    sink: ChangeSink,
    clock: Clock,
    *,
    credential: object | None,
    on_gap: OnGap,
    vast: ObjectStore,
    owner: str,
    feed: FeedBlobs | None = None,
) -> list[Source]:
    """Build them; *owner* is this process, *feed* the change feed's container, which its source closes.

    Raises UsageError when a named variable is not set or a named file not there.
    """
    built = event_grid(pair, state, sink, clock, credential=credential, on_gap=on_gap)
    if feed is not None:
        built.append(change_feed_source(pair, feed, state, sink, clock, owner, on_gap))
    if pair.vast.events.bootstrap:
        built += vast_sources(pair, state, sink, clock, on_gap, vast, owner)
    return built


def vast_sources(
    pair: PairSettings,
    state: State,
    sink: ChangeSink,
    clock: Clock,
    on_gap: OnGap,
    vast: ObjectStore,
    owner: str,
) -> list[Source]:
    """The reader of the topic, and the canary. Raises UsageError."""
    from federation.sources.canary import Canary  # noqa: PLC0415 - only what is configured is imported
    from federation.sources.vast_kafka import VastKafka  # noqa: PLC0415

    events = pair.vast.events
    options = kafka_options(events, client_id=f"fedplane-{pair.name}")
    group_id = events.group_id.replace("{pair}", pair.name)
    scope = vast_scope(pair)
    built: list[Source] = [
        VastKafka(options, events.topic, scope, state, sink, clock, on_gap=on_gap, owner=owner, group_id=group_id)
    ]
    if events.canary_seconds:
        built.append(Canary(vast, state, clock, owner=owner, every_seconds=events.canary_seconds))
    return built


def event_grid(
    pair: PairSettings, state: State, sink: ChangeSink, clock: Clock, *, credential: object | None, on_gap: OnGap
) -> list[Source]:
    """Event Grid's ways to us. Raises UsageError."""
    built: list[Source] = []
    events, scope = pair.blob.events, blob_scope(pair)
    if events.queue_url:
        from federation.sources.event_grid_queue import open_queue  # noqa: PLC0415 - only what is configured is imported

        name = events.connection_string_env
        text = secret(name, "pair.blob.events.connection_string_env") if name else None
        url = events.queue_url
        built.append(open_queue(url, text, credential, scope=scope, sink=sink, clock=clock, on_gap=on_gap, state=state))
    if events.webhook_listen:
        from federation.sources.event_grid_webhook import EventGridWebhook  # noqa: PLC0415

        target = http_target(pair, sink, clock, on_gap=on_gap)
        built.append(EventGridWebhook(events.webhook_listen, target))
    if events.namespace_endpoint:
        built.append(pull_source(pair, state, sink, clock, credential=credential, on_gap=on_gap))
    return built


def pull_source(
    pair: PairSettings, state: State, sink: ChangeSink, clock: Clock, *, credential: object | None, on_gap: OnGap
) -> Source:
    """The reader of a namespace's subscription. Raises UsageError."""
    from federation.sources.event_grid_pull import open_pull  # noqa: PLC0415 - as above

    events = pair.blob.events
    name = events.namespace_key_env
    key = secret(name, "pair.blob.events.namespace_key_env") if name else None
    return open_pull(events, key, credential, scope=blob_scope(pair), state=state, sink=sink, clock=clock, on_gap=on_gap)


def http_target(pair: PairSettings, sink: ChangeSink, clock: Clock, *, on_gap: OnGap) -> Target:
    """The pair as somebody who takes events by HTTP, with what a sender must prove. Raises UsageError."""
    from federation.sources.event_grid_http import Target  # noqa: PLC0415

    events = pair.blob.events
    name = events.webhook_secret_env
    shared = secret(name, "pair.blob.events.webhook_secret_env") if name else None
    tokens = None
    if events.webhook_entra_tenant:
        from federation.sources.entra import EntraTokens  # noqa: PLC0415

        tenant, audience = events.webhook_entra_tenant, events.webhook_entra_audience
        tokens = EntraTokens(events.webhook_entra_authority, tenant, audience, events.webhook_entra_apps, clock)
    return Target(blob_scope(pair), sink, shared, on_gap, tokens)


def change_feed_source(
    pair: PairSettings, feed: FeedBlobs, state: State, sink: ChangeSink, clock: Clock, owner: str, on_gap: OnGap
) -> Source:
    """The reader of *feed*, which it closes."""
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


def kafka_options(events: VastEventSettings, *, client_id: str = "fedplane") -> dict[str, Any]:
    """kafka-python settings that stay inside what VAST's broker supports (facts/vast.md 2). Raises UsageError."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(events.bootstrap),
        "client_id": client_id,
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
        "fetch_max_bytes": FETCH_BYTES,
        "max_partition_fetch_bytes": PARTITION_FETCH_BYTES,
        "metadata_max_age_ms": 30_000,
        "reconnect_backoff_ms": 250,
        "reconnect_backoff_max_ms": 5_000,
    }
    if events.api_version:
        options["api_version"] = tuple(int(part) for part in events.api_version.split("."))
    if events.ca_file:
        if not Path(events.ca_file).is_file():
            what = f"pair.vast.events.ca_file names {events.ca_file!r}, which is no file here."
            raise UsageError(f"{what} Put the broker's authorities there, or correct the setting.", reason="missing_file")
        options["ssl_cafile"] = events.ca_file
    if events.sasl_username_env:
        options["sasl_mechanism"] = "PLAIN"
        options["sasl_plain_username"] = secret(events.sasl_username_env, "pair.vast.events.sasl_username_env")
        options["sasl_plain_password"] = secret(events.sasl_password_env, "pair.vast.events.sasl_password_env")
    return options
