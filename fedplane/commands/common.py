"""What the commands share: options, settings, pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from federation.errors import UsageError
from federation.settings import PairSettings, Settings, load
from federation.telemetry import configure_logging

Given = TypeVar("Given", str, list[str] | None)


def real_keys(given: Given) -> Given:
    """Of a key, a prefix or keys on the command line. Raises UsageError for bytes that are none of UTF-8."""
    for one in [given] if isinstance(given, str) else given or []:
        try:
            one.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{one!r} is not valid UTF-8; no key is. See `fedplane parked`.", reason="bad_key") from None
    return given


ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file; else $FEDERATION_CONFIG, else ./federation.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PairOption = Annotated[str, typer.Option("--pair", help="Name of one pair; else all, or the only one.")]


def read_settings(config: Path | None, *, log_file: Path | None = None, quiet: bool = True) -> Settings:
    """The settings, with logging configured by them. Raises UsageError."""
    settings = load(config)
    configure_logging(settings.log, log_file=log_file, quiet=quiet)
    return settings


def chosen(settings: Settings, name: str) -> list[PairSettings]:
    """All pairs, or the one called *name*. Raises UsageError."""
    pairs = [pair for pair in settings.pair if name in ("", pair.name)]
    if not pairs:
        known = ", ".join(pair.name for pair in settings.pair)
        raise UsageError(f"There is no pair {name!r} in the settings; there is {known}.", reason="no_such_pair")
    return pairs


def only(settings: Settings, name: str) -> PairSettings:
    """The pair called *name*, or the only one. Raises UsageError."""
    pairs = chosen(settings, name)
    if len(pairs) > 1:
        raise UsageError(f"Say which pair with --pair: {', '.join(pair.name for pair in pairs)}.", reason="which_pair")
    return pairs[0]
