"""Every parser under structured chance: the same promises as the coverage-guided run (``make fuzz``), on every test run."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import metadata
from tests.fuzz.mutate import mutated
from tests.fuzz.seeds import WORDS, seeds
from tests.fuzz.targets import TARGETS

_TEXT = st.sampled_from(WORDS) | st.text(max_size=20)
_LEAF = st.none() | st.booleans() | st.integers() | st.floats() | _TEXT
_JSON = st.recursive(_LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=6), max_leaves=20)


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_reach_the_parser(target: str) -> None:
    """Each seed is taken, so that what is made of them tries more than the framing."""
    told = [TARGETS[target](seed) for seed in seeds()[target]]
    assert "malformed" not in told


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=150)
@given(chance=st.randoms(use_true_random=False), seed=st.integers(0, 1000), steps=st.integers(1, 6))
def test_what_is_made_of_the_seeds_breaks_no_promise(target: str, chance: Random, seed: int, steps: int) -> None:
    """Nodes replaced, doubled, renamed or left out, words put in: no untyped exception, no effect outside the pair."""
    known = seeds()[target]
    data = known[seed % len(known)]
    for _ in range(steps):
        data = mutated(data, chance, lambda found: found[::-1])
    assert TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=100)
@given(value=_JSON)
def test_any_json_breaks_no_promise(target: str, value: Any) -> None:  # noqa: ANN401 - any JSON
    """With the parsers' own words in odd places."""
    assert TARGETS[target](json.dumps(value).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=50)
@given(data=st.binary())
def test_any_bytes_break_no_promise(target: str, data: bytes) -> None:
    """Nor do any bytes."""
    assert TARGETS[target](data)


def test_a_metadata_value_that_is_no_utf_8_is_itself() -> None:
    """Found by fuzzing: bytes of a header that are no UTF-8, after the marker of an encoded value."""
    value = b"utf-8''a%C3\xe8".decode("utf-8", "surrogateescape")
    assert metadata.decode_value(value) == value


def test_a_stamp_that_is_no_utf_8_is_none() -> None:
    """Found by fuzzing: anybody can write such metadata, and it must not stop the key's work."""
    stamp = seeds()["metadata"][0].split(b"\n")[0].partition(b": ")[2]
    assert metadata.parse_stamp(stamp.decode()) is not None
    assert metadata.parse_stamp(stamp.replace(b"0x1", b"0x\xff").decode("utf-8", "surrogateescape")) is None
