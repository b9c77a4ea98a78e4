"""One run of a pipeline of this process: submitted, shown as text, cancelled if the developer leaves."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pytest_remote_ci.client.delta import WorkspaceUpload
from pytest_remote_ci.client.runs import Run, Runs, submission
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.session.remote import Remote
from pytest_remote_ci.terminal.display import Display
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.protocol import SubmitOptions

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.client.multipart import Progress

#: Seconds between two requests for a run's state while events change only output and counts.
_INTERVAL: Final = 0.5
#: Events that are frequent and change no state.
_FREQUENT: Final = ("log", "report", "started")


class SubmittedRun(Remote):
    """Submits a run of `plan`, or joins `run`. Raises `ConfigError` if secrets of the plan are not set locally."""

    def __init__(
        self,
        client: Client,
        display: Display,
        interrupts: Interrupts,
        plan: Mapping[str, Any] | None = None,
        options: SubmitOptions | None = None,
        *,
        keep_going: bool = False,
        timeout: float | None = None,
        run: Run | None = None,
    ) -> None:
        super().__init__(client, display, interrupts)
        self.client = client
        self.runs = Runs(client)
        self._request = ""
        if plan is not None and options is not None:
            self._request = submission(plan, options, keep_going=keep_going, timeout=timeout)
        #: As it was when it was last asked for; None until the runner has answered.
        self.run = run

    @property
    def remote_id(self) -> str | None:
        """The run's id; None until the runner has answered."""
        return None if self.run is None else str(self.run["run_id"])

    @property
    def title(self) -> str:
        """Name, number and id."""
        return f"Run {self._name}: {self.remote_id}"

    @property
    def receipt(self) -> str:
        """Id, name and number."""
        return f"Run submitted: {self.remote_id} ({self._name})"

    def state(self) -> Run:
        """Return the run as it was when it was last asked for."""
        assert self.run is not None
        return self.run

    @property
    def _name(self) -> str:
        assert self.run is not None
        return f"{self.run['pipeline']}#{self.run['number']}"

    def _send(self, parcel: WorkspaceUpload, key: str, progress: Progress) -> str:
        self.run = self.runs.send(parcel, self._request, key, progress)
        return str(self.run["run_id"])

    def watch(self) -> Run:
        """Show the run until it ends, and return its final state."""
        from pytest_remote_ci.terminal.run_view import RunView

        run, run_id = self.run, self.remote_id
        assert run is not None
        assert run_id is not None
        view = RunView(sys.stderr)
        asked_at = 0.0
        for event in self.runs.stream(
            run_id, view="all", on_trouble=lambda text: view.say(f"{text}; reconnecting …")
        ):
            kind, clock = event.get("type"), time.monotonic()
            # A terminal also shows the elapsed time and the counts.
            due = clock - asked_at > _INTERVAL if kind in _FREQUENT else kind != "run_complete"
            if due and (kind not in _FREQUENT or view.is_terminal):
                asked_at = clock
                run = self.runs.get(run_id)
            view.show(run, hurried=kind in _FREQUENT)
        self.run = self.runs.get(run_id)
        view.show(self.run)
        view.keep()
        return self.run

    def cancel(self) -> None:
        """Cancel the run and show it to its end; an interrupt ends the waiting."""
        run_id = self.remote_id
        if run_id is None:
            return
        self._display.say("Cancelling the run … (press Ctrl-C again to leave at once)")
        try:
            self.runs.cancel(run_id)
            self.watch()
            self._display.say("Run cancelled by user.")
        except KeyboardInterrupt:
            self._display.say(escaped(f"Not waiting for its end; see: remote-ci pipeline status {run_id}"))
        except ClientError as error:
            self._display.say(f"remote-ci: {error}")

    def abandon(self) -> None:
        """Cancel silently and without waiting: the result would not be shown."""
        run_id = self.remote_id
        if run_id is not None:
            with contextlib.suppress(ClientError):
                self.runs.cancel(run_id)
