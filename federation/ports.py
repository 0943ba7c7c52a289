"""What the engine needs from the world, as Protocols. The docstrings fix the semantics; one contract suite checks every adapter.

All keys are pair-relative. All ETags are unquoted. Every method may raise RetryLater, Park or Halt of ``federation.errors``;
what else it raises is said where it is. Cancelling an awaited call leaves the outcome unknown, never half-recorded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from federation.capabilities import Capabilities
from federation.model import Base, Change, ClockSkew, Hint, ListEntry, Metadata, OriginStamp, Present, Side
from federation.progress import Backlog, Claim, DeleteBudget, DeleteTally, Held, Lease, MarkResult, Parked
from federation.record_ports import Records, Transfers


class Clock(Protocol):
    """Time, injected so that the engine runs under virtual time."""

    def now_us(self) -> int:
        """Wall clock, microseconds since 1970 UTC."""
        ...

    def monotonic_seconds(self) -> float:
        """A clock that never goes back, for durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the task."""
        ...


# ---------------------------------------------------------------------------------------------------------------- stores

Halfway = Callable[[Metadata], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write left behind: the ETag now on the object. ``lossy``: some metadata did not fit the side."""

    etag: str
    lossy: bool = False


class Reader(Protocol):
    """One GET under way. ``present`` describes the version that is being read (from the response's own headers)."""

    present: Present

    async def read(self) -> bytes:
        """All bytes of the response. RetryLater when the stream ends short of what was announced."""
        ...

    def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        """The bytes in pieces of at most *size_bytes*, as they come, none empty. RetryLater when cut short."""
        ...

    async def close(self) -> None:
        """Drop the response; reading less than all of it is fine. Idempotent."""
        ...


class Upload(Protocol):
    """A large write under way. Nothing is visible before ``complete``."""

    upload_id: str
    """What the server knows it by; with the parts' tokens, all that ``ObjectStore.resume_upload`` needs."""

    async def put_part(self, number: int, data: bytes, *, md5: bytes | None = None) -> str:
        """Send part *number* (from 1) with its own checksum; the part's token. Parts may be sent in any order and repeated.

        *md5*: of *data*, where the caller has it. Raises RetryLater (checksum_mismatch) when the server tells that something else
        arrived.
        """
        ...

    async def complete(self, *, expected_etag: str | None, md5_hex: str) -> WriteResult:
        """Make the object visible if it still is what was expected (as in ``ObjectStore.put``). Raises Reobserve.

        Also RetryLater (checksum_mismatch) with ``left_etag``: what is visible now is damaged.
        """
        ...

    async def abort(self) -> None:
        """Forget the parts. Idempotent; never raises NotPresent."""
        ...


class ObjectStore(Protocol):
    """One side of one pair: a container or bucket and a prefix in it.

    Conditions: *expected_etag* is the ETag the object must have now; None means it must not exist. A failed condition raises
    Reobserve and changes nothing. Where ``capabilities`` say the server cannot promise a condition, the store re-reads
    immediately before, raises Reobserve on a difference, and counts the window in ``race_windows`` (rule 5).
    """

    side: Side
    capabilities: Capabilities
    race_windows: int
    ordered: bool
    """Whether the last whole listing showed that names are keys and in order: then a listing may start anywhere. May be set to
    what is known from elsewhere; a listing that sees otherwise takes it back."""

    @property
    def sealed(self) -> bool:
        """Whether the channel finds damage on the way by itself (TLS)."""
        ...

    @property
    def checked_bytes(self) -> int:
        """Largest range whose answer brings a checksum that its reader compares: RetryLater (content_mismatch). 0: none does."""
        ...

    async def check(self) -> None:
        """Prove that the container is there and readable. Raises Halt (container_missing, credentials_refused) or RetryLater."""
        ...

    async def probe(self) -> Capabilities:
        """Find out by trying, under ``.federation/probe/``, what the server honours; sets and returns ``capabilities``."""
        ...

    async def head(self, key: str) -> Present:
        """What is there now, from one request. Raises NotPresent. A missing container is Halt, never NotPresent (rule 3)."""
        ...

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> Reader:
        """Start one GET, whole or of ``[start, start+length)``. Raises NotPresent, and Reobserve when *if_match* fails."""
        ...

    async def open_version(self, key: str, version_id: str, *, start: int = 0, length: int | None = None) -> Reader:
        """Start one GET of an old version (``capabilities.versioning``), as ``open``. NotPresent: it is no longer kept."""
        ...

    async def put(
        self, key: str, data: bytes, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str | None
    ) -> WriteResult:
        """Write a small object in one request with its content MD5, conditionally. Raises Reobserve.

        Any error may bring ``left_etag``: what is there now is a damaged write of ours.
        """
        ...

    async def begin_upload(self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, size_bytes: int) -> Upload:
        """Start a write in parts."""
        ...

    def resume_upload(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, upload_id: str, parts: Mapping[int, str]
    ) -> Upload:
        """Go on with an upload that another process began with the same metadata and stamp; *parts*: tokens by number.

        Sends nothing. When the server has forgotten the upload, its calls raise Reobserve.
        """
        ...

    async def replace_metadata(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str, halfway: Halfway | None = None
    ) -> WriteResult:
        """Replace headers and user metadata without moving data; the content stays as it is. Raises Reobserve, NotPresent.

        *halfway* is awaited before the first of two requests, with what the object holds if the second does not come about.
        """
        ...

    async def delete(self, key: str, *, expected_etag: str) -> None:
        """Delete this version. An object already gone is success. Raises Reobserve when it is another version."""
        ...

    async def copy(self, source_key: str, target_key: str, *, source_etag: str) -> WriteResult:
        """Copy on the server, metadata included, to a key that does not exist yet.

        Raises Reobserve when the source is another version, NotPresent when it is gone. When the target exists already it is
        left alone and its ETag returned: preserving is idempotent (the name holds the version).
        """
        ...

    def list(self, *, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        """Every current object in ascending order of the UTF-8 bytes of the key, keys greater than *start_after*.

        Yields or raises; a listing that ends without raising was complete (rule 3). Uncommitted and soft-deleted objects,
        snapshots and old versions are left out; so are objects under ``.federation/`` and the side's system prefixes, unless
        *prefix* names them.
        """
        ...

    async def holds_any(self) -> bool:
        """Whether anything is listed but what ``list`` leaves out as ours or the side's own; a name that no key has counts too.

        One page, or as many as hold nothing else. Raises as ``list``.
        """
        ...

    async def clock_skew(self) -> ClockSkew:
        """Service's clock minus ours, from the ``Date`` headers seen; before the first it is 0, and could be anything."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


# ----------------------------------------------------------------------------------------------------------------- state


class State(Records, Transfers, Protocol):
    """All progress of one pair. Every multi-key step is atomic. RetryLater when the store cannot be reached."""

    shards: int
    ahead_us: dict[Side, int]
    """How far each side's clock is ahead of ours, told by who measures it: what has no time waits since now by that."""

    async def open(self, *, create: bool = True) -> bool:
        """Check or create the layout. False when the state was empty (new or lost): union mode until a whole scan (4.5).

        Without *create* nothing is written: for commands that only look.
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...

    def shard_of(self, key: str) -> int:
        """Which shard *key* belongs to, from 0: follows from its name and ``shards`` alone."""
        ...

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """Make keys dirty; coalesces, keeps the earliest change time per side, drops echoes, bumps the generation."""
        ...

    async def acquire(self, shard: int, *, owner: str, ttl_seconds: float) -> Lease | None:
        """Take a free shard (None when taken). What a dead owner had claimed becomes due at once."""
        ...

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> bool:
        """Extend; False when the lease is lost."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give the shard back. Losing it earlier is not an error."""
        ...

    async def claim(self, lease: Lease, *, limit: int, now_us: int, newest: int = 0, from_us: int = 0) -> list[Claim]:
        """Hand out keys due since *from_us*, oldest first but for *newest* of them; not again before its end or the lease's.

        *newest* are those that came due last. What only a scan found counts as due ``progress.SCAN_BEHIND_US`` earlier, until it
        is announced: announced changes are newer than all of it, and are asked for alone with that *from_us*.

        A key of which something is recorded that cannot be read is parked (``record_damaged``) and not handed out.
        Every method that takes a lease raises ``errors.LeaseLost`` when its token is refused.
        """
        ...

    async def reclaim(self, lease: Lease, *, at_work: Sequence[str], now_us: int) -> int:
        """Make due again what is claimed here and not *at_work* (a failover may forget that a key was given back); how many."""
        ...

    async def intend(self, lease: Lease, key: str, intent: Base) -> None:
        """Note, before a delete, or a copy to a side that has no agreed version yet, the base that will hold once it is done.

        The destination's ETag in it is empty, or that of an unrecorded copy of ours that is replaced, or of what is deleted;
        noted after a write, of what that left damaged. If the writer dies or fails before ``settle``, the next claim carries it,
        and what is found there proves what was done; then it goes.
        ``deleted`` with a metadata digest: it is of metadata that Blob takes in two requests, and says what that holds between.
        """
        ...

    async def settle(self, lease: Lease, key: str, generation: int, base: Base | None) -> bool:
        """Record what both sides now agree on (None: forget) and drop what was known at *generation*.

        Returns False when the key was marked meanwhile: the base is recorded and the key stays dirty with only newer hints.
        Without effect, as ``defer``, ``park`` and ``hold``, when the claim of that generation has ended: so a repeat after a
        lost reply is safe. Generation 0 records without a claim.
        """
        ...

    async def defer(
        self, lease: Lease, key: str, generation: int, *, not_before_us: int, error: str, count_attempt: bool = True
    ) -> None:
        """Keep the key dirty, not to be tried before that time (an earlier time when it was marked meanwhile).

        Under a new generation: its next claim is another, also where nothing was marked.
        """
        ...

    async def park(self, lease: Lease, key: str, generation: int, *, reason: str, detail: str, now_us: int) -> None:
        """Take the key off the dirty set until a new mark or an operator brings it back. No effect when marked meanwhile."""
        ...

    async def hold(self, lease: Lease, key: str, generation: int, held: Held) -> None:
        """Keep a delete for a person; the key is not dirty meanwhile. No effect when marked meanwhile.

        What is told of the key later makes it dirty beside that; ``settle`` ends it, when it has come to something else.
        """
        ...

    async def bases(self, keys: Sequence[str]) -> Sequence[Base | None]:
        """Base records in the order of *keys*. May be decoded only when looked at (``state.records.PackedBases``)."""
        ...

    async def forget_tombstones(self, shard: int, *, before_us: int) -> int:
        """Drop the tombstones of one shard whose delete lies before that time; returns how many. Live records stay."""
        ...

    async def base_records(self, shard: int, *, cursor: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Some base records of one shard, packed: the key's digest (``state.records.key_digest``) and the record, tombstones too.

        Begin with cursor 0 and go on with the one returned until it is 0. The name of the key is not kept.
        """
        ...

    async def forget_bases(self, shard: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """Drop those of the records that are still exactly what ``base_records`` gave; returns how many were."""
        ...

    async def are_dirty(self, keys: Sequence[str]) -> list[bool]:
        """Whether each key is dirty, in the order of *keys*."""
        ...

    async def explain(self, key: str) -> tuple[Hint | None, Base | None, Parked | None, Held | None]:
        """Everything known about one key."""
        ...

    async def backlog(self) -> Backlog:
        """Counts and ages over all shards."""
        ...

    async def dirty_keys(self, *, limit: int) -> list[str]:
        """Some dirty keys, for people."""
        ...

    async def parked(self) -> list[Parked]:
        """All parked keys."""
        ...

    async def unpark(self, keys: Sequence[str], *, now_us: int) -> int:
        """Make parked keys dirty again (source: operator). Returns how many."""
        ...

    async def held(self, keys: Sequence[str] | None = None) -> list[Held]:
        """Held deletes, oldest first: all, or those of *keys* (some thousands at most), without a look at the others."""
        ...

    async def judge(self, keys: Sequence[str], *, verdict: str, now_us: int) -> int:
        """Set the verdict ("released", "rejected") of held deletes and make them dirty. Returns how many. May be repeated."""
        ...

    async def note_created(self, key: str, content: str, *, now_us: int) -> None:
        """Remember for a while that *key* is new and holds *content* (``rules.guards.content_name``): half of a rename."""
        ...

    async def note_deleted(self, key: str, content: str, *, now_us: int) -> None:
        """The other half: *key* held *content* and is to be deleted, granted or not."""
        ...

    async def delete_tally(self, budget: DeleteBudget, *, now_us: int) -> DeleteTally:
        """What became of deletes, for people."""
        ...

    async def reserve_delete(self, name: str, budget: DeleteBudget, *, objects: int, now_us: int) -> bool:
        """Take one delete, by whatever process, from the pair's budget; False when its limit in the window would be passed.

        *name*, side (and version) and key with a colon between, tells deletes apart, so that a repeat of one costs nothing more.
        *objects* are known now; the share is of these and of those deleted in the window.
        """
        ...

    async def reserve_revert(self, key: str, name: str, *, limit: int, window_seconds: float, now_us: int) -> bool:
        """Take one undoing of a write in a read-only zone; False when *key* had *limit* of them in the window.

        *name* tells the undone writes apart, so that a repeat of one costs nothing more.
        """
        ...


class ChangeSink(Protocol):
    """Where sources put what they heard. Returns only after the marks are durable (rule 6)."""

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As ``State.mark``."""
        ...


class Source(Protocol):
    """A long-running listener. Acknowledges or moves its cursor only after ``ChangeSink.mark`` returned (rule 6)."""

    name: str

    async def run(self) -> None:
        """Run until cancelled. Faults of the far end are retried inside with back-off and shown in ``health``."""
        ...

    def health(self) -> dict[str, str | int | float | None]:
        """State for people: position, counts by result (received, marked, echoes, refused by reason, dead), last error."""
        ...
