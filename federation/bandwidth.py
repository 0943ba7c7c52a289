"""Limits of bandwidth by the time of day, as rclone writes them: ``08:00,512k 19:00,10M 23:00,off``. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

_UNITS = {"B": 1, "": 1024, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_RATE = re.compile(r"(\d+(?:\.\d+)?)([BKMGT]?)", re.IGNORECASE)
_TIME = re.compile(r"(?:(Mon|Tue|Wed|Thu|Fri|Sat|Sun)-)?([01]\d|2[0-3]):([0-5]\d)", re.IGNORECASE)
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Timetable:
    """Bytes a second from each minute of the week on, in order; None is no limit. Before the first, the last holds."""

    changes: tuple[tuple[int, float | None], ...]
    zone: tzinfo = UTC

    def bytes_per_second(self, now_us: int) -> float | None:
        """The limit at a moment (microseconds since 1970 UTC); None for none."""
        local = (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=now_us)).astimezone(self.zone)
        minute = local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute
        return self.changes[bisect_right(self.changes, minute, key=lambda change: change[0]) - 1][1]


def parse_timetable(text: str, zone: tzinfo = UTC) -> Timetable:
    """Read one rate (``10M``, ``off``), or times with rates, each ``HH:MM,rate`` or ``Mon-HH:MM,rate``, blank-separated.

    A rate is bytes a second: a number with B, K (also where no unit is given), M, G or T, by 1024 each. A time without a day
    holds on every day.

    Raises:
        ValueError: names the part that cannot be read and what is expected.
    """
    words = text.split()
    if not words:
        raise ValueError('no limit is written "off"')
    if len(words) == 1 and "," not in words[0]:
        return Timetable(((0, _rate(words[0])),), zone)
    changes: dict[int, float | None] = {}
    for word in words:
        at, comma, rate = word.partition(",")
        time = _TIME.fullmatch(at)
        if not comma or time is None:
            raise ValueError(f'{word!r} is no time with a rate, such as "08:00,512k" or "Sat-00:00,off"')
        minute = int(time[2]) * 60 + int(time[3])
        days = [_DAYS.index(time[1].title())] if time[1] else range(7)
        for day in days:
            if day * _DAY_MINUTES + minute in changes:
                raise ValueError(f"{word!r}: this time was given a rate before")
            changes[day * _DAY_MINUTES + minute] = _rate(rate)
    return Timetable(tuple(sorted(changes.items(), key=lambda change: change[0])), zone)


def _rate(text: str) -> float | None:
    if text.lower() == "off":
        return None
    found = _RATE.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise ValueError(f'{text!r} is no rate: a number above 0 with B, K, M, G or T (bytes a second, by 1024), or "off"')
    return float(found[1]) * _UNITS[found[2].upper()]
