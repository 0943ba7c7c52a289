"""What is marked without a time waits since now by its side's clock, and rather longer than shorter (rule 9)."""

from __future__ import annotations

import pytest

from federation.model import UNMEASURED_US, Change, ClockSkew, Side, Source
from fedplane.commands.reconcile import waits
from tests.unit.world import SECOND, World


@pytest.mark.parametrize(
    ("skew", "since_us"),
    [
        (ClockSkew(-30 * SECOND, 40_000), -30 * SECOND - 40_000),
        (ClockSkew(30 * SECOND, 400_000), 30 * SECOND - 100_000),
        (ClockSkew(0, UNMEASURED_US), -100_000),
    ],
    ids=["behind", "ahead", "not measured"],
)
async def test_a_mark_tells_the_state_where_the_clocks_are(
    monkeypatch: pytest.MonkeyPatch, skew: ClockSkew, since_us: int
) -> None:
    """By the measured difference, less its doubt as far as that is bounded."""
    world = World()

    async def measured() -> ClockSkew:
        return skew

    monkeypatch.setattr(world.raw[Side.VAST], "clock_skew", measured)
    await world.ctx.mark([Change("k", Side.VAST, Source.RECONCILER, deleted=True)])
    assert (await world.state.backlog()).oldest_us_by_side[Side.VAST] == world.clock.us + since_us


@pytest.mark.parametrize("ahead_us", [-30 * SECOND, 0, 30 * SECOND])
async def test_what_a_scan_marked_is_waited_for_whatever_the_clocks(ahead_us: int) -> None:
    """``fedplane reconcile`` does not end before it is applied, and does not wait for what came after the scan."""
    world = World()
    world.state.ahead_us[Side.VAST] = ahead_us
    await world.state.mark([Change("k", Side.VAST, Source.RECONCILER, deleted=True)])
    backlog = await world.state.backlog()
    assert waits(backlog, world.state.ahead_us, world.clock.us)
    assert not waits(backlog, world.state.ahead_us, world.clock.us - 1)
