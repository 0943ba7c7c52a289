"""Prints the table of docs/parked.md from the code: ``python -m tests.unit.parked_document`` (make docs)."""

from __future__ import annotations

from pathlib import Path

from federation.rules.parking import REASONS
from federation.stores.codes import AZURE, S3

FILE = Path(__file__).parents[2] / "docs" / "parked.md"
BEGIN, END = "<!-- printed by `make docs` from federation/rules/parking.py: begin -->", "<!-- end of what `make docs` prints -->"


def table() -> str:
    """One row a reason."""
    lines = ["| reason | what it means | way back | codes of the services |", "|---|---|---|---|"]
    for reason, told in REASONS.items():
        back = ("**By itself.** " if told.by_itself else "") + told.way_back
        named = [
            f"{service}: {', '.join(f'`{code}`' for code, (_, other) in sorted(found.items()) if other == reason)}"
            for service, found in (("Azure", AZURE), ("S3", S3))
            if any(other == reason for _, other in found.values())
        ]
        lines.append(f"| `{reason}` | {told.meaning} | {back} | {'; '.join(named)} |")
    return "\n".join(lines)


def rendered(text: str) -> str:
    """*text* with the table renewed; what stands outside the marks is kept."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    FILE.write_text(rendered(FILE.read_text(encoding="utf-8")), encoding="utf-8")
