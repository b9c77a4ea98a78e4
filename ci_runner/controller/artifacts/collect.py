"""`ArtifactCollector`: stores a job's artifacts and changes of the project, between the worker's exit and its end.

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
from ci_runner.controller.artifacts import changes, scan
from ci_runner.controller.artifacts.changes import Candidate, Original, Written
from ci_runner.controller.artifacts.quota import Quota
from ci_runner.controller.artifacts.scan import Leftover, Omissions
from ci_runner.errors import PermanentError
from ci_runner.model.job import Artifact, Job, JobEvent, utcnow
from ci_runner.model.verdict import Verdict
from ci_runner.settings.groups import ReconcileSettings
from ci_runner.storage.blobs import Batch, BlobStore
from pytest_remote_ci.wire import formats, globs
from pytest_remote_ci.wire.changes import CREATED, KINDS
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
    #: Returns the project as it was before; None: what the job did to it is not recorded.
    original: Callable[[], Original | None] = lambda: None
    #: The project's folder in the workspace; "" is the workspace itself.
    project_folder: str = ""

    @property
    def prefix(self) -> str:
        """What is before the paths of the project's files."""
        return f"{self.project_folder}/" if self.project_folder else ""


@dataclass(frozen=True)
class CollectedArtifacts:
    """The collected artifacts of a job, and what it did to files of the project."""

    artifacts: tuple[Artifact, ...] = ()
    #: Reasons for files that were not stored, for the job's log.
    notes: tuple[str, ...] = ()
    #: The same for changes.
    change_notes: tuple[str, ...] = ()
    root: str = ""

    def events(self) -> list[JobEvent]:
        """Return the notes as log of the runner."""
        text = "".join(f"artifacts: {note}\n" for note in self.notes)
        text += "".join(f"changes: {note}\n" for note in self.change_notes)
        return [JobEvent("log", text, fields={"stream": "runner"})] if text else []

    def fields(self) -> dict[str, object]:
        """Return fields about them for the `complete` event."""
        found: dict[str, object] = {}
        requested = [item for item in self.artifacts if item.requested]
        if requested:
            size = sum(item.size for item in requested)
            found["artifacts"] = {"files": len(requested), "bytes": size, "root": self.root}
        kinds = [item.change for item in self.artifacts if item.change is not None]
        if kinds:
            found["changes"] = {kind: kinds.count(kind) for kind in KINDS}
        return found


@dataclass(frozen=True)
class Limits:
    """Limits for the artifacts of one job."""

    #: Bytes of one file; then bytes and number of all.
    file: int = 512 << 20
    total: int = 1 << 30
    files: int = 10_000
    #: Bytes that must stay free on the disk.
    reserve: int = 0
    #: Number of recorded changes of the project, and bytes of those whose contents were not requested.
    changes: int = 2_000
    change_bytes: int = 64 << 20

    @classmethod
    def of(cls, settings: ReconcileSettings, reserve: int) -> Limits:
        """Return the operator's limits."""
        return cls(settings.max_artifact, settings.max_artifacts, settings.max_artifact_files, reserve)


class ArtifactRequest:
    """The patterns of the files that a submission asks for."""

    def __init__(self, job: Job, verdict: Verdict, project_folder: str = "") -> None:
        options = job.options.usable()
        when = {"always": True, "success": verdict.success is True, "failure": verdict.success is not True}
        self._asked = options.artifacts if when[options.artifacts_when] else ()
        self.globs = Globs(
            [globs.below(project_folder, pattern) for pattern in (*self._asked, *options.reports)]
        )
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
        wanted = ArtifactRequest(job, verdict, written.project_folder)
        found = scan.find(written.folder, wanted.globs)
        original = written.original()
        changed = _find_changes(written, original)
        if not found.files and not changed.candidates:  # no need to wait for the container then
            return CollectedArtifacts(
                notes=(*found.omissions.lines(), *wanted.missed(found.matched)),
                change_notes=tuple(changed.omissions.lines()),
            )
        before_reading()
        failpoints.hit(_FOUND)
        try:
            return self._store_files(job, wanted, written, original)
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

    def _store_files(
        self, job: Job, wanted: ArtifactRequest, written: JobOutput, original: Original | None
    ) -> CollectedArtifacts:
        found = scan.find(written.folder, wanted.globs)
        changed = _find_changes(written, original)
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
            recorded = self._changes(changed, {item.path: item for item in artifacts}, written, room, batch)
            batch.commit()
        failpoints.hit(_STORED)
        until = utcnow() + dt.timedelta(days=min(self.retention_days, wanted.days or self.retention_days))
        prefix = written.prefix
        files = {
            item.path.removeprefix(prefix): replace(item, path=item.path.removeprefix(prefix))
            for item in (*artifacts, *recorded)
        }
        return CollectedArtifacts(
            tuple(replace(files[path], kept_until=until) for path in sorted(files)),
            (*found.omissions.lines(), *wanted.missed(found.matched)),
            tuple(changed.omissions.lines()),
            written.root,
        )

    def _changes(
        self,
        changed: changes.Found,
        artifacts: Mapping[str, Artifact],
        written: JobOutput,
        room: _Allowance,
        batch: Batch,
    ) -> list[Artifact]:
        """Return what the job did to files of the project; store contents that were not requested, small ones first."""
        recorded: list[Artifact] = []
        for candidate in sorted(changed.candidates, key=_precedence):
            if len(recorded) >= self.limits.changes:
                changed.omissions.add(
                    f"is not listed: a job's list has {self.limits.changes} changed files", candidate.path
                )
                continue
            taken = artifacts.get(candidate.path)
            if taken is None:
                taken = self._take_change(candidate, written.folder, room, batch, changed.omissions)
            before = candidate.before
            if taken is None or _is_as_before(taken, candidate):
                continue
            recorded.append(
                replace(taken, change=candidate.kind, before=None if before is None else before.sha256)
            )
        return recorded

    def _take_change(
        self, candidate: Candidate, folder: Path, room: _Allowance, batch: Batch, omissions: Omissions
    ) -> Artifact | None:
        """Return a change with its content stored, if possible; None if it is none."""
        after = candidate.after
        nothing = Artifact(candidate.path, 0o644, 0, "", requested=False)
        if after is None:
            return nothing
        mode = 0o755 if after.executable else 0o644
        if not isinstance(after, Written):  # of a renamed folder: submitted, and so a blob already
            return self._submitted(replace(nothing, mode=mode), after.sha256, room)
        file = Leftover(candidate.path, after.size, after.executable)
        refusal = room.change_refusal(file)
        if refusal is not None:
            omissions.add(refusal, file.path)
            return replace(nothing, mode=mode, size=file.size)
        try:
            taken = self._store_file(file, folder, batch)
        except _FileChanged:
            omissions.add("grew while it was read", file.path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            omissions.add(f"cannot be read ({error.strerror})", file.path)
        else:
            if taken is None:  # only its mode was changed
                before = candidate.before
                return None if before is None else replace(nothing, mode=mode, sha256=before.sha256)
            if _is_as_before(taken, candidate) or room.claim_change(taken.size):
                return replace(taken, requested=False)
            omissions.add(room.over_quota, file.path)
        return replace(nothing, mode=mode, size=file.size)

    def _submitted(self, change: Artifact, sha256: str, room: _Allowance) -> Artifact:
        """Return the change of a file in a renamed folder, with its content if that exists and there is room for it."""
        size = self.blobs.size(sha256)
        if size is None or not self.blobs.renew(sha256) or not room.claim_change(size):
            return replace(change, size=size or 0)
        return replace(change, size=size, sha256=sha256)

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


def _find_changes(written: JobOutput, original: Original | None) -> changes.Found:
    """Return what may have changed in the project; files beside it are omissions."""
    if original is None:
        return changes.Found()
    found = changes.find(written.folder, original)
    inside = []
    for candidate in found.candidates:
        if candidate.path.startswith(written.prefix):
            inside.append(candidate)
        else:
            found.omissions.add("is not listed, because it is beside the project", candidate.path)
    found.candidates = inside
    return found


def _precedence(candidate: Candidate) -> tuple[bool, int, str]:
    """Return the order in which changes are stored: files that were submitted first, then by size."""
    size = candidate.after.size if isinstance(candidate.after, Written) else 0
    return candidate.kind == CREATED, size, candidate.path


def _is_as_before(taken: Artifact, candidate: Candidate) -> bool:
    """Return whether the content and the mode are the submitted ones."""
    before = candidate.before
    is_same = before is not None and taken.is_stored and taken.sha256 == before.sha256
    return is_same and before is not None and bool(taken.mode & 0o100) == before.executable


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
        self._change_bytes = 0

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

    def change_refusal(self, file: Leftover) -> str | None:
        """Return why the content of a change that was not requested does not fit, or None."""
        if self._change_bytes + file.size > self._limits.change_bytes:
            return (
                f"exceeds the limit of {formats.size(self._limits.change_bytes)} for changed files of a job"
            )
        # The other half of the user's quota is for files that are asked for.
        if not self._quota.has_room(self._job, file.size + self._quota.limit // 2):
            return "exceeds half of " + self.over_quota.removeprefix("exceeds ")
        return self.refusal(file)

    def claim_change(self, size: int) -> bool:
        """Count the stored content of a change as `claim` does."""
        if self._change_bytes + size > self._limits.change_bytes or not self.claim(size):
            return False
        self._change_bytes += size
        return True

    def claim(self, size: int) -> bool:
        """Count a stored file; return False if another job of the user took the space meanwhile."""
        if not self._quota.claim(self._job, size):
            return False
        self._files += 1
        self._bytes += size
        return True
