"""The local terminal, apart from what pytest's own reporter writes there from the reports.

The counterpart in the job is `pytest_remote_ci.job.screen`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from pytest_remote_ci.replay import reporters
from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.replay.pytest_internals import discarded_output, terminal_writer
from pytest_remote_ci.terminal.ansi import Output
from pytest_remote_ci.wire import records as wire
from pytest_remote_ci.wire.events import Event

if TYPE_CHECKING:
    from pytest_remote_ci.replay.collection import Collection

#: Log streams with output of tests.
OUTPUTS: Final = ("stdout", "stderr")
#: Calls of other plugins in the job that are repeated locally.
_ALLOWED = {
    "tr": {"write", "write_line", "write_sep", "line", "section", "rewrite", "ensure_newline", "write_raw"},
    "tw": {"write", "line", "sep", "write_raw"},
}


def is_output(event: Event) -> bool:
    """Whether the event is output of tests."""
    return event.type == "log" and event.stream in OUTPUTS


class Screen:
    """The terminal of one session."""

    def __init__(self, config: pytest.Config, places: PathMapper) -> None:
        self._config = config
        self._places = places
        self._output = {"stdout": Output(sys.stdout), "stderr": Output(sys.stderr)}

    @property
    def _terminal(self) -> pytest.TerminalReporter | None:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def write(self, event: Event, *, at_the_end: bool) -> None:
        """Write output of tests; `at_the_end`: of the session, when pytest itself writes to stderr."""
        text, stream = event.text, str(event.stream)
        writer = terminal_writer(self._terminal)
        if writer is not None:
            writer.flush()
        sys.stdout.flush()
        own = stream == "stderr" and at_the_end  # a usage error of pytest
        self._output[stream].write(self._places.text(text) if own else text)

    def header(self, header: wire.Header, session: wire.Session, collection: Collection) -> None:
        """Write the lines below "test session starts"."""
        reporter = self._terminal
        if reporter is None or not getattr(reporter, "showheader", True):
            return
        lines, key = header.lines, "configfile: "
        collection.check_paths([line.removeprefix(key) for line in lines if line.startswith(key)])
        here = not collection.is_elsewhere
        lines = [
            f"rootdir: {self._config.rootpath}"
            if here and line.startswith("rootdir: ") and "," not in line
            else self._places.text(line)
            for line in lines
        ]
        reporters.write_header(reporter, session, lines)

    def call(self, call: wire.TerminalCall) -> None:
        """Repeat a call by which a plugin in the job wrote to the terminal."""
        target, method = call.target, call.method
        reporter = self._terminal
        owner = reporter if target == "tr" else terminal_writer(reporter)
        if method in _ALLOWED.get(target, ()) and hasattr(owner, method):
            with self.unseen(is_unseen=bool(call.unseen)):
                getattr(owner, method)(*map(self._places.all, call.args), **call.kwargs)

    @contextmanager
    def unseen(self, *, is_unseen: bool) -> Iterator[None]:
        """Hide output that a test's capture swallowed in the job: it is part of the captured output."""
        if not is_unseen:
            yield
            return
        with discarded_output(terminal_writer(self._terminal)):
            yield
