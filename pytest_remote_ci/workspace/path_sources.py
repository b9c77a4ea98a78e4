"""Dependencies that a project takes from folders of this machine (uv's sources, Poetry's paths, direct references).

Those beside the project travel with it: the workspace is then the folder that the project and its sources have in
common, with nothing else in it. A source that is missing or too far away is refused by name before anything is sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pytest_remote_ci.config import user_file
from pytest_remote_ci.errors import ConfigError, WorkspaceError

#: Groups and extras whose dependencies a job has unless something else is configured.
_USUAL: Final = frozenset({"test", "tests", "testing", "dev"})
_NAME: Final = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_FILE_URL: Final = re.compile(r"@\s*file:(?://)?([^\s;#]+)")
#: A line of a requirements file that names a folder or file.
_PATH_LINE: Final = re.compile(
    r"\s*(?:(?:-e|--editable)(?:\s*=\s*|\s+))?['\"]?((?:file:|\.{1,2}/|/)[^\s;#'\"\[]*|\.\.(?=$|[\s;#'\"\[]))"
)
_PROJECT_ROOT: Final = "${PROJECT_ROOT}"
#: Requirements files that a job usually has.
_REQUIREMENTS: Final = ("*requirements*.txt", "*requirements*.in", "requirements/*.txt", "requirements/*.in")
_NOT_FOR_TESTS: Final = re.compile(r"doc|lint|release|publish|format")
_MOST_BYTES: Final = 1 << 20
#: More sources, those of sources included, than any real project has.
_MOST_SOURCES: Final = 100


@dataclass(frozen=True)
class PathSource:
    """A dependency that lies in a folder or file of this machine."""

    name: str
    #: As it is spelt in the project's file.
    path: str
    #: The file that names it.
    file: Path


@dataclass(frozen=True)
class Choice:
    """What the project's settings choose to install; empty: what is usual."""

    requirements: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outside:
    """The sources beside a project."""

    #: The folder that the project and its sources have in common.
    top: Path
    #: Path of the project relative to it, in POSIX form; "" if there are no sources beside the project.
    project_folder: str = ""
    #: Absolute paths of folders and files.
    places: tuple[Path, ...] = ()

    def around(self, folder: Path) -> Outside:
        """Return the same in a workspace that reaches up to `folder`, which is the project or above it, at least."""
        if self.top.is_relative_to(folder) and self.top != folder:
            inner = (self.top / self.project_folder).relative_to(folder).as_posix()
            return replace(self, top=folder, project_folder=inner)
        return self


def outside(root: Path, choice: Choice = Choice(), home: Path | None = None) -> Outside:
    """Return the sources beside the project in `root`, and those that they take from beside themselves.

    Raises `WorkspaceError` for one that does not exist, or that has only the home folder, a folder above it, or the
    file system's root in common with the project.
    """
    found: dict[Path, PathSource] = {}
    pending = [root]
    while pending:
        folder = pending.pop()
        named = [*find(folder, choice if folder == root else Choice())]
        named += _in_requirements(root, choice) if folder == root else ()
        for source in named:
            place = Path(os.path.normpath(folder / source.path))
            if place in found or _is_below(place, root):
                continue
            if not place.exists():
                raise WorkspaceError(
                    f"{source.name} is taken from {source.path} (in {source.file}), which does not exist, so nothing "
                    "was sent"
                )
            found[place] = source
            if place.is_dir():
                pending.append(place)
            if len(found) > _MOST_SOURCES:
                raise WorkspaceError(f"{root}: more than {_MOST_SOURCES} dependencies are taken from paths")
    if not found:
        return Outside(root)
    top = root
    for place, source in found.items():
        top = _common(top, place, source, root, user_file.home_folder() if home is None else home)
    return Outside(top, root.relative_to(top).as_posix(), tuple(found))


def _common(top: Path, place: Path, source: PathSource, root: Path, home: Path) -> Path:
    """Return the folder that `top` and `place` have in common; raises `WorkspaceError` if it may not be a workspace."""
    try:
        common = Path(os.path.commonpath([top, place]))
    except ValueError:  # other drives of Windows
        common = Path(top.anchor)
    if common == Path(common.anchor) or home.is_relative_to(common):
        raise WorkspaceError(
            f"{source.name} is taken from {source.path} (in {source.file}), which has only {common} in common with "
            f"the project {root}, so nothing was sent: put both into one folder, or depend on a release or a git "
            "address"
        )
    return common


def _is_below(place: Path, root: Path) -> bool:
    return place.is_relative_to(root) or Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root))


def refuse_missing(root: Path, sent: Collection[str]) -> None:
    """Raise `WorkspaceError` for a source in the project in `root` of which nothing is among the paths `sent`."""
    for source in find(root):
        place = os.path.relpath(os.path.realpath(root / source.path), os.path.realpath(root)).replace(
            os.sep, "/"
        )
        if place == "." or place in sent or any(path.startswith(f"{place}/") for path in sent):
            continue
        if not place.startswith("../"):
            raise WorkspaceError(
                f"{source.name} is taken from {source.path}, of which nothing is sent: it does not exist, or is "
                f'ignored; `include = ["/{place}/"]` in [tool.remote-ci] sends it'
            )


def find(root: Path, choice: Choice = Choice()) -> Iterator[PathSource]:
    """Yield the sources that a job of the project in `root` needs, as far as its pyproject.toml shows them."""
    file = root / "pyproject.toml"
    try:
        pyproject = user_file.read_toml(file)
    except ConfigError:  # the settings in it have been read already
        return
    lines = list(_lines(pyproject, choice))
    sources = _table(pyproject, "tool", "uv", "sources")
    by_name = {_normalized(name): source for name, source in sources.items()}
    for line in lines:
        name = _NAME.match(line)
        if name is None:
            continue
        direct = _FILE_URL.search(line)
        if direct is not None:
            yield PathSource(name[1], unquote(direct[1]), file)
        for item in _list(by_name.get(_normalized(name[1]), [])):
            if isinstance(item, Mapping) and isinstance(item.get("path"), str) and not item.get("marker"):
                yield PathSource(name[1], item["path"], file)
    for dependency, value in _poetry(_table(pyproject, "tool", "poetry"), choice):
        for item in _list(value):
            if isinstance(item, Mapping) and isinstance(item.get("path"), str) and not item.get("optional"):
                yield PathSource(dependency, item["path"], file)
    for group, members in _table(pyproject, "tool", "pdm", "dev-dependencies").items():
        if group in _USUAL | set(choice.groups):
            yield from _of_lines((line for line in _list(members) if isinstance(line, str)), file)


def _in_requirements(root: Path, choice: Choice) -> Iterator[PathSource]:
    """Yield the sources in the requirements files that a job reads: the configured ones, or all without a lock."""
    pending = [root / name for name in choice.requirements]
    if not pending and not (root / "uv.lock").exists():
        pending = [
            file
            for pattern in _REQUIREMENTS
            for file in sorted(root.glob(pattern))
            if not _NOT_FOR_TESTS.search(file.name)
        ]
    seen: set[Path] = set()
    while pending and len(seen) < _MOST_SOURCES:
        file = Path(os.path.normpath(pending.pop(0)))
        if file in seen or not file.is_relative_to(root):
            continue
        seen.add(file)
        try:
            with file.open("rb") as opened:
                lines = opened.read(_MOST_BYTES).decode("utf-8-sig", "replace").splitlines()
        except OSError:
            continue
        nested = (re.match(r"\s*(?:-r|--requirement)(?:\s*=\s*|\s*)([^\s#]+)", line) for line in lines)
        pending += [file.parent / match[1] for match in nested if match is not None]
        yield from _of_lines(lines, file)


def _of_lines(lines: Iterable[str], file: Path) -> Iterator[PathSource]:
    for line in lines:
        match = _PATH_LINE.match(line)
        if match is None:
            continue
        path = unquote(re.sub(r"^file:(?:///?(?=\$\{)|//(?=/))?", "", match[1]))
        path = path.replace(_PROJECT_ROOT, ".", 1) if path.startswith(_PROJECT_ROOT) else path
        yield PathSource(path.rstrip("/").rpartition("/")[2] or path, path, file)


def _lines(pyproject: Mapping[str, object], choice: Choice) -> Iterator[str]:
    """Yield the requirement lines of the project, and of the chosen or usual groups and extras."""
    uv = _table(pyproject, "tool", "uv")
    found = [_table(pyproject, "project").get("dependencies"), uv.get("dev-dependencies")]
    defaults = {name for name in _list(uv.get("default-groups", [])) if isinstance(name, str)}
    for tables, names in (
        (_table(pyproject, "dependency-groups"), _USUAL | defaults | set(choice.groups)),
        (
            _table(pyproject, "project", "optional-dependencies"),
            (_USUAL - {"dev"}) | set(choice.extras),
        ),
    ):
        found += [lines for name, lines in tables.items() if name in names]
    for lines in found:
        if isinstance(lines, list):
            yield from (line for line in lines if isinstance(line, str))


def _poetry(poetry: Mapping[str, object], choice: Choice) -> Iterator[tuple[str, object]]:
    for name in ("dependencies", "dev-dependencies"):
        yield from _table(poetry, name).items()
    groups = _table(poetry, "group")
    for name in (_USUAL | set(choice.groups)).intersection(groups):
        yield from _table(groups, name, "dependencies").items()


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _table(content: object, *names: str) -> Mapping[str, object]:
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}
