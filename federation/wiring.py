"""The one composition root of the engine: settings in, a pair ready to work out. Imports of SDKs happen here, late."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from federation.clock import SystemClock
from federation.errors import Halt
from federation.model import Change, Side
from federation.ports import ChangeSink, Clock, ObjectStore, Source, State
from federation.progress import OPTIONS_NOTE, UNION_NOTE, HaltRecord, MarkResult, union_value
from federation.rules.decision import Rules
from federation.rules.guards import PAIR_OPTIONS_CHANGED, changed_options
from federation.settings import BlobSettings, PairSettings, Settings, secret
from federation.sources.change_feed_index import FeedBlobs
from federation.sources.common import OnGap
from federation.sync.budget import ByteBudget
from federation.sync.bulk import BulkLane
from federation.sync.context import PairContext
from federation.sync.gates import GateBook
from federation.sync.journal import UploadNotes
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import Gate, PaceLimits
from federation.sync.transfer import Transfer, TransferLimits
from federation.sync.worker import Worker, WorkerLimits

_PROCESS = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


@dataclass(slots=True)
class PairRuntime:
    """One pair, opened. ``fresh_state``: Redis held nothing of it, so it is in union mode until a whole scan (design 4.5)."""

    settings: PairSettings
    context: PairContext
    gates: dict[Side, Gate]
    state: State
    worker: Worker
    fresh_state: bool
    credential: object | None = None
    """For Azure, where no connection string is set."""
    sink: ChangeSink = field(init=False)
    """Where marks of this process go: whoever works on them otherwise than by ``worker.run`` puts their own."""

    def __post_init__(self) -> None:
        self.sink = WakingSink(self.context, self.worker)

    @property
    def stores(self) -> Mapping[Side, ObjectStore]:
        """Both sides, paced and counted."""
        return self.context.stores


class WakingSink:
    """``ports.ChangeSink`` that wakes this process's own worker once the marks are durable."""

    def __init__(self, context: PairContext, worker: Worker) -> None:
        self._context = context
        self._worker = worker

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As ``State.mark``."""
        result = await self._context.mark(changes)
        if result.marked:  # echoes of our own writes are no reason to look anywhere
            self._worker.wake_changes(changes)
        return result


@asynccontextmanager
async def open_state(
    settings: Settings, pair: PairSettings, clock: Clock | None = None, *, marker: str = ""
) -> AsyncIterator[State]:
    """The pair's state in Redis, not yet opened; an embedded Redis lives as long as the block. Raises RetryLater, UsageError.

    *marker*: for a process that lives on to look after its marks (``State.lost_marks``).
    """
    from federation.state.embedded import connect  # noqa: PLC0415 - keeps start-up of thin triggers light
    from federation.state.redis_state import RedisState  # noqa: PLC0415

    client, server = await connect(settings.redis)
    worker, clock = settings.worker, clock or SystemClock()
    state = RedisState(client, pair.name, shards=worker.shards, buckets=worker.buckets, clock=clock, marker=marker)
    try:
        yield state
    finally:
        await state.close()
        if server is not None:
            await server.stop()


async def open_or_begin(state: State, pair: PairSettings, clock: Clock) -> bool:
    """Open the state, or begin one that is not there, in union mode until a whole scan; whether it was there.

    The notes come first: a process that dies before its state is begun leaves at most notes too many. Raises RetryLater, and
    Halt as ``guard_options``, whose note an emptied state lost too.
    """
    if await state.open(create=False):
        return True
    await state.put_note(UNION_NOTE, union_value())
    await guard_options(state, pair, clock)
    await state.open()
    return False


@asynccontextmanager
async def open_pair(
    settings: Settings,
    pair: PairSettings,
    clock: Clock | None = None,
    budget: ByteBudget | None = None,
    book: GateBook | None = None,
    *,
    create: bool = True,
) -> AsyncIterator[PairRuntime]:
    """Open state and both sides and build the worker. Share one *budget* and one *book* among the pairs of a process.

    Without *create* nothing is written, not even the layout of a new state: for commands that only look.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        marker = f"{owner_name()}:{secrets.token_hex(4)}" if create else ""
        state = await stack.enter_async_context(open_state(settings, pair, clock, marker=marker))
        had_state = await (open_or_begin(state, pair, clock) if create else state.open(create=False))
        if create and had_state:
            await guard_options(state, pair, clock)
        gates = _gates(pair, book or gate_book(settings, clock))
        stores: dict[Side, ObjectStore] = {}
        credential = await _credential(stack, pair.blob)
        for side, store in (
            (Side.BLOB, _blob_store(pair, credential)),
            (Side.VAST, _vast_store(pair, UploadNotes(state, Side.VAST, clock))),
        ):
            stack.push_async_callback(store.close)
            stores[side] = PacedStore(store, gates[side])
        context = _context(settings, pair, stores, state, clock, budget or ByteBudget(settings.transfer.memory_bytes))
        worker = Worker(context, gates, worker_limits(settings), owner=owner_name())
        yield PairRuntime(pair, context, gates, state, worker, fresh_state=not had_state, credential=credential)


async def guard_options(state: State, pair: PairSettings, clock: Clock) -> None:
    """Refuse to work on a pair whose base was made under other places or names: all of it would look deleted (design 4.5).

    Raises Halt, and keeps the halt for status; with the settings as they were it ends. While nothing was agreed on yet, nothing
    rests on them: a first start with a wrong name is put right by correcting it.
    """
    try:
        await require_options(state, pair)
    except Halt as error:
        await state.halt(HaltRecord(PAIR_OPTIONS_CHANGED, str(error), clock.now_us(), self_lifting=False))
        raise
    await state.put_note(OPTIONS_NOTE, json.dumps(pair.identity).encode())
    await state.lift(PAIR_OPTIONS_CHANGED)


async def require_options(state: State, pair: PairSettings) -> None:
    """The same, writing nothing. Raises Halt."""
    changed = await options_changed(state, pair)
    if changed and (await state.backlog()).objects:
        text = (
            f"the settings of pair {pair.name!r} changed what its records rest on: {', '.join(changed)}. Nothing is done. "
            "Set it back; or give the pair another name: it then starts without records, and nothing is deleted by that"
        )
        raise Halt(text, reason=PAIR_OPTIONS_CHANGED)


async def options_changed(state: State, pair: PairSettings) -> tuple[str, ...]:
    """Names of the options that differ from those the pair's base was made under."""
    recorded = await state.note(OPTIONS_NOTE)
    return changed_options(json.loads(recorded), pair.identity) if recorded else ()


def owner_name() -> str:
    """This process, as it is told of and as what it owns is marked: host and process id for people, and a token.

    In containers of one host name every process is number 1: two would take each other's tasks for their own.
    """
    return _PROCESS


def gate_book(settings: Settings, clock: Clock) -> GateBook:
    """The gates of one process."""
    pacing = settings.pacing
    return GateBook(clock, PaceLimits(pacing.requests_per_second, pacing.timetable(), pacing.max_concurrency))


def _gates(pair: PairSettings, book: GateBook) -> dict[Side, Gate]:
    return {Side.BLOB: book.gate(Side.BLOB, pair.blob.account_url), Side.VAST: book.gate(Side.VAST, pair.vast.endpoint)}


def _context(
    settings: Settings,
    pair: PairSettings,
    stores: Mapping[Side, ObjectStore],
    state: State,
    clock: Clock,
    budget: ByteBudget,
) -> PairContext:
    rules, transfer = pair.rules, settings.transfer
    limits = TransferLimits(transfer.small_object_bytes, transfer.part_bytes, transfer.parallel_parts)
    return PairContext(
        name=pair.name,
        stores=stores,
        state=state,
        clock=clock,
        transfer=Transfer(limits, budget, BulkLane(clock, running=transfer.parallel_large, waiting=4 * transfer.parallel_large)),
        rules=Rules(
            mode=pair.mode,
            tie_winner=rules.tie_winner,
            deletes_to_blob=rules.deletes_to(Side.BLOB),
            deletes_to_vast=rules.deletes_to(Side.VAST),
            foreign=rules.foreign,
            adopt_by_size_and_time=rules.adopt == "size_and_time",
            clock_uncertainty_us=int(rules.clock_uncertainty_seconds * 1_000_000),
        ),
        delete_budget=rules.delete_budget,
        revert_limit=rules.revert_limit,
        quiet_us=int(settings.reconcile.quiet_seconds * 1_000_000),
        origin_stamps=pair.origin_stamps,
    )


def worker_limits(settings: Settings) -> WorkerLimits:
    """Of one pair's worker in one process."""
    worker = settings.worker
    return WorkerLimits(worker.concurrency, worker.lease_seconds, worker.drain_seconds, worker.max_attempts)


async def _credential(stack: AsyncExitStack, blob: BlobSettings) -> object | None:
    """DefaultAzureCredential where anything of the Blob side has no connection string or SAS; closed with *stack*."""
    events = blob.events
    queue = events.queue_url and not events.connection_string_env
    pull = events.namespace_endpoint and not events.namespace_key_env
    if (blob.connection_string_env or blob.sas_env) and not queue and not pull:
        return None
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

    return await stack.enter_async_context(DefaultAzureCredential())


def _blob_store(pair: PairSettings, credential: object | None) -> ObjectStore:
    from federation.stores.azure_blob import AzureBlobStore  # noqa: PLC0415

    blob = pair.blob
    name = blob.connection_string_env
    text = secret(name, "pair.blob.connection_string_env") if name else None
    return AzureBlobStore(
        account_url=blob.account_url,
        container=blob.container,
        prefix=blob.prefix,
        connection_string=text,
        sas=secret(blob.sas_env, "pair.blob.sas_env") if blob.sas_env else None,
        credential=None if text else credential,
        delegate=blob.user_delegation_sas,
        map_tags=pair.rules.tags,
        tiers={one.prefix: one.tier for one in blob.tiers},
    )


def _vast_store(pair: PairSettings, uploads: UploadNotes) -> ObjectStore:
    from federation.stores.vast_s3 import VastS3Store  # noqa: PLC0415

    vast = pair.vast
    return VastS3Store(
        endpoint=vast.endpoint,
        bucket=vast.bucket,
        prefix=vast.prefix,
        region=vast.region,
        access_key=secret(vast.access_key_env, "pair.vast.access_key_env"),
        secret_key=secret(vast.secret_key_env, "pair.vast.secret_key_env"),
        ca_file=vast.ca_file,
        name_policy=vast.name_policy,
        map_tags=pair.rules.tags,
        uploads=uploads,
    )


def open_feed(pair: PairSettings, credential: object | None) -> FeedBlobs:
    """The change feed of the pair's storage account, read as the Blob side is; whoever opens it closes it. Raises UsageError."""
    from federation.stores.change_feed import AzureChangeFeed  # noqa: PLC0415

    blob = pair.blob
    name = blob.connection_string_env
    text = secret(name, "pair.blob.connection_string_env") if name else None
    sas = secret(blob.sas_env, "pair.blob.sas_env") if blob.sas_env else None
    return AzureChangeFeed(account_url=blob.account_url, connection_string=text, credential=None if text else credential, sas=sas)


def build_sources(runtime: PairRuntime, *, on_gap: OnGap) -> list[Source]:
    """The listeners that the pair's settings ask for. *on_gap* is called when a source knows that it missed something."""
    from federation.sources import build  # noqa: PLC0415

    return build.sources(
        runtime.settings,
        runtime.state,
        runtime.sink,
        runtime.context.clock,
        credential=runtime.credential,
        on_gap=on_gap,
        feed=open_feed(runtime.settings, runtime.credential) if runtime.settings.blob.change_feed.enabled else None,
        vast=runtime.stores[Side.VAST],
        owner=owner_name(),
    )
