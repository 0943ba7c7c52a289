"""The section ``[pacing]`` of the settings: how much of each endpoint's time and bandwidth we may use."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, model_validator

from federation.bandwidth import Timetable, parse_timetable

_NO_LIMIT = "off"


class PacingSettings(BaseModel):
    """For each endpoint, of all pairs and processes that use it together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    """None: no limit but what the endpoint itself asks for."""
    bandwidth: str = _NO_LIMIT
    """Bytes a second, read and written: one rate or ``08:00,512k 19:00,10M 23:00,off`` (``bandwidth.parse_timetable``)."""
    bandwidth_timezone: str = "UTC"
    max_concurrency: Annotated[int, Field(gt=0)] = 256
    """Calls at once at most, for each process; how many there are follows latency and throttles."""

    @model_validator(mode="after")
    def _readable(self) -> PacingSettings:
        self.timetable()
        return self

    def timetable(self) -> Timetable | None:
        """The limits of bandwidth; None without any. Raises ValueError naming what cannot be read."""
        try:
            zone = ZoneInfo(self.bandwidth_timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"bandwidth_timezone {self.bandwidth_timezone!r} is not known here; use a name such as Europe/Zurich, or UTC"
            ) from None
        try:
            return None if self.bandwidth == _NO_LIMIT else parse_timetable(self.bandwidth, zone)
        except ValueError as error:
            raise ValueError(f"bandwidth: {error}") from None
