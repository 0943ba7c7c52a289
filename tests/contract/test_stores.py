"""One contract for every object store and its twin: reading, names, listing and capabilities."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress

import pytest

from federation import keys
from federation.errors import Halt, NotPresent, Park, Reobserve
from federation.model import SECOND_US, Metadata
from federation.ports import ObjectStore
from federation.stores import azure_blob, vast_s3
from federation.stores.base import HttpStore
from tests.contract.differences import OTHER
from tests.contract.store_support import ODD_KEYS, Made, by_bytes, get, listed, listed_keys, put


async def test_missing_object_is_not_present(store: ObjectStore) -> None:
    """An object that is not there, in a container that is, is NotPresent for HEAD and GET."""
    with pytest.raises(NotPresent):
        await store.head("nothing")
    with pytest.raises(NotPresent):
        await store.open("nothing")
    with pytest.raises((NotPresent, Reobserve)):  # services differ in what they look at first; neither reads as content
        await store.open("nothing", if_match="0" * 32)


async def test_missing_container_is_never_absence(case: Made) -> None:
    """With the container gone every call is Halt, so nothing can look deleted (rule 3)."""
    gone = case.make(container="contract-no-such-container")
    calls = [
        gone.check(),
        gone.head("k"),
        gone.open("k"),
        put(gone, "k"),
        listed(gone),
        gone.delete("k", expected_etag="0" * 32),
        gone.copy("k", "l", source_etag="0" * 32),
        gone.replace_metadata("k", Metadata(), stamp=None, expected_etag="0" * 32),
    ]
    for call in calls:
        with pytest.raises(Halt) as error:
            await call
        assert error.value.reason == "container_missing"


async def test_wrong_credentials_halt(case: Made) -> None:
    """Credentials that the server refuses are a named halt, for HEAD too, and the text does not hold them."""
    if OTHER["checks signatures"].get(case.kind) == "no":
        pytest.skip("this server checks no signatures")
    wrong = case.make(secret="d3Jvbmctc2VjcmV0LW9mLTMyLWJ5dGVzLWxlbmd0aCE=")
    if case.kind == "own-s3":
        with suppress(Halt):
            await wrong.check()
            pytest.skip("this server checks no signatures")
    for call in (wrong.check(), wrong.head("k"), put(wrong, "k"), listed(wrong)):
        with pytest.raises(Halt) as error:
            await call
        assert error.value.reason == "credentials_refused"
        assert "d3Jvbm" not in str(error.value)


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024 + 7])
async def test_content_round_trip(store: ObjectStore, size: int) -> None:
    """Content of any size comes back; HEAD, GET and the listing agree on size, ETag, MD5 and time."""
    data = bytes(i % 251 for i in range(size))
    etag = await put(store, "some/key", data)

    reader = await store.open("some/key")
    assert await reader.read() == data
    head = await store.head("some/key")
    assert head == reader.present
    assert (head.version.etag, head.version.size_bytes) == (etag, size)
    assert head.version.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()
    [entry] = await listed(store)
    assert (entry.key, entry.etag, entry.size_bytes, entry.md5) == ("some/key", etag, size, head.version.md5)
    assert entry.modified == head.version.modified


async def test_ranges_and_chunks(store: ObjectStore) -> None:
    """A range gives exactly those bytes beside the whole object's size; chunks are no larger than asked for."""
    data = bytes(range(256)) * 4096
    etag = await put(store, "k", data)
    reader = await store.open("k", if_match=etag, start=1000, length=300_001)
    assert reader.present.version.size_bytes == len(data)
    pieces = [piece async for piece in reader.chunks(100_000)]
    assert all(0 < len(piece) <= 100_000 for piece in pieces)
    assert b"".join(pieces) == data[1000:301_001]
    tail = await store.open("k", start=len(data) - 5)
    assert await tail.read() == data[-5:]


async def test_open_is_conditional_and_can_be_dropped(store: ObjectStore) -> None:
    """A stale *if_match* is Reobserve; a reader may be closed early and twice."""
    await put(store, "k", b"x" * 3_000_000)
    with pytest.raises(Reobserve):
        await store.open("k", if_match="0" * 32)
    reader = await store.open("k")
    await reader.close()
    await reader.close()
    assert len(await get(store, "k")) == 3_000_000


async def test_odd_keys_are_kept_exactly(case: Made, store: ObjectStore) -> None:
    """Keys with any character, empty or dot segments and either Unicode form stay apart and come back as they were."""
    odd = [key for key in ODD_KEYS if case.kind != "moto" or "\n" not in key]  # moto routes no path that holds a line feed
    for number, key in enumerate(odd):
        await put(store, key, str(number).encode())
    assert await listed_keys(store) == by_bytes(odd)
    for number, key in enumerate(odd):
        assert await get(store, key) == str(number).encode()
    for key in odd:
        await store.delete(key, expected_etag=(await store.head(key)).version.etag)
    assert await listed_keys(store) == []


async def test_trailing_slash_is_a_key_of_its_own(store: ObjectStore, case: Made) -> None:
    """``dir`` and ``dir/`` are two objects, where the server can hold both."""
    if case.kind == "versitygw":
        pytest.skip("its files and folders share one name")
    await put(store, "dir/", b"")
    await put(store, "dir", b"file")
    assert await listed_keys(store) == ["dir", "dir/"]
    assert await get(store, "dir/") == b""


@pytest.mark.parametrize("key", ["", "x" * 1025, "lone \ud800"])
async def test_unrepresentable_key_is_parked(store: ObjectStore, key: str) -> None:
    """A key that the side cannot hold is Park with its own reason, before any request."""
    with pytest.raises(Park) as error:
        await put(store, key)
    assert error.value.reason == "unrepresentable"


async def test_list_order_prefix_and_start(store: ObjectStore) -> None:
    """Keys come in UTF-8 order, also where escaping or UTF-16 would order them otherwise; prefix and start cut exactly."""
    names = ["a", "a b", "a-b", "a.", "a/b", "a:b", "a:b/c", "a\uff1ab", "aa", "b", "é", "\uff21", "\U0001f600"]
    if not store.capabilities.nested_names:
        names = [name for name in names if name not in {"a", "a:b"}]
    for name in names:
        await put(store, name)
    assert await listed_keys(store) == by_bytes(names)
    for prefix in ("a", "a:", "a.", "é", "zz"):
        assert await listed_keys(store, prefix=prefix) == by_bytes([name for name in names if name.startswith(prefix)])
    for start in [*names, "a:", "zz", "0"]:
        assert await listed_keys(store, start_after=start) == by_bytes([name for name in names if name.encode() > start.encode()])


async def test_list_goes_over_pages(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,500 keys come over several pages, once each and in order, twice in a row and from the middle."""
    monkeypatch.setattr(azure_blob, "PAGE_SIZE", 700)
    monkeypatch.setattr(vast_s3, "PAGE_SIZE", 700)
    names = [f"d{i % 7}/{i:05d}" for i in range(2_500)]
    for start in range(0, len(names), 20):  # so few that a server with little of a busy machine takes each connection in time
        await asyncio.gather(*(put(store, name) for name in names[start : start + 20]))
    assert await listed_keys(store) == sorted(names)
    assert await listed_keys(store) == sorted(names)
    assert await listed_keys(store, start_after="d3/01000") == [name for name in sorted(names) if name > "d3/01000"]
    assert await listed_keys(store, prefix="d6/") == [name for name in sorted(names) if name.startswith("d6/")]


async def test_list_leaves_out_what_is_not_the_users(store: ObjectStore) -> None:
    """The plane's own objects, snapshots and VAST's internals are listed only when the prefix names them."""
    hidden = [".federation/conflicts/x", ".snapshot/s/x", ".vast_audit_dir/x"]
    for name in [*hidden, ".federated", ".snapshots/x", "seen"]:
        await put(store, name)
    assert await listed_keys(store) == [".federated", ".snapshots/x", "seen"]
    for prefix, users in ((".", [".federated", ".snapshots/x"]), (".fed", [".federated"]), (".snapshot", [".snapshots/x"])):
        assert await listed_keys(store, prefix=prefix) == users
    for name in hidden:
        assert await listed_keys(store, prefix=f"{name.partition('/')[0]}/") == [name]
    assert all(keys.excluded(name) for name in hidden)


async def test_prefix_of_the_pair_is_invisible(case: Made) -> None:
    """A store with a prefix sees its part only, under pair-relative keys."""
    if case.kind.startswith("memory"):
        pytest.skip("the in-memory store has no prefix")
    whole, part = case.make(), case.make(prefix="part/")
    await put(whole, "other")
    await put(whole, "part/./x" if case.kind == "moto" else "part/y")
    await put(part, "a:b//c")
    await put(part, "plain")
    assert set(await listed_keys(part)) >= {"a:b//c", "plain"}
    assert "other" not in await listed_keys(part)
    assert await get(whole, "part/plain") == b"data"


async def test_probe_leaves_nothing_behind(store: ObjectStore) -> None:
    """Probing ends with no object left, and says what the server does."""
    found = await store.probe()
    assert store.capabilities == found
    assert await listed_keys(store, prefix=".federation/") == []


async def test_clock_of_the_service(store: ObjectStore) -> None:
    """Server and test share one clock: no skew is seen beyond the second by which a server's own cached Date may be late."""
    await put(store, "k")
    skew = await store.clock_skew()
    assert abs(skew.us) <= SECOND_US
    assert 0 <= skew.uncertainty_us <= 2 * SECOND_US


async def test_small_copy_costs_one_request_each_way(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read is one GET, a conditional write one PUT: no hidden HEADs."""
    if not isinstance(store, HttpStore):
        pytest.skip("no requests in memory")
    if not store.capabilities.conditional_put:
        pytest.skip("this server is looked at before each write")
    sent: list[str] = []
    start = store._lane.start

    async def counted(method: str, *arguments: object) -> object:
        sent.append(method)
        return await start(method, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store._lane, "start", counted)
    etag = await put(store, "k")
    await get(store, "k")
    await put(store, "k", b"more", etag)
    assert sent == ["PUT", "GET", "PUT"]
