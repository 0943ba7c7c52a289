"""Names of the Redis keys of one pair (design 5). All keys of a shard share the hash tag ``{pair/shard}``.

Shard and bucket follow from the digest alone, which is what a base record is filed under: so records can be moved to another
number of shards or buckets without knowing the names of their keys (``fedplane state export``).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from federation.model import Side
from federation.state.records import key_digest

_ENDPOINT_DIGITS = 16
COMPACT_RECORDS = 400
"""Of a base hash on average: then no hash has more than the 512 up to which Redis keeps its compact encoding."""


def of_endpoint(endpoint: str) -> str:
    """What processes say of *endpoint*: no pair's own, so that all pairs find it. A tag of its own: one slot of a cluster."""
    return f"fed:{{endpoint/{sha256(endpoint.encode()).hexdigest()[:_ENDPOINT_DIGITS]}}}:pace"


def room(shards: int, buckets: int) -> int:
    """How many objects a state of that layout holds at 85 bytes each; beyond, hashes change one by one and a record takes 150.

    Tombstones count as well, and a record of more than 64 bytes counts twice: where these are many, the room is less.
    """
    return shards * buckets * COMPACT_RECORDS


@dataclass(frozen=True, slots=True)
class Layout:
    """Key names; ``buckets`` base hashes per shard keep each small enough for Redis' compact encoding."""

    pair: str
    shards: int
    buckets: int

    def shard_of(self, key: str) -> int:
        """The shard of *key*: from 0, below ``shards``."""
        return self.shard_of_digest(key_digest(key))

    def shard_of_digest(self, digest: bytes) -> int:
        """The same for whoever has the digest."""
        return int.from_bytes(digest[4:8], "big") % self.shards

    def bucket_of_digest(self, digest: bytes) -> str:
        """The hash that holds the base record filed under *digest*."""
        bucket = int.from_bytes(digest[:4], "big") % self.buckets
        return f"fed:{{{self.pair}/{self.shard_of_digest(digest)}}}:base:{bucket}"

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
        return self.bucket_of_digest(key_digest(key))

    def buckets_of(self, shard: int) -> list[str]:
        """All base hashes of *shard*."""
        return [self.of_shard(shard, f"base:{bucket}") for bucket in range(self.buckets)]
