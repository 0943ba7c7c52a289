"""Commands that come at one time travel together, and each caller gets what is his."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from federation.state.gathered import AT_ONCE, Command, Gathered


class _Server:
    """Answers when it is let; an odd number is refused, a negative one breaks the round trip."""

    def __init__(self) -> None:
        self.trips: list[list[Any]] = []
        self.answers = asyncio.Event()

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        self.trips.append([number for (number,) in commands])
        await self.answers.wait()
        if any(number < 0 for (number,) in commands):
            raise ConnectionError("cut")
        return [ValueError(number) if number % 2 else number for (number,) in commands]


async def test_what_comes_meanwhile_travels_together() -> None:
    """While two round trips are under way the rest gathers, goes in one, and each caller gets his own reply, also an error."""
    server = _Server()
    gathered = Gathered(server.send)
    callers = [asyncio.create_task(gathered.reply((number,))) for number in range(4)]
    while len(server.trips) < 1:
        await asyncio.sleep(0)
    callers += [asyncio.create_task(gathered.reply((number,))) for number in range(4, 8)]
    while len(server.trips) < 2:
        await asyncio.sleep(0)
    callers += [asyncio.create_task(gathered.reply((number,))) for number in range(8, 12 + AT_ONCE)]
    await asyncio.sleep(0)
    server.answers.set()
    replies = await asyncio.gather(*callers)

    assert [len(trip) for trip in server.trips] == [4, 4, AT_ONCE, 4]
    assert [str(reply) for reply in replies] == [str(number) for number in range(12 + AT_ONCE)]
    assert {isinstance(reply, ValueError) for reply in replies[1::2]} == {True}


async def test_a_broken_round_trip_is_told_to_all_on_it_and_to_nobody_else() -> None:
    """Its callers raise, one who was cancelled is no matter, and what comes later goes on."""
    server = _Server()
    gathered = Gathered(server.send)
    lost = [asyncio.create_task(gathered.reply((number,))) for number in (2, -1, 4)]
    while not server.trips:
        await asyncio.sleep(0)
    lost[2].cancel()
    never_sent = asyncio.create_task(gathered.reply((8,)))
    later = asyncio.create_task(gathered.reply((6,)))
    asyncio.get_running_loop().call_soon(never_sent.cancel)
    server.answers.set()
    assert await later == 6
    assert server.trips == [[2, -1, 4], [6]]
    with pytest.raises(ConnectionError):
        await lost[0]
    with pytest.raises(ConnectionError):
        await lost[1]
    with pytest.raises(asyncio.CancelledError):
        await lost[2]


async def test_who_asks_again_while_both_round_trips_end_is_answered() -> None:
    """Also when nobody asks after him: no command waits for a round trip that is over."""
    server = _Server()
    gathered = Gathered(server.send)

    async def ask(*numbers: int) -> list[int]:
        return [await gathered.reply((number,)) for number in numbers]

    twice = asyncio.create_task(ask(2, 6))
    while len(server.trips) < 1:
        await asyncio.sleep(0)
    once = asyncio.create_task(ask(4))
    while len(server.trips) < 2:
        await asyncio.sleep(0)
    server.answers.set()
    async with asyncio.timeout(10):
        assert [*await twice, *await once] == [2, 6, 4]
