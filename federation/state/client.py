"""The client for a Redis of the settings: one server or a cluster, by password or by Entra ID, plain or with TLS."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.auth.token import TokenInterface
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider, StreamingCredentialProvider
from redis.exceptions import NoPermissionError, RedisClusterException

from federation.errors import UsageError
from federation.settings import RedisSettings, secret
from federation.state.calls import AT_ONCE, Client, connect_anew
from federation.state.faults import redis_faults

_ANSWER_SECONDS = 5.0
_TOKEN_SECONDS = 10.0
"""redis-entraid grants a token request 0.1 s; the first one of a managed identity takes seconds (facts/azure.md 7)."""
_TOKEN_SCOPE = "https://redis.azure.com/.default"  # noqa: S105 - a scope's name


def options() -> dict[str, Any]:
    """What every client is made with."""
    return {
        "socket_timeout": _ANSWER_SECONDS,
        "socket_connect_timeout": _ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 0),  # a claim repeated unseen would lose what the first one handed out
        "health_check_interval": 30,
    }


def single(url: str, **more: Any) -> Redis:  # noqa: ANN401 - redis-py's own options
    """A client of one server; who finds no free connection waits for one."""
    pool = BlockingConnectionPool.from_url(url, max_connections=AT_ONCE, timeout=_ANSWER_SECONDS, **options(), **more)
    pool.connection_class = _packing(pool.connection_class)
    provider = more.get("credential_provider")
    client = Redis.from_pool(pool)
    if isinstance(provider, StreamingCredentialProvider):
        renew: Any = partial(_renew, pool)  # redis-py awaits it, its annotation says otherwise
        provider.on_next(renew)
    return client


async def _renew(pool: BlockingConnectionPool, _: TokenInterface) -> None:
    """Log in with the new token. redis-py's own way sends AUTH over connections that another task may take meanwhile."""
    await connect_anew(pool)


class _Tokens(CredentialProvider):
    """The same tokens, of which redis-py does not see that they are renewed.

    A cluster's client takes each free connection out of its pool to send AUTH over it: one that fails ends the renewal, and all
    that follow, and those taken out never come back.
    """

    def __init__(self, provider: StreamingCredentialProvider) -> None:
        self._provider = provider

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """For a connection that is made."""
        return await self._provider.get_credentials_async()


def _cluster(url: str, access: dict[str, Any]) -> RedisCluster:
    provider = access.get("credential_provider")
    hidden = {"credential_provider": _Tokens(provider)} if provider else {}
    client: RedisCluster = RedisCluster.from_url(url, max_connections=AT_ONCE, **options(), **access | hidden)
    if provider:
        renew: Any = partial(_renew_nodes, client)
        provider.on_next(renew)
    return client


async def _renew_nodes(client: RedisCluster, _: TokenInterface) -> None:
    """Have every connection made anew, with the new token, before it is used again. Awaits nothing, so nothing can fail."""
    nodes = client.nodes_manager
    for node in (*nodes.nodes_cache.values(), *nodes.startup_nodes.values()):
        for connection in node._connections:  # noqa: SLF001
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py


def _packing(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """The kind of connection that packs commands in C, too: redis-py's asyncio connections only parse replies so."""

    def pack(_: AbstractConnection, name: str, *args: Any) -> list[bytes]:  # noqa: ANN401 - whatever Redis takes
        return [pack_command((*name.encode().split(), *args))]  # "CLIENT SETINFO" is two words

    return type(f"Packing{kind.__name__}", (kind,), {"pack_command": pack})


async def remote(settings: RedisSettings) -> Client:
    """The client for ``redis.url``; where ``redis.cluster`` is not set the server is asked what it is.

    Raises:
        UsageError: the URL is of no known kind, a named variable is not set, or the server refuses us.
        RetryLater: it had to be asked and does not answer.
    """
    access = _access(settings)
    try:
        clustered = settings.cluster
        if clustered is None:
            clustered = not settings.url.startswith("unix:") and await _is_cluster(settings.url, access)
        if clustered:
            return _cluster(settings.url, access)
        return single(settings.url, **access)
    except (ValueError, RedisClusterException):
        raise UsageError(
            'redis.url must be "embedded" or begin with redis://, rediss:// or unix:// (a cluster: redis:// or rediss://, '
            "without a database number).",
            reason="bad_settings",
        ) from None


async def _is_cluster(url: str, access: dict[str, Any]) -> bool:
    client = single(url, **access)
    try:
        with redis_faults():
            told: dict[str, Any] = await client.info("cluster")
    except UsageError as error:
        if isinstance(error.__cause__, NoPermissionError):
            raise UsageError(
                "The Redis user may not ask INFO, which tells a cluster from one server. Grant +info, or set redis.cluster.",
                reason="redis_credentials",
            ) from None
        raise
    finally:
        await client.aclose()
    return bool(told.get("cluster_enabled"))


def _access(settings: RedisSettings) -> dict[str, Any]:
    """Who we are and whom we trust. Raises UsageError."""
    access: dict[str, Any] = {}
    if settings.ca_file:
        access["ssl_ca_certs"] = _authority(settings)
    if settings.auth == "entra":
        if not settings.url.startswith("rediss://"):
            raise UsageError('redis.auth = "entra" sends a token: redis.url must begin with rediss://.', reason="bad_settings")
        return access | {"credential_provider": entra_provider()}
    if settings.username_env:
        access["username"] = secret(settings.username_env, "redis.username_env")
    if settings.password_env:
        access["password"] = secret(settings.password_env, "redis.password_env")
    return access


def _authority(settings: RedisSettings) -> str:
    """The file of ``redis.ca_file``, read once here: redis-py reads it at each connection, and calls a wrong one an outage."""
    if not settings.url.startswith("rediss://"):
        raise UsageError("redis.ca_file is for TLS: begin redis.url with rediss://, or leave it out.", reason="bad_settings")
    try:
        ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # includes SSLError
        raise UsageError(
            f"redis.ca_file names {settings.ca_file!r}, which cannot be read as a file of certificates (PEM): "
            f"{error.strerror or error}.",
            reason="bad_settings",
        ) from None
    return settings.ca_file


def entra_provider() -> StreamingCredentialProvider:
    """Tokens of DefaultAzureCredential, renewed at 70 % of their life; connections are made anew with it."""
    from redis.auth.token_manager import RetryPolicy, TokenManagerConfig  # noqa: PLC0415 - only where it is asked for
    from redis_entraid.cred_provider import create_from_default_azure_credential  # noqa: PLC0415

    config = TokenManagerConfig(0.7, 60_000, int(_TOKEN_SECONDS * 1_000), RetryPolicy(3, 500))
    provider: StreamingCredentialProvider = create_from_default_azure_credential((_TOKEN_SCOPE,), token_manager_config=config)
    return provider
