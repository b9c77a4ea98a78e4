"""The workspace: the project's files as they are on disk now, their manifest, and zips of them.

`pytest_remote_ci.workspace.selection` names the candidates; this module inspects them. Links within the project stay
links. Secrets and links out of the project are refused; one message lists them all with the remedy. Files that have
disappeared meanwhile are left out. Sending is done by `pytest_remote_ci.client.client`.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import IO, Final

from pytest_remote_ci.config import user_file
from pytest_remote_ci.errors import WorkspaceChanged, WorkspaceError
from pytest_remote_ci.wire import control_characters, formats, protocol
from pytest_remote_ci.workspace import git_repository, path_sources, selection, zip_writer
from pytest_remote_ci.workspace.gitignore import PatternList
from pytest_remote_ci.workspace.stat_cache import StatCache
from pytest_remote_ci.workspace.symlinks import Found, find

__all__ = [
    "Beside",
    "Workspace",
    "WorkspaceChanged",
    "WorkspaceError",
    "WorkspaceFile",
    "collect",
    "collect_beside",
    "create_project_zip",
    "with_repository",
]

#: Most bytes of all that travels beside a project.
MAX_BESIDE: Final = 256 << 20
#: With more files than this of one kind below one folder, a message suggests one pattern for all of them.
_MOST_NAMES: Final = 3
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class WorkspaceFile:
    """One file to send."""

    #: Relative POSIX path under which it is sent.
    path: str
    #: Absolute path of its content on disk; differs from `path` for links.
    source: str
    #: One of `protocol.FILE_MODES`.
    mode: int
    #: Bytes.
    size: int
    #: Hexadecimal SHA-256.
    sha256: str
    #: Modification time in nanoseconds since the epoch.
    mtime_ns: int
    #: Line of the first debugger call in a Python file, if any.
    debugger: int | None = None


@dataclass(frozen=True)
class Beside:
    """Files that travel beside the project, as they are relative to the folder that both have in common."""

    #: Path of the project relative to that folder; "" if nothing travels beside it.
    project_folder: str = ""
    files: tuple[WorkspaceFile, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workspace:
    """The files of a project, sorted by path; returned by `collect`."""

    #: The project's folder, absolute.
    root: Path
    files: tuple[WorkspaceFile, ...]
    #: Descriptions of files that were left out, one line each, with the reason.
    warnings: tuple[str, ...] = ()
    #: Path of a symbolic link → its relative target.
    links: Mapping[str, str] = field(default_factory=dict)
    #: Empty folders.
    folders: tuple[str, ...] = ()
    #: The patterns that allow secrets.
    include: PatternList = field(default_factory=lambda: PatternList(()), repr=False, compare=False)
    #: Whether to send modification times, for options that sort by them.
    mtimes: bool = False
    #: What travels with the project.
    beside: Beside = Beside()

    @property
    def sent(self) -> tuple[WorkspaceFile, ...]:
        """All files, with the paths under which they are sent."""
        if not (self.beside.project_folder or self.beside.files):
            return self.files
        inside = (replace(file, path=self._sent(file.path)) for file in self.files)
        return tuple(sorted((*inside, *self.beside.files), key=lambda file: file.path))

    def _sent(self, path: str) -> str:
        folder = self.beside.project_folder
        return f"{folder}/{path}" if folder else path

    @property
    def size(self) -> int:
        """Total bytes of all files."""
        return sum(file.size for file in self.sent)

    def manifest(self) -> protocol.Manifest:
        """Return the manifest to send to the runner."""
        return protocol.Manifest(
            files=tuple(
                protocol.ManifestEntry(file.path, file.mode, file.size, file.sha256) for file in self.sent
            ),
            root=str(self.root) if os.name != "nt" else self.root.as_posix(),
            mtimes={file.path: file.mtime_ns for file in self.sent} if self.mtimes else {},
            links={
                **{self._sent(path): target for path, target in self.links.items()},
                **self.beside.links,
            },
            folders=tuple(sorted((*map(self._sent, self.folders), *self.beside.folders))),
        )

    @property
    def needs_manifest(self) -> bool:
        """Whether an archive cannot hold everything: links, empty folders, modification times, read-only files."""
        has_more = self.links or self.folders or self.beside.links or self.beside.folders
        return bool(self.mtimes or has_more) or any(not file.mode & 0o200 for file in self.sent)

    def digests(self) -> dict[str, int]:
        """Return digest → bytes for every content."""
        return {file.sha256: file.size for file in self.sent}

    def choose(self, paths: Iterable[str]) -> Workspace:
        """Return a workspace of exactly these paths; paths that are not in this one must be files below the root.

        Raises `WorkspaceError` for a path that cannot be added: a folder, a missing file, a secret.
        """
        chosen = set(paths)
        known = {file.path: file for file in self.files if file.path in chosen}
        added = chosen - known.keys()
        found = find(self.root, selection.Selection(paths=added), lambda path: False, copy_links=True)
        for path in sorted(added):
            parts = path.split("/")
            if path not in found.files or ".." in parts or "." in parts or "" in parts:
                raise WorkspaceError(f"{path}: cannot be added, because it is not a file below {self.root}")
        _refuse_bad_names(added)
        files, suspects = _read(found.files, StatCache(None, self.root))
        _refuse_secrets(suspects, self.include)
        return replace(self, files=tuple(sorted((*known.values(), *files), key=lambda file: file.path)))

    def write_zip(self, target: Path | IO[bytes], progress: zip_writer.Progress | None = None) -> None:
        """Write all files as one deterministic zip to a path or to a seekable binary file."""
        members = [
            zip_writer.Member(file.path, file.source, file.mode | 0o200, file.size) for file in self.sent
        ]
        _write(members, target, progress)

    def write_blobs(
        self, digests: Collection[str], target: Path | IO[bytes], progress: zip_writer.Progress | None = None
    ) -> None:
        """Write the contents with these digests as a zip, each named by its digest. Raises `WorkspaceChanged`."""
        wanted = set(digests)
        members = []
        for file in self.sent:
            if file.sha256 in wanted:
                wanted.discard(file.sha256)
                members.append(zip_writer.Member(file.sha256, file.source, 0o644, file.size, file.sha256))
        _write(members, target, progress)

    def by_size(self) -> list[WorkspaceFile]:
        """Return the files, largest first, with paths relative to the project."""
        folder = self.beside.project_folder
        beside = (
            replace(file, path=os.path.relpath(file.path, folder or ".").replace(os.sep, "/"))
            for file in self.beside.files
        )
        return sorted((*self.files, *beside), key=lambda file: (-file.size, file.path))

    def listing(self) -> Iterator[str]:
        """Yield lines for display: every file with its size, largest first, then the total."""
        for file in self.by_size():
            yield f"{formats.size(file.size):>10}  {file.path}"
        for path, target in self.links.items():
            yield f"{'link':>10}  {path} -> {target}"
        count = len(self.sent)
        yield f"{formats.size(self.size):>10}  in {count} file{'' if count == 1 else 's'}"


def collect(
    root: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_secrets: bool = False,
    use_cache: bool = True,
    cache_folder: Path | None = None,
    copy_links: bool = False,
    most_bytes: int | None = None,
) -> Workspace:
    """Return the workspace of the project in `root`, as it is now. Raises `WorkspaceError`.

    `include` and `exclude` are patterns in gitignore's syntax. `include` overrides `exclude`, and a pattern that
    names files also allows secrets. Digests are cached in `cache_folder`; None means the user's cache folder.
    `copy_links`: links are replaced by what they lead to, as far as that is in the project. `most_bytes`: limit for
    all files, checked before any is read.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 - links in the project's own path stay: it is shown to people
    if not root.is_dir():
        raise WorkspaceError(f"{root}: no such folder")
    included = PatternList.of(pattern for pattern in include if not _is_beside(pattern))
    excluded = PatternList.of(pattern for pattern in exclude if not _is_beside(pattern))
    found = find(
        root,
        selection.select(root, included, excluded),
        lambda path: excluded.covers(path) and not included.covers(path),
        copy_links=copy_links,
    )
    _refuse_bad_names((*found.files, *found.links, *found.folders))
    if most_bytes is not None:
        _refuse_size(sum(entry.stat.st_size for entry in found.files.values()), most_bytes)
    if use_cache and cache_folder is None:
        cache_folder = user_file.cache_folder()
    cache = StatCache(cache_folder if use_cache else None, root)
    files, suspects = _read(found.files, cache)
    cache.save()
    if not allow_secrets:
        _refuse_secrets(suspects, included)
    links = {_composed(path): _composed(target) for path, target in found.links.items()}
    folders = tuple(_composed(path) for path in found.folders)
    return Workspace(root, files, tuple(found.warnings), links, folders, included)


def collect_beside(
    outside: path_sources.Outside,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    cache_folder: Path | None = None,
) -> tuple[Beside, list[str]]:
    """Return what travels beside the project, and warnings. Raises `WorkspaceError`.

    Each folder is collected as a project of its own. A pattern that begins with its path from the project, such as
    ``../lib/data/``, is for it alone; others without a slash before their end leave files out of it, too.
    """
    files: dict[str, WorkspaceFile] = {}
    links: dict[str, str] = {}
    folders: set[str] = set()
    warnings: list[str] = []
    for place in outside.places:
        name = os.path.relpath(place, outside.top / outside.project_folder).replace(os.sep, "/")
        try:
            found = _collect_source(
                place,
                [_pattern_below(pattern, name) for pattern in include if _names(pattern, name)],
                [_pattern_below(pattern, name) for pattern in exclude if _applies(pattern, name)],
                MAX_BESIDE - sum(file.size for file in files.values()),
                cache_folder,
            )
        except WorkspaceError as error:
            raise WorkspaceError(
                f"{name}, a dependency that travels with the project: {error} (patterns for it begin with {name}/)"
            ) from error
        warnings += [f"{name}: {warning}" for warning in found.warnings]
        folder = os.path.relpath(found.root, outside.top).replace(os.sep, "/")
        prefix = "" if folder == "." else f"{folder}/"
        files.update({prefix + file.path: replace(file, path=prefix + file.path) for file in found.files})
        links.update({prefix + path: target for path, target in found.links.items()})
        folders.update(prefix + path for path in found.folders)
    own = f"{outside.project_folder}/"
    beside = Beside(
        outside.project_folder,
        tuple(file for path, file in sorted(files.items()) if not path.startswith(own)),
        {path: target for path, target in links.items() if path not in files and not path.startswith(own)},
        tuple(sorted(path for path in folders if not f"{path}/".startswith(own))),
    )
    return beside, warnings


def with_repository(
    workspace: Workspace, top: Path, folder: Path, exclude: Sequence[str] = ()
) -> tuple[Workspace, Sequence[str]]:
    """Return the workspace with a git repository for the work tree `top`, and lines for the developer.

    `folder` is an empty folder for the repository's files, which must stay until the workspace is sent. The work tree
    is below the folder that the project has in common with what travels beside it. Raises `WorkspaceError`.
    """
    project = workspace.root.relative_to(top).as_posix() if workspace.root != top else ""
    # Where the work tree is in the workspace, or the workspace in the work tree.
    place = workspace.beside.project_folder[: -len(project) or None].rstrip("/")
    manifest = workspace.manifest()
    prefix, inside = f"{place}/" if place else "", f"{project}/" if project else ""
    sent = (*(entry.path for entry in manifest.files), *manifest.links)
    excluded = PatternList.of(pattern for pattern in exclude if not _is_beside(pattern))
    allowing = PatternList(tuple(pattern for pattern in workspace.include.patterns if pattern.names_files))

    def of_project(path: str) -> str | None:
        return path[len(inside) :] if path.startswith(inside) else None

    def covers(path: str) -> bool:
        own = of_project(path)
        return own is not None and (not excluded.covers(own) or workspace.include.covers(own))

    def allows(path: str) -> bool:
        own = of_project(path)
        return own is not None and bool(allowing.decide(own, is_folder=False))

    paths = {path[len(prefix) :] for path in sent if path.startswith(prefix)}
    made = git_repository.make(top, folder, git_repository.Sent(paths, covers, allows))
    name = f"{prefix}.git"
    beside = replace(
        workspace.beside,
        files=(*workspace.beside.files, *_files_of(folder, made.files, name)),
        folders=(*workspace.beside.folders, *(f"{name}/{below}" for below in made.folders)),
    )
    return replace(workspace, beside=beside), made.notes


def _files_of(folder: Path, paths: Iterable[str], name: str) -> Iterator[WorkspaceFile]:
    """Yield the files of `folder`, which nothing else changes, as they are sent below `name`."""
    for path in paths:
        facts = (folder / path).stat()
        with (folder / path).open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        yield WorkspaceFile(
            f"{name}/{path}", str(folder / path), 0o644, facts.st_size, digest.hexdigest(), facts.st_mtime_ns
        )


def _collect_source(
    place: Path, include: Sequence[str], exclude: Sequence[str], most_bytes: int, cache_folder: Path | None
) -> Workspace:
    if place.is_dir():
        return collect(
            place, include=include, exclude=exclude, cache_folder=cache_folder, most_bytes=most_bytes
        )
    _refuse_size(place.stat().st_size, most_bytes)
    found = find(place.parent, selection.Selection(paths={place.name}), lambda path: False, copy_links=True)
    _refuse_bad_names(found.files)
    files, suspects = _read(found.files, StatCache(None, place.parent))
    _refuse_secrets(suspects, PatternList.of(include))
    return Workspace(place.parent, files)


def _is_beside(pattern: str) -> bool:
    """Return whether a pattern is for a folder beside the project."""
    return pattern.lstrip("!").startswith("../")


def _names(pattern: str, name: str) -> bool:
    return pattern.lstrip("!").startswith(f"{name}/")


def _applies(pattern: str, name: str) -> bool:
    return _names(pattern, name) or "/" not in pattern.rstrip("/")


def _pattern_below(pattern: str, name: str) -> str:
    """Return a pattern as it is for the folder `name` beside the project."""
    if not _names(pattern, name):
        return pattern
    negation = "!" if pattern.startswith("!") else ""
    return f"{negation}/{pattern.lstrip('!').removeprefix(f'{name}/')}"


def _refuse_size(size: int, most: int) -> None:
    if size > most:
        raise WorkspaceError(
            f"its files have {formats.size(size)}, and folders beside a project may have {formats.size(MAX_BESIDE)}; "
            "leave out what it does not need with `exclude`"
        )


def create_project_zip(
    directory: Path | str, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> bytes:
    """Return the zip of a project's files, in memory; an empty zip for an empty project. Raises `WorkspaceError`."""
    target = io.BytesIO()
    collect(Path(directory), include=include, exclude=exclude, copy_links=True).write_zip(target)
    return target.getvalue()


def _read(entries: dict[str, Found], cache: StatCache) -> tuple[tuple[WorkspaceFile, ...], dict[str, str]]:
    """Return the files with their facts, sorted by sent path, and the suspected secrets (path → kind)."""
    files = []
    suspects = {}
    # Tests of root write to read-only files as to any other, and in a job root has no such rights.
    obeys_modes = os.name != "nt" and os.geteuid() != 0
    for path, entry in entries.items():
        travels_as = _composed(path)
        try:
            facts = cache.facts(travels_as, entry.source, entry.stat)
        except (FileNotFoundError, NotADirectoryError):
            continue  # deleted since it was listed
        except OSError as error:
            raise WorkspaceError(
                f'{path}: cannot be read ({error.strerror}); leave it out with exclude = ["/{path}"]'
            ) from error
        if facts.secret is not None:
            suspects[path] = facts.secret
        is_read_only = obeys_modes and not entry.stat.st_mode & stat.S_IWUSR
        mode = protocol.file_mode((0o400 if is_read_only else 0o600) | (0o100 if entry.executable else 0))
        files.append(
            WorkspaceFile(
                travels_as,
                entry.source,
                mode,
                facts.size,
                facts.sha256,
                entry.stat.st_mtime_ns,
                facts.debugger,
            )
        )
    return tuple(sorted(files, key=lambda file: file.path)), suspects


def _composed(path: str, platform: str = sys.platform) -> str:
    """Normalise a path to NFC. macOS may decompose accents, which would be a different name on the runner."""
    if platform != "darwin" or path.isascii():
        return path
    import unicodedata

    return unicodedata.normalize("NFC", path)


def _refuse_bad_names(paths: Collection[str]) -> None:
    """Raise for names that are not UTF-8 text, as JSON requires, or that hold characters that control a terminal."""
    bad = []
    steering = []
    for path in paths:
        if not control_characters.holds_any(path):
            continue
        try:
            path.encode("utf-8")
        except UnicodeEncodeError:
            name = os.fsencode(path).decode("utf-8", "backslashreplace")
            bad.append(control_characters.escaped(name))
        else:
            steering.append(path)
    if steering:
        first = min(steering)
        more = f" (and {len(steering) - 1} more)" if len(steering) > 1 else ""
        raise WorkspaceError(
            f"{control_characters.escaped(first)}{more} cannot be sent: it {control_characters.name_problem(first)}; "
            f'rename it, or leave it out, for instance with exclude = ["/{_without_control(first)}"]'
        )
    if bad:
        pattern = bad[0].replace("\\", "?").split("?")[0]
        raise WorkspaceError(
            f"names that are not UTF-8 cannot be sent: {', '.join(sorted(bad))}; rename them, or leave them out, "
            f'for instance with exclude = ["/{pattern}*"]'
        )


def _without_control(path: str) -> str:
    """Return a pattern that matches `path` and can be printed and written into a TOML file."""
    return _quoted(
        "".join("?" if control_characters.holds_any(char) else _escaped(char) for char in path.rstrip(" "))
    )


def _refuse_secrets(suspects: dict[str, str], include: PatternList) -> None:
    """Raise for secrets that no `include` pattern allows by file names.

    The message lists all of them and the line that would allow them.
    """
    allowing = PatternList(tuple(pattern for pattern in include.patterns if pattern.names_files))
    refused = {
        path: what for path, what in sorted(suspects.items()) if not allowing.decide(path, is_folder=False)
    }
    if not refused:
        return
    named = "\n".join(f"  {path} looks like {what}" for path, what in refused.items())
    line = ", ".join(f'"{_quoted(pattern)}"' for pattern in _patterns_for(list(refused)))
    count = f"{len(refused)} files look" if len(refused) > 1 else "a file looks"
    raise WorkspaceError(
        f"{count} like secrets and nothing was sent:\n{named}\n"
        "Leave them out with `exclude`, or, if the tests need them, send them with this in [tool.remote-ci]:\n"
        f"  include = [{line}]"
    )


def _patterns_for(paths: list[str]) -> list[str]:
    """Return patterns that match all `paths`: one per name, or one for many of a kind below one folder."""
    kinds: dict[str, list[str]] = {}
    for path in paths:
        name = path.rpartition("/")[2]
        kinds.setdefault(f".{name.rpartition('.')[2]}" if "." in name[1:] else "", []).append(path)
    patterns = []
    for suffix, members in kinds.items():
        folders = {member.rpartition("/")[0] for member in members}
        levels = zip(*(folder.split("/") for folder in folders), strict=False)
        common = "/".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
        if suffix and common and len(members) > _MOST_NAMES:
            between = "/" if len(folders) == 1 else "/**/"
            patterns.append(f"/{_escaped(common)}{between}*{_escaped(suffix)}")
        else:
            patterns += [f"/{_escaped(member)}" for member in members]
    return patterns


def _escaped(text: str) -> str:
    """Return a pattern that matches `text` literally."""
    literal = "".join(f"\\{char}" if char in "*?[\\" else char for char in text)
    return f"{literal[:-1]}\\ " if literal.endswith(" ") else literal


def _quoted(text: str) -> str:
    """Return `text` escaped for a basic string of TOML."""
    return "".join(
        f"\\{char}" if char in '"\\' else char if char.isprintable() else f"\\u{ord(char):04x}"
        for char in text
    )


def _write(
    members: list[zip_writer.Member], target: Path | IO[bytes], progress: zip_writer.Progress | None
) -> None:
    if isinstance(target, Path):
        with target.open("w+b") as file:
            zip_writer.pack(members, file, progress)
    else:
        zip_writer.pack(members, target, progress)
