"""Defects in what is written to the sides, and when."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from federation.errors import NotPresent, RetryLater
from federation.model import Absent, Base, Change, Present, Side, Stamp
from federation.rules import decide as decide_module
from federation.rules import precedence as precedence_module
from federation.rules import proof
from federation.rules.decide import Since
from federation.rules.decision import Action, Decision, Reason, Rules
from federation.stores.memory import MemoryStore
from federation.sync import apply as apply_module
from federation.sync import observe as observe_module
from federation.sync import sync_key as sync_key_module
from federation.sync.context import PairContext
from federation.sync.paced_store import PacedStore
from reconciler import comparison
from reconciler import scan as scan_module
from reconciler.report import Report
from tests.simulation.loop import UNIT
from tests.simulation.mutants.mutant import Mutant, Swap, everywhere
from tests.simulation.sides import Server


def _condition_dropped() -> list[Swap]:
    original = MemoryStore._require

    def require(self: MemoryStore, key: str, found: Any, etag: str | None, *, given: bool = True) -> None:
        if UNIT.get() is None:
            original(self, key, found, etag, given=given)

    return [Swap(Server, "_require", require)]


def _preserve_skipped() -> list[Swap]:
    async def nothing(*_: Any, **__: Any) -> None:
        return None

    return [Swap(apply_module, "preserve_loser", nothing)]


def _delete_without_base() -> list[Swap]:
    original = decide_module.since_base

    def since(now: Present | Absent, base: Base | None, side: Side) -> Since:
        return Since.GONE if isinstance(now, Absent) else original(now, base, side)

    def one(here: Present, side: Side, there: Absent, base: Base | None, rules: Rules) -> Decision:
        del there, rules
        if base is None and here.origin is None:
            return Decision(Action.DELETE, Reason.DELETED, source=side.other)
        return original_one(here, side, Absent(), base, Rules())

    original_one = decide_module._one_present
    return [Swap(decide_module, "since_base", since), Swap(decide_module, "_one_present", one)]


def _unread_is_absent() -> list[Swap]:
    original = observe_module.observe

    async def observe(store: Any, key: str, hint: Any) -> Present | Absent:
        try:
            return await original(store, key, hint)
        except RetryLater:
            return Absent()

    return [Swap(sync_key_module, "observe", observe)]


def _failed_listing_ends() -> list[Swap]:
    original = scan_module.Scanner._listing

    async def listing(self: Any, side: Side, prefix: str, report: Report) -> AsyncGenerator[Any, None]:
        try:
            async for entry in original(self, side, prefix, report):
                yield entry
        except RetryLater:
            return

    return [Swap(scan_module.Scanner, "_listing", listing)]


def _base_without_write() -> list[Swap]:
    original = apply_module._copy

    async def copy(ctx: PairContext, scene: Any, decision: Decision) -> Base:
        try:
            return await original(ctx, scene, decision)
        except RetryLater:
            side = decision.destination.other
            source = scene.present(side)
            etag = source.version.md5 or "0x0"
            written = Stamp(source.version.modified.at_us)
            return apply_module._base(scene, side, source, written, other_etag=etag, md5=source.version.md5)

    return [Swap(apply_module, "_copy", copy)]


def _tie_reversed() -> list[Swap]:
    original = precedence_module.precedence

    def precedence(blob: Stamp | None, vast: Stamp | None, rules: Rules) -> tuple[Side, Reason]:
        return original(blob, vast, replace(rules, tie_winner=rules.tie_winner.other))

    return everywhere(precedence_module, "precedence", precedence)


def _first_writer_wins() -> list[Swap]:
    original = precedence_module.precedence

    def precedence(blob: Stamp | None, vast: Stamp | None, rules: Rules) -> tuple[Side, Reason]:
        winner, reason = original(blob, vast, rules)
        return (winner.other if reason is Reason.LATER_WRITE else winner), reason

    return everywhere(precedence_module, "precedence", precedence)


def _stamp_trusted_blindly() -> list[Swap]:
    def proved(present: Present) -> bool:
        return present.origin is not None

    return everywhere(proof, "proved_copy", proved)


def _stamp_never_trusted() -> list[Swap]:
    def proved(_: Present) -> bool:
        return False

    return everywhere(proof, "proved_copy", proved)


def _size_is_equality() -> list[Swap]:
    def same(blob: Present, vast: Present) -> bool | None:
        return blob.version.size_bytes == vast.version.size_bytes

    return everywhere(proof, "same_content", same)


def _growing_files_read() -> list[Swap]:
    async def quiet(*_: Any) -> None:
        return None

    return [Swap(sync_key_module, "_require_quiet", quiet), Swap(apply_module, "still_the_same", quiet)]


def _metadata_not_looked_at() -> list[Swap]:
    original = sync_key_module._as_assumed

    async def as_assumed(ctx: PairContext, scene: Any, decision: Decision, side: Side) -> bool:
        return decision.action is not Action.ADOPT or await original(ctx, scene, decision, side)

    return [Swap(sync_key_module, "_as_assumed", as_assumed)]


def _adopted_unseen() -> list[Swap]:
    original = sync_key_module._as_assumed

    async def as_assumed(ctx: PairContext, scene: Any, decision: Decision, side: Side) -> bool:
        return decision.action is Action.ADOPT or await original(ctx, scene, decision, side)

    return [Swap(sync_key_module, "_as_assumed", as_assumed)]


def _written_again_is_nothing() -> list[Swap]:
    def written_again(*_: Any) -> bool:
        return False

    return [Swap(decide_module, "_written_again", written_again)]


def _touch_is_a_write() -> list[Swap]:
    def unproved(*_: Any) -> bool:
        return False

    return [Swap(decide_module, "_unproved", unproved)]


def _emptied_side_believed() -> list[Swap]:
    async def nothing(*_: Any) -> None:
        return None

    return [Swap(scan_module.Scanner, "_require_sides", nothing)]


def _delete_of_what_changed() -> list[Swap]:
    original = PacedStore.delete

    async def delete(self: PacedStore, key: str, *, expected_etag: str) -> None:
        try:
            expected_etag = (await self._store.head(key)).version.etag
        except NotPresent:
            return
        await original(self, key, expected_etag=expected_etag)

    return [Swap(PacedStore, "delete", delete)]


def _scan_finds_nothing() -> list[Swap]:
    def changes(*_: Any, **__: Any) -> list[Change]:
        return []

    return [Swap(comparison, "changes", changes)]


STORAGE = [
    Mutant("condition_dropped", "writes are sent without their condition", _condition_dropped),
    Mutant("preserve_skipped", "a loser is overwritten without being kept", _preserve_skipped),
    Mutant("delete_without_base", "what is on one side only is deleted there", _delete_without_base),
    Mutant("unread_is_absent", "a side that does not answer holds nothing", _unread_is_absent, first=4300),
    Mutant("failed_listing_ends", "a listing that failed is taken for whole", _failed_listing_ends),
    Mutant("base_without_write", "the base is recorded although the write failed", _base_without_write),
    Mutant("tie_reversed", "the other side wins ties", _tie_reversed),
    Mutant("first_writer_wins", "the earlier write wins", _first_writer_wins),
    Mutant("stamp_trusted_blindly", "an origin stamp proves a copy whatever the content is", _stamp_trusted_blindly),
    Mutant("stamp_never_trusted", "our own copies are taken for users' writes", _stamp_never_trusted, first=2_000_070),
    Mutant("size_is_equality", "contents of one size are equal", _size_is_equality),
    Mutant("growing_files_read", "files are read while they are written", _growing_files_read, first=4040),
    Mutant(
        "metadata_not_looked_at", "VAST's metadata is not looked at before it is overwritten", _metadata_not_looked_at, first=4650
    ),
    Mutant(
        "adopted_unseen", "what is equal to the base is agreed on without a look at the other side", _adopted_unseen, within=3000
    ),
    Mutant(
        "written_again_is_nothing",
        "an older delete takes the agreed content along that was written again",
        _written_again_is_nothing,
    ),
    Mutant("touch_is_a_write", "an NFS touch wins over a write", _touch_is_a_write, first=5545),
    Mutant("emptied_side_believed", "a side found empty was emptied on purpose", _emptied_side_believed),
    Mutant("delete_of_what_changed", "whatever is there now is deleted", _delete_of_what_changed),
    Mutant("scan_finds_nothing", "the scan marks nothing", _scan_finds_nothing),
]
