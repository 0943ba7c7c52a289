"""Settings of the periodic scan (design 7)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ReconcileSettings(BaseModel):
    """The periodic comparison of both listings with the base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_start: bool = True
    interval_seconds: Annotated[float, Field(gt=0)] = 900.0
    quiet_seconds: Annotated[float, Field(ge=0)] = 10.0
    """A VAST object no event vouches for must have been unchanged this long (file writes have no close, facts/vast.md 4)."""
    range_rows: Annotated[int, Field(ge=1000)] = 200_000
    """A whole scan is cut into ranges of about so many keys, which tasks and processes share; a smaller pair is one range."""
    parallel_ranges: Annotated[int, Field(ge=1, le=64)] = 4
    """Ranges that one process scans at a time."""
