"""Sending of a workspace: either only the contents that the runner lacks, with a manifest, or the whole project.

The runner stores contents by their digest, so after the first submission only changed files are sent. A small project
is sent whole, because asking the runner would take longer. So is any project if the runner does not support
manifests.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from pytest_remote_ci.errors import SubmissionRefused
from pytest_remote_ci.workspace.collect import Workspace, WorkspaceChanged

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.client.multipart import Progress
    from pytest_remote_ci.wire.protocol import Manifest

#: A project with at most this many files and at most this many bytes in all is sent whole.
SMALL_FILES: Final = 64
SMALL_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class WorkspaceUpload:
    """The parts of one submission. The archive is an open temporary file."""

    #: All files or, with a manifest, the contents that the runner lacks; None if it lacks none.
    archive: IO[bytes] | None
    manifest: Manifest | None = None
    #: What is sent.
    workspace: Workspace | None = None


def deliver(
    client: Client,
    workspace: Workspace,
    send: Callable[[WorkspaceUpload], str],
    *,
    again: Callable[[], Workspace],
    progress: Progress | None = None,
) -> str:
    """Pack what the runner lacks, pass it to `send`, and return the result of `send`.

    `again` collects the project again; it is called once, if a file changed while being packed. `progress` is called
    while packing. Raises what `send` and the client raise, and `WorkspaceChanged` if files keep changing.
    """
    collected_again = asked_again = False
    lacking = _lacking(client, workspace)
    while True:
        try:
            with _packed(workspace, lacking, progress) as parcel:
                return send(parcel)
        except WorkspaceChanged:
            if collected_again:
                raise
            collected_again = True
            workspace = again()
            lacking = _lacking(client, workspace)
        except SubmissionRefused as error:
            # The runner may have deleted contents since it was asked for the missing ones.
            if lacking is None or asked_again or error.status != 422:
                raise
            asked_again = True
            before, lacking = lacking, _lacking(client, workspace)
            if lacking is None or set(lacking) <= set(before):
                raise


def _lacking(client: Client, workspace: Workspace) -> list[str] | None:
    """Return the digests that must be sent, or None if the whole project is to be sent."""
    is_small = len(workspace.sent) <= SMALL_FILES and workspace.size <= SMALL_BYTES
    if is_small and not workspace.needs_manifest:
        return None
    return client.missing(workspace.digests())


@contextlib.contextmanager
def _packed(
    workspace: Workspace, lacking: list[str] | None, progress: Progress | None
) -> Iterator[WorkspaceUpload]:
    """Yield the parcel. Its zip is an unnamed temporary file, which disappears even if this process is killed."""
    if lacking is not None and not lacking:
        yield WorkspaceUpload(None, workspace.manifest(), workspace)
        return
    with tempfile.TemporaryFile(prefix="remote-ci-") as archive:
        if lacking is None:
            workspace.write_zip(archive, progress)
            yield WorkspaceUpload(archive, None, workspace)
        else:
            workspace.write_blobs(lacking, archive, progress)
            yield WorkspaceUpload(archive, workspace.manifest(), workspace)
