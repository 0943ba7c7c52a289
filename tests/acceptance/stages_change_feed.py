"""Stages about the Blob change feed, on a feed that is written into the real emulator while it is read."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from azure.storage.blob import ContainerClient
from redis import Redis

from tests.acceptance import feed_process, verify
from tests.acceptance.lab import ROOT, Lab, Results, lab
from tests.acceptance.users import BlobUser
from tests.feed.writer import Feed, fresh_container, hour, record

_SHARDS = 3


@dataclass
class GrowingFeed:
    """Appends blocks, chunks, shards and segments to the emulator's feed until told to stop."""

    container: ContainerClient
    chance: random.Random
    blocks: int
    pause_seconds: float = 0.02
    feed: Feed = field(default_factory=Feed)
    records: int = 0
    segment: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """In a thread of its own, slowly; the first blocks before this returns."""
        self.feed.placeholder()
        self.feed.markers()
        for _ in range(5):
            self.grow()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def finish(self) -> list[str]:
        """Stop; the keys of all records."""
        self.stopping.set()
        self.thread.join(60)
        return [f"k{number}" for number in range(self.records)]

    def grow(self) -> None:
        """One more block, now and then in a new segment; the index follows."""
        if self.segment == 0 or self.chance.random() < 0.1:
            if self.segment:
                self.feed.segment(hour(self.segment), shards=_SHARDS, finalized=True)
            self.segment += 1
        self.feed.segment(hour(self.segment), shards=_SHARDS)
        count = self.chance.randint(1, 120)
        new = [record(number, f"k{number}", hour(self.segment)) for number in range(self.records, self.records + count)]
        chunk = self.chance.choice([0, 0, 0, 1])
        self.feed.append(hour(self.segment), new, shard=self.chance.randrange(_SHARDS), chunk=chunk)
        self.feed.index(hour(self.segment))
        self.feed.upload(self.container)
        self.records += count

    def _work(self) -> None:
        while not self.stopping.is_set() and self.blocks > 0:
            self.grow()
            self.blocks -= 1
            # A service appends about once a minute; without a pause no reader that is mostly being started could follow.
            self.stopping.wait(self.pause_seconds)


class Readers:
    """The reading process, one after the other."""

    def __init__(self, the: Lab, redis: Redis) -> None:
        self._environment = {**os.environ, "FEED": the.servers.stack.info.connection_string(direct=True)}
        self._environment["REDIS"] = the.info["redis_url"]
        self._log = the.home / "feed_process.log"
        self._redis = redis
        self.runs = 0

    def start(self) -> subprocess.Popen[bytes]:
        """A new one."""
        self.runs += 1
        command = [sys.executable, "-m", "tests.acceptance.feed_process", str(self.runs)]
        with self._log.open("ab") as out:
            return subprocess.Popen(command, env=self._environment, stdout=out, stderr=out, cwd=ROOT)

    def at_work(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        """Wait until this one has begun to mark."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            last: list[Any] = self._redis.lrange(feed_process.BEGUN, -1, -1)
            if last and last[0].split(b" ", 1)[0] == str(self.runs).encode():
                return True
            time.sleep(0.01)
        return False


def feed_killed(results: Results) -> None:
    """The reader of a growing feed gets SIGKILL again and again: every record reaches the mark, only what was in flight twice."""
    kills = 6 if results.quick else 50
    chance = random.Random(20261121)
    with lab(results, "feed_killed") as the:
        redis = Redis.from_url(the.info["redis_url"])
        container = fresh_container(the.servers.stack.info.connection_string(direct=True))
        growing = GrowingFeed(container, chance, blocks=100_000, pause_seconds=0.2)
        growing.start()
        readers = Readers(the, redis)
        for _ in range(kills):
            process = readers.start()
            if not readers.at_work(process, 60):
                results.check(f"reader {readers.runs} begins to mark", False)
            time.sleep(chance.uniform(0.0, 2.0))
            process.kill()
            process.wait(10)
        wanted = growing.finish()
        process = readers.start()
        took = the.until("all records marked", lambda: _done(redis) >= set(wanted), 600)
        process.kill()
        process.wait(10)
        results.check("every record reached the mark", took is not None, len(set(wanted) - _done(redis)))
        _count(results, redis, wanted, kills)
        container.close()
        redis.close()


def _count(results: Results, redis: Redis, wanted: list[str], kills: int) -> None:
    """What was marked how often, and whether each repeat was in the last batch of a killed reader."""
    batches = [one.split(" ") for one in _noted(redis, feed_process.BEGUN)]
    times = Counter(key for _, _, *names in batches for key in names)
    last = {run: set(names) for run, _, *names in batches}
    in_flight = set[str]().union(*last.values())
    repeated = {key for key, count in times.items() if count > 1}
    results.figure("kills", kills)
    results.figure("records", len(wanted))
    results.figure("records_marked_again", len(repeated))
    results.figure("batches_begun", len(batches))
    results.figure("batches_marked", len(_noted(redis, feed_process.DONE)))
    results.figure("largest_batch", max(len(names) for _, _, *names in batches))
    results.check("nothing else was marked", set(times) == set(wanted), list(set(times) - set(wanted))[:3])
    results.check("only what was in flight at a kill was marked again", repeated <= in_flight, len(repeated - in_flight))
    results.check("no gap was told", redis.llen(feed_process.GAPS) == 0)


def _done(redis: Redis) -> set[str]:
    return {key for one in _noted(redis, feed_process.DONE) for key in one.split(" ")[2:]}


def _noted(redis: Redis, name: str) -> list[str]:
    found: list[Any] = redis.lrange(name, 0, -1)
    return [one.decode() for one in found]


def feed_exactly_once(results: Results) -> None:
    """A growing feed read without faults: each record reaches the mark exactly once."""
    blocks = 60 if results.quick else 400
    with lab(results, "feed_exactly_once") as the:
        redis = Redis.from_url(the.info["redis_url"])
        container = fresh_container(the.servers.stack.info.connection_string(direct=True))
        growing = GrowingFeed(container, random.Random(7), blocks)
        growing.start()
        readers = Readers(the, redis)
        process = readers.start()
        growing.thread.join(300)
        wanted = growing.finish()
        took = the.until("all records marked", lambda: _done(redis) >= set(wanted), 120)
        process.kill()
        process.wait(10)
        times = Counter(key for one in _noted(redis, feed_process.BEGUN) for key in one.split(" ")[2:])
        results.figure("records", len(wanted))
        results.figure("segments", growing.segment)
        results.check("all records reached the mark", took is not None)
        results.check("each exactly once", times == dict.fromkeys(wanted, 1), sum(times.values()) - len(wanted))
        results.check("no gap was told", redis.llen(feed_process.GAPS) == 0)
        container.close()
        redis.close()


def _lag_told(told: Any) -> bool:
    return bool(told["reading"] and told["unread_bytes"] == 0 and told["as_of_us"])


def feed_alone(results: Results) -> None:
    """With every Event Grid event lost and no scan, the engine learns of changes from the change feed alone."""
    settings = {
        "FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400",
        "FEDERATION__PAIR__DEMO__BLOB__CHANGE_FEED__ENABLED": "true",
        "FEDERATION__PAIR__DEMO__BLOB__CHANGE_FEED__FROM": "start",
        "FEDERATION__PAIR__DEMO__BLOB__CHANGE_FEED__POLL_SECONDS": "1",
    }
    with lab(results, "feed_alone", settings) as the:
        the.control("/faults/blob", "PUT", {"events": {"drop": 1}})
        done = the.cli("doctor", "--config", str(the.config))
        said = "enabled in the settings, and the container is missing"
        results.check(
            "doctor says that the feed's container is missing", done.returncode == 1 and said in done.stdout, done.returncode
        )
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 60) is not None)
        waiting = the.status()["change_feed"]
        results.check("status says that the feed cannot be read", not waiting["reading"] and waiting["last_error"], waiting)
        feed = Feed()
        feed.segment(hour(1))
        feed.index(hour(1))
        user = BlobUser(the.info)
        names = [f"feed/{number} ü.txt" for number in range(20)]
        for name in names:
            user.put(name, name.encode())
        feed.append(
            hour(1), [record(number, name, hour(1), container=the.info["container"]) for number, name in enumerate(names)]
        )
        with fresh_container(the.servers.stack.info.connection_string(direct=True)) as container:
            feed.upload(container)
        took = the.until("all on VAST", lambda: all(verify.read_vast(the.sides, name) is not None for name in names), 60)
        results.check("every change arrived by the feed alone", took is not None)
        # A process says of itself every few seconds what status tells.
        told = the.until("the lag is told", lambda: _lag_told(the.status()["change_feed"]), 30)
        results.check("status tells the feed's lag", told is not None, the.status()["change_feed"])
        user.close()
        results.check("the engine stops in order", the.stop_engine() == 0)
