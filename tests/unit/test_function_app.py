"""The Azure Functions app: what the functions answer, and what is worked on before they do. On in-memory state and stores."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import azure.functions as func
import msgspec
import pytest
import structlog
from azure.functions.eventgrid import EventGridEventInConverter
from azure.functions.meta import Datum
from azure.functions.timer import TimerRequest

from federation import wiring
from federation.errors import RetryLater, UsageError
from federation.model import Change, Metadata, Side, Stamp, StampOrigin
from federation.ports import Clock, ObjectStore, State
from federation.progress import UNION_NOTE, DeadLetter, HaltRecord, Lease, MarkResult
from federation.settings import PairSettings, Settings, load
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from function_app import process, queues
from function_app.bells import Call
from reconciler.wanted import asked
from tests.unit.function_index import index
from tests.unit.world import FakeClock

ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
SECRET = "made-up shared secret"


class _State(MemoryState):
    """Can be away, and have another layout."""

    away = False
    wrong_layout = False

    async def open(self, *, create: bool = True) -> bool:
        if self.wrong_layout:
            raise UsageError("The state has another layout.", reason="state_layout")
        self._check()
        return await super().open(create=create)

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        self._check()
        return await super().mark(changes)

    async def bury(self, letter: DeadLetter) -> None:
        self._check()
        await super().bury(letter)

    async def own(self, task: str, *, owner: str, ttl_seconds: float) -> bool:
        self._check()
        return await super().own(task, owner=owner, ttl_seconds=ttl_seconds)

    async def acquire(self, shard: int, *, owner: str, ttl_seconds: float) -> Lease | None:
        self._check()
        return await super().acquire(shard, owner=owner, ttl_seconds=ttl_seconds)

    def _check(self) -> None:
        if self.away:
            raise RetryLater("Redis does not answer", reason="redis_unavailable")


@dataclass
class App:
    """The app in a process of its own, so to say: its functions, the states and stores of its pairs, and what it sent."""

    states: dict[str, _State] = field(default_factory=dict)
    stores: dict[tuple[str, Side], MemoryStore] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    sent: list[tuple[str, str, int]] = field(default_factory=list)
    halted: bool = True
    """Nothing is worked on, so that marks can be looked at."""
    cannot_open: bool = False
    cannot_send: bool = False

    @asynccontextmanager
    async def open_state(
        self, settings: Settings, pair: PairSettings, clock: Clock | None = None, *, marker: str = ""
    ) -> AsyncIterator[State]:
        """In place of ``wiring.open_state``."""
        del marker
        if self.cannot_open:
            raise RetryLater("Redis did not answer", reason="redis_unavailable")
        self.opened.append(pair.name)
        state = self.states.setdefault(pair.name, _State(pair.name, shards=settings.worker.shards, clock=clock or FakeClock()))
        if self.halted:
            await state.halt(HaltRecord("listing_order", "so that what is marked stays", 0, self_lifting=False))
        yield state

    def store(self, pair: PairSettings, side: Side) -> ObjectStore:
        """In place of the adapters."""
        return self.stores.setdefault((pair.name, side), MemoryStore(side, clock=FakeClock()))

    async def send(self, queue: str, text: str, *, delay_seconds: int = 0) -> None:
        """In place of ``Queues.send``."""
        if self.cannot_send:
            raise RetryLater("the queue does not answer", reason="queue_unavailable")
        self.sent.append((queue, text, delay_seconds))

    async def put(self, name: str = "a.txt", pair: str = "one") -> dict[str, Any]:
        """A user writes a blob; what Event Grid says of it."""
        if not self.opened:
            await self.health()
        written = await self.stores[pair, Side.BLOB].put(name, b"text", Metadata(), stamp=None, expected_etag=None)
        event = _event("datasets" if pair == "one" else "models", name)
        event["data"]["eTag"] = written.etag
        return event

    def arrived(self, pair: str = "one") -> set[str]:
        """Keys on VAST, of users."""
        return {key for key in self.stores[pair, Side.VAST].objects if not key.startswith(".federation/")}

    async def dirty(self, pair: str = "one") -> int:
        """How many keys of *pair* are dirty."""
        return (await self.states[pair].backlog()).dirty if pair in self.states else 0

    async def post(self, body: object, *, secret: str | None = SECRET, method: str = "POST", **headers: str) -> func.HttpResponse:
        """Deliver to the webhook."""
        given = {} if secret is None else {"X-Fedplane-Key": secret}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer: func.HttpResponse = await _call(
            "events", func.HttpRequest(method, "https://app/api/events", headers=given | headers, body=content)
        )
        return answer

    async def health(self) -> tuple[int, Any]:
        """Ask for health."""
        answer = await _call("health", func.HttpRequest("GET", "https://app/api/health", body=b""))
        return answer.status_code, json.loads(answer.get_body())


def _event(container: str = "datasets", name: str = "a.txt") -> dict[str, Any]:
    return {
        "topic": ACCOUNT,
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": "Microsoft.Storage.BlobCreated",
        "eventTime": "2023-11-14T22:13:20.1234567Z",
        "data": {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 5},
    }


def _message(body: object) -> func.QueueMessage:
    content = body if isinstance(body, bytes) else base64.b64encode(json.dumps(body).encode())
    return func.QueueMessage(id="1", body=content)


async def _call(name: str, argument: object) -> Any:  # noqa: ANN401 - whatever the function returns
    [found] = [one for one in index(load()) if one.get_function_name() == name]
    return await found.get_user_function()(argument)


def _settings(tmp_path: Path, *pairs_: str, secret: bool = True) -> Path:
    sections = [
        f"""
[[pair]]
name = "{name}"
[pair.blob]
account_url = "https://acct.blob.core.windows.net"
container = "{container}"
[pair.blob.events]
account_id = "{ACCOUNT}"
{f'queue_url = "https://acct.queue.core.windows.net/{name}"' if name == "one" else ""}
{'webhook_secret_env = "TEST_WEBHOOK_SECRET"' if secret else ""}
[pair.vast]
endpoint = "https://vast.example"
bucket = "{container}"
access_key_env = "A"
secret_key_env = "S"
"""
        for name, container in (pair.split(":") for pair in pairs_)
    ]
    file = tmp_path / "federation.toml"
    shared = '[redis]\nurl = "redis://127.0.0.1:1/0"\n[functions]\nevent_grid = true\nevent_connection = "E"\n'
    file.write_text(shared + "".join(sections))
    return file


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """A fresh process with two pairs on one account."""
    made = App()
    monkeypatch.setattr(wiring, "open_state", made.open_state)
    monkeypatch.setattr(wiring, "_blob_store", lambda pair, _: made.store(pair, Side.BLOB))
    monkeypatch.setattr(wiring, "_vast_store", lambda pair: made.store(pair, Side.VAST))
    monkeypatch.setattr(queues.Queues, "send", made.send)
    monkeypatch.setattr(process, "PROCESS", process.Process())
    for name, value in {"TEST_WEBHOOK_SECRET": SECRET, "AzureWebJobsStorage__accountName": "acct"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FEDERATION_CONFIG", str(_settings(tmp_path, "one:datasets", "two:models")))
    yield made
    await process.PROCESS.close()
    structlog.reset_defaults()


# ------------------------------------------------------------------------------------------------------------------ the queue


async def test_a_message_is_marked_for_its_pair(app: App) -> None:
    """Base64 as Event Grid writes it: the pair that it names has a dirty key; its state is opened once, the other's not."""
    for name in ("a", "b"):
        assert await _call("event_grid_queue", _message(_event("models", name))) is None
    assert (await app.dirty("one"), await app.dirty("two")) == (0, 2)
    assert app.opened == ["two"]


def _decoded(event: dict[str, Any]) -> Any:  # noqa: ANN401 - the worker picks the class
    """The event as the worker gives it to the function."""
    return EventGridEventInConverter.decode(Datum(json.dumps(event), "json"), trigger_metadata=None)


@pytest.mark.parametrize("cloud", [False, True], ids=["event-grid", "cloud-events"])
async def test_a_single_event_of_the_trigger_is_marked(app: App, cloud: bool) -> None:
    """Of either schema, with its version and its time to the microsecond."""
    event = _event()
    if cloud:
        names = {"topic": "source", "eventType": "type", "eventTime": "time"}
        event = {names.get(name, name): value for name, value in event.items()} | {"specversion": "1.0"}
    await _call("event_grid", _decoded(event))
    assert (await app.dirty("one"), await app.dirty("two")) == (1, 0)
    hint, *_ = await app.states["one"].explain("a.txt")
    assert hint is not None
    assert [(entry.etag, entry.at) for entry in hint.blob] == [("0x8DC1", Stamp(1_700_000_000_123_456, 1, StampOrigin.EVENT))]


async def test_the_trigger_fails_while_redis_is_away(app: App) -> None:
    """Event Grid then sends the event again."""
    await _call("event_grid", _decoded(_event()))
    app.states["one"].away = True
    with pytest.raises(RetryLater):
        await _call("event_grid", _decoded(_event(name="b")))


async def test_a_directory_event_asks_the_engine_for_a_scan(app: App) -> None:
    """Through the state, before the message is acknowledged: no function scans."""
    event = _event(name="dir") | {"eventType": "Microsoft.Storage.DirectoryDeleted"}
    await _call("event_grid_queue", _message(event))
    assert set(await asked(app.states["one"])) == {"dir/"}
    assert (await app.post([_event(name="x") | {"eventType": "Microsoft.Storage.DirectoryDeleted"}])).status_code == 200
    assert set(await asked(app.states["one"])) == {"dir/", "x/"}


@pytest.mark.parametrize("body", [b"not base64!", b"\xff\xfe", b"bm90IEpTT04="])
async def test_a_malformed_message_is_kept(app: App, body: bytes) -> None:
    """It is kept whole with its reason before the host deletes it, and the queue goes on."""
    await _call("event_grid_queue", _message(body))
    [letter] = await app.states["one"].dead_letters()
    assert (letter.raw, letter.source) == (body, "event_grid_queue")
    assert letter.reason
    await _call("event_grid_queue", _message(_event()))
    assert await app.dirty() == 1


@pytest.mark.parametrize("body", [_event(), b"not base64!"], ids=["event", "malformed"])
async def test_a_message_stays_when_redis_is_away(app: App, body: object) -> None:
    """Neither mark nor dead letter can be made: the invocation fails, so the host keeps the message; later it succeeds."""
    await _call("event_grid_queue", _message(_event("elsewhere")))
    app.states["one"].away = True
    with pytest.raises(RetryLater):
        await _call("event_grid_queue", _message(body))
    app.states["one"].away = False
    await _call("event_grid_queue", _message(body))
    assert await app.dirty() + len(await app.states["one"].dead_letters()) == 1


async def test_a_state_that_cannot_be_opened_is_tried_again(app: App) -> None:
    """A failure to open is not remembered."""
    app.cannot_open = True
    with pytest.raises(RetryLater):
        await _call("event_grid_queue", _message(_event()))
    assert (await app.post(_event())).status_code == 503
    assert await app.health() == (503, {"status": "unavailable", "reason": "redis_unavailable"})
    app.cannot_open = False
    await _call("event_grid_queue", _message(_event()))
    assert await app.dirty() == 1


# ---------------------------------------------------------------------------------------------------------------- the webhook


async def test_a_delivery_is_marked_and_answered(app: App) -> None:
    """200 after the mark, with what became of the events; each pair marks its own."""
    answer = await app.post([_event(), _event("models"), _event("elsewhere")])
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert json.loads(answer.get_body())["marked"] == 2
    assert (await app.dirty("one"), await app.dirty("two")) == (1, 1)


async def test_both_handshakes_are_answered(app: App) -> None:
    """Event Grid's code comes back; CloudEvents' origin is allowed."""
    validation = {"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "512d38b6"}}
    answer = await app.post([validation])
    assert (answer.status_code, json.loads(answer.get_body())) == (200, {"validationResponse": "512d38b6"})
    answer = await app.post(b"", method="OPTIONS", **{"WebHook-Request-Origin": "eventgrid.azure.net"})
    assert (answer.status_code, answer.get_body()) == (200, b"")
    assert answer.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert answer.headers["WebHook-Allowed-Rate"] == "120"


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET + "x", "\udcff"])
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_without_the_secret_nothing_is_taken(app: App, secret: str | None, method: str) -> None:
    """A wrong or missing secret is 401 for deliveries and handshakes."""
    answer = await app.post(_event(), secret=secret, method=method)
    assert answer.status_code == 401
    assert "shared secret" in json.loads(answer.get_body())["error"]
    assert await app.dirty() == 0


async def test_the_secret_may_be_in_the_address(app: App) -> None:
    """As ``?code=``, where a subscription can only be given a URL."""
    request = func.HttpRequest("POST", "https://app/api/events", params={"code": SECRET}, body=json.dumps(_event()).encode())
    answer = await _call("events", request)
    assert (answer.status_code, await app.dirty()) == (200, 1)


async def test_a_pair_may_ask_for_a_token_instead(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one nothing is taken; the handshake of CloudEvents brings none."""
    monkeypatch.setenv("FEDERATION_CONFIG", str(_settings(tmp_path, "one:datasets", secret=False)))
    for name, value in (("TENANT", "contoso.example"), ("AUDIENCE", "api://fedplane")):
        monkeypatch.setenv(f"FEDERATION__PAIR__0__BLOB__EVENTS__WEBHOOK_ENTRA_{name}", value)
    for headers in ({}, {"Authorization": "Bearer none"}):
        answer = await app.post(_event(), secret=None, **headers)
        assert (answer.status_code, "token" in answer.get_body().decode()) == (401, True)
    assert (await app.post(b"", secret=None, method="OPTIONS")).status_code == 200
    assert await app.dirty() == 0


async def test_a_pair_without_a_secret_takes_nothing_by_http(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's address is open to the world: no secret configured means closed, not open; where none has one, no function."""
    monkeypatch.setenv("FEDERATION_CONFIG", str(_settings(tmp_path, "one:datasets", "two:models", secret=False)))
    assert "events" not in [one.get_function_name() for one in index(load())]
    monkeypatch.setenv("FEDERATION__PAIR__TWO__BLOB__EVENTS__WEBHOOK_SECRET_ENV", "TEST_WEBHOOK_SECRET")
    for secret, status in ((SECRET, 200), (None, 401)):
        assert (await app.post(_event(), secret=secret)).status_code == status
    assert await app.dirty() == 0
    await _call("event_grid_queue", _message(_event()))
    assert await app.dirty() == 1


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"not JSON", 400, "not JSON"),
        (b"[1]", 400, "not a JSON object"),
        (json.dumps(_event(name="a" * 1024 * 1024)).encode(), 413, "Event Grid sends none above"),
        (b" " * (4 * 1024 * 1024 + 1), 413, "above 4194304 bytes"),
    ],
)
async def test_bad_bodies_are_told(app: App, body: bytes, status: int, text: str) -> None:
    """Malformed is 400, too large 413, each with what is wrong."""
    answer = await app.post(body)
    assert answer.status_code == status
    assert text in json.loads(answer.get_body())["error"]


async def test_redis_away_is_503(app: App) -> None:
    """Not marked, so not accepted: Event Grid sends it again."""
    assert (await app.health())[0] == 200
    app.states["one"].away = True
    answer = await app.post(_event())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert await app.health() == (503, {"status": "unavailable", "reason": "redis_unavailable"})
    app.states["one"].away = False
    assert (await app.post(_event())).status_code == 200
    assert await app.health() == (200, {"status": "ok"})


async def test_wrong_settings_are_told_by_health(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of another layout takes no marks, and health gives the reason's name only."""
    monkeypatch.setattr(_State, "wrong_layout", True)
    assert await app.health() == (503, {"status": "unavailable", "reason": "state_layout"})
    with pytest.raises(UsageError):
        await _call("event_grid_queue", _message(_event("models")))


async def test_marks_keep_their_side(app: App) -> None:
    """What Event Grid tells is a change on the Blob side, dirty since the event's time."""
    await app.post(_event())
    backlog = await app.states["one"].backlog()
    assert backlog.dirty_by_side == {Side.BLOB: 1, Side.VAST: 0}


# --------------------------------------------------------------------------------------------------- what is done with the marks


async def test_what_was_marked_is_applied_before_the_function_ends(app: App) -> None:
    """By queue, trigger and webhook alike; no doorbell is needed, and a state that was empty is begun in union mode."""
    app.halted = False
    await _call("event_grid_queue", _message(await app.put("queue")))
    await _call("event_grid", _decoded(await app.put("trigger")))
    assert (await app.post([await app.put("web")])).status_code == 200
    assert app.arrived() == {"queue", "trigger", "web"}
    assert (await app.dirty(), app.sent) == (0, [])
    assert await app.states["one"].note(UNION_NOTE) == b"1"


async def _taken(app: App, name: str) -> tuple[_State, Lease]:
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
        await _call("event_grid_queue", _message(event))
    [(queue, text, delay)] = app.sent
    assert (queue, delay > load().worker.lease_seconds) == ("fedplane-doorbell", True)
    await _call("doorbell", func.QueueMessage(body=text.encode()))
    assert len(app.sent) == 2, "it was taken still, so the next call was made"
    await state.release(lease)
    await _call("doorbell", func.QueueMessage(body=app.sent[1][1].encode()))
    assert (app.arrived(), len(app.sent)) == ({"a.txt"}, 2)


async def test_a_call_that_cannot_be_made_fails_no_mark(app: App) -> None:
    """What is due stays in the state, and the sweep calls for it."""
    app.halted = False
    event = await app.put()
    state, _ = await _taken(app, "a.txt")
    app.cannot_send = True
    await _call("event_grid_queue", _message(event))
    assert set(await state.waiting()) == {state.shard_of("a.txt")}
    app.cannot_send = False
    await _call("sweep", TimerRequest())
    calls = [msgspec.json.decode(text, type=Call) for _, text, _ in app.sent]
    assert Call("one", state.shard_of("a.txt")) in calls


async def test_a_halted_pair_is_called_for_by_the_sweep_only(app: App) -> None:
    """A halt may last for days: no function rings for itself, each minute one looks."""
    await _call("event_grid_queue", _message(await app.put()))
    assert (await app.dirty(), app.sent) == (1, [])
    await _call("sweep", TimerRequest())
    assert [json.loads(text)["shard"] for _, text, _ in app.sent if "tidy" not in text] == [app.states["one"].shard_of("a.txt")]


async def test_a_call_of_another_version_is_dropped(app: App) -> None:
    """What cannot be read, or names a pair that is no longer set up, would come back for ever otherwise."""
    for body in (b"no JSON", b'{"pair": "gone", "shard": 1}'):
        await _call("doorbell", func.QueueMessage(body=body))
    await _call("reconcile_range", func.QueueMessage(body=b"no JSON"))
    assert app.opened == []


async def test_instances_need_a_redis_that_they_share(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded one would be each instance's own; so is a place for the app's queues asked for. Health tells by name."""
    monkeypatch.setenv("FEDERATION__REDIS__URL", "embedded")
    assert await app.health() == (503, {"status": "unavailable", "reason": "bad_settings"})
    monkeypatch.setenv("FEDERATION__REDIS__URL", "redis://127.0.0.1:1/0")
    monkeypatch.delenv("AzureWebJobsStorage__accountName")
    assert await app.health() == (503, {"status": "unavailable", "reason": "missing_secret"})
    monkeypatch.setenv("AzureWebJobsStorage", "AccountName=acct")
    assert await app.health() == (503, {"status": "unavailable", "reason": "bad_settings"})
