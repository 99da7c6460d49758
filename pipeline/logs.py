"""Log lines on standard error: text for people, JSON for machines. Control characters never reach the stream."""

import logging
import time
from typing import Literal

import msgspec

_CONTROL = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160))}
_CONTROL_BUT_LINES = {c: text for c, text in _CONTROL.items() if c != ord("\n")}


def _whole(text: str) -> str:
    """With halves of surrogate pairs, which names of files may hold, made visible: no encoder takes them."""
    return text.encode(errors="backslashreplace").decode()


class TextFormatter(logging.Formatter):
    """`2026-11-23T12:00:00.123Z WARNING sampler: message`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().translate(_CONTROL)
        line = f"{_time(record)} {record.levelname:<7} {self._process}: {message}"
        if record.exc_info is not None:
            # indented: no text of an exception can look like a line of its own
            shown = self.formatException(record.exc_info).translate(_CONTROL_BUT_LINES)
            line += "\n  " + shown.replace("\n", "\n  ")
        return _whole(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, logger, message, exception."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": _whole(record.getMessage()),
        }
        if record.exc_info is not None:
            fields["exception"] = _whole(self.formatException(record.exc_info))
        return msgspec.json.encode(fields).decode()


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def configure(process: str, level: str, format: Literal["text", "json"]) -> None:
    """Sets the root logger up for this process; called anew after a fork and after a change of the configuration."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(process) if format == "json" else TextFormatter(process))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for noisy in ("apscheduler", "alembic", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
