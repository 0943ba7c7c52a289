"""When a file was last written, as copying tools keep it: for the rule that adopts by size and time (off unless asked for)."""

from __future__ import annotations

import re
from datetime import datetime

from federation.model import SECOND_US, Present, Side, Stamp
from federation.rules.decision import Rules
from federation.rules.precedence import on_common_clock

_SECONDS = re.compile(r"(\d{1,11})(?:\.(\d{1,9}))?")
_NAME = "mtime"
"""User metadata in which rclone keeps a file's time: seconds on S3, RFC 3339 on Azure Blob."""


def file_time(present: Present, side: Side, rules: Rules) -> Stamp:
    """The time that a copying tool noted, to the second; else Last-Modified, which of a file on VAST is its own time."""
    noted = next((value for name, value in present.metadata.user if name.lower() == _NAME), "")
    at_us = _parsed(noted)
    return Stamp(at_us) if at_us is not None else on_common_clock(present.version.modified, side, rules)


def same_file_time(blob: Present, vast: Present, rules: Rules) -> bool:
    """Whether both are of one second, or as near as their precision can tell."""
    one, two = file_time(blob, Side.BLOB, rules), file_time(vast, Side.VAST, rules)
    return abs(one.at_us - two.at_us) < max(one.precision_us, two.precision_us)


def _parsed(text: str) -> int | None:
    seconds = _SECONDS.fullmatch(text)
    if seconds:
        return int(seconds[1]) * SECOND_US + int((seconds[2] or "0").ljust(6, "0")[:6])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int(at.timestamp() * SECOND_US) if at.tzinfo is not None else None
