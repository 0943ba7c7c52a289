"""Which shards are claimed from next, and how many keys of each."""

from __future__ import annotations

import pytest

from federation.sync.ready import Portion, ReadyShards

SHARDS = 24


def test_announced_shards_come_first_but_for_every_fourth_time() -> None:
    """Where only one kind is ready it is that one's turn; what was named before keeps its place; one may be of both kinds."""
    ready = ReadyShards()
    for shard in (0, 1, 3, 0):
        ready.add(shard)
    for shard in (3, 7, 8, 9, 7):
        ready.add(shard, announced=True)
    assert 9 in ready
    taken = [list(ready.take().items()) for _ in range(5)]
    assert taken == [[(3, True), (7, True)], [(8, True), (0, False)], [(9, True), (1, False)], [(3, False)], []]
    for _ in range(2):
        ready.add(5)
        ready.add(5, announced=True)
    assert [ready.take() for _ in range(3)] == [{5: False}, {5: True}, {}], "never twice at one time"
    ready.add(5)
    ready.add(5, announced=True)
    ready.discard(5)
    assert 5 not in ready
    assert ready.take() == {}


@pytest.mark.parametrize("announced", [1, 2, 3, 4, 6, 21])
def test_no_shard_is_passed_over_for_ever(announced: int) -> None:
    """So many shards with announced changes without end: what else waits in them has its turn as what waits in others."""
    ready, looked, rounds = ReadyShards(), set[int](), 16 * SHARDS
    for _ in range(rounds):
        for shard in range(SHARDS):
            ready.add(shard)
            if shard < announced:
                ready.add(shard, announced=True)
        looked |= {shard for shard, fresh in ready.take().items() if not fresh}
    assert looked == set(range(SHARDS))


def test_a_claim_takes_few_keys_while_places_are_long_in_coming() -> None:
    """Half as many each time, two at least, and at least one of them the newest; claims without keys say nothing."""
    portion = Portion()
    seen = []
    for keys, seconds in [(8, 0.1), (8, 3.0), (0, 0.0), (4, 3.0), (2, 3.0), (2, 0.1), (4, 0.1), (8, 0.1)]:
        portion.placed(keys, seconds)
        seen.append((portion.keys, portion.newest))
    assert seen == [(8, 2), (4, 1), (4, 1), (2, 1), (2, 1), (4, 1), (8, 2), (8, 2)]
