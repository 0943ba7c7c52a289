"""The part of ``doctor`` that looks at where events come from."""

from __future__ import annotations

import asyncio
from typing import Any

from azure.core.exceptions import AzureError
from azure.storage.queue import QueueProperties
from azure.storage.queue.aio import QueueClient
from kafka.errors import KafkaError

from federation.settings import BlobEventSettings, PairSettings, VastEventSettings, secret
from federation.sources.build import kafka_options
from federation.sources.kafka_broker import BrokerRefuses, Connection
from fedplane.checks import Finding


async def sources(pair: PairSettings, credential: object | None) -> list[Finding]:
    """Queue and topic of one pair."""
    return [await _queue(pair.blob.events, credential), await asyncio.to_thread(_topic, pair.vast.events)]


async def _queue(events: BlobEventSettings, credential: object | None) -> Finding:
    what = f"events of blob: {events.queue_url or events.webhook_listen or 'none'}"
    if not events.queue_url:
        if events.webhook_listen:
            return Finding(what=what, level="ok", found="webhook; Event Grid proves it when it subscribes")
        then = "changes on Blob are found by scans only; set pair.blob.events.queue_url"
        return Finding(what=what, level="note", found="not set up", then=then)
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
    refuses = "" if events.account_id else "pair.blob.events.account_id is not set: events of other accounts are not refused"
    waiting = f"reachable, about {properties.approximate_message_count or 0} messages waiting"
    return Finding(what=what, level="note" if refuses else "ok", found=waiting, then=refuses)


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
