"""How large objects are cut into parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.capabilities import Capabilities
from federation.errors import Park
from federation.model import Side
from federation.rules.parking import parking
from federation.stores.azure_blob import MAX_BLOCK_BYTES, MAX_BLOCKS
from federation.sync.parts import PartPlan, plan_parts

_MIB = 1024**2
_GIB = 1024**3
_TIB = 1024**4
SIDES = {
    Side.BLOB: Capabilities(min_part_bytes=1, max_part_bytes=MAX_BLOCK_BYTES, max_parts=MAX_BLOCKS),
    Side.VAST: Capabilities(),
}


@given(st.integers(1, 5 * _TIB), st.sampled_from([1, 5 * _MIB, 8 * _MIB, 64 * _MIB]), st.sampled_from(list(Side)))
def test_parts_always_fit_the_side(size: int, preferred: int, side: Side) -> None:
    """Any size up to 5 TiB fits into the parts a side allows, none but the last smaller than it accepts, none larger."""
    able = SIDES[side]
    plan = plan_parts(size, preferred, able, memory_bytes=_TIB)

    assert plan.part_bytes * plan.count >= size > plan.part_bytes * (plan.count - 1)
    assert 1 <= plan.count <= able.max_parts
    assert max(preferred, able.min_part_bytes) <= plan.part_bytes <= able.max_part_bytes


@given(st.integers(1, 10_000), st.integers(1, 1_000))
def test_ranges_cover_every_byte_once(size: int, part: int) -> None:
    """Numbers from 1, each part where the one before it ends, the last ending with the object."""
    at = 0
    for number, (told, start, length) in enumerate(PartPlan(size, part).ranges(), start=1):
        assert (told, start) == (number, at)
        assert 1 <= length <= part
        at += length
    assert at == size


@pytest.mark.parametrize(
    ("side", "size", "part", "count"),
    [
        (Side.VAST, 8 * _MIB + 1, 8 * _MIB, 2),
        (Side.VAST, 10_000 * 8 * _MIB, 8 * _MIB, 10_000),
        (Side.VAST, 10_000 * 8 * _MIB + 1, 9 * _MIB, 8_889),
        (Side.VAST, 5 * _TIB, 525 * _MIB, 9_987),
        (Side.BLOB, 5 * _TIB, 105 * _MIB, 49_933),
        (Side.BLOB, 6 * _GIB, 8 * _MIB, 768),
    ],
)
def test_the_preferred_part_size_grows_only_where_it_must(side: Side, size: int, part: int, count: int) -> None:
    """8 MiB as long as the number of parts allows, whole MiB beyond."""
    plan = plan_parts(size, 8 * _MIB, SIDES[side], memory_bytes=_GIB)
    assert (plan.part_bytes, plan.count) == (part, count)


def test_what_cannot_be_sent_is_parked_with_a_way_out() -> None:
    """A part larger than the memory names the setting to raise; an object larger than the side can take says so."""
    with pytest.raises(Park, match=r"raise transfer\.memory_bytes to 734003200") as caught:
        plan_parts(5 * _TIB, 8 * _MIB, SIDES[Side.VAST], memory_bytes=192 * _MIB)
    assert caught.value.reason == "too_large"
    with pytest.raises(Park, match="more than this side takes"):
        plan_parts(60 * _TIB, 8 * _MIB, SIDES[Side.VAST], memory_bytes=_TIB)


def test_an_empty_object_is_one_empty_part() -> None:
    """Nothing to read is still something to write."""
    assert list(PartPlan(0, 8).ranges()) == [(1, 0, 0)]


def test_what_helps_where_a_part_is_larger_than_the_memory() -> None:
    """Both the detail and the way back name the setting that lets it through: memory, and no other size of parts."""
    size, held = 2 * _TIB, 192 * _MIB
    for preferred in (8 * _MIB, _GIB):
        with pytest.raises(Park) as error:
            plan_parts(size, preferred, SIDES[Side.VAST], memory_bytes=held)
        way_back = parking(error.value.reason).way_back
        assert "transfer.memory_bytes" in str(error.value)
        assert "transfer.memory_bytes" in way_back
        assert "part_bytes" not in way_back
    assert plan_parts(size, 8 * _MIB, SIDES[Side.VAST], memory_bytes=_GIB).count <= SIDES[Side.VAST].max_parts
