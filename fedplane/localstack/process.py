"""A server as a child process that cannot outlive us: started, waited for, stopped cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 8.0
_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)

_CANDIDATES = iter(random.SystemRandom().sample(range(15_000, 32_000), 17_000))
"""In an order of its own for every process, so that two started at once seldom meet."""

Ready = Callable[[], Awaitable[bool]]


class ServerFailed(Exception):
    """A server of the stack did not come up, or died. The text names it and shows the end of its log."""


def free_port() -> int:
    """A loopback port nobody listens on now, another at every call of this process.

    Below the ports that systems give to outgoing connections (Linux: from 32768): one of those could be
    taken by any client between this call and the server's start.
    """
    for port in _CANDIDATES:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerFailed("no free port between 15000 and 32000 on 127.0.0.1; stop what listens there")


async def port_answers(port: int) -> bool:
    """Whether something accepts connections on loopback *port*."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


class ManagedProcess:
    """One server. The kernel kills it when we die, even by SIGKILL, so nothing is orphaned."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, ready: Ready, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._ready = ready
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None
        self.stopped = False
        """Whether we stopped it ourselves."""

    @property
    def pid(self) -> int:
        """Process id; 0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start and wait until it is ready. Raises ServerFailed with the end of its log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.stopped = False
        with self.log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self._environment},
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._ready():
                    if self._process.returncode is not None:
                        raise ServerFailed(f"{self.name} ended with {self._process.returncode} at start.\n{self.log_tail()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            await self.stop()
            raise ServerFailed(f"{self.name} was not ready after {START_SECONDS:.0f} s.\n{self.log_tail()}") from None

    async def stop(self) -> None:
        """TERM, a bounded wait, then KILL for it and its children. Idempotent."""
        process, self._process = self._process, None
        self.stopped = True
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def wait(self) -> int:
        """Until it ends; its exit status."""
        return await self._process.wait() if self._process is not None else 0

    def log_tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-12:]) or "(its log is empty)"


def _die_with_parent() -> Callable[[], None] | None:
    # The signal is tied to the thread that forks; asyncio forks in the thread of its loop.
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def arm() -> None:
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)

    return arm
