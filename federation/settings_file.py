"""Reading the settings file and what the environment overrides in it; ``settings`` knows what the values mean."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from federation.errors import UsageError

OVERRIDE_PREFIX = "FEDERATION__"
FILE_VARIABLE = "FEDERATION_CONFIG"
PAIR_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"


def read_toml(file: Path) -> dict[str, Any]:
    """The file's content. Raises UsageError naming the file and what to do."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"No settings file at {file}. Write one (README, 'Configuration'), or name it with --config or ${FILE_VARIABLE}.",
            reason="no_settings",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the settings file {file}: {error}.", reason="bad_settings") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not valid TOML: {error}. Correct that line.", reason="bad_settings") from None


Places = dict[tuple[str | int, ...], str]
"""Where the environment put something into the settings, and the name of the variable."""


def override(data: dict[str, Any], name: str, text: str, places: Places) -> None:
    """Put the environment's value of *name* in its place in *data*, and note that in *places*. Raises UsageError."""
    parts = [part.lower() for part in name[len(OVERRIDE_PREFIX) :].split("__")]
    node: Any = data
    path: tuple[str | int, ...] = ()
    for part in parts[:-1]:
        if isinstance(node, list):
            index = _pick_pair(node, part, name)
            node, path = node[index], (*path, index)
        else:
            path = (*path, part)
            if part not in node:
                places[path] = name
            node = node.setdefault(part, [] if path == ("pair",) else {})
        if not isinstance(node, dict | list):
            raise UsageError(f"{name} goes below a plain value; check its path.", reason="bad_settings")
    if isinstance(node, list):
        raise UsageError(f"{name} names a pair but no field of it.", reason="bad_settings")
    node[parts[-1]] = _value(text)
    places[*path, parts[-1]] = name


def _pick_pair(pairs: list[Any], selector: str, name: str) -> int:
    for index, pair in enumerate(pairs):
        if isinstance(pair, dict) and selector in (str(index), str(pair.get("name", "")).lower()):
            return index
    raise UsageError(f"{name}: there is no pair {selector!r} in the settings file.", reason="bad_settings")


def _value(text: str) -> Any:  # noqa: ANN401 - pydantic gives it its type
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # a name may begin so; where a list is wanted, its setting is refused by name


def explain(file: Path, error: ValidationError, data: dict[str, Any], places: Places) -> str:
    """All wrong settings of *data*, by their names, without their values; of the environment's the variable is named."""
    problems = error.errors(include_url=False, include_input=False)
    if any(problem["loc"][:1] == ("pair",) and len(problem["loc"]) > 1 for problem in problems):
        # pydantic leaves out a pair with a mistake, and then says that there are too few.
        problems = [problem for problem in problems if problem["loc"] != ("pair",)]
    lines, blamed = [], set()
    for problem in problems:
        variable = "" if problem["type"] == "missing" else _variable(problem["loc"], places)
        blamed.add(bool(variable))
        lines.append(f"  {_setting(problem['loc'], data)}: {_hint(problem)}{f' (from {variable})' if variable else ''}")
    where = " and ".join([str(file)] * (False in blamed) + ["the environment"] * (True in blamed))
    return f"{where}: {len(lines)} wrong setting(s):\n" + "\n".join(lines)


def _hint(problem: ErrorDetails) -> str:
    if problem["loc"] == ("pair",):
        return "at least one [[pair]] section is needed, in two brackets each; see README, 'Configuration'"
    return "unknown setting; see README, 'Configuration'" if problem["type"] == "extra_forbidden" else problem["msg"]


def _setting(loc: tuple[str | int, ...], data: dict[str, Any]) -> str:
    """The setting's name; a pair's as its variable has it, by the pair's name, where that is a good one and no other's."""
    parts = [str(part) for part in loc]
    if loc[:1] == ("pair",) and len(loc) > 1:
        names = [pair.get("name") if isinstance(pair, dict) else None for pair in data["pair"]]
        name = names[int(loc[1])]
        if isinstance(name, str) and re.fullmatch(PAIR_NAME, name) and names.count(name) == 1:
            parts[1] = name
    return ".".join(parts) or "settings"


def _variable(loc: tuple[str | int, ...], places: Places) -> str:
    """The variable that put there what is wrong, or what it is in; else empty."""
    return next((places[loc[:end]] for end in range(len(loc), 0, -1) if loc[:end] in places), "")
