"""Entra ID: the token is the password, and a renewed one reaches connections that are open. Only Azure's own part is made up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from redis.auth.idp import IdentityProviderInterface
from redis.auth.token import SimpleToken
from redis.auth.token_manager import RetryPolicy, TokenManagerConfig
from redis_entraid.cred_provider import EntraIdCredentialsProvider

from federation.errors import UsageError
from federation.settings import RedisSettings
from federation.state import client as clients
from federation.state.redis_state import RedisState
from tests.contract import redis_servers
from tests.contract.state_support import TestClock, event
from tests.contract.test_state_troubles import certificate


class Azure(IdentityProviderInterface):
    """Hands out tokens of a short life, each another."""

    def __init__(self, life_ms: int) -> None:
        self.life_ms = life_ms
        self.given = 0

    def request_token(self, force_refresh: bool = False) -> SimpleToken:
        """The next one."""
        del force_refresh
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


async def test_a_token_is_never_sent_in_the_clear() -> None:
    """Without TLS the settings are refused before anything is sent."""
    with pytest.raises(UsageError, match="must begin with rediss://"):
        await clients.remote(RedisSettings(url="redis://127.0.0.1:1", auth="entra"))


def test_a_slow_managed_identity_is_waited_for() -> None:
    """redis-entraid's own 100 ms would refuse the first token of a cold start (facts/azure.md 7)."""
    provider = clients.entra_provider()
    assert isinstance(provider, EntraIdCredentialsProvider)
    assert provider._token_mgr._config.get_token_request_execution_timeout_in_ms() >= 5_000
