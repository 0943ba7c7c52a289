"""Prints the decision table of docs/consistency.md from the cells: ``python -m tests.decision.document`` (make docs).

What stands outside the two marks in that file is written by hand and kept.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

from tests.decision.cells import Agreed, Cell, Place, Seen, Times, Zone, cells

FILE = Path(__file__).parents[2] / "docs" / "consistency.md"
BEGIN, END = "<!-- printed by `make docs` from tests/decision/cells.py: begin -->", "<!-- end of what `make docs` prints -->"

_MASTERS = (None, Place.HERE, Place.THERE)
_SHOWN = (Agreed.BOTH, Agreed.NEVER, Agreed.HERE_ONLY)
"""THERE_ONLY is the mirror image of HERE_ONLY, and a tombstone decides as if nothing had been agreed (test_decide_cells.py)."""

_PRESENT_WORDS = {
    Seen.SAME: "present",
    Seen.TAGGED: "",
    Seen.TOUCHED: "",
    Seen.METADATA: "other metadata",
    Seen.CONTENT: "other content",
}
"""Where nothing was agreed on a side, nothing can have changed there."""
_WINNER = {
    Times.HERE_LATER: Place.HERE,
    Times.THERE_LATER: Place.THERE,
    Times.TIE_HERE: Place.HERE,
    Times.TIE_THERE: Place.THERE,
}
_VARIED: dict[str, Callable[[Cell], str]] = {
    "times": lambda cell: cell.times.value,
    "alike": lambda cell: "changed alike" if cell.alike else "changed apart",
    "zone": lambda cell: cell.zone.value,
    "deletes_here": lambda cell: f"deletes to here {'on' if cell.deletes_here else 'off'}",
    "deletes_there": lambda cell: f"deletes to there {'on' if cell.deletes_there else 'off'}",
}
"""What besides the states, the base and the mode may decide, in the order in which it is told."""

Signature = tuple[str, str, str]
Grid = dict[tuple[Seen, Seen], Signature]


def outcome_text(cell: Cell) -> str:
    """What is decided about one cell, in few words."""
    outcome = cell.outcome
    reason = outcome.reason.replace("_", " ")
    kept = ", loser kept" if outcome.preserve is not None else ""
    if outcome.source is None:
        return f"{outcome.action} ({reason})"
    if outcome.action == "keep":
        return f"leave it {outcome.source} ({reason})"
    if outcome.reason in ("later_write", "tie") and outcome.source is _WINNER[cell.times]:
        return f"**{outcome.action} from the last writer** (later, or tie winner{kept})"
    verb = f"delete {outcome.target}" if outcome.action == "delete" else f"{outcome.action} {outcome.source} → {outcome.target}"
    return f"**{verb}** ({reason}{kept})"


def collapsed(group: Sequence[Cell]) -> str:
    """The outcomes of cells that differ in varied dimensions only, told with as few of these as decide."""
    outcomes = {outcome_text(cell) for cell in group}
    if len(outcomes) == 1:
        return outcomes.pop()
    for size in range(1, len(_VARIED) + 1):
        for names in combinations(_VARIED, size):
            found = _by(group, names)
            if all(len(texts) == 1 for texts in found.values()):
                return _branches({key: texts.pop() for key, texts in found.items()})
    raise AssertionError("cells that are equal in everything have two outcomes")


def _by(group: Sequence[Cell], names: Iterable[str]) -> dict[tuple[str, ...], set[str]]:
    found: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for cell in group:
        found[tuple(_VARIED[name](cell) for name in names)].add(outcome_text(cell))
    return found


def _branches(texts: dict[tuple[str, ...], str]) -> str:
    """Tell the first dimension, and under each of its values the rest; values with one ending are told together."""
    if () in texts:
        return texts[()]
    endings: dict[str, list[str]] = defaultdict(list)
    for value in dict.fromkeys(key[0] for key in texts):
        rest = {key[1:]: text for key, text in texts.items() if key[0] == value}
        ending = rest[next(iter(rest))] if len(set(rest.values())) == 1 else f"({_branches(rest)})"
        endings[ending].append(value)
    if len(endings) == 1:
        return next(iter(endings))
    return "; ".join(f"{' or '.join(values)}: {ending}" for ending, values in endings.items())


def grid(agreed: Agreed, all_cells: Iterable[Cell]) -> Grid:
    """For each pair of states, what is decided in each mode."""
    groups: dict[tuple[Seen, Seen, Place | None], list[Cell]] = defaultdict(list)
    for cell in all_cells:
        if cell.agreed is agreed and cell.hashed and Seen.UNREAD not in (cell.here, cell.there):
            groups[cell.here, cell.there, cell.master].append(cell)
    texts = {key: collapsed(group) for key, group in groups.items()}
    return {
        (here, there): (texts[here, there, None], texts[here, there, Place.HERE], texts[here, there, Place.THERE])
        for here, there in {(here, there) for here, there, _ in groups}
    }


def classes(found: Grid) -> list[list[Seen]]:
    """States that no question tells apart."""
    out: dict[tuple[Signature, ...], list[Seen]] = defaultdict(list)
    states = [seen for seen in Seen if (seen, seen) in found]
    for seen in states:
        out[tuple(found[seen, other] for other in states) + tuple(found[other, seen] for other in states)].append(seen)
    return list(out.values())


def table(agreed: Agreed, all_cells: Iterable[Cell]) -> list[str]:
    """One table: rows with one ending in all modes are told together; the mirror image of a row is not repeated."""
    found = grid(agreed, all_cells)
    kinds = classes(found)
    rows: dict[tuple[int, Signature], list[str]] = defaultdict(list)
    for at, here in enumerate(kinds):
        for beside, there in enumerate(kinds):
            if beside < at and agreed is not Agreed.HERE_ONLY:
                continue
            endings = found[here[0], there[0]]
            rows[at, endings].append(_words(there, changed=agreed is Agreed.BOTH))
    lines = ["| here | there | two_way | here is master | there is master |", "|---|---|---|---|---|"]
    for (at, endings), beside_words in rows.items():
        told = endings if len(set(endings)) > 1 else (endings[0], "the same", "the same")
        here_words = _words(kinds[at], changed=agreed in (Agreed.BOTH, Agreed.HERE_ONLY))
        lines.append(f"| {here_words} | {' / '.join(filter(None, beside_words))} | {' | '.join(told)} |")
    return lines


def _words(seen: Sequence[Seen], *, changed: bool) -> str:
    words = [one.value if changed else _PRESENT_WORDS.get(one, one.value) for one in seen]
    return " / ".join(word for word in words if word)


def printed() -> str:
    """The generated part."""
    every = list(cells())
    lines = [
        f"{len(every)} cells: {len(Seen)} states a side, {len(Agreed)} kinds of base, 3 modes, {len(Zone)} ways with",
        f"foreign objects, deletes on or off in each direction, {len(Times)} relations of the times, hashes known or missing,",
        "both changed alike or apart.",
    ]
    for agreed in _SHOWN:
        lines += ["", f"### {agreed.value.capitalize()}", "", *table(agreed, every)]
    return "\n".join(lines)


def document(current: str, part: str) -> str:
    """*current* with the generated part renewed. Raises ValueError when a mark is missing."""
    before, rest = current.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def main() -> None:
    """Renew the file."""
    FILE.write_text(document(FILE.read_text(encoding="utf-8"), printed()), encoding="utf-8")
    sys.stdout.write(f"{FILE.name}: renewed\n")


if __name__ == "__main__":
    main()
