"""Log records of each phase of a test, for a reporter of the developer's that keeps them as objects.

pytest's own reports have them as text. They are what pytest-json-report would see here: from every logger, at whatever
level the root logger lets through. Where pytest-xdist runs they are made in its workers (see `workers`) and travel
with the reports. Standard library and pytest only.
"""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any, Iterator

import pytest

from .record_file import TEXT_LIMIT, clean, plain

#: Name under which the plugin is registered.
NAME = "remote-ci-logs"
#: Part of a report, on its way from a worker.
_PART = "_remote_ci_logs"
#: Characters of log records in one record, which others that waited for it may join: in a text within a text each of
#: them may take two bytes.
PIECE = 256 << 10


def are_wanted(config: Any) -> bool:
    """Whether somebody wants them who does not find them in reports anyway."""
    option = config.option
    return bool(getattr(option, "remote_ci_logs", False)) and not getattr(option, "json_report", False)


def detach(data: dict[str, Any]) -> str:
    """What pytest-json-report itself has added to a report's data, where it is too much for one record.

    Then the data is without it, also without what it repeats of earlier phases. A list in JSON; "" is none.
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
    data["_json_report_extra"] = {**extra}
    for name, text in texts.items():
        data["_json_report_extra"][name] = {**extra[name], "log": [] if is_too_much else json.loads(text)}
    return texts.get(str(data.get("when")), "") if is_too_much else ""


class Logs:
    """A pytest plugin, only there when somebody wants it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], str] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: Any) -> Iterator[None]:
        """Until it is over."""
        yield from self._listen(item.nodeid, "setup")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: Any) -> Iterator[None]:
        """Until it is over."""
        yield from self._listen(item.nodeid, "call")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_teardown(self, item: Any) -> Iterator[None]:
        """Until it is over."""
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
    def pytest_runtest_logreport(self, report: Any) -> None:
        """In xdist's controller: before anybody else looks at the report."""
        found = report.__dict__.pop(_PART, None)
        if found:
            self._found[report.nodeid, str(report.when)] = found

    def take(self, nodeid: str, when: object) -> str:
        """Those of a phase that has just ended: a list in JSON, in ASCII; "" is none."""
        return self._found.pop((nodeid, str(when)), "")


class WorkersLogs(Logs):
    """The same in a worker of xdist: its reports take them along."""

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: Any) -> Iterator[None]:
        """A text survives every way of making data of a report."""
        result: Any = yield
        report = result.get_result()
        found = self.take(item.nodeid, report.when)
        if found:
            setattr(report, _PART, found)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """It leaves with them."""


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """As pytest-json-report does, but as JSON right away: its arguments may change later."""
        with contextlib.suppress(
            Exception
        ):  # a message that cannot be made is pytest's own handler's to tell
            fields = {**record.__dict__, "msg": record.getMessage(), "args": None, "exc_info": None}
            fields.pop("message", None)
            self.found.append(_json(fields))


def _json(fields: Any) -> str:
    try:
        return json.dumps(fields, default=_text)
    except (TypeError, ValueError, RecursionError):  # odd keys, cycles
        return json.dumps(clean(fields))


def _text(value: Any) -> str:
    """What pytest-json-report writes for what is no JSON."""
    try:
        return str(value)
    except Exception:
        return str(plain(value))
