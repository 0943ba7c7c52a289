"""The environment over the settings file, and whose mistake is whose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from federation.model import Mode
from tests.unit.test_settings import pair, read, refused


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A valid file with one pair."""
    path = tmp_path / "federation.toml"
    path.write_text(pair(), encoding="utf-8")
    return path


def test_the_environment_overrides_a_section_that_is_in_the_file_and_one_that_is_not(file: Path) -> None:
    """Text becomes the setting's own type."""
    settings = read(
        file,
        "[worker]\nconcurrency = 3\nshards = 8",
        pair(),
        FEDERATION__WORKER__CONCURRENCY="5",
        FEDERATION__REDIS__URL="redis://127.0.0.1:1",
        FEDERATION__RECONCILE__ON_START="false",
        FEDERATION__TRANSFER__MEMORY_BYTES="1048576",
    )
    assert (settings.worker.concurrency, settings.worker.shards) == (5, 8)
    assert (settings.redis.url, settings.reconcile.on_start) == ("redis://127.0.0.1:1", False)
    assert settings.transfer.memory_bytes == 1024 * 1024


@pytest.mark.parametrize("which", ["ONE", "0", "one"])
def test_a_pair_is_named_by_name_or_index(file: Path, which: str) -> None:
    """Only that pair changes."""
    settings = read(
        file,
        pair("one", container="c1"),
        pair("two", container="c2"),
        **{
            f"FEDERATION__PAIR__{which}__MODE": "vast_master",
            f"FEDERATION__PAIR__{which}__BLOB__PREFIX": "p/",
            f"FEDERATION__PAIR__{which}__RULES__DELETES": "ignore",
        },
    )
    assert [one.mode for one in settings.pair] == [Mode.VAST_MASTER, Mode.TWO_WAY]
    assert [one.blob.prefix for one in settings.pair] == ["p/", ""]
    assert [one.rules.deletes for one in settings.pair] == ["ignore", "propagate"]


def test_lists_are_written_as_json(file: Path) -> None:
    """Brokers of the event topic."""
    topic = {"FEDERATION__PAIR__0__VAST__EVENTS__TOPIC": "t"}
    settings = read(file, FEDERATION__PAIR__0__VAST__EVENTS__BOOTSTRAP='["a:9092", "b:9092"]', **topic)
    assert settings.pair[0].vast.events.bootstrap == ("a:9092", "b:9092")


def test_whole_pairs_may_come_from_the_environment(file: Path) -> None:
    """A container without a pair in its file."""
    blob = {"account_url": "https://a.example", "container": "c"}
    vast = {"endpoint": "https://v.example", "bucket": "b", "access_key_env": "A", "secret_key_env": "S"}
    both = json.dumps([{"name": "env", "blob": blob, "vast": vast}])
    settings = read(file, "", FEDERATION__PAIR=both, FEDERATION__PAIR__ENV__MODE="blob_master")
    assert [(one.name, one.mode) for one in settings.pair] == [("env", Mode.BLOB_MASTER)]


@pytest.mark.parametrize("value", ["[broken/", "{tenant}/", "[a, b]/"])
def test_brackets_that_are_no_json_are_text(file: Path, value: str) -> None:
    """A prefix may look like that; where a list is wanted the error names the setting."""
    assert read(file, FEDERATION__PAIR__0__BLOB__PREFIX=value).pair[0].blob.prefix == value
    text = refused(file, FEDERATION__PAIR__0__VAST__EVENTS__BOOTSTRAP=value)
    assert "pair.datasets.vast.events.bootstrap: " in text
    assert value not in text


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("FEDERATION__PAIR__NONE__MODE", "there is no pair 'none'"),
        ("FEDERATION__PAIR__7__MODE", "there is no pair '7'"),
        ("FEDERATION__PAIR__0", "names a pair but no field of it"),
        ("FEDERATION__LOG__LEVEL__DEEPER", "goes below a plain value"),
        ("FEDERATION__NOWHERE__X", "nowhere: unknown setting"),
        ("FEDERATION__WORKER__NOWHERE", "worker.nowhere: unknown setting"),
        ("FEDERATION__WORKER", "worker: "),
    ],
)
def test_a_variable_that_fits_nothing_is_refused(file: Path, variable: str, hint: str) -> None:
    """A typo is never silently ignored, and its value is not shown."""
    text = refused(file, "[log]\nlevel = 'info'", pair(), **{variable: "hunter2"})
    assert hint in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("variable", "value", "setting"),
    [
        ("FEDERATION__RECONCILE__INTERVAL_SECONDS", "abc", "reconcile.interval_seconds"),
        ("FEDERATION__PAIR__DATASETS__MODE", "x", "pair.datasets.mode"),
        ("FEDERATION__PAIR__0__VAST__EVENTS__BOOTSTRAP", '["a", {"b": 1}]', "pair.datasets.vast.events.bootstrap.1"),
        ("FEDERATION__NOWHERE__X", "x", "nowhere"),
    ],
)
def test_what_the_environment_set_wrongly_is_blamed_on_its_variable(file: Path, variable: str, value: str, setting: str) -> None:
    """Not on the file, where a person would look for it in vain; what the file has wrong beside it stays the file's."""
    first, line = refused(file, **{variable: value}).splitlines()
    assert first == "the environment: 1 wrong setting(s):"
    assert line.startswith(f"  {setting}: ")
    assert line.endswith(f" (from {variable})")
    first, *lines = refused(file, "[log]\nlevel = 'loud'", pair(), **{variable: value}).splitlines()
    assert first == f"{file} and the environment: 2 wrong setting(s):"
    [of_file] = [line for line in lines if "(from " not in line]
    assert of_file.startswith("  log.level: ")


def test_what_is_missing_is_missing_in_the_file(file: Path) -> None:
    """A variable that put another field beside it is not to blame."""
    bare = pair().partition("[pair.vast]")[0]
    text = refused(file, bare, FEDERATION__PAIR__DATASETS__VAST__BUCKET="b")
    assert text.startswith(f"{file}: ")
    assert "  pair.datasets.vast.endpoint: Field required" in text
    assert "(from " not in text


def test_other_variables_are_not_ours(file: Path) -> None:
    """Only the prefix with two underscores counts."""
    assert read(file, FEDERATION_WORKER="x", MYFEDERATION__WORKER__SHARDS="y") == read(file)
