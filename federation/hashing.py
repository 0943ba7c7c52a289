"""Hashes of content. A large body is hashed in a thread: the event loop has leases to keep."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _hashlib import HASH
    from collections.abc import Callable

_ASIDE_BYTES = 1024**2


async def md5(data: bytes) -> bytes:
    """Digest of *data*; the content hash that both sides report."""
    return await _hashed(hashlib.md5, data)


async def sha256(data: bytes) -> bytes:
    """Digest of *data*."""
    return await _hashed(hashlib.sha256, data)


async def _hashed(algorithm: Callable[..., HASH], data: bytes) -> bytes:
    if len(data) <= _ASIDE_BYTES:
        return algorithm(data, usedforsecurity=False).digest()
    return (await asyncio.to_thread(algorithm, data, usedforsecurity=False)).digest()
