"""Guards of a whole pair: options that its base rests on, and deletes told apart from renames."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from federation import wiring
from federation.errors import Halt, RetryLater
from federation.model import Foreign, Mode, Side
from federation.progress import OPTIONS_NOTE, DeleteBudget, DeleteTally
from federation.rules.decision import Rules
from federation.rules.guards import PAIR_OPTIONS_CHANGED
from federation.settings import PairSettings, Settings
from federation.state.memory_state import MemoryState
from federation.sync.apply import DeleteHeld
from federation.sync.budget import ByteBudget
from federation.wiring import guard_options, open_or_begin, options_changed
from fedplane.exit_codes import HALTED, for_error
from fedplane.status_text import page
from operations.status import pair_status
from tests.contract.state_support import agree
from tests.unit.world import FakeClock, World

BUDGET = DeleteBudget(count=1000, share=1.0, window_seconds=600)


Changed = dict[str, dict[str, Any]]


def pair(changed: Changed | None = None, url: str = "https://acct.blob.example") -> PairSettings:
    """A pair with some options of its sides changed."""
    changed = changed or {}
    blob = {"account_url": url, "container": "c", "prefix": "data/"}
    vast = {"endpoint": "https://vast", "bucket": "b", "prefix": "", "access_key_env": "A", "secret_key_env": "S"}
    return PairSettings.model_validate(
        {"name": "p", "blob": blob | changed.get("blob", {}), "vast": vast | changed.get("vast", {}), **changed.get("pair", {})}
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"blob": {"prefix": "other/"}}, "blob.prefix"),
        ({"blob": {"container": "other"}}, "blob.container"),
        ({"blob": {"account_url": "https://other.blob.example"}}, "blob account"),
        ({"vast": {"prefix": "other/"}}, "vast.prefix"),
        ({"vast": {"bucket": "other"}}, "vast.bucket"),
        ({"vast": {"name_policy": "native"}}, "vast.name_policy"),
    ],
)
async def test_a_pair_whose_place_or_names_changed_is_halted_before_anything_looks_deleted(changed: Changed, named: str) -> None:
    """Refused at start and told in status, until the settings are as they were; then the halt ends by itself."""
    clock = FakeClock()
    state = MemoryState("p", shards=1, clock=clock)
    await guard_options(state, pair(), clock)
    await agree(state, "k")
    with pytest.raises(Halt, match=named) as refused:
        await guard_options(state, pair(changed), clock)
    with pytest.raises(Halt, match=named):
        await guard_options(state, pair(changed), clock)
    assert for_error(refused.value) == HALTED
    assert [halt.name for halt in await state.halts()] == [PAIR_OPTIONS_CHANGED]
    assert await options_changed(state, pair(changed)) == (named,)

    await guard_options(state, pair(), clock)
    assert await state.halts() == []


@pytest.mark.parametrize(
    "moved",
    [
        {"blob": {"account_url": "https://ACCT.privatelink.blob.example:8443/"}},
        {"vast": {"endpoint": "https://10.0.0.7:9090"}},
        {"pair": {"mode": Mode.VAST_MASTER, "rules": {"deletes": "ignore"}}},
    ],
    ids=["endpoint_of_the_account", "vast_endpoint", "rules"],
)
async def test_endpoints_and_rules_may_change(moved: Changed) -> None:
    """The objects are the same, wherever they are reached and whatever is to be done about them."""
    clock = FakeClock()
    state = MemoryState("p", shards=1, clock=clock)
    await guard_options(state, pair(), clock)
    await agree(state, "k")
    await guard_options(state, pair(moved), clock)
    assert await state.halts() == []


async def test_before_anything_was_agreed_on_a_name_may_be_corrected() -> None:
    """A first start with a mistyped container does not pin the pair to it."""
    clock = FakeClock()
    state = MemoryState("p", shards=1, clock=clock)
    await guard_options(state, pair({"blob": {"container": "tpyo"}}), clock)
    await guard_options(state, pair(), clock)
    await agree(state, "k")
    with pytest.raises(Halt, match=r"blob\.container"):
        await guard_options(state, pair({"blob": {"container": "tpyo"}}), clock)


class Watched(MemoryState):
    """Says at every beginning what was noted before."""

    async def open(self, *, create: bool = True) -> bool:
        """As in the port."""
        assert not create or await self.note(OPTIONS_NOTE), "who dies now leaves a state without a guard"
        return await super().open(create=create)


async def test_a_state_begun_anew_under_a_running_process_is_guarded_too() -> None:
    """After FLUSHALL the options are noted again, before the state is there: other ones are refused at the next start."""
    clock = FakeClock()
    state = Watched("p", shards=1, clock=clock)
    assert not await open_or_begin(state, pair(), clock)
    assert await open_or_begin(state, pair(), clock)
    await agree(state, "k")
    with pytest.raises(Halt, match=r"vast\.name_policy"):
        await guard_options(state, pair({"vast": {"name_policy": "native"}}), clock)


def test_the_account_of_an_emulator_is_in_its_path() -> None:
    """Where the host is an address, its port says nothing of the account."""
    names = [pair(url=f"http://127.0.0.1:{port}/devstoreaccount1").identity["blob account"] for port in (10_000, 20_000)]
    assert names == ["devstoreaccount1", "devstoreaccount1"]


@pytest.mark.parametrize("side", list(Side), ids=str)
async def test_a_rename_is_a_delete_that_is_called_a_rename(side: Side) -> None:
    """It takes its part of the budget as any delete, and both numbers can be told."""
    world = World()
    for key in ("moved", "gone"):
        await world.write(side, key, f"content of {key}")
    await world.step()
    world.later(3600)
    await world.write(side, "new name", "content of moved")
    for key in ("moved", "gone"):
        await world.remove(side, key)
    await world.step()

    assert await world.state.delete_tally(BUDGET, now_us=world.clock.us) == DeleteTally(done=2, done_renames=1)


@pytest.mark.parametrize("side", list(Side), ids=str)
async def test_what_is_written_again_and_deleted_again_is_another_delete(side: Side) -> None:
    """Names that were deleted once in the window open the budget for nothing: it counts deletes."""
    world = World()
    world.ctx = replace(world.ctx, delete_budget=replace(BUDGET, count=1))
    for attempt in (nullcontext(), pytest.raises(DeleteHeld)):
        await world.write(side, "k", "content")
        await world.step()
        world.later(3)
        await world.remove(side, "k")
        with attempt:
            await world.step()
        world.later(3)
    assert await world.both("k") == ((None, "content") if side is Side.BLOB else ("content", None))


@pytest.mark.parametrize("side", list(Side), ids=str)
async def test_a_delete_that_is_tried_again_counts_once(side: Side) -> None:
    """Whether the attempt looked at what it deletes, or knew it: a fault of one side does not halve the budget."""
    world = World()
    await world.write(side, "k", "content")
    world.later(30)
    await world.step()
    world.later(30)
    await world.remove(side, "k")
    world.later(30)
    world.raw[side.other].fail_next("delete", RetryLater("away", reason="server_error"))
    with pytest.raises(RetryLater):
        await world.step()
    await world.crash()
    world.later(2)
    await world.step()
    assert await world.both("k") == (None, None)
    assert (await world.state.delete_tally(BUDGET, now_us=world.clock.us)).done == 1


async def test_status_tells_deletes_and_renames_as_both_numbers() -> None:
    """Only where there are any: a quiet pair has no such line."""
    clock = FakeClock()
    state = MemoryState("p", shards=1, clock=clock)
    assert "deletes" not in page(await pair_status(state, pair(), clock.us))

    for key in ("a", "b"):
        await state.note_deleted(key, f"{key}:1", now_us=clock.us)
        assert await state.reserve_delete(f"vast:{key}", BUDGET, objects=0, now_us=clock.us)
    await state.note_created("c", "a:1", now_us=clock.us)
    text = page(await pair_status(state, pair(), clock.us))
    assert "within the delete budget: 2 deletes, 1 of them renames; held: 0 deletes" in text


def test_the_rules_of_the_settings_reach_the_engine() -> None:
    """What a user writes under [pair.rules] is what decide, the budgets and the limits are asked with."""
    rules = {
        "tie_winner": "vast",
        "deletes_to_vast": "ignore",
        "foreign": "preserve_and_remove",
        "revert_limit": 7,
        "clock_uncertainty_seconds": 2.5,
        "delete_budget_count": 5,
        "delete_budget_share": 0.5,
        "delete_budget_window_seconds": 60,
    }
    chosen = pair({"pair": {"mode": "blob_master", "rules": rules}})
    clock = FakeClock()
    state = MemoryState("p", shards=1, clock=clock)
    built = wiring._context(Settings(pair=(chosen,)), chosen, {}, state, clock, ByteBudget(1))

    assert built.rules == Rules(
        mode=Mode.BLOB_MASTER,
        tie_winner=Side.VAST,
        deletes_to_blob=True,
        deletes_to_vast=False,
        foreign=Foreign.PRESERVE_AND_REMOVE,
        clock_uncertainty_us=2_500_000,
    )
    assert built.delete_budget == DeleteBudget(5, 0.5, 60)
    assert built.revert_limit == 7
