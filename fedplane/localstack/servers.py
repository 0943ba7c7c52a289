"""How each other server of the stack is started: Redis, S3, Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import sys
from pathlib import Path

from federation.state.embedded import server_binary
from fedplane.localstack.process import ManagedProcess, ServerFailed, port_answers

KAFKA_VERSION = "3.9.1"


def redis(kind: str, port: int, state_dir: Path) -> ManagedProcess:
    """``embedded``: the wheel's Redis 6.2; ``system``: the redis-server on PATH. Append-only, so a restart keeps its data."""
    binary = str(server_binary())
    if kind == "system":
        found = shutil.which("redis-server")
        if found is None:
            raise ServerFailed("No redis-server on PATH: install your system's redis-server package, or use --redis embedded.")
        binary = found
    data = state_dir / "redis"
    data.mkdir(parents=True, exist_ok=True)
    options = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec")
    command = [binary, *options, "--save", "", "--maxmemory-policy", "noeviction"]
    return ManagedProcess("redis", command, log=state_dir / "log" / "redis.log", ready=lambda: redis_answers(port))


async def redis_answers(port: int) -> bool:
    """Whether the Redis on loopback *port* takes commands: it accepts connections while it still reads its data."""
    writer = None
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def moto(port: int, state_dir: Path) -> ManagedProcess:
    """moto's S3 server; everything in memory."""
    command = [sys.executable, "-m", "fedplane.localstack.moto_main", str(port)]
    return ManagedProcess("s3", command, log=state_dir / "log" / "moto.log", ready=lambda: port_answers(port))


def versitygw(port: int, state_dir: Path, tools: Path, keys: tuple[str, str]) -> ManagedProcess:
    """versitygw over a folder: writing files there is what an NFS client does to VAST."""
    binary = tools / "bin" / "versitygw"
    found = str(binary) if binary.is_file() else shutil.which("versitygw")
    if found is None:
        raise ServerFailed("versitygw is not installed: run `make full-stack` (needs Go), or use --s3 moto.")
    root = state_dir / "s3"
    root.mkdir(parents=True, exist_ok=True)
    access, secret = keys
    command = [found, "--port", f"127.0.0.1:{port}", "--access", access, "--secret", secret, "--quiet", "--keep-alive"]
    command += ["posix", str(root)]
    return ManagedProcess("s3", command, log=state_dir / "log" / "versitygw.log", ready=lambda: port_answers(port))


def kafka_mock(address_file: Path, topic: str, state_dir: Path) -> ManagedProcess:
    """librdkafka's mock broker; it chooses its port and writes its address to *address_file*."""
    address_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "fedplane.localstack.kafka_mock_main", str(address_file), topic]

    async def ready() -> bool:
        return address_file.exists()

    return ManagedProcess("kafka", command, log=state_dir / "log" / "kafka.log", ready=ready)


def kafka_apache(port: int, controller_port: int, state_dir: Path, tools: Path, *, properties: str = "") -> ManagedProcess:
    """Apache Kafka, one node, its own controller (facts/local-stack.md Kafka). *properties*: lines that override ours."""
    libs = tools / f"kafka-{KAFKA_VERSION}" / "libs"
    java = shutil.which("java")
    if java is None or not libs.is_dir():
        raise ServerFailed("Apache Kafka is not installed: run `make full-stack` (needs JDK 17 and Maven), or use --kafka mock.")
    home = state_dir / "kafka"
    home.mkdir(parents=True, exist_ok=True)
    file = home / "server.properties"
    file.write_text(_kafka_properties(port, controller_port, home) + properties)
    classpath = f"{libs}/*"
    cluster = "A" + secrets.token_urlsafe(16)[1:]  # one that begins with a dash would be taken for an option
    start = (
        f'set -e; if [ ! -f "{home}/data/meta.properties" ]; then '
        f'"{java}" -cp "{classpath}" kafka.tools.StorageTool format -t {cluster} -c "{file}"; fi; '
        f'exec "{java}" -Xmx256m -Xms64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "{classpath}" kafka.Kafka "{file}"'
    )
    log = state_dir / "log" / "kafka.log"
    return ManagedProcess("kafka", ["/bin/sh", "-c", start], log=log, ready=lambda: port_answers(port))


def _kafka_properties(port: int, controller_port: int, home: Path) -> str:
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={home}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
"""
