"""Settings of the Blob change feed: ``[pair.blob.change_feed]``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _feed_start(text: str) -> str:
    if text not in ("now", "start"):
        time_us(text)
    return text


def time_us(text: str) -> int:
    """Microseconds since 1970 UTC of a time as a person writes it; without a zone it is UTC. Raises ValueError."""
    try:
        at = datetime.fromisoformat(text)
        return int(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise ValueError(f'{text!r} is no time; write one such as "2026-11-21T10:00:00Z"') from None


class ChangeFeedSettings(BaseModel):
    """The storage account's change feed (``$blobchangefeed``): complete, minutes late; read with the Blob side's credential."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = False
    start: Annotated[str, AfterValidator(_feed_start)] = Field(default="now", alias="from")
    """Where reading begins without a cursor: ``now``, ``start`` (all it still holds) or a time as ``2026-11-21T10:00:00Z``."""
    poll_seconds: Annotated[float, Field(ge=1)] = 15.0
    """The service adds to the feed about once a minute."""
    lease_seconds: Annotated[float, Field(ge=1)] = 15.0
    """One process reads; so long after it died another one takes over."""

    @property
    def start_at(self) -> str | int:
        """``now``, ``start``, or microseconds since 1970 UTC."""
        return self.start if self.start in ("now", "start") else time_us(self.start)
