"""Logs: structlog over ``logging``, one line a decision (design 10). Never a secret, and names of objects only in logs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import structlog

from federation.settings import LogSettings

DECISION_LOGGER = "fedplane.decision"


def plain(text: str) -> str:
    """*text* as one line for a terminal: what is not printable is escaped. Names of objects may hold anything."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def plain_lines(text: str) -> str:
    """The same of a page: only its line ends stay."""
    return "\n".join(map(plain, text.split("\n")))


def configure_logging(settings: LogSettings, *, log_file: Path | None = None, quiet: bool = False) -> None:
    """Send logs to standard error, and every line of level info and above as JSON to *log_file* if given.

    *quiet* keeps decision lines off standard error (a live view shows them instead).
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root.setLevel(level if log_file is None else min(level, logging.INFO))
    for noisy in ("azure", "botocore", "boto3", "urllib3", "kafka", "aiohttp", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    root.addHandler(_stderr_handler(settings, shared, quiet=quiet))
    if log_file is not None:
        file = logging.FileHandler(log_file, encoding="utf-8")
        file.setFormatter(_formatter(shared, as_json=True))
        root.addHandler(file)


def _stderr_handler(settings: LogSettings, shared: list[Any], *, quiet: bool) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(settings.level.upper())
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    handler.setFormatter(_formatter(shared, as_json=as_json))
    if quiet:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING)
    return handler


def _formatter(shared: list[Any], *, as_json: bool) -> logging.Formatter:
    renderers: list[Any] = [structlog.processors.JSONRenderer()] if as_json else [_plainly, structlog.dev.ConsoleRenderer()]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )


def _plainly(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A traceback has lines."""
    pages = ("exception", "stack")
    return {
        name: (plain_lines if name in pages else plain)(value) if isinstance(value, str) else value
        for name, value in event.items()
    }


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger *name*."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound
