"""What the stores were seen to differ in: docs/stores.md prints it (``make docs``), the contract suite holds the cells to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from federation.capabilities import Capabilities
from federation.model import SECOND_US

FILE = Path(__file__).parents[2] / "docs" / "stores.md"
BEGIN, END = (
    "<!-- printed by `make docs` from tests/contract/differences.py: begin -->",
    "<!-- end of what `make docs` prints -->",
)
KINDS = ("memory-blob", "memory-vast", "azurite", "moto", "versitygw")
NO_VERSIONS = frozenset({"azurite"})
"""Servers that cannot keep versions at all (facts/azure.md 8)."""

PROBED: Mapping[str, Capabilities] = {
    "memory-blob": Capabilities(etag_is_md5=False, tags=True, min_part_bytes=1),
    "memory-vast": Capabilities(tags=True, min_part_bytes=1),
    "azurite": Capabilities(
        list_in_order=False,
        etag_is_md5=False,
        tags=True,
        page_size=5_000,
        min_part_bytes=1,
        max_part_bytes=4000 * 1024**2,
        max_parts=50_000,
    ),
    "moto": Capabilities(conditional_complete=False, conditional_copy=False, checksums=False, tags=True, page_size=10_000),
    "versitygw": Capabilities(nested_names=False, tags=True),
}
"""What the probe finds on a container without versions."""

OTHER: Mapping[str, Mapping[str, str]] = {
    "names with a line feed": {"moto": "not routed"},
    "`dir` beside `dir/`": {"versitygw": "no: files and folders share one name"},
    "headers that a metadata replacement leaves out": {"versitygw": "stay as they were"},
    "versions, when switched on": {"azurite": "not supported"},
    "an old version, once metadata was replaced": {"azurite": "not supported", "versitygw": "**has the new metadata**"},
    "an empty tag value, set without a write": {"azurite": "**refused**"},
    "checks signatures": {"memory-blob": "no", "memory-vast": "no", "moto": "no"},
    "files written past it": {
        "memory-blob": "no",
        "memory-vast": "yes (`write_file`)",
        "azurite": "no",
        "moto": "no",
        "versitygw": "yes: no ETag, or the old one (docs/adr/0005)",
    },
}
"""What no probe asks; tests name the kinds that differ. A kind that is not named does as the service's documentation says."""


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"


def table() -> str:
    """One row a trait, one column a store."""
    rows: dict[str, list[str]] = {
        "conditional write": [_yes(one.conditional_put) for one in PROBED.values()],
        "conditional delete": [_yes(one.conditional_delete) for one in PROBED.values()],
        "conditional completion of a multipart upload": [_yes(one.conditional_complete) for one in PROBED.values()],
        "condition on a copy's source": [_yes(one.conditional_copy) for one in PROBED.values()],
        "refuses content that does not fit its Content-MD5": [_yes(one.checksums) for one in PROBED.values()],
        "an ETag is the MD5 of what was written in one request": [
            "yes" if one.etag_is_md5 else "no: Content-MD5" for one in PROBED.values()
        ],
        "lists in the order of UTF-8 bytes": [_yes(one.list_in_order) for one in PROBED.values()],
        "`a` beside `a/b`, both listed": [_yes(one.nested_names) for one in PROBED.values()],
        "entries of a list page": [f"{one.page_size:,}" for one in PROBED.values()],
        "Last-Modified in lists": ["seconds" if one.modified_precision_us == SECOND_US else "finer" for one in PROBED.values()],
        "object tags": [_yes(one.tags) for one in PROBED.values()],
    }
    rows |= {trait: [cells.get(kind, "as documented") for kind in KINDS] for trait, cells in OTHER.items()}
    lines = [f"| | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    lines += [f"| {trait} | {' | '.join(cells)} |" for trait, cells in rows.items()]
    return "\n".join(lines)


def rendered(text: str) -> str:
    """*text* with the table renewed; what stands outside the marks is kept."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    FILE.write_text(rendered(FILE.read_text(encoding="utf-8")), encoding="utf-8")
