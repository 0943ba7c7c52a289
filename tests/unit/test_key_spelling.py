from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest

from federation.payloads.vast import CANARY_KEY, VastScope, parse
from federation.sources.key_spelling import SPELLINGS, KeySpelling

SCOPE = VastScope("b", "in/", "auto", lambda name: name)
EVERY = ["a b+c", "a%20b+c", "a b c"]


def _record(raw: str) -> bytes:
    item = {"key": raw, "eTag": "e1", "size": 1}
    return json.dumps(
        {"Records": [{"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": item}}]}
    ).encode()


def _picked(spelling: KeySpelling, raw: str = "in/a%20b+c") -> list[str]:
    parsed = parse(_record(raw), SCOPE)
    return [change.key for change in [*parsed.changes, *spelling.pick(parsed.ambiguous)]]


def test_a_plain_key_is_read_in_one_way() -> None:
    """Nothing is to be learned or doubted where all spellings agree."""
    parsed = parse(_record("in/a/b.txt"), SCOPE)
    assert [change.key for change in parsed.changes] == ["a/b.txt"]
    assert not parsed.ambiguous


def test_every_key_it_may_mean_is_marked_until_proved() -> None:
    """Nothing is lost while the spelling is not known."""
    assert _picked(KeySpelling()) == EVERY


@pytest.mark.parametrize(
    ("sent", "spellings", "expected"),
    [
        (lambda name: name, {"raw"}, ["a%20b+c"]),
        (lambda name: quote(name, safe="/+"), {"percent"}, ["a b+c"]),
        (quote, {"percent", "plus"}, ["a b+c", "a b c"]),
        (lambda name: quote_plus(name, safe="/"), {"plus"}, ["a b c"]),
    ],
    ids=["raw", "percent with a bare plus", "percent", "plus"],
)
def test_the_canary_proves_the_spelling(sent: object, spellings: set[str], expected: list[str]) -> None:
    """Its name is read rightly by the sender's spelling only, so one event settles how all others are read."""
    event = parse(_record(sent(f"in/{CANARY_KEY}")), SCOPE).canary  # type: ignore[operator]
    assert event is not None
    assert (event.etag, set(event.spellings)) == ("e1", spellings)
    spelling = KeySpelling()
    assert not spelling.learn(event.spellings)
    assert _picked(spelling) == expected


def test_a_sender_that_changed_its_ways_is_told_and_both_stay_possible() -> None:
    """What was read by the old spelling alone may be wrong; two senders may share a topic."""
    spelling = KeySpelling()
    assert [spelling.learn({"raw"}), spelling.learn({"raw"}), spelling.learn({"percent"}), spelling.learn({"raw"})] == [
        False,
        False,
        True,
        False,
    ]
    assert spelling.possible == {"raw", "percent"}


def test_unknown_words_teach_nothing() -> None:
    """A note written by another release leaves everything possible."""
    spelling = KeySpelling()
    assert not spelling.learn({"morse"})
    assert spelling.possible == SPELLINGS
