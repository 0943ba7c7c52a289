"""Reading the settings file and what the environment overrides in it; ``settings`` knows what the values mean."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from federation.errors import UsageError

OVERRIDE_PREFIX = "FEDERATION__"
FILE_VARIABLE = "FEDERATION_CONFIG"


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


def override(data: dict[str, Any], name: str, text: str) -> None:
    """Put the environment's value of *name* in its place in *data*. Raises UsageError."""
    parts = [part.lower() for part in name[len(OVERRIDE_PREFIX) :].split("__")]
    node: Any = data
    for depth, part in enumerate(parts[:-1]):
        if isinstance(node, list):
            node = _pick_pair(node, part, name)
        else:
            node = node.setdefault(part, [] if depth == 0 and part == "pair" else {})
        if not isinstance(node, dict | list):
            raise UsageError(f"{name} goes below a plain value; check its path.", reason="bad_settings")
    if isinstance(node, list):
        raise UsageError(f"{name} names a pair but no field of it.", reason="bad_settings")
    node[parts[-1]] = _value(text)


def _pick_pair(pairs: list[Any], selector: str, name: str) -> dict[str, Any]:
    for index, pair in enumerate(pairs):
        if isinstance(pair, dict) and selector in (str(index), str(pair.get("name", "")).lower()):
            return pair
    raise UsageError(f"{name}: there is no pair {selector!r} in the settings file.", reason="bad_settings")


def _value(text: str) -> Any:  # noqa: ANN401 - pydantic gives it its type
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # a name may begin so; where a list is wanted, its setting is refused by name


def explain(file: Path, error: ValidationError) -> str:
    """All wrong settings, by their names, without their values."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        hint = "unknown setting; see README, 'Configuration'" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"  {where}: {hint}")
    return f"{file}: {len(lines)} wrong setting(s):\n" + "\n".join(lines)
