"""Adopting by size and time: only on the operator's word, and only what was never agreed on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.model import Base, Metadata, Present, Side, Stamp, Version
from federation.rules.decide import decide
from federation.rules.decision import Action, Reason, Rules
from federation.rules.times import file_time, same_file_time
from tests.unit.world import World

SECOND = 1_000_000
WORD = Rules(adopt_by_size_and_time=True)


def obj(at_s: float = 100, *, size: int = 3, mtime: str = "", md5: str | None = None, digest: bytes = b"d") -> Present:
    """An object of that time."""
    metadata = Metadata(user=(("mtime", mtime),) if mtime else ())
    return Present(Version("e", size, Stamp(int(at_s * SECOND)), md5=md5), metadata, metadata_digest=digest)


@pytest.mark.parametrize(
    ("blob", "vast", "same"),
    [
        (obj(100), obj(100), True),
        (obj(100), obj(101), False),
        (obj(900, mtime="1970-01-01T00:01:40.25Z"), obj(100), True),
        (obj(900, mtime="1970-01-01T00:01:41Z"), obj(100), False),
        (obj(900, mtime="100.999"), obj(700, mtime="100.5"), True),
        (obj(100, mtime="yesterday"), obj(100), True),
        (obj(100, mtime="1970-01-01T00:09:00"), obj(100), True),
    ],
    ids=["modified", "apart", "rclone_on_azure", "rclone_apart", "rclone_on_s3", "no_time", "no_zone"],
)
def test_the_time_is_the_one_that_the_copying_tool_kept(blob: Present, vast: Present, same: bool) -> None:
    """Else Last-Modified; a text that is no time is none."""
    assert same_file_time(blob, vast, WORD) is same


@pytest.mark.parametrize(
    ("mtime", "fraction_us"),
    [("100", 0), ("100.25", 250_000), ("100.025", 25_000), ("100.123456789", 123_456), ("100.5", 500_000)],
)
def test_fractions_of_a_noted_second_are_read_as_far_as_a_microsecond(mtime: str, fraction_us: int) -> None:
    """However many digits a tool wrote."""
    assert file_time(obj(900, mtime=mtime), Side.VAST, WORD).at_us == 100 * SECOND + fraction_us


def test_each_side_s_own_time_is_corrected_by_its_own_clock() -> None:
    """VAST's alone: two files that both clocks show alike are apart when one clock is off."""
    ahead = replace(WORD, vast_ahead_us=5 * SECOND)
    assert file_time(obj(105), Side.BLOB, ahead).at_us == 105 * SECOND
    assert same_file_time(obj(100), obj(105), ahead)
    assert not same_file_time(obj(105), obj(105), ahead)


def test_vast_s_own_time_is_put_on_the_common_clock_and_a_noted_one_is_not() -> None:
    """A clock that is off would keep equal files apart; a file's noted time is the same on both."""
    ahead = replace(WORD, vast_ahead_us=5 * SECOND)
    assert file_time(obj(105), Side.VAST, ahead).at_us == 100 * SECOND
    assert file_time(obj(105, mtime="100"), Side.VAST, ahead).at_us == 100 * SECOND


@pytest.mark.parametrize(
    ("blob", "vast", "base", "rules", "action"),
    [
        (obj(), obj(), None, WORD, Action.ADOPT),
        (obj(), obj(digest=b"other"), None, WORD, Action.ADOPT),
        (obj(md5="m"), obj(md5="m", digest=b"other"), None, WORD, Action.ADOPT),
        (obj(), obj(), None, Rules(), Action.HASH),
        (obj(), obj(200), None, WORD, Action.HASH),
        (obj(), obj(), Base(deleted=True), WORD, Action.HASH),
        (obj(md5="m"), obj(md5="n"), None, WORD, Action.COPY),
        (obj(), obj(size=4), None, WORD, Action.COPY),
    ],
    ids=[
        "word",
        "metadata_left",
        "hashes_agree_and_metadata_left",
        "no_word",
        "other_time",
        "tombstone",
        "hashes_differ",
        "sizes_differ",
    ],
)
def test_it_says_only_what_no_proof_says(blob: Present, vast: Present, base: Base | None, rules: Rules, action: Action) -> None:
    """Off by default; what is proved to differ stays a conflict; what was agreed on before is never adopted by it."""
    decision = decide(blob, vast, base, rules)
    assert decision.action is action
    assert (decision.reason is Reason.SIZE_AND_TIME) == (action is Action.ADOPT)


async def test_no_byte_moves_and_no_hash_is_claimed() -> None:
    """Both files written as files, so nothing proves them equal: two looks, no read, and later scans find them in step."""
    world = World(adopt_by_size_and_time=True)
    await world.write(Side.BLOB, "a", "one", told=False, metadata=Metadata(user=(("mtime", "1.0"),)))
    world.raw[Side.VAST].write_file("a", b"one")
    held = world.raw[Side.VAST].objects["a"]
    world.raw[Side.VAST].objects["a"] = replace(held, metadata=Metadata(user=(("mtime", "1.5"),)))
    world.later(60)
    await world.tell(Side.BLOB, "a")
    await world.tell(Side.VAST, "a")
    world.requests = 0
    await world.look("a")
    [synced] = await world.step()
    assert (synced.decision.action, synced.decision.reason) == (Action.ADOPT, Reason.SIZE_AND_TIME)
    assert synced.base is not None
    assert (synced.base.md5, synced.base.lossy) == (None, True)
    assert world.requests == 2


@pytest.mark.parametrize("hashed", [False, True], ids=["as_files", "proved_equal"])
async def test_metadata_that_was_left_different_is_left_by_every_further_look(hashed: bool) -> None:
    """Tools say some things on one side only: to no look is that a change or a conflict."""
    world = World(adopt_by_size_and_time=True)
    azure = Metadata(content_type="text/csv", user=(("mtime", "1700000000"), ("owner", "ada")))
    s3 = Metadata(user=(("mtime", "1700000000"),))
    await world.write(Side.BLOB, "a", "one", told=False, metadata=azure)
    if hashed:
        await world.write(Side.VAST, "a", "one", told=False, metadata=s3)
    else:
        world.raw[Side.VAST].write_file("a", b"one")
        world.raw[Side.VAST].objects["a"] = replace(world.raw[Side.VAST].objects["a"], metadata=s3)
    for action in (Action.ADOPT, Action.NOTHING, Action.NOTHING):
        world.later(60)
        await world.look("a")
        assert [one.decision.action for one in await world.step()] == [action]
    assert [(await world.raw[side].head("a")).metadata for side in Side] == [azure, s3]
    assert await world.state.conflicts() == []


async def test_where_tags_are_mapped_metadata_that_differs_is_a_conflict_and_kept() -> None:
    """Each look compares it on both sides there, so it cannot be left: the operator's word is not taken for more than it says."""
    world = World(adopt_by_size_and_time=True)
    for side, said in ((Side.BLOB, "ada"), (Side.VAST, "bob")):
        world.raw[side].map_tags = True
        about = Metadata(user=(("mtime", "1700000000"), ("owner", said)), tags=())
        await world.write(side, "a", "one", told=False, metadata=about)
    for _ in range(3):
        world.later(60)
        await world.look("a")
        await world.step()
    assert len({(await world.raw[side].head("a")).metadata for side in Side}) == 1
    assert len(await world.state.conflicts()) == 1


async def test_metadata_changed_on_one_side_of_a_copy_of_ours_travels_though_the_state_was_lost() -> None:
    """One side bears our stamp: then what differs was written since, and nobody's word makes that as good as equal."""
    world = World(adopt_by_size_and_time=True)
    noted = ("mtime", "1700000000")
    await world.write(Side.BLOB, "a", "one", metadata=Metadata(user=(noted,)))
    await world.step()
    world.later(60)
    blob = world.raw[Side.BLOB]
    edited = Metadata(user=(noted, ("owner", "ada")))
    await blob.replace_metadata("a", edited, stamp=None, expected_etag=(await blob.head("a")).version.etag)
    world.forget()
    await world.look("a")
    await world.step()
    assert (await world.raw[Side.VAST].head("a")).metadata.user == edited.user
