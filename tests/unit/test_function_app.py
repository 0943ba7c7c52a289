"""The Azure Functions app: what the functions answer, on in-memory state."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
import structlog
from azure.functions.eventgrid import EventGridEventInConverter
from azure.functions.meta import Datum

from federation import wiring
from federation.clock import SystemClock
from federation.errors import RetryLater, UsageError
from federation.model import Change, Side, Stamp, StampOrigin
from federation.ports import Clock, State
from federation.progress import DeadLetter, MarkResult
from federation.settings import PairSettings, Settings
from federation.state.memory_state import MemoryState
from function_app import pairs
from reconciler.wanted import asked
from tests.unit.function_index import index

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
SECRET = "made-up shared secret"


class _State(MemoryState):
    """Can be away, and tells what was opened how."""

    away = False
    wrong_layout = False

    async def open(self, *, create: bool = True) -> bool:
        assert not create, "a function must not begin a state"
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

    def _check(self) -> None:
        if self.away:
            raise RetryLater("Redis does not answer", reason="redis_unavailable")


@dataclass
class App:
    """The app in a process of its own, so to say."""

    states: dict[str, _State] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    cannot_open: bool = False

    @asynccontextmanager
    async def open_state(self, settings: Settings, pair: PairSettings, clock: Clock | None = None) -> AsyncIterator[State]:
        """In place of ``wiring.open_state``."""
        if self.cannot_open:
            raise RetryLater("The embedded Redis did not answer", reason="redis_unavailable")
        self.opened.append(pair.name)
        yield self.states.setdefault(pair.name, _State(pair.name, shards=settings.worker.shards, clock=clock or SystemClock()))

    async def dirty(self, pair: str = "one") -> int:
        """How many keys of *pair* are dirty."""
        return (await self.states[pair].backlog()).dirty

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
    [found] = [one for one in index() if one.get_function_name() == name]
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
    file.write_text("".join(sections))
    return file


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """A fresh process with two pairs on one account."""
    made = App()
    monkeypatch.setattr(wiring, "open_state", made.open_state)
    monkeypatch.setattr(pairs, "PAIRS", pairs.Pairs())
    monkeypatch.setenv("TEST_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("FEDERATION_CONFIG", str(_settings(tmp_path, "one:datasets", "two:models")))
    yield made
    await pairs.PAIRS.close()
    structlog.reset_defaults()


# ------------------------------------------------------------------------------------------------------------------ the queue


async def test_a_message_is_marked_for_its_pair(app: App) -> None:
    """Base64 as Event Grid writes it: the pair that it names has a dirty key, the other none; the states are opened once."""
    for name in ("a", "b"):
        assert await _call("event_grid_queue", _message(_event("models", name))) is None
    assert (await app.dirty("one"), await app.dirty("two")) == (0, 2)
    assert app.opened == ["one", "two"]


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
    """The host's address is open to the world: no secret configured means closed, not open."""
    monkeypatch.setenv("FEDERATION_CONFIG", str(_settings(tmp_path, "one:datasets", secret=False)))
    assert (await app.post(_event())).status_code == 401
    assert (await app.post(_event(), secret=None)).status_code == 401
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


async def test_wrong_settings_are_told_by_health(app: App) -> None:
    """A state of another layout takes no marks, and health gives the reason's name only."""
    await app.health()
    app.states["two"].wrong_layout = True
    assert await app.health() == (503, {"status": "unavailable", "reason": "state_layout"})
    with pytest.raises(UsageError):
        await _call("event_grid_queue", _message(_event("models")))


async def test_marks_keep_their_side(app: App) -> None:
    """What Event Grid tells is a change on the Blob side, dirty since the event's time."""
    await app.post(_event())
    backlog = await app.states["one"].backlog()
    assert backlog.dirty_by_side == {Side.BLOB: 1, Side.VAST: 0}
