"""docs/names.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from federation import keys

DOCUMENT = Path(__file__).parents[2] / "docs" / "names.md"
ROW = re.compile(r"^\| `([^|]+)` \| `([^|]+)` \| `([^|]+)` \| `([^|]+)` \|$", re.MULTILINE)


def test_the_table_of_names_is_what_the_code_does() -> None:
    """Every example in the document, in both directions, on every side and policy."""
    rows = ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len(rows) >= 10
    for key, *names in rows:
        for name, policy in zip(names, (keys.AZURE_BLOB, keys.VAST_COMMON, keys.VAST_NATIVE), strict=True):
            assert (key, policy.name, keys.encode(key, policy)) == (key, policy.name, name)
            assert keys.decode(name, policy) == key
