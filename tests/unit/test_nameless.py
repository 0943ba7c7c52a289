"""Names that no key has: counted once, whatever becomes of the scan, and told to people."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.model import Base, Metadata, Side
from federation.nameless import EXAMPLES, Ear, Found, heard
from federation.sync.budget import ByteBudget
from federation.sync.transfer import Transfer, TransferLimits
from fedplane.status_text import page
from operations.publish import gauges
from operations.status import pair_status
from reconciler.report import Report, add_counts
from reconciler.verify import verify
from tests.unit.test_scan_order import FOLDER, _Pair
from tests.unit.test_status import NOW, Known, build, scan, settings

NAMES = ["a//b", "data/k00100:", "data/k00500:", "data/k01500:", "z\udcff"]
"""None of them is a key's name under the policy ``common``; the last is no UTF-8."""


class _Named(_Pair):
    """A pair whose servers hold names too."""

    def __init__(self) -> None:
        super().__init__(str.encode)

    async def name(self, side: Side, *names: str) -> None:
        """Objects that somebody wrote under these names."""
        await self.servers[side].put("some", b"x", Metadata(), stamp=None, expected_etag=None)
        some = self.servers[side].objects.pop("some")
        self.servers[side].objects |= dict.fromkeys(names, some)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.comparison.BATCH", 50)


def _counts(report: Report) -> dict[Side, int]:
    return {side: one.count for side, one in report.unaddressable.items()}


async def test_a_scan_tells_what_it_left_out() -> None:
    """By side, with examples; our own objects are not among them, and what it compared is as it was."""
    pair = _Named()
    for key in FOLDER[:60]:
        await pair.agree(key)
    await pair.name(Side.VAST, *NAMES[:3], ".federation/conflicts/x:y")
    report = await pair.process("a").scan()
    assert (report.complete, report.in_step, report.drift) == (True, 60, {})
    assert _counts(report) == {Side.VAST: 3}
    assert report.unaddressable[Side.VAST].examples == NAMES[:3]
    told = "LEFT OUT on vast: 3 names that stand for no key, such as 'a//b', 'data/k00100:', 'data/k00500:'; "
    assert told + "nobody synchronises them: see docs/names.md" in report.text()
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


async def test_each_name_is_counted_once_though_the_scan_was_cut_and_its_ranges_did_not_hold() -> None:
    """The ranges of the scan before begin anew as one, that is cut off and gone on with; then it finds them again, as many."""
    pair = _Named()
    await pair.agreed(FOLDER)
    await pair.name(Side.VAST, *NAMES[:4])
    await pair.name(Side.BLOB, NAMES[0])
    assert not (await pair.process("a").scan()).complete
    bases = pair.state.bases

    async def away(keys: Sequence[str]) -> list[Base | None]:
        if max(keys) > "data/k01000":
            raise RetryLater("the state is away")
        return await bases(keys)

    pair.state.bases = away  # type: ignore[method-assign]
    assert not (await pair.process("a").scan()).complete
    pair.state.bases = bases  # type: ignore[method-assign]
    again = await pair.process("b").scan()
    assert (again.complete, again.resumed, again.in_step) == (True, 1, len(FOLDER))
    assert _counts(again) == {Side.VAST: 4, Side.BLOB: 1}
    assert _counts(await pair.process("b").scan()) == {Side.VAST: 4, Side.BLOB: 1}


def test_a_name_belongs_to_one_range_and_a_listing_read_again_counts_it_once() -> None:
    """Ranges add up; order within one listing does not matter."""
    whole = Report(started_us=0)
    for after, until in (("", "data/k00100"), ("data/k00100", "data/k01"), ("data/k01", "")):
        found: Found = {}
        ear = Ear(found, after, until)
        for _ in range(2):
            ear.begin(Side.VAST)
            for name in reversed(NAMES):
                ear.hear(Side.VAST, name)
        add_counts(whole, Report(started_us=0, unaddressable=found))
    assert _counts(whole) == {Side.VAST: len(NAMES)}
    assert len(whole.unaddressable[Side.VAST].examples) == EXAMPLES


async def test_what_no_key_has_is_never_called_equal() -> None:
    """A verification has not read it, and says so."""
    pair = _Named()
    await pair.agree("k")
    stores, transfer = dict(pair.servers), Transfer(TransferLimits(1_000, 1_000, 1), ByteBudget(1_000_000))
    assert (await verify(stores, pair.state, transfer, SystemClock())).fine
    await pair.name(Side.BLOB, *NAMES[:4])
    found = await verify(stores, pair.state, transfer, SystemClock())
    assert (found.read, found.complete, found.fine) == (1, True, False)
    assert "LEFT OUT on blob: 4 names" in found.text()
    assert "equal" not in found.text()
    assert heard.get(None) is None


async def test_status_wants_attention_while_names_are_left_out() -> None:
    """Of the last whole scan: what nobody synchronises is not in step, and the page and a metric tell of it."""
    found: Found = {}
    ear = Ear(found)
    ear.begin(Side.VAST)
    for name in NAMES:
        ear.hear(Side.VAST, name)
    told = scan(unaddressable=found)
    status = await pair_status(await build(Known(whole=told, last=told)), settings(), NOW)
    assert status.state == "attention"
    assert "LEFT OUT on vast: 5 names that stand for no key, such as 'a//b'" in page(status)
    levels = {dimensions["side"]: value for metric, value, dimensions in gauges(status) if metric.name.endswith("unaddressable")}
    assert levels == {"blob": 0, "vast": 5}
