"""`Keeper`: what becomes of the files that a run left behind, between its last word and the job's end.

The order makes it safe to be killed anywhere: contents are durable first, rows come with the job's end in one
transaction, the files themselves go afterwards. A job that is found without its end is simply collected again. What
goes wrong here never changes a verdict: it is said in the job's log.
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
from typing import Any, Final

from ci_runner import failpoints
from ci_runner.controller.artifacts import scan
from ci_runner.controller.artifacts.quota import Quota
from ci_runner.controller.artifacts.scan import Leftover
from ci_runner.errors import PermanentError
from ci_runner.model.job import Artifact, Job, JobEvent, utcnow
from ci_runner.model.verdict import Verdict
from ci_runner.settings.groups import ReconcileSettings
from ci_runner.storage.blobs import Batch, BlobStore
from pytest_remote_ci.terminal import formats
from pytest_remote_ci.wire.globs import Globs

_log = logging.getLogger(__name__)

_FOUND = failpoints.register("controller.artifacts.found", "files to be kept are found, none is read")
_KEPT = failpoints.register("controller.artifacts.kept", "contents are durable, the job has not ended")

_PIECE: Final = 1 << 16


@dataclass(frozen=True)
class Written:
    """Where the files of an attempt lie."""

    #: What the container wrote into the workspace; links in it must not be followed.
    folder: Path
    #: Where that was, as the tests saw it.
    root: str
    #: Reads path → digest of what was sent: such files are no artifacts, wherever they lie.
    sent: Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class Kept:
    """What a job leaves behind."""

    artifacts: tuple[Artifact, ...] = ()
    #: What is not kept, for the job's log.
    notes: tuple[str, ...] = ()
    root: str = ""

    def events(self) -> list[JobEvent]:
        """The notes as log of the runner."""
        text = "".join(f"artifacts: {note}\n" for note in self.notes)
        return [JobEvent("log", text, fields={"stream": "runner"})] if text else []

    def fields(self) -> dict[str, Any]:
        """What the `complete` event says of it."""
        if not self.artifacts:
            return {}
        size = sum(item.size for item in self.artifacts)
        return {"artifacts": {"files": len(self.artifacts), "bytes": size, "root": self.root}}


@dataclass(frozen=True)
class Limits:
    """How much one job may leave behind."""

    #: Bytes of one file, and of all.
    file: int = 512 << 20
    total: int = 1 << 30
    files: int = 10_000
    #: Free bytes that stay free.
    reserve: int = 0

    @classmethod
    def of(cls, settings: ReconcileSettings, reserve: int) -> Limits:
        """The operator's."""
        return cls(settings.max_artifact, settings.max_artifacts, settings.max_artifact_files, reserve)


class Wanted:
    """Which files of a job are asked for."""

    def __init__(self, job: Job, verdict: Verdict) -> None:
        options = job.options.usable()
        when = {"always": True, "success": verdict.success is True, "failure": verdict.success is not True}
        self._asked = options.artifacts if when[options.artifacts_when] else ()
        self.globs = Globs((*self._asked, *options.reports))
        self.days = options.artifacts_days

    def missed(self, matched: set[int]) -> list[str]:
        """What was asked for in vain, one line each; reports are not missed."""
        return [
            f"nothing matches {pattern!r}"
            for number, pattern in enumerate(self._asked)
            if number not in matched
        ]


@dataclass
class Keeper:
    """Keeps files of jobs as blobs of `blobs`. Methods may be called from any thread."""

    blobs: BlobStore
    limits: Limits = Limits()
    retention_days: float = 7.0
    #: What all jobs of a user may leave behind together; whoever calls `keep` settles the job afterwards.
    quota: Quota = field(default_factory=Quota)
    #: Says that the controller ends: a keeping that is under way is given up, for the next one to repeat.
    stopping: Callable[[], bool] = lambda: False

    def keep(self, job: Job, verdict: Verdict, written: Written, before_reading: Callable[[], None]) -> Kept:
        """Make durable what the job is asked for and made or changed; `before_reading` is called when there is any.

        Raises what `before_reading` raises, and `KeepingStopped`.
        """
        wanted = Wanted(job, verdict)
        found = scan.find(written.folder, wanted.globs)
        if not found.files:  # then nobody has to wait for the container
            return Kept(notes=(*found.omissions.lines(), *wanted.missed(found.matched)))
        before_reading()
        failpoints.hit(_FOUND)
        try:
            return self._kept(job, wanted, written)
        except (KeepingStopped, failpoints.FailpointError):
            raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            _log.error("job %s: its artifacts are not kept: %s", job.id, error)
            words = (
                "the runner's disk is full" if full else f"internal error of the runner ({error.strerror})"
            )
        except Exception as error:
            _log.exception("job %s: its artifacts are not kept", job.id)
            words = f"internal error of the runner ({type(error).__name__})"
        return Kept(notes=(f"none is kept: {words}",))

    def _kept(self, job: Job, wanted: Wanted, written: Written) -> Kept:
        found = scan.find(written.folder, wanted.globs)
        sent: Mapping[str, str] = {}
        with contextlib.suppress(PermanentError):  # the workspace is gone: then all that matches is kept
            sent = written.sent()
        artifacts = []
        with self.blobs.batch() as batch:
            room = _Room(self.limits, self.blobs.free_bytes(), self.quota, job)
            for file in found.files:
                refusal = room.refusal(file)
                if refusal is not None:
                    found.omissions.add(refusal, file.path)
                    continue
                try:
                    taken = self._take(file, written.folder, batch)
                except _Grown:
                    found.omissions.add("grew while it was read", file.path)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    found.omissions.add(f"cannot be read ({error.strerror})", file.path)
                else:
                    if taken is None or sent.get(file.path) == taken.sha256:
                        continue
                    if room.take(taken.size):
                        artifacts.append(taken)
                    else:
                        found.omissions.add(room.over_quota, file.path)
            batch.commit()
        failpoints.hit(_KEPT)
        until = utcnow() + dt.timedelta(days=min(self.retention_days, wanted.days or self.retention_days))
        return Kept(
            tuple(replace(item, kept_until=until) for item in artifacts),
            (*found.omissions.lines(), *wanted.missed(found.matched)),
            written.root,
        )

    def _take(self, file: Leftover, folder: Path, batch: Batch) -> Artifact | None:
        """One file into the batch; None for one that has nothing of the run's own."""
        with scan.opened(folder, file.path) as handle:
            if handle is None:
                return None
            digest, size = batch.put(self._pieces(handle, file.size))
        return Artifact(file.path, 0o755 if file.executable else 0o644, size, digest)

    def _pieces(self, handle: int, size: int) -> Iterator[bytes]:
        """The file's bytes; no more than it had when it was found."""
        left = size
        while piece := os.read(handle, _PIECE):
            if self.stopping():
                raise KeepingStopped
            left -= len(piece)
            if left < 0:
                raise _Grown
            yield piece


class KeepingStopped(Exception):
    """The controller ends; the next one keeps the job's files."""


class _Grown(Exception):
    """Somebody still writes to the file."""


class _Room:
    """How much more may be kept of a job."""

    def __init__(self, limits: Limits, free: int, quota: Quota, job: Job) -> None:
        self._limits = limits
        self._free = free
        self._quota = quota
        self._job = job
        self._files = self._bytes = 0

    @property
    def over_quota(self) -> str:
        """Said of what no longer fits beside the user's other artifacts."""
        return f"is too much: {formats.size(self._quota.limit)} are kept of all jobs of a user"

    def refusal(self, file: Leftover) -> str | None:
        """Why there is no room for `file`, or None."""
        limits = self._limits
        if file.size > limits.file:
            return f"is larger than {formats.size(limits.file)}"
        if self._files >= limits.files:
            return f"is one too many: {limits.files} files are kept of a job"
        if self._bytes + file.size > limits.total:
            return f"is too much: {formats.size(limits.total)} are kept of a job"
        if self._bytes + file.size > self._free - limits.reserve:
            return "found the runner's disk full"
        return None if self._quota.has_room(self._job, file.size) else self.over_quota

    def take(self, size: int) -> bool:
        """A file is kept; False: another job of the user took the room meanwhile."""
        if not self._quota.claim(self._job, size):
            return False
        self._files += 1
        self._bytes += size
        return True
