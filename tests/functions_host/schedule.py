"""When a timer fires: the NCRONTAB forms that the app uses, on a clock whose minutes may be shorter."""

from __future__ import annotations

import re

_EVERY = re.compile(r"\*/(\d+)( \*){5}")
_AT = re.compile(r"(\d+)( \*){5}")


def next_seconds(schedule: str, now: float, minute_seconds: float) -> float:
    """Seconds from *now* until *schedule* fires next, on a clock whose minute lasts *minute_seconds*."""
    scale = minute_seconds / 60
    if (every := _EVERY.fullmatch(schedule)) is not None:
        period, offset = int(every[1]) * scale, 0.0
    elif (at := _AT.fullmatch(schedule)) is not None:
        period, offset = minute_seconds, int(at[1]) * scale
    else:
        raise ValueError(f"a schedule of another form: {schedule!r}")
    return period - (now - offset) % period
