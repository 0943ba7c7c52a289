"""The real clock; tests and the simulation inject their own."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """``ports.Clock`` on this machine."""

    def now_us(self) -> int:
        """Wall clock, microseconds since 1970 UTC."""
        return time.time_ns() // 1_000

    def monotonic_seconds(self) -> float:
        """A clock that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Suspend the task."""
        await asyncio.sleep(seconds)
