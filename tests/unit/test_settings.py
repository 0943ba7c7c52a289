"""Settings: one file, the environment over it, and errors that say what to do without showing values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from federation.errors import UsageError
from federation.model import Mode, Side
from federation.settings import RuleSettings, Settings, load

PAIR = """
[[pair]]
name = "{name}"
[pair.blob]
account_url = "{account}"
container = "{container}"
prefix = "{prefix}"
[pair.vast]
endpoint = "{endpoint}"
bucket = "{bucket}"
prefix = "{prefix}"
access_key_env = "VAST_ACCESS_KEY"
secret_key_env = "VAST_SECRET_KEY"
"""


def pair(
    name: str = "datasets",
    *,
    prefix: str = "",
    container: str = "c",
    bucket: str = "b",
    account: str = "https://acct.blob.example",
    endpoint: str = "https://vast.example",
) -> str:
    """One pair's part of a file."""
    return PAIR.format(name=name, prefix=prefix, container=container, bucket=bucket, account=account, endpoint=endpoint)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A valid file with one pair."""
    path = tmp_path / "federation.toml"
    path.write_text(pair(), encoding="utf-8")
    return path


def read(file: Path, *texts: str, **environment: str) -> Settings:
    """Write these texts, if any, and load with exactly this environment."""
    if texts:
        file.write_text("\n".join(texts), encoding="utf-8")
    return load(file, environment)


def refused(file: Path, *texts: str, **environment: str) -> str:
    """Load what must not load; the error's text, on one line a problem."""
    with pytest.raises(UsageError) as caught:
        read(file, *texts, **environment)
    assert caught.value.reason in ("bad_settings", "no_settings")
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------------- the file


def test_a_short_file_is_enough(file: Path) -> None:
    """Everything but the two sides has a default."""
    settings = read(file)
    [one] = settings.pair
    assert (one.name, one.mode, one.rules.tie_winner) == ("datasets", Mode.TWO_WAY, Side.BLOB)
    assert settings.redis.url == "embedded"
    assert (one.origin_stamps, one.rules.deletes_to(Side.BLOB), one.rules.deletes_to(Side.VAST)) == (True, True, True)


def test_settings_cannot_be_changed_after_they_were_read(file: Path) -> None:
    """Read once, frozen."""
    settings = read(file)
    with pytest.raises(ValidationError):
        settings.redis.url = "redis://elsewhere"


def test_the_file_is_named_by_argument_then_by_variable(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument goes before FEDERATION_CONFIG, which goes before federation.toml in the working directory."""
    other = tmp_path / "other.toml"
    other.write_text(pair("other"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load(None, {}).pair[0].name == "datasets"
    assert load(None, {"FEDERATION_CONFIG": str(other)}).pair[0].name == "other"
    assert load(file, {"FEDERATION_CONFIG": str(other)}).pair[0].name == "datasets"


def test_the_process_s_environment_is_the_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an explicit environment the process's own counts."""
    monkeypatch.setenv("FEDERATION__WORKER__CONCURRENCY", "7")
    assert load(file).worker.concurrency == 7


def test_a_missing_file_says_where_it_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    """No traceback: the path, and two ways out."""
    text = refused(tmp_path / "none.toml")
    assert str(tmp_path / "none.toml") in text
    assert "--config" in text
    assert "FEDERATION_CONFIG" in text


@pytest.mark.parametrize(
    "content", [b"[redis\nurl = 1", b"url = 'a'\nurl = 'b'", b"\xff\xfe"], ids=["broken", "twice", "no_text"]
)
def test_a_file_that_is_no_toml_is_named(file: Path, content: bytes) -> None:
    """The error names the file."""
    file.write_bytes(content)
    assert str(file) in refused(file)


@pytest.mark.parametrize(
    "address", ["vast.example", "vast.example:443", "ftp://v", "https://", "https://v:99999", "https://v:x", ""]
)
@pytest.mark.parametrize("side", ["account", "endpoint"])
def test_an_address_without_scheme_or_host_is_refused(file: Path, side: str, address: str) -> None:
    """The error names the setting and says how an address begins, instead of failing at the first request."""
    text = refused(file, pair(**{side: address}))
    assert {"account": "blob.account_url", "endpoint": "vast.endpoint"}[side] in text
    assert "https://" in text


def test_a_directory_is_no_settings_file(tmp_path: Path) -> None:
    """What cannot be read is said, not raised through."""
    assert "Cannot read" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("[redis]\nuri = 'x'", "redis.uri", "unknown setting"),
        ("[workers]\nconcurrency = 1", "workers", "unknown setting"),
        ("[worker]\nconcurrency = 'many'", "worker.concurrency", "valid integer"),
        ("[worker]\nconcurrency = 0", "worker.concurrency", "greater than 0"),
        ("[worker]\nshards = 5000", "worker.shards", "less than or equal to 4096"),
        ("[reconcile]\ninterval_seconds = -1", "reconcile.interval_seconds", "greater than 0"),
        ("[log]\nlevel = 'loud'", "log.level", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_expected(file: Path, text: str, where: str, hint: str) -> None:
    """Path and reason on one line."""
    [line] = [line for line in refused(file, text, pair()).splitlines() if line.startswith("  ")]
    assert line.startswith(f"  {where}: ")
    assert hint in line


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('bucket = "b"\n', "", "pair.0.vast.bucket"),
        ('container = "c"', 'container = "c"\nsas = "x"', "pair.0.blob.sas"),
        ('name = "datasets"', 'name = "Data Sets"', "pair.0.name"),
        ('name = "datasets"', 'name = "datasets"\nmode = "mirror"', "pair.0.mode"),
        ('name = "datasets"', 'name = "datasets"\nrules.deletes = "sometimes"', "pair.0.rules.deletes"),
        ('name = "datasets"', 'name = "datasets"\nrules.tie_winner = "s3"', "pair.0.rules.tie_winner"),
        ('name = "datasets"', 'name = "datasets"\nrules.delete_budget_share = 1.5', "pair.0.rules.delete_budget_share"),
        ('name = "datasets"', 'name = "datasets"\nrules.foreign = "remove"', "pair.0.rules.foreign"),
        ('name = "datasets"', 'name = "datasets"\nrules.revert_limit = 0', "pair.0.rules.revert_limit"),
    ],
)
def test_a_wrong_field_of_a_pair_is_named(file: Path, old: str, new: str, where: str) -> None:
    """Missing, unknown and ill-formed fields alike."""
    assert f"  {where}: " in refused(file, pair().replace(old, new))


QUEUE, HOOK = 'queue_url = "https://acct.queue.example/q"', 'webhook_listen = "127.0.0.1:1"'
TOPIC = 'bootstrap = ["a:9092"]\ntopic = "t"'


@pytest.mark.parametrize(
    ("events", "days", "setting"),
    [
        (f"[pair.blob.events]\n{QUEUE}", 8, "blob.events.queue_url"),
        (f"[pair.blob.events]\n{HOOK}", 1, "blob.events.webhook_listen"),
        (f"[pair.vast.events]\n{TOPIC}", 7, "vast.events.retention_days"),
        (f"[pair.vast.events]\n{TOPIC}\nretention_days = 45", 45, "vast.events.retention_days"),
    ],
)
def test_tombstones_must_outlive_every_source_s_oldest_event(file: Path, events: str, days: int, setting: str) -> None:
    """Else a replayed event finds its delete forgotten: refused at start, naming both settings."""
    text = refused(file, pair(), events, f"[pair.rules]\ntombstone_days = {days}")
    assert f"rules.tombstone_days is {days}" in text
    assert f"{setting} may bring events {days} days old" in text
    rules = read(file, pair(), events, f"[pair.rules]\ntombstone_days = {days + 0.5}").pair[0].rules
    assert rules.tombstone_us > days * 86_400_000_000


def test_without_events_nothing_is_replayed(file: Path) -> None:
    """A pair that lives by scans alone may forget its deletes as soon as it likes."""
    assert read(file, pair(), "[pair.rules]\ntombstone_days = 0.1").pair[0].replay_days == {}


@pytest.mark.parametrize(
    ("section", "old", "new", "hint"),
    [
        ("blob", 'container = "c"\nprefix = ""', 'container = "c"\nprefix = "data"', 'ends in "/"'),
        ("blob", 'container = "c"\nprefix = ""', 'container = "c"\nprefix = "v1./"', "no legal Azure blob name"),
        ("vast", 'bucket = "b"\nprefix = ""', 'bucket = "b"\nprefix = "data"', 'ends in "/"'),
        ("vast", 'bucket = "b"\nprefix = ""', 'bucket = "b"\nprefix = "a:b/"', "no legal VAST name (common)"),
        ("vast", 'bucket = "b"\nprefix = ""', 'bucket = "b"\nprefix = "/a/"', "no legal VAST name (common)"),
    ],
)
def test_a_prefix_that_no_name_may_begin_with_is_refused(file: Path, section: str, old: str, new: str, hint: str) -> None:
    """Names below it could not be written, or would not be the prefix's."""
    text = refused(file, pair().replace(old, new))
    assert f"  pair.0.{section}" in text
    assert hint in text


def test_the_name_policy_says_which_prefixes_are_legal(file: Path) -> None:
    """What the common policy refuses is fine where the bucket takes native names."""
    native = pair().replace('bucket = "b"\nprefix = ""', 'bucket = "b"\nname_policy = "native"\nprefix = "/a:b/"')
    assert read(file, native).pair[0].vast.prefix == "/a:b/"


def test_all_problems_are_told_at_once(file: Path) -> None:
    """A person mends the file in one go."""
    assert "2 wrong setting(s)" in refused(file, "[redis]\nuri = 'x'\n[worker]\nconcurrency = 0", pair())


def test_no_pair_is_no_settings(file: Path) -> None:
    """A file without a pair has nothing to do."""
    assert "  pair: " in refused(file, "[redis]\nurl = 'embedded'")
    assert "  pair: " in refused(file, "pair = []")


def test_errors_show_no_values(file: Path) -> None:
    """A key typed where it does not belong stays out of the text (rule 10)."""
    text = refused(file, "[redis]\npassword = 'hunter2'\n[worker]\nconcurrency = 'hunter2'", pair())
    assert "redis.password" in text
    assert "hunter2" not in text


# ------------------------------------------------------------------------------------------------------- rules of a pair


@pytest.mark.parametrize(
    ("rules", "to_blob", "to_vast"),
    [
        ({}, True, True),
        ({"deletes": "ignore"}, False, False),
        ({"deletes": "ignore", "deletes_to_vast": "propagate"}, False, True),
        ({"deletes_to_blob": "ignore"}, False, True),
    ],
)
def test_a_direction_s_own_delete_rule_goes_before_the_pair_s(rules: dict[str, str], to_blob: bool, to_vast: bool) -> None:
    """Per direction where it is set, else for both."""
    found = RuleSettings.model_validate(rules)
    assert (found.deletes_to(Side.BLOB), found.deletes_to(Side.VAST)) == (to_blob, to_vast)


def test_two_pairs_of_one_name_are_refused(file: Path) -> None:
    """Names are the keys of all state."""
    text = refused(file, pair("one", prefix="a/"), pair("one", prefix="b/"))
    assert "names must be unique" in text


SAME: dict[str, str] = {}


@pytest.mark.parametrize(
    ("one", "two", "overlap"),
    [
        (SAME, SAME, True),
        ({"prefix": "a/"}, {"prefix": ""}, True),
        ({"prefix": "a/"}, {"prefix": "a/b/"}, True),
        ({"prefix": "a/b/"}, {"prefix": "a/"}, True),
        (SAME, {"account": "https://acct.blob.example/"}, True),
        (SAME, {"endpoint": "HTTPS://VAST.example/"}, True),
        ({"prefix": "a/"}, {"prefix": "b/"}, False),
        (SAME, {"container": "d"}, False),
        (SAME, {"bucket": "d"}, False),
        (SAME, {"account": "https://other.blob.example"}, False),
        (SAME, {"endpoint": "https://other.example"}, False),
    ],
)
def test_pairs_over_the_same_part_of_both_sides_are_refused(
    file: Path, one: dict[str, str], two: dict[str, str], overlap: bool
) -> None:
    """Nested prefixes of one container and one bucket, however their addresses are written; chains are allowed."""
    texts = (pair("one", **one), pair("two", **two))
    if overlap:
        text = refused(file, *texts)
        assert "'one' and 'two'" in text
        assert "disjoint prefixes" in text
    else:
        assert [found.name for found in read(file, *texts).pair] == ["one", "two"]


# ------------------------------------------------------------------------------------------------------- the environment


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
    assert "pair.0.vast.events.bootstrap: " in text
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


def test_other_variables_are_not_ours(file: Path) -> None:
    """Only the prefix with two underscores counts."""
    assert read(file, FEDERATION_WORKER="x", MYFEDERATION__WORKER__SHARDS="y") == read(file)
