"""Kept folders between jobs: given to a job before it starts, taken from it once its container is gone.

A job gets hard links to the kept files in `work/<job>-own/kept/`, which become the lowest layer of its overlays: it
writes to copies, and whatever the client sends lies above. Afterwards its changes are merged with these files, by
descriptors, and published as new folders (`ci_runner.storage.kept_folders`).

Untrusted code wrote all of it: only regular files and folders count, links are never followed, and depth, number and
bytes are bounded. What is too much is not kept; the next job's log and the list say so.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ci_runner import failpoints
from ci_runner.model.job import Job
from ci_runner.model.path_checks import MAX_DEPTH
from ci_runner.storage.kept_folders import KeptFolders, Project, describe
from ci_runner.storage.safe_fs import FILE, Entry, Trash, Walk, identity, is_folder, open_up, opened_folder
from pytest_remote_ci.wire import formats, globs, keep
from pytest_remote_ci.wire.globs import Globs, Step
from pytest_remote_ci.wire.protocol import SubmitOptions

_log = logging.getLogger(__name__)

_MERGED = failpoints.register("controller.keep.merged", "what a job leaves is merged, not published")

#: Most files and folders that are looked at for one pattern.
MAX_ENTRIES: Final = 100_000
#: How many times as many are looked at for all patterns of a job together.
_MOST_WALKS: Final = 4
#: Seconds that a job waits until the files of the one before are taken.
_PATIENCE: Final = 10.0
#: An overlay's marks, set by the kernel; only root sees them. The first is of a folder that was deleted and made again,
#: the second of one that was renamed: files in it that the job did not change are elsewhere, and it is not kept.
_OPAQUE: Final = "trusted.overlay.opaque"
_RENAMED: Final = "trusted.overlay.redirect"
_UNLIMITED: Final = 1 << 60
#: Exit codes of a pytest that ended in order: passed, failed, no tests.
_IN_ORDER: Final = frozenset({0, 1, 5})
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Given:
    """The kept files that a job gets, in folders that stay as they are."""

    #: Files below the project; None: there are none.
    project: Path | None
    #: Files below the home.
    home: Path
    #: Paths of the kept folders in the home, outer ones first.
    links: tuple[str, ...]
    known: Mapping[Path, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """The folders that a job's last attempt wrote to."""

    project: Path
    home: Path
    #: Whether they have only what differs from the given files, as an overlay's upper folder.
    only_changes: bool


class Keeper:
    """Gives and takes the kept folders of one data directory. Thread-safe."""

    def __init__(self, data_dir: Path, trash: Trash, owner: int | None, limit: int, reserve: int) -> None:
        """Set up the object.

        `owner`: the uid of jobs, None if it is the runner's; `limit`: bytes of one project; `reserve`: bytes that must
        stay free on the disk.
        """
        self._data = data_dir
        self._folders = KeptFolders(data_dir)
        self._trash = trash
        self._owner = owner
        self._limit = limit
        self._reserve = reserve
        self._publishing = threading.Lock()
        self._changed = threading.Condition()
        #: Job → the project whose folders it is going to replace.
        self._expected: dict[str, Project] = {}

    # -- before the job
    def give(
        self,
        job: Job,
        sent: Mapping[str, str],
        *,
        log: Callable[[str], None],
        stopping: Callable[[], bool],
    ) -> Given | None:
        """Return the kept files of the job's project, after those of a job that just ended are taken; None: no keeping.

        `sent`: the files of the client. `log` gets a line for each pattern that is not kept.
        """
        project, patterns = self._project(job), job.options.submitted.keep
        if project is None:
            return None
        place = self._given(job)
        if not place.is_dir():
            self._wait(job, project, stopping)
            self._make(place, project, patterns, job.options.submitted, sent, log)
        known = {}
        for folder in (place / "project", place / "home"):
            with opened_folder(folder) as opened:
                known[folder] = identity(opened)
        is_empty = not any((place / "project").iterdir())
        links = tuple(sorted(keep.in_home(pattern) for pattern in patterns if keep.is_in_home(pattern)))
        return Given(None if is_empty else place / "project", place / "home", links, known)

    def _make(
        self,
        place: Path,
        project: Project,
        patterns: tuple[str, ...],
        options: SubmitOptions,
        sent: Mapping[str, str],
        log: Callable[[str], None],
    ) -> None:
        prefix = _prefix(options)
        temporary = place.with_name("kept.tmp")
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._trash.remove(temporary)
        temporary.mkdir(mode=0o700)
        (temporary / "token").write_text(self._folders.token(project))
        for part in ("project", "home"):
            (temporary / part).mkdir(mode=0o755)
            with opened_folder(temporary, part) as folder:
                _own(folder, self._owner)
        for pattern in patterns:
            with contextlib.ExitStack() as stack:
                try:
                    kept, source = stack.enter_context(self._folders.opened(project, pattern))
                except (OSError, KeyError):  # nothing is kept
                    continue
                if kept.problem is not None:
                    log(f"kept folders: {pattern} of an earlier job {kept.problem}")
                part = "home" if keep.is_in_home(pattern) else "project"
                target = stack.enter_context(opened_folder(temporary, part))
                copy = stack.enter_context(
                    contextlib.closing(_Copy(target, self._owner, _Budget(_UNLIMITED)))
                )
                globs = Globs(keep.below(pattern, options.cwd))
                if part == "project" and _is_sent(source, globs, prefix, sent):
                    continue
                try:
                    for found in _walk(source):
                        if stat.S_ISREG(found.status.st_mode):
                            path = prefix + found.path if part == "project" else found.path
                            copy.add(replace(found, path=path))
                except OSError as error:  # it was just cleared: the job must not get a part of it
                    _log.info("kept folder %r is not given: %s", pattern, error)
                    rest = tuple(name for name in patterns if name != pattern)
                    return self._make(place, project, rest, options, sent, log)
        temporary.rename(place)
        return None

    def _wait(self, job: Job, project: Project, stopping: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        with self._changed:
            while any(other == project for name, other in self._expected.items() if name != job.id):
                left = end - time.monotonic()
                if left <= 0 or stopping():
                    return
                self._changed.wait(min(left, 0.2))

    # -- after it
    def expect(self, job: Job, written: Written) -> None:
        """Note, before the job's end is visible, that `take` will follow: the next job waits for it."""
        project = self._project(job)
        if project is not None and self._left_something(job, written):
            with self._changed:
                self._expected[job.id] = project

    def store(self, job: Job, written: Written, sent: Callable[[], Mapping[str, str]]) -> None:
        """Keep what the job leaves behind, if it ended in order; its container must be gone. May be repeated.

        `sent` returns the files of the client, which are never kept.
        """
        try:
            project = self._project(job)
            if project is not None and _ended_in_order(job) and self._given(job).is_dir():
                self._store(job, project, written, sent)
        finally:
            with self._changed:
                self._expected.pop(job.id, None)
                self._changed.notify_all()

    def _store(
        self, job: Job, project: Project, written: Written, sent: Callable[[], Mapping[str, str]]
    ) -> None:
        given = self._given(job)
        token = (given / "token").read_text()
        sizes = {item.pattern: item.size for item in self._folders.of(project)}
        files: Mapping[str, str] | None = None
        entries = _Entries()
        for pattern in job.options.submitted.keep:
            is_home = keep.is_in_home(pattern)
            changes = _Changes(
                written.home if is_home else written.project,
                Globs(_globs(pattern, job.options.submitted)),
                self._owner,
                entries,
            )
            others = sum(size for name, size in sizes.items() if name != pattern)
            try:
                if not changes.has_any() and (written.only_changes or pattern not in sizes):
                    continue
                if shutil.disk_usage(self._data).free < self._reserve:
                    raise _TooMuch("found the runner's disk nearly full")
                files = sent() if files is None else files
                base = given / ("home" if is_home else "project") if written.only_changes else None
                found = changes.merged(base, {} if is_home else files)
                if not is_home:
                    prefix = _prefix(job.options.submitted)
                    found = (replace(file, path=file.path.removeprefix(prefix)) for file in found)
                budget = _Budget(self._limit - others, self._limit)
                sizes[pattern] = self._replace(project, pattern, found, budget, token)
            except _TooMuch as error:
                self._folders.complain(project, pattern, f"was not kept: it {error}")

    def _replace(
        self, project: Project, pattern: str, found: Iterator[_Found], budget: _Budget, token: str
    ) -> int:
        """Publish what is to be kept for a pattern now; return its bytes."""
        with self._folders.making(project) as made:
            with (
                opened_folder(made, "tree") as target,
                contextlib.closing(_Copy(target, self._owner, budget)) as copy,
            ):
                for file in found:
                    copy.add(file)
            failpoints.hit(_MERGED)
            with self._publishing:
                if copy.files:
                    kept = describe(project, pattern, copy.files, budget.bytes)
                    self._folders.publish(project, made, kept, token)
                else:
                    self._folders.remove(project, pattern)
        return budget.bytes

    def _left_something(self, job: Job, written: Written) -> bool:
        """Return whether the job's folders seem to have something to keep; it may still be running."""
        entries = _Entries()
        for pattern in job.options.submitted.keep:
            folder = written.home if keep.is_in_home(pattern) else written.project
            globs = Globs(_globs(pattern, job.options.submitted))
            try:
                if _Changes(folder, globs, self._owner, entries).has_any():
                    return True
            except _TooMuch:
                return True
            except OSError:
                continue
        return False

    # -- both
    def _project(self, job: Job) -> Project | None:
        """Return whose folders the job gets and replaces; None if nothing is kept for it."""
        options = job.options.submitted
        if job.options.problem is not None or not options.keep or options.root is None or not self._limit:
            return None
        return Project(job.user_id, options.root, job.planned or "")

    def _given(self, job: Job) -> Path:
        return self._data / "work" / f"{job.id}-own" / "kept"


class _TooMuch(Exception):
    """A job leaves too much for a pattern; the message follows the pattern and "it"."""


@dataclass
class _Budget:
    """What one pattern may have: `limit` bytes, of the `total` of its project."""

    limit: int
    total: int = 0
    bytes: int = 0

    def count(self, status: os.stat_result) -> None:
        """Count a file's bytes, with its holes; raise `_TooMuch` if they are too many."""
        self.bytes += max(status.st_size, status.st_blocks * 512)
        if self.bytes > self.limit:
            raise _TooMuch(f"exceeds what a project may keep, {formats.size(self.total)}")


@dataclass(frozen=True)
class _Found:
    """A file or folder."""

    path: str
    #: The folder that holds it, valid until the walk continues; `name` is its name in that folder.
    folder: int
    name: str
    status: os.stat_result
    #: Whether a pattern matches it, or a folder above it.
    is_hit: bool
    #: Whether it is the runner's own: a regular file that nothing changes.
    is_given: bool = False


class _Entries:
    """How many files and folders may still be looked at for one job, for all of its patterns."""

    def __init__(self) -> None:
        self._left = _MOST_WALKS * MAX_ENTRIES

    def see(self, count: int) -> None:
        """Count files and folders; raise `_TooMuch` if there are too many."""
        self._left -= count
        if self._left < 0:
            raise _TooMuch("comes after patterns with too many files and folders")


def _walk(
    top: int,
    globs: Globs | None = None,
    enters: Callable[[_Found], bool] = lambda found: True,
    entries: _Entries | None = None,
) -> Iterator[_Found]:
    """Yield what is below an open folder and may match; follow no link, and enter a folder after it was yielded.

    Raises `_TooMuch`, and OSError for a folder that cannot be opened.
    """
    steps: dict[str, Step | None] = {"": None if globs is None else globs.root()}
    seen = 0

    def found(entry: Entry, step: Step | None) -> _Found:
        is_hit = globs is None or bool(step is not None and step.hits)
        return _Found(entry.path, entry.folder, entry.name, entry.status, is_hit, globs is None)

    def is_entered(entry: Entry) -> bool:
        if entry.path not in steps or not enters(found(entry, steps[entry.path])):
            return False
        if entry.path.count("/") >= MAX_DEPTH:
            raise _TooMuch(f"has folders more than {MAX_DEPTH} levels deep")
        return True

    walk = Walk(top, enters=is_entered)
    for entry in walk:
        here = steps[entry.path.rpartition("/")[0]]
        cost = 1 if here is None else here.cost
        seen += cost
        if seen > MAX_ENTRIES:
            raise _TooMuch(f"has more than {MAX_ENTRIES} files and folders")
        if entries is not None:
            entries.see(cost)
        step = None if here is None else here.down(entry.name)
        if here is not None and step is None:
            continue
        if entry.is_folder:
            steps[entry.path] = step
        yield found(entry, step)
    if not walk.complete:
        raise OSError(errno.EACCES, "a folder cannot be read")


class _Changes:
    """What a job's folder says about the files of a pattern."""

    def __init__(self, folder: Path, globs: Globs, owner: int | None, entries: _Entries) -> None:
        self._folder = folder
        self._globs = globs
        self._entries = entries
        self._owners = {os.geteuid(), *([] if owner is None else [owner])}

    def has_any(self) -> bool:
        """Return whether there is anything that matches."""
        try:
            with opened_folder(self._folder) as top:
                return any(found.is_hit for found in _walk(top, self._globs, entries=self._entries))
        except FileNotFoundError:
            return False

    def merged(self, base: Path | None, sent: Mapping[str, str]) -> Iterator[_Found]:
        """Yield the files that there are now: those that the job wrote, then the given ones that it left.

        `base`: the given files, if the job's folder has only what differs from them; `sent`: files to leave out.
        """
        #: Paths where a given file, or a given folder, is no longer visible.
        hidden, folders = set(), set()
        with opened_folder(self._folder) as top:
            for found in _walk(top, self._globs, _enters, self._entries):
                if stat.S_ISDIR(found.status.st_mode):
                    folders.add(found.path)
                    if _hides(found):
                        hidden.add(found.path)
                    continue
                hidden.add(found.path)
                is_file = stat.S_ISREG(found.status.st_mode) and found.status.st_uid in self._owners
                if is_file and found.is_hit and found.path not in sent:
                    yield found
        if base is None:
            return
        with opened_folder(base) as top:
            shown = _walk(top, self._globs, lambda folder: folder.path not in hidden, self._entries)
            for found in shown:
                is_file = stat.S_ISREG(found.status.st_mode)
                if is_file and found.is_hit and found.path not in hidden | folders:
                    yield replace(found, is_given=True)


def _enters(found: _Found) -> bool:
    """Return whether a job's folder shows what is in it; let its owner open it."""
    open_up(found.folder, found.name)
    return _attribute(found, _RENAMED) is None


def _hides(found: _Found) -> bool:
    """Return whether the given folder below this one is not visible: it was deleted or renamed."""
    return _attribute(found, _OPAQUE) == b"y" or _attribute(found, _RENAMED) is not None


def _attribute(found: _Found, name: str) -> bytes | None:
    with contextlib.suppress(OSError), opened_folder(found.folder, found.name) as folder:
        return os.getxattr(folder, name)
    return None


class _Copy:
    """A new tree, made of hard links to the files of others."""

    def __init__(self, top: int, owner: int | None, budget: _Budget) -> None:
        self.files = 0
        self._top = top
        self._owner = owner
        self._budget = budget
        self._stack = contextlib.ExitStack()
        self._place: str | None = None
        self._here = top

    def close(self) -> None:
        """Close the current folder."""
        self._stack.close()

    def add(self, found: _Found) -> None:
        """Add a regular file at its path, unless that is taken by a file of another pattern."""
        self._budget.count(found.status)
        above = found.path.rpartition("/")[0]
        try:
            if above != self._place:
                self._stack.close()
                self._here = self._stack.enter_context(self._opened(above))
                self._place = above
            _link(found, self._here)
            if found.is_given or _adopt(found.name, self._here):
                self.files += 1
        except (FileExistsError, NotADirectoryError):
            self._place = None

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """Open the folder at `path`, made if it is absent."""
        names = path.split("/") if path else []
        with contextlib.ExitStack() as stack:
            here = stack.enter_context(opened_folder(self._top))
            for name in names:
                if not is_folder(here, name):
                    os.mkdir(name, 0o755, dir_fd=here)
                    with opened_folder(here, name) as made:
                        _own(made, self._owner)
                here = stack.enter_context(opened_folder(here, name))
            yield here


def _link(found: _Found, target: int) -> None:
    """Add a name of the file to the folder `target`, or a copy if there are too many names."""
    try:
        os.link(found.name, found.name, src_dir_fd=found.folder, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EPERM, errno.EXDEV):
            raise
        with (
            os.fdopen(os.open(found.name, FILE, dir_fd=found.folder), "rb") as original,
            os.fdopen(os.open(found.name, _NEW_FILE, 0o600, dir_fd=target), "wb") as copy,
        ):
            shutil.copyfileobj(original, copy)
            copy.flush()
            os.fchown(copy.fileno(), found.status.st_uid, found.status.st_gid)
            os.fchmod(copy.fileno(), stat.S_IMODE(found.status.st_mode) & 0o777)
            os.utime(copy.fileno(), ns=(found.status.st_atime_ns, found.status.st_mtime_ns))


def _adopt(name: str, folder: int) -> bool:
    """Take a job's file over: a regular one that others may only read; return whether it is one."""
    try:
        handle = os.open(name, FILE, dir_fd=folder)
    except OSError:  # closed even to its owner
        os.unlink(name, dir_fd=folder)
        return False
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            os.unlink(name, dir_fd=folder)
            return False
        wanted = 0o755 if mode & 0o111 else 0o644
        if stat.S_IMODE(mode) != wanted:
            os.fchmod(handle, wanted)
    finally:
        os.close(handle)
    return True


def _own(folder: int, owner: int | None) -> None:
    """Give a new folder to the jobs' user, who writes to it through an overlay."""
    if owner is not None:
        os.fchown(folder, owner, owner)


def _prefix(options: SubmitOptions) -> str:
    """Return what is before the paths of the project's files in the workspace."""
    return f"{options.project_folder}/" if options.project_folder else ""


def _globs(pattern: str, options: SubmitOptions) -> list[str]:
    """Return the globs below the workspace (or the home) that a pattern stands for."""
    folder = "" if keep.is_in_home(pattern) else options.project_folder
    return [globs.below(folder, glob) for glob in keep.below(pattern, options.cwd)]


def _is_sent(source: int, globs: Globs, prefix: str, sent: Mapping[str, str]) -> bool:
    """Return whether the client sends one of the files that a pattern names by themselves.

    Then the others are not given either: a database must not meet the log of another one.
    """
    return any(
        found.is_hit and stat.S_ISREG(found.status.st_mode) and prefix + found.path in sent
        for found in _walk(source, globs, lambda folder: not folder.is_hit)
    )


def _ended_in_order(job: Job) -> bool:
    """Return whether the job ran to its end: a script with any exit code, pytest with a result of its tests."""
    if job.status != "completed" or job.reason is not None:
        return False
    return job.options.script is not None or job.exit_code in _IN_ORDER
