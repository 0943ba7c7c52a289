"""Which conflicts are none: the loser was no user's version but a copy of ours; and where no engine could have known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation.progress import ConflictRecord
from tests.simulation.values import kept_as, plain, value_of

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle

_LARGE_BYTES = 64
"""Above this the engine's copies are made in parts, whose ETag proves no content."""


def is_false(oracle: Oracle, record: ConflictRecord) -> bool:
    """Whether the loser was a copy of ours that the engine could have known for one."""
    if record.key in oracle.concerned or not oracle.script.stamps or not record.loser_etag:
        return False
    users = {(one.side, one.key, etag) for one in oracle.writes for etag in one.etags}
    if (record.loser_side, record.key, record.loser_etag) in users | oracle.rewritten:
        return False
    return not _let_go(oracle, record) and not _metadata_alone(oracle, record)


def _let_go(oracle: Oracle, record: ConflictRecord) -> bool:
    """Once a delete was ignored nothing is agreed on, and no hash proves that a large object is our copy: it is kept."""
    let_go = record.loser_side in oracle.script.deletes_ignored and (record.winner_side, record.key) in oracle.gone
    return let_go and ("-" in record.loser_etag or record.loser_size_bytes > _LARGE_BYTES)


def _metadata_alone(oracle: Oracle, record: ConflictRecord) -> bool:
    """Metadata that was changed on one side, copied, and whose object was deleted there before the copy was recorded: it is kept.

    A user who changes metadata and puts it back, under our stamp, leaves the same (seed 2004082): his write must not be deleted.
    """
    kept = kept_as(oracle.servers[record.loser_side], record.preserved_as)
    if record.winner_etag or kept is None:
        return False
    theirs = [one for one in oracle.writes if (one.key, one.side) == (record.key, record.winner_side)]
    same = any(one.value == value_of(kept) for one in theirs)
    before = [one for one in oracle.writes if one.key == record.key and one.value[0] == kept.data]
    return same and any(one.value[1] != plain(kept.metadata) for one in before)
