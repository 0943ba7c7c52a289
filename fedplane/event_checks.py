"""The part of ``doctor`` that looks at where events come from."""

from __future__ import annotations

import asyncio
from typing import Any

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.storage.queue import QueueProperties
from azure.storage.queue.aio import QueueClient
from kafka.errors import KafkaError

from federation.errors import FederationError, Halt, UsageError
from federation.event_settings import BlobEventSettings
from federation.settings import PairSettings, VastEventSettings, secret
from federation.sources.build import kafka_options
from federation.sources.change_feed_index import FeedIndex
from federation.sources.change_feed_layout import CONTAINER
from federation.sources.kafka_broker import BrokerRefuses, Connection
from federation.wiring import open_feed
from fedplane.checks import Finding
from fedplane.output import iso

_BAD_REQUEST = 400
"""A service may also refuse the made-up lock outright: then it knows us, too."""


async def sources(pair: PairSettings, credential: object | None) -> list[Finding]:
    """Queue, webhook, namespace, change feed and topic of one pair."""
    events = pair.blob.events
    found = [await _queue(events, credential)] if events.queue_url else []
    found += [_webhook(events)] if events.webhook_listen else []
    found += [await _namespace(events, credential)] if events.namespace_endpoint else []
    found += [await _feed(pair, credential)] if pair.blob.change_feed.enabled else []
    if not events.any and not pair.blob.change_feed.enabled:
        then = "changes on Blob are found by scans only; set pair.blob.events.queue_url, or namespace_endpoint"
        found.append(Finding(what="events of blob: none", level="note", found="not set up", then=then))
    elif events.any and not events.account_id:
        then = "set pair.blob.events.account_id to the account's ARM id, so that events of other accounts are refused"
        found.append(Finding(what="events of blob: sender", level="note", found="any account's events are taken", then=then))
    return [*found, await asyncio.to_thread(_topic, pair.vast.events)]


async def _queue(events: BlobEventSettings, credential: object | None) -> Finding:
    what = f"events of blob: {events.queue_url}"
    name = events.queue_url.rstrip("/").rpartition("/")[2]
    options: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 10}
    if events.connection_string_env:
        text = secret(events.connection_string_env, "pair.blob.events.connection_string_env")
        client = QueueClient.from_connection_string(text, name, **options)
    else:
        account_url = events.queue_url.rstrip("/").rpartition("/")[0]
        client = QueueClient(account_url, name, credential=credential, **options)  # type: ignore[arg-type]
    try:
        async with client:
            properties: QueueProperties = await client.get_queue_properties()
    except AzureError as error:
        then = f"create the queue and the Event Grid subscription to it, and grant reading it ({type(error).__name__})"
        return Finding(what=what, level="unreachable", found="cannot be read", then=then)
    waiting = f"reachable, about {properties.approximate_message_count or 0} messages waiting"
    return Finding(what=what, level="ok", found=waiting)


def _webhook(events: BlobEventSettings) -> Finding:
    what = f"events of blob: webhook at {events.webhook_listen}"
    proofs = {"a shared secret": events.webhook_secret_env, "a token of Entra ID": events.webhook_entra_tenant}
    asked = " and ".join(name for name, value in proofs.items() if value)
    if asked:
        return Finding(what=what, level="ok", found=f"asks for {asked}; Event Grid proves the way when it subscribes")
    then = "set pair.blob.events.webhook_secret_env or webhook_entra_tenant and webhook_entra_audience"
    return Finding(what=what, level="note", found="whoever reaches the port may deliver", then=then)


async def _namespace(events: BlobEventSettings, credential: object | None) -> Finding:
    """Ask for a lock that does not exist: it proves address, right and names, and receives nothing."""
    from federation.sources.event_grid_pull import consumer  # noqa: PLC0415 - slow to import

    what = f"events of blob: {events.pull_place}"
    name = events.namespace_key_env
    key = secret(name, "pair.blob.events.namespace_key_env") if name else None
    try:
        async with consumer(events, key, credential) as client:
            await client.renew_locks(lock_tokens=["fedplane-doctor"])
    except (ClientAuthenticationError, ResourceNotFoundError) as error:
        told = "no right to receive" if isinstance(error, ClientAuthenticationError) else "the subscription is not there"
        then = "grant EventGrid Data Receiver on the namespace, or check topic, subscription and key"
        return Finding(what=what, level="broken", found=told, then=then)
    except HttpResponseError as error:
        if error.status_code != _BAD_REQUEST:
            return Finding(
                what=what, level="broken", found=f"answers {error.status_code}", then="check pair.blob.events.namespace_*"
            )
    except AzureError as error:
        then = f"check pair.blob.events.namespace_endpoint and the network ({type(error).__name__})"
        return Finding(what=what, level="unreachable", found="cannot be reached", then=then)
    return Finding(what=what, level="ok", found="reachable, and the subscription may be read")


async def _feed(pair: PairSettings, credential: object | None) -> Finding:
    what = f"change feed of blob: {pair.blob.account_url}/{CONTAINER}"
    try:
        blobs = open_feed(pair, credential)
    except UsageError as error:
        return Finding(what=what, level="broken", found="not set up", then=str(error))
    try:
        index = await FeedIndex(blobs).index()
    except Halt as error:
        if error.reason != "container_missing":
            return Finding(what=what, level="unreachable", found="cannot be read", then=str(error))
        then = (
            "turn the change feed on at the storage account (a few minutes later the container is there), "
            "or set pair.blob.change_feed.enabled = false"
        )
        return Finding(what=what, level="broken", found="enabled in the settings, and the container is missing", then=then)
    except FederationError as error:
        return Finding(what=what, level="unreachable", found="cannot be read", then=str(error))
    finally:
        await blobs.close()
    found = f"readable up to the segment of {iso(index.last_consumable_us)}, index written {iso(index.modified_us)}"
    return Finding(what=what, level="ok", found=found)


def _topic(events: VastEventSettings) -> Finding:
    what = f"events of vast: {','.join(events.bootstrap) or 'none'} topic {events.topic or 'none'}"
    if not events.bootstrap:
        then = "changes on VAST are found by scans only; set pair.vast.events.bootstrap and topic"
        return Finding(what=what, level="note", found="not set up", then=then)
    try:
        connection = Connection(kafka_options(events, client_id="fedplane-doctor"))
        try:
            partitions = connection.consumer.partitions_for_topic(events.topic)
        finally:
            connection.close()
    except BrokerRefuses as error:
        return Finding(what=what, level="broken", found="refused", then=str(error))
    except (KafkaError, OSError) as error:
        then = f"check pair.vast.events.bootstrap, and that the broker view is on ({error})"
        return Finding(what=what, level="unreachable", found="cannot be reached", then=then)
    if not partitions:
        then = "create the topic, and an event notification of the bucket to it"
        return Finding(what=what, level="broken", found="the broker answers, the topic is not there", then=then)
    then = "writes over NFS and SMB have no events: they are found by scans"
    if events.canary_seconds:
        then += "; on a versioned bucket let a lifecycle rule end old versions of the canary under .federation/"
    return Finding(what=what, level="ok", found=f"reachable, {len(partitions)} partitions", then=then)
