"""Names of the Redis keys of one pair (design 5). All keys of a shard share the hash tag ``{pair/shard}``."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from federation.model import Side
from federation.state.records import key_digest


@dataclass(frozen=True, slots=True)
class Layout:
    """Key names; ``buckets`` base hashes per shard keep each small enough for Redis' compact encoding."""

    pair: str
    shards: int
    buckets: int

    def shard_of(self, key: str) -> int:
        """``crc32(key utf-8) % shards``."""
        return crc32(key.encode()) % self.shards

    def of_shard(self, shard: int, name: str) -> str:
        """Key *name* of *shard*."""
        return f"fed:{{{self.pair}/{shard}}}:{name}"

    def of_pair(self, name: str) -> str:
        """Key *name* of the pair itself."""
        return f"fed:{{{self.pair}}}:{name}"

    def since(self, shard: int, side: Side) -> str:
        """Times of the oldest unapplied changes of one side."""
        return self.of_shard(shard, f"since:{side}")

    def base_bucket(self, key: str) -> str:
        """The hash that holds the base record of *key*."""
        bucket = int.from_bytes(key_digest(key)[:4], "big") % self.buckets
        return self.of_shard(self.shard_of(key), f"base:{bucket}")
