"""Which of the deletes that a dry run found a run would hold (rule 8)."""

from __future__ import annotations

from collections.abc import Mapping

from federation.model import Side
from federation.ports import State
from federation.progress import DeleteBudget
from federation.rules.guards import MASS_DELETE, delete_limit


async def would_hold(
    state: State, budget: DeleteBudget, deletes: Mapping[Side, int], waiting: Mapping[Side, int], *, whole: bool, now_us: int
) -> dict[Side, int]:
    """How many of *deletes*, counted by the side they would be carried out on; *waiting*: those of them that are held already.

    All of a side where they are too many at once, or where an earlier scan found so, which only a scan of the *whole* pair ends;
    else what is held already and what the window's budget has no room for.
    """
    objects, done = (await state.backlog()).objects, (await state.delete_tally(budget, now_us=now_us)).done
    limit = delete_limit(objects, count=budget.count, share=budget.share)
    # A window's budget is a share of what there was before its deletes (reserve.lua).
    left = max(0, delete_limit(objects + done, count=budget.count, share=budget.share) - done)
    held: dict[Side, int] = {}
    for side, count in deletes.items():
        noted = not whole and await state.note(f"{MASS_DELETE}{side.other}")
        if noted or count > limit:
            held[side] = count
            continue
        fresh = count - waiting.get(side, 0)
        if over := count - min(fresh, left):
            held[side] = over
        left -= min(fresh, left)
    return held
