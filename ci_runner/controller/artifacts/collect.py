"""`ArtifactCollector`: collects a job's files as artifacts, between the worker's exit and the job's end.

The order makes a kill at any moment safe: contents become durable first, rows come with the job's end in one
transaction, the files themselves are deleted afterwards. A job found without its end is simply collected again.
Errors here never change a verdict: they are reported in the job's log.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ci_runner import failpoints
from ci_runner.controller.artifacts import scan
from ci_runner.controller.artifacts.quota import Quota
from ci_runner.controller.artifacts.scan import Leftover
from ci_runner.errors import PermanentError
from ci_runner.model.job import Artifact, Job, JobEvent, utcnow
from ci_runner.model.verdict import Verdict
from ci_runner.settings.groups import ReconcileSettings
from ci_runner.storage.blobs import Batch, BlobStore
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.globs import Globs

_log = logging.getLogger(__name__)

_FOUND = failpoints.register("controller.artifacts.found", "files to store are found, none is read")
_STORED = failpoints.register("controller.artifacts.stored", "contents are durable, the job has not ended")

_PIECE: Final = 1 << 16


@dataclass(frozen=True)
class JobOutput:
    """The location of an attempt's files."""

    #: The container's changes to the workspace; links in it must not be followed.
    folder: Path
    #: Path of that workspace for the tests.
    root: str
    #: Reads path → digest of the submitted files, which are never artifacts, wherever they are.
    sent: Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class CollectedArtifacts:
    """The collected artifacts of a job."""

    artifacts: tuple[Artifact, ...] = ()
    #: Reasons for files that were not stored, for the job's log.
    notes: tuple[str, ...] = ()
    root: str = ""

    def events(self) -> list[JobEvent]:
        """Return the notes as log of the runner."""
        text = "".join(f"artifacts: {note}\n" for note in self.notes)
        return [JobEvent("log", text, fields={"stream": "runner"})] if text else []

    def fields(self) -> dict[str, object]:
        """Return fields about them for the `complete` event."""
        if not self.artifacts:
            return {}
        size = sum(item.size for item in self.artifacts)
        return {"artifacts": {"files": len(self.artifacts), "bytes": size, "root": self.root}}


@dataclass(frozen=True)
class Limits:
    """Limits for the artifacts of one job."""

    #: Bytes of one file; then bytes and number of all.
    file: int = 512 << 20
    total: int = 1 << 30
    files: int = 10_000
    #: Bytes that must stay free on the disk.
    reserve: int = 0

    @classmethod
    def of(cls, settings: ReconcileSettings, reserve: int) -> Limits:
        """Return the operator's limits."""
        return cls(settings.max_artifact, settings.max_artifacts, settings.max_artifact_files, reserve)


class ArtifactRequest:
    """The patterns of the files that a submission asks for."""

    def __init__(self, job: Job, verdict: Verdict) -> None:
        options = job.options.usable()
        when = {"always": True, "success": verdict.success is True, "failure": verdict.success is not True}
        self._asked = options.artifacts if when[options.artifacts_when] else ()
        self.globs = Globs((*self._asked, *options.reports))
        self.days = options.artifacts_days

    def missed(self, matched: set[int]) -> list[str]:
        """Return a line for each pattern that matched nothing; reports are not included."""
        return [
            f"nothing matches {pattern!r}"
            for number, pattern in enumerate(self._asked)
            if number not in matched
        ]


@dataclass
class ArtifactCollector:
    """Stores jobs' files in `blobs`. Thread-safe."""

    blobs: BlobStore
    limits: Limits = Limits()
    retention_days: float = 7.0
    #: Limit for all jobs of a user together; callers of `keep` must `release` the job afterwards.
    quota: Quota = field(default_factory=Quota)
    #: Whether the controller is ending: the collection is then given up, and the next controller repeats it.
    stopping: Callable[[], bool] = lambda: False

    def keep(
        self, job: Job, verdict: Verdict, written: JobOutput, before_reading: Callable[[], None]
    ) -> CollectedArtifacts:
        """Store durably the requested files that the job made or changed; call `before_reading` if there are any.

        Raises any error of `before_reading`, and `KeepingStopped`.
        """
        wanted = ArtifactRequest(job, verdict)
        found = scan.find(written.folder, wanted.globs)
        if not found.files:  # no need to wait for the container then
            return CollectedArtifacts(notes=(*found.omissions.lines(), *wanted.missed(found.matched)))
        before_reading()
        failpoints.hit(_FOUND)
        try:
            return self._store_files(job, wanted, written)
        except (KeepingStopped, failpoints.FailpointError):
            raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            _log.error("job %s: its artifacts are not stored: %s", job.id, error)
            words = (
                "the runner's disk is full" if full else f"internal error of the runner ({error.strerror})"
            )
        except Exception as error:
            _log.exception("job %s: its artifacts are not stored", job.id)
            words = f"internal error of the runner ({type(error).__name__})"
        return CollectedArtifacts(notes=(f"none is stored: {words}",))

    def _store_files(self, job: Job, wanted: ArtifactRequest, written: JobOutput) -> CollectedArtifacts:
        found = scan.find(written.folder, wanted.globs)
        sent: Mapping[str, str] = {}
        with contextlib.suppress(PermanentError):  # the workspace is gone: store everything that matches
            sent = written.sent()
        artifacts = []
        with self.blobs.batch() as batch:
            room = _Allowance(self.limits, self.blobs.free_bytes(), self.quota, job)
            for file in found.files:
                refusal = room.refusal(file)
                if refusal is not None:
                    found.omissions.add(refusal, file.path)
                    continue
                try:
                    taken = self._store_file(file, written.folder, batch)
                except _FileChanged:
                    found.omissions.add("grew while it was read", file.path)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    found.omissions.add(f"cannot be read ({error.strerror})", file.path)
                else:
                    if taken is None or sent.get(file.path) == taken.sha256:
                        continue
                    if room.claim(taken.size):
                        artifacts.append(taken)
                    else:
                        found.omissions.add(room.over_quota, file.path)
            batch.commit()
        failpoints.hit(_STORED)
        until = utcnow() + dt.timedelta(days=min(self.retention_days, wanted.days or self.retention_days))
        return CollectedArtifacts(
            tuple(replace(item, kept_until=until) for item in artifacts),
            (*found.omissions.lines(), *wanted.missed(found.matched)),
            written.root,
        )

    def _store_file(self, file: Leftover, folder: Path, batch: Batch) -> Artifact | None:
        """Add one file to the batch; return None if the job did not write it."""
        with scan.opened(folder, file.path) as handle:
            if handle is None:
                return None
            digest, size = batch.put(self._pieces(handle, file.size))
        return Artifact(file.path, 0o755 if file.executable else 0o644, size, digest)

    def _pieces(self, handle: int, size: int) -> Iterator[bytes]:
        """Yield the file's bytes, at most as many as it had when it was found."""
        left = size
        while piece := os.read(handle, _PIECE):
            if self.stopping():
                raise KeepingStopped
            left -= len(piece)
            if left < 0:
                raise _FileChanged
            yield piece


class KeepingStopped(Exception):
    """The controller is ending; the next one collects the job's files."""


class _FileChanged(Exception):
    """The file is still being written to."""


class _Allowance:
    """The rest of a job's limits."""

    def __init__(self, limits: Limits, free: int, quota: Quota, job: Job) -> None:
        self._limits = limits
        self._free = free
        self._quota = quota
        self._job = job
        self._files = self._bytes = 0

    @property
    def over_quota(self) -> str:
        """Return the reason for files beyond the user's quota."""
        return f"exceeds the limit of {formats.size(self._quota.limit)} for all jobs of a user"

    def refusal(self, file: Leftover) -> str | None:
        """Return why `file` does not fit, or None."""
        limits = self._limits
        if file.size > limits.file:
            return f"is larger than {formats.size(limits.file)}"
        if self._files >= limits.files:
            return f"exceeds the limit of {limits.files} files per job"
        if self._bytes + file.size > limits.total:
            return f"exceeds the limit of {formats.size(limits.total)} per job"
        if self._bytes + file.size > self._free - limits.reserve:
            return "found the runner's disk full"
        return None if self._quota.has_room(self._job, file.size) else self.over_quota

    def claim(self, size: int) -> bool:
        """Count a stored file; return False if another job of the user took the space meanwhile."""
        if not self._quota.claim(self._job, size):
            return False
        self._files += 1
        self._bytes += size
        return True
