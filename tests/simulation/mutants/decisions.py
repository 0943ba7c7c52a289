"""Defects in what is decided, and in what users, settings and operators are promised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from federation import metadata as mapping
from federation.model import Absent, Base, Change, HintEntry, Metadata, Mode, Present, Side, Source
from federation.progress import Claim, Held
from federation.rules import decide as decide_module
from federation.rules.decision import Action, Decision, Reason, Rules
from federation.sources import build
from federation.state.memory_dirty import Dirty
from federation.state.memory_records import MemoryRecords
from federation.state.memory_state import MemoryState
from federation.sync import sync_key as sync_key_module
from tests.simulation.draw import OPTIONED_FROM
from tests.simulation.mutants.mutant import Mutant, Swap, everywhere

_TIMER_US = 10_000_000


def _contest(answer: Any) -> list[Swap]:
    """*answer* in place of the contest of an edit and a delete."""
    return [Swap(decide_module, "_edit_against_delete", answer)]


def _edit_always_wins() -> list[Swap]:
    def contest(here: Present, side: Side, there: Absent, rules: Rules) -> Decision:
        del here, there, rules
        return Decision(Action.COPY, Reason.EDIT_BEATS_DELETE, source=side)

    return _contest(contest)


def _delete_always_wins() -> list[Swap]:
    def contest(here: Present, side: Side, there: Absent, rules: Rules) -> Decision:
        if there.deleted is None:
            return original(here, side, there, rules)
        return Decision(Action.DELETE, Reason.DELETE_BEATS_EDIT, source=side.other, preserve=side)

    original = decide_module._edit_against_delete
    return _contest(contest)


def _unknown_delete_wins() -> list[Swap]:
    def contest(here: Present, side: Side, there: Absent, rules: Rules) -> Decision:
        if there.deleted is not None:
            return original(here, side, there, rules)
        return Decision(Action.DELETE, Reason.DELETE_BEATS_EDIT, source=side.other, preserve=side)

    original = decide_module._edit_against_delete
    return _contest(contest)


def _own_puts_are_news() -> list[Swap]:
    def is_echo(self: MemoryState, change: Change) -> bool:
        return change.deleted and original(self, change)

    original = MemoryState._is_echo
    return [Swap(MemoryState, "_is_echo", is_echo), *_own_puts_looked_at()]


def _own_puts_looked_at() -> list[Swap]:
    def is_echo(entry: HintEntry, base: Base | None, side: Side) -> bool:
        return entry.deleted and original(entry, base, side)

    original = sync_key_module.is_echo
    return [Swap(sync_key_module, "is_echo", is_echo)]


def _since_forgotten() -> list[Swap]:
    def keep_newer(self: MemoryState, dirty: Dirty, generation: int) -> None:
        original(self, dirty, generation)
        dirty.since_us = dict.fromkeys(dirty.since_us, self._clock.now_us())

    original = MemoryState._keep_newer
    return [Swap(MemoryState, "_keep_newer", keep_newer)]


def _since_of_the_later() -> list[Swap]:
    def keep_newer(self: MemoryState, dirty: Dirty, generation: int) -> None:
        original(self, dirty, generation)
        now = self._clock.now_us()
        for side in dirty.since_us:
            times = [entry.at.at_us if entry.at is not None else now for entry in dirty.entries[side]]
            dirty.since_us[side] = min(times, default=now)

    original = MemoryState._keep_newer
    return [Swap(MemoryState, "_keep_newer", keep_newer)]


def _masters_deletes_stay() -> list[Swap]:
    def carry(side: Side, reason: Reason, rules: Rules, preserve: Side | None) -> Decision:
        if rules.mode is not Mode.TWO_WAY:
            return Decision(Action.KEEP, Reason.DELETE_IGNORED, source=side)
        return original(side, reason, rules, preserve)

    original = decide_module._carry_delete
    return [Swap(decide_module, "_carry_delete", carry)]


def _ignored_deletes_carried() -> list[Swap]:
    def carry(side: Side, reason: Reason, rules: Rules, preserve: Side | None) -> Decision:
        return original(side, reason, replace(rules, deletes_to_blob=True, deletes_to_vast=True), preserve)

    original = decide_module._carry_delete
    return [Swap(decide_module, "_carry_delete", carry)]


def _rejected_is_released() -> list[Swap]:
    def verdict(decision: Decision, held: Held | None) -> tuple[Decision, bool]:
        return decision, held is not None and bool(held.verdict)

    return [Swap(sync_key_module, "_verdict", verdict)]


def _held_time_forgotten() -> list[Swap]:
    def recall(*_: Any) -> None:
        return None

    return [Swap(sync_key_module, "_recall_delete", recall)]


def _news_end_a_hold() -> list[Swap]:
    def mark(self: MemoryState, change: Change) -> bool:
        taken = original(self, change)
        if taken and change.source is not Source.OPERATOR and change.etag is not None and not change.deleted:
            self._held.pop(change.key, None)
        return taken

    original = MemoryState._mark
    return [Swap(MemoryState, "_mark", mark)]


def _foreign_always_removed() -> list[Swap]:
    def foreign(side: Side, rules: Rules) -> Decision:
        del rules
        return Decision(Action.DELETE, Reason.FOREIGN_IN_ZONE, source=side.other, preserve=side)

    return [Swap(decide_module, "_foreign", foreign)]


def _foreign_not_kept() -> list[Swap]:
    def foreign(side: Side, rules: Rules) -> Decision:
        return replace(original(side, rules), preserve=None)

    original = decide_module._foreign
    return [Swap(decide_module, "_foreign", foreign)]


def _put_back_for_ever() -> list[Swap]:
    async def reserve(*_: Any, **__: Any) -> bool:
        return True

    return [Swap(MemoryRecords, "reserve_revert", reserve)]


def _nothing_carried_back() -> list[Swap]:
    def carried_back(metadata: Metadata, over: Metadata, side: Side) -> Metadata:
        del over, side
        return metadata

    return [Swap(mapping, "carried_back", carried_back)]


def _lossy_hides_changes() -> list[Swap]:
    def as_agreed(now: Present, agreed: Base, side: Side) -> bool:
        return original(replace(now, metadata_digest=agreed.metadata_digest) if agreed.lossy else now, agreed, side)

    original = decide_module._as_agreed
    return [Swap(decide_module, "_as_agreed", as_agreed)]


def _names_not_decoded() -> list[Swap]:
    def scope(pair: Any) -> Any:
        return replace(original(pair), decode=str)

    original = build.blob_scope
    return [Swap(build, "blob_scope", scope)]


def _deletes_left_to_scans() -> list[Swap]:
    async def sync_key(ctx: Any, lease: Any, claim: Claim) -> Any:
        entries = [entry for side in Side for entry in claim.hint.entries(side)]
        told = {Source.RECONCILER, Source.OPERATOR}.isdisjoint(claim.hint.sources)
        if told and entries and all(entry.deleted for entry in entries):
            return sync_key_module.Synced(Decision(Action.NOTHING, Reason.IN_STEP), claim.base)
        return await original(ctx, lease, claim)

    original = sync_key_module.sync_key
    return everywhere(sync_key_module, "sync_key", sync_key)


def _blob_echo_by_timer() -> list[Swap]:
    def is_echo(self: MemoryState, change: Change) -> bool:
        base = self._base.get(change.key)
        recent = base is not None and base.live and base.vast_as_of_us > self._clock.now_us() - _TIMER_US
        return (recent and change.source is Source.EVENT_GRID) or original(self, change)

    original = MemoryState._is_echo
    return [Swap(MemoryState, "_is_echo", is_echo)]


def _new(name: str, what: str, swaps: Any, within: int = 400, *, after: int = 0) -> Mutant:
    return Mutant(name, what, swaps, within=within, first=OPTIONED_FROM + after)


DECISIONS = [
    _new("edit_always_wins", "a later delete never beats an edit", _edit_always_wins),
    _new("delete_always_wins", "an older delete beats an edit", _delete_always_wins),
    _new("unknown_delete_wins", "a delete of unknown time beats an edit", _unknown_delete_wins),
    _new("own_puts_are_news", "events of our own writes are news", _own_puts_are_news),
    _new("own_puts_looked_at", "of our own writes, told of while they are made, both sides are asked", _own_puts_looked_at),
    _new("since_forgotten", "what is left after a settle counts from now", _since_forgotten),
    Mutant("since_of_the_later", "of two changes of one version the later tells the lag", _since_of_the_later, 3_000, 2002600),
    _new("masters_deletes_stay", "the master's deletes do not travel into the zone", _masters_deletes_stay),
    _new("ignored_deletes_carried", "deletes travel although they are to be ignored", _ignored_deletes_carried),
    _new("rejected_is_released", "the operator's no is taken for a yes", _rejected_is_released, after=110),
    _new("held_time_forgotten", "a delete that waits for a person forgets when it was", _held_time_forgotten, after=100),
    _new("news_end_a_hold", "whatever is told of its key ends the wait of a held delete", _news_end_a_hold, after=100),
    _new("foreign_always_removed", "what only the zone holds is removed although it may stay", _foreign_always_removed),
    _new("foreign_not_kept", "what only the zone holds is removed without being kept", _foreign_not_kept),
    _new("put_back_for_ever", "the zone's writers are put back without end", _put_back_for_ever),
    _new("nothing_carried_back", "what VAST could not hold is erased on Blob", _nothing_carried_back),
    _new("lossy_hides_changes", "of an object with such metadata no change of metadata is seen", _lossy_hides_changes),
    _new("names_not_decoded", "Blob's spelling of a name is taken for the key", _names_not_decoded),
    _new("deletes_left_to_scans", "deletes that events tell of wait for a scan", _deletes_left_to_scans, after=45),
    _new("blob_echo_by_timer", "a Blob event soon after our write is its echo", _blob_echo_by_timer, after=145),
]
