"""Settings: one file, and errors that say what to do without showing values."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    "address", ["https://a.example/?sig=hunter2", "https://key:hunter2@a.example", "https://a.example/#hunter2"]
)
@pytest.mark.parametrize("side", ["account", "endpoint"])
def test_an_address_with_a_secret_in_it_is_refused(file: Path, side: str, address: str) -> None:
    """It would be part of every error that names the side, and of what doctor shows (rule 10)."""
    text = refused(file, pair(**{side: address}))
    assert {"account": "blob.account_url", "endpoint": "vast.endpoint"}[side] in text
    assert "sas_env" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("address", ["https://a.example/q?sig=hunter2", "https://key:hunter2@a.example/q"])
@pytest.mark.parametrize("name", ["queue_url", "namespace_endpoint", "webhook_entra_authority"])
def test_an_address_of_events_with_a_secret_in_it_is_refused(file: Path, name: str, address: str) -> None:
    """Doctor shows the queue's address, and errors the others (rule 10)."""
    text = refused(file, pair(), f'[pair.blob.events]\n{name} = "{address}"')
    assert f"blob.events.{name}" in text
    assert "more than an address" in text
    assert "hunter2" not in text


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
        ('bucket = "b"\n', "", "pair.datasets.vast.bucket"),
        ('container = "c"', 'container = "c"\nsas = "x"', "pair.datasets.blob.sas"),
        ('name = "datasets"', 'name = "Data Sets"', "pair.0.name"),
        ('name = "datasets"', 'name = "datasets"\nmode = "mirror"', "pair.datasets.mode"),
        ('name = "datasets"', 'name = "datasets"\nrules.deletes = "sometimes"', "pair.datasets.rules.deletes"),
        ('name = "datasets"', 'name = "datasets"\nrules.tie_winner = "s3"', "pair.datasets.rules.tie_winner"),
        ('name = "datasets"', 'name = "datasets"\nrules.delete_budget_share = 1.5', "pair.datasets.rules.delete_budget_share"),
        ('name = "datasets"', 'name = "datasets"\nrules.foreign = "remove"', "pair.datasets.rules.foreign"),
        ('name = "datasets"', 'name = "datasets"\nrules.revert_limit = 0', "pair.datasets.rules.revert_limit"),
    ],
)
def test_a_wrong_field_of_a_pair_is_named(file: Path, old: str, new: str, where: str) -> None:
    """Missing, unknown and ill-formed fields alike."""
    assert f"  {where}: " in refused(file, pair().replace(old, new))


QUEUE, HOOK = 'queue_url = "https://acct.queue.example/q"', 'webhook_listen = "127.0.0.1:1"'
TOPIC = 'bootstrap = ["a:9092"]\ntopic = "t"'


def test_a_broker_with_a_password_in_its_address_is_refused(file: Path) -> None:
    """No broker is reached so, and doctor shows the addresses (rule 10)."""
    text = refused(file, pair(), f"[pair.vast.events]\n{TOPIC.replace('a:9092', 'me:hunter2@a:9092')}")
    assert "sasl_password_env" in text
    assert "hunter2" not in text


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
    assert f"  pair.datasets.{section}" in text
    assert hint in text


def test_the_name_policy_says_which_prefixes_are_legal(file: Path) -> None:
    """What the common policy refuses is fine where the bucket takes native names."""
    native = pair().replace('bucket = "b"\nprefix = ""', 'bucket = "b"\nname_policy = "native"\nprefix = "/a:b/"')
    assert read(file, native).pair[0].vast.prefix == "/a:b/"


def test_a_mistake_in_a_pair_is_one_mistake(file: Path) -> None:
    """A pair that is wrong is there all the same: nothing is said of too few; each goes by its name, as its variable does."""
    wrong = [
        pair("one", prefix="a/") + "mode = 'x'",
        pair("two", prefix="b/").replace('name = "two"', 'name = "two"\nmode = "x"'),
    ]
    said = refused(file, *wrong).splitlines()[1:]
    assert [line.partition(": ")[0] for line in said] == ["  pair.one.vast.mode", "  pair.two.mode"]


@pytest.mark.parametrize("name", ['"Data Sets"', '"two"', "3"], ids=["no legal name", "another's", "no text"])
def test_a_pair_without_a_good_name_of_its_own_is_named_by_its_place(file: Path, name: str) -> None:
    """Else the name would say nothing, or name the wrong one."""
    text = refused(file, pair("one").replace('name = "one"', f"name = {name}\nmode = 'x'"), pair("two", prefix="b/"))
    assert "  pair.0.mode: " in text


def test_all_problems_are_told_at_once(file: Path) -> None:
    """A person mends the file in one go."""
    assert "2 wrong setting(s)" in refused(file, "[redis]\nuri = 'x'\n[worker]\nconcurrency = 0", pair())


def test_no_pair_is_no_settings(file: Path) -> None:
    """A file without a pair has nothing to do; it is told how one is written."""
    for text in ("", "[redis]\nurl = 'embedded'", "pair = []", "[pair]\nname = 'x'"):
        assert "  pair: at least one [[pair]] section is needed" in refused(file, "\n", text)


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
