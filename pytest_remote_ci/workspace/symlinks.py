"""Inspection of the selected paths: files as they are, links as links where what they lead to is sent, too.

A link within the project stays a link, even if it leads to nothing. One to a file that is not sent is sent as that
file, one to a folder as the selected files of that folder; archives for runners that know no links hold only such
copies. A link out of the project is refused, because its target does not exist on the runner.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.wire import control_characters
from pytest_remote_ci.workspace.project import is_there
from pytest_remote_ci.workspace.selection import VCS_NAMES, VENV_MARK, Selection

#: Links to folders can multiply files without limit (for example, twenty folders that each link twice to the next).
_MOST_FILES: Final = 200_000
#: Characters of a link's target.
_LONGEST_TARGET: Final = 1000


@dataclass(frozen=True)
class Found:
    """An existing file."""

    #: Absolute path of the content.
    source: str
    stat: os.stat_result
    executable: bool


@dataclass
class Findings:
    """All files by the path under which they are sent."""

    files: dict[str, Found] = field(default_factory=dict)
    #: Path of a symbolic link → its target, relative, in POSIX form.
    links: dict[str, str] = field(default_factory=dict)
    #: Empty folders.
    folders: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def find(
    root: Path, selection: Selection, left_out: Callable[[str], bool], *, copy_links: bool = False
) -> Findings:
    """Inspect the selected paths. Raises `WorkspaceError`.

    `left_out` returns whether a path below a link is excluded; `copy_links`: no link stays one.
    """
    return _Finder(root, selection, left_out, copy_links).find()


class _Finder:
    """One pass over a selection."""

    def __init__(
        self, root: Path, selection: Selection, left_out: Callable[[str], bool], copy_links: bool
    ) -> None:
        self._root = root
        self._copy_links = copy_links
        self._base = f"{root}{os.sep}" if not str(root).endswith(os.sep) else str(root)
        self._real = os.path.realpath(root)
        self._selection = selection
        self._left_out = left_out
        self._findings = Findings(warnings=list(selection.warnings))
        #: Link → its target folder, relative to the root ("" is the root itself).
        self._folder_links: dict[str, str] = {}
        self._outside: list[str] = []
        self._through_link: dict[str, bool] = {"": False}

    def find(self) -> Findings:
        links = []
        for path in self._selection.paths:
            if self._lies_behind_link(path.rpartition("/")[0]):
                continue  # the folder became a link; the link itself was selected, or is ignored
            try:
                known = os.lstat(self._base + path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # tracked, but deleted
            if stat.S_ISREG(known.st_mode):
                self._add(path, self._base + path, known)
            elif stat.S_ISLNK(known.st_mode):
                links.append(path)
        self._findings.folders = [
            path for path in sorted(self._selection.folders) if not self._lies_behind_link(path)
        ]
        if not self._copy_links:
            self._keep_links(links)
        for path in sorted(links):
            if path not in self._findings.links:
                self._resolve(path)
        if self._outside:
            raise WorkspaceError(self._refusal())
        self._expand_folders()
        return self._findings

    def _add(self, path: str, source: str, known: os.stat_result) -> None:
        on_disk = bool(known.st_mode & stat.S_IXUSR)
        executable = path in self._selection.executable if os.name == "nt" else on_disk
        self._findings.files[path] = Found(source, known, executable)
        if len(self._findings.files) > _MOST_FILES:
            raise WorkspaceError(
                f"more than {_MOST_FILES} files would be sent: leave folders out with `exclude`"
            )

    def _lies_behind_link(self, folder: str) -> bool:
        known = self._through_link.get(folder)
        if known is None:
            known = (
                self._lies_behind_link(folder.rpartition("/")[0]) or Path(self._base + folder).is_symlink()
            )
            self._through_link[folder] = known
        return known

    def _keep_links(self, paths: list[str]) -> None:
        """Find the links that stay links: their targets are in the project, and sent or not there at all."""
        targets = {path: target for path in paths if (target := self._target(path)) is not None}
        sent = {*self._findings.files, *self._findings.folders}
        for name in (*sent, *targets):
            while (name := name.rpartition("/")[0]) and name not in sent:
                sent.add(name)
        while True:  # links to links that do not stay links do not, either
            lost = [path for path in targets if not self._leads_to(path, targets, sent)]
            if not lost:
                break
            for path in lost:
                del targets[path]
        self._findings.links = dict(sorted(targets.items()))

    def _target(self, path: str) -> str | None:
        """Return a link's target, relative to its folder; None if it leads out of the project or cannot travel."""
        try:
            target = str(Path(self._base + path).readlink()).replace(os.sep, "/")
        except OSError:  # meanwhile something else
            return None
        folder = path.rpartition("/")[0]
        if Path(target).is_absolute():
            for root in (str(self._root), self._real):
                if target == root or target.startswith(f"{root}/"):
                    target = os.path.relpath(target, f"{root}/{folder}").replace(os.sep, "/")
                    break
            else:
                return None
        inside = os.path.normpath(f"{folder}/{target}" if folder else target).replace(os.sep, "/")
        if inside.split("/")[0] == ".." or not VCS_NAMES.isdisjoint(inside.split("/")):
            return None
        is_plain = not control_characters.holds_any(target) and "\\" not in target
        return target if is_plain and len(target) <= _LONGEST_TARGET else None

    def _leads_to(self, path: str, links: Mapping[str, str], sent: set[str]) -> bool:
        """Return whether what a link names is sent, too: a file, a folder, a link; or does not exist here."""
        folder = Path(self._base + path).parent
        if not os.path.lexists(f"{folder}/{links[path]}"):
            return True
        above, _, last = links[path].rstrip("/").rpartition("/")
        if last in ("..", "."):
            above, last = f"{above}/{last}".lstrip("/"), ""
        around = self._relative(os.path.realpath(f"{folder}/{above}"))
        named = None if around is None else f"{around}/{last}".strip("/")
        return named == "" or (named is not None and (named in sent or named in links))

    def _resolve(self, path: str) -> None:
        """Classify a link by its target: a file, a folder, outside of the project, nothing."""
        try:
            target = os.path.realpath(self._base + path, strict=True)
            known = Path(target).stat()
        except OSError:
            self._warn(path, "points to nothing")
            return
        relative = self._relative(target)
        if relative is None:
            if stat.S_ISDIR(known.st_mode) and is_there(Path(target) / VENV_MARK):
                self._warn(path, "points to a virtual environment")
            else:
                self._outside.append(path)
        elif stat.S_ISDIR(known.st_mode):
            self._folder_links[path] = relative
        elif stat.S_ISREG(known.st_mode):
            self._add(path, target, known)

    def _relative(self, target: str) -> str | None:
        """Return `target` relative to the root; None if it is outside or belongs to version control."""
        if target == self._real:
            return ""
        base = self._real if self._real.endswith(os.sep) else self._real + os.sep
        if not target.startswith(base):
            return None
        relative = target[len(base) :].replace(os.sep, "/")
        return None if not VCS_NAMES.isdisjoint(relative.split("/")) else relative

    def _expand_folders(self) -> None:
        files = sorted(self._findings.files)
        links = sorted(self._folder_links)
        for path in links:
            before = len(self._findings.files) + len(self._findings.warnings)
            self._expand(path, path, (path.rpartition("/")[0],), files, links)
            if len(self._findings.files) + len(self._findings.warnings) == before:
                self._warn(path, f"points to {self._folder_links[path]}, where nothing is sent")

    def _expand(
        self, link: str, path: str, chain: tuple[str, ...], files: list[str], links: list[str]
    ) -> None:
        """Add the content of the folder of `link` again under `path`; `chain` are the folders that led to it."""
        folder = self._folder_links[link]
        inside = f"{folder}/" if folder else ""
        if any(f"{place}/".startswith(inside) for place in (link.rpartition("/")[0], *chain)):
            self._warn(path, "points to a folder that contains it")
            return
        for file in _below(files, inside):
            name = f"{path}/{file[len(inside) :]}"
            if not self._left_out(name):
                entry = self._findings.files[file]
                self._add(name, entry.source, entry.stat)
        for inner in _below(links, inside):
            name = f"{path}/{inner[len(inside) :]}"
            if not self._left_out(name):
                self._expand(inner, name, (*chain, folder), files, links)

    def _warn(self, path: str, why: str) -> None:
        self._findings.warnings.append(f"{path}: left out, because the link {why}")

    def _refusal(self) -> str:
        names = ", ".join(self._outside)
        line = ", ".join(f'"/{path}"' for path in self._outside)
        plural = len(self._outside) > 1
        return (
            f"{'links point' if plural else 'a link points'} outside the project and cannot be sent: {names}; "
            f"leave {'them' if plural else 'it'} out with exclude = [{line}]"
        )


def _below(ordered: list[str], prefix: str) -> list[str]:
    """Return the members of a sorted list that begin with `prefix`."""
    if not prefix:
        return ordered
    start = bisect_left(ordered, prefix)
    end = start
    while end < len(ordered) and ordered[end].startswith(prefix):
        end += 1
    return ordered[start:end]
