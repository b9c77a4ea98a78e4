"""Log records of each phase of a test, for a reporter of the developer's that keeps them as objects.

pytest's own reports have them as text. They are what pytest-json-report would see here: from every logger, at whatever
level the root logger lets through. Standard library and pytest only; the workers of pytest-xdist have none.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Iterator

import pytest

from .records import clean

if TYPE_CHECKING:
    from .records import Records

#: Log records of one phase, and characters of all of their texts: more is left out, and said.
_MOST = 1000
_ROOM = 256 << 10
#: Characters of one text.
_LONGEST = 16 << 10


class Logs:
    """A pytest plugin, only there when somebody wants it."""

    def __init__(self, records: Records) -> None:
        self._note = records.add
        self._found: dict[tuple[str, str], list[dict[str, Any]]] = {}

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
                self._found[nodeid, when] = handler.found
            if handler.left_out:
                text = f"{nodeid} ({when}): {handler.left_out} log records are not in the JSON report"
                self._note("note", text=text)

    def take(self, nodeid: str, when: object) -> list[dict[str, Any]]:
        """Those of a phase that has just ended."""
        return self._found.pop((nodeid, str(when)), [])


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []
        self.left_out = 0
        self._room = _ROOM

    def emit(self, record: logging.LogRecord) -> None:
        """As pytest-json-report does, but as JSON right away: its arguments may change later."""
        if len(self.found) >= _MOST or self._room <= 0:
            self.left_out += 1
            return
        with contextlib.suppress(
            Exception
        ):  # a message that cannot be made is pytest's own handler's to tell
            fields = {**record.__dict__, "msg": record.getMessage(), "args": None, "exc_info": None}
            fields.pop("message", None)
            said = clean(fields, limit=_LONGEST)
            self._room -= sum(len(value) for value in said.values() if isinstance(value, str))
            self.found.append(said)
