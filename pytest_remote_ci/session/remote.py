"""What this process has on a runner: sent with the project, followed to its end, cancelled if the developer leaves.

An interrupt leaves nothing behind at any point: before the last byte of the upload there is nothing on the runner;
after it, the answer is awaited, and what was submitted is cancelled.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pytest_remote_ci.client.delta import WorkspaceUpload, deliver
from pytest_remote_ci.errors import SubmissionRefused
from pytest_remote_ci.terminal.display import Display
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.status_line import Bar
from pytest_remote_ci.wire import limits

#: Options that are no setting of that name.
_STRICT_WORDS: Final = {"project_folder": "dependencies beside the project"}

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.client.multipart import Progress
    from pytest_remote_ci.wire.answers import Answer
    from pytest_remote_ci.workspace.collect import Workspace


class Remote(ABC):
    """A job or a run. It is submitted once, or exists already."""

    def __init__(self, client: Client, display: Display, interrupts: Interrupts) -> None:
        self._client = client
        self._display = display
        self._interrupts = interrupts
        #: Whether the runner stays away, so that an interrupt leaves everything running.
        self.is_away = False

    @property
    @abstractmethod
    def remote_id(self) -> str | None:
        """The id; None until the runner has answered."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is and its id, for a line before it is followed."""

    @property
    @abstractmethod
    def receipt(self) -> str:
        """What was submitted and its id, as a command's result."""

    @abstractmethod
    def summary(self) -> Answer:
        """Return its present state, as the runner describes it."""

    def submit(self, workspace: Workspace, *, again: Callable[[], Workspace]) -> None:
        """Submit it with the missing files of the workspace; `again` collects the workspace again."""
        key = uuid.uuid4().hex
        deliver(
            self._client,
            workspace,
            lambda parcel: self._upload(parcel, key),
            again=again,
            progress=Bar(self._display.line, "packing"),
        )

    def _upload(self, parcel: WorkspaceUpload, key: str) -> str:
        """Submit once; after its last byte an interrupt waits until the id is known."""
        self._display.line.clear()
        progress = self._interrupts.held_after(Bar(self._display.line, "uploading"))
        try:
            return self._send(parcel, key, progress)
        except SubmissionRefused as error:
            raise self._explained(error) from error
        finally:
            self._display.line.clear()
            self._interrupts.release()

    def _explained(self, error: SubmissionRefused) -> SubmissionRefused:
        """Return the error; of a runner that does not know an option, with the option's name and what to do."""
        if not self._strict or "options.protocol: " not in str(error):
            return error
        names = ", ".join(_STRICT_WORDS.get(name, limits.key(name)) for name in self._strict)
        found = SubmissionRefused(
            f"the runner at {self._client.url} is too old for {names}: update it, or remove the setting"
        )
        found.status = error.status
        return found

    @property
    @abstractmethod
    def _strict(self) -> list[str]:
        """The options that are set and that the runner must know."""

    @abstractmethod
    def _send(self, parcel: WorkspaceUpload, key: str, progress: Progress) -> str:
        """Send the request with this idempotency key; store the id and return it."""

    @abstractmethod
    def cancel(self) -> None:
        """Cancel it and wait for its end; an interrupt ends the waiting."""

    @abstractmethod
    def abandon(self) -> None:
        """Cancel it silently and without waiting: the result would not be shown."""
