"""Keep a losing version before it is overwritten or deleted (design 4.4)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from federation import metadata
from federation.errors import Park
from federation.model import PRESERVED_PREFIX, SECOND_US, Present, Side, Stamp
from federation.progress import ConflictRecord
from federation.rules.decision import Reason
from federation.rules.precedence import logical_stamp
from federation.sync.context import PairContext

CONFLICTS_PREFIX = f"{PRESERVED_PREFIX}conflicts/"


def conflict_id(key: str, loser: Side, present: Present, written: Stamp) -> str:
    """The same for every repeat of one conflict, so that a crash between copy and record makes no second one."""
    return hashlib.blake2b(f"{key}\0{loser}\0{_version(present)}\0{written.at_us}".encode(), digest_size=8).hexdigest()


def _version(present: Present) -> str:
    # On VAST the ETag is a content hash: metadata tells two versions of one content apart (docs/adr/0001).
    return f"{present.version.etag}\0{present.metadata_digest.hex()}"


def preserved_key(key: str, loser: Side, present: Present, written: Stamp, *, short: bool = False) -> str:
    """``.federation/conflicts/<key>~<side>~<UTC time>~<short etag>``: named by the version, not by the clock of the copy.

    *short* puts a digest in place of a key that leaves no room for the rest.
    """
    at = datetime.fromtimestamp(written.at_us // SECOND_US, UTC).strftime("%Y%m%dT%H%M%SZ")
    version = hashlib.blake2b(_version(present).encode(), digest_size=4).hexdigest()
    return f"{CONFLICTS_PREFIX}{metadata.key_digest(key) if short else key}~{loser}~{at}~{version}"


async def preserve_loser(
    ctx: PairContext, key: str, loser: tuple[Side, Present], winner: Present | Stamp, reason: Reason, *, copy_bytes: bool
) -> None:
    """Copy the loser on its own side, conditional on its ETag, then record the conflict. Raises Reobserve when it moved.

    *copy_bytes* False: contents are equal and only metadata loses, so the record itself holds it. *winner* is the time of the
    delete where a delete wins.
    """
    side, present = loser
    rules = await ctx.current_rules()
    written = logical_stamp(present, side, rules)
    won = winner if isinstance(winner, Stamp) else logical_stamp(winner, side.other, rules)
    kept_as = ""
    if copy_bytes:
        kept_as = preserved_key(key, side, present, written)
        try:
            await ctx.stores[side].copy(key, kept_as, source_etag=present.version.etag)
        except Park as parked:
            if parked.reason != "unrepresentable":
                raise
            kept_as = preserved_key(key, side, present, written, short=True)
            await ctx.stores[side].copy(key, kept_as, source_etag=present.version.etag)
    await ctx.state.record_conflict(
        ConflictRecord(
            conflict_id=conflict_id(key, side, present, written),
            key=key,
            winner_side=side.other,
            loser_side=side,
            reason=reason.value,
            at_us=ctx.clock.now_us(),
            winner_etag="" if isinstance(winner, Stamp) else winner.version.etag,
            loser_etag=present.version.etag,
            winner_written_us=won.at_us,
            loser_written_us=written.at_us,
            loser_size_bytes=present.version.size_bytes,
            preserved_as=kept_as,
            loser_metadata=None if copy_bytes else present.metadata,
        )
    )
