"""What a version is completed with: the time of its event, where that event is of this version."""

from __future__ import annotations

import pytest

from federation.model import Hint, HintEntry, Present, Side, Stamp, StampOrigin, Version
from federation.sync.observe import complete

SECOND = 1_000_000
MODIFIED = Stamp(17 * SECOND, SECOND, StampOrigin.LAST_MODIFIED)


@pytest.mark.parametrize(
    ("side", "event_us", "taken"),
    [
        (Side.VAST, 17 * SECOND + 300, True),
        (Side.VAST, 17 * SECOND, True),
        (Side.VAST, 17 * SECOND - 1, False),
        (Side.BLOB, 17 * SECOND - 1, True),
    ],
    ids=["same second", "at its beginning", "before", "blob's ETag changes with everything"],
)
def test_an_event_of_before_last_modified_is_not_of_this_version_on_vast(side: Side, event_us: int, taken: bool) -> None:
    """Metadata was replaced since under the same ETag: with the event's time that write would be older than it is, and lose."""
    at = Stamp(event_us, 1, StampOrigin.EVENT)
    entries = (HintEntry("e", at=at),)
    hint = Hint("k", 1, blob=entries) if side is Side.BLOB else Hint("k", 1, vast=entries)
    seen = complete(Present(Version("e", 1, MODIFIED)), "k", side, hint)
    assert seen.written == (at if taken else None)
