"""What a command prints: one JSON document with ``--json``, text for people otherwise."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import msgspec

from federation.errors import FederationError


def emit(payload: object, text: str, *, as_json: bool) -> None:
    """Print *payload* as one line of JSON, or *text*."""
    print(msgspec.json.encode(payload).decode() if as_json else text, flush=True)


def complain(error: FederationError, *, as_json: bool) -> None:
    """One clear line on standard error; with ``--json`` an object with reason, key and side."""
    if as_json:
        told = {"error": str(error), "reason": error.reason, "key": error.key, "side": error.side}
        print(msgspec.json.encode(told).decode(), file=sys.stderr)
    else:
        print(f"fedplane: {error}", file=sys.stderr)


def iso(at_us: int | None) -> str:
    """A time for people, in UTC to the second; ``-`` when there is none."""
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at_us else "-"


def ago(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return "unknown"
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    if seconds < 120:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows as aligned columns; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
