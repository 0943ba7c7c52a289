"""The functions app in real workers of the host's runtime, on the local stack: each function does what it is for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from federation.model import Change, Side, Source
from federation.ports import State
from fedplane.localstack.info import StackInfo
from fedplane.localstack.stack import LocalStack
from function_app.bells import Call
from function_app.scans import Part
from operations.heartbeat import heartbeats
from reconciler import wanted
from reconciler.scan import COMPLETE, kept
from tests.feed.writer import Feed, fresh_container, hour, record
from tests.functions_host.instance import Instance, WorkerGone
from tests.servers.functions_lab import SECRET, App
from tests.servers.namespace import KEY as NAMESPACE_KEY
from tests.servers.namespace import SUBSCRIPTION, TOPIC, Namespace
from tests.servers.stack_lab import Lab
from tests.servers.support import eventually
from tests.servers.test_metrics_export import place

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="session")]
KEY = {"x-fedplane-key": SECRET}


@pytest.fixture
def app(info: StackInfo, tmp_path: Path) -> App:
    """A deployment over a part of both sides that is its own."""
    return App(info, tmp_path)


@asynccontextmanager
async def reading(instance: Instance, timer: str = "vast_events") -> AsyncIterator[None]:
    """The timer of a source at work, until its worker is killed at the end."""
    invocation = asyncio.create_task(instance.timer(timer))
    yield
    await instance.kill()
    with pytest.raises(WorkerGone):
        await invocation


async def test_the_worker_indexes_exactly_the_functions(app: App) -> None:
    """With the bindings that the host needs; names of bindings are such as it accepts."""
    async with app.instance() as instance:
        found = {name: one.trigger for name, one in instance.functions.items()}
    told = ("queueName", "route", "schedule")
    kinds = {
        name: (trigger["type"], next((trigger[one] for one in told if one in trigger), "")) for name, trigger in found.items()
    }
    assert kinds == {
        "health": ("httpTrigger", "health"),
        "status": ("httpTrigger", "status"),
        "explain": ("httpTrigger", "explain"),
        "events": ("httpTrigger", "events"),
        "event_grid_queue": ("queueTrigger", app.queue),
        "event_grid": ("eventGridTrigger", ""),
        "vast_events": ("timerTrigger", "*/5 * * * * *"),
        "doorbell": ("queueTrigger", f"bell-{app.name}"),
        "reconcile_range": ("queueTrigger", f"scan-{app.name}"),
        "reconcile_start": ("timerTrigger", "20 * * * * *"),
        "sweep": ("timerTrigger", "0 * * * * *"),
    }
    assert all(trigger["name"].isalnum() for trigger in found.values())


async def test_settings_that_cannot_be_read_leave_health_to_say_so(app: App) -> None:
    """The app is indexed all the same; the log of an invocation, and nothing that is open to everybody, says what to correct."""
    async with app.instance(FEDERATION__WORKER__SHARDS="many") as instance:
        assert list(instance.functions) == ["health"]
        outcome = await instance.request("health")
    assert (outcome.value["status"], outcome.body) == (503, {"status": "unavailable"})
    [told] = [line for line in app.log() if line["invocation"]]
    assert "worker.shards" in told["event"]


async def test_an_event_of_the_queue_is_applied_before_its_invocation_ends(app: App, lab: Lab) -> None:
    """One hop: when the host deletes the message the change is on the other side, and the shard is free."""
    lab.put("blob", f"{app.prefix}a", b"one hop")
    async with app.instance() as instance, app.state() as state:
        assert (await instance.message("event_grid_queue", app.message("a"))).failed == ""
        assert lab.get_direct("vast", f"{app.prefix}a") == b"one hop"
        assert (await state.backlog()).dirty == 0
        assert await state.acquire(state.shard_of("a"), owner="test", ttl_seconds=1) is not None
    lines = [line for line in app.log() if line["event"] == "decision"]
    assert [(line["key"], line["outcome"], bool(line["invocation"])) for line in lines] == [("a", "settled", True)]


async def test_the_trigger_and_the_webhook_apply_too(app: App, lab: Lab) -> None:
    """Event Grid's own trigger and deliveries by HTTP take the same way; without the secret nothing is taken."""
    for key in ("pushed", "posted", "refused"):
        lab.put("blob", f"{app.prefix}{key}", key.encode())
    async with app.instance() as instance:
        assert (await instance.event("event_grid", app.event("pushed"))).failed == ""
        body = json.dumps([app.event("posted")]).encode()
        assert (await instance.request("events", "POST", headers=KEY, body=body)).value["status"] == 200
        refused = json.dumps([app.event("refused")]).encode()
        assert (await instance.request("events", "POST", body=refused)).value["status"] == 401
    assert [lab.get_direct("vast", f"{app.prefix}{key}") for key in ("pushed", "posted")] == [b"pushed", b"posted"]
    assert lab.get_direct("vast", f"{app.prefix}refused") is None


async def test_while_redis_is_away_the_host_keeps_the_message(app: App, lab: Lab, stack: LocalStack) -> None:
    """The invocation fails, so it comes back; delivered again it is applied."""
    lab.put("blob", f"{app.prefix}a", b"later")
    async with app.instance() as instance:
        await stack.stop_server("redis")
        try:
            outcome = await instance.message("event_grid_queue", app.message("a"))
            away = (await instance.request("health")).value["status"]
        finally:
            await stack.start_server("redis")
        assert "Redis" in outcome.failed
        assert away == 503
        assert (await instance.message("event_grid_queue", app.message("a"))).failed == ""
        assert (await instance.request("health")).body == {"status": "ok"}
    assert lab.get_direct("vast", f"{app.prefix}a") == b"later"


async def test_a_shard_that_another_holds_is_called_for_later(app: App, lab: Lab) -> None:
    """The mark is durable and acknowledged; one doorbell, delayed past the other's lease, sees to it."""
    lab.put("blob", f"{app.prefix}a", b"busy")
    async with app.instance() as instance, app.state() as state, app.queue_client(f"bell-{app.name}") as bells:
        assert (await instance.request("health")).body == {"status": "ok"}
        lease = await state.acquire(state.shard_of("a"), owner="other", ttl_seconds=60)
        assert lease is not None
        for _ in range(3):
            assert (await instance.message("event_grid_queue", app.message("a"))).failed == ""
        assert (await bells.get_queue_properties()).approximate_message_count == 1
        assert await bells.receive_message() is None  # hidden still
        await state.release(lease)
        call = msgspec.json.encode(Call(app.name, state.shard_of("a"))).decode()
        assert (await instance.message("doorbell", call)).failed == ""
    assert lab.get_direct("vast", f"{app.prefix}a") == b"busy"


async def test_the_sweep_calls_for_what_nobody_was_called_for(app: App, lab: Lab) -> None:
    """A mark whose maker died, and one whose worker died with it claimed, are found in the state within a minute."""
    for key in ("a", "b"):
        lab.put("blob", f"{app.prefix}{key}", key.encode())
    async with app.instance() as instance, app.state() as state, app.queue_client(f"bell-{app.name}") as bells:
        assert (await instance.request("health")).body == {"status": "ok"}
        await state.mark([Change(key, Side.BLOB, Source.EVENT_GRID) for key in ("a", "b")])
        lease = await state.acquire(state.shard_of("b"), owner="dead", ttl_seconds=0.05)
        assert lease is not None
        await state.claim(lease, limit=1, now_us=2**60)
        assert (await instance.timer("sweep")).failed == ""
        calls = [msgspec.json.decode(str(one.content), type=Call) async for one in bells.receive_messages(max_messages=32)]
        assert {call.shard for call in calls if not call.tidy} == {state.shard_of(key) for key in ("a", "b")}
        for call in calls:
            assert (await instance.message("doorbell", msgspec.json.encode(call).decode())).failed == ""
    assert [lab.get_direct("vast", f"{app.prefix}{key}") for key in ("a", "b")] == [b"a", b"b"]


async def test_the_topic_is_read_and_applied(app: App, lab: Lab) -> None:
    """A write on VAST comes over by the timer that reads its events, while it runs; the position is kept for the next run."""
    lab.put("vast", f"{app.prefix}from-vast", b"an event of VAST")
    async with app.instance() as instance, app.state() as state, reading(instance):
        await eventually(lambda: lab.get_direct("blob", f"{app.prefix}from-vast") == b"an event of VAST", "it came over")

        async def kept() -> bool:
            return any([await state.cursor(f"vast_events/{number}") for number in range(4)])

        await eventually(kept, "the position was kept")


async def test_what_a_namespace_holds_is_applied_and_then_acknowledged(app: App, lab: Lab) -> None:
    """By the timer that receives for as long as it may; what it told of the source is what status goes by."""
    lab.put("blob", f"{app.prefix}pulled", b"by pull delivery")
    told = app.event("pulled")
    event = {"specversion": "1.0", "source": told["topic"], "type": told["eventType"], "time": told["eventTime"]}
    part = "FEDERATION__PAIR__0__BLOB__EVENTS__NAMESPACE_"
    async with Namespace().serving() as namespace:
        namespace.publish(event | {name: told[name] for name in ("id", "subject", "data")})
        where = {"ENDPOINT": namespace.endpoint, "TOPIC": TOPIC, "SUBSCRIPTION": SUBSCRIPTION, "KEY_ENV": "NAMESPACE_KEY"}
        environment = {f"{part}{name}": value for name, value in where.items()} | {"NAMESPACE_KEY": NAMESPACE_KEY}
        async with app.instance(**environment) as instance, app.state() as state, reading(instance, "event_grid_pull"):
            await eventually(lambda: lab.get_direct("vast", f"{app.prefix}pulled") == b"by pull delivery", "it came over")
            await eventually(lambda: namespace.count("acknowledged") == 1, "it was acknowledged")

            async def connected() -> bool:
                beats = [beat for beat in await heartbeats(state) if beat.process == "functions/event_grid_pull"]
                return [beat.sources["event_grid_pull"]["connected"] for beat in beats] == [1]

            await eventually(connected, "its standing was told")


async def test_records_that_the_host_read_are_applied(app: App, lab: Lab) -> None:
    """With ``kafka_trigger`` the host brings batches: what can be read is applied, the rest kept."""
    key = f"{app.prefix}by-the-host"
    lab.put("vast", key, b"an event of VAST")
    [event] = lab.events("vast", key)
    record = json.dumps({"Records": [event]}).encode()
    async with app.instance(FEDERATION__FUNCTIONS__VAST_EVENTS="kafka_trigger") as instance, app.state() as state:
        trigger = instance.functions["vast_events"].trigger
        assert (trigger["type"], trigger["topic"], trigger["consumerGroup"]) == (
            "kafkaTrigger",
            app.info.topic,
            f"fedplane-{app.name}",
        )
        assert (await instance.records("vast_events", app.info.topic, [(1, record), (2, b"no JSON")])).failed == ""
        assert lab.get_direct("blob", key) == b"an event of VAST"
        assert [(one.raw, one.offset) for one in await state.dead_letters()] == [(b"no JSON", 2)]


async def test_the_change_feed_is_read_to_its_end_and_applied(app: App, lab: Lab, info: StackInfo) -> None:
    """What only the feed tells of comes over, and the function ends when nothing is left to read."""
    with contextlib.closing(fresh_container(info.connection_string(direct=True))) as container:
        feed = Feed()
        feed.placeholder()
        feed.segment(hour(1), finalized=False)
        feed.append(hour(1), [record(1, f"{app.prefix}fed", hour(1), container=info.container)])
        feed.index(hour(1))
        feed.upload(container)
        lab.blobs_direct.upload_blob(f"{app.prefix}fed", b"by the feed")
        part = "FEDERATION__PAIR__0__BLOB__CHANGE_FEED__"
        async with app.instance(**{f"{part}ENABLED": "true", f"{part}FROM": "start"}) as instance:
            assert (await instance.timer("change_feed")).failed == ""
        container.delete_container()
    assert lab.get_direct("vast", f"{app.prefix}fed") == b"by the feed"


async def test_the_sweep_publishes_the_lag(app: App, lab: Lab) -> None:
    """Each time, also when nothing happens, sent before the invocation ends; no name of an object, no key is in it."""
    lab.put("blob", f"{app.prefix}secret-name", b"x")
    async with place() as taken:
        string = f"InstrumentationKey=00000000-0000-0000-0000-000000000001;IngestionEndpoint={taken.url}/"
        async with app.instance(FEDERATION__METRICS__AZURE_CONNECTION_STRING_ENV="INSIGHTS", INSIGHTS=string) as instance:
            assert (await instance.message("event_grid_queue", app.message("secret-name"))).failed == ""
            sent = ""
            for _ in range(2):
                taken.bodies.clear()
                assert (await instance.timer("sweep")).failed == ""
                sent = b"".join(taken.bodies).decode()
                for text in ("federation.lag.unknown", "federation.backlog", app.name, "blob_to_vast"):
                    assert text in sent
    for text in ("secret-name", app.info.secret_key, SECRET):
        assert text not in sent


async def test_a_message_that_is_being_taken_is_not_behind(app: App) -> None:
    """The server counts it still, and shows nobody how old it is: the sweep does not take that for a doubt."""
    async with app.instance() as instance, app.state() as state, app.queue_client(app.queue) as queue:
        await queue.create_queue()
        await queue.send_message(app.message("a"))
        assert await queue.receive_message() is not None
        assert ((await queue.get_queue_properties()).approximate_message_count, await queue.peek_messages()) == (1, [])
        assert (await instance.timer("sweep")).failed == ""
        [told] = [beat.sources for beat in await heartbeats(state) if beat.process == "functions"]
        assert {name: told["event_grid_queue"][name] for name in ("connected", "behind")} == {"connected": 1, "behind": 0}


async def test_a_scan_is_called_for_and_done(app: App, lab: Lab) -> None:
    """The first one is due at once; what no event told of is found and applied, and what was wished for is fulfilled."""
    lab.put("blob", f"{app.prefix}unseen", b"no event")
    async with app.instance() as instance, app.state() as state, app.queue_client(f"scan-{app.name}") as parts:
        assert (await instance.request("health")).body == {"status": "ok"}
        await wanted.ask(state, "dir/", now_us=1)
        assert (await instance.timer("reconcile_start")).failed == ""
        [message] = [one async for one in parts.receive_messages(max_messages=32)]
        assert msgspec.json.decode(str(message.content), type=Part) == Part(app.name, "")
        assert (await instance.message("reconcile_range", str(message.content))).failed == ""
        assert lab.get_direct("vast", f"{app.prefix}unseen") == b"no event"
        report = await kept(state, COMPLETE)
        assert report is not None
        assert report.whole
        assert await wanted.asked(state) == {}
        assert (await instance.timer("reconcile_start")).failed == ""
        assert [one async for one in parts.receive_messages(max_messages=32)] == [], "nothing is due"


async def test_what_the_host_gave_up_on_is_taken_back(app: App, lab: Lab) -> None:
    """The sweep marks what can be read of the poison queue, keeps the rest as dead letters, leaves letters for a person."""
    letter = json.dumps({"reason": "too large", "at_us": 1, "message_id": "m"})
    lab.put("blob", f"{app.prefix}a", b"given up on")
    async with app.instance() as instance, app.state() as state, app.queue_client(f"{app.queue}-poison") as poison:
        await poison.create_queue()
        for text in (letter, app.message("a"), "neither JSON nor base64"):
            await poison.send_message(text)
        assert (await instance.timer("sweep")).failed == ""
        assert lab.get_direct("vast", f"{app.prefix}a") == b"given up on"
        assert [letter.raw for letter in await state.dead_letters()] == [b"neither JSON nor base64"]
        assert (await poison.get_queue_properties()).approximate_message_count == 1
        assert await poison.receive_message() is None, "hidden for an hour"


async def test_status_and_explain_answer_as_the_command_line_does(app: App, lab: Lab) -> None:
    """After a scan and a sweep the pair is in step; a key that is asked for wrongly is told how to ask."""
    lab.put("blob", f"{app.prefix}a", b"x")
    async with app.instance() as instance, app.queue_client(app.queue) as queue:
        await queue.create_queue()
        part = msgspec.json.encode(Part(app.name, "")).decode()
        assert (await instance.message("reconcile_range", part)).failed == ""
        assert (await instance.timer("sweep")).failed == ""
        async with reading(instance):

            async def in_step() -> bool:
                [told] = (await instance.request("status")).body
                return (told["state"], told["objects"]) == ("in_step", 1)

            await eventually(in_step, "the reader told that it reads, so that nothing is unknown")
            why = (await instance.request("explain", query={"key": "a"})).body
            assert (why["key"], why["decision"]["action"], why["assumed_capabilities"]) == ("a", "nothing", [])
            for query, reason in (({}, "no_key"), ({"key": "a", "pair": "other"}, "no_such_pair")):
                answer = await instance.request("explain", query=query)
                assert (answer.value["status"], answer.body["reason"]) == (400, reason)


async def test_a_worker_killed_under_way_loses_nothing(app: App, lab: Lab) -> None:
    """Its lease ends by itself; another instance applies what it had marked and claimed."""
    for key in ("first", "a"):
        lab.put("blob", f"{app.prefix}{key}", b"survives")
    async with app.instance(FEDERATION__WORKER__LEASE_SECONDS="1") as doomed, app.state() as state:
        assert (await doomed.message("event_grid_queue", app.message("first"))).failed == ""
        lab.control("PUT", "/faults/vast", {"requests": {"latency_ms": 5000, "client": "fedplane"}})
        invocation = asyncio.create_task(doomed.message("event_grid_queue", app.message("a")))
        await eventually(lambda: _claimed(state), "the key is at work")
        await doomed.kill()
        with pytest.raises(WorkerGone):
            await invocation
        lab.control("PUT", "/faults/vast", {})
        async with app.instance(1, FEDERATION__WORKER__LEASE_SECONDS="1") as other:
            call = msgspec.json.encode(Call(app.name, state.shard_of("a"))).decode()

            async def applied() -> bool:
                assert (await other.message("doorbell", call)).failed == ""
                return lab.get_direct("vast", f"{app.prefix}a") == b"survives"

            await eventually(applied, "another instance applied it")


async def _claimed(state: State) -> bool:
    return 0 in (await state.waiting()).values()
