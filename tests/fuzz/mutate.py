"""Changes of a payload that keep it a payload: of JSON by its nodes, of text by words, so that fuzzing gets past the decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz.seeds import WORDS

_ODD: tuple[Any, ...] = (None, True, 0, -1, 2**70, 1e400, "", [], {}, [[]], "\ufffd", "\x00")


_BY_STRUCTURE = 0.95
"""Mutations are stacked, so that a share which breaks the framing breaks most of what is tried."""
_HALF = 0.5


def mutated(data: bytes, chance: Random, bytewise: Callable[[bytes], bytes]) -> bytes:
    """Another input made of *data*: by structure where it has one, else by words or *bytewise*."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict | list) and chance.random() < _BY_STRUCTURE:
        for _ in range(chance.randint(1, 3)):
            value = _changed(value, chance)
        return json.dumps(value, ensure_ascii=chance.random() < _HALF).encode("utf-8", "replace")
    return _with_word(data, chance) if chance.random() < _HALF else bytewise(data)


def _with_word(data: bytes, chance: Random) -> bytes:
    at = chance.randint(0, len(data))
    upto = min(len(data), at + chance.choice((0, 0, 1, 8)))
    return data[:at] + chance.choice(WORDS).encode() + data[upto:]


def _changed(value: Any, chance: Random) -> Any:  # noqa: ANN401 - any JSON
    """The same value with one node replaced, added, doubled, renamed or left out."""
    if not isinstance(value, dict | list) or not value or chance.random() > _BY_STRUCTURE:
        return _other(value, chance)
    if isinstance(value, list):
        at = chance.randrange(len(value))
        step = chance.choice(("in", "in", "in", "double", "drop"))
        middle = {"in": [_changed(value[at], chance)], "double": [value[at]] * 2, "drop": []}[step]
        return value[:at] + middle + value[at + 1 :]
    name = chance.choice(list(value))
    match chance.choice(("in", "in", "in", "in", "drop", "rename", "add")):
        case "in":
            return value | {name: _changed(value[name], chance)}
        case "drop":
            return {key: item for key, item in value.items() if key != name}
        case "rename":
            return {(chance.choice(WORDS) if key == name else key): item for key, item in value.items()}
        case _:
            return value | {chance.choice(WORDS): _other(value[name], chance)}


def _other(value: Any, chance: Random) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, str) and chance.random() < _HALF:
        at = chance.randint(0, len(value))
        return value[:at] + chance.choice((*WORDS, "/", "%", "\ufffd", "\u201b", ".")) + value[at:]
    return chance.choice((*WORDS, *_ODD, [value], {"event": value}))
