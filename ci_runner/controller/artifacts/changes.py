"""Find out which files of the project a job created, changed or deleted.

With an overlay, its upper layer says so: it has the new and changed files, and marks for deletions, for folders that
replace others, and for folders that were renamed. Without one (the process engine) the job's copy is compared with the
tree that it was made from. Both were written by untrusted code: they are walked by descriptors, without following
links, bounded in number and depth; what is no regular file, or has a name that a workspace may not have, is an omission
and never a change. What is in a git repository is neither.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_runner.controller.artifacts.scan import Omissions
from ci_runner.model.path_checks import MAX_DEPTH, path_problem
from ci_runner.storage.safe_fs import FOLDER, Entry, Walk, opened_folder
from pytest_remote_ci.wire.changes import (
    CHANGED,
    CREATED,
    DELETED,
    ChangeKind,
    is_by_product,
    is_in_repository,
)

#: Maximum files and folders to visit. If there are more, nothing is said about deletions.
MAX_ENTRIES: Final = 200_000

#: Prefix of an overlay's attributes. Only root sees them, and no job can write them; those of users (`user.overlay.`)
#: are a job's own word, and would let it multiply a large folder in the runner's memory.
_PREFIX: Final = "trusted.overlay."
_RENAMED_UNSEEN: Final = (
    "was removed or renamed: what became of its files is not known, because the runner does not run as root"
)


@dataclass(frozen=True)
class Sent:
    """A file as it was submitted."""

    sha256: str
    executable: bool


@dataclass(frozen=True)
class Written:
    """A regular file that the job's layer or copy has."""

    size: int
    executable: bool


@dataclass(frozen=True)
class Odd:
    """Something that is no regular file, with the reason why it is no change."""

    problem: str


#: A folder: name → what is there.
Node = dict[str, "Node | Sent | Written | Odd"]


@dataclass(frozen=True)
class Candidate:
    """A file that may have changed; the content decides for a `CHANGED` one."""

    path: str
    kind: ChangeKind
    #: As submitted; None for a created file.
    before: Sent | None
    #: As the job left it: to be read, or, for a file of a renamed folder, a content that was submitted.
    after: Written | Sent | None


@dataclass(frozen=True)
class Original:
    """The project before the job ran."""

    #: Path → digest and executable bit of the submitted files.
    files: Mapping[str, Sent]
    #: Without an overlay: the tree that the job's copy was made from.
    tree: Path | None = None
    #: Without an overlay: path → (size, modification time) of files that were in the copy before the job ran, but
    #: were not submitted.
    prepared: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Found:
    """The result of a walk."""

    candidates: list[Candidate] = field(default_factory=list)
    omissions: Omissions = field(default_factory=Omissions)


def find(folder: Path, original: Original) -> Found:
    """Return what may have changed in the job's `folder`, sorted by path; nothing if the folder is gone."""
    found = Found()
    root = _tree(original.files)
    try:
        with opened_folder(folder) as top:
            if original.tree is None:
                view, complete = _merged(top, root, found.omissions)
            else:
                view, complete = _copied(top, root, original, found.omissions)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            found.omissions.add(f"cannot be read ({error.strerror})", "the project")
        return found
    for candidate in _difference(root, view):
        if (candidate.kind == DELETED and not complete) or is_in_repository(candidate.path):
            continue
        problem = path_problem(candidate.path)
        if problem is not None:
            found.omissions.add(problem, candidate.path)
        elif candidate.kind != CREATED or not is_by_product(candidate.path):
            found.candidates.append(candidate)
    for path, odd in sorted(_odd_ones(root, view), key=lambda item: item[0]):
        if not (is_by_product(path) or is_in_repository(path)):
            found.omissions.add(odd.problem, path)
    found.candidates.sort(key=lambda candidate: candidate.path)
    return found


def _tree(files: Mapping[str, Sent]) -> Node:
    root: Node = {}
    for path, sent in files.items():
        *folders, name = path.split("/")
        here = root
        for folder in folders:
            below = here.setdefault(folder, {})
            assert isinstance(below, dict), "a submitted path is not both a file and a folder"
            here = below
        here[name] = sent
    return root


def _walk(top: int, omissions: Omissions) -> tuple[Walk, Iterator[Entry]]:
    walk = Walk(top, limit=MAX_ENTRIES, depth=MAX_DEPTH)

    def entries() -> Iterator[Entry]:
        yield from walk
        if not walk.complete:
            omissions.add(
                f"and more: only {MAX_ENTRIES} files and {MAX_DEPTH} levels of folders are looked at, so nothing is "
                "known about deleted files",
                "the project",
            )

    return walk, entries()


# -- the upper layer of an overlay


@dataclass
class _Merged:
    """A folder as the job saw it: the upper layer's over the one below."""

    node: Node
    #: The folder of the submitted tree that shows through; None if none does.
    lower: tuple[str, ...] | None


def _merged(top: int, root: Node, omissions: Omissions) -> tuple[Node, bool]:
    """Return the project as the job left it, and whether that is all of it.

    Unchanged folders are the same objects as in `root`, so that a comparison can skip them.
    """
    folders = {"": _Merged(dict(root), ())}
    sees_marks = os.geteuid() == 0
    walk, entries = _walk(top, omissions)
    for entry in entries:
        above = folders.get(entry.path.rpartition("/")[0])
        if above is None:
            continue
        name, status = entry.name, entry.status
        if entry.is_folder:
            merged = _folder(entry, above, root)
            above.node[name] = merged.node
            folders[entry.path] = merged
        elif _is_deletion(status):
            gone = above.node.pop(name, None)
            if isinstance(gone, dict) and not sees_marks:
                above.node[name] = gone
                omissions.add(_RENAMED_UNSEEN, entry.path)
        else:
            above.node[name] = _leaf(status)
    return folders[""].node, walk.complete


def _folder(entry: Entry, above: _Merged, root: Node) -> _Merged:
    """Return what a folder of the upper layer shows."""
    opaque, redirect = _marks(entry)
    if redirect:
        parts = tuple(part for part in redirect.split("/") if part)
        if not redirect.startswith("/"):
            parts = (*above.lower, *parts) if above.lower is not None else ()
        origin = _at(root, parts) if parts and ".." not in parts else None
        return _Merged(dict(origin) if origin is not None else {}, parts)
    if opaque or above.lower is None:
        return _Merged({}, None)
    below = above.node.get(entry.name)
    return _Merged(dict(below) if isinstance(below, dict) else {}, (*above.lower, entry.name))


def _marks(entry: Entry) -> tuple[bool, str]:
    """Return whether nothing below the folder shows through, and from where it was renamed, else ""."""
    if os.geteuid() != 0:
        return False, ""
    try:
        handle = os.open(entry.name, FOLDER, dir_fd=entry.folder)
    except OSError:
        return False, ""
    try:
        opaque = _attribute(handle, f"{_PREFIX}opaque") == b"y"
        redirect = _attribute(handle, f"{_PREFIX}redirect")
    finally:
        os.close(handle)
    return opaque, os.fsdecode(redirect)


def _attribute(handle: int, name: str) -> bytes:
    try:
        return os.getxattr(handle, name)
    except (OSError, AttributeError):
        return b""


def _at(root: Node, parts: Iterable[str]) -> Node | None:
    here: Node = root
    for part in parts:
        below = here.get(part)
        if not isinstance(below, dict):
            return None
        here = below
    return here


def _is_deletion(status: os.stat_result) -> bool:
    """Return whether this is an overlay's mark of a deleted file or folder."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _leaf(status: os.stat_result) -> Written | Odd:
    if stat.S_ISREG(status.st_mode):
        return Written(status.st_size, bool(status.st_mode & 0o100))
    return Odd("is a link" if stat.S_ISLNK(status.st_mode) else "is not a regular file")


# -- a copy


def _copied(top: int, root: Node, original: Original, omissions: Omissions) -> tuple[Node, bool]:
    """Return the project as the job left its copy, and whether that is all of it."""
    folders: dict[str, Node] = {"": {}}
    walk, entries = _walk(top, omissions)
    for entry in entries:
        above = folders.get(entry.path.rpartition("/")[0])
        if above is None:
            continue
        if entry.is_folder:
            above[entry.name] = folders[entry.path] = {}
        elif not _was_prepared(entry, original):
            sent = original.files.get(entry.path)
            unchanged = sent is not None and _is_as_copied(entry, original.tree)
            above[entry.name] = sent if sent is not None and unchanged else _leaf(entry.status)
    return folders[""], walk.complete


def _was_prepared(entry: Entry, original: Original) -> bool:
    """Return whether a build made this file before the job ran, and the job left it alone."""
    if entry.path in original.files:
        return False
    return original.prepared.get(entry.path) == (entry.status.st_size, entry.status.st_mtime_ns)


def _is_as_copied(entry: Entry, tree: Path | None) -> bool:
    """Return whether size, mode and time are those of the file that it was copied from."""
    try:
        source = os.lstat(f"{tree}/{entry.path}")
    except OSError:
        return False
    status = entry.status
    return (status.st_size, status.st_mtime_ns, status.st_mode) == (
        source.st_size,
        source.st_mtime_ns,
        source.st_mode,
    )


def prepared_files(folder: Path, sent: Mapping[str, object]) -> dict[str, tuple[int, int]]:
    """Return the files in a job's copy, made before the job runs, that were not submitted; see `Original.prepared`."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with opened_folder(folder) as top:
            for entry in Walk(top, limit=MAX_ENTRIES, depth=MAX_DEPTH):
                if not entry.is_folder and entry.path not in sent:
                    found[entry.path] = (entry.status.st_size, entry.status.st_mtime_ns)
    except FileNotFoundError:
        pass
    return found


# -- comparing


def _difference(root: Node, view: Node) -> Iterator[Candidate]:
    """Yield the files in which two states of the project differ; folders that are one object are skipped."""
    pending: list[tuple[str, Node, Node]] = [("", root, view)]
    while pending:
        prefix, before, after = pending.pop()
        if before is after:
            continue
        for name in before.keys() | after.keys():
            path = prefix + name
            old, new = before.get(name), after.get(name)
            if old is new:
                continue
            below = old if isinstance(old, dict) else {}, new if isinstance(new, dict) else {}
            if any(below):
                pending.append((f"{path}/", *below))
            sent = old if isinstance(old, Sent) else None
            if isinstance(new, (Written, Sent)):
                if sent != new:
                    yield Candidate(path, CREATED if sent is None else CHANGED, sent, new)
            elif sent is not None and not isinstance(new, Odd):
                yield Candidate(path, DELETED, sent, None)


def _odd_ones(root: Node, view: Node) -> Iterator[tuple[str, Odd]]:
    pending: list[tuple[str, Node, Node]] = [("", root, view)]
    while pending:
        prefix, before, after = pending.pop()
        for name, new in after.items():
            old = before.get(name)
            if isinstance(new, Odd):
                yield prefix + name, new
            elif isinstance(new, dict) and new is not old:
                pending.append((f"{prefix}{name}/", old if isinstance(old, dict) else {}, new))
