"""``fedplane status``."""

from __future__ import annotations

import asyncio

import typer

from federation.clock import SystemClock
from federation.settings import PairSettings, Settings
from federation.wiring import open_state
from fedplane import exit_codes
from fedplane.commands.common import ConfigOption, JsonOption, PairOption, chosen, read_settings
from fedplane.output import emit
from fedplane.status_text import page
from operations.status import PairStatus, pair_status


def status(config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False) -> None:
    """Lag, backlog, parked, held, conflicts, last scan and source positions, per pair and direction."""
    settings = read_settings(config)
    found = asyncio.run(_all(settings, chosen(settings, pair)))
    emit(found, "\n\n".join(page(one) for one in found), as_json=as_json)
    if any(one.halts for one in found):
        raise typer.Exit(exit_codes.HALTED)


async def _all(settings: Settings, pairs: list[PairSettings]) -> list[PairStatus]:
    return [await _one(settings, pair) for pair in pairs]


async def _one(settings: Settings, pair: PairSettings) -> PairStatus:
    clock = SystemClock()
    async with open_state(settings, pair, clock) as state:
        await state.open(create=False)
        return await pair_status(state, pair, clock.now_us(), worker=settings.worker)
