"""One run of a pipeline: its state as last fetched, its events, its cancellation and its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_remote_ci.errors import ClientError, SubmissionRefused

if TYPE_CHECKING:
    from pytest_remote_ci.client.runs import Run, Runs
    from pytest_remote_ci.terminal.display import Display


class RemoteRun:
    """Follows one submitted run. `see` is called with every event before it is shown."""

    def __init__(
        self,
        runs: Runs,
        run: Run,
        display: Display,
        see: Callable[[dict[str, Any]], None],
        fetch: Callable[[Run, list[str]], None],
    ) -> None:
        """`run` as it was submitted; `fetch` fetches the files of these jobs (ids)."""
        self._runs = runs
        self._display = display
        self._see = see
        self._fetch = fetch
        self._last_seq = 0
        #: The state last fetched.
        self.state = run
        self.run_id = str(run["run_id"])

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events after the last one seen, up to `run_complete`. A further call continues where it stopped."""
        stream = self._runs.stream(
            self.run_id, after=self._last_seq, view="all", on_trouble=self._display.trouble
        )
        for event in stream:
            self._last_seq = stream.last_seq
            self._see(event)
            yield event

    def refresh(self) -> None:
        """Fetch the present state."""
        with suppress(ClientError):  # the event stream retries and reports errors
            self.state = self._runs.get(self.run_id)

    def ask_to_stop(self) -> bool:
        """Cancel the run; return whether its last events are still expected."""
        what = f"{self.state['pipeline']}#{self.state['number']}"
        self._display.say(f"Cancelling run {what} … (press Ctrl-C again to leave at once)")
        try:
            self._runs.cancel(self.run_id)
        except SubmissionRefused:
            pass  # it is over
        except ClientError as error:
            self._display.say(f"remote-ci: {error}")
            return False
        return True

    def tail(self, job_id: str) -> tuple[str, ...]:
        """Return the last lines of a job's output; none if the runner cannot be reached."""
        try:
            return self._runs.tail(job_id)
        except ClientError:
            return ()

    def fetch_artifacts(self, job_ids: list[str]) -> None:
        """Fetch the files of these jobs."""
        self._fetch(self.state, job_ids)
