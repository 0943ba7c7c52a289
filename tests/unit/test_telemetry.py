"""Where log lines go."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.settings import LogSettings
from federation.telemetry import configure_logging, logger


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The handlers of other tests stay theirs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(("level", "told"), [("warning", ["late"]), ("info", ["decision", "late"])])
def test_the_file_holds_every_decision_whatever_standard_error_is_told(
    level: str, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``log.level`` is about standard error; a log file has every line from info on."""
    configure_logging(LogSettings.model_validate({"level": level, "format": "json"}), log_file=tmp_path / "log")
    logger("fedplane.decision").info("decision", key="k")
    logger("fedplane.leases").warning("late")
    logger("fedplane.leases").debug("detail")

    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == told
    assert [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()] == ["decision", "late"]


def test_a_name_does_nothing_to_the_terminal_of_who_reads_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and line ends are told, not sent; a traceback keeps its lines, and JSON the name."""
    configure_logging(LogSettings.model_validate({"level": "info", "format": "console"}))
    fault = ValueError("one line\n\x1b[2Jgone")
    logger("fedplane.decision").error("decision", key="\x1b]0;title\x07", other="a\x1bb\nc", exc_info=fault)
    told = capsys.readouterr().err
    for sent in ("\x07", "\x1b]", "\x1b[2J", "\x1bb"):
        assert sent not in told
    assert r"\x1b]0;title\x07" in told
    assert "ValueError: one line\n\\x1b[2Jgone" in told
