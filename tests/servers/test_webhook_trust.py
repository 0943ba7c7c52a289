"""Who may deliver to the webhook by a token of Entra ID, and how many at a time: over real connections and real keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.event_settings import EVENT_GRID_APP
from federation.payloads.event_grid import BlobScope
from federation.sources import event_grid_http
from federation.sources.entra import EntraTokens
from federation.sources.event_grid_http import Target
from federation.sources.event_grid_webhook import EventGridWebhook
from federation.state.embedded import EmbeddedRedis
from tests.servers.support import QuickClock, Sink, eventually, running, state_in

TENANT, AUDIENCE = "3c3d7a3e-0000-4000-8000-000000000001", "api://fedplane"
SCOPE = BlobScope("", "datasets", "", lambda name: name)
EVENT = {
    "topic": "t",
    "subject": "/blobServices/default/containers/datasets/blobs/a.txt",
    "eventType": "Microsoft.Storage.BlobCreated",
    "data": {},
}


@cache
def _private(name: str) -> rsa.RSAPrivateKey:
    """A key by name; made once, since that is slow."""
    del name
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Tenant:
    """A tenant's OpenID metadata on loopback, and its tokens."""

    names: list[str] = field(default_factory=lambda: ["one"])
    url: str = ""
    status: int = 200
    asked: int = 0
    garbage: bool = False

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Tenant]:
        """Listen while the block runs."""
        app = web.Application()
        app.router.add_get(f"/{TENANT}/.well-known/openid-configuration", self._v1)
        app.router.add_get(f"/{TENANT}/v2.0/.well-known/openid-configuration", self._v2)
        app.router.add_get("/keys", self._keys)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield self
        await runner.cleanup()

    async def _v1(self, request: web.Request) -> web.Response:
        del request
        self.asked += 1
        body = {"issuer": f"{self.url}/sts/{TENANT}/", "jwks_uri": f"{self.url}/keys"}
        return web.Response(status=self.status, text="<html>" if self.garbage else json.dumps(body))

    async def _v2(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"issuer": f"{self.url}/{TENANT}/v2.0", "jwks_uri": f"{self.url}/keys"})

    async def _keys(self, request: web.Request) -> web.Response:
        del request
        found: list[dict[str, Any]] = [{"kty": "EC", "kid": "curve"}, {"kty": "RSA"}]
        for name in self.names:
            public = jwt.algorithms.RSAAlgorithm.to_jwk(_private(name).public_key(), as_dict=True)
            found.append(public | {"kid": name, "use": "sig"})
        return web.json_response({"keys": found})

    def token(self, *, signed_by: str = "one", name: str | None = None, v2: bool = False, **changes: Any) -> str:  # noqa: ANN401
        """As Event Grid would send it; *changes* replace claims, None removes one."""
        now = SystemClock().now_us() // 1_000_000
        issuer = f"{self.url}/{TENANT}/v2.0" if v2 else f"{self.url}/sts/{TENANT}/"
        app = {"azp" if v2 else "appid": EVENT_GRID_APP}
        claims = {"iss": issuer, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 600, "tid": TENANT} | app | changes
        kept = {claim: value for claim, value in claims.items() if value is not None}
        return jwt.encode(kept, _private(signed_by), algorithm="RS256", headers={"kid": name or signed_by})

    def checker(self) -> EntraTokens:
        """What the webhook asks."""
        return EntraTokens(self.url, TENANT, AUDIENCE, (EVENT_GRID_APP,), QuickClock())


@pytest.fixture
async def tenant() -> AsyncIterator[Tenant]:
    """A tenant with one key."""
    async with Tenant().serving() as found:
        yield found


@asynccontextmanager
async def _webhook(target: Target) -> AsyncIterator[tuple[EventGridWebhook, str, aiohttp.ClientSession]]:
    source = EventGridWebhook("127.0.0.1:0", target)
    async with running(source), aiohttp.ClientSession() as session:
        await asyncio.wait_for(source.bound.wait(), 5)
        yield source, f"http://127.0.0.1:{source.port}/events", session


async def _post(session: aiohttp.ClientSession, url: str, token: str | None, **headers: str) -> tuple[int, dict[str, Any]]:
    given = ({} if token is None else {"Authorization": f"Bearer {token}"}) | headers
    async with session.post(url, data=json.dumps(EVENT), headers=given) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
async def test_event_grids_token_delivers(tenant: Tenant, v2: bool) -> None:
    """Of either version; the keys are read once."""
    sink = Sink()
    async with _webhook(Target(SCOPE, sink, None, _no_gap, tenant.checker())) as (_, url, session):
        for _ in range(3):
            assert (await _post(session, url, tenant.token(v2=v2)))[0] == 200
    assert (sink.keys, tenant.asked) == (["a.txt"] * 3, 1)


FORGED: list[dict[str, Any]] = [
    {"aud": "api://other"},
    {"aud": None},
    {"iss": "https://sts.windows.net/other/"},
    {"iss": None},
    {"appid": "11111111-0000-4000-8000-000000000000"},
    {"appid": None},
    {"exp": 1_600_000_000},
    {"exp": None},
    {"nbf": 4_000_000_000},
    {"signed_by": "two", "name": "one"},
    {"signed_by": "two"},
    {"name": "curve"},
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
async def test_any_other_token_is_401(tenant: Tenant, forged: dict[str, Any]) -> None:
    """Wrong audience, issuer, application, time, signature or key."""
    sink = Sink()
    async with _webhook(Target(SCOPE, sink, None, _no_gap, tenant.checker())) as (source, url, session):
        status, body = await _post(session, url, tenant.token(**forged))
        assert (status, "token" in body["error"], source.health()["refused_token"]) == (401, True, 1)
    assert sink.calls == []


def _unsigned(tenant: Tenant) -> str:
    claims = jwt.decode(tenant.token(), options={"verify_signature": False})
    return jwt.encode(claims, "", algorithm="none", headers={"kid": "one"})


def _by_shared_key(tenant: Tenant) -> str:
    claims = jwt.decode(tenant.token(), options={"verify_signature": False})
    return jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": "one"})


def _by_curve(tenant: Tenant) -> str:
    claims = jwt.decode(tenant.token(), options={"verify_signature": False})
    return jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": "one"})


@pytest.mark.parametrize("make", [_unsigned, _by_shared_key, _by_curve, lambda _: "a.b.c", lambda _: "", lambda _: "é"])
async def test_no_other_way_to_sign_counts(tenant: Tenant, make: Any) -> None:  # noqa: ANN401 - a function of the tenant
    """Only RSA by the tenant's keys; what is no token is a wrong one."""
    assert not await tenant.checker().admits(f"Bearer {make(tenant)}")
    assert not await tenant.checker().admits(f"Basic {tenant.token()}")
    assert await tenant.checker().admits(f"bearer {tenant.token()}")


async def test_a_new_key_is_read_when_it_is_first_seen(tenant: Tenant) -> None:
    """At most once a minute, so that made-up key names cannot make us ask and ask."""
    checker = tenant.checker()
    assert await checker.admits(f"Bearer {tenant.token()}")
    checker._asked_at -= 61
    tenant.names.append("two")
    assert await checker.admits(f"Bearer {tenant.token(signed_by='two')}")
    for number in range(5):
        assert not await checker.admits(f"Bearer {tenant.token(name=f'made-up {number}')}")
    assert tenant.asked == 2


async def test_a_withdrawn_key_stops_counting(tenant: Tenant) -> None:
    """Keys are read again after some hours."""
    checker = tenant.checker()
    assert await checker.admits(f"Bearer {tenant.token()}")
    tenant.names[:] = ["two"]
    checker._read_at -= 7 * 3600
    checker._asked_at -= 7 * 3600
    assert not await checker.admits(f"Bearer {tenant.token()}")


async def test_old_keys_count_for_a_while_when_they_cannot_be_read_again(tenant: Tenant) -> None:
    """An outage of the metadata does not stop deliveries within a day; after that the keys no longer prove anything."""
    checker = tenant.checker()
    assert await checker.admits(f"Bearer {tenant.token()}")
    tenant.status = 500
    checker._read_at -= 7 * 3600
    checker._asked_at -= 7 * 3600
    assert await checker.admits(f"Bearer {tenant.token()}")
    checker._read_at -= 18 * 3600
    for _ in range(2):
        with pytest.raises(RetryLater):
            await checker.admits(f"Bearer {tenant.token()}")


@pytest.mark.parametrize("fault", ["status", "garbage", "gone"])
async def test_keys_that_cannot_be_read_are_503(tenant: Tenant, fault: str) -> None:
    """Not known is not refused: Event Grid never repeats what it got a 401 for."""
    sink = Sink()
    checker = tenant.checker()
    if fault == "gone":
        checker.authority = "http://127.0.0.1:1"
    tenant.status, tenant.garbage = (500 if fault == "status" else 200), fault == "garbage"
    async with _webhook(Target(SCOPE, sink, None, _no_gap, checker)) as (source, url, session):
        assert (await _post(session, url, tenant.token()))[0] == 503
        assert "webhook_entra_tenant" in str(source.health()["last_error"])
        asked = tenant.asked
        assert (await _post(session, url, tenant.token()))[0] == 503
        assert tenant.asked == asked
        checker._asked_at -= 6
        checker.authority, tenant.status, tenant.garbage = tenant.url, 200, False
        assert (await _post(session, url, tenant.token()))[0] == 200
    assert sink.keys == ["a.txt"]


async def test_with_a_secret_too_both_are_asked_for(tenant: Tenant) -> None:
    """A token alone or a secret alone is not enough."""
    sink = Sink()
    async with _webhook(Target(SCOPE, sink, "made-up", _no_gap, tenant.checker())) as (_, url, session):
        assert (await _post(session, url, tenant.token()))[0] == 401
        assert (await _post(session, url, None, **{"x-fedplane-key": "made-up"}))[0] == 401
        assert (await _post(session, url, tenant.token(), **{"x-fedplane-key": "made-up"}))[0] == 200


async def test_the_cloud_events_handshake_needs_no_token(tenant: Tenant) -> None:
    """It brings none, and what it allows is only to try."""
    async with (
        _webhook(Target(SCOPE, Sink(), None, _no_gap, tenant.checker())) as (_, url, session),
        session.options(url, headers={"WebHook-Request-Origin": "eventgrid.azure.net"}) as answer,
    ):
        assert (answer.status, answer.headers["WebHook-Allowed-Origin"]) == (200, "eventgrid.azure.net")


# ---------------------------------------------------------------------------------------------------------- back-pressure


async def test_only_so_many_deliveries_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """While marks are slow the rest is sent away unread, to come again; nothing is lost by that."""
    monkeypatch.setattr(event_grid_http, "AT_ONCE", 3)
    sink = Sink()
    sink.gate.clear()
    async with _webhook(Target(SCOPE, sink, None, _no_gap)) as (source, url, session):
        held = [asyncio.create_task(_post(session, url, None)) for _ in range(3)]
        await eventually(lambda: source.health().get("received") == 3, "three are held")
        async with session.post(url, data=json.dumps(EVENT)) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        assert (source.health()["refused_busy"], source.health()["received"]) == (1, 3)
        sink.gate.set()
        assert [status for status, _ in await asyncio.gather(*held)] == [200] * 3
        assert (await _post(session, url, None))[0] == 200


async def test_a_mark_that_takes_too_long_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Event Grid stops waiting, and the place is free again."""
    monkeypatch.setattr(event_grid_http, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(event_grid_http, "AT_ONCE", 1)
    sink = Sink()
    sink.gate.clear()
    async with _webhook(Target(SCOPE, sink, None, _no_gap)) as (source, url, session):
        for _ in range(2):
            assert (await _post(session, url, None))[0] == 503
        assert "no mark within" in str(source.health()["last_error"])
        assert source.health().get("refused_busy") is None


@pytest.mark.servers
async def test_redis_gone_is_503_for_everybody(own_redis: EmbeddedRedis) -> None:
    """With a real Redis stopped every delivery is answered in time; started again all are taken."""
    async with state_in(own_redis) as state, _webhook(Target(SCOPE, state, None, _no_gap)) as (source, url, session):
        assert (await _post(session, url, None))[0] == 200
        await own_redis.stop()
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(_post(session, url, None) for _ in range(40)))
        assert {status for status, _ in answers} == {503}
        assert source.health()["connected"] == 0
        await own_redis.start()
        assert (await _post(session, url, None))[0] == 200


# -------------------------------------------------------------------------------------------------------------- handshakes

VALIDATION = {"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "512d38b6"}}


@pytest.mark.parametrize(
    ("kind", "answered"),
    [("SubscriptionValidation", True), (None, True), ("Notification", False), ("SubscriptionDeletion", False)],
)
async def test_the_validation_code_is_given_to_a_handshake_only(kind: str | None, answered: bool) -> None:
    """``aeg-event-type`` says what a request is; events beside the handshake are marked all the same."""
    sink = Sink()
    async with _webhook(Target(SCOPE, sink, None, _no_gap)) as (_, url, session):
        headers = {} if kind is None else {"aeg-event-type": kind}
        async with session.post(url, data=json.dumps([VALIDATION, EVENT]), headers=headers) as answer:
            body = await answer.json()
            assert answer.status == 200
    assert body == ({"validationResponse": "512d38b6"} if answered else {"marked": 1, "refused": 0})
    assert sink.keys == ["a.txt"]


async def test_binary_mode_is_taken() -> None:
    """CloudEvents with their attributes in headers."""
    sink = Sink()
    headers = {
        "ce-specversion": "1.0",
        "ce-type": "Microsoft.Storage.BlobDeleted",
        "ce-source": "/s",
        "ce-id": "1",
        "ce-subject": "/blobServices/default/containers/datasets/blobs/%C3%BC.txt",
        "Content-Type": "application/json",
    }
    async with (
        _webhook(Target(SCOPE, sink, None, _no_gap)) as (_, url, session),
        session.post(url, data=b'{"api": "DeleteBlob"}', headers=headers) as answer,
    ):
        assert answer.status == 200
    assert [(change.key, change.deleted) for change in sink.calls[0]] == [("ü.txt", True)]


async def _no_gap(prefix: str = "") -> None:
    raise AssertionError(prefix)
