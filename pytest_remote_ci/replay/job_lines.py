"""What becomes of the jobs of a run, in lines between and after the results of tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

import pytest

from pytest_remote_ci.terminal.ansi import clean
from pytest_remote_ci.terminal.run_view import Run, block, state_of, words
from pytest_remote_ci.wire.control_characters import escaped

#: States that are news in themselves.
_ENDS: Final = ("passed", "failed", "allowed", "cancelled")
#: What the reporter calls a line of results to which nothing is added any more.
_ENDED: Final = -2
#: Columns of a progress.
_ROOM: Final = len(" [100%] ")
#: Jobs of a stage that the header names.
_MOST: Final = 12


class RunLines:
    """Writes through pytest's terminal reporter, so that lines and results keep apart."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        #: Name of a job → its state that was told last.
        self._told: dict[str, str] = {}
        self._are_mixed = False

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    @property
    def _verbosity(self) -> int:
        return int(getattr(self._config.option, "verbose", 0))

    def write(self, line: str) -> None:
        """A line of its own."""
        reporter = self._reporter
        if hasattr(reporter, "write_line"):
            self._end_results(reporter)
            reporter.write_line(escaped(line))

    def write_log(self, line: str) -> None:
        """A line that a job has written, with its colours."""
        reporter = self._reporter
        if hasattr(reporter, "write_line"):
            self._end_results(reporter)
            reporter.write_line(clean(line))

    def say(self, line: str) -> None:
        """The same, unless the session is to be quiet."""
        if self._verbosity >= 0:
            self.write(line)

    def header(self, run: Run) -> None:
        """Which run this is, and of what it consists."""
        reporter = self._reporter
        if not getattr(reporter, "showheader", True):
            return
        self.write(f"pipeline: {run['pipeline']} #{run['number']} (run {run['run_id']})")
        self.write(f"rootdir: {self._config.rootpath}")
        for stage in run["stages"]:
            names = [
                job["name"] for job in run["jobs"] if job["stage"] == stage and state_of(job) != "skipped"
            ]
            more = len(names) - _MOST
            if names:
                rest = f" and {more} more" if more > 0 else ""
                self.write(f"stage {stage}: {', '.join(names[:_MOST])}{rest}")

    def tell(self, run: Run) -> None:
        """One line for each job whose state changed."""
        now = datetime.now(timezone.utc)
        for job in run["jobs"]:
            state, name = state_of(job), str(job["name"])
            if state == self._told.get(name, "waiting") or not self._is_news(job, state):
                continue
            self._told[name] = state
            self.say(f"{job['stage']} / {name}: {state if state == 'running' else words(job, now)}")

    def mix(self, *, are_several: bool) -> None:
        """Whether results of several jobs come by turns: then letters stand alone, or each would need a line."""
        reporter = self._reporter
        if are_several != self._are_mixed and hasattr(reporter, "showfspath"):
            self._are_mixed = are_several
            self._end_results(reporter)
            reporter.ensure_newline()
            reporter.showfspath = False if are_several else None

    def end_of_tests(self) -> None:
        """pytest writes the progress behind the last results: not where a line of ours has come since."""
        reporter = self._reporter
        if hasattr(reporter, "_show_progress_info") and not self._width(reporter):
            reporter._show_progress_info = False

    def _end_results(self, reporter: Any) -> None:
        """A line of results that ends here gets its progress, as if another file came."""
        width = self._width(reporter)
        if not width or reporter.currentfspath == _ENDED:
            return
        fill = getattr(reporter, "_write_progress_information_filling_space", None)
        has_room = width + _ROOM < reporter._tw.fullwidth  # else it is there
        if fill is not None and has_room and getattr(reporter, "_show_progress_info", False):
            fill()
        reporter.currentfspath = _ENDED

    @staticmethod
    def _width(reporter: Any) -> int:
        """Columns that are written in the current line."""
        return int(getattr(getattr(reporter, "_tw", None), "width_of_current_line", 0))

    def _is_news(self, job: Mapping[str, Any], state: str) -> bool:
        if state in _ENDS:
            return True
        is_under_way = state == "running" and job["phase"] == "testing"
        return is_under_way and (job["kind"] == "script" or self._verbosity > 0)

    def overview(self, run: Run) -> list[str]:
        """All stages and jobs; for a quiet session only what did not pass."""
        lines = block(run, datetime.now(timezone.utc))
        if self._verbosity >= 0:
            return [line for _, line in lines]
        return [line.strip() for state, line in lines if state in ("failed", "allowed", "cancelled")]
