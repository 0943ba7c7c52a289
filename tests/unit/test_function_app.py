"""The functions that hear of changes: what they mark, answer and refuse. On in-memory state."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import azure.functions as func
import pytest

from federation.errors import RetryLater, UsageError
from federation.model import Side, Stamp, StampOrigin
from federation.settings import load
from reconciler.wanted import asked
from tests.unit.function_index import index
from tests.unit.function_lab import SECRET, App, LabState, blob_event, call, decoded, fresh_app, message, write_settings


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two pairs on one account."""
    async with fresh_app(tmp_path, monkeypatch) as made:
        yield made


# ------------------------------------------------------------------------------------------------------------------ the queue


async def test_a_message_is_marked_for_its_pair(app: App) -> None:
    """Base64 as Event Grid writes it: the pair that it names has a dirty key; its state is opened once, the other's not."""
    for name in ("a", "b"):
        assert await call("event_grid_queue", message(blob_event("models", name))) is None
    assert (await app.dirty("one"), await app.dirty("two")) == (0, 2)
    assert app.opened == ["two"]


@pytest.mark.parametrize("cloud", [False, True], ids=["event-grid", "cloud-events"])
async def test_a_single_event_of_the_trigger_is_marked(app: App, cloud: bool) -> None:
    """Of either schema, with its version and its time to the microsecond."""
    event = blob_event()
    if cloud:
        names = {"topic": "source", "eventType": "type", "eventTime": "time"}
        event = {names.get(name, name): value for name, value in event.items()} | {"specversion": "1.0"}
    await call("event_grid", decoded(event))
    assert (await app.dirty("one"), await app.dirty("two")) == (1, 0)
    hint, *_ = await app.states["one"].explain("a.txt")
    assert hint is not None
    assert [(entry.etag, entry.at) for entry in hint.blob] == [("0x8DC1", Stamp(1_700_000_000_123_456, 1, StampOrigin.EVENT))]


async def test_the_trigger_fails_while_redis_is_away(app: App) -> None:
    """Event Grid then sends the event again."""
    await call("event_grid", decoded(blob_event()))
    app.states["one"].away = True
    with pytest.raises(RetryLater):
        await call("event_grid", decoded(blob_event(name="b")))


async def test_a_directory_event_asks_the_engine_for_a_scan(app: App) -> None:
    """Through the state, before the message is acknowledged: no function scans."""
    event = blob_event(name="dir") | {"eventType": "Microsoft.Storage.DirectoryDeleted"}
    await call("event_grid_queue", message(event))
    assert set(await asked(app.states["one"])) == {"dir/"}
    assert (await app.post([blob_event(name="x") | {"eventType": "Microsoft.Storage.DirectoryDeleted"}])).status_code == 200
    assert set(await asked(app.states["one"])) == {"dir/", "x/"}


@pytest.mark.parametrize("body", [b"not base64!", b"\xff\xfe", b"bm90IEpTT04="])
async def test_a_malformed_message_is_kept(app: App, body: bytes) -> None:
    """It is kept whole with its reason before the host deletes it, and the queue goes on."""
    await call("event_grid_queue", message(body))
    [letter] = await app.states["one"].dead_letters()
    assert (letter.raw, letter.source) == (body, "event_grid_queue")
    assert letter.reason
    await call("event_grid_queue", message(blob_event()))
    assert await app.dirty() == 1


@pytest.mark.parametrize("body", [blob_event(), b"not base64!"], ids=["event", "malformed"])
async def test_a_message_stays_when_redis_is_away(app: App, body: object) -> None:
    """Neither mark nor dead letter can be made: the invocation fails, so the host keeps the message; later it succeeds."""
    await call("event_grid_queue", message(blob_event("elsewhere")))
    app.states["one"].away = True
    with pytest.raises(RetryLater):
        await call("event_grid_queue", message(body))
    app.states["one"].away = False
    await call("event_grid_queue", message(body))
    assert await app.dirty() + len(await app.states["one"].dead_letters()) == 1


async def test_a_state_that_cannot_be_opened_is_tried_again(app: App) -> None:
    """A failure to open is not remembered."""
    app.cannot_open = True
    with pytest.raises(RetryLater):
        await call("event_grid_queue", message(blob_event()))
    assert (await app.post(blob_event())).status_code == 503
    assert await app.health() == (503, {"status": "unavailable"})
    app.cannot_open = False
    await call("event_grid_queue", message(blob_event()))
    assert await app.dirty() == 1


# ---------------------------------------------------------------------------------------------------------------- the webhook


async def test_a_delivery_is_marked_and_answered(app: App) -> None:
    """200 after the mark, with what became of the events; each pair marks its own."""
    answer = await app.post([blob_event(), blob_event("models"), blob_event("elsewhere")])
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
    answer = await app.post(blob_event(), secret=secret, method=method)
    assert answer.status_code == 401
    assert "shared secret" in json.loads(answer.get_body())["error"]
    assert await app.dirty() == 0


async def test_the_secret_may_be_in_the_address(app: App) -> None:
    """As ``?code=``, where a subscription can only be given a URL."""
    request = func.HttpRequest("POST", "https://app/api/events", params={"code": SECRET}, body=json.dumps(blob_event()).encode())
    answer = await call("events", request)
    assert (answer.status_code, await app.dirty()) == (200, 1)


async def test_a_pair_may_ask_for_a_token_instead(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one nothing is taken; the handshake of CloudEvents brings none."""
    monkeypatch.setenv("FEDERATION_CONFIG", str(write_settings(tmp_path, "one:datasets", secret=False)))
    for name, value in (("TENANT", "contoso.example"), ("AUDIENCE", "api://fedplane")):
        monkeypatch.setenv(f"FEDERATION__PAIR__0__BLOB__EVENTS__WEBHOOK_ENTRA_{name}", value)
    for headers in ({}, {"Authorization": "Bearer none"}):
        answer = await app.post(blob_event(), secret=None, **headers)
        assert (answer.status_code, "token" in answer.get_body().decode()) == (401, True)
    assert (await app.post(b"", secret=None, method="OPTIONS")).status_code == 200
    assert await app.dirty() == 0


async def test_a_pair_without_a_secret_takes_nothing_by_http(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's address is open to the world: no secret configured means closed, not open; where none has one, no function."""
    monkeypatch.setenv("FEDERATION_CONFIG", str(write_settings(tmp_path, "one:datasets", "two:models", secret=False)))
    assert "events" not in [one.get_function_name() for one in index(load())]
    monkeypatch.setenv("FEDERATION__PAIR__TWO__BLOB__EVENTS__WEBHOOK_SECRET_ENV", "TEST_WEBHOOK_SECRET")
    for secret, status in ((SECRET, 200), (None, 401)):
        assert (await app.post(blob_event(), secret=secret)).status_code == status
    assert await app.dirty() == 0
    await call("event_grid_queue", message(blob_event()))
    assert await app.dirty() == 1


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"not JSON", 400, "not JSON"),
        (b"[1]", 400, "not a JSON object"),
        (json.dumps(blob_event(name="a" * 1024 * 1024)).encode(), 413, "Event Grid sends none above"),
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
    answer = await app.post(blob_event())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert await app.health() == (503, {"status": "unavailable"})
    app.states["one"].away = False
    assert (await app.post(blob_event())).status_code == 200
    assert await app.health() == (200, {"status": "ok"})


async def test_wrong_settings_are_told_by_health(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A state of another layout takes no marks; health, which anybody may ask, gives no reason, the log does."""
    monkeypatch.setattr(LabState, "wrong_layout", True)
    assert await app.health() == (503, {"status": "unavailable"})
    assert "The state has another layout." in caplog.text
    with pytest.raises(UsageError):
        await call("event_grid_queue", message(blob_event("models")))


async def test_marks_keep_their_side(app: App) -> None:
    """What Event Grid tells is a change on the Blob side, dirty since the event's time."""
    await app.post(blob_event())
    backlog = await app.states["one"].backlog()
    assert backlog.dirty_by_side == {Side.BLOB: 1, Side.VAST: 0}
