"""The proxies' faults in content: what a test asks for is what happens, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from random import Random

import pytest

from fedplane.localstack.content_faults import ContentFault
from fedplane.localstack.faults import Faults, RequestFaults, check

CHUNKS = [b"abc", b"", b"defgh", b"ij"]
WHOLE = b"".join(CHUNKS)


async def _stream() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


def _rng(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - repeatable chance


async def _passed(fault: ContentFault) -> tuple[bytes, bool]:
    """What came out, and whether it was cut."""
    out = b""
    try:
        async for chunk in fault.passed(_stream()):
            out += chunk
    except ConnectionResetError:
        return out, True
    return out, False


@pytest.mark.parametrize("seed", range(20))
async def test_one_byte_is_changed_and_the_length_stays(seed: int) -> None:
    """Corruption that only a hash can find."""
    counts: Counter[str] = Counter()
    fault = ContentFault(RequestFaults(corrupt=1.0), _rng(seed), len(WHOLE), lambda name: counts.update([name]))
    out, cut = await _passed(fault)
    assert not cut
    assert len(out) == len(WHOLE)
    assert sum(a != b for a, b in zip(out, WHOLE, strict=True)) == 1
    assert counts == {"corrupted": 1}


@pytest.mark.parametrize("seed", range(20))
async def test_a_stream_is_cut_before_its_end(seed: int) -> None:
    """What came before the cut is as it was."""
    counts: Counter[str] = Counter()
    fault = ContentFault(RequestFaults(cut_midway=1.0), _rng(seed), len(WHOLE), lambda name: counts.update([name]))
    out, cut = await _passed(fault)
    assert cut
    assert WHOLE.startswith(out)
    assert len(out) < len(WHOLE)
    assert counts == {"cuts_midway": 1}


@pytest.mark.parametrize("faults", [None, RequestFaults(), RequestFaults(corrupt=1.0, cut_midway=1.0)])
async def test_without_faults_or_content_nothing_happens(faults: RequestFaults | None) -> None:
    """An empty body cannot be damaged."""
    size = 0 if faults is not None and faults.corrupt else len(WHOLE)
    assert await _passed(ContentFault(faults, _rng(1), size, pytest.fail)) == (WHOLE, False)


@pytest.mark.parametrize(
    ("knob", "faults"), [("corrupt", RequestFaults(corrupt=1.5)), ("cut_midway", RequestFaults(cut_midway=-0.1))]
)
def test_a_share_out_of_range_is_named(knob: str, faults: RequestFaults) -> None:
    """As for every other knob."""
    with pytest.raises(ValueError, match=f"requests.{knob}"):
        check(Faults(requests=faults))
