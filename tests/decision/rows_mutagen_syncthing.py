"""What mutagen's table of reconciliation and Syncthing's tests of conflicts say of a single file, and what we do.

mutagen: pkg/synchronization/core/reconcile_test.go and reconcile.go ("here" is alpha). Its modes two-way-safe and
two-way-resolved stand beside ``two_way``; one-way-safe and one-way-replica beside a read-only zone whose foreign objects are
kept, or removed. Left out: symbolic links, untracked content, and directories, which are no keys here. Syncthing:
lib/protocol/conflict_test.go, test/conflict_test.go, lib/model/folder_recvonly_test.go and requests_test.go ("there" is the other
device).
"""

from __future__ import annotations

from dataclasses import replace

from tests.decision.other_tools import End, Why, told_by
from tests.decision.rows import BASE, GONE, LONGER, NEVER, ONE, REMOVE, TRE, TWO, UNREAD, Gone, Obj

E, W = End, Why
mutagen = told_by("mutagen")
replica = told_by("mutagen", foreign=REMOVE)
syncthing = told_by("Syncthing")
reverted = told_by("Syncthing", foreign=REMOVE)

ALIKE = [
    mutagen("never there", GONE, GONE, NEVER, "both", E.STILL),
    mutagen("all the same", ONE, ONE, BASE, "both", E.STILL),
    mutagen("all the same, one way", ONE, ONE, BASE, "here", E.STILL),
    mutagen("both created the same", ONE, ONE, NEVER, "both", E.STILL),
    mutagen("both created the same, one way", ONE, ONE, NEVER, "here", E.STILL),
    mutagen("both deleted", GONE, GONE, BASE, "both", E.STILL),
    mutagen("both deleted, one way", GONE, GONE, BASE, "here", E.STILL),
]  # fmt: skip

UNREADABLE = [
    mutagen("alpha unreadable, else nothing", UNREAD, GONE, NEVER, "both", E.STILL),
    mutagen("alpha unreadable, beta gone", UNREAD, GONE, BASE, "both", E.STILL),
    mutagen("alpha unreadable, beta gone, one way", UNREAD, GONE, BASE, "here", E.STILL),
    mutagen("alpha unreadable, beta as agreed", UNREAD, ONE, BASE, "both", E.STILL),
    mutagen("alpha unreadable, beta as agreed, one way", UNREAD, ONE, BASE, "here", E.STILL),
    mutagen("beta unreadable, else nothing", GONE, UNREAD, NEVER, "both", E.STILL),
    mutagen("beta unreadable, alpha gone", GONE, UNREAD, BASE, "both", E.STILL),
    mutagen("beta unreadable, alpha gone, one way", GONE, UNREAD, BASE, "here", E.STILL),
    mutagen("beta unreadable, alpha as agreed", ONE, UNREAD, BASE, "both", E.STILL),
    mutagen("both unreadable", UNREAD, UNREAD, NEVER, "both", E.STILL),
    mutagen("both unreadable, once agreed", UNREAD, UNREAD, BASE, "both", E.STILL),
]  # fmt: skip

ALPHA = [
    mutagen("alpha created", ONE, GONE, NEVER, "both", E.HERE),
    mutagen("alpha created, one way", ONE, GONE, NEVER, "here", E.HERE),
    mutagen("alpha modified", TWO, ONE, BASE, "both", E.HERE),
    mutagen("alpha modified, one way", TWO, ONE, BASE, "here", E.HERE),
    mutagen("alpha deleted", GONE, ONE, BASE, "both", E.GONE),
    mutagen("alpha deleted, one way", GONE, ONE, BASE, "here", E.GONE),
    mutagen("alpha put a directory in the file's place", GONE, ONE, BASE, "both", E.GONE),
    mutagen("and a file into that", TWO, GONE, NEVER, "both", E.HERE),
]  # fmt: skip

BETA = [
    mutagen("beta created", GONE, ONE, NEVER, "both", E.THERE),
    mutagen("beta created, one-way-safe", GONE, ONE, NEVER, "here", E.LEFT),
    replica("beta created, one-way-replica", GONE, ONE, NEVER, "here", E.GONE, E.GONE_KEPT, W.KEPT),
    mutagen("beta modified", ONE, TWO, BASE, "both", E.THERE),
    mutagen("beta modified, one-way-safe", ONE, TWO, BASE, "here", E.APART, E.HERE_KEPT, W.ZONE),
    replica("beta modified, one-way-replica", ONE, TWO, BASE, "here", E.HERE, E.HERE_KEPT, W.KEPT),
    mutagen("beta deleted", ONE, GONE, BASE, "both", E.GONE),
    mutagen("beta deleted, one-way-safe", ONE, GONE, BASE, "here", E.HERE),
    replica("beta deleted, one-way-replica", ONE, GONE, BASE, "here", E.HERE),
    mutagen("beta put a directory in the file's place, one-way-safe", ONE, GONE, BASE, "here", E.APART, E.HERE, W.ZONE),
    mutagen("and a file into that, one-way-safe", GONE, TWO, NEVER, "here", E.LEFT),
]  # fmt: skip

BOTH = [
    mutagen("created apart, two-way-safe", TRE, TWO, NEVER, "both", E.APART, E.HERE_KEPT, W.LWW),
    mutagen("created apart, two-way-resolved", TRE, TWO, NEVER, "both", E.HERE, E.HERE_KEPT, W.KEPT),
    mutagen("created apart, beta later, two-way-resolved", TWO, TRE, NEVER, "both", E.HERE, E.THERE_KEPT, W.LWW),
    mutagen("created apart, one-way-safe", TWO, TRE, NEVER, "here", E.APART, E.HERE_KEPT, W.ZONE),
    replica("created apart, one-way-replica", TWO, TRE, NEVER, "here", E.HERE, E.HERE_KEPT, W.KEPT),
    mutagen("modified apart, two-way-safe", TRE, TWO, BASE, "both", E.APART, E.HERE_KEPT, W.LWW),
    mutagen("modified apart, two-way-resolved", TRE, TWO, BASE, "both", E.HERE, E.HERE_KEPT, W.KEPT),
    mutagen("alpha modified, beta deleted", TWO, GONE, BASE, "both", E.HERE),
    mutagen("alpha modified, beta deleted, one way", TWO, GONE, BASE, "here", E.HERE),
    mutagen("alpha modified, beta deleted later, by its event", TWO, Gone(150), BASE, "both", E.HERE, E.GONE_KEPT,
            W.TIMED_DELETE),
    mutagen("beta modified, alpha deleted", GONE, TWO, BASE, "both", E.THERE),
    mutagen("beta modified, alpha deleted, one-way-safe", GONE, TWO, BASE, "here", E.LEFT, E.GONE_KEPT, W.ZONE),
    replica("beta modified, alpha deleted, one-way-replica", GONE, TWO, BASE, "here", E.GONE, E.GONE_KEPT, W.KEPT),
    mutagen("both emptied a directory, one of them removed it too", GONE, GONE, BASE, "both", E.STILL),
]  # fmt: skip

WINNERS = [
    syncthing("the later edit wins", Obj("x", 142), Obj("y", 41), BASE, "both", E.HERE_KEPT),
    syncthing("the later edit wins by a second", Obj("x", 42), Obj("y", 41), BASE, "both", E.HERE_KEPT, E.THERE_KEPT, W.DOUBT,
              tie="there"),
    syncthing("the later edit wins by a second, its time from an event", Obj("x", 42, event=42), Obj("y", 41, event=41), BASE,
              "both", E.HERE_KEPT, tie="there"),
    syncthing("a later delete wins over an edit, which becomes a conflict copy", Gone(142), Obj("y", 41), BASE, "both",
              E.GONE_KEPT),
    syncthing("an edit later than the delete wins", Gone(41), Obj("y", 142), BASE, "both", E.THERE),
    syncthing("what a device cannot offer loses to a delete", GONE, UNREAD, BASE, "both", E.GONE, E.STILL, W.UNREAD),
    syncthing("what a device cannot offer loses to an edit", TWO, UNREAD, BASE, "both", E.HERE, E.STILL, W.UNREAD),
    syncthing("equal times: the tie rule", Obj("x", 41), Obj("y", 41), BASE, "both", E.HERE_KEPT),
    syncthing("equal times: the tie rule, the other way", Obj("x", 41), Obj("y", 41), BASE, "both", E.THERE_KEPT, tie="there"),
    syncthing("a file dated in the future wins", Obj("x", 10**8), Obj("y", 5000), BASE, "both", E.HERE_KEPT),
    syncthing("a file unpacked with its old time loses", Obj("x", -(10**8)), Obj("y", -5000), BASE, "both", E.THERE_KEPT),
    syncthing("first meeting, apart", TRE, TWO, NEVER, "both", E.HERE_KEPT),
    syncthing("first meeting, here only", ONE, GONE, NEVER, "both", E.HERE),
    syncthing("first meeting, there only", GONE, ONE, NEVER, "both", E.THERE),
    syncthing("first meeting, alike but for the time", ONE, replace(ONE, at=-3600), NEVER, "both", E.STILL),
    syncthing("index lost, changed there meanwhile", replace(ONE, ours=0), TWO, NEVER, "both", E.THERE_KEPT, E.THERE, W.OUR_COPY),
    syncthing("index lost, changed here meanwhile", TWO, replace(ONE, ours=0), NEVER, "both", E.HERE_KEPT, E.HERE, W.OUR_COPY),
    syncthing("index lost, changed here, no stamp there", TWO, ONE, NEVER, "both", E.HERE_KEPT),
    syncthing("index lost, changed here to another size, no hash", LONGER, replace(ONE, ours=0, hashed=False), NEVER, "both",
              E.HERE_KEPT, E.READ, W.PROOF),
    syncthing("both changed in the same way", TWO, replace(TWO, at=500), BASE, "both", E.STILL),
    syncthing("a delete of what was changed here meanwhile", TWO, GONE, BASE, "both", E.HERE),
]  # fmt: skip

RECEIVE_ONLY = [
    syncthing("receive-only: a local file stays", GONE, ONE, NEVER, "here", E.LEFT),
    reverted("receive-only, reverted: a local file goes", GONE, ONE, NEVER, "here", E.GONE, E.GONE_KEPT, W.KEPT),
    syncthing("receive-only: a local edit stays until reverted", ONE, TWO, BASE, "here", E.LEFT, E.HERE_KEPT, W.ZONE),
    reverted("receive-only, reverted: a local edit goes", ONE, TWO, BASE, "here", E.HERE, E.HERE_KEPT, W.KEPT),
    syncthing("receive-only: a local delete stays until reverted", ONE, GONE, BASE, "here", E.LEFT, E.HERE, W.ZONE),
    reverted("receive-only, reverted: a local delete is undone", ONE, GONE, BASE, "here", E.HERE),
    syncthing("receive-only: edited and put back", ONE, replace(ONE, touched=True, at=90), BASE, "here", E.STILL),
    syncthing("receive-only: deleted, then dropped by the sender", GONE, GONE, BASE, "here", E.STILL),
    syncthing("receive-only: the sender makes the same edit", TWO, replace(TWO, at=50), BASE, "here", E.STILL),
    syncthing("receive-only: the sender creates the same file", ONE, ONE, NEVER, "here", E.STILL),
]  # fmt: skip

ROWS = [*ALIKE, *UNREADABLE, *ALPHA, *BETA, *BOTH, *WINNERS, *RECEIVE_ONLY]
