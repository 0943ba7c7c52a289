"""``fedplane explain KEY``: why a key is the way it is."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from federation.clock import SystemClock
from federation.model import Absent, Base, Hint, Present, Side, Unknown
from federation.rules.parking import parking
from federation.settings import PairSettings, Settings
from federation.sync.plan import Plan
from federation.wiring import open_pair
from fedplane.commands.common import ConfigOption, JsonOption, PairOption, only, read_settings, real_keys
from fedplane.commands.conflicts import kept_as
from fedplane.output import emit, iso, plain, size
from operations import capabilities
from operations.explanation import Explanation, explanation


def explain(
    key: Annotated[str, typer.Argument(help="Pair-relative key.", callback=real_keys)],
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """Base, hints, both sides as read now, the decision and why. Writes nothing."""
    settings = read_settings(config)
    found, planned = asyncio.run(_explain(settings, only(settings, pair), key))
    emit(found, _text(found, planned), as_json=as_json)


async def _explain(settings: Settings, pair: PairSettings, key: str) -> tuple[Explanation, Plan]:
    async with open_pair(settings, pair, SystemClock(), create=False) as runtime:
        return await explanation(runtime, key, await capabilities.recall(runtime))


def _text(found: Explanation, planned: Plan) -> str:
    decision = planned.decision
    arrow = f" {decision.source} -> {decision.source.other}" if decision.source is not None else ""
    lines = [
        plain(found.key),
        f"  blob:     {_seen(planned.blob)}",
        f"  vast:     {_seen(planned.vast)}",
        f"  base:     {_base(found.base)}",
        f"  hint:     {_hint(found.hint)}",
        f"  decision: {decision.action}{arrow}, because {decision.reason}",
    ]
    if not found.known and planned.blob == planned.vast == Absent():
        lines.append("  No side has it and nothing is recorded of it: is it spelt so? A key is without the pair's prefixes.")
    if found.parked is not None:
        told = parking(found.parked.reason)
        lines.append(f"  parked:   {found.parked.reason} since {iso(found.parked.since_us)}: {found.parked.detail}")
        lines.append(f"            {told.meaning} {told.way_back}")
    if found.held is not None:
        lines.append(f"  held:     delete on {found.held.delete_on}, {found.held.reason}, since {iso(found.held.since_us)}")
    lines += [
        f"  conflict: {one.conflict_id}, {one.winner_side} won ({one.reason}) {iso(one.at_us)}, loser kept as {kept_as(one)}"
        for one in found.conflicts
    ]
    if found.assumed_capabilities:
        lines.append(f"  {capabilities.assumed_text(found.assumed_capabilities)}")
    return "\n".join(lines)


def _seen(seen: Present | Absent | Unknown) -> str:
    match seen:
        case Unknown():
            return f"UNKNOWN: {seen.reason}"
        case Absent():
            return "absent" + (f", deleted {iso(seen.deleted.at_us)}" if seen.deleted is not None else "")
        case Present():
            version = seen.version
            ours = f", our copy of {seen.origin.side} {seen.origin.etag}" if seen.origin is not None else ""
            return f"{size(version.size_bytes)}, etag {version.etag}, modified {iso(version.modified.at_us)}{ours}"


def _base(base: Base | None) -> str:
    if base is None:
        return "none: never agreed on"
    if base.deleted:
        return f"both agreed it is deleted, {iso(base.written.at_us)}"
    etags = ", ".join(f"{side} {base.etag(side) or 'absent'}" for side in Side)
    return f"{etags}; {size(base.size_bytes)}, written {iso(base.written.at_us)} ({base.written.origin})"


def _hint(hint: Hint | None) -> str:
    if hint is None:
        return "none: not dirty"
    told = [f"{side} {'deleted' if entry.deleted else entry.etag or 'changed'}" for side in Side for entry in hint.entries(side)]
    error = f", last error: {hint.last_error}" if hint.last_error else ""
    return f"{'; '.join(told)} (from {', '.join(hint.sources)}), tried {hint.attempts} times{error}"
