"""The log on standard error: lines for people, or one JSON object a line for whatever collects logs."""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import Enum

from fedbonsai.report.formats import storable

ENVIRONMENT = "FEDBONSAI_LOG"
logger = logging.getLogger(__name__)


class LogFormat(Enum):
    """How lines on standard error look."""

    TEXT = "text"
    JSON = "json"


class _Log(logging.Handler):
    """Writes to whatever standard error is at the moment: while a bar is shown, that is what prints above it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Json(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and what the record brings (``row``, an exception)."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if hasattr(record, "row"):
            entry["row"] = storable(record.row)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, allow_nan=False, default=str)


def begin() -> None:
    """Send the log to standard error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_Log()])


def use(form: LogFormat) -> None:
    """Choose how lines look from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Log):
            handler.setFormatter(_Json() if form is LogFormat.JSON else logging.Formatter("%(message)s"))
    logging.captureWarnings(form is LogFormat.JSON)


def structured() -> bool:
    """Whether lines are JSON objects."""
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers)


def complain(text: str, prefix: str = "") -> None:
    """Say on standard error why a command ends, as the log has it.

    Args:
        text: Why.
        prefix: Stands before it for people; the level says the same to others.
    """
    if structured():
        logger.error("%s", text)
    else:
        print(f"{prefix}{text}", file=sys.stderr)
