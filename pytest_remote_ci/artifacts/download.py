"""Download artifacts of a job: each complete or not at all, and never outside of its folder.

The list comes from the runner and the contents from tests, so neither is trusted: names must be plain relative paths,
no link on the way is followed (`pytest_remote_ci.artifacts.safe_fs`), and contents must have the digest in the list.
An interrupted download is resumed, by this process or a later one: the partial file stays next to the final place
under a temporary name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

from pytest_remote_ci.artifacts import safe_fs
from pytest_remote_ci.artifacts.safe_fs import Folder
from pytest_remote_ci.client.retry import Backoff
from pytest_remote_ci.client.transport import Interrupted, NotOffered
from pytest_remote_ci.errors import JobNotFound, RunnerUnreachable, SubmissionRefused
from pytest_remote_ci.wire import control_characters
from pytest_remote_ci.wire.protocol import is_digest

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client

#: From this number of files on, they are fetched as one archive.
MANY: Final = 8
#: Seconds for which the runner may be unreachable.
PATIENCE: Final = 60.0
#: Errors of one file or one way to fetch it; another may work.
_REFUSED: Final = (JobNotFound, SubmissionRefused, NotOffered)
_PIECE: Final = 1 << 16
_DRIVE: Final = re.compile(r"[A-Za-z]:")
#: Characters that a file system of macOS ignores in names: they must not hide ``.git``.
_IGNORED_ON_MACOS: Final = frozenset("\u200b\u200c\u200d\u2060\ufeff")
#: Names of devices on Windows, with any suffix.
_DEVICES: Final = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


class Hasher(Protocol):
    """A digest in the making, as `hashlib` makes it."""

    def update(self, data: bytes, /) -> None:
        """Add a piece of the content."""

    def hexdigest(self) -> str:
        """Return the digest in hexadecimal."""


@dataclass(frozen=True)
class Artifact:
    """A file that a job made, as the runner lists it."""

    #: Relative to the project.
    path: str
    size: int
    sha256: str
    executable: bool = False


@dataclass(frozen=True)
class Fetched:
    """The result of fetching artifacts."""

    #: Artifact path → local path of files that were fetched or already there.
    places: Mapping[str, Path]
    #: Why others were not fetched, one line each.
    problems: Sequence[str]


@dataclass
class Downloader:
    """Fetches artifacts of one job."""

    client: Client
    job_id: str
    #: Called with the bytes fetched so far and in total.
    progress: Callable[[int, int], None] = lambda done, total: None
    #: Checks a downloaded file, and can change it, before it gets its place; returns why it is rejected, else None.
    finish: Callable[[Artifact, Path], str | None] = lambda artifact, file: None
    #: Whether files may be executable, and whether existing files are replaced.
    executables: bool = True
    replaces: bool = True
    #: Whether the runner's archive has the wanted files.
    is_archived: bool = True
    patience: float = PATIENCE
    sleep: Callable[[float], None] = time.sleep
    problems: list[str] = field(default_factory=list)
    #: Paths that are not tried again.
    _refused: set[str] = field(default_factory=set)
    _done: int = 0
    _total: int = 0

    def fetch(self, wanted: Iterable[tuple[Artifact, Path]], folder: Path) -> Fetched:
        """Fetch each artifact to its place, which must be in `folder`.

        Raises `ClientError` if nothing more can be fetched, and OSError if nothing can be written.
        """
        todo: list[tuple[Artifact, Path]] = []
        places: dict[str, Path] = {}
        taken: dict[str, str] = {}
        for artifact, place in wanted:
            problem = self._problem(artifact, place, folder, taken)
            if problem is not None:
                self._refuse(artifact, problem)
            elif self._is_there(artifact, place, folder):
                places[artifact.path] = place
            else:
                todo.append((artifact, place))
        self._total = sum(artifact.size for artifact, _ in todo)
        if len(todo) >= MANY and self.is_archived:
            # Files missing from the archive are fetched one by one.
            with contextlib.suppress(Interrupted, *_REFUSED, tarfile.TarError, EOFError):
                for artifact, place in self._from_archive(
                    {item.path: (item, place) for item, place in todo}, folder
                ):
                    places[artifact.path] = place
        for artifact, place in todo:
            if artifact.path in places or artifact.path in self._refused:
                continue
            if self._fetch(artifact, place, folder):
                places[artifact.path] = place
        return Fetched(places, tuple(self.problems))

    def _refuse(self, artifact: Artifact, problem: str) -> None:
        self._refused.add(artifact.path)
        self.problems.append(f"{shown(artifact.path)} {problem}")

    def _problem(self, artifact: Artifact, place: Path, folder: Path, taken: dict[str, str]) -> str | None:
        problem = name_problem(artifact.path)
        if problem is not None:
            return f"is refused: it {problem}"
        if taken.setdefault(artifact.path.casefold(), artifact.path) != artifact.path and place.exists():
            return f"is refused: on this file system it has the same name as {shown(taken[artifact.path.casefold()])}"
        try:
            with _opened(place, folder) as where:
                status = where.status(place.name)
        except safe_fs.Blocked as blocked:
            return f"is refused: {blocked}"
        if status is None:
            return None
        if stat.S_ISDIR(status.st_mode):
            return f"is refused: {place} is a folder"
        is_other = not self.replaces and not self._is_there(artifact, place, folder)
        return f"is refused: another file exists at {place}" if is_other else None

    def _is_there(self, artifact: Artifact, place: Path, folder: Path) -> bool:
        try:
            with _opened(place, folder) as where:
                file = where.open_regular(place.name)
                if file is None:
                    return False
                with file:
                    is_as_long = os.fstat(file.fileno()).st_size == artifact.size
                    return is_as_long and _digest(file) == artifact.sha256
        except OSError:
            return False

    def _from_archive(
        self, wanted: Mapping[str, tuple[Artifact, Path]], folder: Path
    ) -> Iterator[tuple[Artifact, Path]]:
        """Yield the files that arrive complete, until the archive ends."""
        with (
            contextlib.closing(self.client.artifact_archive(self.job_id)) as source,
            tarfile.open(fileobj=source, mode="r|") as archive,
        ):
            for member in archive:
                if not member.isreg() or member.name not in wanted:
                    continue
                artifact, place = wanted[member.name]
                content = archive.extractfile(member)
                if content is None or member.size != artifact.size:
                    continue
                part = _part(place, artifact)
                with _opened(place, folder) as where:
                    where.remove(part)
                    with where.create(part) as target:
                        digest = self._copy(content.read, target, artifact.size, hashlib.sha256())
                    if digest != artifact.sha256:
                        where.remove(part)
                    elif self._move_into_place(artifact, where, part, place.name):
                        yield artifact, place

    def _fetch(self, artifact: Artifact, place: Path, folder: Path) -> bool:
        """Fetch one file, continuing a partial one; return whether it is complete."""
        with _opened(place, folder) as where:
            return self._fetch_into(where, artifact, place.name)

    def _fetch_into(self, where: Folder, artifact: Artifact, name: str) -> bool:
        part = _part(Path(name), artifact)
        backoff = Backoff(self.patience, self.sleep)
        for _ in range(1000):
            before = _size(where, part)
            try:
                digest = self._continue(artifact, where, part)
            except Interrupted as error:
                if _size(where, part) > before:
                    backoff.contact()
                backoff.fail()
                if backoff.is_exhausted:
                    raise RunnerUnreachable(str(error)) from error
                backoff.wait(error.retry_after)
                continue
            except _REFUSED as error:
                self._refuse(artifact, f"was not fetched: {error}")
                return False
            if digest == artifact.sha256:
                return self._move_into_place(artifact, where, part, name)
            where.remove(part)
            if before == 0:
                break  # the error is not due to an old partial file
        self._refuse(artifact, "was not fetched: its content does not match the runner's digest")
        return False

    def _continue(self, artifact: Artifact, where: Folder, part: str) -> str:
        """Complete `part` and return its digest. Raises `Interrupted`, and other `ClientError`s."""
        hasher = hashlib.sha256()
        with _begun(where, part) as target:
            have = 0
            while piece := target.read(_PIECE):
                hasher.update(piece)
                have += len(piece)
            if have > artifact.size:
                target.truncate(0)
                return ""
            if have == artifact.size:
                return hasher.hexdigest()
            with contextlib.closing(self.client.artifact(self.job_id, artifact.path, have)) as source:
                return self._copy(source.read, target, artifact.size - have, hasher)

    def _copy(
        self,
        read: Callable[[int], bytes | None],
        target: IO[bytes],
        size: int,
        hasher: Hasher,
    ) -> str:
        left = size
        while left:
            piece = read(min(_PIECE, left))
            if not piece:
                raise Interrupted("the connection broke in the middle of a file")
            target.write(piece)
            hasher.update(piece)
            left -= len(piece)
            self._done += len(piece)
            self.progress(min(self._done, self._total), self._total)
        return hasher.hexdigest()

    def _move_into_place(self, artifact: Artifact, where: Folder, part: str, name: str) -> bool:
        """Move the downloaded file to its place; return False if it was rejected."""
        problem = self.finish(artifact, where.reached(part))
        if problem is not None:
            where.remove(part)
            self._refuse(artifact, problem)
            return False
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o777 if artifact.executable and self.executables else 0o666
        where.set_mode(part, mode & ~mask)
        where.move(part, name)
        return True


def parse_list(answer: object) -> list[Artifact] | None:
    """Parse the runner's list; return None if it is malformed."""
    if not isinstance(answer, list):
        return None
    found = []
    for item in answer:
        if not isinstance(item, dict):
            return None
        path, size, sha256 = (item.get(name) for name in ("path", "size", "sha256"))
        if not isinstance(path, str) or type(size) is not int or size < 0 or not is_digest(sha256):
            return None
        found.append(Artifact(path, size, str(sha256), item.get("executable") is True))
    return found


def name_problem(path: str) -> str | None:
    """Return why no file of that name is made locally, else None."""
    parts = path.split("/")
    if path.startswith("/") or _DRIVE.match(path) or "\\" in path or ".." in parts:
        return "is outside the folder"
    if "" in parts or "." in parts or len(path) > 1024:
        return "has no usable name"
    problem = control_characters.name_problem(path)
    if problem is not None:
        return problem
    if any(_is_git(part) for part in parts):
        return "is in a .git folder"
    if parts[-1].casefold() == "head":  # with objects/ and refs/ next to it, any folder is a repository
        return "could make its folder look like a git repository"
    if os.name == "nt" and (any(_DEVICES.match(part) or part[-1] in ". " or ":" in part for part in parts)):
        return "has a name that Windows does not allow"
    return None


def shown(path: str) -> str:
    """Return a path from the runner for a message: one line, limited length."""
    text = control_characters.escaped(path)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _is_git(part: str) -> bool:
    """Whether a file system takes this for ``.git``: macOS ignores joiners, Windows trailing dots and streams."""
    plain = "".join(char for char in part if char not in _IGNORED_ON_MACOS).casefold()
    return plain.partition(":")[0].rstrip(". ") in (".git", "git~1")


@contextlib.contextmanager
def _opened(place: Path, folder: Path) -> Iterator[Folder]:
    """Open the folder of `place`, which is in `folder`."""
    with safe_fs.opened(folder, place.relative_to(folder).parts[:-1]) as where:
        yield where


def _digest(file: IO[bytes]) -> str:
    hasher = hashlib.sha256()
    while piece := file.read(_PIECE):
        hasher.update(piece)
    return hasher.hexdigest()


def _part(place: Path, artifact: Artifact) -> str:
    return f".remote-ci-{artifact.sha256[:16]}-{len(place.name)}.part"


@contextlib.contextmanager
def _begun(where: Folder, part: str) -> Iterator[IO[bytes]]:
    """Open a partial file, read from its start; replace anything other than a regular file."""
    file = where.open_regular(part, to_write=True)
    if file is None:
        where.remove(part)
        file = where.create(part)
    with file:
        yield file


def _size(where: Folder, part: str) -> int:
    status = where.status(part)
    return 0 if status is None else status.st_size
