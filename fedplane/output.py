"""What a command prints: one JSON document with ``--json``, text for people otherwise."""

from __future__ import annotations

import sys

import msgspec

from federation.errors import FederationError
from federation.telemetry import plain, plain_lines
from operations.wording import ago, iso, size

__all__ = ["ago", "complain", "emit", "iso", "plain", "plain_lines", "size", "table"]


def emit(payload: object, text: str, *, as_json: bool) -> None:
    """Print *payload* as one line of JSON, or *text*, which may be of several lines."""
    print(msgspec.json.encode(payload).decode() if as_json else plain_lines(text), flush=True)


def complain(error: FederationError, *, as_json: bool) -> None:
    """One clear line on standard error; with ``--json`` an object with reason, key and side."""
    if as_json:
        told = {"error": str(error), "reason": error.reason, "key": error.key, "side": error.side}
        print(msgspec.json.encode(told).decode(), file=sys.stderr)
    else:
        print(f"fedplane: {plain_lines(str(error))}", file=sys.stderr)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows as aligned columns, each of one line; the first row is the heading."""
    rows = [tuple(map(plain, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
