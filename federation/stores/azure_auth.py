"""Ways to authorise a request to Azure Storage: a SAS made from the account key, a SAS given, or a bearer token."""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs, urlsplit

from federation.errors import FederationError, Halt, RetryLater, UsageError
from federation.model import SECOND_US, Side
from federation.telemetry import logger

if TYPE_CHECKING:
    from azure.storage.blob import UserDelegationKey

SCOPE = "https://storage.azure.com/.default"
_SAS_LIFE = timedelta(hours=4)
_RENEW_AT = 0.8
"""Share of its life after which a SAS that we make is made anew."""
_SAS_BACKDATED = timedelta(minutes=5)
"""So that a clock behind ours takes it."""
_TOKEN_EARLY_US = 300 * SECOND_US
_LAST_US = 60 * SECOND_US
"""So long before its end nothing is sent with it any more: what the service finds expired stops the pair."""
_AGAIN_US = 30 * SECOND_US
"""Between attempts to renew what still serves."""
_log = logger("fedplane.stores")
_EMULATOR_ACCOUNT = "devstoreaccount1"
_EMULATOR_URL = f"http://127.0.0.1:10000/{_EMULATOR_ACCOUNT}"
# The emulator's published key, the same for everybody: no secret.
_EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class AzureAuth(Protocol):
    """Authorises requests. Raises Halt (credentials_refused) or RetryLater when it cannot."""

    async def query(self) -> str:
        """What to append to the query, without a leading ampersand; may be empty."""
        ...

    async def headers(self) -> dict[str, str]:
        """Headers to add."""
        ...


def account_name(url: str) -> str:
    """The account's name in its URL: the host's first label, or the first path segment where the host is an address."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    return path.partition("/")[0] or (parts.hostname or "").partition(".")[0]


class SasAuth:
    """A SAS: given, or made from the account key and renewed at 80 % of its life."""

    def __init__(self, now_us: Callable[[], int], *, account: str = "", key: str = "", sas: str = "") -> None:
        self._now_us = now_us
        self._account = account
        self._key = key
        self._sas = sas.strip().removeprefix("?")
        self._expires_us = _expiry_us(self._sas)
        self._renew_at_us = 0

    async def query(self) -> str:
        """As in the protocol."""
        now_us = self._now_us()
        if self._key and now_us >= self._renew_at_us:
            self._sas = self._make()
        elif not self._key and self._expires_us is not None and now_us >= self._expires_us:
            at = datetime.fromtimestamp(self._expires_us / SECOND_US, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            text = f"the SAS that was given expired at {at}. Put a new one in its variable and restart."
            raise Halt(text, reason="credentials_refused", side=Side.BLOB)
        return self._sas

    async def headers(self) -> dict[str, str]:
        """None: the query says it all."""
        return {}

    def _make(self) -> str:
        from azure.storage.blob import (  # noqa: PLC0415 - a heavy import that bearer tokens do not need
            AccountSasPermissions,
            ResourceTypes,
            generate_account_sas,
        )

        now_us = self._now_us()
        self._renew_at_us = _renewal_us(now_us)
        try:
            return generate_account_sas(
                self._account,
                self._key,
                ResourceTypes(container=True, object=True),
                AccountSasPermissions(
                    read=True, write=True, delete=True, delete_previous_version=True, list=True, create=True, tag=True
                ),
                datetime.fromtimestamp(now_us / SECOND_US, UTC) + _SAS_LIFE,
            )
        except ValueError:
            raise Halt("the account key is not valid base64", reason="credentials_refused", side=Side.BLOB) from None


def _renewal_us(now_us: int) -> int:
    return now_us + int(_SAS_LIFE.total_seconds() * _RENEW_AT) * SECOND_US


def _expiry_us(sas: str) -> int | None:
    """When a SAS ends; None where it does not say (a stored access policy says it) or says it in a way we do not know."""
    [told] = parse_qs(sas).get("se", [""])[:1]
    try:
        at = datetime.fromisoformat(told)
    except ValueError:
        return None
    return int(at.replace(tzinfo=at.tzinfo or UTC).timestamp()) * SECOND_US


DelegationKey = Callable[[datetime, datetime], Awaitable["UserDelegationKey"]]
"""Asks the service for a key of our identity, valid from and until."""


class _Renewed(ABC):
    """Something of our identity's that ends, and is made anew before: the old one serves until then when that fails."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._renew_at_us = 0
        self._ends_us = 0
        self._lock = asyncio.Lock()

    @abstractmethod
    async def _renew(self) -> None:
        """Make it anew, and say when it ends and is to be renewed. Raises Halt (credentials_refused) or RetryLater."""

    async def _keep(self) -> None:
        """Renew it if it is time. Raises as ``_renew``, once there is nothing left that serves."""
        if self._now_us() < self._renew_at_us or (self._lock.locked() and self._serves()):
            return
        async with self._lock:
            if self._now_us() < self._renew_at_us:
                return
            try:
                await self._renew()
            except FederationError as error:
                if not self._serves():
                    raise
                self._renew_at_us = self._now_us() + _AGAIN_US
                left_seconds = (self._ends_us - self._now_us()) // SECOND_US
                _log.warning("not renewed; the old one serves until it ends", error=str(error), left_seconds=left_seconds)

    def _serves(self) -> bool:
        return self._now_us() < self._ends_us - _LAST_US


class DelegationAuth(_Renewed):
    """A user delegation SAS of one container, made with a key of our own identity and renewed at 80 % of its life."""

    def __init__(self, account: str, container: str, key: DelegationKey, now_us: Callable[[], int]) -> None:
        super().__init__(now_us)
        self._account = account
        self._container = container
        self._key = key
        self._sas = ""

    async def query(self) -> str:
        """As in the protocol."""
        await self._keep()
        return self._sas

    async def headers(self) -> dict[str, str]:
        """None: the query says it all."""
        return {}

    async def _renew(self) -> None:
        from azure.core.exceptions import AzureError  # noqa: PLC0415 - a heavy import that other ways do not need
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas  # noqa: PLC0415

        now_us = self._now_us()
        now = datetime.fromtimestamp(now_us / SECOND_US, UTC)
        start, end = now - _SAS_BACKDATED, now + _SAS_LIFE
        try:
            key = await self._key(start, end)
        except (AzureError, OSError) as error:
            raise token_fault(error) from None
        allowed = ContainerSasPermissions(
            read=True, write=True, delete=True, delete_previous_version=True, list=True, create=True, tag=True
        )
        self._sas = generate_container_sas(
            self._account, self._container, user_delegation_key=key, permission=allowed, start=start, expiry=end
        )
        self._renew_at_us = _renewal_us(now_us)
        self._ends_us = int(end.timestamp() * SECOND_US)


def delegation_key(account_url: str, credential: Any) -> DelegationKey:  # noqa: ANN401 - of azure-identity, async
    """Keys from the service itself, for which the identity needs the role Storage Blob Delegator."""

    async def ask(start: datetime, end: datetime) -> UserDelegationKey:
        from azure.storage.blob.aio import BlobServiceClient  # noqa: PLC0415 - as above

        async with BlobServiceClient(account_url, credential=credential, retry_total=0) as service:
            return await service.get_user_delegation_key(key_start_time=start, key_expiry_time=end)

    return ask


class TokenAuth(_Renewed):
    """Bearer tokens of an azure-identity credential, of its async or its blocking kind. The caller closes the credential."""

    def __init__(self, credential: Any, now_us: Callable[[], int]) -> None:  # noqa: ANN401 - two unrelated SDK protocols
        super().__init__(now_us)
        self._credential = credential
        self._token = ""

    async def query(self) -> str:
        """Nothing."""
        return ""

    async def headers(self) -> dict[str, str]:
        """As in the protocol."""
        await self._keep()
        return {"Authorization": f"Bearer {self._token}"}

    async def _renew(self) -> None:
        from azure.core.exceptions import AzureError  # noqa: PLC0415 - a heavy import that a SAS does not need

        get_token = self._credential.get_token
        try:
            if inspect.iscoroutinefunction(get_token):
                token = await get_token(SCOPE)
            else:
                token = await asyncio.to_thread(get_token, SCOPE)
        except (AzureError, OSError) as error:
            raise token_fault(error) from None
        self._token = token.token
        self._ends_us = int(token.expires_on) * SECOND_US
        self._renew_at_us = self._ends_us - _TOKEN_EARLY_US


def authorisation(
    account_url: str,
    container: str,
    *,
    sas: str | None,
    credential: object | None,
    delegate: bool,
    now_us: Callable[[], int],
) -> AzureAuth:
    """A SAS that was given, else SAS made with *credential* (*delegate*), else its tokens.

    Raises UsageError without any, and for tokens that would go over plain HTTP, where whoever listens could use them.
    """
    if sas is not None:
        return SasAuth(now_us, sas=sas)
    if credential is None:
        raise UsageError("The Azure side needs a connection string, a SAS or a credential.", reason="no_credential")
    if account_url.lower().startswith("http:"):
        text = "pair.blob.account_url begins with http://; what an identity signs in with goes over https:// only. Correct it."
        raise UsageError(text, reason="plain_http")
    if delegate:
        return DelegationAuth(account_name(account_url), container, delegation_key(account_url, credential), now_us)
    return TokenAuth(credential, now_us)


def token_fault(error: BaseException) -> FederationError:
    """What a credential's failure means: refused is a halt, anything else may pass. The text never holds the library's own."""
    from azure.core.exceptions import ClientAuthenticationError  # noqa: PLC0415

    if isinstance(error, ClientAuthenticationError) and not _passes(error):
        text = "no token for Azure Storage: the credential was refused. Check the service's identity."
        return Halt(text, reason="credentials_refused", side=Side.BLOB)
    return RetryLater(f"no token for Azure Storage: {type(error).__name__}", reason="unreachable", side=Side.BLOB)


def _passes(error: BaseException | None) -> bool:
    """Whether azure-identity says "refused" of what was not answered, or throttled: its cause tells, or the status that it bears.

    A chain that never gave a token (``DefaultAzureCredential`` at the start) tells neither.
    """
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError  # noqa: PLC0415

    if error is None or isinstance(error, ServiceRequestError | ServiceResponseError):
        return error is not None
    status = getattr(error, "status_code", None) if isinstance(error, HttpResponseError) else None
    busy = status is not None and (status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR)
    return busy or _passes(error.__cause__ or error.__context__)


def from_connection_string(text: str, now_us: Callable[[], int]) -> tuple[SasAuth, str]:
    """The authorisation and the blob endpoint in a connection string.

    Raises:
        UsageError: it names no account key and no SAS; the text never holds its value.
    """
    fields = dict(part.strip().split("=", 1) for part in text.split(";") if "=" in part)
    if fields.get("UseDevelopmentStorage", "").lower() == "true":
        return SasAuth(now_us, account=_EMULATOR_ACCOUNT, key=_EMULATOR_KEY), _EMULATOR_URL
    account, key, sas = fields.get("AccountName", ""), fields.get("AccountKey", ""), fields.get("SharedAccessSignature", "")
    endpoint = fields.get("BlobEndpoint", "")
    if not endpoint and account:
        scheme = fields.get("DefaultEndpointsProtocol", "https")
        endpoint = f"{scheme}://{account}.blob.{fields.get('EndpointSuffix', 'core.windows.net')}"
    if not (sas or (account and key)):
        raise UsageError(
            "The Azure connection string has neither AccountName and AccountKey nor SharedAccessSignature. Copy it whole from the"
            " storage account's page 'Access keys'.",
            reason="bad_connection_string",
        )
    return SasAuth(now_us, account=account, key="" if sas else key, sas=sas), endpoint
