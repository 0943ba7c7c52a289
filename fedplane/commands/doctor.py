"""``fedplane doctor``: is everything there and allowed, and what follows from what the servers can do."""

from __future__ import annotations

import asyncio

import typer

from federation.clock import SystemClock
from federation.errors import FederationError, RetryLater, UsageError
from federation.model import Side
from federation.settings import PairSettings, Settings
from federation.wiring import open_pair
from fedplane import checks, exit_codes
from fedplane.checks import Finding
from fedplane.commands.common import ConfigOption, JsonOption, PairOption, chosen, read_settings
from fedplane.output import emit

_MARKS = {"ok": "ok  ", "note": "note", "broken": "FAIL", "unreachable": "GONE"}


def doctor(config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False) -> None:
    """Check both sides, Redis, queue and Kafka. Writes and removes small objects under .federation/probe/ on both sides."""
    settings = read_settings(config)
    pairs = chosen(settings, pair)
    found = {"redis": asyncio.run(checks.redis(settings))}
    refused: list[FederationError] = []
    if all(one.level != "unreachable" for one in found["redis"]):
        for one in pairs:
            refused += _looked_at(settings, one, found.setdefault(f"pair {one.name}", []))
    emit(found, "\n".join(_text(name, findings) for name, findings in found.items()), as_json=as_json)
    if refused:  # said once more by itself; a mistake in the settings before all else
        raise max(refused, key=lambda error: isinstance(error, UsageError))
    levels = {finding.level for findings in found.values() for finding in findings}
    if "unreachable" in levels:
        raise typer.Exit(exit_codes.UNREACHABLE)
    if "broken" in levels:
        raise typer.Exit(exit_codes.PROBLEMS)


def _looked_at(settings: Settings, pair: PairSettings, found: list[Finding]) -> list[FederationError]:
    """Add to *found*. What keeps one pair from being looked at hides nothing of the others: it is returned."""
    try:
        asyncio.run(_pair(settings, pair, found))
    except RetryLater as error:
        found.append(Finding(what="state", level="unreachable", found="cannot be read", then=str(error)))
    except FederationError as error:
        found.append(checks.failed("pair", error))
        return [error]
    return []


async def _pair(settings: Settings, pair: PairSettings, found: list[Finding]) -> None:
    """Add to *found*. Raises UsageError, and what opening the pair raises: steps tell of their own failures."""
    from fedplane import event_checks  # noqa: PLC0415 - Kafka and queue clients, slow to import, needed here only

    async with open_pair(settings, pair, SystemClock(), create=False) as runtime:
        found += await checks.step("state: layout", checks.layout(runtime, settings.worker))
        for side in Side:
            found += await checks.side(runtime, side)
        if all(one.level in ("ok", "note") for one in found):
            found += await checks.probe(runtime)
        found += await checks.step("events", event_checks.sources(pair, runtime.credential))


def _text(name: str, findings: list[Finding]) -> str:
    lines = [name]
    for one in findings:
        lines.append(f"  {_MARKS[one.level]}  {one.what}: {one.found}")
        if one.then:
            lines.append(f"          {one.then}")
    return "\n".join(lines)
