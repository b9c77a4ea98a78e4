"""The plugin that replaces the local collection and test loop by a run of a pipeline.

It does for a run what `replay.plugin` does for one job: the rest of the session is pytest's, so progress, reporters,
caches and the summary are its own. The differences: results of several jobs arrive at the same time, jobs begin while
the loop runs, and the exit code is the run's verdict.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from pytest_remote_ci import exit_codes
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.replay import running_test
from pytest_remote_ci.replay.handover import is_watched, switch_off
from pytest_remote_ci.replay.last_failed import note_failures
from pytest_remote_ci.replay.run_player import RunPlayer
from pytest_remote_ci.terminal.run_view import state_of, tail_heading, verdict

if TYPE_CHECKING:
    from pytest_remote_ci.client.runs import Run, Runs
    from pytest_remote_ci.replay.run_job import RunJob


class RemoteRunPlugin:
    """The replay of one run, registered for one session in `pytest_cmdline_main`."""

    def __init__(
        self,
        player: RunPlayer,
        runs: Runs,
        fetch_artifacts: Callable[[Run, list[str]], None],
        resources: ExitStack,
    ) -> None:
        """`fetch_artifacts` fetches the files of these jobs (ids); `resources` are closed at the end."""
        self._player = player
        self._runs = runs
        self._bring_home = fetch_artifacts
        self._resources = resources
        self._session: Any = None
        #: Number of failures after which the run is cancelled; 0: no limit.
        self._maxfail = 0
        self._failures = 0
        self._is_interrupted = False
        #: Whether the loop was left before the run's end: pytest's own exit code counts then.
        self._has_ended_here = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Switch off locally what the jobs do; failures are counted locally, over all jobs."""
        self._maxfail = int(getattr(config.option, "maxfail", 0) or 0)
        switch_off(config)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, None, None]:
        """Start the player, which writes the header."""
        self._session = session
        yield
        self._player.with_protocol = is_watched(session.config)
        self._player.start(session)
        self._player.running_line = running_test.watch(session.config, self._player.events, is_alone=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Play collections up to the first test; other jobs add theirs later."""
        session.items = []
        try:
            self._player.play_until_tests()
        except KeyboardInterrupt:
            self._interrupted()
            raise
        session.config.hook.pytest_collection_finish(session=session)
        return True

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Replace the local test loop by the run."""
        try:
            self._player.play_until(lambda: bool(session.shouldfail or session.shouldstop))
        except KeyboardInterrupt:
            self._interrupted()
            raise
        except BaseException:  # a local plugin failed: nothing more can be reported
            self._has_ended_here = True
            self._player.stop(mute=True)
            raise
        if session.shouldfail or session.shouldstop:
            self._has_ended_here = True
            self._player.stop(mute=True)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        self._player.lines.end_of_tests()
        return True

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        """Play one test; only called if another plugin watches this hook."""
        job = self._player.job_of(item.nodeid)
        if job is not None and job.player is not None:
            job.player.play_test(item.nodeid)
        return True

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, nodeid: str) -> None:
        """Pass on warnings of local plugins, to compare them with the recorded ones."""
        job = self._player.job_of(nodeid)
        if job is not None and job.player is not None:
            job.player.note_warning(warning_message, nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """Return the status that remote plugins gave the report; mark allowed failures."""
        job = self._player.job_of(report.nodeid)
        if job is None or job.player is None:
            return None
        found = job.player.reports.status(report)
        if found is not None or not job.is_allowed or not report.failed:
            return found
        category, letter = ("failed", "F") if report.when == "call" else ("error", "E")
        return category, letter, (f"{category.upper()} (allowed)", {"yellow": True})

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a failed test."""
        if report.failed and not hasattr(report, "wasxfail"):
            self._count_failure(self._player.job_of(report.nodeid))

    @pytest.hookimpl(trylast=True)
    def pytest_collectreport(self, report: Any) -> None:
        """Count a failed collector."""
        if report.failed:
            self._count_failure(self._player.job_of(report.nodeid))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Play what the jobs' plugins write into the summary, then show how the jobs ended."""
        player = self._player
        for job in player.jobs.values():
            job.tell_the_end(lambda label: terminalreporter.write_sep("-", label))
        overview = player.lines.overview(player.run)
        remarks = [f"{job.label}: {line}" for job in player.jobs.values() for line in job.remarks()]
        tails = list(self._tails())
        if player.lost is not None:
            remarks.append(str(player.lost))
        if not (overview or remarks or tails):
            return
        terminalreporter.write_sep("=", "remote-ci", yellow=True)
        for line in [*overview, *remarks]:
            player.lines.write(line)
        for heading, tail in tails:
            terminalreporter.write_sep("_", heading)
            for line in tail:
                player.lines.write_log(line)
        if player.run["end_time"] is not None:
            player.lines.write(verdict(player.run))

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Wait for the run's end; its verdict becomes the exit code."""
        player = self._player
        try:
            player.play_until()
            if player.lost is None:
                player.look()
        except KeyboardInterrupt:
            self._leave()
        session.testscollected = len(session.items)
        note_failures(
            session.config, self._plain, [nodeid for job in player.jobs.values() for nodeid in job.reported]
        )
        yield
        if self._is_interrupted:
            session.exitstatus = exit_codes.INTERRUPTED
        elif not self._has_ended_here and session.exitstatus not in (
            pytest.ExitCode.INTERNAL_ERROR,
            pytest.ExitCode.USAGE_ERROR,
        ):
            session.exitstatus = player.exit_code

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Fetch the jobs' files; then close the connection."""
        player = self._player
        with self._resources:
            if self._session is None:  # a local plugin rejected the configuration
                player.stop(mute=True)
                return
            if player.left and player.lost is None:
                try:
                    self._bring_home(player.run, player.left)
                except KeyboardInterrupt:
                    self._session.exitstatus = pytest.ExitCode.INTERRUPTED

    def _count_failure(self, job: RunJob | None) -> None:
        if job is None:
            return
        job.failures += 1
        if job.is_allowed:
            return
        self._failures += 1
        if self._maxfail and self._failures >= self._maxfail and not self._session.shouldfail:
            self._session.shouldfail = f"stopping after {self._failures} failures"

    def _plain(self, nodeid: str) -> str | None:
        job = self._player.job_of(nodeid)
        return None if job is None else job.labelling.plain(nodeid)

    def _tails(self) -> Generator[tuple[str, tuple[str, ...]], None, None]:
        """Yield heading and last log lines of each failed job without a failed test."""
        run = self._player.run
        if self._player.lost is not None:
            return
        for planned in run["jobs"]:
            job = self._player.jobs.get(str(planned["job_id"]))
            if planned["job_id"] is None or state_of(planned) not in ("failed", "allowed"):
                continue
            if job is not None and job.failures:
                continue
            try:
                tail = self._runs.tail(str(planned["job_id"]))
            except ClientError:
                continue
            if tail:
                yield tail_heading(run, planned), tail

    def _interrupted(self) -> None:
        """Cancel on Ctrl-C, and play what the jobs still report."""
        self._is_interrupted = True
        try:
            if self._player.stop():
                self._player.play_until()
            else:
                self._leave()
        except KeyboardInterrupt:
            self._leave()

    def _leave(self) -> None:
        """Stop waiting for events."""
        self._is_interrupted = True
        self._player.events.close()
