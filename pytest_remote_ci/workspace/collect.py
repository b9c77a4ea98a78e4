"""The project as it is on disk now: the files that travel, their manifest, and the zips that carry them.

`pytest_remote_ci.workspace.selection` names the candidates; here they are looked at. Links become what they point to,
secrets and links that leave the project are refused, all of them in one message that says how to go on. What went
away in the meantime is left out. Sending is for `pytest_remote_ci.client.client`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import IO, Final

from pytest_remote_ci.config import user_file
from pytest_remote_ci.errors import WorkspaceChanged, WorkspaceError
from pytest_remote_ci.terminal import formats
from pytest_remote_ci.wire import control_characters, protocol
from pytest_remote_ci.workspace import selection, zip_writer
from pytest_remote_ci.workspace.gitignore import PatternList
from pytest_remote_ci.workspace.stat_cache import StatCache
from pytest_remote_ci.workspace.symlinks import Found, find

__all__ = [
    "Workspace",
    "WorkspaceChanged",
    "WorkspaceError",
    "WorkspaceFile",
    "collect",
    "create_project_zip",
]

#: More files of one kind below one folder than this are named by one pattern.
_MOST_NAMES: Final = 3


@dataclass(frozen=True)
class WorkspaceFile:
    """One file that travels."""

    #: Relative POSIX path under which it travels.
    path: str
    #: Absolute path of its content here; differs from `path` for links.
    source: str
    #: 0o644 or 0o755.
    mode: int
    #: Bytes.
    size: int
    #: Hexadecimal SHA-256.
    sha256: str
    #: Nanoseconds since the epoch.
    mtime_ns: int
    #: Line of the first call of a debugger in a Python file.
    debugger: int | None = None


@dataclass(frozen=True)
class Workspace:
    """The files of a project, sorted by path; made by `collect`."""

    #: The project's folder, absolute.
    root: Path
    files: tuple[WorkspaceFile, ...]
    #: What was left out and why, one line each.
    warnings: tuple[str, ...] = ()
    #: The patterns that allow secrets.
    include: PatternList = field(default_factory=lambda: PatternList(()), repr=False, compare=False)
    #: Whether modification times travel, for options that sort by them.
    mtimes: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def manifest(self) -> protocol.Manifest:
        """What the runner needs to know of the files."""
        return protocol.Manifest(
            files=tuple(
                protocol.ManifestEntry(file.path, file.mode, file.size, file.sha256) for file in self.files
            ),
            root=str(self.root) if os.name != "nt" else self.root.as_posix(),
            mtimes={file.path: file.mtime_ns for file in self.files} if self.mtimes else {},
        )

    def digests(self) -> dict[str, int]:
        """The digest of every content, and its bytes."""
        return {file.sha256: file.size for file in self.files}

    def choose(self, paths: Iterable[str]) -> Workspace:
        """The workspace of exactly these paths; what is not in this one yet must lie below the root.

        Raises `WorkspaceError` for a path that cannot be added: a folder, nothing at all, a secret.
        """
        chosen = set(paths)
        known = {file.path: file for file in self.files if file.path in chosen}
        added = chosen - known.keys()
        found = find(self.root, selection.Selection(paths=added), lambda path: False)
        for path in sorted(added):
            parts = path.split("/")
            if path not in found.files or ".." in parts or "." in parts or "" in parts:
                raise WorkspaceError(f"{path}: cannot be added, because it is no file below {self.root}")
        _refuse_bad_names(added)
        files, suspects = _read(found.files, StatCache(None, self.root))
        _refuse_secrets(suspects, self.include)
        return replace(self, files=tuple(sorted((*known.values(), *files), key=lambda file: file.path)))

    def write_zip(self, target: Path | IO[bytes], progress: zip_writer.Progress | None = None) -> None:
        """Write all files as one deterministic zip to a path or to a seekable binary file."""
        members = [zip_writer.Member(file.path, file.source, file.mode, file.size) for file in self.files]
        _write(members, target, progress)

    def write_blobs(
        self, digests: Collection[str], target: Path | IO[bytes], progress: zip_writer.Progress | None = None
    ) -> None:
        """Write the contents of some digests as a zip, each named by its digest; raises `WorkspaceChanged`."""
        wanted = set(digests)
        members = []
        for file in self.files:
            if file.sha256 in wanted:
                wanted.discard(file.sha256)
                members.append(zip_writer.Member(file.sha256, file.source, 0o644, file.size, file.sha256))
        _write(members, target, progress)

    def listing(self) -> Iterator[str]:
        """Lines for people: every file with its size, largest first, then the sum."""
        for file in sorted(self.files, key=lambda file: (-file.size, file.path)):
            yield f"{formats.size(file.size):>10}  {file.path}"
        count = len(self.files)
        yield f"{formats.size(self.size):>10}  in {count} file{'' if count == 1 else 's'}"


def collect(
    root: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_secrets: bool = False,
    use_cache: bool = True,
    cache_folder: Path | None = None,
) -> Workspace:
    """The workspace of the project in `root`, as it is now; raises `WorkspaceError`.

    `include` and `exclude` are patterns in gitignore's syntax; `include` beats `exclude`, and a pattern that names
    files also allows secrets. `cache_folder` is where digests are remembered; None means the user's.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 - links in the project's own path are kept: it is shown to people
    if not root.is_dir():
        raise WorkspaceError(f"{root}: no such folder")
    included, excluded = PatternList.of(include), PatternList.of(exclude)
    found = find(
        root,
        selection.select(root, included, excluded),
        lambda path: excluded.covers(path) and not included.covers(path),
    )
    _refuse_bad_names(found.files)
    if use_cache and cache_folder is None:
        cache_folder = user_file.cache_folder()
    cache = StatCache(cache_folder if use_cache else None, root)
    files, suspects = _read(found.files, cache)
    cache.save()
    if not allow_secrets:
        _refuse_secrets(suspects, included)
    return Workspace(root, files, tuple(found.warnings), included)


def create_project_zip(
    directory: Path | str, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> bytes:
    """The zip of a project's files, whole in memory; raises `WorkspaceError`. An empty project gives an empty zip."""
    target = io.BytesIO()
    collect(Path(directory), include=include, exclude=exclude).write_zip(target)
    return target.getvalue()


def _read(entries: dict[str, Found], cache: StatCache) -> tuple[tuple[WorkspaceFile, ...], dict[str, str]]:
    """The files with their facts, sorted by the path they travel under, and those that look like secrets."""
    files = []
    suspects = {}
    for path, entry in entries.items():
        travels_as = _composed(path)
        try:
            facts = cache.facts(travels_as, entry.source, entry.stat)
        except (FileNotFoundError, NotADirectoryError):
            continue  # went away since it was listed
        except OSError as error:
            raise WorkspaceError(
                f'{path}: cannot be read ({error.strerror}); leave it out with exclude = ["/{path}"]'
            ) from error
        if facts.secret is not None:
            suspects[path] = facts.secret
        mode = 0o755 if entry.executable else 0o644
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
    """macOS may spell accents as characters of their own, which would be another name on the runner."""
    if platform != "darwin" or path.isascii():
        return path
    import unicodedata

    return unicodedata.normalize("NFC", path)


def _refuse_bad_names(paths: Collection[str]) -> None:
    """Names must be text, which a manifest in JSON can hold, without characters that steer a terminal."""
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
    """Secrets travel only when a pattern that names files allows them; the message lists all and gives the line."""
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
        "Leave them out with `exclude`, or, when they are meant for tests, send them with this in [tool.remote-ci]:\n"
        f"  include = [{line}]"
    )


def _patterns_for(paths: list[str]) -> list[str]:
    """Patterns that match all `paths`: each by name, many of one kind below one folder together."""
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
    """`text` as a pattern that means it literally."""
    literal = "".join(f"\\{char}" if char in "*?[\\" else char for char in text)
    return f"{literal[:-1]}\\ " if literal.endswith(" ") else literal


def _quoted(text: str) -> str:
    """`text` as the inside of a basic string of TOML."""
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
