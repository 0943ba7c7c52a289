"""``fedplane run``: keep the pairs in step until stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated

import typer

from federation.errors import UsageError
from federation.settings import Settings
from fedplane import exit_codes
from fedplane.commands.common import ConfigOption, JsonOption, read_settings
from fedplane.engine import open_engine, stop_on_signals
from fedplane.output import emit


def run(
    with_stack: Annotated[bool, typer.Option("--with-stack", help="Bring a local stack and sample data along.")] = False,
    full: Annotated[bool, typer.Option("--full", help="With --with-stack: versitygw and Apache Kafka.")] = False,
    log_file: Annotated[Path | None, typer.Option("--log-file", help="Every decision as a line of JSON.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep the pairs of the settings file in step until Ctrl-C or SIGTERM. On a terminal: a live view."""
    if full and not with_stack:
        raise UsageError("--full says which servers --with-stack brings along: say both, or leave it out.", reason="bad_option")
    if with_stack:
        problem = asyncio.run(_with_stack(full=full, log_file=log_file, as_json=as_json))
        if problem:
            typer.echo(f"fedplane: {problem}", err=True)
            raise typer.Exit(exit_codes.PROBLEMS)
        return
    settings = read_settings(config, log_file=log_file, quiet=_live(as_json=as_json))
    asyncio.run(_alone(settings, as_json=as_json))


def _live(*, as_json: bool) -> bool:
    return os.isatty(1) and not as_json


async def _alone(settings: Settings, *, as_json: bool) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    await work(settings, stop, heading="", as_json=as_json)


async def work(settings: Settings, stop: asyncio.Event, *, heading: str, as_json: bool) -> None:
    """Run the engine with its view until *stop*."""
    from fedplane.view import show  # noqa: PLC0415 - rich is only loaded where something is shown

    async with open_engine(settings, stop) as engine:
        names = [pair.name for pair in engine.pairs]
        if as_json:
            emit({"running": names}, "", as_json=True)
        viewing = None if as_json else asyncio.create_task(show(engine.pairs, heading))
        try:
            await engine.run()
        finally:
            if viewing is not None:
                viewing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await viewing


async def _with_stack(*, full: bool, log_file: Path | None, as_json: bool) -> str:
    """Servers, sample data and the engine in one go. Returns what went wrong, or nothing."""
    from fedplane.commands.stack import endpoints  # noqa: PLC0415 - the local stack is an extra of the package
    from fedplane.localstack.info import StackOptions  # noqa: PLC0415
    from fedplane.localstack.process import ServerFailed  # noqa: PLC0415
    from fedplane.localstack.stack import LocalStack  # noqa: PLC0415
    from fedplane.sample import seed  # noqa: PLC0415

    stop = asyncio.Event()
    stop_on_signals(stop)
    options = StackOptions(s3="versitygw", kafka="apache") if full else StackOptions()

    def say(line: str) -> None:
        if not as_json:
            print(line, flush=True)

    try:
        say("Starting the local stack (the first time its servers are installed, about a minute)")
        async with LocalStack(options, say=say) as stack:
            os.environ.update(stack.info.environment())
            await asyncio.to_thread(seed, stack.info)
            file = Path(stack.info.state_dir) / "federation.toml"
            settings = read_settings(file, log_file=log_file, quiet=_live(as_json=as_json))
            died = asyncio.create_task(_stop_after(stack.died(), stop))
            try:
                await work(settings, stop, heading=endpoints(stack.info), as_json=as_json)
                return died.result() if died.done() else ""
            finally:
                died.cancel()
    except ServerFailed as error:
        return str(error)


async def _stop_after(death: Awaitable[str], stop: asyncio.Event) -> str:
    what = await death
    stop.set()
    return what
