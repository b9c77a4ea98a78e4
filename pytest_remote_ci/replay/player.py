"""Play a run as one session: pull its events, let its jobs play them, and end the local session as the run ended.

A single job is a run with one job and no label. Its session and the local one go through the same phases:
`JobPlayer` plays up to the same point of both. `multi_job.pipeline_player` has the player of several jobs. Events are
pulled only while a hook of `replay.plugin` waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from pytest_remote_ci import exit_codes
from pytest_remote_ci.errors import ClientError, NoVerdict
from pytest_remote_ci.replay import plugin_diff, running_test
from pytest_remote_ci.replay.event_source import EventSource
from pytest_remote_ci.replay.job import Job
from pytest_remote_ci.replay.multi_job.job_lines import JobLines
from pytest_remote_ci.replay.pytest_internals import (
    backdate,
    is_heard,
    is_watched,
    switch_off,
    terminal_file,
    terminal_writer,
)
from pytest_remote_ci.replay.selection import Choice
from pytest_remote_ci.terminal.ansi import is_terminal
from pytest_remote_ci.terminal.display import Display, exit_code
from pytest_remote_ci.wire import records as wire

if TYPE_CHECKING:
    from pytest_remote_ci.session.remote_job import RemoteJob

#: A cache entry that pytest carries from one session to the next and that only the remote pytest can update.
_STEPWISE = "cache/stepwise"
#: Report plugins with hooks by which a project can change the report.
_WITH_HOOKS = {"pytest-html", "pytest-json-report"}
_WITHOUT_HOOKS = (
    "pytest died in the job, so the HTML and JSON reports were written here: they have all results, but "
    "not what hooks of the project add"
)
#: Options that select tests: a replay applies them to the stored results.
_CHOOSING = ("maxfail", "keyword", "markexpr")


def never() -> bool:
    """Return False: do not stop before the points are reached."""
    return False


class Player(ABC):
    """Plays one run; owned by one `RemoteSessionPlugin`, whose hooks call these methods in this order."""

    #: Set by `start`.
    _session: pytest.Session

    def __init__(self, config: pytest.Config, events: EventSource) -> None:
        self._config = config
        self.events = events
        self._lines = JobLines(config)
        #: Whether the developer has interrupted the session.
        self.is_interrupted = False

    @property
    @abstractmethod
    def collects_first(self) -> bool:
        """Whether the collection is played before the terminal reporter writes about it; known after `begin`."""

    @property
    def shows_only_collection(self) -> bool:
        """Whether the tests of a finished session are listed and nothing else."""
        return False

    @property
    @abstractmethod
    def knows_interrupt(self) -> bool:
        """Whether the exception that interrupts the local session is an end of the run that was played."""

    @abstractmethod
    def job_of(self, nodeid: str) -> Job | None:
        """Return the job of a test or collector; None if it has none, or its session has not begun."""

    @abstractmethod
    def configure(self) -> None:
        """Switch off locally what the jobs do."""

    def start(self, session: pytest.Session) -> None:
        """Store the new local session."""
        self._session = session

    @abstractmethod
    def begin(self) -> None:
        """Play the header."""

    @abstractmethod
    def play_collection(self) -> bool:
        """Play up to the first test; return whether the tests are known."""

    def collection_lines(self) -> list[str]:
        """Return the lines that remote plugins add after the collection."""
        return []

    @abstractmethod
    def play_until(self, *points: str, stop: Callable[[], bool] = never) -> None:
        """Play events up to and including the first of these kinds, to the end, or until `stop` returns True.

        No job of a pipeline ends the phases of the others, so a run of a pipeline is played to its end.
        """

    @abstractmethod
    def raise_outcome(self) -> None:
        """Leave the loop of tests as the remote pytest left it."""

    # -- leaving early

    @abstractmethod
    def cancel(self) -> bool:
        """Cancel the run; return whether its last events are still expected."""

    @abstractmethod
    def mute(self, why: str) -> None:
        """Report nothing more of the run."""

    def fail(self, why: str) -> None:
        """Cancel the run, because a local plugin failed: nothing more can be played."""
        self.mute(why)
        self.cancel()

    @abstractmethod
    def end_locally(self) -> None:
        """Cancel the run, because a local plugin or ``--maxfail`` ends the loop of tests."""

    def interrupt(self) -> None:
        """Cancel the run for the developer; its last events are still expected unless the cancellation fails."""
        self.is_interrupted = True
        try:
            if not self.cancel():
                self.leave()
        except KeyboardInterrupt:
            self.leave()

    def leave(self) -> None:
        """Stop waiting for events."""
        self.events.close()

    def abandon(self) -> None:
        """Cancel the run and stop waiting: the session is ending anyway."""
        self.interrupt()
        self.leave()

    # -- the end of the session

    @abstractmethod
    def play_tests_end(self) -> None:
        """Play what comes before the local reports are written."""

    @abstractmethod
    def prepare_reports(self) -> None:
        """Prepare local caches and reports for being written."""

    @abstractmethod
    def write_summary(self, reporter: pytest.TerminalReporter) -> None:
        """Write our own section of the terminal summary."""

    @abstractmethod
    def set_exit_status(self) -> None:
        """Set the exit status of the local session."""

    @abstractmethod
    def finish(self) -> None:
        """Wait for the end, and fetch the files."""


class JobPlayer(Player):
    """Plays a run with one job and no label."""

    def __init__(
        self,
        config: pytest.Config,
        remote: RemoteJob,
        events: EventSource,
        display: Display,
        cancel: Callable[[], bool],
        choice: Choice | None = None,
    ) -> None:
        """`cancel` is called when this session is interrupted; it returns whether the remote session will now end.

        With `choice`, the session is over, and these of its tests are shown.
        """
        super().__init__(config, events)
        #: Whether a finished session is replayed: local plugins must not treat its results as new.
        self.is_replay = choice is not None
        show = display.show if choice is None else lambda event: None  # the runner's messages are outdated
        self._job = Job(config, events, show, choice)
        self._remote = remote
        self._print_message = display.print_message
        if display.line.is_terminal:
            display.line.end_other_line = self._end_line_of_results
        self._cancel = cancel
        self._forced_code: int | None = None
        #: Whether the reason for the missing verdict was shown.
        self._has_reported_reason = False

    @property
    def collects_first(self) -> bool:
        """See `Player`: xdist's lines replace "collecting …"."""
        return self._job.is_distributed

    @property
    def shows_only_collection(self) -> bool:
        """See `Player`."""
        return self.is_replay and bool(self._config.option.collectonly)

    @property
    def knows_interrupt(self) -> bool:
        """See `Player`."""
        return self._job.has(wire.Interrupt)

    def job_of(self, nodeid: str) -> Job:
        """Return the only job."""
        return self._job

    def configure(self) -> None:
        """See `Player`."""
        self._job.no_header = getattr(self._config.option, "no_header", False)
        switch_off(self._config, _CHOOSING if self.is_replay else ())

    def start(self, session: pytest.Session) -> None:
        """See `Player`."""
        super().start(session)
        self._job.start(session)

    def begin(self) -> None:
        """Play up to the start of the collection."""
        job, config = self._job, self._config
        job.with_protocol = is_watched(config)
        self.play_until("collecting")
        if job.is_distributed:
            reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                reporter.showfspath = False
        elif is_heard(config):
            job.with_protocol = True
        running_test.watch(config, self.events)

    def play_collection(self) -> bool:
        """See `Player`."""
        job = self._job
        while job.broken is None and (event := job.next()) is not None:
            if event.kind in (wire.Started.kind, wire.TestsOver.kind):
                self.events.hold([event])
                break
            job.play(event)
            if event.kind == wire.CollectionLines.kind:
                break
        return not job.is_distributed and (job.has_passed("collected") or job.has(wire.Died))

    def collection_lines(self) -> list[str]:
        """See `Player`."""
        return list(self._job.collection.lines)

    def play_until(self, *points: str, stop: Callable[[], bool] = never) -> None:
        """See `Player`."""
        job = self._job
        if job.broken is not None or job.has_passed(*points):
            return
        while (event := job.next()) is not None:
            job.play(event)
            if event.kind in points or stop() or job.broken is not None:
                return

    def raise_outcome(self) -> None:
        """See `Player`; a filtered session decides for itself."""
        job, session = self._job, self._session
        if job.is_filtered and job.has(wire.TestsOver):
            failed = session.testsfailed
            if failed and not session.config.option.continue_on_collection_errors and not job.has_results:
                raise session.Interrupted(f"{failed} error{'s' if failed != 1 else ''} during collection")
            return
        if job.has(wire.Stopped) and not self.is_interrupted:  # not by a test: the job's end has the reason
            job.skip_to_the_end()
            self._raise_lost()
            return
        if job.has(wire.InternalError):
            vars(session.config)["notify_exception"] = lambda excinfo, option=None: None  # already reported
            raise RuntimeError("the remote pytest had an internal error")
        interrupt = job.newest(wire.Interrupt)
        if interrupt is not None:
            _raise_interrupt(session, interrupt, job)
        over = job.newest(wire.TestsOver)
        if over is None:
            self._raise_lost()
            return
        if over.shouldfail:
            session.shouldfail = over.shouldfail
            raise session.Failed(over.shouldfail)
        if over.shouldstop:
            session.shouldstop = over.shouldstop
            raise session.Interrupted(over.shouldstop)
        if job.has(wire.Died):
            self._note_what_did_not_run()

    def _note_what_did_not_run(self) -> None:
        if self._job.not_run:
            self._job.notes_add(f"{self._job.not_run} test(s) were not run")

    def _raise_lost(self) -> None:
        """Report a remote session without an end: fail the tests that were running, and raise the reason."""
        job, session, complete = self._job, self._session, self.events.complete
        code, why = exit_codes.NO_VERDICT, job.broken or "the remote pytest ended"
        if self.events.lost is not None:
            code = exit_codes.of_lost(self.events.lost.exit_code)
        elif complete is not None:
            why = complete.reason or f"the remote pytest exited with code {complete.exit_code}"
            try:
                code = exit_code(complete) or 1
            except NoVerdict as error:
                code, why = error.exit_code, str(error)
        failed = job.fail_running((complete.reason if complete is not None else "") or why)
        died = job.newest(wire.Died)
        self._forced_code = 1 if failed and complete is not None and complete.status == "completed" else code
        self._note_what_did_not_run()
        if died is not None and died.collecting:
            raise session.Interrupted("1 error during collection")
        if not (
            failed or (died is not None and session.testsfailed) or job.is_filtered
        ):  # otherwise the failure and the number of tests not run are shown
            self._has_reported_reason = True
            raise pytest.exit.Exception(why, returncode=code)

    def cancel(self) -> bool:
        """See `Player`."""
        return self._cancel()

    def mute(self, why: str) -> None:
        """See `Player`."""
        self._job.broken = why

    def end_locally(self) -> None:
        """See `Player`; a finished session is not cancelled."""
        self.mute("stopped here")
        if self.is_replay:
            self.events.close()
        else:
            self.interrupt()

    def leave(self) -> None:
        """See `Player`."""
        self.mute("interrupted")
        super().leave()

    def abandon(self) -> None:
        """See `Player`."""
        super().abandon()
        self._forced_code = exit_codes.INTERRUPTED

    def play_tests_end(self) -> None:
        """See `Player`; fetch the coverage data in this phase, where editors look for it."""
        job = self._job
        if self._session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            job.broken = "wrong arguments"  # the arguments of a replay
        self.play_until("summary", "end")
        if job.is_measured and job.broken is None:
            # It becomes available when the job is over, a moment after its tests.
            with suppress(ClientError):  # raised again when the events are played
                self.events.read_ahead()
                self._remote.fetch_artifacts(self.events.complete, is_early=True)

    def prepare_reports(self) -> None:
        """See `Player`."""
        if self.events.is_late:
            first, last = self._job.time_of(wire.Session), self._job.time_of(wire.TestsOver)
            seconds = _seconds_between(first, last)
            if seconds is not None:
                backdate(self._config, seconds)
        cache = getattr(self._config, "cache", None)
        if cache is not None and (self.is_replay or self._job.collection.is_elsewhere):
            cache.set = lambda key, value: None

    def write_summary(self, reporter: pytest.TerminalReporter) -> None:
        """Write the notes of the session."""
        if self._job.notes:
            reporter.write_sep("=", "remote-ci", yellow=True)
            for line in self._job.notes:
                reporter.write_line(line)

    def set_exit_status(self) -> None:
        """Use the remote exit status: remote plugins and conftests may have changed it."""
        job, session = self._job, self._session
        end = job.newest(wire.End)
        if end is not None and job.broken is None and not job.is_filtered:
            session.exitstatus = _status(end.exitstatus)
            cache = getattr(self._config, "cache", None)
            # The key becomes a file name: accept only the one that the recorder knows.
            if cache is not None and end.cache is not None and _STEPWISE in end.cache:
                cache.set(_STEPWISE, end.cache[_STEPWISE])
        elif self._forced_code is not None:
            session.exitstatus = _status(self._forced_code)

    def finish(self) -> None:
        """Wait for the end of the job, which may still send output; apply the runner's verdict."""
        while (event := self._job.next()) is not None:
            if self._job.broken is None:
                self._job.play(event)
        self._fetch_reports()
        self._apply_runner_verdict()
        self._confirm_cancellation()
        self._compare_plugins()
        if not self.is_interrupted:
            self._remote.print_timing(
                self.events.complete, verbosity=getattr(self._config.option, "verbose", 0)
            )

    def _end_line_of_results(self) -> None:
        """End pytest's unfinished line on the terminal, which a line of ours would continue or erase."""
        reporter: pytest.TerminalReporter | None = self._config.pluginmanager.get_plugin("terminalreporter")
        writer = terminal_writer(reporter)
        width = getattr(writer, "width_of_current_line", None)
        if reporter is not None and writer is not None and width and is_terminal(terminal_file(writer)):
            writer.line()
            writer.flush()
            reporter.currentfspath = None

    def _fetch_reports(self) -> None:
        """Fetch the job's reports; they replace the local ones if the job's pytest saw the whole session."""
        job = self._job
        has_died = job.has(wire.Died)
        is_whole = job.has(wire.End) and not has_died and job.broken is None and not job.is_filtered
        self._remote.fetch_artifacts(self.events.complete, is_whole=is_whole, has_died=has_died)
        begun = job.newest(wire.Session)
        there = set((begun.plugins if begun is not None else None) or ())
        if has_died and self._remote.has_local_reports and there & _WITH_HOOKS:
            self._print_message(f"remote-ci: {_WITHOUT_HOOKS}")

    def _apply_runner_verdict(self) -> None:
        """Apply the runner's verdict: pytest's session may have been cut short by a timeout or a cancellation."""
        job, complete = self._job, self.events.complete
        if complete is None or self.is_interrupted or job.is_filtered or job.broken is not None:
            return
        try:
            code, why = exit_code(complete), complete.reason
        except NoVerdict as error:
            self._session.exitstatus = error.exit_code
            if not self._has_reported_reason:
                self._print_message(f"remote-ci: {error}")
            return
        if code and self._session.exitstatus == 0:  # the job failed after its session
            self._session.exitstatus = _status(code)
            self._print_message(f"remote-ci: {why or f'the remote pytest exited with code {code}'}")

    def _confirm_cancellation(self) -> None:
        """Confirm that the cancelled job is over, and not merely asked to end."""
        complete = self.events.complete
        if self.is_interrupted and complete is not None and complete.is_cancelled:
            self._print_message(f"Job {self._remote.job_id} was cancelled.")

    def _compare_plugins(self) -> None:
        begun = self._job.newest(wire.Session)
        plugins = None if begun is None else begun.plugins
        if plugins is None or self.is_replay or self.is_interrupted or self._job.broken is not None:
            return
        failed = int(self._session.exitstatus) not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        line = plugin_diff.remark(
            plugins, failed=failed, is_quiet=getattr(self._config.option, "verbose", 0) < 0
        )
        if line:
            self._print_message(f"remote-ci: {line}")


def _raise_interrupt(session: pytest.Session, record: wire.Interrupt, job: Job) -> None:
    """Raise the exception that ended the remote session, with its remote file and line."""
    name, module, message = record.name, record.module, record.message
    error: BaseException
    if name == "Exit":
        error = pytest.exit.Exception(message, returncode=record.code)
    elif name == "Interrupted" and module == "_pytest.main":
        raise session.Interrupted(message)
    else:
        kind: type[BaseException] = KeyboardInterrupt
        if name != "KeyboardInterrupt":
            kind = type(name, (KeyboardInterrupt,), {"__module__": module})
        error = kind(message) if message else kind()
    if not record.at:
        raise error
    path, line = job.places.place(record.at)
    # pytest shows file and line of the innermost frame: compile one with the remote position.
    # Only this constant text is executed.
    exec(compile("\n" * (line - 1) + "raise error", path, "exec"), {"error": error})  # noqa: S102


def _seconds_between(first: object, last: object) -> float | None:
    """Return the seconds between two ISO timestamps, at least 0.0; None if either is missing or invalid."""
    try:
        start, end = (datetime.fromisoformat(str(text).replace("Z", "+00:00")) for text in (first, last))
    except ValueError:
        return None
    return max(0.0, (end - start).total_seconds())


def _status(code: int) -> int | pytest.ExitCode:
    try:
        return pytest.ExitCode(code)
    except ValueError:
        return code
