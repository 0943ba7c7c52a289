"""The README says what is true: its settings are taken, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from federation.settings import load
from fedplane.cli import app

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_settings_in_the_readme_are_taken(tmp_path: Path) -> None:
    """Copied as they stand they make a pair."""
    [block] = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "federation.toml"
    file.write_text(block, encoding="utf-8")
    [pair] = load(file, {}).pair
    assert (pair.name, pair.blob.change_feed.enabled, pair.vast.events.topic) == ("datasets", True, "datasets-events")


def test_the_commands_in_the_readme_exist() -> None:
    """Each word in the table's first column is a command, or one of the command before it."""
    root = typer.main.get_command(app)
    rows = re.findall(r"^\| (`fedplane .*?) \|", README, re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        first, *others = re.findall(r"`(?:fedplane )?([a-z][a-z-]*(?: [a-z]+)*)", row.replace("\\|", ""))
        command = root
        for word in first.split():
            command = command.commands[word]  # type: ignore[attr-defined]
        for other in others:
            words = other.split()
            siblings = getattr(root, "commands", {}) | getattr(root.commands[first.split()[0]], "commands", {})  # type: ignore[attr-defined]
            assert words[0] in siblings, f"{row}: {other}"
