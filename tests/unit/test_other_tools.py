"""Other tools' scenario tables, row by row: what they do, what we do, and why where that differs."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from federation.model import Side
from tests.decision import rows_bisync_and_others, rows_mutagen_syncthing
from tests.decision.document import FILE
from tests.decision.other_tools import Met, Why, end
from tests.decision.rows import decided
from tests.unit.test_other_tools_scripts import MOVES, STEPS

ROWS: list[Met] = [*rows_mutagen_syncthing.ROWS, *rows_bisync_and_others.ROWS]


def named(one: Met) -> str:
    """Tool and scenario."""
    return f"{one.tool}: {one.text}".replace(" ", "_")


@pytest.mark.parametrize("here", list(Side), ids=lambda side: f"here_is_{side}")
@pytest.mark.parametrize("one", ROWS, ids=named)
def test_a_key_ends_as_with_the_other_tool_or_as_the_row_says(one: Met, here: Side) -> None:
    """On either side: without a reason for another end, the other tool's is expected."""
    assert end(decided(one, here, one.mode), here) is (one.ours or one.theirs)
    assert (one.ours is None) == (one.why is None)
    assert one.ours is not one.theirs


def test_rows_are_told_apart_and_every_reason_is_needed() -> None:
    """No row hides another, and no excuse is kept in stock."""
    assert len({named(one) for one in ROWS}) == len(ROWS) >= 150
    assert {one.why for one in ROWS} == {None, *Why}


def test_the_document_counts_what_is_compared() -> None:
    """docs/consistency.md, "Beside other tools": by tool, how many scenarios and how many of them end otherwise here."""
    every = [(one.tool, one.why) for one in ROWS] + [(one.tool, one.why) for one in (*MOVES, *STEPS)]
    many, otherwise = Counter(tool for tool, _ in every), Counter(tool for tool, why in every if why)
    section = FILE.read_text(encoding="utf-8").split("## Beside other tools")[1].split("\n## ")[0]
    told = re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \|", section, re.MULTILINE)
    assert told == [(tool, str(count), str(otherwise[tool])) for tool, count in many.items()]
