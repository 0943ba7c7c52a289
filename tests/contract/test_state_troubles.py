"""What Redis may answer with instead, on real servers: refused writes, loading, replicas, dropped connections, rights, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import exceptions
from redis.asyncio import Connection
from redis.exceptions import RedisError

from federation.errors import RetryLater, UsageError
from federation.settings import RedisSettings
from federation.state import faults
from federation.state.calls import AT_ONCE
from federation.state.client import remote
from federation.state.layout import of_endpoint
from federation.state.redis_state import RedisState
from tests.contract import redis_servers
from tests.contract.redis_servers import AnyClient, Server
from tests.contract.state_support import AGREED, TestClock, agree, event

Trouble = Callable[[AnyClient, Server], Awaitable[Callable[[], Awaitable[object]]]]
PASSWORD = "correct horse"


async def too_few_replicas(client: AnyClient, _: Server) -> Callable[[], Awaitable[object]]:
    """The server wants a replica that is not there."""
    await client.config_set("min-replicas-to-write", "1")
    return lambda: client.config_set("min-replicas-to-write", "0")


async def read_only(client: AnyClient, server: Server) -> Callable[[], Awaitable[object]]:
    """The server became somebody's replica."""
    await client.execute_command("REPLICAOF", "127.0.0.1", server.port + 1)
    return lambda: client.execute_command("REPLICAOF", "NO", "ONE")


async def failed_save(client: AnyClient, server: Server) -> Callable[[], Awaitable[object]]:
    """Snapshots cannot be written (MISCONF)."""
    (server.folder / "dump.rdb" / "in the way").mkdir(parents=True)
    await client.config_set("save", "3600 1")
    await client.bgsave()

    async def failed() -> bool:
        return bool((await client.info("persistence"))["rdb_last_bgsave_status"] == "err")

    await redis_servers.until(failed)
    return lambda: client.config_set("save", "")


async def busy(client: AnyClient, server: Server) -> Callable[[], Awaitable[object]]:
    """Somebody's script does not end."""
    await client.config_set("lua-time-limit", "10")

    async def spin() -> None:
        async with server.client() as other:
            with contextlib.suppress(RedisError):
                await other.eval("while true do end", 0)

    spinning = asyncio.create_task(spin())

    async def is_busy() -> bool:
        try:
            return not await client.ping()
        except RedisError as error:
            return "BUSY" in str(error)

    await redis_servers.until(is_busy)

    async def kill() -> None:
        await client.script_kill()
        await spinning

    return kill


@asynccontextmanager
async def state_on(server: Server, clock: TestClock, url: str = "", **settings: str) -> AsyncIterator[RedisState]:
    """A pair's state there."""
    client = await remote(RedisSettings(url=url or server.url, **settings))  # type: ignore[arg-type]
    state = RedisState(client, "pair", shards=2, clock=clock)
    try:
        yield state
    finally:
        await state.close()


@pytest.mark.parametrize("trouble", [too_few_replicas, read_only, failed_save, busy])
async def test_a_server_that_refuses_writes_is_retry_later_and_nothing_is_half_done(
    tmp_path: Path, clock: TestClock, trouble: Trouble
) -> None:
    """Marks, leases and settles are refused whole; afterwards the same state goes on."""
    async with redis_servers.running(tmp_path / "redis") as server, server.client() as client, state_on(server, clock) as state:
        await state.open()
        await agree(state, "old")
        lease = await state.acquire(state.shard_of("old"), owner="w", ttl_seconds=60)
        assert lease is not None
        lift = await trouble(client, server)
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: state.mark([event("old")]),
            lambda: state.settle(lease, "old", 0, dataclasses.replace(AGREED, size_bytes=1)),
            lambda: state.acquire(1 - lease.shard, owner="x", ttl_seconds=9),
        ]
        for step in steps:
            with pytest.raises(RetryLater) as refused:
                await step()
            assert refused.value.reason == "redis_unavailable"
        await lift()
        assert list(await state.bases(["old"])) == [AGREED]
        assert await state.are_dirty(["old"]) == [False]
        assert (await state.mark([event("new")])).marked == 1


async def test_after_a_failover_behind_one_name_connections_are_made_anew(tmp_path: Path, clock: TestClock) -> None:
    """Those that stayed open lead to what is a replica now: one call is refused, then all go to the new master."""
    async with (
        redis_servers.running(tmp_path / "old") as old,
        redis_servers.running(tmp_path / "new") as new,
        redis_servers.in_front(old) as front,
        state_on(old, clock, url=front.url) as state,
    ):
        await state.open()
        await asyncio.gather(*(state.calls.pipe([("BLPOP", f"fed:{{pair}}:none{number}", 0.1)]) for number in range(9)))
        async with old.client() as client:
            await client.execute_command("REPLICAOF", "127.0.0.1", new.port)
        front.server = new
        with pytest.raises(RetryLater, match=r"(?i)readonly"):
            await state.mark([event("k")])
        for number in range(20):
            await asyncio.gather(*(state.mark([event(f"{name}{number}")]) for name in "abcdefghi"))
        assert await state.are_dirty(["a0", "i19"]) == [True, True]


async def test_a_server_that_loads_its_data_is_retry_later(tmp_path: Path, clock: TestClock) -> None:
    """A restart reads a snapshot for a while; the marks are there when it is done."""
    async with redis_servers.running(tmp_path / "redis") as server:
        async with state_on(server, clock) as state, server.client() as client:
            await state.open()
            await state.mark([event("k")])
            for number in range(200):
                await client.set(f"ballast:{number}", "x" * 65_536)
            await client.config_set("rdbcompression", "no")
            await client.save()
        server.kill()
        server.options |= {"key-load-delay": "10000"}
        server.start()
        await server.ready()
        async with state_on(server, clock, cluster="false") as state:
            with pytest.raises(RetryLater, match=r"(?i)loading"):
                await state.mark([event("k", etag="0x8DCB")])

            async def loaded() -> bool:
                with contextlib.suppress(RetryLater):
                    return await state.are_dirty(["k"]) == [True]
                return False

            await redis_servers.until(loaded)
            assert (await state.mark([event("k", etag="0x8DCB")])).marked == 1


async def test_dropped_connections_are_replaced(tmp_path: Path, clock: TestClock) -> None:
    """A proxy or fail-over closes every connection: at worst each call fails once, with RetryLater."""
    async with redis_servers.running(tmp_path / "redis") as server, state_on(server, clock) as state, server.client() as client:
        await state.open()
        await asyncio.gather(*(state.mark([event(f"k{number}")]) for number in range(20)))
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        async def works() -> bool:
            with contextlib.suppress(RetryLater):
                return await state.are_dirty(["k0"]) == [True]
            return False

        await redis_servers.until(works)
        assert (await client.info("clients"))["connected_clients"] <= AT_ONCE + 1


async def test_connections_are_bounded_however_many_tasks_ask(tmp_path: Path, clock: TestClock) -> None:
    """A thousand at once share one pool; each waits its turn and is answered."""
    async with redis_servers.running(tmp_path / "redis") as server, state_on(server, clock) as state, server.client() as client:
        await state.open()
        before = (await client.info("stats"))["total_connections_received"]
        results = await asyncio.gather(*(state.mark([event(f"k{number}")]) for number in range(1_000)))
        assert sum(result.marked for result in results) == 1_000
        assert (await client.info("stats"))["total_connections_received"] - before <= AT_ONCE


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return folder / "cert.pem", folder / "key.pem"


RULES = f"user fedplane on >{PASSWORD.replace(' ', '')} {faults.RIGHTS}".split(" ")


async def test_tls_and_a_user_of_few_rights(tmp_path: Path, clock: TestClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may touch our keys only and nothing dangerous is enough, over TLS with an authority of one's own."""
    cert, key = certificate(tmp_path)
    monkeypatch.setenv("REDIS_USER", "fedplane")
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD.replace(" ", ""))
    named = {"username_env": "REDIS_USER", "password_env": "REDIS_PASSWORD"}
    async with redis_servers.running(tmp_path / "redis") as server, server.client() as admin:
        await admin.execute_command("ACL", "SETUSER", *RULES[1:])
        await admin.execute_command("ACL", "SETUSER", "default", "resetpass", "-@all")
        async with redis_servers.tls_in_front(server, cert, key) as port:
            url = f"rediss://127.0.0.1:{port}"
            async with state_on(server, clock, url, ca_file=str(cert), **named) as state:
                await state.open()
                await agree(state, "k")
                await state.mark([event("k")])
                assert (await state.backlog()).dirty == 1
            with pytest.raises(UsageError, match=r"redis\.ca_file"):
                async with state_on(server, clock, url, **named) as state:
                    await state.open()
            monkeypatch.setenv("REDIS_PASSWORD", "wrong")
            with pytest.raises(UsageError, match=r"redis\.password_env") as refused:
                async with state_on(server, clock, url, ca_file=str(cert), **named) as state:
                    await state.open()
            assert "wrong" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "scheme", "said"),
    [
        (None, "rediss", "No such file"),
        (b"", "rediss", "no certificate"),
        (b"\xff\0not PEM", "rediss", "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "rediss", "PEM"),
        (b"", "redis", "begin redis.url with rediss://"),
    ],
)
async def test_a_wrong_file_of_certificates_is_no_outage(tmp_path: Path, content: bytes | None, scheme: str, said: str) -> None:
    """The setting is named before anything is asked, also where nothing listens."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=rf"redis\.ca_file .*{said}"):
        await remote(RedisSettings(url=f"{scheme}://127.0.0.1:1", ca_file=str(file)))


async def test_a_certificate_of_another_host_is_no_matter_of_the_authority(tmp_path: Path) -> None:
    """The address is what has to be corrected."""
    cert, key = certificate(tmp_path)
    async with redis_servers.running(tmp_path / "redis") as server, redis_servers.tls_in_front(server, cert, key) as port:
        with pytest.raises(UsageError, match=r"Correct redis\.url"):
            await remote(RedisSettings(url=f"rediss://localhost:{port}", ca_file=str(cert)))


async def test_a_user_without_a_right_is_told_so(tmp_path: Path, clock: TestClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """NOPERM names the settings, from a plain command and from inside a script."""
    monkeypatch.setenv("REDIS_USER", "fedplane")
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD.replace(" ", ""))
    named = {"username_env": "REDIS_USER", "password_env": "REDIS_PASSWORD"}
    async with redis_servers.running(tmp_path / "redis") as server, server.client() as admin:
        await admin.execute_command("ACL", "SETUSER", *RULES[1:], "-zadd")
        async with state_on(server, clock, **named) as state:
            await state.open()
            with pytest.raises(UsageError, match="rights") as refused:
                await state.mark([event("k")])
            assert faults.RIGHTS in str(refused.value)
            assert faults.RIGHTS in Path("docs/architecture.md").read_text(encoding="utf-8")
        await admin.execute_command("ACL", "SETUSER", "fedplane", "-info")
        with pytest.raises(UsageError, match=r"Grant \+info, or set redis\.cluster"):
            async with state_on(server, clock, **named):
                pass


async def test_a_user_of_few_rights_is_enough_on_a_cluster(
    tmp_path: Path, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that may not ask for the slots is told that, not that there is no cluster."""
    monkeypatch.setenv("REDIS_USER", "fedplane")
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD.replace(" ", ""))
    named = {"username_env": "REDIS_USER", "password_env": "REDIS_PASSWORD"}
    async with redis_servers.cluster(tmp_path / "cluster") as servers:
        for server in servers:
            await redis_servers._ask(server, "ACL", "SETUSER", *RULES[1:])
        async with state_on(servers[0], clock, **named) as state:
            await state.open()
            await state.mark([event(f"k{number}") for number in range(20)])
            assert (await state.backlog()).dirty == 20
        for server in servers:
            await redis_servers._ask(server, "ACL", "SETUSER", "fedplane", "-cluster")
        async with state_on(servers[0], clock, **named) as state:
            with pytest.raises(UsageError, match=r"\+cluster\|slots"):
                await state.open()


async def test_one_server_called_a_cluster_is_refused(tmp_path: Path, clock: TestClock) -> None:
    """A wrong word in the settings is not tried for ever."""
    async with redis_servers.running(tmp_path / "redis") as server, state_on(server, clock, cluster="true") as state:
        with pytest.raises(UsageError, match=r"redis\.cluster = false"):
            await state.open()


async def test_a_cluster_called_one_server_is_refused(redis_cluster: str, clock: TestClock) -> None:
    """Nor is the reverse."""
    client = await remote(RedisSettings(url=redis_cluster, cluster=False))
    state = RedisState(client, "mistaken", shards=8, clock=clock)
    with pytest.raises(UsageError, match=r"redis\.cluster = true"):
        await state.mark([event(f"k{number}") for number in range(50)])
    await state.close()


def test_every_error_of_the_client_has_a_meaning() -> None:
    """A class that redis-py adds is either away, ours to correct, handled, or known to be a bug of ours."""
    bugs = {
        "ChildDeadlockedError", "CrossSlotTransactionError", "ClusterCrossSlotError", "DataError", "ExecAbortError",
        "IncorrectPolicyType", "InvalidPipelineStack", "LockError", "LockNotOwnedError", "ModuleError", "NoSuchFieldsetError",
        "NoScriptError", "PubSubError", "WatchError", "UnrecoverableLockError",
    }  # fmt: skip
    roots = {"RedisError", "ResponseError", "RedisClusterException"}
    for name, kind in vars(exceptions).items():
        if not (isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == exceptions.__name__):
            continue
        known = issubclass(kind, (*faults.AWAY, *faults.WRONG_CREDENTIALS, exceptions.AskError))
        assert known != (name in bugs | roots), f"{name} is in no table, or in two"


async def test_a_connection_closed_by_another_task_is_no_bug_of_ours() -> None:
    """redis-py's cluster client does that when it looks anew who serves what; what is None in our own code stays a bug."""
    connection = Connection()
    with pytest.raises(RetryLater), faults.redis_faults():
        await connection._send_packed_command([b"PING"])
    nothing: Connection | None = None
    with pytest.raises(AttributeError), faults.redis_faults():
        nothing.is_connected  # type: ignore[union-attr] # noqa: B018 - the point


@pytest.mark.parametrize("clustered", [None, False, True])
async def test_a_server_that_is_away_is_named_by_its_setting_with_what_to_do(clustered: bool | None) -> None:
    """One server or a cluster; the password that stands in the URL is not told."""

    async def ask() -> None:
        with faults.redis_faults():
            client = await remote(RedisSettings(url="redis://:hunter2@127.0.0.1:9", cluster=clustered))
            async with client:
                await client.get("k")

    with pytest.raises(RetryLater) as away:
        await ask()
    assert str(away.value).endswith("; start it, or correct redis.url.")
    assert "hunter2" not in str(away.value)


def test_a_server_that_answers_needs_no_start() -> None:
    """One that only loads is not advised to be started."""
    told = str(faults.translate(exceptions.BusyLoadingError("LOADING Redis is loading")))
    assert "redis.url" not in told


def test_a_refused_certificate_is_no_outage() -> None:
    """It does not cure itself, so it is the user's to correct."""
    error = ssl.SSLCertVerificationError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    assert isinstance(faults.translate(error), UsageError)


async def test_something_else_in_the_place_of_the_paces_is_told(tmp_path: Path, clock: TestClock) -> None:
    """No outage, which would be waited for: the key is named, to be deleted."""
    async with redis_servers.running(tmp_path / "redis") as server, server.client() as client, state_on(server, clock) as state:
        await client.set(of_endpoint("e"), "not a hash")
        for told in (b"told", b""):
            with pytest.raises(UsageError, match="delete it") as refused:
                await state.tell_pace("e", "process", told)
            assert refused.value.reason == "pace_unusable"
