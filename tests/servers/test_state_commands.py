"""``fedplane state`` as an operator types it, on the embedded Redis: exit statuses, JSON, one clear line for a mistake."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from federation.clock import SystemClock
from federation.settings import RedisSettings
from federation.state.embedded import connect
from federation.state.redis_state import RedisState
from fedplane import cli, exit_codes
from tests.contract.state_support import agree, event

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs one command against the Redis of a folder; its exit status."""
    pair = (
        '[[pair]]\nname = "one"\n[pair.blob]\naccount_url = "http://127.0.0.1:1/acct"\ncontainer = "c"\n'
        '[pair.vast]\nendpoint = "http://127.0.0.1:1"\nbucket = "b"\naccess_key_env = "A"\nsecret_key_env = "S"\n'
    )

    def command(*words: str, where: str = "redis", shards: int = 2) -> int:
        file = tmp_path / f"{where}.toml"
        file.write_text(f'[redis]\ndirectory = "{tmp_path / where}"\n[worker]\nshards = {shards}\n{pair}')
        monkeypatch.setattr(sys, "argv", ["fedplane", "state", *words, "--config", str(file)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return command


def in_state(folder: Path, step: Callable[[RedisState], Awaitable[object]]) -> None:
    """Do something to the pair's state."""

    async def do() -> None:
        client, server = await connect(RedisSettings(directory=folder))
        assert server is not None
        state = RedisState(client, "one", shards=2, clock=SystemClock())
        await state.open()
        await step(state)
        await state.close()
        await server.stop()

    asyncio.run(do())


def test_a_state_is_checked_carried_over_and_checked_again(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Export from two shards, import into three; a fault is told and ends with 1; an import never goes over a state."""
    file = tmp_path / "state.jsonl"
    assert run("check") == exit_codes.USAGE
    assert "no state of pair 'one'" in capsys.readouterr().err

    async def fill(state: RedisState) -> None:
        for number in range(9):
            await agree(state, f"k{number}")
        await state.mark([event("dirty")])

    in_state(tmp_path / "redis", fill)
    assert run("check") == run("export", str(file)) == exit_codes.OK
    assert run("export", str(file)) == exit_codes.USAGE
    assert "is there already" in capsys.readouterr().err
    assert run("import", str(file), "--json", where="other", shards=3) == exit_codes.OK
    assert json.loads(capsys.readouterr().out)["imported"]["base"] == 9
    assert run("import", str(file), where="other", shards=3) == exit_codes.USAGE
    assert run("check", "--json", where="other", shards=3) == exit_codes.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["records"], told["dirty"], told["faults"]) == (9, 1, [])

    async def break_it(state: RedisState) -> None:
        await state.calls.pipe([("DEL", state.layout.of_shard(state.shard_of("dirty"), "due"))])

    in_state(tmp_path / "redis", break_it)
    assert run("check") == exit_codes.PROBLEMS
    assert "never_due" in capsys.readouterr().out
    assert run("import", str(tmp_path / "missing"), where="third") == exit_codes.USAGE
    assert "Cannot read" in capsys.readouterr().err
