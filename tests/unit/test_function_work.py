"""What the functions do with what was marked: drains, doorbells, the sweep, scans. On in-memory state and stores."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import azure.functions as func
import msgspec
import pytest
from azure.functions.timer import TimerRequest

from federation.errors import UsageError
from federation.model import Change, Side, Source
from federation.progress import GAP_NOTE, UNION_NOTE, Lease
from federation.settings import load
from function_app import calls, process
from function_app.bells import Call
from reconciler import wanted
from reconciler.converged import CLOCK_SLACK_US
from reconciler.scan import COMPLETE, kept
from tests.unit.function_lab import App, LabState, call, decoded, fresh_app, message


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two pairs on one account."""
    async with fresh_app(tmp_path, monkeypatch) as made:
        yield made


# --------------------------------------------------------------------------------------------------- what is done with the marks


async def test_what_was_marked_is_applied_before_the_function_ends(app: App) -> None:
    """By queue, trigger and webhook alike; no doorbell is needed, and a state that was empty is begun in union mode."""
    app.halted = False
    await call("event_grid_queue", message(await app.put("queue")))
    await call("event_grid", decoded(await app.put("trigger")))
    assert (await app.post([await app.put("web")])).status_code == 200
    assert app.arrived() == {"queue", "trigger", "web"}
    assert (await app.dirty(), app.sent) == (0, [])
    assert await app.states["one"].note(UNION_NOTE)


async def _taken(app: App, name: str) -> tuple[LabState, Lease]:
    state = app.states["one"]
    lease = await state.acquire(state.shard_of(name), owner="other", ttl_seconds=60)
    assert lease is not None
    return state, lease


async def test_a_taken_shard_is_called_for_once(app: App) -> None:
    """Later than the other's lease; until the call is answered nobody rings again, then they may."""
    app.halted = False
    event = await app.put()
    state, lease = await _taken(app, "a.txt")
    for _ in range(3):
        await call("event_grid_queue", message(event))
    [(queue, text, delay)] = app.sent
    assert (queue, delay > load().worker.lease_seconds) == ("fedplane-doorbell", True)
    await call("doorbell", func.QueueMessage(body=text.encode()))
    assert len(app.sent) == 2, "it was taken still, so the next call was made"
    await state.release(lease)
    await call("doorbell", func.QueueMessage(body=app.sent[1][1].encode()))
    assert (app.arrived(), len(app.sent)) == ({"a.txt"}, 2)


async def test_a_call_that_cannot_be_made_fails_no_mark(app: App) -> None:
    """What is due stays in the state, and the sweep calls for it."""
    app.halted = False
    event = await app.put()
    state, _ = await _taken(app, "a.txt")
    app.cannot_send = True
    await call("event_grid_queue", message(event))
    assert set(await state.waiting()) == {state.shard_of("a.txt")}
    app.cannot_send = False
    await call("sweep", TimerRequest())
    told = [msgspec.json.decode(text, type=Call) for _, text, _ in app.sent]
    assert Call("one", state.shard_of("a.txt")) in told


async def test_a_halted_pair_is_called_for_by_the_sweep_only(app: App) -> None:
    """A halt may last for days: no function rings for itself, each minute one looks."""
    await call("event_grid_queue", message(await app.put()))
    assert (await app.dirty(), app.sent) == (1, [])
    await call("sweep", TimerRequest())
    assert [json.loads(text)["shard"] for _, text, _ in app.sent if "tidy" not in text] == [app.states["one"].shard_of("a.txt")]


async def test_a_process_that_is_busy_puts_calls_back(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host takes 64 at a time; those that cannot be answered soon are for another instance."""
    app.halted = False
    await app.put()
    state = app.states["one"]
    await state.mark([Change("a.txt", Side.BLOB, Source.EVENT_GRID)])
    monkeypatch.setattr(calls, "MOST_SHARDS", 0)
    body = json.dumps({"pair": "one", "shard": state.shard_of("a.txt")}).encode()
    await call("doorbell", func.QueueMessage(body=body))
    assert (app.arrived(), len(app.sent)) == (set(), 1)


async def test_a_call_of_another_version_is_dropped(app: App) -> None:
    """What cannot be read, or names a pair that is no longer set up, would come back for ever otherwise."""
    for body in (b"no JSON", b'{"pair": "gone", "shard": 1}'):
        await call("doorbell", func.QueueMessage(body=body))
    await call("reconcile_range", func.QueueMessage(body=b"no JSON"))
    assert app.opened == []


async def test_instances_need_a_redis_that_they_share(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded one would be each instance's own; so is a place for the app's queues asked for. Health tells no reason."""
    monkeypatch.setenv("FEDERATION__REDIS__URL", "embedded")
    assert await _refused(app) == "bad_settings"
    monkeypatch.setenv("FEDERATION__REDIS__URL", "redis://127.0.0.1:1/0")
    monkeypatch.delenv("AzureWebJobsStorage__accountName")
    assert await _refused(app) == "missing_secret"
    monkeypatch.setenv("AzureWebJobsStorage", "AccountName=acct")
    assert await _refused(app) == "bad_settings"


async def _refused(app: App) -> str:
    """Why health is denied, which it does not say itself."""
    assert await app.health() == (503, {"status": "unavailable"})
    with pytest.raises(UsageError) as refused:
        await process.PROCESS.check()
    return refused.value.reason


@pytest.mark.parametrize(
    ("setting", "value", "right"),
    [
        ("E__queueServiceUri", "https://acct.queue.core.windows.net/", True),
        ("E__queueServiceUri", "https://another.queue.core.windows.net/", False),
        ("E__accountName", "another", False),
        ("E", "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=c2VjcmV0;EndpointSuffix=core.windows.net", True),
        ("E", "AccountName=another;AccountKey=c2VjcmV0;EndpointSuffix=core.windows.net", False),
        ("E", "QueueEndpoint=https://another.queue.core.windows.net/;SharedAccessSignature=sig=c2VjcmV0", False),
        ("E", "UseDevelopmentStorage=true", False),
    ],
)
async def test_the_host_and_the_sweep_read_one_queue(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, setting: str, value: str, *, right: bool
) -> None:
    """Of two accounts the sweep would see an empty queue while events wait in the other; the complaint names both, and no key."""
    monkeypatch.setenv(setting, value)
    assert (await app.health())[0] == (200 if right else 503)
    assert ("functions.event_connection" in caplog.text) is not right
    assert "c2VjcmV0" not in caplog.text


# ----------------------------------------------------------------------------------------------------------------------- scans


async def _due(app: App) -> list[dict[str, str]]:
    """What ``reconcile_start`` calls for, by pair and prefix, of the first pair."""
    app.sent.clear()
    await call("reconcile_start", TimerRequest())
    told = [json.loads(text) for queue, text, _ in app.sent if queue == "fedplane-reconcile"]
    return [one for one in told if one["pair"] == "one"]


async def test_a_scan_is_due_until_one_was_whole(app: App) -> None:
    """Then when somebody wishes for one, of the part that is wished for, and when the state went back."""
    app.halted = False
    whole = {"pair": "one", "prefix": ""}
    assert await _due(app) == [whole]
    await call("reconcile_range", func.QueueMessage(body=json.dumps(whole).encode()))
    assert await _due(app) == []
    state = app.states["one"]
    await wanted.ask(state, "dir/", now_us=1)
    assert await _due(app) == [{"pair": "one", "prefix": "dir/"}]
    await call("reconcile_range", func.QueueMessage(body=b'{"pair": "one", "prefix": "dir/"}'))
    assert await _due(app) == []
    last = await kept(state, COMPLETE)
    assert last is not None
    await state.put_note(GAP_NOTE, str(last.started_us - CLOCK_SLACK_US).encode())
    assert await _due(app) == []
    await state.put_note(GAP_NOTE, str(last.started_us - CLOCK_SLACK_US + 1).encode())
    assert await _due(app) == [whole]


async def test_what_a_scan_finds_is_applied(app: App) -> None:
    """A blob that no event told of is on VAST when the scan's function ends, or called for."""
    app.halted = False
    await app.put("unseen")
    await call("reconcile_range", func.QueueMessage(body=b'{"pair": "one", "prefix": ""}'))
    assert (app.arrived(), await app.dirty()) == ({"unseen"}, 0)


async def test_of_a_scan_that_is_not_written_down_there_is_one(app: App) -> None:
    """While another invocation does it, a second call ends at once."""
    app.halted = False
    await app.put("unseen")
    state = app.states["one"]
    assert await state.own("functions/scan/", owner="other", ttl_seconds=60)
    await call("reconcile_range", func.QueueMessage(body=b'{"pair": "one", "prefix": ""}'))
    assert app.arrived() == set()
    await state.disown("functions/scan/", owner="other")
    await call("reconcile_range", func.QueueMessage(body=b'{"pair": "one", "prefix": ""}'))
    assert app.arrived() == {"unseen"}


async def test_more_shards_than_one_invocation_takes_are_called_for(app: App) -> None:
    """So that other instances help; answered, all of it is applied."""
    app.halted = False
    for number in range(40):
        await app.put(f"k{number}")
    await call("reconcile_range", func.QueueMessage(body=b'{"pair": "one", "prefix": ""}'))
    assert app.sent
    for _, text, _ in list(app.sent):
        await call("doorbell", func.QueueMessage(body=text.encode()))
    assert (len(app.arrived()), await app.dirty()) == (40, 0)
