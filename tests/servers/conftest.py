"""One local stack for all tests on real servers of a session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from federation.state.embedded import EmbeddedRedis
from fedplane.localstack.info import StackInfo, StackOptions
from fedplane.localstack.stack import LocalStack
from tests.servers.stack_lab import SIDES, Lab


def pytest_configure(config: pytest.Config) -> None:
    """Let kafka-python be as it is.

    It reads its schemas by functions that Python 3.11 and 3.12 deprecate and 3.13 keeps, and leaves the socket of a refused
    connection to the garbage collector.
    """
    config.addinivalue_line("filterwarnings", "ignore:(open|read)_text is deprecated:DeprecationWarning")
    config.addinivalue_line("filterwarnings", r"ignore:unclosed <socket.*'0\.0\.0\.0':ResourceWarning")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    """The base stack. A test that stops one of its servers starts it again, and runs on the session's loop."""
    async with LocalStack(StackOptions(state_dir=tmp_path_factory.mktemp("stack"))) as running:
        yield running


@pytest.fixture
def info(stack: LocalStack) -> StackInfo:
    """Where its servers listen."""
    return stack.info


@pytest.fixture(scope="session")
def open_lab(stack: LocalStack) -> Iterator[Lab]:
    """Clients of the stack."""
    made = Lab(stack.info)
    yield made
    made.close()


@pytest.fixture
def lab(open_lab: Lab) -> Iterator[Lab]:
    """The same, without faults before and after, counters at zero."""
    for side in SIDES:
        open_lab.control("PUT", f"/faults/{side}", {})
    open_lab.control("POST", "/stats/reset")
    yield open_lab
    for side in SIDES:
        open_lab.control("PUT", f"/faults/{side}", {})


@pytest.fixture
def key() -> str:
    """A new name."""
    return f"dir/{uuid4().hex}"


@pytest_asyncio.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A real Redis that the test may stop and start."""
    server = EmbeddedRedis(tmp_path / "redis")
    await server.start()
    yield server
    await server.stop()
