"""How far a long command is, on a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from fedplane.progress import line, progress


def test_a_progress_line_tells_rate_and_remaining_time() -> None:
    """What is not known is left out."""
    assert line("scanning p", 500, 2_000, 10.0) == "scanning p: 500 of about 2,000 (25 %), 50/s, about 30 s left"
    assert line("scanning p", 500, None, 10.0, "3 marked") == "scanning p: 500, 50/s, 3 marked"
    assert line("scanning p", 0, 10, 0.0) == "scanning p: 0 of about 10 (0 %), 0/s"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_with_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done, of how many, how fast; it is gone when the command ends."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress("scanning p", quiet=False) as tell:
        tell(1_500, 2_000, "3 differences")
    shown = terminal.getvalue()
    assert "scanning p: 1,500 of about 2,000 (75 %)" in shown
    assert "s left, 3 differences" in shown
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in shown


def test_a_quiet_command_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON on standard output stays alone."""
    with progress("scanning p", quiet=True) as tell:
        tell(1, 2)
    assert capsys.readouterr() == ("", "")
