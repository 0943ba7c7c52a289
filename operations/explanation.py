"""Why one key is the way it is: all that is known of it, and what would be done now. Writes nothing."""

from __future__ import annotations

from typing import Any

import msgspec

from federation.errors import UsageError
from federation.keys import why_never
from federation.model import Absent, Base, Hint, Present, Side, Unknown
from federation.progress import ConflictRecord, Held, Parked
from federation.rules.decision import Decision
from federation.rules.parking import parking
from federation.sync.plan import Plan, plan
from federation.wiring import PairRuntime


class Explanation(msgspec.Struct, kw_only=True):
    """All that is known of one key, and what would be done now."""

    pair: str
    key: str
    base: Base | None
    hint: Hint | None
    blob: Any
    vast: Any
    decision: Decision
    parked: Parked | None
    way_back: str
    """Of the reason it is parked for; empty when it is not."""
    held: Held | None
    conflicts: list[ConflictRecord]
    assumed_capabilities: tuple[Side, ...]
    """Sides whose servers' capabilities were not known when it was read and decided."""

    @property
    def known(self) -> bool:
        """Whether anything is recorded of the key."""
        return any((self.base, self.hint, self.parked, self.held, self.conflicts))


async def explanation(runtime: PairRuntime, key: str, assumed: tuple[Side, ...]) -> tuple[Explanation, Plan]:
    """Look at the state and at both sides. Raises RetryLater when the state cannot be read, UsageError for a key of ours.

    *assumed*: sides whose servers' capabilities are not known (``capabilities.recall``).
    """
    why = why_never(key)
    if why:
        raise UsageError(f"{why[0].upper()}{why[1:]}; there is nothing to decide.", reason="never_synchronised")
    hint, base, parked, held = await runtime.state.explain(key)
    planned = await plan(runtime.context, key)
    conflicts = await runtime.state.conflicts(key)
    found = Explanation(
        pair=runtime.settings.name,
        key=key,
        base=base,
        hint=hint,
        blob=_tagged(planned.blob),
        vast=_tagged(planned.vast),
        decision=planned.decision,
        parked=parked,
        way_back=parking(parked.reason).way_back if parked is not None else "",
        held=held,
        conflicts=conflicts,
        assumed_capabilities=assumed,
    )
    return found, planned


def _tagged(seen: Present | Absent | Unknown) -> dict[str, Any]:
    return {"is": type(seen).__name__.lower(), "seen": seen}
