"""A ``fedplane state import`` in small pieces that is killed after some of them: python -m tests.contract.killed_import N ..."""

from __future__ import annotations

import os
import signal
import sys

from federation.state import importing, portable
from federation.state.redis_state import RedisState
from fedplane import cli


class _Killed(RedisState):
    """Says after each piece that it goes on."""

    left = 0

    async def own(self, task: str, *, owner: str, ttl_seconds: float) -> bool:
        """SIGKILL when enough was done."""
        _Killed.left -= 1
        if _Killed.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().own(task, owner=owner, ttl_seconds=ttl_seconds)


if __name__ == "__main__":
    _Killed.left = int(sys.argv.pop(1))
    importing.OWNED_SECONDS, importing._AT_ONCE, portable.AT_ONCE = 0.2, 20, 4
    sys.modules["federation.state.redis_state"].RedisState = _Killed  # type: ignore[attr-defined]
    cli.main()
