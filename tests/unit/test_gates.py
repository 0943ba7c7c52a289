"""What processes tell each other of the endpoints they share."""

from __future__ import annotations

import pytest

from federation.errors import RetryLater, UsageError
from federation.model import Side
from federation.state.memory_state import MemoryState
from federation.sync.gates import GateBook, PaceShare
from federation.sync.pacing import Gate, PaceLimits
from tests.unit.world import FakeClock


class Processes:
    """Two of them on one Redis, each with gates and a pair of its own."""

    def __init__(self, *places: tuple[str, str]) -> None:
        self.clock = FakeClock()
        self.states = [MemoryState(f"pair {at}", shards=1, clock=self.clock) for at in range(len(places))]
        self.gates: list[dict[Side, Gate]] = []
        self.shares: list[PaceShare] = []
        for at, (state, place) in enumerate(zip(self.states, places, strict=True)):
            state.told_paces = self.states[0].told_paces
            book = GateBook(self.clock, PaceLimits())
            self.gates.append({side: book.gate(side, url) for side, url in zip(Side, place, strict=True)})
            self.shares.append(PaceShare(state, self.gates[at], self.clock, f"process {at}"))


ACCOUNT, OTHER_ACCOUNT, CLUSTER = "https://a.example", "https://b.example", "https://v.example"


async def test_processes_tell_each_other_of_rest_and_of_themselves() -> None:
    """A throttle that one saw keeps the other away as long; each takes its part of the rates; who left counts no more."""
    world = Processes((ACCOUNT, CLUSTER), (ACCOUNT, CLUSTER))
    (one, two), gates, clock = world.shares, world.gates, world.clock
    gates[0][Side.BLOB].failed(RetryLater("503", reason="throttled", after_seconds=30))
    await one.exchange()
    await two.exchange()
    assert gates[1][Side.BLOB].closed_for_seconds() == pytest.approx(30)
    assert gates[1][Side.VAST].closed_for_seconds() == 0
    assert gates[1][Side.BLOB].sharers == 2

    clock.us += 10_000_000
    await two.exchange()
    await one.exchange()
    assert gates[0][Side.BLOB].closed_for_seconds() == pytest.approx(20), "what was heard is not told on as news"
    await two.leave()
    await one.exchange()
    assert gates[0][Side.BLOB].sharers == 1


async def test_pairs_of_other_processes_share_an_endpoint_s_pace_and_no_other_s() -> None:
    """It is the endpoint that asks for rest and has rates, whatever pair calls; what is another's is left alone."""
    world = Processes((ACCOUNT, CLUSTER), (OTHER_ACCOUNT, f"{CLUSTER.upper()}/"))
    for side in Side:
        world.gates[0][side].failed(RetryLater("503", reason="throttled", after_seconds=30))
    for share in (*world.shares, *world.shares):
        await share.exchange()
    theirs = world.gates[1]
    assert theirs[Side.VAST].closed_for_seconds() == pytest.approx(30)
    assert theirs[Side.BLOB].closed_for_seconds() == 0
    assert [[gates[side].sharers for side in Side] for gates in world.gates] == [[1, 2], [1, 2]]


async def test_who_was_killed_is_forgotten() -> None:
    """It counts for seconds, and what it said goes when others have long been alone."""
    world = Processes((ACCOUNT, CLUSTER), (ACCOUNT, CLUSTER))
    for share in world.shares:
        await share.exchange()
    world.clock.us += 10_000_001
    await world.shares[1].exchange()
    assert world.gates[1][Side.BLOB].sharers == 1
    world.clock.us += 600_000_000
    await world.shares[1].exchange()
    assert [list(said) for said in world.states[0].told_paces.values()] == [["process 1"]] * 2


def test_pairs_share_the_gate_of_an_endpoint() -> None:
    """One gate an endpoint and side, however it is written; another endpoint has its own."""
    book = GateBook(FakeClock(), PaceLimits())
    assert book.gate(Side.VAST, "https://v.example/") is book.gate(Side.VAST, "https://V.example")
    assert book.gate(Side.VAST, "https://w.example") is not book.gate(Side.VAST, "https://v.example")


class OwnKeysOnly(MemoryState):
    """As of a Redis user who may touch the pair's own keys only."""

    async def tell_pace(self, endpoint: str, process: str, told: bytes) -> None:
        """Refused."""
        del endpoint, process, told
        raise UsageError("NOPERM", reason="redis_refused")


async def test_who_may_not_share_works_on_alone() -> None:
    """Notices are a help: a Redis user without the right to them ends no pair."""
    world = Processes((ACCOUNT, CLUSTER))
    gates, begun_us = world.gates[0], world.clock.us
    gates[Side.BLOB].sharers = 3
    share = PaceShare(OwnKeysOnly("pair", shards=1, clock=world.clock), gates, world.clock, "alone")
    for step in (share.exchange, share.exchange, share.leave):
        await step()
    assert [gate.sharers for gate in gates.values()] == [1, 1]
    share._state = world.states[0]
    for _ in range(2):
        await share.exchange()
        assert bool(world.states[0].told_paces) is (world.clock.us > 600_000_000 + begun_us)
        world.clock.us += 600_000_001


async def test_what_another_version_says_of_its_pace_is_passed_over() -> None:
    """It may say it in other words: it counts as one more; those who can be understood are heard."""
    world = Processes((ACCOUNT, CLUSTER), (ACCOUNT, CLUSTER))
    gates = world.gates[0]
    await world.states[0].tell_pace(gates[Side.BLOB].endpoint, "newer", b'{"at": "noon"}')
    for share in (*world.shares, *world.shares):
        await share.exchange()
    assert gates[Side.BLOB].sharers == 3
    for _ in range(65):
        world.clock.us += 9_999_999
        for share in world.shares:
            await share.exchange()
    assert gates[Side.BLOB].sharers == 2, "what never changes is of nobody who is there"
    assert "newer" not in world.states[0].told_paces[gates[Side.BLOB].endpoint]


@pytest.mark.parametrize(
    ("until", "rest_seconds"),
    [("9" * 400, 120), ("-" + "9" * 400, 0), ("9" * 5_000, 0), ("1e300", 0)],
    ids=lambda value: str(value)[:5],
)
async def test_a_damaged_word_about_rest_closes_for_no_longer_than_any(until: str, rest_seconds: int) -> None:
    """Whatever number stands there, it ends nobody, and the longest rest is the longest that a side may ask for."""
    world = Processes((ACCOUNT, CLUSTER))
    gate, now_us = world.gates[0][Side.BLOB], world.clock.us
    said = f'{{"at_us":{now_us},"closed_until_us":{until}}}'
    await world.states[0].tell_pace(gate.endpoint, "damaged", said.encode())
    await world.shares[0].exchange()
    assert gate.sharers == 2
    assert gate.closed_for_seconds() == pytest.approx(rest_seconds)


async def test_words_nested_without_end_end_nobody() -> None:
    """What exhausts the decoder is as unreadable as any other."""
    world = Processes((ACCOUNT, CLUSTER))
    gate = world.gates[0][Side.BLOB]
    await world.states[0].tell_pace(gate.endpoint, "damaged", b'{"x":' * 100_000)
    await world.shares[0].exchange()
    assert gate.sharers == 2
