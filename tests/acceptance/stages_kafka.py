"""VAST's events on Apache Kafka: broker, readers and Redis killed at random under load, and every record marked all the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fedplane.localstack import servers
from fedplane.localstack.info import TOOLS_DIR
from fedplane.localstack.process import ManagedProcess, ServerFailed, free_port
from tests.acceptance.kafka_reader_main import BUCKET, state_at
from tests.acceptance.lab import HOME, ROOT, Results

PARTITIONS = 8
_TOPIC = "stage"
_START_TRIES = 5


class Load:
    """Writes records with a key of their own each, at a steady rate; remembers which the broker acknowledged for good."""

    def __init__(self, bootstrap: str, rate: float) -> None:
        self._pause = 1.0 / rate
        self._stop = threading.Event()
        self.acknowledged: set[str] = set()
        self.refused = 0
        options = {"acks": "all", "enable.idempotence": False, "message.timeout.ms": 600_000, "log_level": 0}
        self._producer = Producer({"bootstrap.servers": bootstrap, "reconnect.backoff.max.ms": 500, **options})
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        number = 0
        while not self._stop.wait(self._pause):
            number += 1
            self._send(f"dir/{number:07d}", number % PARTITIONS)
            self._producer.poll(0)

    def _send(self, key: str, partition: int) -> None:
        def told(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self.acknowledged.add(key)
            else:
                self.refused += 1

        record = {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": BUCKET}, "object": {"key": key, "eTag": "e"}}}
        try:
            self._producer.produce(_TOPIC, msgspec.json.encode({"Records": [record]}), partition=partition, on_delivery=told)
        except BufferError:
            self._producer.poll(0.1)

    def end(self) -> None:
        """No more; wait until all sent is acknowledged or given up."""
        self._stop.set()
        self._thread.join()
        self._producer.flush(120)


class Servers:
    """Broker, Redis and two readers, each of which may be killed."""

    def __init__(self, home: Path) -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        self.gaps = home / "gaps"
        kafka_port, redis_port = free_port(), free_port()
        self.bootstrap, self.redis_url = f"127.0.0.1:{kafka_port}", f"redis://127.0.0.1:{redis_port}"
        tools = ROOT / TOOLS_DIR
        reader = [
            sys.executable,
            "-m",
            "tests.acceptance.kafka_reader_main",
            self.redis_url,
            self.bootstrap,
            _TOPIC,
            str(self.gaps),
        ]
        self.all = {
            "redis": servers.redis("embedded", redis_port, home),
            "broker": servers.kafka_apache(kafka_port, free_port(), home, tools),
            "reader one": ManagedProcess("reader", reader, log=home / "log" / "one.log", ready=_at_once),
            "reader two": ManagedProcess("reader", reader, log=home / "log" / "two.log", ready=_at_once),
        }
        self.peak_rss_bytes = 0

    async def start(self) -> None:
        """All, and the topic."""
        await self.all["redis"].start()
        await self._up("broker")
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        await asyncio.to_thread(admin.create_topics([NewTopic(_TOPIC, PARTITIONS, 1)])[_TOPIC].result, 30)
        await self.all["reader one"].start()
        await self.all["reader two"].start()

    async def kill(self, name: str) -> None:
        """SIGKILL, and start it again."""
        self.look()
        process = self.all[name]
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await self._up(name)

    async def _up(self, name: str) -> None:
        for _ in range(_START_TRIES):
            with contextlib.suppress(ServerFailed):  # a busy machine may need longer
                return await self.all[name].start()
        raise ServerFailed(f"{name} did not come up")

    def look(self) -> None:
        """Note the readers' peak memory."""
        for name in ("reader one", "reader two"):
            status = Path(f"/proc/{self.all[name].pid}/status")
            if status.exists() and "VmHWM:" in (text := status.read_text()):
                self.peak_rss_bytes = max(self.peak_rss_bytes, int(text.split("VmHWM:")[1].split()[0]) * 1024)

    async def stop(self) -> None:
        """All."""
        for process in reversed(self.all.values()):
            await process.stop()


async def _at_once() -> bool:
    return True


def kafka_killed(results: Results) -> None:
    """Apache Kafka and two readers get SIGKILL at random 50 times under load, Redis 5 times: all acknowledged is marked."""
    asyncio.run(_killed(results))


async def _killed(results: Results) -> None:
    kills, redis_kills, rate = (8, 1, 100.0) if results.quick else (50, 5, 200.0)
    chance = random.Random(20261121)
    the = Servers(HOME / "kafka_killed")
    try:
        await the.start()
        load = Load(the.bootstrap, rate)
        plan = [chance.choice(["broker", "broker", "reader one", "reader two"]) for _ in range(kills)]
        for name in chance.sample([*plan, *["redis"] * redis_kills], kills + redis_kills):
            await asyncio.sleep(chance.uniform(0.2, 3.0))
            await the.kill(name)
        await asyncio.to_thread(load.end)
        results.figure("kills", {name: plan.count(name) for name in sorted(set(plan))} | {"redis": redis_kills})
        await _expect_all(results, the, load)
    finally:
        await the.stop()


async def _expect_all(results: Results, the: Servers, load: Load) -> None:
    started = time.monotonic()
    missing = await _missing(the, load)
    while missing and time.monotonic() - started < 120:
        await asyncio.sleep(1.0)
        missing = await _missing(the, load)
    the.look()
    results.figure("records_acknowledged", len(load.acknowledged))
    results.figure("records_given_up_by_the_producer", load.refused)
    results.figure("seconds_until_all_were_marked", round(time.monotonic() - started, 1))
    results.figure("peak_memory_of_a_reader_mb", round(the.peak_rss_bytes / 1e6))
    results.check("records were acknowledged throughout", len(load.acknowledged) > 1000, len(load.acknowledged))
    results.check("every acknowledged record is marked", not missing, sorted(missing)[:3])
    gaps = len(the.gaps.read_text().splitlines()) if the.gaps.exists() else 0
    results.check("no gap was seen where there was none", gaps == 0, gaps)
    told = await asyncio.to_thread(_lag_told, the.bootstrap)
    results.check("a tool outside sees no lag of the group", told == 0, told)


async def _missing(the: Servers, load: Load) -> set[str]:
    state: Any = await state_at(the.redis_url)
    try:
        return load.acknowledged - set(await state.dirty_keys(limit=10_000_000))
    finally:
        await state.close()


def _lag_told(bootstrap: str) -> int:
    """By the offsets committed to the broker, once they stand still."""
    from kafka import KafkaConsumer, TopicPartition  # noqa: PLC0415 - only to look from outside

    places = [TopicPartition(_TOPIC, one) for one in range(PARTITIONS)]
    consumer = KafkaConsumer(bootstrap_servers=[bootstrap], group_id="stage", enable_auto_commit=False)
    try:
        until = time.monotonic() + 90
        while True:
            ends = consumer.end_offsets(places)
            lag = sum(ends[place] - (consumer.committed(place) or 0) for place in places)
            if not lag or time.monotonic() > until:
                return int(lag)
            time.sleep(1.0)
    finally:
        consumer.close(autocommit=False)
