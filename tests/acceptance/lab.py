"""What every stage needs: a stack of its own, the engine as a process that can be killed, counters, and a place for results."""

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
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from fedplane.localstack.info import StackOptions
from fedplane.localstack.stack import LocalStack
from tests.acceptance import verify

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".fedplane" / "acceptance"
_READS = 3
"""So often everything is read while only reading shows a difference."""
S3Kind = Literal["moto", "versitygw"]
NO_DELETE_LIMIT = {
    "FEDERATION__PAIR__DEMO__RULES__DELETE_BUDGET_COUNT": "1000000",
    "FEDERATION__PAIR__DEMO__RULES__DELETE_BUDGET_SHARE": "1.0",
}
"""Stages in which users delete a large share of a small namespace on purpose."""


@dataclass
class Results:
    """What was measured and checked."""

    quick: bool
    full: bool
    stage: str = ""
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: list[tuple[str, str, bool]] = field(default_factory=list)

    def check(self, promise: str, kept: object, detail: object = "") -> None:
        """Note whether a promise was kept."""
        self.checks.append((self.stage, promise, bool(kept)))
        print(f"  {'ok  ' if kept else 'FAIL'}  {promise}{f'  [{detail}]' if detail != '' else ''}", flush=True)

    def figure(self, name: str, value: object) -> None:
        """Note a measured value."""
        self.figures.setdefault(self.stage, {})[name] = value
        print(f"        {name}: {value}", flush=True)

    @property
    def failed(self) -> int:
        """Promises not kept."""
        return sum(not kept for _, _, kept in self.checks)


class StackThread:
    """The local stack in a thread of its own, so that servers can be stopped and started under way."""

    def __init__(self, options: StackOptions) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stack", daemon=True)
        self._thread.start()
        self.stack = LocalStack(options)
        self._do(self.stack.__aenter__())
        self.info: dict[str, Any] = json.loads((Path(self.stack.info.state_dir) / "stack.json").read_text())
        self.environment = self.stack.info.environment()

    def _do(self, step: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(120)

    def stop_server(self, name: str) -> None:
        """Stop one server."""
        self._do(self.stack.stop_server(name))

    def start_server(self, name: str) -> None:
        """Start it again."""
        self._do(self.stack.start_server(name))

    def close(self) -> None:
        """Stop everything."""
        self._do(self.stack.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Lab:
    """One stack, one engine process, both sides' SDK clients."""

    def __init__(self, results: Results, name: str, settings: dict[str, str] | None = None, *, s3: S3Kind = "moto") -> None:
        self.results = results
        self.home = HOME / name
        options = StackOptions(state_dir=self.home / "stack", s3=s3)
        if results.full:
            options = StackOptions(state_dir=self.home / "stack", s3="versitygw", kafka="apache")
        if own := os.environ.get("FEDPLANE_TEST_S3"):
            endpoint, access_key, secret_key, bucket = own.split()
            options = StackOptions(
                state_dir=self.home / "stack",
                s3="own",
                own_s3=(endpoint, access_key, secret_key),
                bucket=f"{bucket}-{uuid4().hex[:12]}",
            )
        self.servers = StackThread(options)
        self.info = self.servers.info
        self.config = self.home / "stack" / "federation.toml"
        self.log = self.home / "decisions.jsonl"
        self.log.unlink(missing_ok=True)
        (self.home / "engine.log").unlink(missing_ok=True)
        self.environment = {**os.environ, **self.servers.environment, **(settings or {})}
        self.environment.pop("FEDERATION_CONFIG", None)
        self.sides = verify.open_sides(self.info)
        self.engine: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------------------------------------------------------- engine

    def start_engine(self) -> None:
        """Start ``fedplane run`` and wait until it says that it is ready."""
        with (self.home / "engine.log").open("ab") as out:
            command = [sys.executable, "-m", "fedplane.cli", "run", "--config", str(self.config), "--log-file", str(self.log)]
            self.engine = subprocess.Popen(command, env=self._quiet(), stdout=out, stderr=out, cwd=ROOT)

    def _quiet(self) -> dict[str, str]:
        return {"FEDERATION__LOG__LEVEL": "info", **self.environment}

    def stop_engine(self) -> int:
        """SIGTERM, and its exit status."""
        assert self.engine is not None
        self.engine.terminate()
        status = self.engine.wait(60)
        self.engine = None
        return status

    def kill_engine(self) -> None:
        """SIGKILL."""
        assert self.engine is not None
        self.engine.send_signal(signal.SIGKILL)
        self.engine.wait(10)
        self.engine = None

    def cpu_seconds(self) -> float:
        """Processor time of the engine process so far."""
        assert self.engine is not None
        fields = Path(f"/proc/{self.engine.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self, what: str = "VmRSS") -> int:
        """Resident memory of the engine process; ``VmHWM``: its peak."""
        assert self.engine is not None
        for line in Path(f"/proc/{self.engine.pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {what} of the engine")

    # ----------------------------------------------------------------------------------------------------------- commands

    def cli(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run one command of fedplane to its end."""
        command = [sys.executable, "-m", "fedplane.cli", *words]
        env = {**self.environment, **(environment or {})}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, cwd=ROOT, check=False)

    def ask(self, *words: str) -> Any:
        """Run one command with ``--json`` and read what it says."""
        done = self.cli(*words, "--json", "--config", str(self.config))
        if not done.stdout.strip():
            raise AssertionError(
                f"fedplane {' '.join(words)} said nothing and ended with {done.returncode}: {done.stderr[-500:]}"
            )
        return json.loads(done.stdout.strip().splitlines()[-1])

    def status(self) -> dict[str, Any]:
        """The pair's status."""
        [one] = self.ask("status")
        return dict(one)

    # ------------------------------------------------------------------------------------------------------------ proxies

    def control(self, path: str, method: str = "GET", body: object = None) -> Any:
        """Ask the proxies' control port."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.info['control_url']}{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def requests(self, client: str = "fedplane", *, methods: tuple[str, ...] = ()) -> int:
        """Requests of one client on both sides since the last reset."""
        found = self.control("/stats")
        return sum(
            row["count"]
            for side in ("blob", "vast")
            for row in found[side]["requests"]
            if row["client"] == client and (not methods or row["method"] in methods)
        )

    def body_bytes(self, client: str = "fedplane") -> int:
        """Bytes of request bodies one client sent."""
        found = self.control("/stats")
        return sum(
            row["bytes"]
            for side in ("blob", "vast")
            for row in found[side]["bytes"]
            if (row["client"], row["of"]) == (client, "request")
        )

    def events(self, what: str) -> int:
        """One of the event counters, over both sides."""
        found = self.control("/stats")
        return sum(found[side]["events"].get(what, 0) for side in ("blob", "vast"))

    # ------------------------------------------------------------------------------------------------------------ waiting

    def until(self, what: str, condition: Callable[[], object], seconds: float, every: float = 0.25) -> float | None:
        """Wait for *condition*; seconds it took, or None (and a word) when it did not come true in time."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if self.engine is not None and self.engine.poll() is not None:
                raise AssertionError(f"the engine ended with {self.engine.returncode}; see {self.home / 'engine.log'}")
            if condition():
                return time.monotonic() - started
            time.sleep(every)
        print(f"        not within {seconds:.0f} s: {what}", flush=True)
        return None

    def settled(self) -> bool:
        """Whether status says that nothing is left to do and everything is known."""
        return bool(self.status()["state"] == "in_step")

    def equal_after(self, seconds: float) -> tuple[float | None, list[str]]:
        """Wait until the listings agree, then read everything. Returns the time until equal and what differs at the end.

        How long a look takes on a busy machine does not count; what only reading shows may be under way, so it is read again.
        """
        waited, begun, told = 0.0, 0.0, [""]

        def agree() -> bool:
            nonlocal begun
            begun = time.monotonic()
            return not verify.differ_by_name(self.sides)

        for _ in range(_READS):
            started = time.monotonic()
            agreed = self.until("equal listings", agree, seconds - waited) is not None
            waited += begun - started
            told = verify.differ(self.sides)
            if not told or not agreed:
                return (waited if agreed else None), told
        return None, told

    def close(self) -> None:
        """Stop everything."""
        if self.engine is not None:
            self.engine.kill()
            self.engine.wait()
        self.sides.close()
        self.servers.close()


@contextmanager
def lab(results: Results, name: str, settings: dict[str, str] | None = None, *, s3: S3Kind = "moto") -> Iterator[Lab]:
    """A lab that is cleaned up whatever happens."""
    made = Lab(results, name, settings, s3=s3)
    try:
        yield made
    finally:
        made.close()
