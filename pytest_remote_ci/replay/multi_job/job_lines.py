"""Lines about the jobs of a run, between and after the results of tests."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Final

import pytest

from pytest_remote_ci.replay.pytest_internals import fill_with_progress, hide_progress, terminal_writer
from pytest_remote_ci.terminal.ansi import clean
from pytest_remote_ci.terminal.run_view import block, state_of, words
from pytest_remote_ci.wire.answers import Run, RunJob
from pytest_remote_ci.wire.control_characters import escaped

#: States that are always reported.
_ENDS: Final = ("passed", "failed", "allowed", "cancelled")
#: The reporter's value of `currentfspath` for a finished line of results.
_ENDED: Final = -2
#: Columns of the progress.
_ROOM: Final = len(" [100%] ")
#: Limit for the number of jobs of a stage that the header lists.
_MOST: Final = 12


class JobLines:
    """Writes through pytest's terminal reporter, so that lines and results do not mix."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        #: Name of a job → its state last reported.
        self._printed: dict[str, str] = {}
        self._are_mixed = False

    @property
    def _reporter(self) -> pytest.TerminalReporter | None:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    @property
    def _verbosity(self) -> int:
        return int(getattr(self._config.option, "verbose", 0))

    def write(self, line: str) -> None:
        """Write a separate line."""
        reporter = self._reporter
        if reporter is not None:
            self._end_results(reporter)
            reporter.write_line(escaped(line))

    def write_log(self, line: str) -> None:
        """Write a line from a job's log, with its colours."""
        reporter = self._reporter
        if reporter is not None:
            self._end_results(reporter)
            reporter.write_line(clean(line))

    def write_message(self, line: str) -> None:
        """Write a separate line, unless the session is quiet."""
        if self._verbosity >= 0:
            self.write(line)

    def header(self, run: Run) -> None:
        """Write which run this is, with its stages and jobs."""
        reporter = self._reporter
        if not getattr(reporter, "showheader", True):
            return
        self.write(f"pipeline: {run.pipeline} #{run.number} (run {run.run_id})")
        self.write(f"rootdir: {self._config.rootpath}")
        for stage in run.stages:
            names = [job.name for job in run.jobs if job.stage == stage and state_of(job) != "skipped"]
            more = len(names) - _MOST
            if names:
                rest = f" and {more} more" if more > 0 else ""
                self.write(f"stage {stage}: {', '.join(names[:_MOST])}{rest}")

    def show_states(self, run: Run) -> None:
        """Write one line for each job with a changed state."""
        now = datetime.now(timezone.utc)
        for job in run.jobs:
            state, name = state_of(job), job.name
            if state == self._printed.get(name, "waiting") or not self._is_news(job, state):
                continue
            self._printed[name] = state
            self.write_message(f"{job.stage} / {name}: {state if state == 'running' else words(job, now)}")

    def mix(self, *, are_several: bool) -> None:
        """Choose how results are shown: without file names if results of several jobs alternate.

        With file names, each result would need a line then.
        """
        reporter = self._reporter
        if reporter is not None and are_several != self._are_mixed:
            self._are_mixed = are_several
            self._end_results(reporter)
            reporter.ensure_newline()
            reporter.showfspath = False if are_several else None

    def end_of_tests(self) -> None:
        """Suppress the final progress if another line was written since the last results."""
        reporter = self._reporter
        if not self._width(reporter):
            hide_progress(reporter)

    def _end_results(self, reporter: pytest.TerminalReporter) -> None:
        """End a line of results with its progress, as pytest does when the next file begins."""
        width = self._width(reporter)
        if not width or reporter.currentfspath == _ENDED:
            return
        writer = terminal_writer(reporter)
        if writer is not None and width + _ROOM < writer.fullwidth:  # otherwise it is already shown
            fill_with_progress(reporter)
        reporter.currentfspath = _ENDED

    @staticmethod
    def _width(reporter: pytest.TerminalReporter | None) -> int:
        """Return the number of columns written in the current line."""
        return int(getattr(terminal_writer(reporter), "width_of_current_line", 0))

    def _is_news(self, job: RunJob, state: str) -> bool:
        if state in _ENDS:
            return True
        is_under_way = state == "running" and job.phase == "testing"
        return is_under_way and (not job.is_pytest or self._verbosity > 0)

    def overview(self, run: Run) -> list[str]:
        """Return lines for all stages and jobs; in a quiet session only for those that did not pass."""
        lines = block(run, datetime.now(timezone.utc))
        if self._verbosity >= 0:
            return [line for _, line in lines]
        return [line.strip() for state, line in lines if state in ("failed", "allowed", "cancelled")]
