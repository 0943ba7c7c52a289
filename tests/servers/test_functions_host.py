"""The host of the acceptance runs, small: several instances, timers, queues, a kill, and what a message's failures lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedplane.localstack.info import StackInfo
from tests.functions_host.host import Host, QueueRules
from tests.functions_host.schedule import next_seconds
from tests.servers.functions_lab import App
from tests.servers.stack_lab import Lab
from tests.servers.support import eventually

KEYS = 12
RULES = QueueRules(at_once=8, refill_below=8, visibility_seconds=1, max_dequeue_count=3, longest_pause_seconds=0.5)


@pytest.mark.parametrize(
    ("schedule", "now", "seconds"), [("0 * * * * *", 61.0, 59.0), ("20 * * * * *", 61.0, 19.0), ("*/5 * * * * *", 61.0, 4.0)]
)
def test_timers_fire_when_their_schedules_say(schedule: str, now: float, seconds: float) -> None:
    """And proportionally sooner on a clock whose minutes are shorter."""
    assert next_seconds(schedule, now, 60.0) == pytest.approx(seconds)
    assert next_seconds(schedule, now / 10, 6.0) == pytest.approx(seconds / 10)


@pytest.mark.servers
@pytest.mark.asyncio(loop_scope="session")
async def test_two_instances_keep_both_sides_one_though_one_is_killed(info: StackInfo, lab: Lab, tmp_path: Path) -> None:
    """Changes of both sides come over by queue, reader, doorbells and sweep; no ``fedplane run`` is there."""
    app = App(info, tmp_path)
    app.environment["FEDERATION__WORKER__LEASE_SECONDS"] = "2"
    async with app.queue_client(app.queue) as queue:
        await queue.create_queue()
        async with Host(app.environment, tmp_path / "host", instances=2, minute_seconds=4.0, rules=RULES) as host:
            for number in range(KEYS):
                lab.put("blob", f"{app.prefix}b{number}", b"from blob")
                lab.put("vast", f"{app.prefix}v{number}", b"from vast")
                await queue.send_message(app.message(f"b{number}"))
                if number == KEYS // 2:
                    await host.kill(0)

            def equal() -> bool:
                found = [lab.get_direct("vast", f"{app.prefix}b{number}") for number in range(KEYS)]
                found += [lab.get_direct("blob", f"{app.prefix}v{number}") for number in range(KEYS)]
                return None not in found

            await eventually(equal, "everything came over", seconds=60)
            host.check()
            assert host.tally.faults == {}


@pytest.mark.servers
@pytest.mark.asyncio(loop_scope="session")
async def test_a_message_that_fails_is_seen_again_and_given_up_on_at_last(info: StackInfo, tmp_path: Path) -> None:
    """With its dequeue count, after the visibility of host.json; then it is in the poison queue, whole."""
    app = App(info, tmp_path)
    app.environment["FEDERATION__REDIS__URL"] = "redis://127.0.0.1:1/0"  # nothing listens there
    async with app.queue_client(app.queue) as queue, app.queue_client(f"{app.queue}-poison") as poison:
        await queue.create_queue()
        sent = app.message("a")
        await queue.send_message(sent)
        only = frozenset({"sweep", "reconcile_start", "vast_events", "doorbell", "reconcile_range"})
        async with Host(app.environment, tmp_path / "host", rules=RULES, without=only) as host:
            await eventually(lambda: host.tally.poisoned["event_grid_queue"] == 1, "the host gave up", seconds=60)
            assert host.tally.failed["event_grid_queue"] == RULES.max_dequeue_count
        [message] = [one async for one in poison.receive_messages()]
        assert message.content == sent
        assert (await queue.get_queue_properties()).approximate_message_count == 0
