"""The local stack's folder belongs to one stack at a time. No server is started here."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedplane.localstack.info import StackOptions
from fedplane.localstack.process import ServerFailed
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
