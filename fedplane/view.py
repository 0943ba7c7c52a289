"""What ``fedplane run`` shows: a live page on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import asyncio

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.sync.stats import DecisionLine
from fedplane.output import ago, iso, plain, plain_lines, size
from fedplane.pair_engine import PairEngine
from fedplane.status_text import page
from operations.status import PairStatus, pair_status

_DECISIONS = 12
_LINE_SECONDS = 10.0
_FRAME_SECONDS = 0.5


async def show(pairs: list[PairEngine], heading: str) -> None:
    """Show until cancelled."""
    console = Console()
    if console.is_terminal:
        await _live(console, pairs, heading)
    else:
        if heading:
            print(heading, flush=True)
        await _lines(pairs)


async def _lines(pairs: list[PairEngine]) -> None:
    while True:
        await asyncio.sleep(_LINE_SECONDS)
        for pair in pairs:
            print(await _line(pair), flush=True)


async def _line(pair: PairEngine) -> str:
    status = await _status(pair)
    if isinstance(status, str):
        return f"{pair.name}: unknown: {status}"
    parts = [
        f"{name.replace('_', ' ')} lag {ago(one.lag_seconds)} backlog {one.backlog}" for name, one in status.directions.items()
    ]
    return (
        f"{iso(status.at_us)} {pair.name} {status.state}: {'; '.join(parts)}; parked {status.parked}, held {status.held}, "
        f"conflicts {status.conflicts}"
    )


async def _status(pair: PairEngine) -> PairStatus | str:
    try:
        return await pair_status(pair.runtime.state, pair.runtime.settings, SystemClock().now_us())
    except RetryLater as error:
        return f"Redis cannot be reached: {error}"


async def _live(console: Console, pairs: list[PairEngine], heading: str) -> None:
    with Live(console=console, screen=False, auto_refresh=False, transient=False) as live:
        while True:
            parts = [Panel(heading, title="fedplane", border_style="cyan")] if heading else []
            for pair in pairs:
                parts += [await _panel(pair)]
            live.update(Group(*parts), refresh=True)
            await asyncio.sleep(_FRAME_SECONDS)


async def _panel(pair: PairEngine) -> Panel:
    status = await _status(pair)
    if isinstance(status, str):
        return Panel(Text(status), title=f"{pair.name}: unknown", border_style="red")
    style = {"in_step": "green", "working": "green", "attention": "yellow"}.get(status.state, "red")
    body = Group(Text(plain_lines(page(status))), Text(), _decisions(list(pair.runtime.worker.stats.last)[-_DECISIONS:]))
    return Panel(body, title=f"{pair.name}: {status.state.replace('_', ' ')}", border_style=style)


def _decisions(lines: list[DecisionLine]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("at", "key", "action", "why", "outcome", "requests", "moved", "delay"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=3 if name == "key" else None)
    for line in reversed(lines):
        arrow = {"blob": " -> vast", "vast": " -> blob"}.get(line.source, "")
        delay = ago(line.apply_delay_seconds) if line.apply_delay_seconds is not None else "-"
        moved = size(line.written_bytes)
        row = (iso(line.at_us)[11:19], plain(line.key), f"{line.action}{arrow}", line.reason, line.outcome, str(line.requests))
        table.add_row(*(Text(cell) for cell in (*row, moved, delay)))
    return table
