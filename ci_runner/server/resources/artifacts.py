"""A job's artifacts, for its owner: the list, one file (or a part of it), all of them as a tar archive.

The path in a request is looked up only among the job's rows, never on a disk. Contents are sent as downloads only: a
browser must not display or run files that tests have written.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Final
from urllib.parse import quote

import falcon

from ci_runner.errors import NotFound
from ci_runner.model.job import Artifact, Job
from ci_runner.server import parameters, schemas
from ci_runner.server.context import Services
from ci_runner.server.http.limits import Slot, StreamSlots, acquire_slot
from ci_runner.server.resources.jobs import own_job
from ci_runner.storage.blobs import BlobStore

_PIECE: Final = 1 << 18
_BLOCK: Final = tarfile.BLOCKSIZE
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_PLAIN: Final = re.compile(r"[^A-Za-z0-9._-]")


class ArtifactList:
    """`GET /jobs/{job_id}/artifacts`."""

    def __init__(self, services: Services) -> None:
        self._store = services.store

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Send the list, ordered by path; empty while the job is not over."""
        job = own_job(self._store, req, job_id)
        resp.media = [schemas.Artifact.of(item) for item in self._store.artifacts.list(job.id)]
        resp.set_header("Cache-Control", "no-store")


class ChangeList:
    """`GET /jobs/{job_id}/changes`."""

    def __init__(self, services: Services) -> None:
        self._store = services.store

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Send what the job did to files of the project, ordered by path; empty while the job is not over."""
        job = own_job(self._store, req, job_id)
        resp.media = schemas.Changes(
            root=job.options.submitted.root,
            files=[schemas.Change.of(item) for item in self._store.artifacts.changes(job.id)],
        )
        resp.set_header("Cache-Control", "no-store")


class ArtifactContent:
    """`GET /jobs/{job_id}/artifacts/{path}`."""

    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._blobs = services.blobs

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str, path: str) -> None:
        """Send one file, or the part requested by `Range`; the server's own thread sends it."""
        job = own_job(self._store, req, job_id)
        found = self._store.artifacts.get(job.id, path)
        if found is None or found.path != path or not found.is_stored:
            raise NotFound("Artifact not found", path)
        with contextlib.ExitStack() as opened:
            content = opened.enter_context(_open(self._blobs, found))
            self._answer(req, resp, found, content)
            if resp.stream is not None:
                opened.pop_all()

    @staticmethod
    def _answer(req: falcon.Request, resp: falcon.Response, found: Artifact, content: BinaryIO) -> None:
        tag = f'"{found.sha256}"'
        _as_download(resp, found.path.rpartition("/")[2])
        resp.set_header("ETag", tag)
        resp.set_header("Accept-Ranges", "bytes")
        if tag in (parameters.IF_NONE_MATCH.text(req) or ""):
            resp.status = falcon.HTTP_304
            return
        asked = parameters.RANGE.text(req) if parameters.IF_RANGE.text(req) in (None, tag) else None
        part = _range(asked, found.size)
        start, end = part or (0, found.size)
        if part is not None and start >= end:
            resp.set_header("Content-Range", f"bytes */{found.size}")
            resp.status = falcon.HTTP_416
            resp.content_type = falcon.MEDIA_JSON
            resp.media = schemas.Error(detail=f"Range: the artifact has {found.size} bytes")
            return
        if part is not None:
            resp.status = falcon.HTTP_206
            resp.set_header("Content-Range", f"bytes {start}-{end - 1}/{found.size}")
        content.seek(start)
        resp.set_stream(content, end - start)


class ArtifactArchive:
    """`GET /jobs/{job_id}/artifacts.tar`."""

    def __init__(self, services: Services, slots: StreamSlots) -> None:
        self._store = services.store
        self._blobs = services.blobs
        self._slots = slots

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Send all files in one uncompressed archive, made on the fly; uses a stream slot meanwhile."""
        job = own_job(self._store, req, job_id)
        archive = _Archive(self._blobs, job, self._store.artifacts.list(job.id))
        archive.slot = acquire_slot(self._slots, req)
        _as_download(resp, f"{job.id}.tar", "application/x-tar")
        resp.content_length = archive.size
        resp.stream = archive


class _Archive:
    """A tar stream of regular files, in the POSIX format (pax), which allows any name."""

    def __init__(self, blobs: BlobStore, job: Job, artifacts: list[Artifact]) -> None:
        self._blobs = blobs
        moment = int(job.end_time.timestamp()) if job.end_time is not None else 0
        self._members = [(item, _header(item, moment)) for item in artifacts]
        self.size = 2 * _BLOCK + sum(
            len(header) + item.size + -item.size % _BLOCK for item, header in self._members
        )
        self.slot: Slot | None = None

    def __iter__(self) -> Iterator[bytes]:
        for item, header in self._members:
            yield header
            with _open(self._blobs, item) as content:
                while piece := content.read(_PIECE):
                    yield piece
            yield bytes(-item.size % _BLOCK)
        yield bytes(2 * _BLOCK)

    def close(self) -> None:
        """Free the slot: the client has received all, or is disconnected."""
        if self.slot is not None:
            self.slot.close()


def _header(item: Artifact, moment: int) -> bytes:
    member = tarfile.TarInfo(item.path)
    member.size, member.mode, member.mtime = item.size, item.mode, moment
    return member.tobuf(tarfile.PAX_FORMAT)


def _open(blobs: BlobStore, item: Artifact) -> BinaryIO:
    try:
        return blobs.open(item.sha256)
    except NotFound as error:
        raise NotFound("The runner no longer has the content of the artifact", item.path) from error


def _as_download(resp: falcon.Response, name: str, media: str = "application/octet-stream") -> None:
    resp.content_type = media
    resp.set_header(
        "Content-Disposition",
        f"attachment; filename=\"{_PLAIN.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}",
    )
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
    resp.set_header("Cache-Control", "private, no-cache")


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return start and end (exclusive) of the single requested part; None for the whole file.

    An invalid range means the whole file. A part beyond the end is empty.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    end = min(size, int(last) + 1) if last else size
    if last and int(last) < int(first):
        return None
    return (int(first), end) if int(first) < size else (size, size)
