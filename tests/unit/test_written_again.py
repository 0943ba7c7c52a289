"""The agreed content written once more, and bases that outlived their objects: no older delete takes a user's write along."""

from __future__ import annotations

import pytest

from federation.model import ClockSkew, Hint, Metadata, Side
from federation.rules.decision import Action, Reason
from federation.rules.precedence import logical_stamp
from federation.sync.observe import complete
from tests.unit.world import World


async def in_step(text: str = "one") -> World:
    """Both sides hold *text*, and that is agreed on."""
    world = World()
    await world.write(Side.BLOB, "a", text)
    await world.step()
    world.later(60)
    return world


async def test_an_upload_of_the_agreed_bytes_after_both_sides_were_emptied_unseen_stays() -> None:
    """The base outlived the object: the upload is looked at on both sides, and travels."""
    world = await in_step()
    for side in Side:
        await world.remove(side, "a", told=False)
    world.later(3600)
    await world.write(Side.BLOB, "a", "one")
    await world.step()

    assert await world.both("a") == ("one", "one")
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("told", [True, False], ids=["delete_told", "delete_found"])
async def test_the_agreed_bytes_written_again_after_a_delete_on_the_other_side_beat_it(told: bool) -> None:
    """Who uploads again what he had uploaded means to have it."""
    world = await in_step()
    await world.remove(Side.VAST, "a", told=told)
    world.later(60)
    await world.write(Side.BLOB, "a", "one")
    [synced] = await world.step()

    assert (synced.decision.action, synced.decision.reason) == (Action.COPY, Reason.EDIT_BEATS_DELETE)
    assert await world.both("a") == ("one", "one")


async def test_the_agreed_bytes_written_again_before_a_delete_are_kept_when_it_wins() -> None:
    """The later delete is carried out, and what it takes is listed."""
    world = await in_step()
    await world.write(Side.BLOB, "a", "one")
    world.later(60)
    await world.remove(Side.VAST, "a")
    await world.step()

    assert await world.both("a") == (None, None)
    [record] = await world.state.conflicts()
    assert await world.text(Side.BLOB, record.preserved_as) == "one"


async def test_metadata_that_did_not_fit_is_not_forgotten_with_a_dead_worker() -> None:
    """A copy found by its intent is as lossy as it was made: a later edit elsewhere erases nothing at the source."""
    world = World()
    user = tuple((f"n{number}", "x" * 900) for number in range(4))
    await world.write(Side.BLOB, "a", "one", metadata=Metadata(user=user))

    async def die(call: str, key: str) -> None:
        del key
        if call == "settle":
            raise AssertionError

    settle = world.state.settle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.state, "settle", lambda *_: die("settle", ""))
        with pytest.raises(AssertionError):
            await world.step()
    assert world.state.settle == settle
    await world.crash()
    await world.step()

    base = (await world.state.bases(["a"]))[0]
    assert base is not None
    assert base.lossy


async def test_our_copy_is_dated_as_its_user_wrote_it_whatever_the_clocks() -> None:
    """VAST is 30 s ahead: the copy on Blob carries the time by Blob's clock, and nothing is taken off again."""
    world = World()
    world.raw[Side.VAST]._skew_us = 30_000_000
    written_us = world.clock.us
    await world.write(Side.VAST, "a", "one", told=False)
    world.later(60)
    await world.look("a")
    await world.step()

    rules = await world.ctx.current_rules()
    assert await world.raw[Side.VAST].clock_skew() == ClockSkew(30_000_000)
    hint = (await world.state.explain("a"))[0]
    assert hint is None
    copy = complete(await world.raw[Side.BLOB].head("a"), "a", Side.BLOB, Hint("a", 0))
    assert abs(logical_stamp(copy, Side.BLOB, rules).at_us - written_us) <= 1_000_000
