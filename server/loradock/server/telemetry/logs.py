"""Log lines: JSON for machines, plain text on a terminal; each says which request it is of."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from loradock.server.services.call import current_call_or_none


def set_up_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """Send the project's log to `stream`; other libraries speak from WARNING up."""
    out = logging.StreamHandler(stream)
    out.setFormatter(PlainFormatter() if stream.isatty() else JsonFormatter())
    logging.basicConfig(handlers=[out], level=logging.WARNING, force=True)
    logging.getLogger("loradock").setLevel(level.upper())


def facts_of(record: logging.LogRecord) -> dict[str, object]:
    """Collect what is known of the request that a record is of, and what the record adds."""
    call = current_call_or_none()
    known = {} if call is None else call.log_facts
    return known | getattr(record, "facts", {})


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= facts_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """Time, message, then facts as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        facts = " ".join(f"{name}={value}" for name, value in facts_of(record).items())
        text = f"{clock} {record.levelname.lower():7} {record.getMessage()} {facts}".rstrip()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text
