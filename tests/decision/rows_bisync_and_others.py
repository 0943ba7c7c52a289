"""What rclone bisync, Unison, ownCloud and Nextcloud, osync, FreeFileSync and git-annex do with a single file, and what we do.

rclone: cmd/bisync/testdata (changes, equal, resolve, resync, resync_modes), docs/content/bisync.md ("here" is Path1).
Unison: its manual ("What is a Conflict?", "Reconciliation") and src/test.ml. ownCloud and Nextcloud: test/testsyncconflict.cpp,
testsyncengine.cpp, testallfilesdeleted.cpp, testsyncdelete.cpp ("there" is the server). osync: dev/tests/run_tests.sh and its
configuration's comments ("here" is the initiator). FreeFileSync: manual, "Synchronization Settings". git-annex: manual of
resolvemerge. Hadoop: directory_markers.md of S3A.
"""

from __future__ import annotations

from dataclasses import replace

from tests.decision.other_tools import End, Why, told_by
from tests.decision.rows import (
    BASE,
    EMPTY,
    GONE,
    LONGER,
    NEVER,
    NO_DELETES,
    ONE,
    REMOVE,
    RENAMED,
    THERE_ONLY,
    TOMB,
    TRE,
    TWO,
    Agreed,
    Gone,
    Obj,
)

E, W = End, Why
rclone = told_by("rclone bisync")
unison = told_by("Unison")
owncloud = told_by("ownCloud, Nextcloud")
osync = told_by("osync")
ffs = told_by("FreeFileSync")
annex = told_by("git-annex")
hadoop = told_by("Hadoop S3A")

TOUCHED = replace(ONE, touched=True, at=100)
UNHASHED = replace(TWO, hashed=False)

CHANGES = [
    rclone("new on Path2", GONE, ONE, NEVER, "both", E.THERE),
    rclone("newer on Path2", ONE, TWO, BASE, "both", E.THERE),
    rclone("new on Path1", ONE, GONE, NEVER, "both", E.HERE),
    rclone("newer on Path1", TWO, ONE, BASE, "both", E.HERE),
    rclone("new on Path1 with an old time, deleted before", Obj("old", at=-9000), Gone(5), TOMB, "both", E.HERE),
    rclone("older on Path1", Obj("older", at=-900), ONE, BASE, "both", E.HERE),
    rclone("another size on Path1", LONGER, ONE, BASE, "both", E.HERE),
    rclone("deleted on Path2", ONE, GONE, BASE, "both", E.GONE),
    rclone("deleted on Path1", GONE, ONE, BASE, "both", E.GONE),
    rclone("changed on both paths", TRE, TWO, BASE, "both", E.TWO_NAMES, E.HERE_KEPT, W.LWW),
    rclone("new on both paths, not alike", TRE, TWO, NEVER, "both", E.TWO_NAMES, E.HERE_KEPT, W.LWW),
    rclone("newer on Path2, deleted on Path1", GONE, TWO, BASE, "both", E.THERE),
    rclone("newer on Path1, deleted on Path2", TWO, GONE, BASE, "both", E.HERE),
    rclone("newer on Path1, deleted on Path2 later, by its event", TWO, Gone(150), BASE, "both", E.HERE, E.GONE_KEPT,
           W.TIMED_DELETE),
    rclone("deleted on both paths", GONE, GONE, BASE, "both", E.STILL),
    rclone("changed on both paths, alike", TWO, TWO, BASE, "both", E.STILL),
    rclone("new on both paths, alike", ONE, ONE, NEVER, "both", E.STILL),
    rclone("changed on both paths alike, at other times", TWO, replace(TWO, at=500), BASE, "both", E.THERE, E.STILL, W.CONTENT),
    rclone("touched on Path1", TOUCHED, ONE, BASE, "both", E.HERE, E.STILL, W.CONTENT),
    rclone("touched on Path1, deleted on Path2", TOUCHED, GONE, BASE, "both", E.HERE),
    rclone("touched on Path1, changed on Path2 before", replace(ONE, touched=True, at=300), TWO, BASE, "both", E.TWO_NAMES,
           E.THERE, W.AGREED_AGAIN),
]  # fmt: skip

RESOLVE = [
    rclone("resolve newer, loser deleted", TRE, TWO, BASE, "both", E.HERE, E.HERE_KEPT, W.KEPT),
    rclone("resolve newer, loser numbered", TRE, TWO, BASE, "both", E.HERE_KEPT),
    rclone("resolve newer, Path2 is", TWO, TRE, BASE, "both", E.THERE_KEPT),
    rclone("resolve newer, no winner: equal times", Obj("x", 50), Obj("y", 50), BASE, "both", E.TWO_NAMES, E.HERE_KEPT, W.LWW),
    rclone("resolve older", TRE, TWO, BASE, "both", E.THERE_KEPT, E.HERE_KEPT, W.RULE),
    rclone("resolve larger", Obj("x", 50), Obj("yy", 5), BASE, "both", E.THERE_KEPT, E.HERE_KEPT, W.RULE),
    rclone("resolve smaller", Obj("xx", 50), Obj("y", 5), BASE, "both", E.THERE_KEPT, E.HERE_KEPT, W.RULE),
    rclone("resolve larger, no winner: equal sizes", TRE, TWO, BASE, "both", E.TWO_NAMES, E.HERE_KEPT, W.LWW),
    rclone("resolve path1, as a master", TWO, TRE, BASE, "here", E.HERE_KEPT),
    rclone("resolve path2, as a master", TRE, TWO, BASE, "there", E.THERE_KEPT),
    rclone("resolve path1 in a tie, as the tie rule", Obj("x", 50), Obj("y", 50), BASE, "both", E.HERE_KEPT),
]  # fmt: skip

RESYNC = [
    rclone("resync: on Path1 only", ONE, GONE, NEVER, "both", E.HERE),
    rclone("resync: on Path2 only", GONE, ONE, NEVER, "both", E.THERE),
    rclone("resync: newer on Path2", TWO, TRE, NEVER, "both", E.HERE, E.THERE_KEPT, W.NO_BASE),
    rclone("resync: older on Path2", TRE, TWO, NEVER, "both", E.HERE, E.HERE_KEPT, W.NO_BASE),
    rclone("resync: alike", ONE, ONE, NEVER, "both", E.STILL),
    rclone("resync after a delete: it comes back", ONE, Gone(5), NEVER, "both", E.HERE),
    rclone("resync-mode newer", TRE, TWO, NEVER, "both", E.HERE, E.HERE_KEPT, W.KEPT),
    rclone("resync-mode path2, as a master", TRE, TWO, NEVER, "there", E.THERE, E.THERE_KEPT, W.KEPT),
    rclone("resync-mode older", TRE, TWO, NEVER, "both", E.THERE, E.HERE_KEPT, W.RULE),
    rclone("resync-mode larger", Obj("x", 50), Obj("yy", 5), NEVER, "both", E.THERE, E.HERE_KEPT, W.RULE),
    rclone("resync-mode newer, no winner: Path1", Obj("x", 50), Obj("y", 50), NEVER, "both", E.HERE, E.HERE_KEPT, W.KEPT),
]  # fmt: skip

UNISON = [
    unison("updated in one replica", TWO, ONE, BASE, "both", E.HERE),
    unison("created in one replica", ONE, GONE, NEVER, "both", E.HERE),
    unison("deleted in one replica", GONE, ONE, BASE, "both", E.GONE),
    unison("updated in both, apart", TRE, TWO, BASE, "both", E.APART, E.HERE_KEPT, W.LWW),
    unison("updated in both, alike: no conflict", TWO, TWO, BASE, "both", E.STILL),
    unison("created in both, apart", TRE, TWO, NEVER, "both", E.APART, E.HERE_KEPT, W.LWW),
    unison("created in both, alike: no conflict", ONE, ONE, NEVER, "both", E.STILL),
    unison("deleted in both: no conflict", GONE, GONE, BASE, "both", E.STILL),
    unison("touched: no update", TOUCHED, ONE, BASE, "both", E.STILL),
    unison("changed and changed back: no update", TOUCHED, ONE, BASE, "both", E.STILL),
    unison("changed and changed back here, updated there", TOUCHED, TWO, BASE, "both", E.THERE),
    unison("touched here, deleted there", TOUCHED, GONE, BASE, "both", E.GONE, E.HERE, W.WRITTEN_AGAIN),
    unison("deleted here, updated there", GONE, TWO, BASE, "both", E.APART, E.THERE, W.EDIT_STAYS),
    unison("deleted here later than updated there", Gone(150), TWO, BASE, "both", E.APART, E.GONE_KEPT, W.TIMED_DELETE),
    unison("properties here, contents there", RENAMED, Obj("two", 50), BASE, "both", E.APART, E.HERE_KEPT, W.LWW),
    unison("properties in both, apart", replace(RENAMED, at=300), Obj("one", 50, "else"), BASE, "both", E.APART, E.HERE_KEPT,
           W.LWW),
    unison("properties in one replica", RENAMED, ONE, BASE, "both", E.HERE),
    unison("updated in both, force newer", TRE, TWO, BASE, "both", E.HERE, E.HERE_KEPT, W.KEPT),
    unison("updated in one, backups on: the old contents are kept", TWO, ONE, BASE, "both", E.HERE_KEPT, E.HERE, W.OWN_USER),
    unison("deleted in one, backups on: the old contents are kept", GONE, ONE, BASE, "both", E.GONE_KEPT, E.GONE, W.OWN_USER),
    unison("updated there, forced back to here", ONE, TWO, BASE, "here", E.HERE, E.HERE_KEPT, W.KEPT),
    unison("deleted there, forced back to here", ONE, GONE, BASE, "here", E.HERE),
    unison("deletions kept from there", GONE, ONE, BASE, "both", E.LEFT, **NO_DELETES),
]  # fmt: skip

CLOUD = [
    owncloud("both changed", TRE, TWO, BASE, "there", E.THERE_KEPT),
    owncloud("both changed, the local one later", TRE, TWO, BASE, "both", E.THERE_KEPT, E.HERE_KEPT, W.LWW),
    owncloud("both created apart", TWO, TRE, NEVER, "both", E.THERE_KEPT),
    owncloud("removed on both", GONE, GONE, BASE, "both", E.STILL),
    owncloud("directory removed there: what was in it", ONE, GONE, BASE, "both", E.GONE),
    owncloud("directory removed there: what is new in it here", ONE, GONE, NEVER, "both", E.HERE),
    owncloud("directory removed, then made again: what is in it", TWO, GONE, TOMB, "both", E.HERE),
    owncloud("both changed alike, strong checksum", TWO, TWO, BASE, "both", E.STILL),
    owncloud("both changed alike, strong checksum, other time", TWO, replace(TWO, at=500), BASE, "both", E.STILL),
    owncloud("both changed alike, no checksum, other time", UNHASHED, replace(TWO, at=500), BASE, "both", E.READ),
    owncloud("both changed alike, no checksum, same time", UNHASHED, TWO, BASE, "both", E.STILL, E.READ, W.PROOF),
    owncloud("met first, no checksum, same time", UNHASHED, UNHASHED, NEVER, "both", E.STILL, E.READ, W.PROOF),
    owncloud("met first, no checksum, same time, on the operator's word", UNHASHED, UNHASHED, NEVER, "both", E.STILL,
             by_size_and_time=True),
    owncloud("both changed, one size, checksums differ", TRE, TWO, BASE, "both", E.THERE_KEPT, E.HERE_KEPT, W.LWW),
    owncloud("touched locally, same checksum", TOUCHED, ONE, BASE, "both", E.STILL),
    owncloud("server restored, told so: the older file there", ONE, Obj("older", at=-9000), NEVER, "both", E.THERE_KEPT,
             E.HERE_KEPT, W.NO_BASE),
    owncloud("server restored, told so: a file it lacks", ONE, GONE, NEVER, "both", E.HERE),
    owncloud("server restored, told so: a file that was removed since", GONE, ONE, NEVER, "both", E.THERE),
    owncloud("server restored, told so: a later file there", ONE, TWO, NEVER, "both", E.THERE_KEPT),
    owncloud("server restored, not told: the older file there", ONE, Obj("older", at=-9000), BASE, "both", E.THERE),
    owncloud("server restored, not told: a file it lacks", ONE, GONE, BASE, "both", E.GONE),
]  # fmt: skip

OTHERS = [
    osync("changed on both: the later, a backup of the other", TRE, TWO, BASE, "both", E.HERE_KEPT),
    osync("changed on both at one time: the initiator", Obj("x", 50), Obj("y", 50), BASE, "both", E.HERE_KEPT),
    osync("changed on one: a backup of the old", TWO, ONE, BASE, "both", E.HERE_KEPT, E.HERE, W.OWN_USER),
    osync("deleted on one: soft-deleted on the other", GONE, ONE, BASE, "both", E.GONE_KEPT, E.GONE, W.OWN_USER),
    osync("deletion skipped on the target", GONE, ONE, BASE, "both", E.LEFT, deletes_there=False),
    osync("deletion skipped on the target, done on the initiator", ONE, GONE, BASE, "both", E.GONE, deletes_there=False),
    osync("deletion skipped on both", ONE, GONE, BASE, "both", E.LEFT, **NO_DELETES),
    ffs("two way: changed on both", TRE, TWO, BASE, "both", E.APART, E.HERE_KEPT, W.LWW),
    ffs("two way: changed on one, deleted on the other", TWO, GONE, BASE, "both", E.APART, E.HERE, W.EDIT_STAYS),
    ffs("two way: deleted on one", GONE, ONE, BASE, "both", E.GONE),
    ffs("mirror: only on the right", GONE, ONE, NEVER, "here", E.GONE, E.GONE_KEPT, W.KEPT, foreign=REMOVE),
    ffs("mirror: newer on the right", ONE, TWO, BASE, "here", E.HERE, E.HERE_KEPT, W.KEPT),
    ffs("update: deleted on the left", GONE, ONE, BASE, "here", E.LEFT, **NO_DELETES),
    ffs("update: deleted on the left earlier, looked at again", GONE, ONE, THERE_ONLY, "here", E.STILL, **NO_DELETES),
    ffs("update: deleted on the right", ONE, GONE, BASE, "here", E.LEFT, E.HERE, W.ZONE, **NO_DELETES),
    ffs("first run, same time, other size", Obj("x", 50), Obj("yy", 50), NEVER, "both", E.APART, E.HERE_KEPT, W.LWW),
    ffs("first run, same time, same size", UNHASHED, UNHASHED, NEVER, "both", E.STILL, by_size_and_time=True),
    annex("changed on both", TRE, TWO, BASE, "both", E.TWO_NAMES, E.HERE_KEPT, W.LWW),
    annex("created on both, apart", TRE, TWO, NEVER, "both", E.TWO_NAMES, E.HERE_KEPT, W.LWW),
    annex("changed on one, deleted on the other", TWO, Gone(150), BASE, "both", E.GONE_KEPT),
    annex("changed on one, deleted on the other, nobody knows when", TWO, GONE, BASE, "both", E.GONE_KEPT, E.HERE, W.EDIT_STAYS),
]  # fmt: skip

MARKERS = [
    hadoop("a directory made: an empty object", EMPTY, GONE, NEVER, "both", E.HERE),
    hadoop("a directory made on both", EMPTY, replace(EMPTY, at=500), NEVER, "both", E.STILL),
    hadoop("its marker removed by the first file in it", GONE, EMPTY, Agreed(""), "both", E.GONE),
    hadoop("its marker removed on both", GONE, GONE, Agreed(""), "both", E.STILL),
    hadoop("its marker made again when it is empty again", EMPTY, GONE, TOMB, "both", E.HERE),
    hadoop("its marker removed on one, made again on the other", GONE, replace(EMPTY, touched=True), Agreed(""), "both", E.THERE),
]  # fmt: skip

ROWS = [*CHANGES, *RESOLVE, *RESYNC, *UNISON, *CLOUD, *OTHERS, *MARKERS]
