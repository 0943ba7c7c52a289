"""A page or append blob that VAST's version replaces: it becomes a block blob (docs/parked.md).

Put Blob replaces a blob of any type in one conditional request. Blocks cannot be staged under such a name, so those of a large
write are staged and committed under a name of our own, and then copied over the name on the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from federation import metadata as mapping
from federation.errors import RetryLater
from federation.model import PRESERVED_PREFIX, Side
from federation.ports import WriteResult
from federation.stores import wire
from federation.stores.base import Request
from federation.telemetry import logger

if TYPE_CHECKING:
    from federation.stores.azure_blob import AzureBlobStore

STAGING_PREFIX = f"{PRESERVED_PREFIX}staging/"
_MD5_OF_NOTHING = "d41d8cd98f00b204e9800998ecf8427e"
_log = logger("fedplane.stores")
_REMEMBERED = 10_000


class OtherTypes:
    """Keys that were seen to hold a page or append blob, so that it can be said when one is replaced."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def note(self, key: str, headers: Mapping[str, str]) -> None:
        """Take in what a HEAD or GET said."""
        kind = headers.get("x-ms-blob-type", "BlockBlob")
        if kind == "BlockBlob":
            self._seen.pop(key, None)
        elif len(self._seen) < _REMEMBERED:
            self._seen[key] = kind

    def replaced(self, key: str) -> None:
        """Say it, where the type was known."""
        kind = self._seen.pop(key, None)
        if kind is not None:
            _log.warning("recreated as a block blob", key=key, was=kind)


def staging_key(upload_id: str) -> str:
    """A name of our own for the blocks, which whoever goes on with the upload, or clears it away, knows too."""
    return f"{STAGING_PREFIX}{upload_id}"


def holding(stored: mapping.Stored) -> mapping.Stored | None:
    """Metadata of the empty block blob that holds the name for a moment; None where *stored* has no origin stamp.

    Its stamp proves it to be our copy of an older version of the other side, so that whoever finds it after a crash takes it for
    no user's write and copies the present version (design 4.3).
    """
    name = mapping.FORMS[Side.BLOB].stamp_name
    stamp = mapping.parse_stamp(stored.user.get(name, ""))
    if stamp is None:
        return None
    older = replace(stamp, etag="superseded", md5=_MD5_OF_NOTHING)
    return replace(stored, user={**stored.user, name: mapping.format_stamp(older)})


async def take_over(
    store: AzureBlobStore, key: str, staged: str, holder: mapping.Stored, conditions: Mapping[str, str]
) -> WriteResult:
    """Put the committed blob *staged* in the place of the blob at *key*, if *conditions* hold there. Raises Reobserve."""
    # RACE: for a moment readers see an empty block blob under the name; a blob's type cannot be changed in one request.
    held = await _hold(store, key, holder, conditions)
    # A copy takes neither tags nor the tier from its source or from what it replaces.
    headers = wire.tags_header(holder.tags, Side.BLOB) | store.tier(key) | wire.condition(held.etag)
    try:
        result = await store.copy_over(staged, key, headers)
    except RetryLater as error:
        if error.left_etag:
            # Empty, with the staged one's stamp. Deleting it would be a delete under a user's name, with its event.
            await _hold(store, key, holder, wire.condition(error.left_etag))
            error.left_etag = ""
        raise
    await store.delete(staged, expected_etag=(await store.head(staged)).version.etag)
    _log.warning("recreated as a block blob", key=key)
    return result


async def _hold(store: AzureBlobStore, key: str, holder: mapping.Stored, conditions: Mapping[str, str]) -> WriteResult:
    headers = store.blob_headers(holder, None) | {"x-ms-blob-type": "BlockBlob", **conditions}
    return store.result(
        await store.write(Request("PUT", "Put Blob", store.written_name(key), headers=headers, body=b"", key=key))
    )
