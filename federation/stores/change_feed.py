"""The container ``$blobchangefeed`` of a storage account, over the Blob side's HTTP lane (facts/azure.md 2.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from federation.errors import UsageError
from federation.model import ListEntry
from federation.stores import wire
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.base import Request

CONTAINER = "$blobchangefeed"


class AzureChangeFeed(AzureBlobStore):
    """``sources.change_feed_index.FeedBlobs``. Each refusal means what the store's table says; nothing is retried here."""

    def __init__(
        self, *, account_url: str, connection_string: str | None, credential: object | None, sas: str | None = None
    ) -> None:
        """Authorise as the Blob side does; *sas* must be of the account: one of the container opens no other.

        Raises:
            UsageError: no credential, or an endpoint of a hierarchical namespace, whose accounts have no feed.
        """
        host = urlsplit(account_url).hostname or ""
        if ".dfs." in host:
            raise UsageError(
                f"pair.blob.account_url names {host}; an account with a hierarchical namespace has no change feed, any other's "
                "is read at its blob endpoint. Name that, or set pair.blob.change_feed.enabled = false.",
                reason="no_change_feed",
            )
        super().__init__(
            container=CONTAINER, account_url=account_url, connection_string=connection_string, credential=credential, sas=sas
        )

    async def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """As in the protocol."""
        request = Request("GET", "GET", name, headers=wire.byte_range(start, length), key=name)
        return (await self.call(request)).body

    async def entries(self, prefix: str) -> AsyncIterator[ListEntry]:
        """As in the protocol."""
        async for page in self._pages(prefix, ""):
            for entry in page.entries:
                yield entry
