"""One job of this process: submitted, followed to its end, and cancelled if the developer leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_remote_ci.client.delta import WorkspaceUpload
from pytest_remote_ci.errors import ClientError, StillRunning, SubmissionRefused
from pytest_remote_ci.session.remote import Remote
from pytest_remote_ci.terminal import phase_times
from pytest_remote_ci.terminal.display import Display
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.wire.events import Event
from pytest_remote_ci.wire.protocol import SubmitOptions
from pytest_remote_ci.wire.timing import CLIENT_PHASES, Stopwatch

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.artifact_folder import ArtifactFolder
    from pytest_remote_ci.artifacts.destinations import Reports
    from pytest_remote_ci.artifacts.fetch import ArtifactFetcher
    from pytest_remote_ci.artifacts.updates import Updates
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.client.multipart import Progress
    from pytest_remote_ci.wire.answers import Job
    from pytest_remote_ci.workspace.collect import Workspace

#: All events: output and changes of state.
_VIEW = "all"
#: Seconds to wait for the end of a cancelled job.
_CANCEL_TIME = 60.0


class RemoteJob(Remote):
    """Submits a job with `options` and `secrets`, or joins `job_id`.

    `see` is called with every event before it is shown, and returns the event to show. `clock` has measured the phases
    before the submission.
    """

    def __init__(
        self,
        client: Client,
        display: Display,
        interrupts: Interrupts,
        see: Callable[[Event], Event] = lambda event: event,
        job_id: str | None = None,
        options: SubmitOptions | None = None,
        secrets: Mapping[str, str] = MappingProxyType({}),
        clock: Stopwatch | None = None,
    ) -> None:
        super().__init__(client, display, interrupts)
        self._options = options
        self._secrets = secrets
        self._clock = clock
        self._see = see
        self._last_seq = 0
        self._again: list[Event] = []
        #: Known from the runner's answer on.
        self.job_id = job_id
        self._folder: Callable[[str], ArtifactFolder] | None = None
        self._reports: Reports | None = None
        self._asked: tuple[str, ...] | None = None
        self._updates: Callable[[], Updates] | None = None
        #: What was sent; None for a job of another process.
        self._workspace: Workspace | None = None
        self._are_changes_shown = False
        self._fetcher: ArtifactFetcher | None = None

    @property
    def remote_id(self) -> str | None:
        """The job's id; None until the runner has answered."""
        return self.job_id

    @property
    def title(self) -> str:
        """The id."""
        return f"Job ID: {self.job_id}"

    @property
    def receipt(self) -> str:
        """The id."""
        return f"Job submitted: {self.job_id}"

    def summary(self) -> Job:
        """Return the job's present state."""
        assert self.job_id is not None
        return self._client.job(self.job_id)

    @property
    def _strict(self) -> list[str]:
        found = [] if self._options is None else self._options.strict()
        return [*found, "secrets"] if self._secrets else found

    def _send(self, parcel: WorkspaceUpload, key: str, progress: Progress) -> str:
        assert self._options is not None
        self._workspace = parcel.workspace
        options = self._options
        if self._clock is not None:
            self._clock.lap("pack")
            phases = {name: round(self._clock.phases.get(name, 0.0), 4) for name in CLIENT_PHASES}
            options = replace(options, timing=phases)
        self.job_id = self._client.submit(
            parcel.archive,
            options,
            manifest=parcel.manifest,
            progress=progress,
            idempotency_key=key,
            secrets=self._secrets,
        )
        if self._clock is not None:
            self._clock.lap("upload")
        return self.job_id

    def require_finished(self) -> None:
        """Raise `StillRunning` if the job has not ended."""
        assert self.job_id is not None
        status = self._client.job(self.job_id).status
        if status in ("queued", "running"):
            raise StillRunning(
                f"job {self.job_id} is {status}: show it with: pytest --remote-ci-attach {self.job_id}"
            )

    def finish(self, *, from_beginning: bool = True) -> Event:
        """Show the job up to its end, and fetch its files; return the `complete` event."""
        complete = self.follow(from_beginning=from_beginning)
        self.fetch_artifacts(complete)
        return complete

    def follow(self, *, from_beginning: bool = True, time_limit: float | None = None) -> Event:
        """Show the job up to its end; return the `complete` event."""
        for event in self.events(from_beginning=from_beginning, time_limit=time_limit):
            self._display.show(event)
            if event.type == "complete":
                return event
        raise AssertionError("a stream ends with `complete` or an error")

    def events(self, *, from_beginning: bool = True, time_limit: float | None = None) -> Iterator[Event]:
        """Yield the events after the last one seen, up to `complete`. A further call continues where it stopped."""
        assert self.job_id is not None
        again, self._again = self._again, []
        yield from again
        if again and again[-1].type == "complete":
            return
        view: str | None = _VIEW
        while True:
            stream = self._client.stream(
                self.job_id,
                from_beginning=from_beginning,
                after=self._last_seq,
                view=view,
                time_limit=time_limit,
                on_trouble=self._note_trouble,
            )
            try:
                for event in stream:
                    self._last_seq = stream.last_seq
                    self.is_away = False
                    yield self._see(event)
                return
            except SubmissionRefused:
                if view is None or self._last_seq:
                    raise
                view = None  # the runner does not know this view

    def _note_trouble(self, text: str, left: float | None) -> None:
        self.is_away = left is not None
        self._display.trouble(text, left)

    def _leave_running(self) -> None:
        self._display.print_message(
            f"Job {self.job_id} continues on the runner; show it with: pytest --remote-ci-attach {self.job_id}"
        )

    def push_back(self, events: Iterable[Event]) -> None:
        """Let `events` yield these once more, before new ones."""
        self._again = list(events)

    def keep(
        self,
        folder: Callable[[str], ArtifactFolder],
        reports: Reports | None = None,
        asked: tuple[str, ...] | None = None,
        updates: Callable[[], Updates] | None = None,
    ) -> None:
        """Set where the job's files are fetched to: `reports` to their places, others to the `folder` of its id.

        `asked` are patterns for the other files; None: all of them. `updates` returns which changes of the project's
        files are brought to their places; it is called only if there are any, because it imports much.
        """
        self._folder, self._reports, self._asked, self._updates = folder, reports, asked, updates

    @property
    def has_local_reports(self) -> bool:
        """Whether files of the job are to replace locally written reports."""
        return self._reports is not None and bool(self._reports.last)

    def fetch_artifacts(
        self,
        complete: Event | None,
        *,
        is_early: bool = False,
        is_whole: bool = True,
        has_died: bool = False,
    ) -> None:
        """Fetch the job's files, once, if `keep` was called; `complete` is its last event, None if not over.

        `is_early`: without files that replace reports still to be written locally; for the others see
        `ArtifactFetcher.fetch`.
        """
        if self.job_id is None or complete is None:
            return
        if self._clock is not None:
            self._clock.skip()
        if complete.has_artifacts:
            self._fetch_requested(
                self.job_id, complete, is_early=is_early, is_whole=is_whole, has_died=has_died
            )
        if complete.has_changes and not is_early and not self._are_changes_shown:
            self._are_changes_shown = True
            self._bring_changes(self.job_id)
        if self._clock is not None and (complete.has_artifacts or complete.has_changes):
            self._clock.lap("fetch")

    def print_timing(self, complete: Event | None, *, verbosity: int = 0) -> None:
        """Print one line about what was not there yet; with `verbosity`, about the time of all phases.

        Nothing about a job that was submitted earlier, or if the runner measured nothing.
        """
        timing = None if complete is None else complete.timing
        if timing is None or self._clock is None or verbosity < 0:
            return
        text = phase_times.line(timing.with_phases(self._clock.phases), is_verbose=verbosity > 0)
        if text is not None:
            self._display.print_message(f"remote-ci: {text}")

    def _bring_changes(self, job_id: str) -> None:
        """Bring changes of the project's files to their places, as far as they were asked for; name the others."""
        if self._updates is None:
            self._display.print_message(
                f"The tests changed files of the project; list them with: remote-ci pull {job_id} --dry-run"
            )
            return
        sent = None
        if self._workspace is not None:
            sent = {file.path: file.sha256 for file in self._workspace.files}
        try:
            self._updates().bring(self._client, job_id, sent, self._display.line, self._display.print_message)
        except (ClientError, OSError) as error:
            from pytest_remote_ci.artifacts.fetch import reason

            self._display.print_message(
                f"remote-ci: files of the project that the tests changed were not fetched: {reason(error)}; "
                f"try again: remote-ci pull {job_id}"
            )

    def _fetch_requested(
        self, job_id: str, complete: Event, *, is_early: bool, is_whole: bool, has_died: bool
    ) -> None:
        if self._folder is None:
            self._display.print_message(
                f"The job has artifacts; fetch them with: remote-ci artifacts {job_id}"
            )
            return
        if self._fetcher is None:
            from pytest_remote_ci.artifacts.fetch import ArtifactFetcher

            self._fetcher = ArtifactFetcher(
                self._client,
                job_id,
                self._folder(job_id),
                self._display.line,
                self._display.print_message,
                self._reports,
                self._asked,
            )
        self._fetcher.fetch(complete, is_early=is_early, is_whole=is_whole, has_died=has_died)

    def cancel(self) -> None:
        """Cancel the job and wait for its end; an interrupt ends the waiting."""
        if self.job_id is None:
            return
        if self.is_away:
            self._leave_running()
            return
        display = self._display
        display.print_message(f"Cancelling job {self.job_id} … (press Ctrl-C again to leave at once)")
        try:
            if not self._client.cancel(self.job_id):
                display.print_message(f"Job {self.job_id} had already ended.")
                return
            complete = self.follow(time_limit=_CANCEL_TIME)
            self.fetch_artifacts(complete)
            if complete.is_cancelled:
                display.print_message(f"Job {self.job_id} was cancelled.")
        except KeyboardInterrupt:
            display.print_message(f"Not waiting for the end of job {self.job_id}.")
        except ClientError as error:
            display.print_message(f"remote-ci: {error}")

    def ask_to_stop(self) -> bool:
        """Cancel the job; return whether its last events are still expected."""
        assert self.job_id is not None
        if self.is_away:
            self._leave_running()
            return False
        self._display.print_message(f"Cancelling job {self.job_id} … (press Ctrl-C again to leave at once)")
        try:
            self._client.cancel(self.job_id)
        except ClientError as error:
            self._display.print_message(f"remote-ci: {error}")
            return False
        return True

    def abandon(self) -> None:
        """Cancel silently and without waiting: the result would not be shown."""
        if self.job_id is not None:
            with contextlib.suppress(ClientError):
                self._client.cancel(self.job_id)
