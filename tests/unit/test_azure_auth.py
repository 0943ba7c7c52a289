"""How requests to Azure are authorised, and renewed before it ends; secrets stay out of errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.identity.aio import ManagedIdentityCredential
from azure.storage.blob import UserDelegationKey

from federation.errors import FederationError, Halt, RetryLater, UsageError
from federation.settings import BlobSettings
from federation.stores.azure_auth import AzureAuth, DelegationAuth, SasAuth, TokenAuth, account_name
from federation.stores.azure_blob import AzureBlobStore

HOUR_US = 3_600_000_000
START_US = 1_700_000_000_000_000
KEY = "a2V5a2V5a2V5a2V5"


class Hand:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.us = START_US

    def now_us(self) -> int:
        """Wall clock."""
        return self.us


class Service:
    """Hands out keys of our identity, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[datetime, datetime]] = []
        self.error = error

    async def key(self, start: datetime, end: datetime) -> UserDelegationKey:
        """A key for that time."""
        self.asked.append((start, end))
        if self.error is not None:
            raise self.error
        found = UserDelegationKey()  # type: ignore[no-untyped-call]
        found.signed_oid = found.signed_tid = "00000000-0000-0000-0000-000000000000"
        found.signed_start, found.signed_expiry = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (start, end))
        found.signed_service, found.signed_version, found.value = "b", "2025-11-05", KEY
        return found


class Identity(Service):
    """Hands out tokens of one hour, or raises."""

    def __init__(self, clock: Hand) -> None:
        super().__init__()
        self._clock = clock

    async def get_token(self, *_: str) -> AccessToken:
        """The next one."""
        self.asked.append((datetime.now(UTC), datetime.now(UTC)))
        if self.error is not None:
            raise self.error
        return AccessToken(f"token {len(self.asked)}", self._clock.us // 1_000_000 + 3600)


def expiry(query: str) -> datetime:
    """When a SAS ends."""
    return datetime.fromisoformat(parse_qs(query)["se"][0])


@pytest.mark.parametrize("kind", ["account key", "user delegation"])
async def test_a_sas_of_ours_is_renewed_at_80_percent_of_its_life(kind: str) -> None:
    """Not before, and then once; the new one ends later."""
    clock, service = Hand(), Service()
    auth: SasAuth | DelegationAuth = SasAuth(clock.now_us, account="acct", key=KEY)
    if kind == "user delegation":
        auth = DelegationAuth("acct", "data", service.key, clock.now_us)
    first = await auth.query()
    life = expiry(first) - datetime.fromtimestamp(START_US / 1_000_000, UTC)
    assert await auth.headers() == {}
    clock.us += int(life / timedelta(microseconds=1) * 0.79)
    assert await auth.query() == first
    clock.us += int(life / timedelta(microseconds=1) * 0.02)
    second = await auth.query()
    assert expiry(second) > expiry(first)
    assert await auth.query() == second
    assert KEY not in second


async def test_a_delegation_sas_is_of_the_container_and_all_we_need() -> None:
    """Container scope, the rights to read, write, list, delete old versions and tag, a start that a slow clock takes."""
    clock, service = Hand(), Service()
    told = parse_qs(await DelegationAuth("acct", "data", service.key, clock.now_us).query())
    assert told["sr"] == ["c"]
    assert set("rcwdxlt") <= set(told["sp"][0])
    assert "skoid" in told
    [(start, end)] = service.asked
    assert start < datetime.fromtimestamp(START_US / 1_000_000, UTC) < end


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(ClientAuthenticationError("sig=abc"), Halt), (ServiceRequestError("host"), RetryLater)],
    ids=["no", "away"],
)
async def test_a_refused_delegation_is_a_halt_and_an_outage_is_not(fault: Exception, kind: type[FederationError]) -> None:
    """By the same table as tokens, without the library's words."""
    with pytest.raises(kind) as error:
        await DelegationAuth("acct", "data", Service(fault).key, Hand().now_us).query()
    assert "abc" not in str(error.value)


@pytest.mark.parametrize(("status", "kind"), [(None, RetryLater), (429, RetryLater), (503, RetryLater), (400, Halt), (401, Halt)])
@pytest.mark.parametrize("body", ['{"error": "told"}', "<html>"])
async def test_an_identity_endpoint_that_is_away_or_busy_refuses_nobody(
    monkeypatch: pytest.MonkeyPatch, status: int | None, kind: type[FederationError], body: str
) -> None:
    """azure-identity calls all of that "authentication failed" or "unavailable"; a pair would halt until it is asked again."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status or 500, text=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", str(server.make_url("")))
        if status is None:
            await server.close()
        async with ManagedIdentityCredential(retry_total=0) as credential:
            with pytest.raises(kind) as error:
                await TokenAuth(credential, Hand().now_us).headers()
    assert error.value.reason == ("unreachable" if kind is RetryLater else "credentials_refused")


async def sent(auth: AzureAuth) -> tuple[str, dict[str, str]]:
    """All that authorises a request."""
    return await auth.query(), await auth.headers()


@pytest.mark.parametrize("fault", [ClientAuthenticationError("no"), ServiceRequestError("host")], ids=["refused", "away"])
@pytest.mark.parametrize(("kind", "soon_us", "late_us"), [("sas", 3.25, 3.99), ("token", 56 / 60, 59.5 / 60)])
async def test_what_cannot_be_renewed_serves_until_it_ends(fault: Exception, kind: str, soon_us: float, late_us: float) -> None:
    """A renewal that fails early stops nothing, is tried again, not with every request, and is told once the old one is over."""
    clock = Hand()
    service = Identity(clock)
    auth: DelegationAuth | TokenAuth = TokenAuth(service, clock.now_us)
    if kind == "sas":
        auth = DelegationAuth("acct", "data", service.key, clock.now_us)
    first = await sent(auth)
    service.error = fault
    clock.us = START_US + int(soon_us * HOUR_US)
    assert [await sent(auth) for _ in range(3)] == [first] * 3
    assert len(service.asked) == 2
    clock.us = START_US + int(late_us * HOUR_US)
    with pytest.raises(FederationError) as raised:
        await sent(auth)
    assert isinstance(raised.value, Halt if isinstance(fault, ClientAuthenticationError) else RetryLater)
    service.error = None
    assert await sent(auth) != first


async def test_a_given_sas_is_sent_as_it_is_until_it_ends() -> None:
    """With or without its question mark; past its end a halt says so, and does not hold it."""
    clock = Hand()
    end = datetime.fromtimestamp(START_US / 1_000_000, UTC) + timedelta(hours=1)
    sas = f"?sv=2025-11-05&se={end:%Y-%m-%dT%H%%3A%M%%3A%SZ}&sig=hunter2"
    auth = SasAuth(clock.now_us, sas=sas)
    assert await auth.query() == sas[1:]
    clock.us += HOUR_US
    with pytest.raises(Halt, match="expired at") as error:
        await auth.query()
    assert error.value.reason == "credentials_refused"
    assert "hunter2" not in str(error.value)
    assert await SasAuth(clock.now_us, sas="si=policy&sig=x").query() == "si=policy&sig=x"


def test_one_way_to_authorise() -> None:
    """Two of them are a mistake that names both; none is a clear error of the store."""
    with pytest.raises(ValueError, match="connection_string_env and sas_env"):
        BlobSettings(account_url="https://a.example", container="c", connection_string_env="A", sas_env="B")
    with pytest.raises(UsageError, match="a SAS or a credential"):
        AzureBlobStore(account_url="https://a.example", container="c")


@pytest.mark.parametrize("delegate", [True, False])
def test_an_identity_signs_in_over_tls_only(delegate: bool) -> None:
    """Azure refuses plain HTTP by default, but after the token has gone over the wire."""
    with pytest.raises(UsageError, match="https://"):
        AzureBlobStore(account_url="HTTP://a.example", container="c", credential=object(), delegate=delegate)


@pytest.mark.parametrize("url", ["https://acct.blob.core.windows.net", "http://127.0.0.1:10000/acct", "http://[::1]:1/acct/"])
def test_account_of_a_url(url: str) -> None:
    """First label of the host, or the path's first part."""
    assert account_name(url) == "acct"
