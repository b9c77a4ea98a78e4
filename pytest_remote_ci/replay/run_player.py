"""Play a run of a pipeline as one session: assign events to jobs and keep the state of the run.

It pulls events only while a hook of `replay.run_plugin` waits; the events of each job are played by its `RunJob`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_remote_ci import exit_codes
from pytest_remote_ci.errors import ClientError, SubmissionRefused
from pytest_remote_ci.replay.events import Event, parts_of
from pytest_remote_ci.replay.job_lines import RunLines
from pytest_remote_ci.replay.labels import labels_of
from pytest_remote_ci.replay.run_events import RunEvents
from pytest_remote_ci.replay.run_job import RunJob
from pytest_remote_ci.replay.running_test import RunningLine
from pytest_remote_ci.session.arguments import Place

if TYPE_CHECKING:
    from pytest_remote_ci.client.runs import Run, Runs
    from pytest_remote_ci.terminal.display import Display


class RunPlayer:
    """Plays one run; owned by one `RemoteRunPlugin`."""

    def __init__(
        self, config: pytest.Config, runs: Runs, run: Run, places: Mapping[str, Place], display: Display
    ) -> None:
        """`run` as it was submitted; `places`: planned name → the submitted project and the job's folder in it."""
        self._config = config
        self._runs = runs
        self._places = places
        self._display = display
        self._labels = labels_of(str(job["name"]) for job in run["jobs"])
        self._session: Any = None
        self.events = RunEvents(runs, str(run["run_id"]), self._see, display.trouble)
        self.lines = RunLines(config)
        self._see_run(run)
        #: Job id → attempt, in the order of their first events; label → attempt.
        self.jobs: dict[str, RunJob] = {}
        self._by_label: dict[str, RunJob] = {}
        self.with_protocol = False
        #: Shows the name of the running test, if the terminal allows it.
        self.running_line: RunningLine | None = None
        #: Whether this session cancelled the run; whether nothing more is reported about it.
        self._is_stopped = self._is_mute = False
        #: Whether the end of the run has been received.
        self.is_over = False
        #: Ids of jobs that have artifacts.
        self.left: list[str] = []
        self.lost: ClientError | None = None

    def start(self, session: pytest.Session) -> None:
        """Store the new local session, and write the header."""
        self._session = session
        self.lines.header(self.run)

    def job_of(self, nodeid: str) -> RunJob | None:
        """Return the attempt to which this test belongs."""
        return self._by_label.get(nodeid.partition("/")[0])

    def play_until_tests(self) -> None:
        """Play events up to the first test."""
        while (event := self._next()) is not None:
            if any(part.get("t") == "started" for part in parts_of(event)):
                self.events.hold(event)
                return
            self._take(event)

    def play_until(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Play events to the end of the run, or until `stop` returns True."""
        while not stop() and (event := self._next()) is not None:
            self._take(event)

    def stop(self, *, mute: bool = False) -> bool:
        """Cancel the run; return whether its last events are still expected. `mute`: report nothing of them."""
        if self.is_over or self.lost is not None:
            return False
        self._is_stopped, self._is_mute = True, mute
        for job in self.jobs.values():
            job.is_stopped_here = True
        what = f"{self.run['pipeline']}#{self.run['number']}"
        self._display.say(f"Cancelling run {what} … (press Ctrl-C again to leave at once)")
        try:
            self._runs.cancel(str(self.run["run_id"]))
        except SubmissionRefused:
            pass  # it is over
        except ClientError as error:
            self._display.say(f"remote-ci: {error}")
            return False
        return True

    def look(self) -> None:
        """Fetch and report the present state of the run."""
        with suppress(ClientError):  # the event stream retries and reports errors
            self._see_run(self._runs.get(str(self.run["run_id"])))
        if not self._is_mute:
            self.lines.tell(self.run)

    @property
    def exit_code(self) -> int:
        """The exit code of the run in its present state."""
        if self.lost is not None:
            return exit_codes.of_lost(self.lost.exit_code)
        return exit_codes.of_run(self.run)

    def _see_run(self, run: Run) -> None:
        #: The state last fetched; its jobs by name.
        self.run: Run = run
        self._planned = {str(job["name"]): job for job in run["jobs"]}

    def _see(self, event: Event) -> None:
        self._config.hook.pytest_remote_ci_event(config=self._config, event=dict(event))

    def _next(self) -> Event | None:
        if self.lost is not None:
            return None
        try:
            event = self.events.next()
        except ClientError as error:
            self.lost = error
            for job in self.jobs.values():
                job.lose(str(error))
            return None
        if event is None:
            self.is_over = True
        return event

    def _take(self, event: Event) -> None:
        kind = event.get("type")
        if kind in ("run_job", "run_complete"):
            self.look()
            self._count()
            return
        planned = self._planned.get(str(event.get("job")))
        if planned is None:
            return
        if planned["kind"] == "pytest" and not self._is_mute:
            self._play(self._job(planned, event), event)
        elif self.running_line is not None and kind in ("state", "complete"):
            name = f"{planned['stage']} / {planned['name']}"
            if kind == "complete":
                self.running_line.pytest_runtest_logfinish(name)
            elif event.get("phase") == "testing":
                self.running_line.pytest_runtest_logstart(name)
        if kind == "complete":
            self._mix()
        if kind == "complete" and event.get("artifacts"):
            self.left.append(str(event["job_id"]))
        if kind == "complete" or event.get("phase") == "testing":
            self.look()
            self._count()

    def _job(self, planned: Mapping[str, Any], event: Event) -> RunJob:
        job_id = str(event["job_id"])
        if job_id not in self.jobs:
            before = sum(job.name == planned["name"] for job in self.jobs.values())
            label = self._labels[str(planned["name"])] + (f" (try {before + 1})" if before else "")
            job = RunJob(self._session, planned, label, self._places[str(planned["name"])])
            job.is_stopped_here = self._is_stopped
            self.jobs[job_id] = self._by_label[label] = job
        return self.jobs[job_id]

    def _play(self, job: RunJob, event: Event) -> None:
        for part in parts_of(event):
            if part.get("t") == "started" and self.running_line is not None:
                self.running_line.pytest_runtest_logstart(job.labelling.nodeid(str(part.get("id"))))
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if job.is_collected or not hasattr(reporter, "report_collect"):
            job.take(event, with_protocol=self.with_protocol)
            return
        reporter.report_collect = lambda final=False: None  # it would overwrite the lines of other jobs
        try:
            job.take(event, with_protocol=self.with_protocol)
        finally:
            del reporter.report_collect
        self._tell_collected(job)

    def _tell_collected(self, job: RunJob) -> None:
        if not job.is_collected:
            return
        self._mix()
        self._count()
        items = f"{job.tests} item{'' if job.tests == 1 else 's'}"
        self.lines.say(f"{job.label}: collected {items}")

    def _mix(self) -> None:
        under_way = sum(job.is_collected and job.complete is None for job in self.jobs.values())
        self.lines.mix(are_several=under_way > 1)

    def _count(self) -> None:
        """Update the number of tests for the progress: each job not yet collected has at least one."""
        collected = {job.name for job in self.jobs.values() if job.is_collected or job.complete is not None}
        awaited = [
            job
            for job in self.run["jobs"]
            if job["kind"] == "pytest"
            and job["name"] not in collected
            and not job["skipped"]
            and job["status"] in ("queued", "running")
        ]
        self._session.testscollected = len(self._session.items) + len(awaited)
