"""The folder for what jobs left behind, kept apart from the project: git, pytest and unittest pass over it.

What lies in it was made by tests: names that pytest would collect, a `conftest.py`, anything. So the folder's name
begins with a dot, and two files in it keep others out: `.gitignore`, and a `conftest.py` that lets pytest collect
nothing there, whatever the project's `norecursedirs` say.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pytest_remote_ci.artifacts import safe_fs
from pytest_remote_ci.config.load import COMMAND_LINE, Config
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.workspace.selection import VCS_NAMES

#: Where artifacts go unless somebody says otherwise: a folder per job in this one.
NAME: Final = ".remote-ci-artifacts"
#: Files that keep others out, and what is in them.
_GUARDS: Final = {
    ".gitignore": "*\n",
    "conftest.py": (
        "# Made by pytest-remote-ci: jobs left these files behind, and pytest is to collect none of them.\n"
        'collect_ignore_glob = ["*"]\n'
    ),
}
#: No artifact gets these names directly in a folder that is guarded: the last would make it a package.
_RESERVED: Final = frozenset({*_GUARDS, "__init__.py"})
#: Folders that pytest passes over by their names; others build in them.
_PASSED_OVER: Final = frozenset({"build", "dist", "node_modules", "venv"})


@dataclass(frozen=True)
class ArtifactFolder:
    """A folder for artifacts."""

    path: Path
    #: A folder above it, or itself, that the developer chose: from there on no link is followed.
    trusted: Path
    #: The folder to be guarded: itself, or one above it.
    guarded: Path
    #: Whether a setting of the project names it: then it must be empty, ours, or passed over by name.
    is_configured: bool = False

    def below(self, name: str) -> ArtifactFolder:
        """Return the folder `name` in it."""
        return replace(self, path=self.path / plain_name(name))

    def name_problem(self, path: str) -> str | None:
        """Say, in words that follow it, why no artifact `path` may lie here; None when it may."""
        if self.guarded == self.path and path.casefold() in _RESERVED:
            return "is refused: files of that name keep git and pytest out of the folder"
        return None

    def make(self) -> bool:
        """Make the folder, and what keeps others out; whether files in it may be replaced.

        They may not in a folder with files of the developer's own. Raises OSError, and `ConfigError` when a setting of
        the project names such a folder.
        """
        own_name = self.guarded.name in _PASSED_OVER
        with safe_fs.opened(self.trusted, self.guarded.relative_to(self.trusted).parts) as folder:
            names = set(folder.names())
            is_ours = folder.read("conftest.py") == _GUARDS["conftest.py"].encode()
            if names and not (is_ours or own_name or self.guarded.name == NAME):
                if self.is_configured:
                    raise ConfigError(
                        f"artifacts-dir: {self.guarded} holds other files, and pytest could take artifacts for tests "
                        "there: name a folder of their own"
                    )
                return False
            for name, text in _GUARDS.items():
                if not own_name and name not in names:
                    with contextlib.suppress(FileExistsError):
                        folder.write_new(name, text.encode())
        return True


def default(name: str, base: Path) -> ArtifactFolder:
    """Return the folder of the artifacts of a job, or of a run, of that name, below `base`."""
    top = base / NAME
    return ArtifactFolder(top / plain_name(name), base, top)


def named(folder: Path) -> ArtifactFolder:
    """Return the folder that the command line names."""
    path = Path(os.path.normpath(folder.expanduser().absolute()))
    return ArtifactFolder(path, path, path)


def of(settings: Config, name: str, cwd: Path, root: Path) -> ArtifactFolder:
    """Return the folder for artifacts as configured (by a file: relative to the project `root`), else the default."""
    if settings.artifacts_dir is None:
        return default(name, cwd)
    folder = Path(settings.artifacts_dir)
    if settings.origin("artifacts-dir") == COMMAND_LINE:
        return named(cwd / folder.expanduser())
    if not VCS_NAMES.isdisjoint(folder.parts):
        raise ConfigError(f"artifacts-dir: {folder} belongs to version control: name another folder")
    path = Path(os.path.normpath(root / folder))
    return ArtifactFolder(path, root, path, is_configured=True)


def plain_name(name: str) -> str:
    """Return `name` as the name of one folder: what is unusual in it becomes ``_``."""
    plain = "".join(char if char.isalnum() or char in "-_.,=" else "_" for char in name)[:100]
    return f"_{plain[1:]}" if plain[:1] in ("", ".") else plain
