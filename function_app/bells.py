"""Doorbells: messages that have a function come and look at one shard. What is to be done is in the state (docs/adr/0014)."""

from __future__ import annotations

import math
from secrets import token_hex

import msgspec

from federation.errors import RetryLater
from federation.ports import State
from federation.telemetry import logger
from function_app.queues import Queues

_LIFE_SECONDS = 60
"""How long a bell that was rung keeps others from ringing, should its message be lost."""
_log = logger("fedplane.functions")


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a doorbell's message says. ``task`` and ``owner``: what keeps others from ringing until it is answered."""

    pair: str
    shard: int
    task: str = ""
    owner: str = ""
    tidy: bool = False
    """Look for remains of large transfers too."""


class Bells:
    """Of one pair. A bell is rung at most once until it is answered, now and for later each; the sweep rings regardless."""

    def __init__(self, pair: str, state: State, queues: Queues, queue: str, lease_seconds: float) -> None:
        self._pair = pair
        self._state = state
        self._queues = queues
        self._queue = queue
        self._later_seconds = math.ceil(lease_seconds) + 1

    @property
    def later_seconds(self) -> int:
        """After which a call for later comes: by then the lease of who had the shard has ended, if they died."""
        return self._later_seconds

    async def ring(self, shard: int, *, later: bool = False) -> None:
        """Call for *shard*. When the call cannot be made the sweep will: what is due stays in the state."""
        task, owner = f"bell/{'later' if later else 'now'}/{shard}", token_hex(4)
        delay = self._later_seconds if later else 0
        try:
            if await self._state.own(task, owner=owner, ttl_seconds=delay + _LIFE_SECONDS):
                await self._send(Call(self._pair, shard, task, owner), delay)
        except RetryLater as error:
            _log.warning("a doorbell could not be rung; the sweep will", pair=self._pair, shard=shard, error=str(error))

    async def call(self, shard: int, *, delay_seconds: int = 0, tidy: bool = False) -> None:
        """Call whether or not somebody was called before. Raises RetryLater."""
        await self._send(Call(self._pair, shard, tidy=tidy), delay_seconds)

    async def answered(self, call: Call) -> None:
        """From now on others may ring again: before the shard is looked at, so that nothing falls between. Raises RetryLater."""
        if call.task:
            await self._state.disown(call.task, owner=call.owner)

    async def _send(self, call: Call, delay_seconds: int) -> None:
        await self._queues.send(self._queue, msgspec.json.encode(call).decode(), delay_seconds=delay_seconds)
