"""The local stack's folder belongs to one stack at a time. No server is started here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fedplane.localstack.info import StackOptions
from fedplane.localstack.process import ServerFailed
from fedplane.localstack.servers import redis_answers
from fedplane.localstack.stack import LocalStack


async def test_a_second_stack_leaves_the_first_one_s_folder_alone(tmp_path: Path) -> None:
    """It is refused before anything is cleared away, also while the first is still starting; once that is gone it may begin."""
    options = StackOptions(state_dir=tmp_path / "stack")
    first, second = LocalStack(options), LocalStack(options)
    first._prepare()
    kept = tmp_path / "stack" / "data"
    kept.write_text("of the first")
    with pytest.raises(ServerFailed, match=r"A stack runs already in .*stack"):
        async with second:
            pass
    assert kept.read_text() == "of the first"
    await first.stop()
    second._prepare()
    assert not kept.exists()
    await second.stop()


async def test_a_redis_that_still_reads_its_data_is_not_ready() -> None:
    """It accepts connections then, and refuses commands: who began at once was told 503."""
    answers = iter([b"-LOADING Redis is loading the dataset in memory\r\n", b"+PONG\r\n"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(next(answers, b""))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert [await redis_answers(port) for _ in range(3)] == [False, True, False]
    assert not await redis_answers(port)
