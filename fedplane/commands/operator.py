"""``fedplane held``, ``parked``, ``lift``: what waits for a person, and the person's word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, TypeVar

import typer

from federation.clock import SystemClock
from federation.errors import UsageError
from federation.ports import State
from federation.progress import DeleteTally, Held, Parked
from federation.rules.guards import BUCKET_SWAPPED, MAY_BE_EMPTY, PAIR_OPTIONS_CHANGED, SIDE_EMPTIED, tally_text
from federation.rules.parking import parking
from federation.settings import PairSettings, Settings
from federation.state.lists import Waiting, records
from federation.sync.identity import MAY_BE_NEW
from federation.wiring import open_state, options_changed
from fedplane.commands.common import ConfigOption, JsonOption, PairOption, chosen, only, read_settings, real_keys
from fedplane.commands.listing import MOST, Kind, LimitOption, Listing, print_records, redis_of
from fedplane.output import emit, iso
from operations.heartbeat import tell_clocks

_T = TypeVar("_T")
KeysArgument = Annotated[list[str] | None, typer.Argument(help="Keys.", callback=real_keys)]
AllOption = Annotated[bool, typer.Option("--all", help="Every key.")]

held_app = typer.Typer(help="Deletes that wait for a person.", invoke_without_command=True)
parked_app = typer.Typer(help="Keys that need a person or a change.", invoke_without_command=True)


async def with_state(settings: Settings, pair: PairSettings, step: Callable[[State], Awaitable[_T]]) -> _T:
    """Open the pair's state, do *step*."""
    async with open_state(settings, pair) as state:
        await state.open(create=False)
        await tell_clocks(state, SystemClock().now_us())  # of what a command marks no time is known
        return await step(state)


@held_app.callback()
def held_list(
    ctx: typer.Context, limit: LimitOption = MOST, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False
) -> None:
    """List held deletes, oldest first."""
    if ctx.invoked_subcommand is None:
        held_listed(limit, config, pair, as_json=as_json)


@held_app.command("list")
def held_listed(
    limit: LimitOption = MOST, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False
) -> None:
    """List held deletes, oldest first."""
    settings = read_settings(config)
    out = Listing(("pair", "key", "what", "why", "since", "verdict"), as_json)
    for one in chosen(settings, pair):
        tally = asyncio.run(with_state(settings, one, partial(_print_held, one, limit, out)))
        if tally.held:
            out.last.append(f"{one.name}: {tally_text(tally.held, tally.held_renames)} held")
    out.end("No delete is held.")


async def _print_held(pair: PairSettings, limit: int, out: Listing, state: State) -> DeleteTally:
    await print_records(state, pair.name, _HELD, limit, out)
    return await state.delete_tally(pair.rules.delete_budget, now_us=SystemClock().now_us())


def _held_row(pair: str, one: Held) -> tuple[str, ...]:
    return pair, one.key, f"delete on {one.delete_on}", one.reason, iso(one.since_us), one.verdict or "-"


_HELD = Kind(Held, lambda pair, one: {"pair": pair, "held": one}, _held_row)


@held_app.command("release")
def held_release(
    keys: KeysArgument = None,
    every: AllOption = False,
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let held deletes happen."""
    _judge(config, pair, keys, "released", every=every, as_json=as_json)


@held_app.command("reject")
def held_reject(
    keys: KeysArgument = None,
    every: AllOption = False,
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """Undo held deletes: the objects are put back where they are gone."""
    _judge(config, pair, keys, "rejected", every=every, as_json=as_json)


def _judge(config: ConfigOption, pair: str, keys: list[str] | None, verdict: str, *, every: bool, as_json: bool) -> None:
    named = _named(keys, "held", every=every)
    settings = read_settings(config)

    async def step(state: State) -> int:
        now_us = SystemClock().now_us()
        if every:
            return sum([await state.judge(piece, verdict=verdict, now_us=now_us) async for piece in _all_keys(state, Held)])
        _require(named, [one.key for one in await state.held(named)], "held")
        return await state.judge(named, verdict=verdict, now_us=now_us)

    count = asyncio.run(with_state(settings, only(settings, pair), step))
    emit({verdict: count}, f"{count} held delete(s) {verdict}; a running `fedplane run` carries it out.", as_json=as_json)


@parked_app.callback()
def parked_list(
    ctx: typer.Context, limit: LimitOption = MOST, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False
) -> None:
    """List parked keys, oldest first."""
    if ctx.invoked_subcommand is None:
        parked_listed(limit, config, pair, as_json=as_json)


@parked_app.command("list")
def parked_listed(
    limit: LimitOption = MOST, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False
) -> None:
    """List parked keys, oldest first."""
    settings = read_settings(config)
    out = Listing(("pair", "key", "why", "since", "detail"), as_json)
    reasons: set[str] = set()

    def row(name: str, one: Parked) -> tuple[str, ...]:
        reasons.add(one.reason)
        return name, one.key, one.reason, iso(one.since_us), one.detail

    kind = Kind(Parked, lambda name, one: {"pair": name, "parked": one, "way_back": parking(one.reason).way_back}, row)
    for one in chosen(settings, pair):
        asyncio.run(with_state(settings, one, lambda state, name=one.name: print_records(state, name, kind, limit, out)))  # type: ignore[misc]
    out.last += _ways_back(reasons)
    out.end("No key is parked.")


def _ways_back(reasons: set[str]) -> list[str]:
    return [f"{reason}: {parking(reason).meaning} {parking(reason).way_back}" for reason in sorted(reasons)]


@parked_app.command("retry")
def parked_retry(
    keys: KeysArgument = None,
    every: AllOption = False,
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """Try parked keys again."""
    named = _named(keys, "parked", every=every)
    settings = read_settings(config)

    async def step(state: State) -> int:
        now_us = SystemClock().now_us()
        if every:
            return sum([await state.unpark(piece, now_us=now_us) async for piece in _all_keys(state, Parked)])
        _require(named, [key for key in named if (await state.explain(key))[2] is not None], "parked")
        return await state.unpark(named, now_us=now_us)

    count = asyncio.run(with_state(settings, only(settings, pair), step))
    emit({"retried": count}, f"{count} key(s) will be tried again.", as_json=as_json)


async def _all_keys(state: State, kind: type[Waiting]) -> AsyncIterator[list[str]]:
    """Keys of all records of *kind*, in pieces: there may be a million. One may come twice."""
    redis = redis_of(state)
    async for piece in records(redis.calls, redis.layout, kind):
        yield [one.key for one in piece]


def _named(keys: list[str] | None, what: str, *, every: bool) -> list[str]:
    """The keys that are meant; none where *every* is. Who says both may have meant the keys alone."""
    if every and keys:
        raise UsageError(f"Name the {what} keys or say --all, not both. Nothing was done.", reason="bad_option")
    if not (every or keys):
        raise UsageError(f"Name the {what} keys, or say --all.", reason="no_keys")
    return keys or []


def _require(keys: list[str], known: list[str], what: str) -> None:
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise UsageError(f"Not {what}: {', '.join(unknown[:5])}. `fedplane {what}` lists what is.", reason="no_such_key")


def lift(
    halt: Annotated[str, typer.Argument(help="Name of the halt, as status shows it.")],
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """End a halt, after its cause was looked at."""
    settings = read_settings(config)
    chosen_pair = only(settings, pair)

    async def step(state: State) -> bool:
        names = [one.name for one in await state.halts()]
        if halt not in names:
            raise UsageError(f"The pair has no halt {halt!r}; it has {', '.join(names) or 'none'}.", reason="no_such_halt")
        if halt == PAIR_OPTIONS_CHANGED and await options_changed(state, chosen_pair):
            raise UsageError(
                "The settings still differ from those the pair's records rest on: all of it would look deleted. Set them back.",
                reason="not_liftable",
            )
        for name, note in ((SIDE_EMPTIED, MAY_BE_EMPTY), (BUCKET_SWAPPED, MAY_BE_NEW)):
            if halt.startswith(f"{name}_"):
                await state.put_note(f"{note}{halt.removeprefix(f'{name}_')}", b"1")
        return await state.lift(halt)

    asyncio.run(with_state(settings, chosen_pair, step))
    emit({"lifted": halt}, f"{halt} lifted.", as_json=as_json)
