"""What ``doctor`` looks at: is everything there, what may we do, what does each server honour, and what follows from it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal
from uuid import uuid4

import msgspec
from redis.exceptions import RedisError

from federation.capabilities import Capabilities
from federation.errors import FederationError, Halt, NotPresent, RetryLater, UsageError
from federation.model import PRESERVED_PREFIX, ListEntry, Metadata, Side
from federation.ports import ObjectStore
from federation.settings import PairSettings, Settings, WorkerSettings
from federation.state.embedded import connect
from federation.state.layout import room
from federation.wiring import PairRuntime
from fedplane.output import ago
from fedplane.status_text import CROWDED
from operations import capabilities

_SAMPLE = 200
_PATIENCE_SECONDS = 15.0
"""With a side's first answer: a person waits for it."""
_SKEW_OF_NOTE_US = 5_000_000
_SECOND_US = 1_000_000


class Finding(msgspec.Struct, kw_only=True):
    """One thing looked at. ``then`` says what follows from it, or what to do."""

    what: str
    level: Literal["ok", "note", "broken", "unreachable"]
    found: str
    then: str = ""


async def side(runtime: PairRuntime, which: Side) -> list[Finding]:
    """Reachability, rights, capabilities, ETag kinds and clock of one side."""
    store = runtime.stores[which]
    name = _name(runtime.settings, which)
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await store.check()
    except FederationError as error:
        return [failed(f"{which}: {name}", error)]
    except TimeoutError:
        silent = RetryLater(f"{which}: no answer in {_PATIENCE_SECONDS:.0f} seconds", reason="timeout", side=which)
        return [failed(f"{which}: {name}", silent)]
    found = [Finding(what=f"{which}: {name}", level="ok", found="reachable, and the container is there")]
    found += await step(f"{which}: objects", _emptied(runtime, which))
    found += await _rights(store, which)
    if any(one.level == "broken" for one in found):
        return found
    found += await step(f"{which}: list", _etags(store, which))
    found += await step(f"{which}: clock", _clock(store, which))
    return found


async def step(what: str, looking: Awaitable[list[Finding] | Finding]) -> list[Finding]:
    """What *looking* finds, or that it failed: then what else was found is told all the same. Raises UsageError."""
    try:
        found = await looking
    except UsageError:
        raise
    except FederationError as error:
        return [failed(what, error)]
    return found if isinstance(found, list) else [found]


def _name(pair: PairSettings, which: Side) -> str:
    if which is Side.BLOB:
        return f"{pair.blob.account_url}/{pair.blob.container}/{pair.blob.prefix}"
    return f"{pair.vast.endpoint}/{pair.vast.bucket}/{pair.vast.prefix}"


async def _emptied(runtime: PairRuntime, which: Side) -> list[Finding]:
    """A side that lists nothing while the records know objects: unmounted, or emptied."""
    known = (await runtime.state.backlog()).objects
    try:
        if not known or await _some(runtime.stores[which], 1):
            return []
    except FederationError:
        return []  # the right to list is looked at next
    then = "nothing is deleted on the other side before a person lifts the halt. If it is not mounted, mount it"
    told = f"lists no object at all, yet both sides agreed on {known:,}"
    return [Finding(what=f"{which}: objects", level="broken", found=told, then=then)]


async def layout(runtime: PairRuntime, worker: WorkerSettings) -> Finding:
    """Whether the state's layout has room for the objects there are."""
    known, most = (await runtime.state.backlog()).objects, room(worker.shards, worker.buckets)
    told = f"{known:,} objects in {worker.shards} shards of {worker.buckets} buckets, room for {most:,}"
    crowded = known > most
    then = CROWDED.format(room=most) if crowded else ""
    return Finding(what="state: layout", level="note" if crowded else "ok", found=told, then=then)


async def _rights(store: ObjectStore, which: Side) -> list[Finding]:
    """List, write, read, overwrite and delete one probe object under ``.federation/probe/``."""
    key = f"{PRESERVED_PREFIX}probe/{uuid4().hex}"
    etag: str | None = None

    async def write() -> None:
        nonlocal etag
        etag = (await store.put(key, b"probe", Metadata(), stamp=None, expected_etag=etag)).etag

    async def read() -> None:
        await (await store.open(key)).read()

    async def listing() -> None:
        async for _ in store.list(prefix=f"{PRESERVED_PREFIX}probe/"):
            break

    async def delete() -> None:
        await store.delete(key, expected_etag=etag or "")

    trials: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("list", listing),
        ("write", write),
        ("read", read),
        ("overwrite", write),  # a SAS may allow to create alone
        ("delete", delete),
    ]
    granted: list[str] = []
    known = store.capabilities
    # Conditions are tried later: a server may refuse a request for its condition alone, which says nothing of rights.
    store.capabilities = replace(known, conditional_put=False, conditional_delete=False)
    try:
        for right, trial in trials:
            try:
                await trial()
            except (FederationError, NotPresent) as error:
                then = f"grant it to fedplane's identity; without it nothing can be kept in step. {error}"
                return [Finding(what=f"{which}: right to {right}", level="broken", found="refused", then=then)]
            granted.append(right)
    finally:
        store.capabilities = known
    return [Finding(what=f"{which}: rights", level="ok", found=", ".join(granted))]


def honoured(runtime: PairRuntime, which: Side) -> list[Finding]:
    """What the probe saw the server honour."""
    found = runtime.stores[which].capabilities
    conditional = {
        "write": found.conditional_put,
        "delete": found.conditional_delete,
        "multipart completion": found.conditional_complete,
        "server-side copy": found.conditional_copy,
    }
    missing = [name for name, honours in conditional.items() if not honours]
    findings = [
        Finding(what=f"{which}: conditional requests", level="ok", found=", ".join(conditional))
        if not missing
        else Finding(
            what=f"{which}: conditional requests",
            level="note",
            found=f"not honoured on {', '.join(missing)}",
            then="before each of these the object is read once more; a write in that moment may be overwritten without a "
            "conflict copy. Status counts these moments as race_windows.",
        )
    ]
    then = (
        "losers of conflicts are kept as old versions, by id: keep them longer than a person needs to look at a conflict"
        if found.versioning
        else "losers of conflicts are kept as copies under .federation/conflicts/"
    )
    findings.append(Finding(what=f"{which}: versioning", level="ok", found="on" if found.versioning else "off", then=then))
    return [*findings, *_habits(found, which, wanted=runtime.settings.rules.tags)]


def _habits(found: Capabilities, which: Side, *, wanted: bool) -> list[Finding]:
    """Lists, checksums and tags, as the probe saw them."""
    order = "in the order of the names' bytes" if found.list_in_order else "in an order of its own"
    precision = "milliseconds" if found.modified_precision_us < _SECOND_US else "whole seconds"
    hashes = [_hashes(found, which)] if which is Side.VAST else []
    return [
        Finding(
            what=f"{which}: lists",
            level="ok" if found.list_in_order else "note",
            found=f"{order}, {found.page_size:,} a page, times in {precision}",
            then="" if found.list_in_order else "a scan lists twice, and sorts what comes late in memory, or all on disk",
        ),
        _names(found, which),
        *([] if found.marks else [_marks(which)]),
        Finding(
            what=f"{which}: checksums",
            level="ok" if found.checksums else "note",
            found="damaged content is refused" if found.checksums else "damaged content is taken",
            then="" if found.checksums else "a body damaged on its way is noticed when it is read back, not when it is written",
        ),
        *hashes,
        _tags(found, which, wanted=wanted),
    ]


def _hashes(found: Capabilities, which: Side) -> Finding:
    """What ETags of S3 tell of contents, and what proves a write where they tell nothing."""
    what = f"{which}: ETags"
    if found.etag_is_md5:
        return Finding(what=what, level="ok", found="MD5 of the content, unless written in parts or as a file")
    then = "contents are compared by reading them where it must be known; "
    then += "that a write arrived whole is proved by the Content-MD5 sent along"
    if not found.checksums:
        then += ", which this server does not look at: only TLS and the request's signature remain. Check samples with "
        then += "fedplane reconcile --verify hash"
    told = "no hashes of contents: encrypted by a KMS key (SSE-KMS), or the server's own tokens"
    return Finding(what=what, level="ok" if found.checksums else "note", found=told, then=then)


def _names(found: Capabilities, which: Side) -> Finding:
    what = f"{which}: names"
    if not found.leading_slash:
        then = 'two keys would be one object, and one of them lost: set name_policy = "common" on this side, or give it a prefix'
        return Finding(what=what, level="broken", found="/a is taken for a", then=then)
    if not found.case_sensitive:
        then = "two keys would be one object, and one of them lost: have the server tell upper and lower case apart"
        return Finding(what=what, level="broken", found="A is taken for a", then=then)
    if not found.trailing_slash:
        then = "two keys would be one object, and what marks a folder comes back as an object without the slash: keep a pair "
        then += "whose names may end with one on another server"
        return Finding(what=what, level="broken", found="a/ is taken for a", then=then)
    if found.nested_names:
        return Finding(what=what, level="ok", found="a beside a/b is kept and listed")
    then = "where a name is a folder of others too, the server refuses one of the two, which is then parked, or leaves it out "
    then += "of its lists, so that only events tell of its changes, or lists a as a/, which is then copied as an object of its "
    then += "own: keep such names out of the pair (docs/stores.md)"
    return Finding(what=what, level="note", found="a beside a/b is refused or not listed as it is", then=then)


def _marks(which: Side) -> Finding:
    then = (
        "metadata and content of such an object are lost there, and what is missing there counts as removed, on the other side "
    )
    then += "too: keep names that end with a slash out of the pair where they hold any"
    return Finding(
        what=f"{which}: folder marks", level="note", found="a name that ends with a slash is kept, and no more", then=then
    )


def _tags(found: Capabilities, which: Side, *, wanted: bool) -> Finding:
    what, told = f"{which}: object tags", "kept" if found.tags else "not supported"
    if not wanted or found.tags:
        return Finding(what=what, level="ok", found=told)
    then = "rules.tags is on: every object would be parked. Grant the right to read and write tags, or set rules.tags = false"
    return Finding(what=what, level="broken", found=told, then=then)


def _age(runtime: PairRuntime, which: Side, before: capabilities.Seen | None) -> Finding:
    """How old what the engine goes by was until now, and whether it still holds."""
    what = f"{which}: abilities"
    if before is None:
        return Finding(what=what, level="ok", found="tried just now, for the first time")
    age = ago(max(0, runtime.context.clock.now_us() - before.at_us) / 1_000_000)
    if before.capabilities == runtime.stores[which].capabilities:
        return Finding(what=what, level="ok", found=f"tried just now, as {age} ago")
    then = "a running process goes by what it saw at its start: restart it"
    return Finding(what=what, level="note", found=f"tried just now, and not what they were {age} ago", then=then)


async def _some(store: ObjectStore, count: int) -> list[ListEntry]:
    """Some entries of a listing, from a page or two: a store that must know their order would read all of it first."""
    found: list[ListEntry] = []
    known, store.ordered = store.ordered, True
    entries = store.list()
    try:
        async for entry in entries:
            found.append(entry)
            if len(found) >= count:
                break
    except RetryLater as error:
        if error.reason != "listing_order":
            raise
    finally:
        if isinstance(entries, AsyncGenerator):
            await entries.aclose()
        store.ordered = known
    return found


async def _etags(store: ObjectStore, which: Side) -> Finding:
    sample = await _some(store, _SAMPLE)
    count, kinds = len(sample), Counter("content hash" if entry.md5 else "no content hash" for entry in sample)
    told = ", ".join(f"{number} with {kind}" for kind, number in kinds.items()) or "the side is empty"
    then = "equal objects without a content hash are read once to be adopted" if "no content hash" in kinds else ""
    return Finding(what=f"{which}: ETags of the first {count} objects", level="ok", found=told, then=then)


async def _clock(store: ObjectStore, which: Side) -> Finding:
    ahead_us = (await store.clock_skew()).us
    told = f"{'ahead of' if ahead_us >= 0 else 'behind'} this machine by {ago(abs(ahead_us) / 1_000_000)}"
    if abs(ahead_us) < _SKEW_OF_NOTE_US:
        return Finding(what=f"{which}: clock", level="ok", found=told)
    then = "the difference of both sides is measured and corrected when the last writer is determined; better repair the clock"
    return Finding(what=f"{which}: clock", level="note", found=told, then=then)


async def redis(settings: Settings) -> list[Finding]:
    """Reachability, eviction and persistence of Redis."""
    what = f"redis: {settings.redis.url}"
    client, server = await connect(settings.redis)
    try:
        await client.ping()
        memory: dict[str, Any] = await client.info("memory")
        persistence: dict[str, Any] = await client.info("persistence")
    except (RedisError, OSError) as error:
        text = f"{type(error).__name__}; nothing can be known or done without it: start it, or correct redis.url"
        return [Finding(what=what, level="unreachable", found="cannot be reached", then=text)]
    finally:
        await client.aclose()
        if server is not None:
            await server.stop()
    found = [Finding(what=what, level="ok", found="reachable")]
    policy = memory.get("maxmemory_policy", "unknown")
    evicts = policy not in ("noeviction", "unknown")
    then = "Redis may drop state when memory is short: set maxmemory-policy noeviction" if evicts else ""
    found.append(Finding(what="redis: eviction", level="broken" if evicts else "ok", found=str(policy), then=then))
    kept = bool(persistence.get("aof_enabled"))
    then = "" if kept else "after a loss of Redis everything is compared again (nothing is deleted meanwhile); turn appendonly on"
    found.append(
        Finding(what="redis: persistence", level="ok" if kept else "note", found="append-only" if kept else "no AOF", then=then)
    )
    return found


async def probe(runtime: PairRuntime) -> list[Finding]:
    """Try what both servers honour, say how old the last look was, and keep it with the pair."""
    try:
        before = {which: await capabilities.kept(runtime, which) for which in Side}
        await capabilities.know(runtime, probe_again=True)
    except FederationError as error:
        return [failed("capabilities", error)]
    return [finding for which in Side for finding in (*honoured(runtime, which), _age(runtime, which, before[which]))]


def failed(what: str, error: FederationError) -> Finding:
    """That looking at *what* ended with *error*."""
    level: Literal["broken", "unreachable"] = "unreachable" if isinstance(error, RetryLater | Halt) else "broken"
    return Finding(what=what, level=level, found=error.reason or "failed", then=str(error))
