"""Events that Event Grid could not deliver, read back from the container it keeps them in (facts/azure.md 1.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.storage.blob.aio import ContainerClient

from federation.errors import RetryLater, UsageError
from federation.settings import BlobSettings, secret

BLOB_LIMIT_BYTES = 64 * 1024 * 1024
_FORBIDDEN = 403


@dataclass(frozen=True, slots=True)
class DeadBlob:
    """One blob of undelivered events; ``body`` None: larger than ``BLOB_LIMIT_BYTES``, and not read."""

    name: str
    body: bytes | None


async def dead_blobs(blob: BlobSettings, credential: object | None, container: str, prefix: str) -> AsyncIterator[DeadBlob]:
    """All blobs of *container* whose names begin with *prefix*, one at a time.

    Raises:
        UsageError: there is no such container, or it may not be read.
        RetryLater: the service does not answer.
    """
    async with _client(blob, credential, container) as client:
        try:
            async for item in client.list_blobs(name_starts_with=prefix or None):
                if item.size > BLOB_LIMIT_BYTES:
                    yield DeadBlob(item.name, None)
                    continue
                download = await client.download_blob(item.name)
                yield DeadBlob(item.name, await download.readall())
        except ResourceNotFoundError:
            text = f"There is no container {container!r} in the account of pair.blob.account_url."
            raise UsageError(f"{text} Name the one Event Grid dead-letters to with --container.", reason="no_container") from None
        except HttpResponseError as error:
            if isinstance(error, ClientAuthenticationError) or error.status_code == _FORBIDDEN:
                text = f"Container {container!r} may not be read: grant Storage Blob Data Reader on it to this identity."
                raise UsageError(text, reason="no_right") from None
            raise RetryLater(f"container {container!r} cannot be read: {error.message}", reason="unreachable") from None
        except AzureError as error:
            raise RetryLater(f"container {container!r} cannot be read: {error.message}", reason="unreachable") from None


def _client(blob: BlobSettings, credential: object | None, container: str) -> ContainerClient:
    options = {"retry_total": 3, "connection_timeout": 5, "read_timeout": 60, "user_agent": "fedplane/0.1"}
    if blob.connection_string_env:
        text = secret(blob.connection_string_env, "pair.blob.connection_string_env")
        return ContainerClient.from_connection_string(text, container, **options)  # type: ignore[arg-type]
    return ContainerClient(blob.account_url, container, credential=credential, **options)  # type: ignore[arg-type]
