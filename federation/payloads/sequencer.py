"""Order of Event Grid events of one blob, as far as their sequencers tell it (facts/azure.md 1.3). Pure.

Two lengths are seen, of 2 and of 3 blocks of 16 hexadecimal digits, in any case; padded to one length they compare as text.
Whatever the order, it is a hint (rule 2): it only decides which events of one delivery say nothing that others do not say.
"""

from __future__ import annotations

import re
from functools import cmp_to_key

from federation.model import Change

_FORM = re.compile(r"[0-9a-fA-F]{1,96}\Z")
_ENDS = 2


def order(one: object, two: object) -> int | None:
    """Negative when *one* is the older, 0 when they are the same, positive when it is the newer; None when that is not known."""
    if not isinstance(one, str) or not isinstance(two, str) or not _FORM.match(one) or not _FORM.match(two):
        return None
    width = max(len(one), len(two))
    a, b = one.lower().rjust(width, "0"), two.lower().rjust(width, "0")
    return (a > b) - (a < b)


def coalesce(told: list[tuple[Change, object]]) -> list[Change]:
    """The changes of one delivery, each with its sequencer, without those between the oldest and the newest of their key.

    The oldest tells since when the key waits, the newest which version to expect. Where a sequencer cannot be compared, all stay.
    """
    by_key: dict[str, list[tuple[Change, object]]] = {}
    for change, sequencer in told:
        by_key.setdefault(change.key, []).append((change, sequencer))
    return [change for group in by_key.values() for change in _ends(group)]


def _ends(group: list[tuple[Change, object]]) -> list[Change]:
    if len(group) > _ENDS and all(order(sequencer, sequencer) is not None for _, sequencer in group):
        in_order = sorted(group, key=cmp_to_key(_by_sequencer))
        return [in_order[0][0], in_order[-1][0]]
    return [change for change, _ in group]


def _by_sequencer(one: tuple[Change, object], two: tuple[Change, object]) -> int:
    return order(one[1], two[1]) or 0
