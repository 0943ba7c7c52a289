"""What form a pair's state has, and how an older form becomes this one.

``fed:{pair}:meta`` (HASH) holds ``epoch``, ``schema``, ``shards``, ``buckets``, ``created_us``, and ``migrating`` (the schema
it came from) while a migration is not finished. The new schema is noted before the first step, so that older programs refuse
the state at once; every step may run again, so that a migration cut short is taken up by the next to open. ``importing`` (who)
is there until an import has filled the state (``importing.py``): nobody else opens it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federation.errors import RetryLater, UsageError
from federation.state.calls import Calls
from federation.state.layout import Layout

SCHEMA = 3
IMPORTING = "importing"
_LOCK_SECONDS = 600
_EMPTY = "Or empty the state; nothing is deleted by that, equal objects are adopted again."


@dataclass(frozen=True, slots=True)
class Migration:
    """A script that turns one schema into the next, safe to repeat: run once a shard with *shard_keys*, or once a base bucket."""

    script: str
    shard_keys: tuple[str, ...] = ()
    """Names of the keys of a shard the script is given; none: it is given each base bucket alone."""


MIGRATIONS: Mapping[int, Migration] = {}
"""By the schema they start from. There is none from 1: its records do not tell which shard they belong to now; nor from 2: its
digests do not compare where metadata has an ``mtime``."""


async def open_layout(calls: Calls, layout: Layout, *, create: bool, now_us: int) -> bool:
    """As ``State.open``. Raises UsageError for another layout, a newer schema, or an older one that cannot be migrated."""
    found = await meta_of(calls, layout)
    if "epoch" not in found and not create:
        return False
    check_schema(layout.pair, found)
    want = new_meta(layout, now_us=now_us)
    if create and not want.keys() <= found.keys():
        if await calls.run("begin", [layout.of_pair("meta")], [word for field in want.items() for word in field]):
            return False
        found = await meta_of(calls, layout)  # another began it meanwhile, or some of it was there: what counts is what is noted
        check_schema(layout.pair, found)
    _check_filled(layout.pair, found)
    _check_layout(layout, found)
    schema = int(found.get("schema", SCHEMA))
    if schema < SCHEMA or "migrating" in found:
        if not create:
            raise UsageError(
                f"The state of pair {layout.pair!r} in Redis is of schema {schema}, this program's is {SCHEMA}. "
                "Start `fedplane run` with this version: it migrates the state.",
                reason="state_schema",
            )
        await _migrate(calls, layout, int(found.get("migrating", schema)))
    return True


def new_meta(layout: Layout, *, now_us: int) -> dict[str, str | int]:
    """What ``meta`` says of a new state."""
    form = {"schema": SCHEMA, "shards": layout.shards, "buckets": layout.buckets, "created_us": now_us}
    return {"epoch": secrets.token_hex(8), **form}


async def meta_of(calls: Calls, layout: Layout) -> dict[str, str]:
    """What ``meta`` says now; nothing where there is no state."""
    [found] = await calls.pipe([("HGETALL", layout.of_pair("meta"))])
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}


def check_schema(pair: str, found: Mapping[str, str]) -> None:
    """Raises UsageError for a schema that this program neither has nor can migrate."""
    schema = int(found.get("schema", SCHEMA))
    if schema > SCHEMA:
        raise UsageError(
            f"The state of pair {pair!r} in Redis has schema={schema}, this program knows up to {SCHEMA}: "
            f"a newer fedplane made it. Use that version. {_EMPTY}",
            reason="state_schema",
        )
    if schema < SCHEMA and any(step not in MIGRATIONS for step in range(schema, SCHEMA)):
        raise UsageError(
            f"The state of pair {pair!r} in Redis has schema={schema}, which this program cannot migrate to {SCHEMA}. "
            f"Use the fedplane version that made it. {_EMPTY}",
            reason="state_schema",
        )


def _check_filled(pair: str, found: Mapping[str, str]) -> None:
    if IMPORTING in found:
        raise UsageError(
            f"An import into the state of pair {pair!r} is under way, or was cut short: half a state is of no use. Repeat "
            f"`fedplane state import FILE`, which clears it and begins anew. {_EMPTY}",
            reason="state_importing",
        )


def _check_layout(layout: Layout, found: Mapping[str, str]) -> None:
    for name, want in (("shards", layout.shards), ("buckets", layout.buckets)):
        if int(found.get(name, want)) != want:
            raise UsageError(
                f"The state of pair {layout.pair!r} in Redis has {name}={found[name]}, this program wants {want}. "
                f"Set worker.{name} to {found[name]}; or move it to the new layout with `fedplane state export` and `import`. "
                f"{_EMPTY}",
                reason="state_layout",
            )


async def _migrate(calls: Calls, layout: Layout, schema: int) -> None:
    meta, owner = layout.of_pair("meta"), secrets.token_hex(8)
    lock: list[Any] = ["migrate", owner, _LOCK_SECONDS * 1_000]
    owners = layout.of_pair("owners")
    if not await calls.run("own", [owners], lock):
        raise RetryLater(f"the state of pair {layout.pair!r} is being migrated by another process", reason="migrating")
    try:
        await calls.pipe([("HSET", meta, "migrating", schema, "schema", SCHEMA)])
        for step in range(schema, SCHEMA):
            for shard in range(layout.shards):
                await _step(calls, layout, shard, MIGRATIONS[step])
                await calls.run("own", [owners], lock)
            await calls.pipe([("HSET", meta, "migrating", step + 1)])
        await calls.pipe([("HDEL", meta, "migrating")])
    finally:
        await calls.run("own", [owners], ["migrate", owner, 0])


async def _step(calls: Calls, layout: Layout, shard: int, migration: Migration) -> None:
    if migration.shard_keys:
        await calls.run(migration.script, [layout.of_shard(shard, name) for name in migration.shard_keys], [])
        return
    await calls.run_all(migration.script, [([bucket], []) for bucket in layout.buckets_of(shard)])
