"""docs/consistency.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.decision.document import BEGIN, END, FILE, document, printed

ROOT = FILE.parents[1]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_the_printed_table_is_that_of_the_code() -> None:
    """A changed decision changes the document: run `make docs`."""
    text = FILE.read_text(encoding="utf-8")

    assert document(text, printed()) == text


def test_what_is_written_by_hand_is_kept() -> None:
    """Only what stands between the marks is renewed, and a missing mark is an error."""
    assert document(f"before\n{BEGIN}\nold\n{END}\nafter", "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter"
    with pytest.raises(ValueError, match="not enough values"):
        document("no marks", "new")


def test_every_test_that_the_document_names_exists() -> None:
    """A scenario without its test is a promise that nobody keeps."""
    named = _NAMED.findall(FILE.read_text(encoding="utf-8"))

    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in _source(ROOT / file)]
    assert missing == []
    assert len(named) >= 25


def test_every_scenario_names_a_test() -> None:
    """Scenarios are the list items of their section."""
    section = FILE.read_text(encoding="utf-8").split("## Scenarios")[1].split("\n## ")[0]
    scenarios = re.split(r"^- ", section, flags=re.MULTILINE)[1:]

    assert [scenario for scenario in scenarios if not _NAMED.search(scenario)] == []
    assert len(scenarios) >= 20


def _source(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""
