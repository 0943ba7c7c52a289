"""Entra ID: the token is the password, and a renewed one reaches connections that are open. Only Azure's own part is made up."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import RedisCluster
from redis.auth.idp import IdentityProviderInterface
from redis.auth.token import SimpleToken
from redis.auth.token_manager import RetryPolicy, TokenManagerConfig
from redis_entraid.cred_provider import EntraIdCredentialsProvider

from federation.errors import UsageError
from federation.settings import RedisSettings
from federation.state import client as clients
from federation.state.calls import AT_ONCE
from federation.state.redis_state import RedisState
from tests.contract import redis_servers
from tests.contract.redis_servers import Server
from tests.contract.state_support import TestClock, event
from tests.contract.test_state_troubles import certificate


class Azure(IdentityProviderInterface):
    """Hands out tokens of a short life, each another."""

    def __init__(self, life_ms: int) -> None:
        self.life_ms = life_ms
        self.given = 0
        self.renewals = 0

    def request_token(self, force_refresh: bool = False) -> SimpleToken:
        """The next one."""
        self.renewals += force_refresh  # else it is for a connection
        self.given += 1
        now = time.time() * 1_000
        return SimpleToken(f"token{self.given}", now + self.life_ms, now, {"oid": "identity"})


async def test_a_token_that_was_renewed_is_used_on_open_connections(
    tmp_path: Path, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is the token's oid; past the first token's life the state still works, with what the later ones allow."""
    cert, key = certificate(tmp_path)
    azure = Azure(life_ms=30_000)
    config = TokenManagerConfig(0.03, 0, 5_000, RetryPolicy(3, 10))
    monkeypatch.setattr(clients, "entra_provider", lambda: EntraIdCredentialsProvider(azure, config))
    async with redis_servers.running(tmp_path / "redis") as server, server.client() as admin:
        tokens = [f">token{number}" for number in range(1, 200)]
        await admin.execute_command("ACL", "SETUSER", "identity", "on", *tokens, "~fed:*", "+@all")
        await admin.execute_command("CONFIG", "SET", "requirepass", "nobody knows")
        async with redis_servers.tls_in_front(server, cert, key) as port:
            settings = RedisSettings(url=f"rediss://127.0.0.1:{port}", auth="entra", ca_file=str(cert))
            client = await clients.remote(settings)
            state = RedisState(client, "pair", shards=2, clock=clock)
            await state.open()
            first = azure.given

            async def renewed() -> bool:
                return azure.given > first + 1

            await redis_servers.until(renewed)
            assert (await state.mark([event("k")])).marked == 1
            users = [line for line in await admin.client_list() if line["user"] == "identity"]
            assert users
            await state.close()


@asynccontextmanager
async def tls_cluster(folder: Path) -> AsyncIterator[tuple[list[Server], RedisSettings]]:
    """Three masters that tell clients of a port with TLS each, and the user whom tokens are of."""
    cert, key = certificate(folder)
    async with redis_servers.cluster(folder / "cluster") as servers, AsyncExitStack() as stack:
        ports = []
        for server in servers:
            ports.append(await stack.enter_async_context(redis_servers.tls_in_front(server, cert, key)))
            server.kill()  # Redis 6.2 reads this option when it starts
            server.options["cluster-announce-port"] = str(ports[-1])
            server.start()
            await server.ready()
            tokens = [f">token{number}" for number in range(1, 1_000)]
            await redis_servers._ask(server, "ACL", "SETUSER", "identity", "on", *tokens, "~fed:*", "+@all")

        async def told() -> bool:
            slots = [await redis_servers._ask(server, "CLUSTER", "SLOTS") for server in servers]
            return await redis_servers.all_whole(servers) and all({part[2][1] for part in one} == set(ports) for one in slots)

        await redis_servers.until(told)
        yield servers, RedisSettings(url=f"rediss://127.0.0.1:{ports[0]}", auth="entra", ca_file=str(cert))


async def connections(servers: list[Server]) -> set[tuple[int, str]]:
    """Those of our user now."""
    found = set()
    for server in servers:
        async with server.client() as admin:
            found |= {(server.port, line["id"]) for line in await admin.client_list() if line["user"] == "identity"}
    return found


async def test_on_a_cluster_a_connection_that_broke_keeps_no_renewal_from_the_others(
    tmp_path: Path, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewals go on, commands too, over connections that logged in with a new token."""
    azure = Azure(life_ms=30_000)
    config = TokenManagerConfig(0.03, 0, 5_000, RetryPolicy(3, 10))
    monkeypatch.setattr(clients, "entra_provider", lambda: EntraIdCredentialsProvider(azure, config))
    async with tls_cluster(tmp_path) as (servers, settings):
        client = await clients.remote(settings)
        assert isinstance(client, RedisCluster)
        state = RedisState(client, "pair", shards=16, clock=clock)
        await state.open()
        keys = [f"k{number}" for number in range(60)]
        await state.mark([event(key) for key in keys])
        before = await connections(servers)
        assert {port for port, _ in before} == {server.port for server in servers}
        await redis_servers._ask(servers[1], "CLIENT", "KILL", "USER", "identity")
        seen = azure.renewals

        async def renewed() -> bool:
            return azure.renewals > seen + 2

        await redis_servers.until(renewed)
        for number in range(AT_ONCE):
            assert (await state.mark([event(key, etag=f"0x8DD{number}") for key in keys])).marked == len(keys)
        after = await connections(servers)
        assert {port for port, _ in after} == {server.port for server in servers}
        assert {port for port, _ in before & after} <= {servers[0].port}  # one that only asked for the slots is not used again
        await state.close()


async def test_a_token_is_never_sent_in_the_clear() -> None:
    """Without TLS the settings are refused before anything is sent."""
    with pytest.raises(UsageError, match="must begin with rediss://"):
        await clients.remote(RedisSettings(url="redis://127.0.0.1:1", auth="entra"))


def test_a_slow_managed_identity_is_waited_for() -> None:
    """redis-entraid's own 100 ms would refuse the first token of a cold start (facts/azure.md 7)."""
    provider = clients.entra_provider()
    assert isinstance(provider, EntraIdCredentialsProvider)
    assert provider._token_mgr._config.get_token_request_execution_timeout_in_ms() >= 5_000
