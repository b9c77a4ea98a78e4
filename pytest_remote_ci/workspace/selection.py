"""Selection of the paths to send: all that git does not ignore or, without git, all that look like the project's own.

Without git, only the `.gitignore` in the root decides: an unpacked source distribution holds what its author shipped,
whatever the ignore files in its folders say. One with a `PKG-INFO` in its root was made of files that the author's
repository may ignore (compiled translations, a version file), so there none decides. A repository that git cannot read
obeys all its ignore files.

Only names are selected; `pytest_remote_ci.workspace.collect` inspects the files. Paths are relative to the project's
root, in POSIX form, as spelt by the operating system (names that are not UTF-8 contain surrogates). Only the parts
below the root matter, so a project below a hidden folder is treated like any other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace import git
from pytest_remote_ci.workspace.gitignore import PatternList
from pytest_remote_ci.workspace.project import git_toplevel, is_there

#: Folders of version control systems; never sent.
VCS_NAMES: Final = frozenset({".git", ".hg", ".svn", ".bzr", "_darcs", "CVS", ".jj"})
#: Written by tools for this machine; sent only if git tracks them or `include` names them.
CACHE_FOLDERS: Final = frozenset(
    {
        "__pycache__",
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".hypothesis",
        ".tox",
        ".nox",
        ".eggs",
        ".ipynb_checkpoints",
    }
)
#: Left out if there is no git to define the project's files.
OUTPUT_FOLDERS: Final = frozenset({"node_modules", ".cache", ".direnv"})
#: The same, but only in the project's root, and only if they are not packages.
ROOT_OUTPUT_FOLDERS: Final = frozenset({"build", "dist"})
#: The file that marks a virtual environment.
VENV_MARK: Final = "pyvenv.cfg"
#: The file that marks an unpacked source distribution.
SDIST_MARK: Final = "PKG-INFO"
_IGNORE_FILE: Final = ".gitignore"
#: Seconds that unpacking a source distribution takes at most.
_UNPACKING: Final = 300


#: Ignore files: (its folder with a slash, its patterns), outermost first; a folder above the root begins with a slash.
_Ignores: TypeAlias = tuple[tuple[str, PatternList], ...]


@dataclass
class Selection:
    """The paths that may be sent, before they are inspected."""

    #: Relative paths of files and links, which may have changed since.
    paths: set[str] = field(default_factory=set)
    #: The subset that is executable in git's index.
    executable: set[str] = field(default_factory=set)
    #: The subset that git tracks.
    tracked: set[str] = field(default_factory=set)
    #: Empty folders.
    folders: set[str] = field(default_factory=set)
    #: Messages for the user, one line each.
    warnings: list[str] = field(default_factory=list)


def select(root: Path, include: PatternList, exclude: PatternList) -> Selection:
    """Return the paths of the project in `root`. `include` overrides `exclude`, which overrides everything else."""
    selection = Selection()
    if not _add_from_git(selection, root, ""):
        _add_from_disk(selection, root, exclude)
    for path in [path for path in selection.paths if exclude.covers(path)]:
        selection.paths.discard(path)
    selection.folders = {path for path in selection.folders if not exclude.covers(path, is_folder=True)}
    if include:
        selection.paths.update(_included(root, include))
    return selection


def _add_from_git(selection: Selection, root: Path, prefix: str) -> bool:
    """Add the paths that git does not ignore below `root`, with `prefix` before each; False if git cannot."""
    top = git_toplevel(root)
    if top is None:
        return False
    try:
        listed, complaint = git.run(
            root, "ls-files", "-z", "-t", "-s", "--cached", "--others", "--exclude-standard"
        )
    except git.GitError as error:
        selection.warnings.append(f"{error}: sending everything except caches and what .gitignore ignores")
        return False
    if not listed and top != root:
        return False  # the work tree around the project ignores it, so its git does not apply
    selection.warnings += [f"git: {line}" for line in complaint.splitlines()]
    _parse(selection, listed, root, prefix)
    _add_empty_folders(selection, root, prefix)
    return True


def _add_empty_folders(selection: Selection, root: Path, prefix: str) -> None:
    """Add the empty folders that git does not ignore: it names folders of which it tracks nothing."""
    with contextlib.suppress(git.GitError):
        listed, _ = git.run(root, "ls-files", "-z", "--others", "--directory", "--exclude-standard")
        pending = [os.fsdecode(name) for name in listed.split(b"\0") if name.endswith(b"/")]
        while pending:
            folder = pending.pop()
            if folder == "./" or is_there(root / folder / ".git"):
                continue
            entries = _entries(root, folder)
            if not entries:
                selection.folders.add(prefix + folder[:-1])
            pending += [
                f"{folder}{entry.name}/"
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
                and entry.name not in VCS_NAMES | CACHE_FOLDERS
                and not _is_environment(entry.path)
            ]


def _parse(selection: Selection, output: bytes, root: Path, prefix: str) -> None:
    """Add the records of ``git ls-files -z -t -s``; nested repositories and submodules are listed in turn."""
    untracked: list[str] = []
    nested: list[tuple[str, bool]] = []
    for record in output.split(b"\0")[:-1]:
        if record.startswith(b"? "):
            path = os.fsdecode(record[2:])
            if path.endswith("/"):
                nested.append((path[:-1], False))
            else:
                untracked.append(path)
            continue
        facts, _, name = record[2:].partition(b"\t")
        path = os.fsdecode(name)
        if facts.startswith(b"160000"):
            nested.append((path, True))
            continue
        selection.paths.add(prefix + path)
        selection.tracked.add(prefix + path)
        if facts.startswith(b"100755"):
            selection.executable.add(prefix + path)
    environments = {path.removesuffix(VENV_MARK) for path in untracked if path.endswith(f"/{VENV_MARK}")}
    for path in untracked:
        if not _is_machine_local(path, environments):
            selection.paths.add(prefix + path)
    for path, is_submodule in nested:
        _add_nested(selection, root / path, f"{prefix}{path}/", is_submodule)


def _is_machine_local(path: str, environments: set[str]) -> bool:
    """Return whether an untracked file is in a cache or a virtual environment.

    `environments` are the folders of virtual environments, with a trailing slash.
    """
    folders = path.split("/")[:-1]
    if not CACHE_FOLDERS.isdisjoint(folders):
        return True
    return bool(environments) and any(path.startswith(environment) for environment in environments)


def _add_nested(selection: Selection, folder: Path, prefix: str, is_submodule: bool) -> None:
    if is_there(folder / ".git"):
        if not _add_from_git(selection, folder, prefix):
            _add_from_disk(selection, folder, PatternList.of([]), prefix)
    elif is_submodule and folder.is_dir() and not any(folder.iterdir()):
        selection.warnings.append(
            f"submodule {prefix[:-1]} is empty here; fetch it with: git submodule update --init"
        )
    elif folder.is_dir() and not folder.is_symlink():
        _add_from_disk(selection, folder, PatternList.of([]), prefix)


def _add_from_disk(selection: Selection, root: Path, exclude: PatternList, prefix: str = "") -> None:
    """Add the paths below `root`, except caches, environments, outputs and ignored files."""
    rules = _IgnoreRules.of(root)
    is_shipped = not rules.everywhere and is_there(root / SDIST_MARK)
    pending: list[tuple[str, _Ignores]] = [("", rules.above)]
    while pending:
        folder, ignores = pending.pop()
        entries = _entries(root, folder)
        if not entries and folder:
            selection.folders.add(prefix + folder[:-1])
        if any(entry.name == _IGNORE_FILE and entry.is_file() for entry in entries):
            patterns = _read_ignore_file(root / folder / _IGNORE_FILE)
            is_output = folder and not rules.everywhere and _is_of_tool(patterns)
            if is_output and not (is_shipped and _is_as_old_as_mark(root, folder)):
                continue
            if patterns and rules.obeys(folder) and not is_shipped:
                ignores = (*ignores, (folder, patterns))
        for entry in entries:
            path = folder + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name in VCS_NAMES or entry.name == ".DS_Store":
                continue
            if is_folder and (_is_output(entry, folder) or exclude.decide(path, is_folder=True)):
                continue
            if _is_ignored(path, is_folder, ignores):
                continue
            if is_folder:
                pending.append((path + "/", ignores))
            else:
                selection.paths.add(prefix + path)


def _entries(root: Path, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root / folder) as found:
            return list(found)
    except FileNotFoundError:  # deleted while walking
        return []
    except OSError as error:
        name = folder.rstrip("/") or str(root)
        raise WorkspaceError(
            f'{name}: cannot be read ({error.strerror}); leave it out with exclude = ["{name}/"]'
        ) from error


def _is_output(entry: os.DirEntry[str], folder: str) -> bool:
    name = entry.name
    if (
        name in CACHE_FOLDERS
        or name in OUTPUT_FOLDERS
        or name.endswith(".egg-info")
        or _is_environment(entry.path)
    ):
        return True
    return not folder and name in ROOT_OUTPUT_FOLDERS and not is_there(Path(entry.path) / "__init__.py")


def _is_environment(folder: str) -> bool:
    return is_there(Path(folder) / VENV_MARK)


def _is_ignored(path: str, is_folder: bool, ignores: _Ignores) -> bool:
    """Return the decision of the nearest ignore file that has one; False if none has."""
    for folder, patterns in reversed(ignores):
        if folder.startswith("/"):  # above the root: match the path as seen from there
            decided = patterns.decide(folder[1:] + path, is_folder)
        else:
            decided = patterns.decide(path[len(folder) :], is_folder)
        if decided is not None:
            return decided
    return False


def decided_by_ignore_files(root: Path, path: str) -> bool:
    """Return whether the ignore files here ignore the file `path`, which need not exist, or a folder around it.

    The root's file decides in a source distribution, too: a file that a job made was not shipped with it.
    """
    parts = path.split("/")
    rules = _IgnoreRules.of(root)
    ignores = rules.above
    for depth in range(len(parts)):
        folder = "".join(f"{part}/" for part in parts[:depth])
        patterns = _read_ignore_file(root / folder / _IGNORE_FILE)
        if folder and not rules.everywhere and _is_of_tool(patterns):
            return True
        if patterns and rules.obeys(folder):
            ignores = (*ignores, (folder, patterns))
        if _is_ignored(folder + parts[depth], depth < len(parts) - 1, ignores):
            return True
    return False


def _is_of_tool(patterns: PatternList) -> bool:
    """Return whether a folder with these patterns is the output of a tool: they ignore all in it, and themselves.

    Coverage's reports and many caches are such folders. Those that a build makes can be in a source distribution.
    """
    return (
        patterns.covers(_IGNORE_FILE)
        and not any(pattern.negated for pattern in patterns.patterns)
        and (patterns.covers("any name"))
    )


def _is_as_old_as_mark(root: Path, folder: str) -> bool:
    """Return whether the ignore file in `folder` was unpacked with the source distribution, not made later here.

    Archives keep the times of files, and the mark is made last; who does not restore them unpacks within minutes.
    """
    with contextlib.suppress(OSError):
        made = (root / folder / _IGNORE_FILE).stat().st_mtime
        return made <= (root / SDIST_MARK).stat().st_mtime + _UNPACKING
    return False


def is_ignored_by_git(root: Path) -> bool:
    """Return whether the work tree around the project ignores it as a whole, so that its git does not apply."""
    if git_toplevel(root) in (None, root):
        return False
    listed, _ = git.run(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return not listed


@dataclass(frozen=True)
class _IgnoreRules:
    """Which ignore files of a folder decide, where git does not."""

    #: Those above the folder, up to the top of its work tree, outermost first.
    above: _Ignores = ()
    #: Whether those below the folder decide, too.
    everywhere: bool = False

    @classmethod
    def of(cls, root: Path) -> _IgnoreRules:
        """Return the rules: all files in a work tree, unless it ignores `root` itself; else only the one in `root`."""
        top = git_toplevel(root)
        if top is None:
            return cls()
        above: list[tuple[str, PatternList]] = []
        for folder in root.parents if top != root else ():
            patterns = _read_ignore_file(folder / _IGNORE_FILE)
            if patterns.covers(root.relative_to(folder).as_posix(), is_folder=True):
                return cls()
            if patterns:
                above.append((f"/{root.relative_to(folder).as_posix()}/", patterns))
            if folder == top:
                break
        return cls(tuple(reversed(above)), everywhere=True)

    def obeys(self, folder: str) -> bool:
        """Return whether the ignore file in `folder` decides; "" is the root."""
        return self.everywhere or not folder


def _read_ignore_file(file: Path) -> PatternList:
    try:
        text = file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    except OSError:
        return PatternList.of([])
    return PatternList.of(text.split("\n"))


def _included(root: Path, include: PatternList) -> Iterator[str]:
    """Yield files that `include` names, even ignored ones.

    Environments and caches are searched only if `include` names them.
    """
    prefixes = [
        f"{pattern.prefix}/" if pattern.prefix else "" for pattern in include.patterns if not pattern.negated
    ]
    starts = {
        prefix
        for prefix in prefixes
        if not any(other != prefix and prefix.startswith(other) for other in prefixes)
    }
    pending = [start for start in starts if (root / start).is_dir()]
    while pending:
        folder = pending.pop()
        for entry in _entries(root, folder):
            path = folder + entry.name
            if entry.name in VCS_NAMES:
                continue
            if not entry.is_dir(follow_symlinks=False):
                if include.covers(path):
                    yield path
                continue
            local = entry.name in CACHE_FOLDERS or entry.name in OUTPUT_FOLDERS or _is_environment(entry.path)
            if local and not _is_named(path, include, prefixes):
                continue
            pending.append(path + "/")


def _is_named(folder: str, include: PatternList, prefixes: Sequence[str]) -> bool:
    """Return whether a pattern names this very folder or a folder in it."""
    return include.decide(folder, is_folder=True) is True or any(
        prefix.startswith(f"{folder}/") for prefix in prefixes
    )
