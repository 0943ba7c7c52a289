"""The words in which other tools' scenario tables are compared with ours: how a key ends, and why it ends otherwise here.

A row says what the other tool does. Where it gives no reason for another ending, that is also what is expected of us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

from federation.model import Side
from federation.rules.decision import Action, Decision
from tests.decision.rows import Case


class End(StrEnum):
    """How a key stands when the tool is done with it. "Kept": the version that lost can be found, wherever the tool puts it."""

    STILL = "nothing moves"
    READ = "contents are read before anything is decided"
    HERE = "as here"
    HERE_KEPT = "as here, the other kept"
    THERE = "as there"
    THERE_KEPT = "as there, the other kept"
    GONE = "gone from both"
    GONE_KEPT = "gone from both, what was there kept"
    LEFT = "left on one side only, by rule"
    APART = "left different, for a person"
    TWO_NAMES = "both kept, each under a name of its own"


class Why(StrEnum):
    """Why we end otherwise; each names the part of the design that decides so."""

    LWW = "the last writer wins at once, and who lost is kept and listed: nothing waits for a person (4.3, 4.4)"
    KEPT = "what a user wrote and loses is kept first (rule 1, 4.4)"
    ZONE = "what is written in a read-only zone is kept and undone (1, 4.4)"
    TIMED_DELETE = "a delete whose time is known contends like a write, and what it takes is kept (4.3)"
    EDIT_STAYS = "an edit beats a delete of unknown time (4.3)"
    CONTENT = "content says what changed, not a time: the agreed content moves nothing (4.1)"
    AGREED_AGAIN = "a change goes before what was agreed on already, though it be written once more (4.1)"
    WRITTEN_AGAIN = "to a delete, the agreed content written once more is an edit: who uploads it means to have it (4.3)"
    DOUBT = "times within the doubt of the clocks are a tie (4.3)"
    OUR_COPY = "the origin stamp says that nobody wrote here (5)"
    OWN_USER = "what its own side's user overwrote or deleted is not kept (rule 1)"
    UNREAD = "could not read is never absent, and waits (rule 3)"
    PROOF = "size and time prove nothing, unless the operator says so (4.2)"
    RULE = "no such rule: which of two wins never depends on sizes, or on being older (4.3)"
    NO_BASE = "without a record of agreement both are users' versions: the later wins, the other is kept (4.2)"


@dataclass(frozen=True)
class Met(Case):
    """One scenario of another tool: what it does, and what we do where that differs."""

    mode: str
    theirs: End
    ours: End | None = None
    why: Why | None = None
    tool: str = field(kw_only=True)


def told_by(tool: str, **terms: Any) -> Callable[..., Met]:  # noqa: ANN401 - a table reads best in short lines
    """Lines of *tool*'s table."""
    return partial(Met, tool=tool, **terms)


def end(decision: Decision, here: Side) -> End:
    """How a key stands after *decision*."""
    kept = decision.preserve is not None
    match decision.action:
        case Action.NOTHING | Action.ADOPT | Action.WAIT:
            return End.STILL
        case Action.HASH:
            return End.READ
        case Action.KEEP:
            return End.LEFT
        case Action.DELETE:
            return End.GONE_KEPT if kept else End.GONE
        case Action.COPY | Action.METADATA if decision.source is here:
            return End.HERE_KEPT if kept else End.HERE
        case _:
            return End.THERE_KEPT if kept else End.THERE
