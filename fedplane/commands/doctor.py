"""``fedplane doctor``: is everything there and allowed, and what follows from what the servers can do."""

from __future__ import annotations

import asyncio

import typer

from federation.clock import SystemClock
from federation.errors import RetryLater
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
    if all(one.level != "unreachable" for one in found["redis"]):
        for one in pairs:
            found[f"pair {one.name}"] = asyncio.run(_pair(settings, one))
    emit(found, "\n".join(_text(name, findings) for name, findings in found.items()), as_json=as_json)
    levels = {finding.level for findings in found.values() for finding in findings}
    if "unreachable" in levels:
        raise typer.Exit(exit_codes.UNREACHABLE)
    if "broken" in levels:
        raise typer.Exit(exit_codes.PROBLEMS)


async def _pair(settings: Settings, pair: PairSettings) -> list[Finding]:
    from fedplane import event_checks  # noqa: PLC0415 - Kafka and queue clients, slow to import, needed here only

    found: list[Finding] = []
    try:
        async with open_pair(settings, pair, SystemClock(), create=False) as runtime:
            found.append(await checks.layout(runtime, settings.worker))
            for side in Side:
                found += await checks.side(runtime, side)
            if all(one.level in ("ok", "note") for one in found):
                found += await checks.probe(runtime)
            found += await event_checks.sources(pair, runtime.credential)
    except RetryLater as error:
        found.append(Finding(what="state", level="unreachable", found="cannot be read", then=str(error)))
    return found


def _text(name: str, findings: list[Finding]) -> str:
    lines = [name]
    for one in findings:
        lines.append(f"  {_MARKS[one.level]}  {one.what}: {one.found}")
        if one.then:
            lines.append(f"          {one.then}")
    return "\n".join(lines)
