"""What would be done about a key, without doing it: for dry runs and ``explain``."""

from __future__ import annotations

from dataclasses import dataclass

from federation.errors import FederationError
from federation.model import Absent, Base, Hint, Present, Side, Unknown
from federation.ports import ObjectStore
from federation.rules.decide import decide
from federation.rules.decision import Decision
from federation.sync.context import PairContext
from federation.sync.observe import observe


@dataclass(frozen=True, slots=True)
class Plan:
    """Both observations as read now, the base, and the decision that follows. Contents are not read: HASH stays HASH."""

    key: str
    blob: Present | Absent | Unknown
    vast: Present | Absent | Unknown
    base: Base | None
    decision: Decision


async def plan(ctx: PairContext, key: str) -> Plan:
    """Look at both sides and decide. Writes nothing anywhere; an unreadable side becomes Unknown."""
    hint, base, _, _ = await ctx.state.explain(key)
    known = hint or Hint(key=key, generation=0)
    blob = await _observed(ctx.stores[Side.BLOB], key, known)
    vast = await _observed(ctx.stores[Side.VAST], key, known)
    return Plan(key, blob, vast, base, decide(blob, vast, base, await ctx.current_rules()))


async def _observed(store: ObjectStore, key: str, hint: Hint) -> Present | Absent | Unknown:
    try:
        return await observe(store, key, hint)
    except FederationError as error:
        return Unknown(str(error))
