"""Log records of each phase of a test, for a local reporter that needs them as objects.

pytest's own reports have them as text. They are what pytest-json-report would see in the job: from every logger, at
the level that the root logger lets through. With pytest-xdist they are made in its workers (see `xdist_workers`) and
sent with the reports. Standard library and pytest only.
"""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING, Generator, Iterator

import pytest

from ..wire.records import ReportData
from .record_file import TEXT_LIMIT, clean, plain

if TYPE_CHECKING:
    import pluggy

#: Name under which the plugin is registered.
NAME = "remote-ci-logs"
#: Attribute of a report from a worker.
_PART = "_remote_ci_logs"
#: Longest piece of log records in one record, in characters. Held records can join it, and a text within a text can
#: take two bytes per character.
PIECE = 256 << 10


def are_wanted(config: pytest.Config) -> bool:
    """Whether log records are requested and not already part of the reports."""
    option = config.option
    return bool(getattr(option, "remote_ci_logs", False)) and not getattr(option, "json_report", False)


def detach(data: ReportData) -> str:
    """Remove the log records that pytest-json-report added to a report's data, if they are too long for one record.

    Those of earlier phases, which it repeats, are removed, too. Return those of this phase as a JSON list, else "".
    """
    extra = data.get("_json_report_extra")
    if not isinstance(extra, dict):
        return ""
    texts = {
        name: f"[{','.join(_json(record) for record in part['log'])}]"
        for name, part in extra.items()
        if isinstance(part, dict) and isinstance(part.get("log"), list) and part["log"]
    }
    if not texts:
        return ""
    is_too_much = sum(len(text) for text in texts.values()) > TEXT_LIMIT
    smaller = {
        name: {**extra[name], "log": [] if is_too_much else json.loads(text)} for name, text in texts.items()
    }
    data["_json_report_extra"] = {**extra, **smaller}
    return texts.get(str(data.get("when")), "") if is_too_much else ""


class Logs:
    """A pytest plugin that collects log records; registered only if they are wanted."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], str] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """Collect during setup."""
        yield from self._listen(item.nodeid, "setup")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Collect during the call."""
        yield from self._listen(item.nodeid, "call")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        """Collect during teardown."""
        yield from self._listen(item.nodeid, "teardown")

    def _listen(self, nodeid: str, when: str) -> Iterator[None]:
        handler, logger = _Handler(), logging.getLogger()
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            if handler.found:
                self._found[nodeid, when] = f"[{','.join(handler.found)}]"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In xdist's controller, take the log records out of a report before other plugins see it."""
        found = report.__dict__.pop(_PART, None)
        if found:
            self._found[report.nodeid, str(report.when)] = found

    def pop(self, nodeid: str, when: object) -> str:
        """Return and forget the log records of a phase that has ended: a JSON list in ASCII, or "" for none."""
        return self._found.pop((nodeid, str(when)), "")


class WorkersLogs(Logs):
    """The same plugin for a worker of xdist, where the records are attached to the reports."""

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pluggy.Result[pytest.TestReport], None]:
        """Attach the log records as text, which survives every serialization of reports."""
        result = yield
        report = result.get_result()
        found = self.pop(item.nodeid, report.when)
        if found:
            setattr(report, _PART, found)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Do nothing: the report carries its log records."""


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Store a record as pytest-json-report does, but as JSON at once, because its arguments can change later."""
        with contextlib.suppress(
            Exception
        ):  # pytest's own handler reports a message that cannot be formatted
            fields = {**record.__dict__, "msg": record.getMessage(), "args": None, "exc_info": None}
            fields.pop("message", None)
            self.found.append(_json(fields))


def _json(fields: object) -> str:
    try:
        return json.dumps(fields, default=_text)
    except (TypeError, ValueError, RecursionError):  # odd keys, cycles
        return json.dumps(clean(fields))


def _text(value: object) -> str:
    """Return the text that pytest-json-report writes for a value that JSON does not have."""
    try:
        return str(value)
    except Exception:
        return str(plain(value))
