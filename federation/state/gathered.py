"""Commands to one server that come at one time go in one round trip, each with a reply of its own.

A command by itself costs the client about as much processor time as ten that travel together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

AT_ONCE = 200
"""Commands in one round trip at most."""
_TRIPS = 2
"""Round trips under way at a time: one that is not answered must not hold up everything."""

Command = tuple[Any, ...]
Send = Callable[[Sequence[Command]], Awaitable[list[Any]]]
"""Sends commands and returns their replies; an error that the server answered with is one of them."""


class Gathered:
    """Gathers commands while others are under way."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._trips: set[asyncio.Task[None]] = set()

    async def reply(self, command: Command) -> Any:  # noqa: ANN401 - Redis' own reply types
        """The reply of *command*, also an error. Raises what failed on the way; cancelled, it may have run or not."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, done))
        # Not len(self._trips): between a trip's end and its callback a command would wait for one that is over.
        if sum(not trip.done() for trip in self._trips) < _TRIPS:
            trip = asyncio.create_task(self._travel())
            self._trips.add(trip)
            trip.add_done_callback(self._trips.discard)
        return await done

    async def _travel(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # whoever is ready now comes along
            wanted = [one for one in self._waiting if not one[1].done()]  # not of callers that were cancelled meanwhile
            batch, self._waiting = wanted[:AT_ONCE], wanted[AT_ONCE:]
            if not batch:
                return  # the other trip took it
            try:
                replies = await self._send([command for command, _ in batch])
                for (_, done), reply in zip(batch, replies, strict=True):
                    if not done.done():
                        done.set_result(reply)
            except Exception as error:  # noqa: BLE001 - every one of the waiting raises it
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
