"""Rule 10: planted secrets, and what hostile answers say of them, reach no log, error, health, status or record of the state."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import azure.functions as func
import pytest

from federation import wiring
from federation.errors import FederationError
from function_app import process
from operations.heartbeat import heartbeats
from tests.unit.function_lab import App, blob_event, call, fresh_app, message

_BLOB, _VAST, _STATE, _PAIR = wiring._blob_store, wiring._vast_store, wiring.open_state, "FEDERATION__PAIR__0__"
ACCOUNT_KEY = base64.b64encode(b"planted account key of the container").decode()
SAS_SIGNATURE = "planted+sas/signature="
VAST_SECRET = "planted/vast/secret/key"
VAST_ACCESS = "PLANTEDACCESSKEY1234"
REDIS_PASSWORD = "planted:redis:password"
SECRETS = (ACCOUNT_KEY, SAS_SIGNATURE, VAST_SECRET, VAST_ACCESS, REDIS_PASSWORD)
"""VAST's access key is a name, not a secret; it is not told either."""
FORMS = {form for one in SECRETS for form in (one, quote(one, safe=""), base64.b64encode(one.encode()).decode(), one[:12])}
SAYS = " ".join(SECRETS)


def leaks(text: str) -> list[str]:
    """Secrets in *text*, in any of their forms."""
    return sorted(form for form in FORMS if form in text)


@asynccontextmanager
async def hostile_http(status: int) -> AsyncIterator[tuple[str, list[str]]]:
    """Answers everything with *status*, secrets in every place that one can be in, and the request itself thrown back."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked.append(head.decode())
                body = f"<Error><Code>Odd</Code><Message>{SAYS} {head.decode()}</Message></Error>".encode()
                told = {
                    "x-ms-error-code": f"Odd {SAYS}",
                    "Location": f"http://x/?sig={quote(SAS_SIGNATURE)}",
                    "ETag": f'"{SAYS}"',
                }
                told |= {"WWW-Authenticate": SAYS, "Content-Length": str(len(body)), "x-amz-request-id": SAYS}
                lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
                writer.write(f"HTTP/1.1 {status} {SAYS}\r\n{lines}\r\n".encode() + (b"" if head.startswith(b"HEAD") else body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # it went
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> AsyncIterator[App]:
    """Pair one with stores of its own below."""
    caplog.set_level(logging.DEBUG)
    async with fresh_app(tmp_path, monkeypatch) as made:
        made.halted = False
        yield made


def _plant(monkeypatch: pytest.MonkeyPatch, url: str, *, sas: bool) -> None:
    """The pair's real stores at *url*, with secrets in every setting that takes one."""
    monkeypatch.setattr(wiring, "_blob_store", _BLOB)
    monkeypatch.setattr(wiring, "_vast_store", _VAST)
    connection = f"DefaultEndpointsProtocol=http;AccountName=acct;AccountKey={ACCOUNT_KEY};BlobEndpoint={url}/acct"
    values = {
        f"{_PAIR}BLOB__ACCOUNT_URL": f"{url}/acct",
        f"{_PAIR}BLOB__{'SAS_ENV' if sas else 'CONNECTION_STRING_ENV'}": "PLANTED",
        "PLANTED": f"sv=2024-01-01&sig={quote(SAS_SIGNATURE, safe='')}" if sas else connection,
        f"{_PAIR}VAST__ENDPOINT": url,
        "A": VAST_ACCESS,
        "S": VAST_SECRET,
        "FEDERATION__LOG__LEVEL": "debug",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


async def _told(app: App) -> str:
    """Everything that the app tells of pair one."""
    state = app.states["one"]
    answers = [await call("health", func.HttpRequest("GET", "https://app/api/health", body=b""))]
    for name, asked in (("status", {"pair": "one"}), ("explain", {"pair": "one", "key": "a.txt"})):
        answers.append(await call(name, func.HttpRequest("GET", f"https://app/api/{name}", params=asked, body=b"")))
    kept = [*await heartbeats(state), *await state.halts(), *await state.dead_letters()]
    return " ".join([one.get_body().decode() for one in answers] + [repr(one) for one in kept])


@pytest.mark.parametrize("sas", [False, True], ids=["account key", "SAS"])
@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409, 412, 418, 500, 503])
async def test_no_answer_of_a_side_makes_a_secret_public(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int, *, sas: bool
) -> None:
    """Checks of the sides, a worked-on key and its decision line, health, status and explain."""
    async with hostile_http(status) as (url, asked):
        _plant(monkeypatch, url, sas=sas)
        pair = await process.PROCESS.pair("one")
        await pair.ready()
        for halt in await pair.state.halts():
            await pair.state.lift(halt.name)
        pair.proved = True
        await call("event_grid_queue", message(blob_event()))
        text = await _told(app)
        for store in pair.runtime.stores.values():
            await store.close()
    logged = " ".join(record.getMessage() + str(record.exc_text or "") for record in caplog.records)
    assert asked, "the sides were asked"
    assert '"event": "decision"' in logged or any(one.last_error for one in pair.runtime.gates.values())
    assert leaks(logged + caplog.text + text) == []


async def _hostile_redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, says: str) -> None:
    while await reader.read(65536):
        writer.write(f"-{says}\r\n".encode() * 8)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    "says",
    [
        f"ERR unknown command 'AUTH', with args beginning with: 'me' '{REDIS_PASSWORD}'",
        f"WRONGPASS invalid username-password pair {REDIS_PASSWORD}",
        f"NOAUTH {REDIS_PASSWORD}",
        f"LOADING {REDIS_PASSWORD}",
        f"OOM {REDIS_PASSWORD}",
        f"NOPERM {REDIS_PASSWORD}",
        f"READONLY {REDIS_PASSWORD}",
    ],
)
@pytest.mark.parametrize("in_url", [True, False])
async def test_no_answer_of_redis_makes_its_password_public(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, says: str, *, in_url: bool
) -> None:
    """A server that does not know AUTH says its arguments; health, the sweep's log and the error itself do not."""
    del app
    monkeypatch.setattr(wiring, "open_state", _STATE)
    server = await asyncio.start_server(lambda reader, writer: _hostile_redis(reader, writer, says), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        user = f"me:{quote(REDIS_PASSWORD, safe='')}@" if in_url else ""
        monkeypatch.setenv("FEDERATION__REDIS__URL", f"redis://{user}127.0.0.1:{port}/0")
        if not in_url:
            monkeypatch.setenv("FEDERATION__REDIS__PASSWORD_ENV", "PLANTED")
            monkeypatch.setenv("PLANTED", REDIS_PASSWORD)
        health = await call("health", func.HttpRequest("GET", "https://app/api/health", body=b""))
        assert health.status_code == 503
        with pytest.raises(FederationError) as caught:
            await process.PROCESS.check()
    assert leaks(health.get_body().decode() + str(caught.value) + caplog.text) == []


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("AzureWebJobsStorage", f"AccountName=acct;AccountKey={ACCOUNT_KEY}{SAS_SIGNATURE}"),
        ("AzureWebJobsStorage", f"{ACCOUNT_KEY}"),
        ("AzureWebJobsStorage", f"AccountName=acct;{ACCOUNT_KEY};EndpointSuffix=core.windows.net"),
        ("E", f"AccountName=another;AccountKey={ACCOUNT_KEY}"),
        ("E", f"QueueEndpoint=https://another.example/?sig={SAS_SIGNATURE}"),
        ("INSIGHTS", f"InstrumentationKey={ACCOUNT_KEY}"),
        ("INSIGHTS", f"{ACCOUNT_KEY};{SAS_SIGNATURE}"),
        ("FEDERATION__REDIS__URL", f"http://me:{REDIS_PASSWORD}@127.0.0.1/0"),
        ("FEDERATION__REDIS__URL", f"redis://me:{REDIS_PASSWORD}@127.0.0.1:1/0"),
        ("FEDERATION__REDIS__PASSWORD_ENV", REDIS_PASSWORD),
        (f"{_PAIR}VAST__SECRET_KEY_ENV", VAST_SECRET),
        (f"{_PAIR}BLOB__EVENTS__WEBHOOK_SECRET_ENV", VAST_SECRET),
    ],
)
async def test_no_complaint_about_settings_quotes_a_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, setting: str, value: str
) -> None:
    """Secrets that are not whole, or typed where an address or a variable's name belongs."""
    monkeypatch.setattr(wiring, "open_state", _STATE)
    monkeypatch.setattr(wiring, "_vast_store", _VAST)
    monkeypatch.setenv("FEDERATION__METRICS__AZURE_CONNECTION_STRING_ENV", "INSIGHTS" if setting == "INSIGHTS" else "")
    monkeypatch.setenv(setting, value)
    health = await call("health", func.HttpRequest("GET", "https://app/api/health", body=b""))
    assert health.status_code == 503
    assert caplog.records, "somebody is told why"
    assert leaks(health.get_body().decode() + caplog.text) == []
