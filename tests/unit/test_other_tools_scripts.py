"""Scenarios of several keys or several steps from other tools' tests, played with the real engine on the in-memory twins.

From ownCloud (test/testsyncmove.cpp, testsyncdelete.cpp, testsyncconflict.cpp) and Nextcloud (testallfilesdeleted.cpp), Syncthing
(test/conflict_test.go, lib/model/requests_test.go, internal/db/sqlite/db_global_test.go), mutagen (reconcile_test.go), Unison
(src/test.ml, moves), rclone bisync (testdata all_changed, max_delete, normalization, resync), osync (run_tests.sh), and from what
Dropbox published of Trinity, CanopyCheck and of moves. "here" is alpha, Path1, the local side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from federation.model import Side
from federation.progress import DeleteBudget
from federation.rules.decision import Action
from federation.rules.guards import delete_limit, side_emptied
from federation.state.memory_state import MemoryState
from tests.unit.world import World

CLOUD = "ownCloud, Nextcloud"
PER_KEY = "object stores know no rename and no folder: each key is decided alone (docs/consistency.md, Renames)"
LWW = "the last writer wins, the other is kept and listed (4.3, 4.4)"
RESTORE = "what is put back on a side is its users' write, unless the records are begun anew (4.3)"
NO_FOLD = "nothing is normalised: other spellings are other keys (9)"
UNGUARDED = "only deletes have a budget: nothing tells an overwrite from an accident (4.5)"


@dataclass(frozen=True)
class Script:
    """Steps a minute apart: ``here a=text``, ``here -a``, ``here a>b`` (a rename), ``sync``, ``lose`` (the records)."""

    tool: str
    text: str
    steps: str
    ends: str
    kept: str = ""
    """Contents that conflicts list, in order."""
    theirs: str = ""
    """What the tool ends with, where that is not the same."""
    why: str = ""
    told: bool = True
    """Whether events tell of it; else a scan finds it, and no delete has a time."""


MOVES = [
    Script(CLOUD, "renamed here", "here a=1; sync; here a>b", "b=1"),
    Script(CLOUD, "renamed and changed here", "here a=1; sync; here a>b; here b=2", "b=2"),
    Script(CLOUD, "renamed here, changed there", "here a=1; sync; here a>b; there a=2", "a=2 b=1"),
    Script(CLOUD, "changed there, then renamed here", "here a=1; sync; there a=2; here a>b", "b=1", "2",
           "a=2 b=1", LWW),
    Script(CLOUD, "the same, found by a scan", "here a=1; sync; there a=2; here a>b", "a=2 b=1", told=False),
    Script(CLOUD, "changed, and another created here; renamed there to that name",
           "here a=1; sync; here a=2; here b=3; there a>b", "b=1", "2 3", "a=2 b=1, kept 3", LWW),
    Script(CLOUD, "the same, found by a scan", "here a=1; sync; here a=2; here b=3; there a>b", "a=2 b=1", "3",
           told=False),
    Script(CLOUD, "created here, renamed there to that name", "here a=1; sync; here b=2; there a>b", "b=1", "2"),
    Script(CLOUD, "renamed apart", "here a=1; sync; here a>b; there a>c", "b=1 c=1"),
    Script(CLOUD, "renamed alike", "here a=1; sync; here a>b; there a>b", "b=1"),
    Script(CLOUD, "folder renamed apart", "here d/x=1; here d/y=2; sync; here d/x>e/x; here d/y>e/y; there d/x>f/x; "
           "there d/y>f/y", "e/x=1 e/y=2 f/x=1 f/y=2"),
    Script(CLOUD, "folder renamed here, a file in it changed there", "here d/x=1; here d/y=2; sync; here d/x>e/x; "
           "here d/y>e/y; there d/x=3", "d/x=3 e/x=1 e/y=2", theirs="e/x=3 e/y=2", why=PER_KEY),
    Script(CLOUD, "folder renamed here, a file in it changed on both", "here d/x=1; sync; here d/x=2; here d/x>e/x; "
           "there d/x=3", "d/x=3 e/x=2", theirs="e/x=3, kept 2", why=PER_KEY),
    Script(CLOUD, "folder and a file in it renamed", "here d/x=1; sync; here d/x>d/y; here d/y>e/y", "e/y=1"),
    Script(CLOUD, "folders turned inside out", "here d/e/x=1; here d/y=2; sync; here d/e/x>e/x; here d/y>e/d/y",
           "e/x=1 e/d/y=2"),
    Script(CLOUD, "renamed to other case", "here a=1; sync; here a>A", "A=1"),
    Script(CLOUD, "deleted here, renamed there", "here a=1; sync; here -a; there a>b", "b=1"),
    Script(CLOUD, "a copy, then both renamed", "here a=1; here o/a=1; sync; there a>b; there o/a>o/b", "b=1 o/b=1"),
    Script(CLOUD, "folder moved there, a file in it changed there", "here d/x=1; sync; there d/x=2; there d/x>e/d/x",
           "e/d/x=2"),
    Script("Unison", "renamed here, deleted there", "here a=1; sync; here a>b; there -a", "b=1"),
    Script("Unison", "renamed here, the new name created there", "here a=1; sync; here a>b; there b=2", "b=2", "1",
           "left different, for a person", LWW),
    Script("Unison", "two renamed to one name", "here a=1; here b=2; sync; here a>c; there b>c", "c=2", "1",
           "left different, for a person", LWW),
    Script("Unison", "renamed over another", "here a=1; here b=2; sync; here a>b", "b=1"),
    Script("Dropbox", "moved into each other: no cycle", "here d/x=1; here e/y=2; sync; here d/x>e/d/x; there e/y>d/e/y",
           "e/d/x=1 d/e/y=2"),
    Script("Dropbox", "moved into two folders: in both", "here a=1; sync; here a>d/a; there a>e/a", "d/a=1 e/a=1"),
]  # fmt: skip

STEPS = [
    Script("Dropbox", "deleted here while there is written", "here a=1; sync; here -a; there a=2", "a=2"),
    Script("Dropbox", "only there has changed: all as there", "here a=1; here b=2; sync; there a=3; there -b; there c=4",
           "a=3 c=4"),
    Script(CLOUD, "folder deleted there, a new file in it here", "here d/x=1; sync; there -d/x; here d/n=2", "d/n=2"),
    Script(CLOUD, "deleted, then made again", "here a=1; sync; here -a; sync; here a=1", "a=1"),
    Script(CLOUD, "deleted on both", "here a=1; here b=2; sync; here -a; there -a", "b=2"),
    Script(CLOUD, "a folder becomes a file", "here d/x=1; sync; there -d/x; there d=2", "d=2"),
    Script(CLOUD, "a file becomes a folder", "here d=1; sync; here -d; here d/x=2", "d/x=2"),
    Script("mutagen", "folder deleted here, a file in it changed there", "here d/x=1; here d/y=2; sync; here -d/x; here -d/y; "
           "there d/x=3", "d/x=3", theirs="d/x=3 d/y=2", why=PER_KEY),
    Script("mutagen", "all of a folder deleted here, a part there", "here d/x=1; here d/y=2; sync; here -d/x; here -d/y; "
           "there -d/x", ""),
    Script("mutagen", "both created a folder, one file of it alike", "here d/x=1; there d/x=1; here d/y=2; there d/z=3",
           "d/x=1 d/y=2 d/z=3"),
    Script("Syncthing", "renamed there over what was changed here", "here a=1; here b=2; sync; here b=3; there b=1; there -a",
           "b=1", "3"),
    Script("Syncthing", "first meeting of two folders", "here a=1; there a=2; here b=3; there c=4", "a=2 b=3 c=4", "1"),
    Script("Syncthing", "a delete after a conflict brings the loser not back", "here a=1; sync; here a=2; there a=3; sync; "
           "there -a", "", "2"),
    Script("Syncthing", "records lost, changed there meanwhile", "here a=1; here b=2; sync; lose; there a=3", "a=3 b=2", "1"),
    Script("Syncthing", "records lost, changed here meanwhile", "here a=1; here b=2; sync; lose; here a=3", "a=3 b=2",
           theirs="a=3 b=2, kept 1", why="the origin stamp says that nobody wrote the other copy (5)"),
    Script("rclone bisync", "records lost, deleted there meanwhile", "here a=1; sync; lose; there -a", "a=1"),
    Script("rclone bisync", "records lost, all deleted there", "here a=1; here b=2; sync; lose; there -a; there -b", "a=1 b=2"),
    Script("rclone bisync", "everything changed on one side", "here a=1; here b=2; sync; here a=3; here b=4", "a=3 b=4",
           theirs="refused, unless forced", why=UNGUARDED),
    Script("rclone bisync", "one name in two normal forms", "here \u00e9=1; there e\u0301=2", "\u00e9=1 e\u0301=2",
           theirs="one file, the later", why=NO_FOLD),
    Script("rclone bisync", "one name in two cases, sides that fold them", "here a=1; there A=2", "a=1 A=2",
           theirs="one file, the later", why=NO_FOLD),
    Script("osync", "three conflicts, three backups", "here a=1; sync; here a=2; there a=3; sync; here a=4; there a=5; sync; "
           "here a=6; there a=7", "a=7", "2 4 6"),
    Script(CLOUD, "a side restored from a backup, nobody told", "here a=1; here b=2; sync; there a=3; there -b; there c=4; "
           "sync; here a=1; here b=2; here -c", "a=1 b=2", theirs="the same; told of it: a=1 b=2 c=4, kept 3", why=RESTORE),
    Script(CLOUD, "a side restored from a backup, records begun anew", "here a=1; here b=2; sync; there a=3; there -b; "
           "there c=4; sync; here a=1; here b=2; here -c; lose", "a=1 b=2 c=4", "3", told=False),
]  # fmt: skip


async def act(world: World, side: Side, what: str, *, told: bool) -> None:
    """One step of a user."""
    if what.startswith("-"):
        await world.remove(side, what[1:], told=told)
    elif ">" in what:
        old, new = what.split(">")
        await world.write(side, new, await world.text(side, old) or "", told=told)
        await world.remove(side, old, told=told)
    else:
        key, text = what.split("=")
        await world.write(side, key, text, told=told)


async def settle(world: World, keys: set[str], *, look: bool) -> list[Action]:
    """Work until nothing is due, after a scan that looks at every key if wanted; what was decided."""
    for key in sorted(keys) if look else ():
        await world.look(key)
    done: list[Action] = []
    while synced := await world.step():
        done += [one.decision.action for one in synced]
    return done


def lose(world: World) -> None:
    """The records are gone, as after a Redis that was emptied: nothing is agreed on, nothing dirty is known."""
    world.state = MemoryState("pair", shards=1, clock=world.clock)
    world.ctx = replace(world.ctx, state=world.state)
    world.lease = None


async def play(script: Script, side: Side) -> tuple[World, set[str]]:
    """Everything that happens, and the keys it happened to."""
    world, keys, lost = World(), set[str](), False
    for step in script.steps.split("; "):
        if step == "sync":
            await settle(world, keys, look=not script.told)
        elif step == "lose":
            lose(world)
            lost = True
        else:
            who, what = step.split(" ", 1)
            keys |= set(what.strip("-").split("=")[0].split(">"))
            await act(world, side if who == "here" else side.other, what, told=script.told)
        world.later(60)
    await settle(world, keys, look=lost or not script.told)
    return world, keys


async def held(world: World, side: Side, keys: set[str]) -> dict[str, str]:
    """What users see on *side*."""
    texts = {key: await world.text(side, key) for key in keys}
    return {key: text for key, text in texts.items() if text is not None}


@pytest.mark.parametrize("side", list(Side), ids=lambda side: f"here_is_{side}")
@pytest.mark.parametrize("script", [*MOVES, *STEPS], ids=lambda one: f"{one.tool}:_{one.text}".replace(" ", "_"))
async def test_it_ends_as_the_script_says_and_stays_so(script: Script, side: Side) -> None:
    """Both sides alike, what lost is kept, and another look at every key moves nothing."""
    world, keys = await play(script, side)
    ends = dict(pair.split("=") for pair in script.ends.split())
    assert [await held(world, one, keys) for one in Side] == [ends, ends]
    kept = [await world.text(record.loser_side, record.preserved_as) for record in await world.state.conflicts()]
    assert sorted(text or "" for text in kept) == script.kept.split()

    world.later(60)
    assert set(await settle(world, keys, look=True)) <= {Action.NOTHING, Action.ADOPT}
    assert [await held(world, one, keys) for one in Side] == [ends, ends]
    assert bool(script.theirs) == bool(script.why)


async def test_a_small_pair_may_lose_more_than_rclone_allows() -> None:
    """bisync refuses past half of the files; here a floor of 25 lets five of nine go. A scan that finds a side empty halts."""
    world = World()
    world.ctx = replace(world.ctx, delete_budget=DeleteBudget(count=1000, share=0.2, window_seconds=600))
    keys = {f"file{number}" for number in range(9)}
    for key in keys:
        await world.write(Side.BLOB, key, key)
    await settle(world, keys, look=False)
    world.later(60)
    for key in sorted(keys)[:5]:
        await world.remove(Side.BLOB, key)
    await settle(world, keys, look=False)

    assert len(await held(world, Side.VAST, keys)) == 4
    assert delete_limit(9, count=1000, share=0.2) >= 9
    assert side_emptied(listed=0, known=9)
