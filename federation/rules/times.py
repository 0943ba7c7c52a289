"""When a file was last written, as copying tools keep it: for the rule that adopts by size and time (off unless asked for)."""

from __future__ import annotations

from federation import mtime
from federation.model import Present, Side, Stamp
from federation.rules.decision import Rules
from federation.rules.precedence import on_common_clock


def file_time(present: Present, side: Side, rules: Rules) -> Stamp:
    """The time that a copying tool noted, to the second; else Last-Modified, which of a file on VAST is its own time."""
    noted = next((value for name, value in present.metadata.user if name == mtime.NAME), "")
    at_us = mtime.at_us(noted)
    return Stamp(at_us) if at_us is not None else on_common_clock(present.version.modified, side, rules)


def same_file_time(blob: Present, vast: Present, rules: Rules) -> bool:
    """Whether both are of one second, or as near as their precision can tell."""
    one, two = file_time(blob, Side.BLOB, rules), file_time(vast, Side.VAST, rules)
    return abs(one.at_us - two.at_us) < max(one.precision_us, two.precision_us)
