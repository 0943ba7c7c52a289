"""The command line. One place turns errors into one clear line and an exit status (``exit_codes``)."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from federation.errors import FederationError
from federation.telemetry import logger
from fedplane import exit_codes
from fedplane.commands import changefeed, conflicts, events, operator, stack, state
from fedplane.commands.demo import demo
from fedplane.commands.doctor import doctor
from fedplane.commands.explain import explain
from fedplane.commands.reconcile import reconcile
from fedplane.commands.run import run
from fedplane.commands.status import status
from fedplane.output import complain

app = typer.Typer(
    help="Keep an Azure Blob container and a VAST bucket one namespace.",
    epilog=exit_codes.TEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (run, status, reconcile, explain, doctor, demo, operator.lift):
    app.command()(command)
app.add_typer(conflicts.app, name="conflicts")
app.add_typer(events.app, name="events")
app.add_typer(operator.held_app, name="held")
app.add_typer(operator.parked_app, name="parked")
app.add_typer(changefeed.app, name="changefeed")
app.add_typer(stack.app, name="stack")
app.add_typer(state.app, name="state")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fedplane {version('fedplane')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Keep an Azure Blob container and a VAST bucket one namespace."""


def main() -> None:
    """Run one command; the exit status says how it went."""
    sys.exit(_run())


def _run() -> int:
    try:
        app(standalone_mode=True)
    except FederationError as error:
        complain(error, as_json="--json" in sys.argv)
        return exit_codes.for_error(error)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else exit_codes.OK
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the last place that can say what happened
        logger("fedplane").exception("a bug of ours; please report it with this traceback", error=repr(error))
        return exit_codes.BUG
    return exit_codes.OK


if __name__ == "__main__":
    main()
