"""Recorded feeds of real accounts, where they are at hand: ``FEDPLANE_CHANGEFEED_RECORDINGS``, else beside the project."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

_BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "changefeed"


def fixtures() -> list[Path]:
    """One folder a recording; none when there are none here."""
    root = Path(os.environ.get("FEDPLANE_CHANGEFEED_RECORDINGS") or _BESIDE) / "fixtures"
    return sorted(path for path in root.glob("*") if (path / "container").is_dir())


def container(fixture: Path) -> dict[str, bytes]:
    """Its blobs; folder markers are empty ones."""
    root = fixture / "container"
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    markers = fixture / "markers.json"
    return found | dict.fromkeys(json.loads(markers.read_text()) if markers.exists() else [], b"")


def expected(fixture: Path) -> list[dict[str, Any]]:
    """Every record, in the order of chunks and of records in each; ``_chunk``, ``_index`` and ``_segment`` tell its place."""
    with gzip.open(fixture / "events.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def growth(fixture: Path) -> dict[str, Any] | None:
    """The chunk that was recorded while it grew, and its sizes."""
    found: dict[str, Any] | None = json.loads((fixture / "expected.json").read_text()).get("growth")
    return found
