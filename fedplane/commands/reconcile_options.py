"""What ``fedplane reconcile`` cannot be asked for: nothing that is given is quietly ignored."""

from __future__ import annotations

from collections.abc import Mapping

from federation.errors import UsageError
from federation.keys import excluded_below, why_never

_APART = {
    "--history": (
        ("--dry-run", "--verify", "--key", "--prefix", "--wait"),
        "it prints what earlier scans found, and scans nothing",
    ),
    "--dry-run": (("--verify", "--wait"), "it writes nothing, and reads no contents"),
    "--verify": (("--key", "--wait"), "it reads all contents, and writes nothing"),
    "--key": (("--prefix",), "say the one or the other"),
}
"""Options that would be ignored beside another, and why."""


def require_together(given: Mapping[str, object]) -> None:
    """*given*: the options by name, false where they are not. Raises UsageError for two of which one would be ignored."""
    for one, (others, why) in _APART.items():
        for other in others:
            if given[one] and given[other]:
                raise UsageError(f"{one} does not go with {other}: {why}.", reason="bad_option")


def require_possible(keys: list[str], prefix: str, verify: str) -> None:
    """Raises UsageError for a value that no option takes, and for keys that are never synchronised."""
    if verify not in ("", "hash"):
        raise UsageError(f"--verify takes `hash`, not {verify!r}.", reason="bad_option")
    for why in map(why_never, keys):
        if why:
            raise UsageError(f"--key: {why}.", reason="bad_option")
    if excluded_below(prefix):
        raise UsageError(
            f"--prefix: what begins with {prefix!r} is never synchronised: it is ours or VAST's.", reason="bad_option"
        )
