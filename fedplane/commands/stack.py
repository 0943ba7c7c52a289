"""``fedplane stack``: the local servers behind event proxies, until stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from federation.errors import UsageError
from fedplane import exit_codes
from fedplane.commands.common import JsonOption
from fedplane.localstack.faults import EventFaults, Faults, RequestFaults, check
from fedplane.localstack.info import STACK_DIR, StackInfo, StackOptions, read_info
from fedplane.localstack.process import ServerFailed
from fedplane.output import emit


class _UpByDefault(TyperGroup):
    """``fedplane stack --full`` is ``fedplane stack up --full``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own context
        if not args or (args[0].startswith("-") and args[0] != "--help"):
            args = ["up", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_UpByDefault, help="Real servers on this machine, each side behind a proxy that emits the events of the real service."
)
StateDirOption = Annotated[Path, typer.Option("--state-dir", help="Where its state and settings file go.")]
_STOP_SECONDS = 30.0


@app.command("up")
def up(
    full: Annotated[bool, typer.Option("--full", help="versitygw and Apache Kafka (make full-stack).")] = False,
    s3: Annotated[str, typer.Option("--s3", help="moto or versitygw.")] = "",
    kafka: Annotated[str, typer.Option("--kafka", help="mock or apache.")] = "",
    redis: Annotated[str, typer.Option("--redis", help="embedded or system.")] = "embedded",
    blob_port: Annotated[int, typer.Option("--blob-port", help="0: any free one.")] = 0,
    s3_port: Annotated[int, typer.Option("--s3-port", help="0: any free one.")] = 0,
    redis_port: Annotated[int, typer.Option("--redis-port", help="0: any free one.")] = 0,
    drop: Annotated[float, typer.Option("--drop", help="Share of events lost.")] = 0.0,
    duplicate: Annotated[float, typer.Option("--duplicate", help="Share of events sent twice.")] = 0.0,
    reorder: Annotated[int, typer.Option("--reorder", help="Shuffle events in groups of this size.")] = 1,
    delay: Annotated[float, typer.Option("--delay", help="Events wait up to this many seconds.")] = 0.0,
    error: Annotated[float, typer.Option("--error", help="Share of requests answered 503.")] = 0.0,
    latency_ms: Annotated[float, typer.Option("--latency-ms", help="Added to every request.")] = 0.0,
    cut: Annotated[float, typer.Option("--cut", help="Share of connections cut.")] = 0.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data of the last run (versitygw only).")] = False,
    raw_keys: Annotated[bool, typer.Option("--raw-keys", help="Keys in VAST's events as they are, not percent-encoded.")] = False,
    state_dir: StateDirOption = STACK_DIR,
    as_json: JsonOption = False,
) -> None:
    """Start everything and stay until Ctrl-C. Fault flags hold for both sides; `stack faults` changes them at run time."""
    faults = Faults(
        events=EventFaults(drop=drop, duplicate=duplicate, reorder=reorder, delay_seconds=(0.0, delay)),
        requests=RequestFaults(error=error, latency_ms=latency_ms, cut=cut),
    )
    try:
        check(faults)
        options = msgspec.convert(
            {
                "s3": s3 or ("versitygw" if full else "moto"),
                "kafka": kafka or ("apache" if full else "mock"),
                "redis": redis,
                "state_dir": state_dir,
                "keep": keep,
                "blob_port": blob_port,
                "s3_port": s3_port,
                "redis_port": redis_port,
                "raw_keys": raw_keys,
                "blob_faults": faults,
                "vast_faults": faults,
            },
            StackOptions,
            from_attributes=True,
        )
    except (ValueError, msgspec.ValidationError) as wrong:
        raise UsageError(f"{wrong}. See `fedplane stack up --help`.", reason="bad_argument") from None
    if read_info(state_dir) is not None:
        raise UsageError(f"A stack runs already in {state_dir}: `fedplane stack down`, or another --state-dir.", reason="running")
    problem = asyncio.run(_serve(options, as_json=as_json))
    if problem:
        typer.echo(f"fedplane: {problem}", err=True)
        raise typer.Exit(exit_codes.PROBLEMS)


async def _serve(options: StackOptions, *, as_json: bool) -> str:
    """Run until a signal; returns what went wrong, or nothing."""
    stop = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    starting = asyncio.create_task(_until_stopped(options, stop, as_json=as_json))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    stopping.cancel()
    try:
        return await starting
    except asyncio.CancelledError:
        return ""
    except ServerFailed as error:
        return str(error)


async def _until_stopped(options: StackOptions, stop: asyncio.Event, *, as_json: bool) -> str:
    from fedplane.localstack.stack import LocalStack  # noqa: PLC0415 - SDKs and servers of the extra, slow to import

    def say(line: str) -> None:
        if not as_json:
            print(line, flush=True)

    async with LocalStack(options, say=say) as stack:
        emit(stack.info, endpoints(stack.info), as_json=as_json)
        died = asyncio.create_task(stack.died())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({died, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return died.result() if died.done() else ""
        finally:
            died.cancel()
            stopped.cancel()


def endpoints(info: StackInfo) -> str:
    """Where to point tools."""
    home = info.state_dir
    return "\n".join(
        (
            f"Azure Blob  {info.blob_endpoint}  container {info.container}  (connection string in {home}/stack.env)",
            f"S3          {info.s3_endpoint}  bucket {info.bucket}  (keys in {home}/stack.env)",
            f"S3, past the event proxy (stands for NFS writes)  {info.s3_direct_endpoint}  {info.s3_posix_dir}".rstrip(),
            f"Redis {info.redis_url}   Kafka {info.kafka_bootstrap} topic {info.topic}   control {info.control_url}",
            f"Use it:  . {home}/stack.env; fedplane run --config {home}/federation.toml",
        )
    )


@app.command("down")
def down(state_dir: StateDirOption = STACK_DIR, as_json: JsonOption = False) -> None:
    """Stop a stack that runs in another terminal, and wait for its end."""
    info = _running(state_dir)
    os.kill(info.pid, signal.SIGTERM)
    until = time.monotonic() + _STOP_SECONDS
    while read_info(state_dir) is not None:
        if time.monotonic() > until:
            raise UsageError(f"The stack (process {info.pid}) does not stop; end it with kill -9.", reason="does_not_stop")
        time.sleep(0.05)
    emit({"stopped": info.pid}, "stopped", as_json=as_json)


@app.command("stats")
def stats(
    reset: Annotated[bool, typer.Option("--reset", help="Start counting anew.")] = False,
    state_dir: StateDirOption = STACK_DIR,
) -> None:
    """What the proxies counted, as JSON: requests by client and operation, bytes, events."""
    info = _running(state_dir)
    print(json.dumps(_ask(info, "/stats/reset" if reset else "/stats", "POST" if reset else "GET")))


@app.command("faults")
def faults(
    side: Annotated[str, typer.Argument(help="blob or vast.")],
    knobs: Annotated[str, typer.Argument(help="JSON; {} ends all faults.")] = "",
    state_dir: StateDirOption = STACK_DIR,
) -> None:
    """Show the fault knobs of one side, or set them: {"events":{"drop":0.3},"requests":{"error":1,"for_seconds":20}}."""
    info = _running(state_dir)
    print(json.dumps(_ask(info, f"/faults/{side}", "PUT" if knobs else "GET", knobs.encode() or None)))


def _running(state_dir: Path) -> StackInfo:
    info = read_info(state_dir)
    if info is None:
        raise UsageError(f"No stack runs in {state_dir}. Start one: fedplane stack up", reason="no_stack")
    return info


def _ask(info: StackInfo, path: str, method: str, body: bytes | None = None) -> Any:  # noqa: ANN401 - JSON
    request = urllib.request.Request(f"{info.control_url}{path}", data=body, method=method)  # noqa: S310 - our own loopback
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own loopback
            return json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        text = json.loads(refused.read() or b"{}").get("error", refused.reason)
        raise UsageError(f"The proxy refused: {text}", reason="bad_argument") from None
    except OSError as error:
        raise UsageError(f"The proxies' control port does not answer: {error}", reason="no_stack") from None
