"""Play a run of a pipeline, or of one suite in several jobs, as one session.

The jobs begin and end while the local tests run, so `PipelinePlayer` assigns each event to its job and knows only the
points of the run. `pytest_remote_ci.replay.player` has what it shares with the session of a single job.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_remote_ci import exit_codes
from pytest_remote_ci.replay import running_test
from pytest_remote_ci.replay.event_source import EventSource
from pytest_remote_ci.replay.job import PipelineJob
from pytest_remote_ci.replay.multi_job.comparison import Comparison
from pytest_remote_ci.replay.multi_job.labels import labels_of
from pytest_remote_ci.replay.multi_job.last_failed import forget_failures, note_failures
from pytest_remote_ci.replay.player import Player, never
from pytest_remote_ci.replay.pytest_internals import (
    add_junit_error,
    give_up_results,
    is_watched,
    junit_cases,
    junit_xml,
    remove_junit_cases,
    switch_off,
)
from pytest_remote_ci.replay.running_test import RunningLine
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.terminal.output import END_OF_GROUP, group_line, is_grouping
from pytest_remote_ci.terminal.run_view import state_of, tail_heading, verdict
from pytest_remote_ci.wire import records as wire
from pytest_remote_ci.wire.answers import PlannedJob, RunJob
from pytest_remote_ci.wire.events import Event
from pytest_remote_ci.wire.formats import parse_time

if TYPE_CHECKING:
    from pytest_remote_ci.session.remote_run import RemoteRun


#: Category of results, in pytest's summary, of attempts of jobs that were repeated.
GIVEN_UP = "given up"


class PipelinePlayer(Player):
    """Plays a run of a pipeline: results of several jobs arrive at the same time."""

    def __init__(
        self,
        config: pytest.Config,
        remote: RemoteRun,
        plan: Mapping[str, PlannedJob],
        places: Mapping[str, Place],
        fetch_files: Callable[[list[str]], None],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """`plan`: planned name → job; `places`: the same → the submitted project and the job's folder in it.

        `fetch_files` fetches the artifacts of these jobs (ids), and what the jobs did to files of the project.
        `labels`: planned name → label of its node ids (default: the name).
        """
        super().__init__(config, EventSource(remote.events, last="run_complete"))
        self._remote = remote
        self._plan = plan
        self._places = places
        self._fetch_files = fetch_files
        self._labels = labels or labels_of(job.name for job in remote.state.jobs)
        #: Whether it is the run of a pipeline, not of a plain session with several Pythons or retries.
        self._is_pipeline = labels is None
        #: Tests whose outcomes differ between jobs, for a session of one suite in several jobs.
        self._comparison = Comparison(self.label_of) if labels is not None and len(labels) > 1 else None
        #: Job id → attempt, in the order of their first events; label → attempt.
        self._jobs: dict[str, PipelineJob] = {}
        self._by_label: dict[str, PipelineJob] = {}
        self._with_protocol = False
        #: Shows the name of the running test, if the terminal allows it.
        self._running_line: RunningLine | None = None
        #: Whether this session cancelled the run; whether nothing more is reported about it.
        self._is_stopped = self._is_mute = False
        #: Whether the loop was left before the run's end: pytest's own exit code counts then.
        self._has_ended_locally = False
        #: Ids of jobs that have artifacts.
        self._with_artifacts: list[str] = []
        self._index_jobs()

    def _index_jobs(self) -> None:
        #: Name of a job → its row in the run.
        self._planned = {job.name: job for job in self._remote.state.jobs}

    @property
    def collects_first(self) -> bool:
        """See `Player`: jobs collect at different times, each with its own line."""
        return True

    @property
    def knows_interrupt(self) -> bool:
        """See `Player`."""
        return self._has_ended_locally

    def job_of(self, nodeid: str) -> PipelineJob | None:
        """See `Player`."""
        job = self._by_label.get(nodeid.partition("/")[0]) or self._by_label.get("")
        return job if job is not None and job.has_started else None

    def label_of(self, nodeid: str) -> tuple[str, str] | None:
        """Return the planned name of a test's job and its node id there; None if it has none."""
        job = self.job_of(nodeid)
        plain = None if job is None else job.labelling.plain(nodeid)
        return None if job is None or plain is None or job.is_given_up else (job.name, plain)

    def configure(self) -> None:
        """See `Player`; failures are counted locally, over all jobs."""
        maxfail = int(getattr(self._config.option, "maxfail", 0) or 0)
        self._config.pluginmanager.register(_FailureCount(self, maxfail), "remote-ci-failures")
        if self._comparison is not None:
            self._config.pluginmanager.register(self._comparison, "remote-ci-comparison")
        switch_off(self._config)

    def begin(self) -> None:
        """See `Player`."""
        self._with_protocol = is_watched(self._config)
        self._lines.header(self._remote.state)
        self._running_line = running_test.watch(self._config, self.events, is_alone=True)

    def play_collection(self) -> bool:
        """Play collections up to the first test; other jobs add theirs later."""
        while (event := self._next()) is not None:
            if event.kind == wire.Started.kind:
                self.events.hold([event])
                break
            self._handle(event)
        return True

    def play_until(self, *points: str, stop: Callable[[], bool] = never) -> None:
        """See `Player`."""
        while not stop() and (event := self._next()) is not None:
            self._handle(event)

    def raise_outcome(self) -> None:
        """See `Player`: the exit code is the run's verdict."""
        self._lines.end_of_tests()

    def cancel(self) -> bool:
        """See `Player`."""
        if self._is_stopped or self.events.complete is not None or self.events.lost is not None:
            return False
        self._is_stopped = True
        for job in self._jobs.values():
            job.is_stopped_locally = True
        return self._remote.ask_to_stop()

    def mute(self, why: str) -> None:
        """See `Player`."""
        self._is_mute = True

    def end_locally(self) -> None:
        """See `Player`."""
        self.fail("stopped here")

    def fail(self, why: str) -> None:
        """See `Player`."""
        self._has_ended_locally = True
        super().fail(why)

    def play_tests_end(self) -> None:
        """Play up to the run's end, which is its verdict."""
        self.play_until()
        if self.events.lost is None:
            self._refresh()

    def prepare_reports(self) -> None:
        """See `Player`."""
        self._session.testscollected = len(self._session.items)
        kept = [job for job in self._jobs.values() if not job.is_given_up]
        given_up = {nodeid for job in self._jobs.values() if job.is_given_up for nodeid in job.reported_nodes}
        reported = [nodeid for job in kept for nodeid in job.reported_nodes]
        forget_failures(self._config, given_up - set(reported))
        note_failures(self._config, self._plain, reported)
        self._report_jobs_without_results()

    def _report_jobs_without_results(self) -> None:
        """Add an error to the JUnit file for each job that did not pass and whose tests do not show it."""
        run = self._remote.state
        if junit_xml(self._config) is None or self.events.lost is not None:
            return
        for planned in run.jobs:
            state, job = state_of(planned), self._jobs.get(planned.job_id or "")
            if state not in ("failed", "cancelled") or planned.allow_failure:
                continue
            if planned.status == "completed" and job is not None and job.failures:
                continue
            why = planned.reason or f"exit code {planned.exit_code}"
            tail = self._remote.tail(planned.job_id) if planned.job_id is not None else ()
            began, ended = map(parse_time, (planned.start_time, planned.end_time))
            seconds = (ended - began).total_seconds() if began is not None and ended is not None else 0.0
            address = f"{run.pipeline}/{planned.stage}::{planned.name}"
            add_junit_error(self._config, address, why, "\n".join([why, *tail]), max(0.0, seconds))

    def write_summary(self, reporter: pytest.TerminalReporter) -> None:
        """Play what the jobs' plugins write into the summary, then show how the jobs ended."""
        for job in self._jobs.values():
            job.play_the_end(lambda label: reporter.write_sep("-", label))
        run, lost = self._remote.state, self.events.lost
        overview = self._lines.overview(run)
        remarks = [
            f"{job.label or job.name}: {line}" for job in self._jobs.values() for line in job.remarks()
        ]
        if self._comparison is not None:
            remarks += self._comparison.lines()
        tails = list(self._tails())
        if lost is not None:
            remarks.append(str(lost))
        if not (overview or remarks or tails):
            return
        reporter.write_sep("=", "remote-ci", yellow=True)
        for line in [*overview, *remarks]:
            self._lines.write(line)
        for heading, tail in tails:
            if is_grouping():
                self._lines.write(group_line(heading))
            else:
                reporter.write_sep("_", heading)
            for line in tail:
                self._lines.write_log(line)
            if is_grouping():
                self._lines.write(END_OF_GROUP)
        if run.is_over:
            self._lines.write(verdict(run))

    def set_exit_status(self) -> None:
        """Use the run's verdict."""
        session, lost = self._session, self.events.lost
        if self.is_interrupted:
            session.exitstatus = exit_codes.INTERRUPTED
        elif not self._has_ended_locally and session.exitstatus not in (
            pytest.ExitCode.INTERNAL_ERROR,
            pytest.ExitCode.USAGE_ERROR,
        ):
            session.exitstatus = self._code_of_run() if lost is None else exit_codes.of_lost(lost.exit_code)

    def _code_of_run(self) -> int:
        return (exit_codes.of_run if self._is_pipeline else exit_codes.worst_of)(self._remote.state)

    def finish(self) -> None:
        """Fetch the jobs' files."""
        if self.events.lost is None:
            self._fetch_files(self._with_artifacts)

    def _plain(self, nodeid: str) -> str | None:
        job = self.job_of(nodeid)
        return None if job is None else job.labelling.plain(nodeid)

    def _tails(self) -> Generator[tuple[str, tuple[str, ...]], None, None]:
        """Yield heading and last log lines of each failed job without a failed test."""
        run = self._remote.state
        if self.events.lost is not None:
            return
        for planned in run.jobs:
            if planned.job_id is None or state_of(planned) not in ("failed", "allowed"):
                continue
            job = self._jobs.get(planned.job_id)
            if job is not None and job.failures:
                continue
            tail = self._remote.tail(planned.job_id)
            if tail:
                yield tail_heading(run, planned), tail

    def _refresh(self) -> None:
        """Fetch and report the present state of the run."""
        self._remote.refresh()
        self._index_jobs()
        if not self._is_mute:
            self._lines.show_states(self._remote.state)

    def _next(self) -> Event | None:
        event = self.events.pull()
        if event is None and self.events.lost is not None:
            for job in self._jobs.values():
                job.lose(str(self.events.lost))
        return event

    def _handle(self, event: Event) -> None:
        kind = event.type
        if kind in ("run_job", "run_complete"):
            self._refresh()
            self._count()
            return
        planned = self._planned.get(event.job)
        if planned is None:
            return
        if planned.is_pytest and not self._is_mute:
            self._play(self._attempt(planned, event), event)
        elif self._running_line is not None and kind in ("state", "complete"):
            name = f"{planned.stage} / {planned.name}"
            if kind == "complete":
                self._running_line.pytest_runtest_logfinish(name)
            elif event.phase == "testing":
                self._running_line.pytest_runtest_logstart(name)
        if kind == "complete":
            self._mix()
        if kind == "complete" and event.has_artifacts:
            self._with_artifacts.append(event.job_id)
        if kind == "complete" or event.phase == "testing":
            self._refresh()
            self._count()

    def _attempt(self, planned: RunJob, event: Event) -> PipelineJob:
        job_id = event.job_id
        if job_id not in self._jobs:
            before = [job for job in self._jobs.values() if job.name == planned.name]
            label = self._labels[planned.name]
            if before:
                label = f"{label} (try {len(before) + 1})" if label else f"try {len(before) + 1}"
                job_id_before = next(key for key, found in self._jobs.items() if found is before[-1])
                self._give_up(before[-1], job_id_before, label)
            job = PipelineJob(self._session, planned, label, self._places[planned.name])
            job.is_stopped_locally, job.with_protocol = self._is_stopped, self._with_protocol
            self._jobs[job_id] = self._by_label[label] = job
        return self._jobs[job_id]

    def _give_up(self, job: PipelineJob, job_id: str, successor: str) -> None:
        """Take the results of an attempt that is repeated out of the session's result; they stay visible."""
        failures = job.give_up(successor, job_id)
        give_up_results(self._config, job.reported_nodes, GIVEN_UP)
        remove_junit_cases(self._config, job.junit_cases)
        self._session.testsfailed -= min(failures, int(self._session.testsfailed))
        why = "" if job.complete is None else job.complete.reason or f"exit code {job.complete.exit_code}"
        self._lines.write(f"{job.label or job.name}: given up: {why}; trying again as {successor}")

    def may_be_repeated(self, job: PipelineJob) -> bool:
        """Whether a failure that was just reported for the job may not be final.

        Failed tests are repeated if their exit code is among those for retries, and all other failures, which end the
        job, if the runner is at fault.
        """
        planned = self._plan.get(job.name)
        tries = sum(other.name == job.name for other in self._jobs.values())
        if planned is None or tries > planned.retries.count:
            return False
        if job.complete is None:
            return int(pytest.ExitCode.TESTS_FAILED) in planned.retries.exit_codes
        return job.complete.status == "failed"

    def _play(self, job: PipelineJob, event: Event) -> None:
        cases = junit_cases(self._config)
        before = len(cases)
        try:
            self._play_at_once(job, event)
        finally:
            job.junit_cases += cases[before:]

    def _play_at_once(self, job: PipelineJob, event: Event) -> None:
        if event.kind == wire.Started.kind and self._running_line is not None:
            self._running_line.pytest_runtest_logstart(job.labelling.nodeid(event.nodeid or ""))
        reporter: pytest.TerminalReporter | None = self._config.pluginmanager.get_plugin("terminalreporter")
        if job.is_collected or reporter is None or not hasattr(reporter, "report_collect"):
            job.handle(event)
            return
        vars(reporter)["report_collect"] = lambda final=False: None  # it would overwrite lines of other jobs
        try:
            job.handle(event)
        finally:
            del vars(reporter)["report_collect"]
        self._show_collected(job)

    def _show_collected(self, job: PipelineJob) -> None:
        if not job.is_collected:
            return
        self._mix()
        self._count()
        items = f"{job.tests} item{'' if job.tests == 1 else 's'}"
        self._lines.write_message(f"{job.label or job.name}: collected {items}")

    def _mix(self) -> None:
        under_way = sum(job.is_collected and job.complete is None for job in self._jobs.values())
        self._lines.mix(are_several=under_way > 1)

    def _count(self) -> None:
        """Update the number of tests for the progress: each job not yet collected has at least one."""
        collected = {job.name for job in self._jobs.values() if job.is_collected or job.complete is not None}
        awaited = [
            job
            for job in self._remote.state.jobs
            if job.is_pytest
            and job.name not in collected
            and not job.is_skipped
            and job.status in ("queued", "running")
        ]
        self._session.testscollected = len(self._session.items) + len(awaited)


class _FailureCount:
    """A plugin that counts failures over all jobs of a pipeline, and ends the session after `maxfail`."""

    _session: pytest.Session

    def __init__(self, player: PipelinePlayer, maxfail: int) -> None:
        """`maxfail` 0: no limit."""
        self._player = player
        self._maxfail = maxfail
        self._failures = 0

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Store the local session."""
        self._session = session

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a failed test."""
        if report.failed and not hasattr(report, "wasxfail"):
            self._count(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a failed collector."""
        if report.failed:
            self._count(report.nodeid)

    def _count(self, nodeid: str) -> None:
        job = self._player.job_of(nodeid)
        if job is None:
            return
        job.failures += 1
        if job.is_allowed or self._player.may_be_repeated(job):
            return
        self._failures += 1
        if self._maxfail and self._failures >= self._maxfail and not self._session.shouldfail:
            self._session.shouldfail = f"stopping after {self._failures} failures"
