"""Apache Kafka that a test may kill, with plain, TLS and SASL listeners, and topics on it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fedplane.localstack import servers
from fedplane.localstack.info import TOOLS_DIR
from fedplane.localstack.process import ManagedProcess, free_port

USER, PASSWORD = "fedplane", "made-up-for-a-test"
ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / TOOLS_DIR
_LISTENERS = {"PLAINTEXT": "PLAINTEXT", "TLS": "SSL", "NAMED": "SASL_PLAINTEXT", "BOTH": "SASL_SSL"}


def need() -> None:
    """Skip where Apache Kafka is not installed, never in CI."""
    if shutil.which("java") is None or not (TOOLS / f"kafka-{servers.KAFKA_VERSION}" / "libs").is_dir():
        assert not os.environ.get("CI"), "Apache Kafka must be there in CI (make full-stack)"
        pytest.skip("not run: needs Apache Kafka (make full-stack)")


@dataclass
class Broker:
    """One running broker."""

    process: ManagedProcess
    ports: dict[str, int]
    home: Path
    _admin: AdminClient | None = None

    def address(self, protocol: str = "PLAINTEXT") -> str:
        """Of the listener with that ``security_protocol``."""
        return f"127.0.0.1:{self.ports[protocol]}"

    @property
    def authorities(self) -> str:
        """The file a client must trust."""
        return str(self.home / "ca.pem")

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def start(self) -> None:
        """Start, on the same ports and data, and wait until it answers as a broker."""
        await self.process.start()
        while not await asyncio.to_thread(self._answers):
            await asyncio.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return bool(self.admin().list_topics(timeout=2).brokers)
        except Exception:  # noqa: BLE001 - whatever it is, not yet
            return False

    def admin(self) -> AdminClient:
        """For topics; one, since its futures fail when it is collected."""
        self._admin = self._admin or AdminClient({"bootstrap.servers": self.address(), "log_level": 0})
        return self._admin

    def make_topic(self, name: str = "", partitions: int = 4, replicas: int = 1) -> str:
        """A topic with nothing in it; its name."""
        name = name or f"events-{uuid4().hex[:12]}"
        self.admin().create_topics([NewTopic(name, partitions, replicas)])[name].result(20)
        return name

    def leaders(self, topic: str) -> dict[int, int]:
        """The broker that leads each partition, -1 where none does."""
        return {one: found.leader for one, found in self.admin().list_topics(topic, timeout=5).topics[topic].partitions.items()}

    def producer(self) -> Producer:
        """Acknowledged means kept by all replicas."""
        return Producer({"bootstrap.servers": self.address(), "acks": "all", "enable.idempotence": False, "log_level": 0})


def broker(home: Path) -> Broker:
    """Not yet started. Its certificate is made here and trusts itself."""
    ports = {protocol: free_port() for protocol in _LISTENERS.values()}
    controller = free_port()
    _certificate(home)
    listeners = ",".join(f"{name}://127.0.0.1:{ports[protocol]}" for name, protocol in _LISTENERS.items())
    kinds = ",".join(f"{name}:{protocol}" for name, protocol in _LISTENERS.items())
    login = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}" ;'
    properties = f"""\
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map={kinds},CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.named.plain.sasl.jaas.config={login}
listener.name.both.plain.sasl.jaas.config={login}
ssl.keystore.type=PEM
ssl.keystore.location={home}/server.pem
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=100
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""
    process = servers.kafka_apache(ports["PLAINTEXT"], controller, home, TOOLS, properties=properties)
    return Broker(process, ports, home)


def second(first: Broker, home: Path) -> Broker:
    """Another broker of the cluster of *first*, which runs; plain only, and not yet started."""
    known = (first.home / "kafka/server.properties").read_text()
    voters = re.findall(r"controller\.quorum\.voters=(.+)", known)[-1]
    port = free_port()
    properties = f"""\
process.roles=broker
node.id=2
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
"""
    data = home / "kafka/data"
    data.mkdir(parents=True)
    identity = (first.home / "kafka/data/meta.properties").read_text()
    cluster = re.findall(r"cluster\.id=.+", identity)[0]
    (data / "meta.properties").write_text(f"version=1\nnode.id=2\n{cluster}\n")
    process = servers.kafka_apache(port, 0, home, TOOLS, properties=properties)
    return Broker(process, {"PLAINTEXT": port}, home)


def _certificate(home: Path) -> None:
    key, made = home / "key.pem", home / "ca.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", names, "-keyout", key, "-out", made], check=True, capture_output=True, timeout=60)  # noqa: S603
    (home / "server.pem").write_text(key.read_text() + made.read_text())
