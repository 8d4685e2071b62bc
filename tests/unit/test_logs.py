"""How the log looks: a line for people, an object for a collector, never twice."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from sidecar.logs import JsonFormatter, set_up_logging


def record(message: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord("sidecar.cycle", logging.WARNING, "f.py", 1, message, values, None)


def test_a_json_entry_is_one_line_with_the_message_filled_in() -> None:
    line = JsonFormatter().format(record("watch %s:\nfailed", 'x{a="é"}'))
    assert "\n" not in line
    entry = json.loads(line)
    assert set(entry) == {"time", "level", "logger", "message"}
    assert entry["level"] == "warning"
    assert entry["logger"] == "sidecar.cycle"
    assert entry["message"] == 'watch x{a="é"}:\nfailed'
    assert entry["time"].endswith("+00:00")


def test_a_traceback_stays_within_the_line() -> None:
    one = record("a cycle failed")
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        one.exc_info = sys.exc_info()
    line = JsonFormatter().format(one)
    assert "\n" not in line
    assert "RuntimeError: boom" in json.loads(line)["traceback"]


@pytest.fixture
def ours() -> Iterator[logging.Logger]:
    """The package's logger, put back as it was afterwards."""
    logger = logging.getLogger("sidecar")
    handlers, level = list(logger.handlers), logger.level
    logger.handlers = []
    yield logger
    logger.handlers = handlers
    logger.setLevel(level)


def test_setting_it_up_twice_changes_the_form_and_says_nothing_twice(
    ours: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging("INFO", "text")
    ours.info("first %d", 1)
    set_up_logging("WARNING", "json")
    ours.info("left out")
    ours.warning("second")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(" INFO sidecar: first 1")
    assert json.loads(second)["message"] == "second"


def test_other_loggers_are_left_alone(ours: logging.Logger) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    set_up_logging("DEBUG", "json")
    assert (list(root.handlers), root.level) == before
    assert len(ours.handlers) == 1
