"""How far a long command is: a bar with rate and remaining time on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINE_SECONDS = 10.0


class Tell(Protocol):
    """Say how many of how many; *total* None: not known."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Cheap: may be called often."""
        ...


def line(what: str, done: int, total: int | None, seconds: float, note: str = "") -> str:
    """One plain line: count, share, rate, remaining time."""
    rate = done / seconds if seconds > 0 else 0.0
    of = f" of about {total:,} ({min(100, 100 * done // total)} %)" if total else ""
    left = f", about {max(0, total - done) / rate:,.0f} s left" if total and rate else ""
    return f"{what}: {done:,}{of}, {rate:,.0f}/s{left}{f', {note}' if note else ''}"


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Tell]:
    """Show the progress of *what* on standard error while the block runs; nothing when *quiet*."""
    if quiet:
        yield _nothing
    elif sys.stderr.isatty():
        with _bar(what) as tell:
            yield tell
    else:
        yield _lines(what)


def _nothing(done: int, total: int | None, note: str = "") -> None:
    del done, total, note


def _lines(what: str) -> Tell:
    started = told = time.monotonic()

    def tell(done: int, total: int | None, note: str = "") -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= LINE_SECONDS:
            told = now
            print(line(what, done, total, now - started, note), file=sys.stderr, flush=True)

    return tell


@contextmanager
def _bar(what: str) -> Iterator[Tell]:
    from rich.console import Console  # noqa: PLC0415 - rich is only loaded where something is shown
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int | None, note: str = "") -> None:
            text = line(what, done, total, time.monotonic() - started, note)
            bar.update(task, completed=done, total=max(total, done) if total else None, description=text)

        yield tell
