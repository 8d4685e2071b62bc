"""How the log looks: lines for people, or one JSON object a line for a collector."""

import json
import logging
from datetime import UTC, datetime

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up_logging(level: str, log_format: str) -> None:
    """Send the package's log to standard error; other loggers stay as they are.

    A second call changes level and format and adds no second handler.
    """
    logger = logging.getLogger("sidecar")
    logger.setLevel(level)
    formatter = JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT)
    ours = [one for one in logger.handlers if isinstance(one, _OurHandler)]
    handler = ours[0] if ours else _OurHandler()
    handler.setFormatter(formatter)
    if not ours:
        logger.addHandler(handler)


class _OurHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Told apart from handlers that a program using the library has set up."""
