"""Times as the services write them: RFC 3339 with any number of fractional digits."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from federation.model import Stamp, StampOrigin

_FORM = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?\s*(?:([Zz])|([+-])(\d\d):?(\d\d))?\Z", re.ASCII)


def event_stamp(text: object) -> Stamp | None:
    """The stamp of an event time; None when it is missing or not a time. No zone means UTC (facts/azure.md 1.2).

    Event Grid writes 7 digits, VAST 5 or 6 (facts/vast.md 1); digits beyond the microsecond are cut.
    """
    match = _FORM.match(text.strip()) if isinstance(text, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, _, sign, off_hour, off_minute = match.groups()
    try:
        at = datetime(int(year), int(month), int(day), int(hour), int(minute), min(int(second), 59), tzinfo=UTC)
        if sign:
            offset = timedelta(hours=int(off_hour), minutes=int(off_minute))
            at = at - offset if sign == "+" else at + offset
        whole_us = int(at.timestamp()) * 1_000_000
    except (ValueError, OverflowError):
        return None
    digits = len(fraction) if fraction else 0
    micros = int((fraction or "0")[:6].ljust(6, "0"))
    precision = 10 ** max(0, 6 - digits)
    return Stamp(whole_us + micros, precision, StampOrigin.EVENT)
