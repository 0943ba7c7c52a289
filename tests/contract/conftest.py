"""Real servers and fresh stores for the contract suites.

Servers that run already are used when ``FEDPLANE_TEST_BLOB`` (a connection string) or ``FEDPLANE_TEST_S3`` (endpoint, access key,
secret key and bucket, blank-separated) names them: so the suite can be pointed at an Azure account and a VAST cluster too.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from federation.capabilities import Capabilities
from federation.clock import SystemClock
from federation.model import Side
from federation.ports import ObjectStore, State
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.base import HttpStore, Request
from federation.stores.memory import MemoryStore
from federation.stores.vast_s3 import VastS3Store
from tests.contract import redis_servers
from tests.contract.state_support import TestClock, states

ROOT = Path(__file__).resolve().parents[2]
VERSITYGW = ROOT / ".fedplane/tools/bin/versitygw"


@dataclass(frozen=True)
class S3Address:
    """Where an S3 server answers."""

    endpoint: str
    access_key: str
    secret_key: str
    folder: Path | None = None
    """Where the server keeps its buckets as files."""
    bucket: str = ""
    """One that exists, each test under a prefix of its own in it; empty: each test makes its own bucket."""


@dataclass(frozen=True)
class Servers:
    """Base servers of this session."""

    blob_connection_string: str
    s3: S3Address


@dataclass
class Case:
    """A store under test and how to make others beside it."""

    kind: str
    servers: Servers | None
    s3: S3Address | None
    container: str
    opened: list[ObjectStore] = field(default_factory=list)

    @property
    def side(self) -> Side:
        """Which side the store plays."""
        return Side.BLOB if self.kind in {"memory-blob", "azurite"} else Side.VAST

    def make(
        self, *, container: str | None = None, prefix: str = "", secret: str | None = None, map_tags: bool = False
    ) -> ObjectStore:
        """A store; *container* None: this case's own; *secret* replaces the right one."""
        store = self._make(container or self.container, prefix, secret, map_tags=map_tags)
        self.opened.append(store)
        return store

    def _make(self, container: str, prefix: str, secret: str | None, *, map_tags: bool) -> ObjectStore:
        if self.kind.startswith("memory"):
            store = MemoryStore(self.side, clock=SystemClock())
            store.missing_container, store.map_tags = container != self.container, map_tags
            return store
        if self.side is Side.BLOB:
            assert self.servers is not None
            text = self.servers.blob_connection_string
            if secret is not None:
                text = ";".join(f"AccountKey={secret}" if part.startswith("AccountKey=") else part for part in text.split(";"))
            return AzureBlobStore(
                container=container, prefix=prefix, connection_string=text, map_tags=map_tags, tiers={"cool/": "Cool"}
            )
        assert self.s3 is not None
        s3 = self.s3
        secret_key = secret or s3.secret_key
        if s3.bucket and container == self.container:
            container, prefix = s3.bucket, f"{self.container}/{prefix}"
        return VastS3Store(
            endpoint=s3.endpoint,
            bucket=container,
            prefix=prefix,
            access_key=s3.access_key,
            secret_key=secret_key,
            map_tags=map_tags,
        )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    """Azurite and an S3 server; past the event proxies, which have tests of their own."""
    blob = os.environ.get("FEDPLANE_TEST_BLOB")
    from fedplane.localstack.info import StackOptions  # noqa: PLC0415 - not needed with servers of one's own
    from fedplane.localstack.stack import LocalStack  # noqa: PLC0415

    options = StackOptions(state_dir=tmp_path_factory.mktemp("stack"))
    async with LocalStack(options) as stack:
        info = stack.info
        address = S3Address(info.s3_direct_endpoint, info.access_key, info.secret_key)
        yield Servers(blob or info.connection_string(direct=True), address)


@pytest.fixture(scope="session")
def own_s3() -> S3Address:
    """The server that ``FEDPLANE_TEST_S3`` names."""
    endpoint, access_key, secret_key, bucket = os.environ["FEDPLANE_TEST_S3"].split()
    return S3Address(endpoint, access_key, secret_key, bucket=bucket)


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Address]:
    """The second S3 server, which checks signatures; skipped where it is not installed, never in CI."""
    binary = str(VERSITYGW) if VERSITYGW.exists() else shutil.which("versitygw")
    if binary is None:
        assert not os.environ.get("CI"), "versitygw must be there in CI (make full-stack)"
        pytest.skip("not run: needs versitygw (make full-stack)")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("versitygw")
    arguments = ["--port", f"127.0.0.1:{port}", "--access", "contract", "--secret", "contract-secret", "--quiet", "--keep-alive"]
    versions = tmp_path_factory.mktemp("versitygw-versions")
    command = [binary, *arguments, "posix", "--versioning-dir", str(versions), str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own tool
    try:
        _wait_until_listening(port, server)
        yield S3Address(f"http://127.0.0.1:{port}", "contract", "contract-secret", folder)
    finally:
        server.terminate()
        server.wait(timeout=10)


@pytest.fixture(
    params=[
        "memory-blob",
        "memory-vast",
        pytest.param("azurite", marks=pytest.mark.servers),
        pytest.param("moto", marks=pytest.mark.servers),
        pytest.param("versitygw", marks=[pytest.mark.servers, pytest.mark.full]),
        *(["own-s3"] if os.environ.get("FEDPLANE_TEST_S3") else []),
    ]
)
def unprepared(request: pytest.FixtureRequest) -> Case:
    """One kind of store and its server; only the servers that are needed are started."""
    kind: str = request.param
    servers: Servers | None = request.getfixturevalue("servers") if kind in {"azurite", "moto"} else None
    s3: S3Address | None = servers.s3 if servers is not None else None
    if kind in {"versitygw", "own-s3"}:
        s3 = request.getfixturevalue(kind.replace("-", "_"))
    return Case(kind, servers, s3, f"contract-{uuid4().hex[:20]}")


@pytest_asyncio.fixture
async def case(unprepared: Case) -> AsyncIterator[Case]:
    """One kind of store with a container of its own; every store made from it is closed."""
    if unprepared.s3 is None or not unprepared.s3.bucket:
        await _create_container(unprepared)
    yield unprepared
    if unprepared.s3 is not None and unprepared.s3.bucket:
        await _empty(unprepared)
    for store in unprepared.opened:
        await store.close()


@pytest.fixture(scope="session")
def probed() -> dict[str, Capabilities]:
    """What the probe saw of each kind of server."""
    return {}


@pytest_asyncio.fixture
async def store(case: Case, probed: dict[str, Capabilities]) -> ObjectStore:
    """A store that knows what its server can do, as after start-up."""
    made = case.make()
    if case.kind not in probed:
        probed[case.kind] = await made.probe()
    made.capabilities = probed[case.kind]
    made.race_windows = 0
    return made


async def _create_container(case: Case) -> None:
    """Create the container with the store's own signing."""
    made = case.make()
    if not isinstance(made, HttpStore):
        return
    query = {"restype": "container"} if case.side is Side.BLOB else {}
    await made.call(Request("PUT", "create container", query=query))


async def _empty(case: Case) -> None:
    """Leave nothing of the test in a bucket that is not ours."""
    made = case.make()
    made.capabilities = replace(made.capabilities, conditional_delete=False)  # nobody else is there, and a server may refuse one
    assert isinstance(made, HttpStore)
    for prefix in ("", ".federation/", ".snapshot/", ".vast_audit_dir/"):
        made.ordered = False  # what an empty list told of the server's order is nothing
        for entry in [entry async for entry in made.list(prefix=prefix)]:
            await made.delete(entry.key, expected_etag=entry.etag)


def _wait_until_listening(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert server.poll() is None, "versitygw ended at start"
        with closing(socket.socket()) as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("versitygw does not listen")


@pytest.fixture
def clock() -> TestClock:
    """Set by hand."""
    return TestClock()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a node of a cluster of three masters."""
    with asyncio.Runner() as runner:
        nodes = redis_servers.cluster(tmp_path_factory.mktemp("cluster"))
        servers = runner.run(nodes.__aenter__())
        yield servers[0].url
        runner.run(nodes.__aexit__(None, None, None))


@pytest.fixture(params=["memory", "redis", "cluster"])
def state_kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A kind of state, and the URL of its server where that is shared."""
    kind: str = request.param
    return kind, request.getfixturevalue("redis_cluster") if kind == "cluster" else ""


@pytest.fixture
async def state(state_kind: tuple[str, str], clock: TestClock, tmp_path: Path) -> AsyncIterator[State]:
    """Each kind of state, opened, empty."""
    kind, url = state_kind
    async for made in states(kind, clock, tmp_path, url=url):
        await made.open()
        yield made
