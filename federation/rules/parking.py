"""Why a key is parked, in words, and its way back: shown by ``parked``, ``explain``, ``status`` and docs/parked.md. Pure.

Whatever the reason, a parked key is tried again when an event or a scan shows that it still differs, at the end of each scan of
the whole pair (but for ``record_damaged``), and by ``fedplane parked retry``; nothing is lost by waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parking:
    """What a reason means, and what brings the key back. ``by_itself``: no person has to act."""

    meaning: str
    way_back: str
    by_itself: bool = False


_RETRY = "Then `fedplane parked retry KEY`, or wait for the next scan."
_KEPT_FAILING = "Look at the detail and the side's health. " + _RETRY

REASONS: Mapping[str, Parking] = {
    "archived": Parking(
        "The object is in an offline tier: it can be neither read nor overwritten.",
        "Rehydrate it (set its tier to hot, cool or cold; on S3, restore it). The tier event or the next scan brings it back.",
    ),
    "rehydrating": Parking(
        "The object is on its way back from an offline tier, which takes hours.",
        "Nothing to do: the tier event, or the next scan after it is done, brings it back.",
        by_itself=True,
    ),
    "immutable": Parking(
        "A time-based retention policy on the blob or its container forbids to change or delete it.",
        "Wait until the retention ends, or change the policy if it is unlocked; or make that side the master of the prefix.",
    ),
    "legal_hold": Parking(
        "A legal hold on the object or its container forbids to change or delete it.",
        "Who set the hold has to clear it. " + _RETRY,
    ),
    "worm": Parking(
        "The object is locked on VAST: object lock, a WORM view, or indestructible-object mode.",
        "Wait until the retention ends, or have the view's policy changed by its administrator. " + _RETRY,
    ),
    "leased": Parking(
        "Somebody holds a lease on the blob, so that only they may change it.",
        "Release or break the lease; one of limited time ends within a minute. " + _RETRY,
    ),
    "snapshots_present": Parking(
        "The blob has snapshots, so it cannot be deleted alone, or has too many of them; fedplane never deletes a snapshot.",
        "Delete the snapshots, or keep the blob by writing it anew. " + _RETRY,
    ),
    "not_a_block_blob": Parking(
        "The blob is a page or append blob, or was written at the Data Lake endpoint: it takes no blocks.",
        "It is read as content, and made a block blob where VAST's version wins; if that is refused, remove it by hand.",
    ),
    "customer_key": Parking(
        "The object is encrypted with a key that its writer sends along (CPK, SSE-C); fedplane has no such keys.",
        "Write it anew under the account's own key or an encryption scope, or leave its prefix out of the pair.",
    ),
    "encryption_key": Parking(
        "The key of the object's encryption scope or key vault is disabled, missing or out of reach.",
        "Enable the scope or the key in the vault, and the account's access to it. " + _RETRY,
    ),
    "quota_full": Parking(
        "The side has no room left: a quota, or the cluster's capacity.",
        "Make room or raise the quota. " + _RETRY,
    ),
    "too_large": Parking(
        "The object is larger than the side takes, in one piece or in the parts allowed.",
        "Raise transfer.memory_bytes if the detail says so (a part is held whole); else split the object. " + _RETRY,
    ),
    "name_refused": Parking(
        "The side refuses the name, though the name policy allows it.",
        "Rename the object, or allow such names in the VAST view's policy (docs/names.md). " + _RETRY,
    ),
    "name_clash": Parking(
        "On that side the name is taken by a directory, or one of its folders is a file.",
        "Rename one of the two. " + _RETRY,
    ),
    "unrepresentable": Parking(
        "No name on the other side can stand for this key: too long, too deep, or no valid characters.",
        "Rename the object; the renamed one is a new key, and this entry goes when the old one is deleted.",
    ),
    "metadata_refused": Parking(
        "The side refuses the object's metadata.",
        "Make the metadata smaller or plainer at its source. " + _RETRY,
    ),
    "tags_refused": Parking(
        "The side refuses the object's tags.",
        "Correct the tags at their source, or switch rules.tags off. " + _RETRY,
    ),
    "no_tags": Parking(
        "The side says that the object has no tags, where that is no answer to what was asked.",
        "This is a server that differs: report the detail. " + _RETRY,
    ),
    "tier_refused": Parking(
        "The account does not take the access tier that the settings name for new blobs.",
        "Correct the tier in [[pair.blob.tiers]]. " + _RETRY,
    ),
    "copy_refused": Parking(
        "The side refuses the server-side copy that keeps a losing version.",
        "Nothing was overwritten. See the detail; copy the version by hand if need be. " + _RETRY,
    ),
    "not_supported": Parking(
        "The side does not implement what is needed for this object.",
        "See `fedplane doctor` for what it can do; a newer release may. " + _RETRY,
    ),
    "access_denied": Parking(
        "Our identity may use the container, but not this object.",
        "Grant read, write and delete on it, or leave its prefix out of the pair. " + _RETRY,
    ),
    "revert_limit": Parking(
        "Somebody keeps writing this key in a read-only zone, and was put back too often.",
        "Stop that writer. " + _RETRY,
    ),
    "refused": Parking(
        "The side refused with a code that fedplane does not know.",
        "The detail holds the code: look it up, and report it. " + _RETRY,
    ),
    "request_refused": Parking(
        "The side does not understand our request.",
        "This is a defect of fedplane, or a server that differs: report the detail. " + _RETRY,
    ),
    "internal_error": Parking(
        "A defect of fedplane.",
        "Report the detail. " + _RETRY,
    ),
    "record_damaged": Parking(
        "What Redis holds of the key cannot be read: it is damaged, or a newer fedplane wrote it. Nothing is decided by it.",
        "Run the newer fedplane, or restore Redis. Else have the record forgotten by the command for `redis-cli` that the detail "
        "ends with: of a base the two sides are then compared as if they had never met, so what one holds alone is copied to the "
        "other. Then `fedplane parked retry KEY`.",
    ),
    "damaged_write": Parking(
        "What was written to the side arrived damaged each time, and the side took it.",
        "Check the network to that side, then write the object anew on the other. " + _RETRY,
    ),
    "checksum_mismatch": Parking("The bytes arrive damaged, again and again.", "Look at the network and the side. " + _RETRY),
    "content_mismatch": Parking(
        "What is read does not match the size or hash that the side tells, again and again; the detail holds both.",
        "Read the object by other means. Fits it the detail's first hash, then its Content-MD5 or ETag is wrong: set the blob's "
        "Content-MD5 right or clear it, write the VAST object anew. Fits it the second, then look at what stands between. "
        + _RETRY,
    ),
    "moving": Parking(
        "The object changes faster than it can be copied.", "It comes back when its writer pauses.", by_itself=True
    ),
    "changed_while_read": Parking("The file changes while it is read.", "It comes back when its writer pauses.", by_itself=True),
    "foreign_blocks": Parking(
        "Unfinished blocks are under this name, of another kind or too many: of somebody else, or of uploads that began anew.",
        "They end with the next commit or write of that blob, or after a week. " + _RETRY,
    ),
    "copy_pending": Parking("A copy on the server does not come to its end.", "Wait, or abort that copy. " + _RETRY),
    "copy_failed": Parking("A copy on the server failed.", "Nothing was overwritten. " + _KEPT_FAILING),
    "copy_source": Parking("The server cannot read the source of its own copy.", "Nothing was overwritten. " + _KEPT_FAILING),
    "bad_answer": Parking("The side keeps giving answers that make no sense.", "Look at what stands between. " + _KEPT_FAILING),
    "bad_listing": Parking("The side keeps giving lists that are cut short.", _KEPT_FAILING),
    "listing_order": Parking("The side's lists change their order.", _KEPT_FAILING),
    "retries_exhausted": Parking("It failed too often.", _KEPT_FAILING),
}
"""By the reason of a ``Park``, or of a ``RetryLater`` that came too often."""

_UNKNOWN = Parking("It failed in a way that has no name.", _KEPT_FAILING)


def parking(reason: str) -> Parking:
    """What *reason* means; a general word for one that nobody named."""
    return REASONS.get(reason, _UNKNOWN)
