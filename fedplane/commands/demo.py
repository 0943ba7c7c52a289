"""``fedplane demo``: a few changes against a running stack and engine, and how long each took to arrive."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.errors import UsageError
from fedplane import exit_codes
from fedplane.commands.common import JsonOption
from fedplane.localstack.info import STACK_DIR, read_info
from fedplane.output import emit

if TYPE_CHECKING:
    from fedplane.sample import User

_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.05


def demo(
    state_dir: Annotated[Path, typer.Option("--state-dir", help="Of the stack.")] = STACK_DIR,
    files: Annotated[int, typer.Option("--files", min=2, help="Sample files to write first.")] = 60,
    as_json: JsonOption = False,
) -> None:
    """Sample data on both sides of a running stack, then a create, an overwrite and a delete on each, timed until they arrive.

    Needs `fedplane stack up` and `fedplane run` on its settings, or `fedplane run --with-stack`, in another terminal.
    """
    from fedplane.sample import seed, user_of  # noqa: PLC0415 - both SDKs, slow to import

    info = read_info(state_dir)
    if info is None:
        raise UsageError(f"No stack runs in {state_dir}. Start one: fedplane run --with-stack", reason="no_stack")
    written = seed(info, files=files)
    emit({"written": written}, f"wrote sample data: {written}", as_json=as_json)
    missed = 0
    with user_of(info) as user:
        for what, change, arrived in _steps(user):
            change()
            seconds = _until(arrived)
            missed += seconds is None
            told = f"{seconds:.2f} s" if seconds is not None else f"NOT within {_WAIT_SECONDS:.0f} s (does `fedplane run` run?)"
            emit({"step": what, "seconds": seconds}, f"{what}: {told}", as_json=as_json)
    if missed:
        raise typer.Exit(exit_codes.PROBLEMS)


Step = tuple[str, Callable[[], None], Callable[[], bool]]


def _steps(user: User) -> list[Step]:
    mark = str(time.time_ns())
    azure, vast = f"demo/azure-{mark}.txt", f"demo/vast-{mark}.txt"
    return [
        ("created on Azure", lambda: user.put_blob(azure, b"one", "text/plain"), lambda: user.read_s3(azure) == b"one"),
        ("created on VAST", lambda: user.put_s3(vast, b"one", "text/plain"), lambda: user.read_blob(vast) == b"one"),
        ("overwritten on Azure", lambda: user.put_blob(vast, b"two", "text/plain"), lambda: user.read_s3(vast) == b"two"),
        ("overwritten on VAST", lambda: user.put_s3(azure, b"two", "text/plain"), lambda: user.read_blob(azure) == b"two"),
        ("deleted on Azure", lambda: user.container.delete_blob(azure), lambda: user.read_s3(azure) is None),
        ("deleted on VAST", lambda: user.s3.delete_object(Bucket=user.bucket, Key=vast), lambda: user.read_blob(vast) is None),
    ]


def _until(arrived: Callable[[], bool]) -> float | None:
    started = time.monotonic()
    while time.monotonic() - started < _WAIT_SECONDS:
        if arrived():
            return time.monotonic() - started
        time.sleep(_LOOK_SECONDS)
    return None
