"""The runner's own log: one structured line per fact on stderr, as readable text or as JSON.

Modules log through ``logging.getLogger(__name__)`` with facts in ``extra={"job": …}``. This module decides once per
process which lines are written, where and how. Keys of users never appear in the log, even if passed to it. A line
feed in a logged value cannot forge a second line, and no character can control the terminal that shows it.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

from ci_runner.errors import DatabaseBusy
from ci_runner.settings.groups import LogSettings
from pytest_remote_ci.wire.control_characters import escaped, escaped_json, escaped_lines

#: Attributes of every record; all others come from ``extra``.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: Matches also truncated keys and keys followed by text; all but the first eight characters, the id, is secret.
_KEY: Final = re.compile(r"ci_[0-9A-Za-z]{9,}")
_HIDDEN: Final = "ci_…"
#: Seconds without a trouble after which it is reported again.
_QUIET: Final = 30.0
#: SDKs with too many INFO lines.
_NOISY: Final = ("docker", "urllib3", "waitress", "peewee")


def configure(settings: LogSettings, stream: TextIO | None = None) -> logging.Handler:
    """Send this process's log to `stream` (default: stderr); a further call replaces the earlier set-up."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    handler.set_name("ci-runner")
    root = logging.getLogger()
    for old in [item for item in root.handlers if item.get_name() == "ci-runner"]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(capture=True)
    return handler


def facts(record: logging.LogRecord) -> dict[str, object]:
    """Return the facts that the caller passed in ``extra``."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def hide_keys(text: str) -> str:
    """Return `text` without API keys."""
    return _KEY.sub(_HIDDEN, text)


def _moment(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Outages:
    """Reports a trouble that many threads meet at the same time once, until it has been over for a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: Text → when it was last met.
        self._met: dict[str, float] = {}

    def report(self, log: logging.Logger, what: str, error: Exception) -> None:
        """Log a failure: a busy database as one line without a traceback, anything else with one."""
        if not isinstance(error, DatabaseBusy):
            log.error("%s; trying again", what, exc_info=error)
            return
        now = self._clock()
        with self._lock:
            last, self._met[str(error)] = self._met.get(str(error), -math.inf), now
        level = logging.WARNING if now - last > _QUIET else logging.DEBUG
        log.log(level, "the database is locked by another process; trying again (%s)", what)


#: Those of this process.
outages: Final = Outages()


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO    ci_runner.server: message job=… key=…``; a traceback follows indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback if there is one."""
        line = f"{_moment(record)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        for key, value in facts(record).items():
            text = str(value)
            line += f" {key}={text if text and text.isprintable() and ' ' not in text else json.dumps(text)}"
        line = escaped(line)
        if record.exc_info:
            line += "\n    " + escaped_lines(self.formatException(record.exc_info)).replace("\n", "\n    ")
        return hide_keys(line)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the facts, and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        entry: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **facts(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return hide_keys(escaped_json(entry, default=str))
