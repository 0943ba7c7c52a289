"""docs/stores.md says what the contract suite holds the stores to."""

from __future__ import annotations

from tests.contract.differences import FILE, KINDS, OTHER, rendered


def test_the_table_is_the_one_that_the_suite_checks() -> None:
    """A changed cell changes the document: run `make docs`."""
    text = FILE.read_text(encoding="utf-8")
    assert rendered(text) == text
    assert all(f"| {trait} |" in text for trait in OTHER)
    assert {kind for cells in OTHER.values() for kind in cells} <= set(KINDS)
