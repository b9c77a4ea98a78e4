"""Apply what a job did to files of the project: at their places here, or not, with a reason.

The list is from the runner and the contents are from tests, so neither is trusted. A change is applied only if the file
here still has the content that was sent; code (`pytest_remote_ci.artifacts.code_files`) only if the developer names it;
nothing outside of the project, and through no link. Contents are downloaded beside their places and renamed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_remote_ci.artifacts import code_files, report_kinds, safe_fs
from pytest_remote_ci.artifacts.download import Artifact, Downloader, name_problem, shown
from pytest_remote_ci.wire.changes import CREATED, DELETED, Change
from pytest_remote_ci.wire.globs import Globs

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_remote_ci.client.client import Client

#: Names in one line.
MOST_NAMES: Final = 3
_PIECE: Final = 1 << 16


@dataclass(frozen=True)
class LocalFile:
    """What is at a place of the project."""

    #: Digest of a regular file; None if nothing is there.
    sha256: str | None = None
    executable: bool = False
    #: Whether its content is a program.
    is_program: bool = False
    #: Why nothing may be written there: a link, a folder.
    problem: str | None = None


@dataclass(frozen=True)
class Step:
    """A change, and whether it can be applied."""

    change: Change
    here: LocalFile
    #: Why it is not applied, as words that follow its path.
    problem: str | None = None
    #: Whether ``--force`` would apply it.
    is_conflict: bool = False
    #: Whether naming the file would apply it.
    needs_name: bool = False
    #: Whether the file here is already as the job left it.
    is_done: bool = False
    #: Whether it is applied with the job's executable bit.
    sets_mode: bool = False

    @property
    def is_due(self) -> bool:
        """Whether it is to be applied."""
        return self.problem is None and not self.is_done


@dataclass
class WriteBack:
    """Applies changes of one job to the project in `root`."""

    root: Path
    #: Path → digest as this process sent it; None: what the runner says it was sent.
    sent: Mapping[str, str] | None = None
    #: Apply changes also over files that changed here.
    force: bool = False
    #: Patterns of the developer that may name code.
    patterns: Sequence[str] = ()
    #: Decides on code that no pattern names.
    allows_code: Callable[[Change], bool] = field(default=lambda change: False)

    def plan(self, changes: Iterable[Change]) -> list[Step]:
        """Return a step for each change, in the order of paths."""
        return [self._step(change) for change in sorted(changes, key=lambda change: change.path)]

    def _step(self, change: Change) -> Step:
        problem = name_problem(change.path)
        if problem is not None:
            return Step(change, LocalFile(), f"is refused: it {problem}")
        here = read_local(self.root, change.path)
        if here.problem is not None:
            return Step(change, here, here.problem)
        is_named = any(code_files.is_named(pattern, change.path) for pattern in self.patterns)
        sets_mode = is_named and change.kind != DELETED and change.executable != here.executable
        if here.sha256 == change.sha256 and change.is_stored and not sets_mode:
            return Step(change, here, is_done=True)
        if not change.is_stored:
            return Step(change, here, "is too large: the runner has not stored it")
        is_code = here.is_program or code_files.is_code(change.path)
        if not is_named and is_code and not self.allows_code(change):
            return Step(change, here, "would be executed or obeyed here", needs_name=True)
        if not self.force and here.sha256 not in (self._before(change), change.sha256):
            words = "changed here since it was sent" if change.kind != CREATED else "exists here, too"
            words = "was deleted here since it was sent" if here.sha256 is None else words
            return Step(change, here, words, is_conflict=True)
        return Step(change, here, sets_mode=sets_mode)

    def _before(self, change: Change) -> str | None:
        return change.before if self.sent is None else self.sent.get(change.path)

    def apply(
        self,
        client: Client,
        job_id: str,
        steps: Iterable[Step],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[list[Change], list[str]]:
        """Apply the steps that are due; return the applied changes, and why others were not, one line each.

        Raises `ClientError`, OSError.
        """
        due = [step for step in steps if step.is_due]
        by_path = {step.change.path: step for step in due}
        problems: list[str] = []
        applied = []
        for step in due:
            if step.change.kind == DELETED:
                problem = self._delete(step)
                if problem is None:
                    applied.append(step.change)
                else:
                    problems.append(f"{shown(step.change.path)} {problem}")

        def finish(item: Artifact, file: Path) -> str | None:
            return self._late_problem(by_path[item.path], file)

        download = Downloader(client, job_id, progress, finish, problems=problems, is_archived=False)
        wanted = []
        for step in due:
            change = step.change
            if change.kind != DELETED and change.sha256 is not None:
                executable = change.executable if step.sets_mode else step.here.executable
                item = Artifact(change.path, change.size, change.sha256, executable)
                wanted.append((item, self.root / change.path))
        places = download.fetch(wanted, self.root).places
        for step in due:
            if step.change.path in places:
                applied.append(step.change)
                if step.sets_mode:
                    self._set_mode(step.change)
        return sorted(applied, key=lambda change: change.path), problems

    def _late_problem(self, step: Step, file: Path) -> str | None:
        """Return why a downloaded file is rejected after all."""
        path = step.change.path
        if read_local(self.root, path) != step.here:
            return "was changed here meanwhile"
        is_named = any(code_files.is_named(pattern, path) for pattern in self.patterns)
        if not is_named and code_files.may_hold_doctests(path):
            return report_kinds.doctest_problem(file, None if step.here.sha256 is None else self.root / path)
        return None

    def _delete(self, step: Step) -> str | None:
        path = step.change.path
        if read_local(self.root, path) != step.here:
            return "was changed here meanwhile"
        if step.here.sha256 is not None:
            *folders, name = path.split("/")
            with safe_fs.opened(self.root, folders) as folder:
                folder.remove(name)
        return None

    def _set_mode(self, change: Change) -> None:
        mask = os.umask(0)
        os.umask(mask)
        *folders, name = change.path.split("/")
        with safe_fs.opened(self.root, folders) as folder:
            folder.set_mode(name, (0o777 if change.executable else 0o666) & ~mask)


def read_local(root: Path, path: str) -> LocalFile:
    """Return what is at `path` below `root`; no link below `root` is followed, and nothing is made."""
    *folders, name = path.split("/")
    place = root
    try:
        for part in folders:
            place = place / part
            mode = place.lstat().st_mode
            if not stat.S_ISDIR(mode):
                return LocalFile(problem=f"is left alone: {part} in its path is {_kind(mode)} here")
        place = place / name
        status = place.lstat()
    except FileNotFoundError:
        return LocalFile()
    except OSError as error:
        return LocalFile(problem=f"is left alone: it cannot be read here ({error.strerror})")
    if not stat.S_ISREG(status.st_mode):
        return LocalFile(problem=f"is left alone: it is {_kind(status.st_mode)} here")
    try:
        with safe_fs.opened(root, folders) as folder:
            file = folder.open_regular(name)
            if file is None:
                return LocalFile(problem="is left alone: it is not a regular file here")
            hasher = hashlib.sha256()
            with file:
                head = piece = file.read(_PIECE)
                while piece:
                    hasher.update(piece)
                    piece = file.read(_PIECE)
    except OSError as error:
        return LocalFile(problem=f"is left alone: it cannot be read here ({error.strerror})")
    return LocalFile(hasher.hexdigest(), bool(status.st_mode & 0o100), code_files.is_program(head))


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    return "a folder" if stat.S_ISDIR(mode) else "not a regular file" if not stat.S_ISREG(mode) else "a file"


def matching(changes: Iterable[Change], patterns: Sequence[str]) -> list[Change]:
    """Return the changes that a pattern matches; all without patterns."""
    if not patterns:
        return list(changes)
    globs = Globs(patterns)
    return [change for change in changes if globs.match(change.path)]


def names(changes: Sequence[Change], most: int = MOST_NAMES) -> str:
    """Return the paths for a message, a few of many."""
    listed = ", ".join(shown(change.path) for change in changes[:most])
    return listed + (", …" if len(changes) > most else "")
