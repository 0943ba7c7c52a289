"""``mtime`` of user metadata: one time, spelled as rclone spells it on each side."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import metadata, mtime
from federation.model import Metadata, Side
from federation.rules.decision import Action, Reason
from tests.unit.world import World

ON_BLOB, ON_VAST = "2024-01-02T03:04:05.678000000Z", "1704164645.678"


@pytest.mark.parametrize(
    ("side", "held", "common"),
    [
        (Side.VAST, ON_VAST, ON_VAST),
        (Side.BLOB, ON_BLOB, ON_VAST),
        (Side.BLOB, "2024-01-02T04:04:05.678+01:00", ON_VAST),
        (Side.BLOB, "1969-12-31T23:30:00-00:30", "0"),
        (Side.BLOB, "9999-12-31T23:59:59.999999999Z", "253402300799.999999999"),
        (Side.VAST, "1704164645.678000000", ON_VAST),
        (Side.VAST, "1704164645.0", "1704164645"),
        (Side.BLOB, ON_VAST, ON_VAST),
    ],
)
def test_a_time_is_one_value_however_it_is_spelled(side: Side, held: str, common: str) -> None:
    """So that what rclone uploaded to both sides is equal there."""
    found, _ = metadata.from_side({}, {"mtime": held}, side)
    assert found.user == (("mtime", common),)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yesterday",
        "2024-01-02",
        "2024-01-02T03:04:05",
        "2024-02-30T03:04:05Z",
        "0001-01-01T00:00:00+14:00",
        "1969-12-31T23:59:59Z",
        "-1",
        "01",
        "1.",
        "1.0000000001",
        "253402300800",
        "\u0661",
    ],
)
def test_what_is_no_time_is_a_value_like_any_other(value: str) -> None:
    """It goes over and comes back as it is."""
    for side in Side:
        stored = metadata.to_side(Metadata(user=(("mtime", value),)), None, side)
        assert metadata.from_side({}, stored.user, side)[0].user == (("mtime", value),)
    assert mtime.at_us(value) is None


def test_each_side_gets_the_form_that_rclone_reads_there() -> None:
    """RFC 3339 with nine decimals on Blob, seconds on S3; other names stay as they are."""
    common = Metadata(user=(("mtime", ON_VAST), ("other", ON_VAST)))
    assert metadata.to_side(common, None, Side.BLOB).user == {"mtime": ON_BLOB, "other": ON_VAST}
    assert metadata.to_side(common, None, Side.VAST).user == {"mtime": ON_VAST, "other": ON_VAST}


@given(st.integers(0, 253_402_300_799), st.integers(0, 999_999_999))
def test_any_nanosecond_comes_back_from_either_side(seconds: int, nanoseconds: int) -> None:
    """And is read as the time that it is."""
    common = mtime.from_side(f"{seconds}.{nanoseconds:09}")
    assert mtime.from_side(mtime.for_blob(common)) == common
    assert mtime.at_us(common) == mtime.at_us(mtime.for_blob(common)) == seconds * 1_000_000 + nanoseconds // 1_000
    assert datetime.fromisoformat(mtime.for_blob(common)[:19] + "+00:00") == datetime.fromtimestamp(seconds, UTC)


async def test_the_same_upload_by_rclone_to_both_sides_is_equal() -> None:
    """Nothing is written, and no conflict is recorded of each object."""
    world = World()
    for side, said in ((Side.BLOB, ON_BLOB), (Side.VAST, ON_VAST)):
        await world.write(side, "a", "one", told=False, metadata=Metadata(user=(("mtime", said),)))
    world.later(60)
    await world.look("a")
    [synced] = await world.step()
    assert (synced.decision.action, synced.decision.reason) == (Action.ADOPT, Reason.EQUAL)
    assert await world.state.conflicts() == []
