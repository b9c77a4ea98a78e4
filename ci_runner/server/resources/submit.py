"""Turn an upload into a durable job: `POST /submit`, `/submit-stream`, `/submit-async` and `/blobs/missing`.

An accepted submission survives any crash: contents are synced, then granted to the user, then the job's row is
committed, then the response is sent. A refused submission leaves nothing behind. A full zip and a manifest with the
missing blobs lead to the same result: a manifest among the blobs, with the digest that names the workspace.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, Generic, Protocol, TypeVar

import falcon
from falcon.media.multipart import BodyPart

from ci_runner import failpoints
from ci_runner.errors import InvalidSubmission, TemporaryError
from ci_runner.model.job import Job, User
from ci_runner.model.job_options import JobOptions
from ci_runner.model.job_request import JobRequest
from ci_runner.model.path_checks import check_paths, shown
from ci_runner.server import parameters, schemas
from ci_runner.server.context import Services
from ci_runner.server.http.auth import caller_of
from ci_runner.server.http.limits import RECEIVE_RETRY, check_disk, check_queue
from ci_runner.server.streams.job_source import JobSource
from ci_runner.server.streams.source import frame
from ci_runner.server.streams.sse_response import StreamResponder
from ci_runner.settings.groups import PRIORITY_RANK
from ci_runner.storage.zip_reader import Archive
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.protocol import Manifest, SubmitOptions, is_digest, parse_json

_log = logging.getLogger(__name__)

_RECEIVED = failpoints.register("server.submit.received", "the upload is read, nothing is stored yet")
_STORED = failpoints.register("server.submit.stored", "contents are durable, the job is not written")
_COMMITTED = failpoints.register("server.submit.committed", "the job is durable, not yet answered")
_ANSWERED = failpoints.register("server.submit.answered", "the answer is handed to the HTTP server")

_PIECE: Final = 1 << 18
_OPTIONS_BYTES: Final = 4 << 20
#: Options for clients that send none: the command that the reference system always ran.
SEED_OPTIONS: Final = SubmitOptions(args=("-v",))
#: Maximum bytes of JSON per file of a manifest: a path of maximum length, escaped, and the rest.
_MANIFEST_BYTES_PER_FILE: Final = 1536
#: Seconds that a submission waits for others to be unpacked.
_PATIENCE: Final = 10.0
#: Stored options that are not the same when a submission is repeated.
_OF_SENDING: Final = frozenset({"timing", "upload", "cold"})
#: Bytes of JSON per digest in a request, with some room.
_DIGESTS_BYTES: Final = 70


Options = TypeVar("Options")


class Readable(Protocol):
    """A stream of bytes, such as a request's body or a part of it."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""


@dataclass(frozen=True)
class Upload(Generic[Options]):
    """The parts of a submission."""

    options: Options
    #: The zip, open for reading; None in a delta submission without missing blobs.
    file: BinaryIO | None
    manifest: Manifest | None


@dataclass(frozen=True)
class Received(Generic[Options]):
    """A submission with durable contents that are granted to its user."""

    options: Options
    manifest: Manifest
    #: Digest of the files' times, if there are any.
    mtimes: str | None
    #: Whether the client was asked what is missing, and had to send all contents.
    is_all_new: bool = False

    @property
    def workspace(self) -> str:
        """The digest that names the workspace."""
        return hashlib.sha256(self.manifest.canonical()).hexdigest()


class Submission:
    """Accepts uploads; shared by all routes that receive a project."""

    def __init__(self, services: Services) -> None:
        self._services = services
        # Unpacking occupies a thread: half of the ordinary threads may unpack, another quarter may wait to do so.
        self._receiving = threading.BoundedSemaphore(max(1, services.serve.threads // 2))
        self._waiting = threading.BoundedSemaphore(max(1, services.serve.threads // 4))

    def accept(self, req: falcon.Request) -> Job:
        """Read the request's body and make a durable job of it, or return the job made earlier.

        Raises `InvalidSubmission`, `WireError`, `Conflict`, `TooManyRequests` and `TemporaryError`.
        """
        user = caller_of(req).user
        key = parameters.IDEMPOTENCY_KEY.given(req)
        received = self.receive(req, JobRequest.from_json, JobRequest(SEED_OPTIONS))
        manifest, secrets = received.manifest, received.options.secrets
        job = self._job(received, user, req)
        digest = _digest_of(job) if key else None  # secrets are compared by name only
        stored = self._services.store.jobs.create(job, key, digest, secrets=secrets)
        failpoints.hit(_COMMITTED)
        if stored.id == job.id:
            _log.info("job %s submitted by user %s: %d files", job.id, user.id, len(manifest.files))
            self._announce(stored)
        return stored

    def receive(
        self, req: falcon.Request, parse: Callable[[bytes], Options], default: Options
    ) -> Received[Options]:
        """Read the request's body and store its contents. `parse`: converts the part ``options``.

        Raises the errors of `accept` except `Conflict`.
        """
        user = caller_of(req).user
        check_queue(self._services, user.id)
        with self._place(), contextlib.ExitStack() as stack:
            upload = self._read(req, stack, parse, default)
            failpoints.hit(_RECEIVED)
            manifest, mtimes, is_all_new = self._keep(upload, user)
        failpoints.hit(_STORED)
        return Received(upload.options, manifest, mtimes, is_all_new)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the places for unpacking; raises `TemporaryError` if none is free in time."""
        free = self._receiving.acquire(blocking=False)
        if not free and self._waiting.acquire(blocking=False):
            try:
                free = self._receiving.acquire(timeout=_PATIENCE)
            finally:
                self._waiting.release()
        if not free:
            raise TemporaryError("The runner is busy receiving other projects", retry_after=RECEIVE_RETRY)
        try:
            yield
        finally:
            self._receiving.release()

    # -- the body

    def _read(
        self,
        req: falcon.Request,
        stack: contextlib.ExitStack,
        parse: Callable[[bytes], Options],
        options: Options,
    ) -> Upload[Options]:
        """Parse the multipart body; its files are open as long as `stack`."""
        if not (req.content_type or "").lower().startswith("multipart/form-data"):
            raise InvalidSubmission("file: send the project as multipart/form-data with a part 'file'")
        file: BinaryIO | None = None
        manifest: Manifest | None = None
        seen = set()
        for part in req.get_media():
            name = _name_of(part)
            if name in seen:
                raise InvalidSubmission(f"{name}: the part occurs twice")
            if name == "file":
                file = self._spool(part.stream, stack)
            elif name == "options":
                options = parse(limited("options", part.stream, _OPTIONS_BYTES))
            elif name == "manifest":
                most = _MANIFEST_BYTES_PER_FILE * self._services.serve.max_files
                manifest = Manifest.from_dict(
                    parse_json("manifest", limited("manifest", part.stream, most), surrogates=True)
                )
            else:
                continue
            seen.add(name)
        if file is None and manifest is None:
            raise InvalidSubmission("file: the multipart part 'file' with the project's zip is missing")
        return Upload(options, file, manifest)

    def _spool(self, stream: Readable, stack: contextlib.ExitStack) -> BinaryIO:
        """Copy a part to an unnamed file, which cannot be left behind by a crash."""
        # The stack closes the file.
        file: BinaryIO = stack.enter_context(tempfile.TemporaryFile(dir=self._services.blobs.uploads))  # noqa: SIM115
        while piece := stream.read(_PIECE):
            file.write(piece)
        return file

    # -- contents

    def _keep(self, upload: Upload[Options], user: User) -> tuple[Manifest, str | None, bool]:
        """Store the workspace's contents durably and grant them.

        Return the manifest, the digest of its times, if it has any, and whether all contents of a delta were missing.
        """
        blobs, granted = self._services.blobs, self._services.store.blobs
        archive = self._archive(upload.file)
        is_all_new = False
        if upload.manifest is None:
            assert archive is not None
            manifest = blobs.assemble_manifest(archive)
        else:
            manifest = upload.manifest
            sent = self._keep_delta(manifest, archive, user)
            is_all_new = bool(sent) and sent >= {entry.sha256 for entry in manifest.files}
        digests = {entry.sha256 for entry in manifest.files} | {blobs.put_manifest(manifest)}
        mtimes = None
        if manifest.mtimes:
            times = {path: manifest.mtimes[path] for path in sorted(manifest.mtimes)}
            mtimes = blobs.put_bytes(json.dumps(times, separators=(",", ":")).encode())
            digests.add(mtimes)
        with blobs.granting():
            granted.grant(user.id, digests)
            gone = blobs.missing(digests)
        if gone:  # deleted in the meantime
            raise TemporaryError("Contents of the project went while it was submitted; send it again")
        return manifest, mtimes, is_all_new

    def _archive(self, file: BinaryIO | None) -> Archive | None:
        if file is None:
            return None
        archive = Archive(file, self._services.archive_limits)
        check_disk(self._services, archive.unpacked_size)
        return archive

    def _keep_delta(self, manifest: Manifest, archive: Archive | None, user: User) -> set[str]:
        """Check a client's manifest and store the blobs that came with it; return their digests."""
        paths = [entry.path for entry in manifest.files]
        check_paths(
            "manifest",
            paths,
            max_files=self._services.serve.max_files,
            links=manifest.links,
            folders=manifest.folders,
        )
        if sum(entry.size for entry in manifest.files) > self._services.serve.max_unpacked:
            most = self._services.serve.max_unpacked
            raise InvalidSubmission(
                f"manifest: the project is larger than {most} bytes, the most that this runner accepts"
            )
        if not manifest.mtimes.keys() <= set(paths):
            raise InvalidSubmission("manifest.mtimes: has files that are not in the manifest")
        sizes: dict[str, int] = {}
        for entry in manifest.files:
            if sizes.setdefault(entry.sha256, entry.size) != entry.size:
                raise InvalidSubmission(f"manifest: {shown(entry.path)} gives one digest two sizes")
        sent = self._keep_blobs(archive, sizes) if archive is not None else set()
        here = {digest: self._services.blobs.size(digest) for digest in sizes}
        granted = self._services.store.blobs.granted(user.id, sizes.keys() - sent) | sent
        missing = sorted(digest for digest in sizes if digest not in granted or here[digest] is None)
        if missing:
            text = (
                f"manifest: {len(missing)} contents are missing, {missing[0]} among them; send them in 'file'"
            )
            raise InvalidSubmission(text)
        for entry in manifest.files:
            if here[entry.sha256] != entry.size:
                raise InvalidSubmission(f"manifest: {shown(entry.path)} has another size than its content")
        return sent

    def _keep_blobs(self, archive: Archive, wanted: dict[str, int]) -> set[str]:
        """Store the blobs of a delta's zip; return their digests."""
        with self._services.blobs.batch() as batch:
            for entry in archive.entries:
                if entry.path not in wanted:
                    raise InvalidSubmission(
                        f"file: entry {shown(entry.path)} is not a digest of the manifest"
                    )
                batch.put(archive.read(entry), expected=entry.path)
            batch.commit()
        return {entry.path for entry in archive.entries}

    def missing(self, user_id: str, digests: Iterable[str]) -> list[str]:
        """Return those of `digests` that the user must send: not granted to this user, or not stored."""
        wanted = sorted(digests)
        granted = self._services.store.blobs.granted(user_id, wanted)
        return [digest for digest in wanted if digest not in granted or not self._services.blobs.has(digest)]

    def reserve(self, user_id: str, digests: set[str]) -> list[str]:
        """Return `missing` digests, and keep the others until the missing ones can be sent."""
        with self._services.blobs.granting():
            missing = self.missing(user_id, digests)
            self._services.store.blobs.grant(user_id, digests - set(missing))
        return missing

    # -- the job

    def _job(self, received: Received[JobRequest], user: User, req: falcon.Request) -> Job:
        options = cap_priority(received.options.options, received.manifest, user)
        stored = options.to_dict()
        if received.mtimes:
            stored["mtimes"] = received.mtimes
        if received.options.secrets:
            stored["secrets"] = sorted(received.options.secrets)
        began = req.env.get("ci_runner.began")
        if began is not None:
            stored["upload"] = round(time.monotonic() - began, 6)
        if received.is_all_new:
            files = received.manifest.files
            size = formats.size(sum(entry.size for entry in files))
            stored["cold"] = [f"project sent whole ({len(files)} files, {size}): the runner had none of it"]
        now = self._services.clock()
        return Job(
            id=str(uuid.uuid4()),
            user_id=user.id,
            name=options.name,
            priority=options.priority,
            submitted_at=now,
            phase_since=now,
            options=JobOptions.from_dict(stored),
            workspace=received.workspace,
        )

    def _announce(self, job: Job) -> None:
        if self._services.hooks is None:
            return
        try:
            self._services.hooks.job_submitted(job=job)
        except Exception:
            _log.exception("a plugin failed in job_submitted for job %s", job.id)


class SubmitAsync:
    """`POST /submit-async`."""

    def __init__(self, submission: Submission) -> None:
        self._submission = submission

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Accept the project and send the id of the job."""
        resp.media = schemas.JobCreated(job_id=self._submission.accept(req).id)
        failpoints.hit(_ANSWERED)


class SubmitStream:
    """`POST /submit` and `POST /submit-stream`: the job's events are the answer."""

    def __init__(self, submission: Submission, responder: StreamResponder, *, announce: bool) -> None:
        """`announce`: whether the stream begins with a `job_id` event."""
        self._submission = submission
        self._responder = responder
        self._announce = announce

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Accept the project and stream; the stream slot is taken before the body is read."""
        view = parameters.VIEW.read(req)
        with self._responder.admit(req) as admission:
            job = self._submission.accept(req)
            first = (frame({"type": "job_id", "job_id": job.id}),) if self._announce else ()
            admission.stream(resp, JobSource(self._responder.store, job.id, 0, view, first))
        failpoints.hit(_ANSWERED)


class MissingBlobs:
    """`POST /blobs/missing`."""

    def __init__(self, submission: Submission, max_files: int) -> None:
        self._submission = submission
        self._most = max_files

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send those of the digests in the body that the user must send."""
        digests = parse_json("body", limited("body", req.bounded_stream, _DIGESTS_BYTES * (self._most + 1)))
        if not isinstance(digests, list) or not all(is_digest(digest) for digest in digests):
            raise InvalidSubmission("body: must be a JSON array of SHA-256 digests in lower-case hexadecimal")
        resp.media = self._submission.reserve(caller_of(req).user.id, set(digests))


def cap_priority(options: SubmitOptions, manifest: Manifest, user: User) -> SubmitOptions:
    """Return the options with the priority limited to the user's, and with the manifest's root as default."""
    if PRIORITY_RANK[options.priority] < PRIORITY_RANK[user.priority_cap]:
        options = replace(options, priority=user.priority_cap)
    if options.root is None and manifest.root is not None:
        options = replace(options, root=manifest.root)
    return options


def _name_of(part: BodyPart) -> str | None:
    try:
        return part.name
    except ValueError as error:
        raise InvalidSubmission(
            "a part's name is not UTF-8: the parts are file, options and manifest"
        ) from error


def limited(what: str, stream: Readable, most: int) -> bytes:
    """Return all of `stream`, which may have at most `most` bytes."""
    return b"".join(_pieces(what, stream, most))


def _pieces(what: str, stream: Readable, most: int) -> Iterator[bytes]:
    while piece := stream.read(_PIECE):
        most -= len(piece)
        if most < 0:
            raise InvalidSubmission(f"{what}: is too long")
        yield piece


def _digest_of(job: Job) -> str:
    """Return a digest that identifies the submission: the files and options, not how they were sent."""
    options = {name: value for name, value in job.options.stored.items() if name not in _OF_SENDING}
    return hashlib.sha256(json.dumps([job.workspace, options], sort_keys=True).encode()).hexdigest()
