"""User metadata ``mtime``: when a file was last written, as rclone and tools like it keep it. Pure.

On S3 it is seconds since 1970 with up to nine decimals, trailing zeros left out; on Azure Blob RFC 3339, which rclone writes with
nine decimals. The common form is that of S3. Other spellings of a time are read too; what is no time from 1970 to 9999 is a value
like any other.
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime

NAME = "mtime"
_SECONDS = re.compile(r"(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,9}))?", re.ASCII)
_RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)
_YEAR_10000 = 253_402_300_800


def from_side(value: str) -> str:
    """The common form of what a side holds: seconds, however the time is spelled; *value* itself when it is none."""
    found = _parsed(value)
    if found is None:
        return value
    seconds, decimals = found
    return f"{seconds}.{decimals}" if decimals else str(seconds)


def for_blob(value: str) -> str:
    """Blob's form of a common value."""
    found = _parsed(value)
    if found is None:
        return value
    seconds, decimals = found
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{decimals:0<9}Z"


def at_us(value: str) -> int | None:
    """The time in microseconds since 1970; None when *value* is no time."""
    found = _parsed(value)
    return int(found[0]) * 1_000_000 + int(f"{found[1]:0<6}"[:6]) if found is not None else None


def _parsed(value: str) -> tuple[int, str] | None:
    """Seconds, and decimals without trailing zeros."""
    if plain := _SECONDS.fullmatch(value):
        seconds, decimals = int(plain[1]), plain[2]
    elif dated := _RFC_3339.fullmatch(value):
        try:
            seconds = calendar.timegm(datetime.fromisoformat(dated[1] + dated[3]).utctimetuple())
        except (ValueError, OverflowError):
            return None  # 30 February
        decimals = dated[2]
    else:
        return None
    return (seconds, (decimals or "").rstrip("0")) if 0 <= seconds < _YEAR_10000 else None
