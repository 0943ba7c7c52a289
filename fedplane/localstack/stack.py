"""The local stack as a whole: start in order, stop in reverse, leave nothing behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Self, TextIO

import boto3
import msgspec
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient
from botocore.config import Config
from botocore.exceptions import ClientError

from fedplane.localstack import servers
from fedplane.localstack.azurite import ACCOUNT, azurite
from fedplane.localstack.info import StackInfo, StackOptions
from fedplane.localstack.process import ManagedProcess, ServerFailed, free_port, port_answers
from fedplane.localstack.proxy_main import ProxyConfig

_MOCK_API_VERSION = "2.3"
_PARTITIONS = 4


class LocalStack:
    """``async with LocalStack(StackOptions()) as stack: stack.info``. Raises ServerFailed; what was started is then stopped."""

    def __init__(self, options: StackOptions, *, say: Callable[[str], None] = lambda _: None) -> None:
        self._options = options
        self._say = say
        self._state_dir = options.state_dir.absolute()
        self._tools = options.tools_dir.absolute()
        self._servers: dict[str, ManagedProcess] = {}
        self._ports = {name: free_port() for name in ("azurite-blob", "queue", "s3-direct", "kafka", "controller", "control")}
        self._ports |= {"blob": options.blob_port or free_port(), "s3": options.s3_port or free_port()}
        self._ports["redis"] = options.redis_port or free_port()
        self._keys = options.own_s3[1:] if options.s3 == "own" else ("fedplane-local", secrets.token_hex(16))
        self._bootstrap = ""
        self._lock: TextIO | None = None

    async def __aenter__(self) -> Self:
        self._prepare()
        try:
            await self._start()
        except BaseException as error:
            await self.stop()
            if isinstance(error, BaseExceptionGroup):
                raise _first(error) from None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _prepare(self) -> None:
        missing = [name for name in ("confluent_kafka", "moto", "flask") if find_spec(name) is None]
        if missing:
            raise ServerFailed(f"The local stack needs {', '.join(missing)}: pip install 'fedplane[local]'.")
        if self._options.keep and self._options.s3 == "moto":
            raise ServerFailed(
                "--keep needs a store that keeps: moto's objects are in memory. Use --s3 versitygw, or drop --keep."
            )
        self._alone()
        if not self._options.keep:
            shutil.rmtree(self._state_dir, ignore_errors=True)
        self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _alone(self) -> None:
        """Take the folder, before anything in it is cleared away; the kernel gives it back whatever becomes of us."""
        self._state_dir.parent.mkdir(parents=True, exist_ok=True)
        lock = self._state_dir.with_name(f"{self._state_dir.name}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ServerFailed(
                f"A stack runs already in {self._state_dir}. Use that one, or end the `fedplane run --with-stack` or "
                "`fedplane stack up` that began it."
            ) from None
        self._lock = lock

    async def _start(self) -> None:
        first = await asyncio.gather(self._azurite("blob"), self._azurite("queue"))
        self._servers = {server.name: server for server in (*first, self._redis(), *self._s3(), self._kafka())}
        self._say("starting " + ", ".join(self._servers))
        async with asyncio.TaskGroup() as group:
            for server in self._servers.values():
                group.create_task(server.start())
        self._bootstrap = self._kafka_address()
        await asyncio.gather(self._create_blob_side(), asyncio.to_thread(self._create_vast_side))
        self._servers["proxies"] = self._proxies()
        await self._servers["proxies"].start()
        self._write_files()

    # --------------------------------------------------------------------------------------------------------- the servers

    async def _azurite(self, service: str) -> ManagedProcess:
        port = self._ports["azurite-blob" if service == "blob" else "queue"]
        in_memory = service == "blob" and self._options.blobs_in_memory
        return await azurite(service, port, tools=self._tools, state_dir=self._state_dir, in_memory=in_memory)

    def _redis(self) -> ManagedProcess:
        return servers.redis(self._options.redis, self._ports["redis"], self._state_dir)

    def _s3(self) -> list[ManagedProcess]:
        port = self._ports["s3-direct"]
        if self._options.s3 == "own":
            return []
        if self._options.s3 == "moto":
            return [servers.moto(port, self._state_dir)]
        return [servers.versitygw(port, self._state_dir, self._tools, self._keys)]

    def _kafka(self) -> ManagedProcess:
        if self._options.kafka == "mock":
            return servers.kafka_mock(self._state_dir / "kafka.addr", self._options.topic, self._state_dir)
        return servers.kafka_apache(self._ports["kafka"], self._ports["controller"], self._state_dir, self._tools)

    def _kafka_address(self) -> str:
        if self._options.kafka == "mock":
            return (self._state_dir / "kafka.addr").read_text()
        return f"127.0.0.1:{self._ports['kafka']}"

    def _proxies(self) -> ManagedProcess:
        access, secret = self._keys
        config = ProxyConfig(
            blob_port=self._ports["blob"],
            vast_port=self._ports["s3"],
            control_port=self._ports["control"],
            blob_upstream=self._at("azurite-blob"),
            queue_upstream=self._at("queue"),
            queue=self._options.queue,
            blob_public=f"{self._at('blob')}/{ACCOUNT}",
            s3_upstream=self._s3_endpoint,
            access_key=access,
            secret_key=secret,
            bootstrap=self._bootstrap,
            topic=self._options.topic,
            raw_keys=self._options.raw_keys,
            blob_faults=self._options.blob_faults,
            vast_faults=self._options.vast_faults,
        )
        file = self._state_dir / "proxies.json"
        _write_private(file, msgspec.json.encode(config))
        command = [sys.executable, "-m", "fedplane.localstack.proxy_main", str(file)]
        log = self._state_dir / "log" / "proxies.log"
        return ManagedProcess("proxies", command, log=log, ready=lambda: port_answers(self._ports["control"]))

    @property
    def _s3_endpoint(self) -> str:
        return self._options.own_s3[0] if self._options.s3 == "own" else self._at("s3-direct")

    def _at(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    async def _create_blob_side(self) -> None:
        text = self._info().connection_string(direct=True)
        async with (
            BlobServiceClient.from_connection_string(text) as blobs,
            QueueServiceClient.from_connection_string(text) as queues,
        ):
            for make in (blobs.create_container(self._options.container), queues.create_queue(self._options.queue)):
                try:
                    await make
                except ResourceExistsError:
                    self._say("kept what was there")

    def _create_vast_side(self) -> None:
        access, secret = self._keys
        config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
        s3 = boto3.client(
            "s3",
            endpoint_url=self._s3_endpoint,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=config,
        )
        try:
            s3.create_bucket(Bucket=self._options.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
                raise
        finally:
            s3.close()
        if self._options.kafka == "apache":
            from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - of the extra, only for a real broker
            from confluent_kafka.cimpl import NewTopic  # noqa: PLC0415

            admin = AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 3})
            [made] = admin.create_topics([NewTopic(self._options.topic, _PARTITIONS, 1)], operation_timeout=20).values()
            made.result(timeout=30)

    # ------------------------------------------------------------------------------------------------------------- as a whole

    @property
    def info(self) -> StackInfo:
        """Where everything listens."""
        return self._info()

    def _info(self) -> StackInfo:
        access, secret = self._keys
        return StackInfo(
            blob_endpoint=f"{self._at('blob')}/{ACCOUNT}",
            blob_direct_endpoint=f"{self._at('azurite-blob')}/{ACCOUNT}",
            queue_endpoint=f"{self._at('queue')}/{ACCOUNT}",
            queue=self._options.queue,
            container=self._options.container,
            s3_endpoint=self._at("s3"),
            s3_direct_endpoint=self._s3_endpoint,
            s3_posix_dir=str(self._state_dir / "s3") if self._options.s3 == "versitygw" else "",
            access_key=access,
            secret_key=secret,
            bucket=self._options.bucket,
            kafka_bootstrap=self._bootstrap,
            kafka_api_version=_MOCK_API_VERSION if self._options.kafka == "mock" else "",
            topic=self._options.topic,
            redis_url=f"redis://127.0.0.1:{self._ports['redis']}/0",
            control_url=self._at("control"),
            s3_kind=self._options.s3,
            kafka_kind=self._options.kafka,
            redis_kind=self._options.redis,
            state_dir=str(self._state_dir),
            pid=os.getpid(),
            pids={name: server.pid for name, server in self._servers.items()},
        )

    def _write_files(self) -> None:
        info = self.info
        lines = [f"export {name}='{value}'" for name, value in info.environment().items()]
        _write_private(self._state_dir / "stack.env", ("\n".join(lines) + "\n").encode())
        _write_private(self._state_dir / "federation.toml", info.settings_toml().encode())
        _write_private(self._state_dir / "local.settings.json", msgspec.json.encode(info.local_settings()))
        _write_private(self._state_dir / "stack.json", msgspec.json.encode(info))

    async def died(self) -> str:
        """Wait until a server ends by itself; says which, with the end of its log. Servers stopped on purpose do not count."""
        while True:
            for name, server in self._servers.items():
                if server.pid == 0 and not server.stopped:
                    return f"{name} ended unexpectedly.\n{server.log_tail()}"
            await asyncio.sleep(0.5)

    async def stop_server(self, name: str) -> None:
        """Stop one server; its port stays reserved for it."""
        await self._servers[name].stop()

    async def start_server(self, name: str) -> None:
        """Start it again with the data it had."""
        await self._servers[name].start()
        self._write_files()

    async def stop(self) -> None:
        """Stop everything, the proxies first so that they can deliver what they confirmed. Idempotent."""
        proxies = self._servers.pop("proxies", None)
        if proxies is not None:
            await proxies.stop()
        await asyncio.gather(*(server.stop() for server in self._servers.values()))
        self._servers = {}
        (self._state_dir / "stack.json").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    # One server's failure cancelled the others: it speaks for all.
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _write_private(file: Path, content: bytes) -> None:
    part = file.with_name(f"{file.name}.part")
    part.touch(mode=0o600)
    part.write_bytes(content)
    part.replace(file)
