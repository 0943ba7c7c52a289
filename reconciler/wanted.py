"""Scans that somebody asked for: which parts of the pair, and wishes of processes that do not scan themselves."""

from __future__ import annotations

from collections.abc import Iterable

from federation.ports import State

MOST = 16
"""Scoped scans that are done one after the other; of more, neighbours are scanned together."""
MOST_WISHES = 64
_NOTE = "scan:wanted:"


def coalesce(prefixes: Iterable[str], most: int = MOST) -> tuple[str, ...]:
    """At most *most* beginnings of keys that cover all of *prefixes*, none within another; the empty one covers everything."""
    kept = _outermost(prefixes)
    while len(kept) > most:
        deepest = max(map(_depth, kept))
        kept = _outermost(_folder_of(prefix) if _depth(prefix) == deepest else prefix for prefix in kept)
    return kept


def _outermost(prefixes: Iterable[str]) -> tuple[str, ...]:
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


def _depth(prefix: str) -> int:
    return prefix[:-1].count("/")


def _folder_of(prefix: str) -> str:
    return prefix[: prefix[:-1].rfind("/") + 1]


async def ask(state: State, prefix: str, *, now_us: int) -> None:
    """Ask the processes that scan this pair for a scan of *prefix*. Durable once it returned. Raises RetryLater.

    Past ``MOST_WISHES`` the whole pair is asked for, so that what is kept stays bounded.
    """
    if prefix and len(await asked(state)) >= MOST_WISHES:
        prefix = ""
    await state.put_note(f"{_NOTE}{prefix}", str(now_us).encode())


async def asked(state: State) -> dict[str, bytes]:
    """Wishes not yet fulfilled: the prefix, and when it was last asked for. Raises RetryLater."""
    return {name.removeprefix(_NOTE): at for name, at in (await state.notes(_NOTE)).items()}


async def fulfil(state: State, wishes: dict[str, bytes], scanned: str) -> None:
    """Drop the *wishes* (read before the scan began) that a finished scan of *scanned* fulfilled, unless asked for anew."""
    for prefix, at in wishes.items():
        if prefix.startswith(scanned):
            await state.drop_note(f"{_NOTE}{prefix}", at)
