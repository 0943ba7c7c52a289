"""What a scan found, for machines and for people."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from federation import nameless
from federation.model import Side


class Report(msgspec.Struct, kw_only=True):
    """One scan. Times in microseconds since 1970 UTC. ``complete`` False: it says nothing about what it did not reach."""

    started_us: int
    finished_us: int = 0
    prefix: str = ""
    keys: int = 0
    """Of a scan of given keys: how many."""
    after: str = ""
    until: str = ""
    """Of a range: the keys after the one, up to and including the other. Empty: from the start, to the end."""
    resume: str = ""
    """The last key whose row was compared and marked."""
    listed_to: dict[Side, str] = msgspec.field(default_factory=dict)
    """The last key of each side up to ``resume``: its listing goes on there."""
    scan: str = ""
    """Name of a whole scan that several processes may work on."""
    ranges: int = 1
    ranges_done: int = 0
    resumed: int = 0
    """How often a range was taken up again from a saved key."""
    complete: bool = False
    fresh_state: bool = False
    listed: dict[Side, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Side, 0))
    unaddressable: nameless.Found = msgspec.field(default_factory=dict)
    """Names that stand for no key: left out, so that nothing is said about them."""
    in_step: int = 0
    drift: dict[str, int] = msgspec.field(default_factory=dict)
    in_flight: int = 0
    """Differences of keys that were dirty already: an event had told of them."""
    recent: int = 0
    """Differences so young that their event may still be on its way."""
    missed_by_events: dict[Side, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Side, 0))
    """Keys whose change on that side no event had told of."""
    missed: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    """The same by kind of drift and by who should have told."""
    young: int = 0
    """VAST versions not yet quiet: looked at later."""
    marked: int = 0
    relisted: int = 0
    """Kept losers whose conflict records were lost with the state, recorded again."""
    forgotten: int = 0
    """Tombstones past their retention that were dropped."""
    mass_delete: list[Side] = msgspec.field(default_factory=list)
    """Sides that lack more objects than the delete budget allows to be gone at once: all those deletes are held."""
    base_only: int = 0
    """Records of objects that neither side lists any more, dropped by the slow sweep."""
    tried_again: int = 0
    """Parked keys that no listing told of, marked at the end of a whole scan so that they are tried again."""
    sorted_sides: list[Side] = msgspec.field(default_factory=list)
    """Sides whose listing came out of order and was sorted on disk."""
    reordered: dict[Side, bool] = msgspec.field(default_factory=dict)
    """Sides that do not list in the order of keys, so that their store lists twice and sorts; whether it did so on disk."""
    halted: str = ""
    error: str = ""
    passing: bool = False
    """What cut it short may pass by itself: trying again may help."""
    after_seconds: float | None = None
    """Then when: what the side said of it."""

    def begin_anew(self) -> None:
        """Nothing of it was compared yet. What was counted is forgotten, what was seen of the sides is not."""
        self.resume = ""
        for name in _COUNTED:
            setattr(self, name, 0)
        for side in Side:
            self.listed[side] = self.missed_by_events[side] = 0
        for found in (self.listed_to, self.unaddressable, self.drift, self.missed):
            found.clear()

    @property
    def rows(self) -> int:
        """Keys compared."""
        return self.in_step + sum(self.drift.values())

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(0, self.finished_us - self.started_us) / 1_000_000

    @property
    def whole(self) -> bool:
        """Whether it compared the whole pair, to the end."""
        return self.complete and not (self.prefix or self.keys or self.after or self.until)

    def text(self) -> str:
        """A page for people."""
        halted = f"HALTED by {self.halted}: " if self.halted else ""
        state = "complete" if self.complete else f"INCOMPLETE: {halted}{self.error or 'stopped'}"
        rate = self.rows / self.seconds if self.seconds else 0.0
        what = f"{self.keys} given keys" if self.keys else self.prefix or "the whole pair"
        lines = [
            f"Scan of {what}, started {_iso(self.started_us)}: {state}",
            f"  listed: {self.listed[Side.BLOB]} on blob, {self.listed[Side.VAST]} on vast",
            f"  compared: {self.rows} keys in {self.seconds:.1f} s ({rate:.0f}/s)",
            f"  in step: {self.in_step}",
        ]
        lines += [f"  {kind.replace('_', ' ')}: {count}" for kind, count in sorted(self.drift.items())]
        if self.drift:
            lines += [
                f"  known already, in flight: {self.in_flight}; too recent to tell: {self.recent}",
                f"  missed by events: {self.missed_by_events[Side.BLOB]} on blob, {self.missed_by_events[Side.VAST]} on vast",
                f"  marked: {self.marked} changes; waiting to be quiet: {self.young}",
            ]
        lines += [
            f"    {kind.replace('_', ' ')}: " + ", ".join(f"{count} by {who}" for who, count in sorted(by.items()))
            for kind, by in sorted(self.missed.items())
        ]
        if self.ranges > 1 or self.resumed:
            lines.append(f"  ranges: {self.ranges_done} of {self.ranges} done, {self.resumed} taken up again")
        lines += [f"  MASS DELETE on {side}: none is carried out; see `fedplane held`" for side in self.mass_delete]
        lines += [f"  {line}" for line in nameless.text(self.unaddressable)]
        lines += _orders(self)
        if self.relisted:
            lines.append(f"  conflicts recorded again from their kept copies: {self.relisted}")
        if self.forgotten:
            lines.append(f"  deletes no longer remembered: {self.forgotten}")
        if self.base_only:
            lines.append(f"  records of objects that are on neither side, dropped: {self.base_only}")
        if self.tried_again:
            lines.append(f"  parked keys that are tried again: {self.tried_again}")
        if self.fresh_state:
            lines.append("  state was empty: union mode, nothing is deleted")
        return "\n".join(lines)


_COUNTED = ("in_step", "in_flight", "recent", "young", "marked")
_ADDED = (*_COUNTED, "resumed")


def add_counts(whole: Report, part: Report) -> None:
    """Add what one range found to the report of the whole."""
    for name in _ADDED:
        setattr(whole, name, getattr(whole, name) + getattr(part, name))
    for side in Side:
        whole.listed[side] += part.listed[side]
        whole.missed_by_events[side] += part.missed_by_events[side]
    for kind, count in part.drift.items():
        whole.drift[kind] = whole.drift.get(kind, 0) + count
    for kind, by in part.missed.items():
        mine = whole.missed.setdefault(kind, {})
        for who, count in by.items():
            mine[who] = mine.get(who, 0) + count
    nameless.merge(whole.unaddressable, part.unaddressable)
    whole.sorted_sides = sorted({*whole.sorted_sides, *part.sorted_sides})
    for side, on_disk in part.reordered.items():
        whole.reordered[side] = on_disk or whole.reordered.get(side, False)
    whole.mass_delete = sorted({*whole.mass_delete, *part.mass_delete})


def _orders(report: Report) -> list[str]:
    """Why sides were listed twice."""
    on_disk = f"  out of order, sorted on disk: {', '.join(report.sorted_sides)}"
    lines = [on_disk] if report.sorted_sides else []
    for side, disk in sorted(report.reordered.items()):
        how = "all sorted on disk" if disk else "what came late sorted in memory"
        lines.append(f"  {side} lists otherwise than by keys: listed twice, {how}")
    return lines


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
