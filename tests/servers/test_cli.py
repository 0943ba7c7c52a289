from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from fedplane import exit_codes
from fedplane.localstack.info import StackOptions
from fedplane.localstack.stack import LocalStack
from fedplane.sample import User, user_of

pytestmark = pytest.mark.servers
FEDPLANE = [sys.executable, "-m", "fedplane.cli"]
DELETES = 30


class Bench:
    """A stack of its own and the commands on it."""

    def __init__(self, home: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = LocalStack(StackOptions(state_dir=home / "stack"))
        asyncio.run_coroutine_threadsafe(self._stack.__aenter__(), self._loop).result(120)
        self.info = self._stack.info
        self.environment = {**os.environ, **self.info.environment(), "FEDERATION_CONFIG": str(home / "stack" / "federation.toml")}
        self.environment["FEDERATION__RECONCILE__INTERVAL_SECONDS"] = "600"

    def close(self) -> None:
        """Stop the servers and the loop."""
        asyncio.run_coroutine_threadsafe(self._stack.stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cli(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        env = {**self.environment, **environment}
        return subprocess.run([*FEDPLANE, *words], env=env, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603

    def ask(self, *words: str) -> Any:  # noqa: ANN401 - JSON
        """One command's JSON."""
        done = self.cli(*words, "--json")
        assert done.returncode == exit_codes.OK, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def control(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """Ask the proxies' control port."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.info.control_url + path, data=data, method=method)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read())

    def state(self) -> str:
        """What status says of the pair in one word."""
        return str(self.ask("status")[0]["state"])

    def engine(self) -> subprocess.Popen[bytes]:
        """``fedplane run`` in the background."""
        return subprocess.Popen([*FEDPLANE, "run"], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for *condition*; fail when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Shared by this module's tests; each uses keys of its own."""
    made = Bench(tmp_path_factory.mktemp("cli"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def user(bench: Bench) -> Iterator[User]:
    """Somebody who writes on both sides."""
    with user_of(bench.info) as somebody:
        yield somebody


@pytest.fixture
def engine(bench: Bench) -> Iterator[subprocess.Popen[bytes]]:
    """A running engine; it must end cleanly."""
    process = bench.engine()
    until(lambda: bench.state() in ("in_step", "working", "attention"))
    yield process
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == exit_codes.OK, errors[-2000:]
    assert b"Traceback" not in errors


def test_status_before_anything_ran_is_unknown_not_zero(bench: Bench) -> None:
    """No process, no scan: the lag is null and the reasons are told."""
    [status] = bench.ask("status")
    assert status["state"] == "unknown"
    assert all(one["lag_seconds"] is None and one["unknown_because"] for one in status["directions"].values())
    assert status["converged_as_of_us"] is None


def test_changes_travel_and_are_explained(bench: Bench, engine: subprocess.Popen[bytes], user: User) -> None:
    """A write on each side arrives on the other; explain shows the base; status says in step with known lag."""
    assert engine.poll() is None
    user.put_blob("cli/from azure.txt", b"one", "text/plain")
    user.put_s3("cli/from vast.txt", b"two", "text/plain")
    until(lambda: user.read_s3("cli/from azure.txt") == b"one" and user.read_blob("cli/from vast.txt") == b"two")
    until(lambda: bench.state() == "in_step")
    [status] = bench.ask("status")
    assert all(one["lag_seconds"] == 0 for one in status["directions"].values())
    told = bench.ask("explain", "cli/from azure.txt")
    assert told["base"]["blob_etag"]
    assert told["decision"]["reason"] == "in_step"


def test_a_conflict_is_listed_shown_and_resolved(bench: Bench, engine: subprocess.Popen[bytes], user: User) -> None:
    """The loser is listed and can be taken back; the record is gone after that."""
    assert engine.poll() is None
    user.put_blob("cli/both.txt", b"azure's", "text/plain")
    user.put_s3("cli/both.txt", b"vast's, later", "text/plain")
    until(lambda: bench.ask("conflicts", "--limit", "0") or user.read_blob("cli/both.txt") == user.read_s3("cli/both.txt"))
    until(lambda: user.read_blob("cli/both.txt") == user.read_s3("cli/both.txt"))
    found = [one["conflict"] for one in bench.ask("conflicts", "--limit", "0") if one["conflict"]["key"] == "cli/both.txt"]
    if not found:
        return  # the first write had arrived before the second was made: no conflict
    [record] = found
    winner = user.read_blob("cli/both.txt")
    assert bench.ask("conflicts", "show", record["conflict_id"])["key"] == "cli/both.txt"
    done = bench.cli("conflicts", "resolve", record["conflict_id"], "--take", "other")
    assert done.returncode == exit_codes.OK, done.stderr
    until(lambda: user.read_blob("cli/both.txt") == user.read_s3("cli/both.txt") != winner)
    assert not [one for one in bench.ask("conflicts", "--limit", "0") if one["conflict"]["key"] == "cli/both.txt"]


def test_a_mass_delete_is_held_until_released_or_rejected(bench: Bench, engine: subprocess.Popen[bytes], user: User) -> None:
    """Past the budget deletes wait; reject brings the object back, release lets it go."""
    assert engine.poll() is None
    keys = [f"held/{number:02d}" for number in range(DELETES)]
    for key in keys:
        user.put_s3(key, b"x", "text/plain")
    until(lambda: all(user.read_blob(key) == b"x" for key in keys))
    for key in keys:
        user.s3.delete_object(Bucket=user.bucket, Key=key)
    until(lambda: len(bench.ask("held")) >= 2 and not bench.ask("status")[0]["dirty"])
    held = [one["held"]["key"] for one in bench.ask("held", "list", "--limit", "0")]
    assert bench.state() == "attention"
    assert bench.ask("held", "reject", held[0]) == {"rejected": 1}
    until(lambda: user.read_s3(held[0]) == b"x")
    assert bench.ask("held", "release", "--all") == {"released": len(held) - 1}
    until(lambda: user.read_blob(held[1]) is None)
    assert user.read_blob(held[0]) == b"x"


def test_doctor_finds_everything_in_order(bench: Bench) -> None:
    """On healthy servers nothing is broken, and each capability is told."""
    found = bench.ask("doctor")
    levels = {finding["level"] for findings in found.values() for finding in findings}
    assert levels <= {"ok", "note"}, found
    assert any("conditional requests" in finding["what"] for finding in found["pair demo"])


def test_doctor_names_the_missing_bucket(bench: Bench) -> None:
    """What is missing is named, and the exit status says that it cannot be reached."""
    done = bench.cli("doctor", FEDERATION__PAIR__DEMO__VAST__BUCKET="absent")
    assert done.returncode == exit_codes.UNREACHABLE
    assert "absent" in done.stdout


def test_reconcile_works_without_a_running_engine(bench: Bench, user: User) -> None:
    """It scans, does the work itself and says what it did; the dry run before it only tells."""
    user.put_blob("alone/a.txt", b"alone", "text/plain")
    before = _redis_dump(bench)
    assert bench.ask("reconcile", "--dry-run", "--prefix", "alone/")["differences"] == 1
    assert user.read_s3("alone/a.txt") is None
    assert _redis_dump(bench) == before
    outcome = bench.ask("reconcile", "--prefix", "alone/")
    assert outcome["report"]["complete"]
    assert outcome["outstanding"] == 0
    assert user.read_s3("alone/a.txt") == b"alone"


def test_reconcile_takes_given_keys(bench: Bench, user: User) -> None:
    """Only these are looked at and worked on; what is never synchronised is refused."""
    for name in ("one", "two", "three"):
        user.put_blob(f"given/{name}.txt", b"given", "text/plain")
    wanted = ("--key", "given/one.txt", "--key", "given/three.txt")
    assert bench.ask("reconcile", "--dry-run", *wanted)["differences"] == 2
    outcome = bench.ask("reconcile", *wanted)
    assert (outcome["report"]["complete"], outcome["report"]["keys"], outcome["outstanding"]) == (True, 2, 0)
    assert user.read_s3("given/one.txt") == user.read_s3("given/three.txt") == b"given"
    assert user.read_s3("given/two.txt") is None
    for words in (("--key", ".federation/x"), ("--key", "a", "--prefix", "b")):
        refused = bench.cli("reconcile", *words)
        assert (refused.returncode, "--key" in refused.stderr) == (exit_codes.USAGE, True)
    for key, why in ((".federation/x", "is never synchronised: it is ours or VAST's"), ("", "An empty text is no key")):
        refused = bench.cli("explain", key)
        assert (refused.returncode, why in refused.stderr) == (exit_codes.USAGE, True)


def _redis_dump(bench: Bench) -> dict[Any, Any]:
    with redis.Redis.from_url(bench.info.redis_url) as client:
        return {key: client.dump(key) for key in client.keys("*")}


def test_reconcile_reads_all_contents_when_told_to_and_keeps_a_history(bench: Bench, user: User) -> None:
    """What was copied is equal byte for byte; past scans can be asked for, and an unknown way to verify is refused."""
    user.put_blob("verify/a.txt", b"verify", "text/plain")
    scanned = bench.ask("reconcile", "--prefix", "verify/")["report"]
    verified = bench.ask("reconcile", "--verify", "hash", "--prefix", "verify/")["verified"]
    assert (verified["read"], verified["bytes"], verified["differ"]) == (1, 12, [])
    assert bench.ask("reconcile", "--history")["scans"][-1] == scanned
    refused = bench.cli("reconcile", "--verify", "size")
    assert (refused.returncode, "hash" in refused.stderr) == (exit_codes.USAGE, True)


def test_a_scan_may_be_interrupted_and_run_again(bench: Bench, user: User) -> None:
    """Ctrl-C in its middle ends it without a traceback and leaves no difference out: the next one finds all."""
    bench.ask("reconcile")  # what the servers can do is known from now on: trying it out is no scan, and lists too
    user.put_blob("interrupted/a.txt", b"interrupted", "text/plain")
    bench.control("PUT", "/faults/vast", {"requests": {"list_pages": 0, "client": "fedplane"}})
    process = subprocess.Popen([*FEDPLANE, "reconcile"], env=bench.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603
    until(lambda: bench.control("GET", "/stats")["vast"]["held_pages"])
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=40)
    bench.control("PUT", "/faults/vast", {})
    assert process.returncode == 130  # as a shell tells of Ctrl-C
    assert b"Traceback" not in errors
    outcome = bench.ask("reconcile")
    assert (outcome["report"]["complete"], outcome["outstanding"]) == (True, 0)
    assert user.read_s3("interrupted/a.txt") == b"interrupted"


@pytest.mark.parametrize("fault", [{"error": 1.0, "status": 503}, {"cut": 1.0}], ids=["overloaded", "cut"])
def test_a_scan_rides_over_a_fault_that_passes(bench: Bench, user: User, fault: dict[str, Any]) -> None:
    """A side that answers nothing for some seconds costs a reconcile those seconds; its exit status says done."""
    user.put_blob("ridden/over.txt", b"ridden over", "text/plain")
    bench.control("PUT", "/faults/vast", {"requests": {**fault, "for_seconds": 4.0, "client": "fedplane"}})
    injected = sum(bench.control("GET", "/stats")["vast"]["injected"].values())
    done = bench.cli("reconcile", "--json")
    assert done.returncode == exit_codes.OK, done.stderr
    assert sum(bench.control("GET", "/stats")["vast"]["injected"].values()) > injected
    assert user.read_s3("ridden/over.txt") == b"ridden over"


def test_a_second_signal_ends_at_once(bench: Bench) -> None:
    """Whoever presses Ctrl-C twice does not wait for a drain."""
    process = bench.engine()
    until(lambda: bench.ask("status")[0]["processes"])
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode in (exit_codes.OK, 130)
