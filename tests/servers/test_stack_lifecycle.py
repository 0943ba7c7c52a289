"""``fedplane stack`` as a process: it leaves nothing behind, however it ends, and says what is wrong when it cannot start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from fedplane import exit_codes
from fedplane.localstack.info import StackInfo, read_info

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="not run: processes are found by /proc, which Linux has"),
]


class Command:
    """One ``fedplane stack`` command; its servers are found by the log files that they write to."""

    def __init__(self, state_dir: Path, *words: str) -> None:
        self.state_dir = state_dir
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "fedplane.cli", "stack", "up", "--json", "--state-dir", str(state_dir), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> StackInfo:
        """Wait until it stands."""
        assert self.process.stdout is not None
        return msgspec.convert(json.loads(self.process.stdout.readline()), StackInfo)

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit status and standard error."""
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told

    def alive(self) -> set[int]:
        """Process ids of it and its servers."""
        servers = {int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit() and self._writes_here(one)}
        return servers | ({self.process.pid} if self.process.poll() is None else set())

    def _writes_here(self, process: Path) -> bool:
        try:
            return (process / "fd" / "1").readlink().is_relative_to(self.state_dir)
        except OSError:  # ended, or somebody else's
            return False

    def nothing_left(self) -> None:
        """Wait until none of its processes is alive."""
        _until(lambda: not self.alive(), f"all processes ended, left: {self.alive()}")


def _until(check: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 20
    while not check():
        assert time.monotonic() < until, what
        time.sleep(0.05)


Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a stack; whatever a test leaves is killed."""
    begun: list[Command] = []

    def make(*words: str) -> Command:
        begun.append(Command(tmp_path / "stack", *words))
        return begun[-1]

    yield make
    for command in begun:
        for pid in command.alive():
            with suppress(ProcessLookupError):  # the first one's end ends the others
                os.kill(pid, signal.SIGKILL)
        command.process.communicate(timeout=20)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_killed_stack_leaves_no_process(start: Start) -> None:
    """SIGKILL of the command ends all its servers, and a new one can be started in the same place."""
    command = start()
    info = command.ready()
    assert set(info.pids) == {"azurite-blob", "azurite-queue", "redis", "s3", "kafka", "proxies"}
    assert set(info.pids.values()) | {info.pid} <= command.alive()
    os.kill(info.pid, signal.SIGKILL)
    command.nothing_left()
    assert read_info(command.state_dir) is None
    again = start()
    assert again.ready().pid == again.process.pid


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_stack_ends_cleanly(start: Start, how: signal.Signals) -> None:
    """On a signal it stops everything, removes its note and says nothing more; secrets were readable by nobody else."""
    command = start()
    info = command.ready()
    for name in ("stack.json", "stack.env", "federation.toml", "proxies.json"):
        assert (command.state_dir / name).stat().st_mode & 0o077 == 0
    command.process.send_signal(how)
    assert command.end() == (exit_codes.OK, "")
    command.nothing_left()
    assert read_info(command.state_dir) is None
    for url in (info.blob_endpoint, info.s3_endpoint, info.redis_url, info.control_url):
        port = int(url.split(":")[2].partition("/")[0])
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_signal_while_starting_leaves_nothing(start: Start) -> None:
    """Stopped as soon as its first server runs, it ends and leaves none."""
    command = start()
    _until(lambda: len(command.alive()) > 1, "a server was started")
    command.process.send_signal(signal.SIGTERM)
    status, _ = command.end()
    assert status == exit_codes.OK
    command.nothing_left()


@pytest.mark.parametrize(("option", "server"), [("--redis-port", "redis"), ("--blob-port", "proxies"), ("--s3-port", "proxies")])
def test_a_server_that_cannot_start_is_named(start: Start, taken: int, option: str, server: str) -> None:
    """A taken port: exit status 1, the server and its reason, no traceback of ours, nothing left running."""
    command = start(option, str(taken))
    status, told = command.end()
    assert status == exit_codes.PROBLEMS
    assert told.startswith(f"fedplane: {server} ")
    assert "in use" in told
    command.nothing_left()
    assert read_info(command.state_dir) is None


def test_a_server_that_dies_is_named(start: Start) -> None:
    """When a server ends by itself, the stack ends too and says which."""
    command = start()
    os.kill(command.ready().pids["redis"], signal.SIGKILL)
    status, told = command.end()
    assert (status, told.startswith("fedplane: redis ended unexpectedly.")) == (exit_codes.PROBLEMS, True)
    command.nothing_left()


def test_one_stack_a_place_and_down_ends_it(start: Start) -> None:
    """A second one is refused with the way out, which is `down`."""
    first = start()
    first.ready()
    status, told = start().end()
    assert (status, "stack down" in told) == (exit_codes.USAGE, True)
    down = [sys.executable, "-m", "fedplane.cli", "stack", "down", "--state-dir", str(first.state_dir)]
    subprocess.run(down, check=True, capture_output=True, timeout=60)  # noqa: S603 - our own command
    assert first.end()[0] == exit_codes.OK
    first.nothing_left()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("--drop", "2"), exit_codes.USAGE, "between 0 and 1"),
        (("--s3", "minio"), exit_codes.USAGE, "minio"),
        (("--keep",), exit_codes.PROBLEMS, "--s3 versitygw"),
    ],
)
def test_wrong_options_are_told(start: Start, words: tuple[str, ...], status: int, text: str) -> None:
    """Before anything is started."""
    command = start(*words)
    found, told = command.end()
    assert (found, text in told) == (status, True)
    assert not command.alive()
