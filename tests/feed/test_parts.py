"""The pure parts of reading a feed: names, documents, Avro framing, positions."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.payloads import Malformed
from federation.sources.change_feed_avro import Incomplete, decode, frame, read_header
from federation.sources.change_feed_layout import (
    Index,
    Manifest,
    parse_index,
    parse_manifest,
    segment_begin_us,
    segment_prefixes,
)
from federation.sources.change_feed_position import ChunkPosition, FeedPosition, load, start_at
from tests.feed.writer import block, header, hour, record

HOUR_US = 3_600_000_000
RECORDS = [record(number, f"k{number}", hour(1)) for number in range(3)]


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("idx/segments/2026/11/01/0000/meta.json", True),
        ("idx/segments/2019/02/22/1810/meta.json", True),
        ("idx/segments/1601/01/01/0000/meta.json", False),
        ("idx/segments/2026/13/01/0000/meta.json", False),
        ("idx/segments/2026/11/01/0000", False),
        ("idx/segments/2026/11/01/0000/meta.json.bak", False),
        ("log/00/2026/11/01/0000/00000.avro", False),
    ],
)
def test_names_of_segments(name: str, begins: bool) -> None:
    """Minutes may be odd; the placeholder of 1601, folder markers and other blobs are no segments."""
    assert (segment_begin_us(name) is not None) == begins


@given(st.integers(0, 3 * 10**15), st.integers(0, 2 * 10**13), st.floats(0, 1))
def test_prefixes_cover_every_segment_of_the_window(start_us: int, length_us: int, share: float) -> None:
    """Whatever the window, a segment inside it has one of the prefixes."""
    at = hour(0).fromtimestamp((start_us + length_us * share) / 1e6, tz=hour(0).tzinfo)
    name = f"idx/segments/{at:%Y/%m/%d/%H%M}/meta.json"
    assert sum(name.startswith(prefix) for prefix in segment_prefixes(start_us, start_us + length_us)) == 1
    assert len(segment_prefixes(start_us, start_us + length_us)) <= 15


def test_documents_as_the_service_writes_them() -> None:
    """Index and manifest, with a byte order mark too; a path without its slash gets one."""
    index = {"version": 0, "lastConsumable": "2020-06-01T21:00:00.000Z", "storageDiagnostics": {"lastModifiedTime": None}}
    assert parse_index(b"\xef\xbb\xbf" + json.dumps(index).encode()) == Index(1_591_045_200_000_000, None)
    told = {"status": "Publishing", "intervalSecs": 3600, "chunkFilePaths": ["$blobchangefeed/log/00/2020/06/01/2100"]}
    assert parse_manifest(json.dumps(told).encode(), "m") == Manifest(False, HOUR_US, ("log/00/2020/06/01/2100/",))


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(max_size=9), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_any_bytes_as_documents(body: bytes) -> None:
    """No other error than Malformed comes out."""
    with suppress(Malformed):
        parse_index(body)
    with suppress(Malformed):
        parse_manifest(body, "m")


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_framing_finds_every_block(codec: str) -> None:
    """At every length of the file the whole blocks are found with their offsets, and the rest is asked for."""
    blocks = [block(RECORDS[:count], codec=codec) for count in (1, 3, 2)]
    whole = header(codec=codec) + b"".join(blocks)
    head = read_header(whole)
    assert head.size_bytes == len(header(codec=codec))
    ends = [head.size_bytes + len(b"".join(blocks[: number + 1])) for number in range(3)]
    for size in range(head.size_bytes, len(whole) + 1):
        found, needed = frame(whole[head.size_bytes : size], head.size_bytes, head)
        assert [one.next_offset for one in found] == [end for end in ends if end <= size]
        assert needed == 0 or (found[-1].next_offset if found else head.size_bytes) + needed in ends
    found, _ = frame(whole[head.size_bytes :], head.size_bytes, head)
    assert decode(whole[head.size_bytes :], found, head) == [*RECORDS[:1], *RECORDS, *RECORDS[:2]]


def test_a_header_that_is_not_whole_is_asked_for() -> None:
    """At every length it is incomplete and never malformed, and what is asked for is never too much."""
    whole = header()
    for size in range(len(whole)):
        with pytest.raises(Incomplete) as caught:
            read_header(whole[:size])
        assert caught.value.needed_bytes <= len(whole)


@pytest.mark.parametrize(
    "body",
    [
        b"PK\x03\x04 another kind of file",
        header().replace(b"avro.schema", b"avro.SCHEMA"),
        header().replace(b"avro.codec\x08null", b"avro.codec\x08zstd"),
        header().replace(b'"record"', b'"recorD"', 1),
    ],
)
def test_what_is_no_feed_file_is_malformed(body: bytes) -> None:
    """Another kind of file, codec or schema is named as such."""
    with pytest.raises(Malformed):
        read_header(body)


@given(st.data())
def test_changed_bytes_never_raise_anything_else(data: st.DataObject) -> None:
    """Whatever is changed in a file, reading it ends in records, Malformed or Incomplete."""
    whole = bytearray(header() + block(RECORDS))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Malformed, Incomplete):
        head = read_header(bytes(whole))
        rest = bytes(whole[head.size_bytes :])
        blocks, _ = frame(rest, head.size_bytes, head)
        decode(rest, [one for one in blocks if one.count < 1000], head)


_NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@given(
    st.builds(
        FeedPosition,
        st.integers(0, 2**52),
        st.integers(0, 2**52),
        st.booleans(),
        st.integers(0, 2**52),
        st.integers(0, 2**52),
        st.dictionaries(
            _NAMES,
            st.builds(
                ChunkPosition,
                st.integers(0, 2**52),
                st.integers(0, 2**40),
                st.integers(0, 10**6),
                st.lists(st.uuids().map(str), max_size=4).map(tuple),
            ),
        ),
    )
)
def test_a_position_survives_its_written_form(position: FeedPosition) -> None:
    """Through the cursor's flat form and JSON, whatever the chunks' names."""
    assert load(json.loads(json.dumps(position.dump()))) == position


@pytest.mark.parametrize(
    "flat", [{}, {"done_us": 1}, {**start_at(0).dump(), "chunk 1 2": 3}, {**start_at(0).dump(), "chunk a b c d": 3}]
)
def test_what_is_no_position_is_refused(flat: dict[str, Any]) -> None:
    """A cursor of another form is a ValueError, which the source takes for a gap."""
    with pytest.raises(ValueError, match=r".+"):
        load(flat)
