"""The folder for artifacts, separate from the project: git, pytest and unittest skip it.

Its files were made by tests: names that pytest would collect, a `conftest.py`, anything. So the folder's name begins
with a dot, and two files in it keep other tools out: `.gitignore`, and a `conftest.py` that makes pytest collect
nothing in it, regardless of the project's `norecursedirs` are.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pytest_remote_ci.artifacts import safe_fs
from pytest_remote_ci.config.config import COMMAND_LINE, Config
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.workspace.selection import VCS_NAMES

#: Default folder for artifacts: contains a folder for each job.
NAME: Final = ".remote-ci-artifacts"
#: Name → content of the files that keep other tools out.
_GUARDS: Final = {
    ".gitignore": "*\n",
    "conftest.py": (
        "# Made by pytest-remote-ci: jobs left these files behind, and pytest is to collect none of them.\n"
        'collect_ignore_glob = ["*"]\n'
    ),
}
#: Names that artifacts cannot have directly in a guarded folder: the last would make it a package.
_RESERVED: Final = frozenset({*_GUARDS, "__init__.py"})
#: Folders that pytest skips by name; other tools write into them.
_PASSED_OVER: Final = frozenset({"build", "dist", "node_modules", "venv"})


@dataclass(frozen=True)
class ArtifactFolder:
    """A folder for artifacts."""

    path: Path
    #: This folder, or one above it, chosen by the developer: below it no link is followed.
    trusted: Path
    #: The folder with the guard files: this one, or one above it.
    guarded: Path
    #: Whether a setting of the project names it: then it must be empty, ours, or skipped by name.
    is_configured: bool = False

    def below(self, name: str) -> ArtifactFolder:
        """Return the folder `name` in it."""
        return replace(self, path=self.path / plain_name(name))

    def name_problem(self, path: str) -> str | None:
        """Return a phrase, to follow `path`, why no such artifact may be stored here, else None."""
        if self.guarded == self.path and path.casefold() in _RESERVED:
            return "is refused: a file of this name keeps git and pytest out of the folder"
        return None

    def make(self) -> bool:
        """Make the folder and the guard files; return whether files in it may be replaced.

        They may not in a folder with the developer's own files. Raises OSError, and `ConfigError` if a setting of the
        project names such a folder.
        """
        own_name = self.guarded.name in _PASSED_OVER
        with safe_fs.opened(self.trusted, self.guarded.relative_to(self.trusted).parts) as folder:
            names = set(folder.names())
            is_ours = folder.read("conftest.py") == _GUARDS["conftest.py"].encode()
            if names and not (is_ours or own_name or self.guarded.name == NAME):
                if self.is_configured:
                    raise ConfigError(
                        f"artifacts-dir: {self.guarded} holds other files, and pytest could collect artifacts there as "
                        "tests; choose an empty folder"
                    )
                return False
            for name, text in _GUARDS.items():
                if not own_name and name not in names:
                    with contextlib.suppress(FileExistsError):
                        folder.write_new(name, text.encode())
        return True


def default(name: str, base: Path) -> ArtifactFolder:
    """Return the folder for artifacts of the job or run of that name, below `base`."""
    top = base / NAME
    return ArtifactFolder(top / plain_name(name), base, top)


def named(folder: Path) -> ArtifactFolder:
    """Return the folder that the command line names."""
    path = Path(os.path.normpath(folder.expanduser().absolute()))
    return ArtifactFolder(path, path, path)


def of(settings: Config, name: str, cwd: Path, root: Path) -> ArtifactFolder:
    """Return the configured folder (from a file: relative to the project `root`), else the default one."""
    if settings.artifacts_dir is None:
        return default(name, cwd)
    folder = Path(settings.artifacts_dir)
    if settings.origin("artifacts-dir") == COMMAND_LINE:
        return named(cwd / folder.expanduser())
    if not VCS_NAMES.isdisjoint(folder.parts):
        raise ConfigError(f"artifacts-dir: {folder} belongs to version control; choose another folder")
    path = Path(os.path.normpath(root / folder))
    return ArtifactFolder(path, root, path, is_configured=True)


def plain_name(name: str) -> str:
    """Return `name` as the name of one folder: unusual characters become ``_``."""
    plain = "".join(char if char.isalnum() or char in "-_.,=" else "_" for char in name)[:100]
    return f"_{plain[1:]}" if plain[:1] in ("", ".") else plain
