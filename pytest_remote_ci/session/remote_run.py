"""One run of a pipeline: submitted, followed as text or event by event, and cancelled if the developer leaves."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from pytest_remote_ci.client.delta import WorkspaceUpload
from pytest_remote_ci.client.runs import Runs, submission
from pytest_remote_ci.errors import ClientError, SubmissionRefused
from pytest_remote_ci.session.remote import Remote
from pytest_remote_ci.terminal.display import Display, trouble_words
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.wire.answers import Plan, Run, RunJob
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.events import Event
from pytest_remote_ci.wire.protocol import SubmitOptions

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.updates import Updates
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.client.multipart import Progress
    from pytest_remote_ci.terminal.run_view import RunView
    from pytest_remote_ci.workspace.collect import Workspace

#: Seconds between two requests for a run's state while events change only output and counts.
_INTERVAL: Final = 0.5
#: Events that are frequent and change no state.
_FREQUENT: Final = ("log", "report", "started")


class RemoteRun(Remote):
    """Submits a run of `plan`, or joins `run`. Raises `ConfigError` if secrets of the plan are not set locally.

    `see` is called with every event, and returns the one that `events` yields.
    """

    def __init__(
        self,
        client: Client,
        display: Display,
        interrupts: Interrupts,
        plan: Plan | None = None,
        options: SubmitOptions | None = None,
        *,
        keep_going: bool = False,
        timeout: float | None = None,
        run: Run | None = None,
        see: Callable[[Event], Event] = lambda event: event,
    ) -> None:
        super().__init__(client, display, interrupts)
        self.client = client
        self.runs = Runs(client)
        self._request = ""
        self._strict_options = [] if options is None else options.strict()
        if plan is not None and options is not None:
            self._request = submission(plan, options, keep_going=keep_going, timeout=timeout)
        self._see = see
        self._last_seq = 0
        self._run = run
        #: What was sent; None for a run of another process.
        self._workspace: Workspace | None = None
        #: Id of a job that has ended → its last event.
        self.ends: dict[str, Event] = {}

    @property
    def remote_id(self) -> str | None:
        """The run's id; None until the runner has answered."""
        return None if self._run is None else self._run.run_id

    @property
    def title(self) -> str:
        """Name, number and id."""
        return f"Run {self._name}: {self.remote_id}"

    @property
    def receipt(self) -> str:
        """Id, name and number."""
        return f"Run submitted: {self.remote_id} ({self._name})"

    @property
    def state(self) -> Run:
        """The run as it was when it was last asked for."""
        assert self._run is not None
        return self._run

    def summary(self) -> Run:
        """Return the state last fetched."""
        return self.state

    @property
    def _name(self) -> str:
        return self.state.title

    @property
    def _strict(self) -> list[str]:
        return self._strict_options

    def _send(self, parcel: WorkspaceUpload, key: str, progress: Progress) -> str:
        self._workspace = parcel.workspace
        self._run = self.runs.send(parcel, self._request, key, progress)
        return self._run.run_id

    def events(self) -> Iterator[Event]:
        """Yield the events after the last one seen, up to `run_complete`. A further call continues where it stopped."""
        run_id = self.state.run_id
        stream = self.runs.stream(run_id, after=self._last_seq, view="all", on_trouble=self._note_trouble)
        for event in stream:
            self._last_seq = stream.last_seq
            self.is_away = False
            self._note_end(event)
            yield self._see(event)

    def _note_end(self, event: Event) -> None:
        if event.type == "complete":
            self.ends[event.job_id] = event

    def bring_changes(self, updates_of: Callable[[RunJob], Updates]) -> None:
        """Bring what the jobs did to files of the project to their places, as far as it was asked for; name the rest.

        `updates_of` returns what comes home from a job of the run. Of a repeated job, only the last attempt counts.
        """
        changed = {job_id for job_id, end in self.ends.items() if end.has_changes}
        jobs = [job for job in self.state.jobs if job.job_id in changed]
        if not jobs:
            return
        from pytest_remote_ci.artifacts import run_changes

        sent = None
        if self._workspace is not None:
            sent = {file.path: file.sha256 for file in self._workspace.files}
        run_changes.bring(
            self.client, jobs, updates_of, sent, self._display.line, self._display.print_message
        )

    def refresh(self) -> None:
        """Fetch the present state."""
        with contextlib.suppress(ClientError):  # the event stream retries and reports errors
            self._run = self.runs.get(self.state.run_id)

    def tail(self, job_id: str) -> tuple[str, ...]:
        """Return the last lines of a job's output; none if the runner cannot be reached."""
        try:
            return self.runs.tail(job_id)
        except ClientError:
            return ()

    def watch(self) -> Run:
        """Show the run until it ends, and return its final state."""
        from pytest_remote_ci.terminal.run_view import RunView

        run, run_id = self.state, self.state.run_id
        view = RunView(sys.stderr)
        asked_at = 0.0
        for event in self.runs.stream(
            run_id, view="all", on_trouble=lambda text, left: self._view_trouble(view, text, left)
        ):
            self.is_away = False
            self._note_end(event)
            kind, clock = event.type, time.monotonic()
            # A terminal also shows the elapsed time and the counts.
            due = clock - asked_at > _INTERVAL if kind in _FREQUENT else kind != "run_complete"
            if due and (kind not in _FREQUENT or view.is_terminal):
                asked_at = clock
                run = self.runs.get(run_id)
            view.show(run, hurried=kind in _FREQUENT)
        self._run = run = self.runs.get(run_id)
        view.show(run)
        view.keep()
        return run

    def _note_trouble(self, text: str, left: float | None) -> None:
        self.is_away = left is not None
        self._display.trouble(text, left)

    def _view_trouble(self, view: RunView, text: str, left: float | None) -> None:
        self.is_away = left is not None
        view.print_message(trouble_words(text, left))

    def _leave_running(self) -> None:
        self._display.print_message(
            f"Run {self._name} continues on the runner; show it with: "
            f"remote-ci pipeline status {self.remote_id} --watch"
        )

    def cancel(self) -> None:
        """Cancel the run and show it to its end; an interrupt ends the waiting."""
        run_id = self.remote_id
        if run_id is None:
            return
        if self.is_away:
            self._leave_running()
            return
        self._display.print_message("Cancelling the run … (press Ctrl-C again to leave at once)")
        try:
            self.runs.cancel(run_id)
            self.watch()
            self._display.print_message("Run cancelled by user.")
        except KeyboardInterrupt:
            self._display.print_message(
                escaped(f"Not waiting for its end; see: remote-ci pipeline status {run_id}")
            )
        except ClientError as error:
            self._display.print_message(f"remote-ci: {error}")

    def ask_to_stop(self) -> bool:
        """Cancel the run; return whether its last events are still expected."""
        if self.is_away:
            self._leave_running()
            return False
        self._display.print_message(f"Cancelling run {self._name} … (press Ctrl-C again to leave at once)")
        try:
            self.runs.cancel(self.state.run_id)
        except SubmissionRefused:
            pass  # it is over
        except ClientError as error:
            self._display.print_message(f"remote-ci: {error}")
            return False
        return True

    def abandon(self) -> None:
        """Cancel silently and without waiting: the result would not be shown."""
        run_id = self.remote_id
        if run_id is not None:
            with contextlib.suppress(ClientError):
                self.runs.cancel(run_id)
