"""How a workspace reaches the runner: as a manifest with those contents that the runner lacks, or whole.

The runner keeps contents by their digest, so that after the first time only what changed travels. A small project is
sent whole, because asking would take longer, and so is any project where the runner knows no manifests.
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

#: A project with no more files than this, and no more bytes in all, is sent whole.
SMALL_FILES: Final = 64
SMALL_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Parcel:
    """The parts of one submission; the archive is an open temporary file."""

    #: All files, or with a manifest the contents that the runner lacks; None: it lacks none.
    archive: IO[bytes] | None
    manifest: Manifest | None = None


def deliver(
    client: Client,
    workspace: Workspace,
    send: Callable[[Parcel], str],
    *,
    again: Callable[[], Workspace],
    progress: Progress | None = None,
) -> str:
    """Pack what the runner lacks and `send` it; the result of `send`.

    `again` collects the project anew: called once, when a file changed while it was packed. `progress` is told how far
    the packing is. Raises what `send` and the client raise, and `WorkspaceChanged` when files change all the time.
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
            # What the runner had a moment ago may have been cleared away since.
            if lacking is None or asked_again or error.status != 422:
                raise
            asked_again = True
            before, lacking = lacking, _lacking(client, workspace)
            if lacking is None or set(lacking) <= set(before):
                raise


def _lacking(client: Client, workspace: Workspace) -> list[str] | None:
    """The digests that must be sent; None: the whole project is sent."""
    is_small = len(workspace.files) <= SMALL_FILES and workspace.size <= SMALL_BYTES
    if is_small and not workspace.mtimes:  # which only a manifest can tell
        return None
    return client.missing(workspace.digests())


@contextlib.contextmanager
def _packed(workspace: Workspace, lacking: list[str] | None, progress: Progress | None) -> Iterator[Parcel]:
    """The parcel; its zip is in a nameless temporary file, which not even a killed process leaves behind."""
    if lacking is not None and not lacking:
        yield Parcel(None, workspace.manifest())
        return
    with tempfile.TemporaryFile(prefix="remote-ci-") as archive:
        if lacking is None:
            workspace.write_zip(archive, progress)
            yield Parcel(archive)
        else:
            workspace.write_blobs(lacking, archive, progress)
            yield Parcel(archive, workspace.manifest())
