"""A copy on the server in parts, beyond what one request copies: a fault of one part costs that part."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from federation.clock import SystemClock
from federation.errors import FederationError, Halt, Park, Reobserve, RetryLater
from federation.ports import ObjectStore
from federation.stores import vast_s3, vast_upload
from federation.stores.vast_s3 import VastS3Store
from tests.contract.store_support import PART, get, listed_keys, put


class _Pauses(SystemClock):
    """Time that passes while one sleeps, and then only."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic_seconds(self) -> float:
        return sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def _faulty_parts(
    store: VastS3Store, monkeypatch: pytest.MonkeyPatch, faults: Mapping[int, list[FederationError]]
) -> tuple[list[int], _Pauses]:
    """Copies in parts of *store* from now on meet *faults* by part: the numbers that are asked for, and a clock."""
    monkeypatch.setattr(vast_s3, "COPY_LIMIT_BYTES", PART)
    monkeypatch.setattr(vast_upload, "COPY_PART_BYTES", PART)
    asked: list[int] = []
    copy_part = vast_upload.S3Upload.copy_part

    async def faulty(self: vast_upload.S3Upload, number: int, headers: Mapping[str, str]) -> None:
        asked.append(number)
        if faults.get(number):
            raise faults[number].pop(0)
        await copy_part(self, number, headers)

    monkeypatch.setattr(vast_upload.S3Upload, "copy_part", faulty)
    clock = _Pauses()
    monkeypatch.setattr(store, "clock", clock)
    return asked, clock


async def test_a_fault_of_a_part_of_a_copy_costs_that_part(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A throttle is waited out as long as it asks, a cut by back-off; the other parts are not copied again."""
    if not isinstance(store, VastS3Store):
        pytest.skip("one request copies any size")
    faults: list[FederationError] = [RetryLater("slow down", reason="throttled", after_seconds=7.0), RetryLater("cut")]
    asked, clock = _faulty_parts(store, monkeypatch, {2: faults})
    data = b"a" * PART + b"b" * PART + b"tail"
    etag = await put(store, "k", data)
    await store.copy("k", "copy", source_etag=etag)
    assert asked == [1, 2, 2, 2, 3]
    assert clock.slept[0] == 7.0
    assert 0 < clock.slept[1] <= 2.0
    assert await get(store, "copy") == data


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (RetryLater("away", reason="timeout"), 7),
        (RetryLater("slow down", reason="throttled", after_seconds=250.0), 3),
        (RetryLater("damaged", reason="checksum_mismatch"), 1),
        (Reobserve("another version", reason="precondition"), 1),
        (Park("refused", reason="copy_refused"), 1),
        (Halt("no rights", reason="credentials_refused"), 1),
    ],
    ids=["away", "slow", "damaged", "moved", "refused", "halt"],
)
async def test_patience_with_a_part_of_a_copy_ends(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, fault: FederationError, times: int
) -> None:
    """A side that stays away is given up after six repeats or ten minutes; damage and refusals are not repeated at all."""
    if not isinstance(store, VastS3Store):
        pytest.skip("one request copies any size")
    asked, clock = _faulty_parts(store, monkeypatch, {1: [fault] * 10})
    etag = await put(store, "k", b"a" * PART + b"tail")
    with pytest.raises(type(fault)) as given_up:
        await store.copy("k", "copy", source_etag=etag)
    assert given_up.value is fault
    assert asked == [1] * times
    assert sum(clock.slept) <= 600
    assert await listed_keys(store) == ["k"]
