"""Event Grid by HTTP: our own server over real connections, and the Functions app, both marking in a real Redis."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import azure.functions as func
import pytest
import pytest_asyncio
import structlog

from federation import settings, wiring
from federation.clock import SystemClock
from federation.payloads.event_grid import BlobScope
from federation.ports import ChangeSink
from federation.progress import UNION_NOTE
from federation.sources.event_grid_http import Target
from federation.sources.event_grid_webhook import EventGridWebhook
from federation.state.redis_state import RedisState
from fedplane.localstack.info import StackInfo
from fedplane.localstack.stack import LocalStack
from function_app import process, web_functions
from tests.servers.support import Sink, eventually, running

SECRET = "made-up shared secret"
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
SCOPE = BlobScope(ACCOUNT, "datasets", "", lambda name: name)
MIB = 1024 * 1024


def _event(name: str = "a.txt", container: str = "datasets", kind: str = "BlobCreated", topic: str = ACCOUNT) -> dict[str, Any]:
    return {
        "topic": topic,
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": f"Microsoft.Storage.{kind}",
        "eventTime": "2023-11-14T22:13:20.1234567Z",
        "data": {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 5},
    }


class Client:
    """Speaks to one webhook."""

    def __init__(self, source: EventGridWebhook, session: aiohttp.ClientSession) -> None:
        self.source = source
        self.session = session
        self.url = f"http://127.0.0.1:{source.port}"

    async def post(self, body: object, *, path: str = "/events", secret: str | None = SECRET) -> tuple[int, Any]:
        """Deliver; status and JSON of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if secret is None else {"x-fedplane-key": secret}
        async with self.session.post(self.url + path, data=io.BytesIO(data), headers=headers) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def _webhook(sink: ChangeSink, secret: str | None = SECRET, gaps: list[str] | None = None) -> AsyncIterator[Client]:
    found: list[str] = [] if gaps is None else gaps

    async def gap(prefix: str = "") -> None:
        found.append(prefix)

    source = EventGridWebhook("127.0.0.1:0", Target(SCOPE, sink, secret, gap))
    async with running(source), aiohttp.ClientSession() as session:
        await asyncio.wait_for(source.bound.wait(), 5)
        yield Client(source, session)


async def test_a_delivery_is_marked_and_answered() -> None:
    """200 with what became of the events, one mark for the batch, counted in health."""
    sink = Sink()
    async with _webhook(sink) as client:
        events = [_event("a"), _event("ü/ b"), _event(container="other"), _event(topic=ACCOUNT + "x")]
        assert await client.post(events) == (200, {"marked": 2, "refused": 2})
        health = client.source.health()
    assert len(sink.calls) == 1
    assert sink.keys == ["a", "ü/ b"]
    assert (health["received"], health["marked"], health["connected"]) == (1, 2, 1)
    assert (health["refused_foreign_container"], health["refused_foreign_account"]) == (1, 1)


async def test_the_answer_comes_after_the_mark() -> None:
    """As long as the mark is under way there is no 200 (rule 6)."""
    sink = Sink()
    sink.gate.clear()
    async with _webhook(sink) as client:
        posting = asyncio.create_task(client.post(_event()))
        await eventually(lambda: client.source.health().get("received") == 1, "received")
        assert not posting.done()
        sink.gate.set()
        assert (await posting)[0] == 200
    assert sink.keys == ["a.txt"]


async def test_a_failing_mark_is_503() -> None:
    """Event Grid keeps the event and sends it again; health tells why meanwhile."""
    sink = Sink(failures=1)
    async with _webhook(sink) as client:
        request = client.session.post(f"{client.url}/events?code={SECRET}", json=_event())
        async with request as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
            assert "send it again" in (await answer.json())["error"]
        assert (client.source.health()["connected"], client.source.health()["last_error"]) == (0, "Redis does not answer")
        assert (await client.post(_event()))[0] == 200
        assert (client.source.health()["connected"], client.source.health()["last_error"]) == (1, "")


async def test_both_handshakes_are_answered() -> None:
    """Event Grid's validation code with 200, CloudEvents' origin by OPTIONS; neither marks anything."""
    sink = Sink()
    validation = {
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "data": {"validationCode": "512d38b6", "validationUrl": "https://rp.example"},
    }
    async with _webhook(sink) as client:
        assert await client.post([validation]) == (200, {"validationResponse": "512d38b6"})
        headers = {"WebHook-Request-Origin": "eventgrid.azure.net", "x-fedplane-key": SECRET}
        async with client.session.options(f"{client.url}/events", headers=headers) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
            assert answer.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
            assert int(answer.headers["WebHook-Allowed-Rate"]) > 0
    assert sink.calls == []


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET[:-1], SECRET + "x"])
async def test_a_wrong_secret_is_401(secret: str | None) -> None:
    """Nothing is marked without the secret, by delivery or handshake, and the answer says how to send it."""
    sink = Sink()
    async with _webhook(sink) as client:
        status, body = await client.post(_event(), secret=secret)
        assert (status, "x-fedplane-key" in body["error"]) == (401, True)
        assert SECRET not in body["error"]
        headers = {} if secret is None else {"x-fedplane-key": secret}
        async with client.session.options(f"{client.url}/events", headers=headers) as answer:
            assert answer.status == 401
        assert client.source.health()["refused_secret"] == 2
    assert sink.calls == []


async def test_a_secret_that_is_no_text_is_401() -> None:
    """Bytes in a header that are no UTF-8 are a wrong secret, not a fault of ours."""
    async with _webhook(Sink()) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.source.port)
        writer.write(
            b"POST /events HTTP/1.1\r\nHost: x\r\nx-fedplane-key: \xff\xfe\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_without_a_secret_configured_it_is_open() -> None:
    """On loopback a person may leave the secret out."""
    sink = Sink()
    async with _webhook(sink, None) as client:
        assert (await client.post(_event(), secret=None))[0] == 200
    assert sink.keys == ["a.txt"]


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"", "not JSON"), (b"{", "not JSON"), (b"[1]", "not a JSON object"), (b"{}", "no type"), (b"\xff\xfe", "not JSON")],
)
async def test_a_malformed_delivery_is_400(body: bytes, text: str) -> None:
    """With what is wrong; the next delivery is taken."""
    sink = Sink()
    async with _webhook(sink) as client:
        status, answer = await client.post(body)
        assert (status, text in answer["error"]) == (400, True)
        assert (await client.post(_event()))[0] == 200
        assert client.source.health()["refused_malformed"] == 1
    assert sink.keys == ["a.txt"]


async def test_sizes_are_bounded() -> None:
    """An event above 1 MiB and a body above 4 MiB are 413; a batch of small events may be larger than one event."""
    sink = Sink()
    async with _webhook(sink) as client:
        status, answer = await client.post(_event("a" * MIB))
        assert (status, "sends none above" in answer["error"]) == (413, True)
        status, answer = await client.post(_event("a" * 5 * MIB))
        assert (status, "at most 1 MB" in answer["error"]) == (413, True)
        batch = [_event(f"{number}-{'a' * 900}") for number in range(1200)]
        assert await client.post(batch) == (200, {"marked": 1200, "refused": 0})
        assert client.source.health()["refused_too_large"] == 1
    assert len(sink.keys) == 1200


async def test_an_event_for_a_scan_asks_for_one() -> None:
    """A directory event is accepted and leads to a scan."""
    gaps: list[str] = []
    async with _webhook(Sink(), gaps=gaps) as client:
        assert (await client.post(_event("dir", kind="DirectoryDeleted")))[0] == 200
    assert gaps == ["dir/"]


async def test_it_stops_and_frees_its_port() -> None:
    """After cancelling nothing listens; health needs no secret while it does."""
    async with _webhook(Sink()) as client:
        port = client.source.port
        async with client.session.get(f"{client.url}/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


# ----------------------------------------------------------------------------------------------------------- with a real Redis


@pytest_asyncio.fixture(loop_scope="session")
async def app(info: StackInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[settings.Settings]:
    """The Functions app on the stack's Redis, with a pair of its own."""
    file = tmp_path / "federation.toml"
    file.write_text(f"""
[redis]
url = "{info.redis_url}"
[[pair]]
name = "functions-{tmp_path.name.lower().replace("_", "-")[-40:]}"
[pair.blob]
account_url = "{info.blob_endpoint}"
container = "datasets"
connection_string_env = "AzureWebJobsStorage"
[pair.blob.events]
account_id = "{ACCOUNT}"
webhook_secret_env = "TEST_WEBHOOK_SECRET"
[pair.vast]
endpoint = "{info.s3_endpoint}"
bucket = "datasets"
access_key_env = "A"
secret_key_env = "S"
""")
    monkeypatch.setenv("FEDERATION_CONFIG", str(file))
    monkeypatch.setenv("TEST_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("AzureWebJobsStorage", info.connection_string())
    monkeypatch.setenv("A", info.access_key)
    monkeypatch.setenv("S", info.secret_key)
    fresh = process.Process()
    monkeypatch.setattr(process, "PROCESS", fresh)
    yield settings.load()
    await fresh.close()
    structlog.reset_defaults()


async def _deliver(event: object) -> int:
    headers = {"x-fedplane-key": SECRET}
    answer = await process.PROCESS.take_request("POST", headers, {}, json.dumps(event).encode())
    return answer.status


async def _dirty(config: settings.Settings) -> int:
    async with wiring.open_state(config, config.pair[0]) as state:
        return (await state.backlog()).dirty


@pytest.mark.servers
@pytest.mark.asyncio(loop_scope="session")
async def test_the_functions_app_marks_in_redis(app: settings.Settings) -> None:
    """Queue and webhook mark where the engine looks; a state that was empty is begun in union mode."""
    assert await _deliver([_event("a"), _event("b")]) == 200
    await process.PROCESS.take_message(json.dumps(_event("c")).encode())
    await process.PROCESS.take_message(b"no JSON")
    assert await _dirty(app) == 3
    async with wiring.open_state(app, app.pair[0]) as state:
        assert [letter.raw for letter in await state.dead_letters()] == [b"no JSON"]
        assert await state.open() is True
        assert await state.note(UNION_NOTE)
    assert await _deliver(_event("d")) == 200
    assert await _dirty(app) == 4


@pytest.mark.servers
@pytest.mark.asyncio(loop_scope="session")
async def test_redis_away_is_503_and_nothing_is_lost(stack: LocalStack, app: settings.Settings) -> None:
    """While Redis is stopped both webhooks answer 503 in time; started again they take the same event."""
    del app
    pair_state = await _stopped_and_started(stack)
    assert pair_state == ([503, 503], [200, 200])


async def _stopped_and_started(stack: LocalStack) -> tuple[list[int], list[int]]:
    config = settings.load()
    async with wiring.open_state(config, config.pair[0], SystemClock()) as state:
        assert isinstance(state, RedisState)
        async with _webhook(state) as client:
            assert (await client.post(_event("a")))[0] == 200
            assert await _deliver(_event("a")) == 200
            await stack.stop_server("redis")
            try:
                async with asyncio.timeout(30):
                    away = [(await client.post(_event("b")))[0], await _deliver(_event("b"))]
                health = func.HttpRequest("GET", "https://app/api/health", body=b"")
                assert (await _health(health)).status_code == 503
            finally:
                await stack.start_server("redis")
            return away, [(await client.post(_event("b")))[0], await _deliver(_event("b"))]


async def _health(request: func.HttpRequest) -> func.HttpResponse:
    return await web_functions.health(request)
