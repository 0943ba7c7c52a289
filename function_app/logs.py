"""Logs of the functions: JSON, through the handlers that the worker installed (facts/functions.md, Logs)."""

from __future__ import annotations

import logging

import structlog

_NOISY = ("azure", "botocore", "boto3", "urllib3", "kafka", "aiohttp", "asyncio")


def configure_logging() -> None:
    """Leave the worker's handlers where they are: replacing them would lose all logs.

    Records made in a handler's own tasks keep its invocation id.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
