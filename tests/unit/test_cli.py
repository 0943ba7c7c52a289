from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from federation.errors import FederationError, Halt, Park, RetryLater, UsageError
from fedplane import cli, exit_codes
from fedplane.output import complain, emit, plain, table

GOOD = """
[[pair]]
name = "one"
[pair.blob]
account_url = "http://127.0.0.1:1/acct"
container = "c"
connection_string_env = "NOT_SET_ANYWHERE"
[pair.vast]
endpoint = "http://127.0.0.1:1"
bucket = "b"
access_key_env = "NOT_SET_ANYWHERE"
secret_key_env = "NOT_SET_ANYWHERE"
"""


def _run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedplane", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("x"), exit_codes.USAGE),
        (RetryLater("x"), exit_codes.UNREACHABLE),
        (Halt("x"), exit_codes.UNREACHABLE),
        (Park("x"), exit_codes.PROBLEMS),
    ],
)
def test_each_kind_of_error_has_its_status(error: FederationError, status: int) -> None:
    """Scripts can tell a mistake from a server that is away."""
    assert exit_codes.for_error(error) == status


@pytest.mark.parametrize(
    ("text", "words", "names"),
    [
        (None, ["status"], "missing.toml"),
        ("[redis", ["status"], "not valid TOML"),
        (GOOD.replace('name = "one"', 'nam = "one"'), ["status"], "pair.0.nam"),
        (GOOD, ["status", "--pair", "two"], "'two'"),
        (GOOD, ["explain", "k"], "NOT_SET_ANYWHERE"),
    ],
    ids=["no file", "bad TOML", "unknown setting", "unknown pair", "unset variable"],
)
def test_a_mistake_is_one_clear_line_and_status_2(
    text: str | None,
    words: list[str],
    names: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It names the file, setting or argument, and there is no traceback."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "missing.toml"
    if text is not None:
        file = tmp_path / "given.toml"
        file.write_text(text)
    assert _run(monkeypatch, *words, "--config", str(file)) == exit_codes.USAGE
    said = capsys.readouterr().err
    assert names in said
    assert "Traceback" not in said


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--verify", "hash"]], ids=["run", "dry run", "verify"])
@pytest.mark.parametrize("prefix", [".federation/", ".federation/conflicts/", ".snapshot/", ".vast_trash"])
def test_a_prefix_that_is_never_synchronised_is_a_mistake(
    prefix: str, more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As such a key is; it is told why."""
    assert _run(monkeypatch, "reconcile", "--prefix", prefix, *more, "--config", "none.toml") == exit_codes.USAGE
    said = capsys.readouterr().err
    assert f"--prefix: what begins with {prefix!r} is never synchronised" in said


@pytest.mark.parametrize(
    "words",
    [
        ["--history", "--dry-run"],
        ["--history", "--key", "k"],
        ["--history", "--prefix", "p/"],
        ["--history", "--verify", "hash"],
        ["--history", "--wait", "0"],
        ["--dry-run", "--verify", "hash"],
        ["--dry-run", "--wait", "0"],
        ["--verify", "hash", "--key", "k"],
        ["--verify", "hash", "--wait", "0"],
        ["--key", "k", "--prefix", "p/"],
    ],
    ids=" ".join,
)
def test_options_of_which_one_would_be_ignored_are_a_mistake(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever gave both expects both; the text names them."""
    assert _run(monkeypatch, "reconcile", *words, "--config", "none.toml") == exit_codes.USAGE
    one, other = (word for word in words if word.startswith("--"))
    assert f"{one} does not go with {other}: " in capsys.readouterr().err


def test_a_wait_of_less_than_no_time_is_a_mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It would end at once, as if all were done."""
    assert _run(monkeypatch, "reconcile", "--wait", "-3", "--config", "none.toml") == exit_codes.USAGE
    assert "--wait" in capsys.readouterr().err


def test_servers_of_a_stack_that_is_not_asked_for_are_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run --full` alone would run on whatever the settings name."""
    assert _run(monkeypatch, "run", "--full", "--config", "none.toml") == exit_codes.USAGE
    assert "--full says which servers --with-stack brings along" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "why"), [(".federation/x", "it is ours or VAST's"), (".snapshot", "it is ours or VAST's"), ("", "is no key")]
)
def test_a_key_that_is_never_synchronised_is_told_why(
    key: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As such a prefix is."""
    assert _run(monkeypatch, "reconcile", "--key", key, "--config", "none.toml") == exit_codes.USAGE
    assert why in capsys.readouterr().err


def test_with_json_a_mistake_is_json_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs read errors as they read answers."""
    assert _run(monkeypatch, "status", "--json", "--config", str(tmp_path / "none.toml")) == exit_codes.USAGE
    told = json.loads(capsys.readouterr().err)
    assert told["reason"] == "no_settings"


def test_a_bug_of_ours_has_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else ends with 70."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", broken)
    assert _run(monkeypatch, "status") == exit_codes.BUG


@pytest.mark.parametrize(
    "words",
    [
        ["explain"],
        ["held", "release"],
        ["held", "reject", "good"],
        ["parked", "retry"],
        ["reconcile", "--key"],
        ["reconcile", "--prefix"],
        ["events", "replay", "--prefix"],
    ],
    ids=" ".join,
)
def test_a_key_that_is_none_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str]
) -> None:
    """Bytes of another encoding come from a shell as lone surrogates; with --json too it is one line, and no traceback."""
    (tmp_path / "f.toml").write_text(GOOD)
    monkeypatch.setenv("FEDERATION_CONFIG", str(tmp_path / "f.toml"))
    for more in ([], ["--json"]):
        assert _run(monkeypatch, *words, "caf\udce9", *more) == exit_codes.USAGE
        [line] = capsys.readouterr().err.splitlines()
        assert r"caf\udce9" in line.replace("\\\\", "\\")
        assert "fedplane parked" in line


@pytest.mark.parametrize("words", [["held", "release"], ["held", "reject"], ["parked", "retry"]], ids=" ".join)
def test_keys_and_all_together_are_a_mistake(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held deletes guard against a mass delete: a key that was named is never taken for all of them."""
    assert _run(monkeypatch, *words, "k", "--all", "--config", "none.toml") == exit_codes.USAGE
    assert f"Name the {words[0]} keys or say --all, not both" in capsys.readouterr().err


NASTY = "a\nfedplane: all is well \x1b[2J\u202e\r"


def test_what_a_name_holds_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a line of its own in a table nor an escape sequence in any text; JSON tells it as it is."""
    assert table([("key", "why"), (NASTY, "é 漢字")]).splitlines()[1:] == [rf"{plain(NASTY)}  é 漢字"]
    assert plain(NASTY) == r"a\nfedplane: all is well \x1b[2J\u202e\r"
    emit({"key": NASTY}, f"one\n{NASTY}", as_json=False)
    complain(UsageError(NASTY), as_json=False)
    told = capsys.readouterr()
    assert all(one == "\n" or one.isprintable() for one in told.out + told.err)
    emit({"key": NASTY}, "", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"key": NASTY}
