"""Kept folders on disk: what a job leaves to the next job of the same user and project.

`environments/<scope>/kept/<project>/` has the file `project.json` and one folder per pattern, which holds `tree/`, the
files at their paths, and `info.json`. Only the runner can change any of them, and no container ever sees one: jobs get
hard links to the files in a folder of their own, below an overlay. So a file here never changes; a pattern's folder is
replaced as a whole. `controller/environments/keep.py` fills the folders; the server lists and clears them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from ci_runner.model.decode import trusted
from ci_runner.storage.data_dir import write_beside
from ci_runner.storage.safe_fs import Trash, move, opened_folder, read_plain_file
from ci_runner.storage.scopes import user_scope

_INFO: Final = "info.json"
_PROJECT: Final = "project.json"
#: Most bytes of one of these two files.
_LIMIT: Final = 1 << 20


@dataclass(frozen=True)
class Project:
    """Whose folders they are."""

    user_id: str | None
    #: The project's folder on the client.
    root: str
    #: The planned job of a pipeline; "" for a job of its own.
    job: str = ""

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return _hash(json.dumps([self.root, self.job]))


@dataclass(frozen=True)
class KeptFolder:
    """What is kept for one pattern."""

    root: str
    job: str
    pattern: str
    files: int
    #: Bytes, each file with its full size.
    size: int
    #: Seconds since the epoch when it was replaced last.
    at: float
    #: Why the last job's files did not replace it, as words that can follow the pattern; None if they did.
    problem: str | None = None


class KeptFolders:
    """The kept folders of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        """Set up the object without making a folder."""
        self._environments = data_dir / "environments"
        self._trash = Trash(data_dir / "trash")

    def find(self, user_id: str | None, root: str | None = None) -> list[KeptFolder]:
        """Return what is kept for a user, or for one of their projects, by project and pattern."""
        found = []
        for folder in self._projects(user_id, root):
            with contextlib.suppress(OSError), opened_folder(folder) as project:
                found += self._of_project(project)
        return sorted(found, key=lambda item: (item.root, item.job, item.pattern))

    def clear(self, user_id: str | None, root: str | None = None) -> int:
        """Remove what is kept for a user, or for one of their projects; return how many patterns had something.

        What jobs that have begun before leave behind is not kept either.
        """
        count = 0
        for folder in self._projects(user_id, root):
            with contextlib.suppress(FileNotFoundError), opened_folder(folder.parent) as parent:
                with contextlib.suppress(OSError), opened_folder(folder) as project:
                    count += sum(item.files > 0 for item in self._of_project(project))
                self._trash.hide(parent, folder.name)
        return count

    # -- for the controller
    def of(self, project: Project) -> list[KeptFolder]:
        """Return what is kept for one project, or one of its planned jobs."""
        with contextlib.suppress(OSError), opened_folder(self._folder(project)) as folder:
            return self._of_project(folder)
        return []

    def token(self, project: Project) -> str:
        """Return a text that differs after each `clear`; "" if nothing is kept."""
        with contextlib.suppress(OSError), opened_folder(self._folder(project)) as folder:
            return str(_read(folder, _PROJECT).get("token", ""))
        return ""

    @contextlib.contextmanager
    def opened(self, project: Project, pattern: str) -> Iterator[tuple[KeptFolder, int]]:
        """Open what is kept for a pattern, and count it as used now; yield it with the descriptor of its files.

        Raises FileNotFoundError if there is nothing.
        """
        with opened_folder(self._folder(project), _hash(pattern)) as folder:
            os.utime(_INFO, dir_fd=folder, follow_symlinks=False)
            with opened_folder(folder, "tree") as tree:
                yield _kept(project.root, project.job, _read(folder, _INFO)), tree

    @contextlib.contextmanager
    def making(self, project: Project) -> Iterator[Path]:
        """Yield a new folder with an empty folder `tree`, for `publish`; remove it afterwards."""
        shelf = self._folder(project).parent
        shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = shelf / f".tmp-{uuid.uuid4().hex}"
        folder.mkdir(mode=0o700)
        try:
            (folder / "tree").mkdir(mode=0o755)
            yield folder
        finally:
            self._trash.remove(folder)

    def publish(self, project: Project, made: Path, kept: KeptFolder, token: str) -> None:
        """Replace what is kept for a pattern by the folder `made`, unless there was a `clear` since `token`."""
        place = self._folder(project)
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
            _write(place, _PROJECT, {"root": project.root, "job": project.job, "token": uuid.uuid4().hex})
        with opened_folder(place) as folder, opened_folder(made.parent) as parent:
            if token not in ("", _read(folder, _PROJECT).get("token")):
                return
            _write(made, _INFO, _described(kept))
            name = _hash(kept.pattern)
            self._trash.hide(folder, name)
            move(parent, made.name, folder, name)

    def complain(self, project: Project, pattern: str, problem: str) -> None:
        """Note why a job's files did not replace what is kept."""
        place = self._folder(project) / _hash(pattern)
        with contextlib.suppress(OSError), opened_folder(place) as folder:
            _write(place, _INFO, {**_read(folder, _INFO), "problem": problem})
            return
        with self.making(project) as made:
            self.publish(project, made, describe(project, pattern, 0, 0, problem), "")

    def remove(self, project: Project, pattern: str) -> None:
        """Remove what is kept for a pattern."""
        with contextlib.suppress(FileNotFoundError), opened_folder(self._folder(project)) as folder:
            self._trash.hide(folder, _hash(pattern))

    def _folder(self, project: Project) -> Path:
        return self._environments / user_scope(project.user_id) / "kept" / project.name

    def _projects(self, user_id: str | None, root: str | None) -> list[Path]:
        shelf = self._environments / user_scope(user_id) / "kept"
        found = [path for path in shelf.iterdir() if path.name[0] != "."] if shelf.is_dir() else []
        return [path for path in sorted(found) if root is None or _root_of(path) == root]

    def _of_project(self, project: int) -> list[KeptFolder]:
        about, found = _read(project, _PROJECT), []
        for name in os.listdir(project):
            if name != _PROJECT:
                with (
                    contextlib.suppress(OSError, KeyError, ValueError),
                    opened_folder(project, name) as folder,
                ):
                    found.append(_kept(str(about["root"]), str(about["job"]), _read(folder, _INFO)))
        return found


def describe(project: Project, pattern: str, files: int, size: int, problem: str | None = None) -> KeptFolder:
    """Return the description of what a job leaves now."""
    return KeptFolder(project.root, project.job, pattern, files, size, time.time(), problem)


def _root_of(folder: Path) -> str | None:
    with contextlib.suppress(OSError), opened_folder(folder) as project:
        root = _read(project, _PROJECT).get("root")
        return root if isinstance(root, str) else None
    return None


class _Info(TypedDict):
    """The content of `info.json`; see `KeptFolder`."""

    pattern: str
    files: int
    bytes: int
    at: float
    problem: str | None


def _kept(root: str, job: str, info: Mapping[str, object]) -> KeptFolder:
    """Raises ValueError if it is not what `_described` returned."""
    found = trusted(info, _Info)
    return KeptFolder(
        root, job, found["pattern"], found["files"], found["bytes"], found["at"], found["problem"]
    )


def _described(kept: KeptFolder) -> _Info:
    return {
        "pattern": kept.pattern,
        "files": kept.files,
        "bytes": kept.size,
        "at": kept.at,
        "problem": kept.problem,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _read(folder: int, name: str) -> dict[str, object]:
    """Return a JSON object that only the runner can have written; {} if there is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(read_plain_file(folder, name, _LIMIT) or b"{}")
        if isinstance(found, dict):
            return found
    return {}


def _write(folder: Path, name: str, content: Mapping[str, object]) -> None:
    with write_beside(folder / name, json.dumps(content)) as made:
        made.replace(folder / name)
