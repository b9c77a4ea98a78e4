"""Detection of the project: the folder that is sent and that contains the configuration.

pytest's rootdir alone is not enough: a `pytest.ini` in `tests/` makes `tests/` the rootdir, and the sources next to it
would not be sent. This module reads no configuration; `pytest_remote_ci.config.config` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_remote_ci.config.user_file import home_folder
from pytest_remote_ci.workspace import uv_workspace

#: Files that describe a project or its requirements: a folder with one of these is a project.
PROJECT_FILES: Final = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt")
#: Files that a project may have in its root or below it: a folder with one of these is a project only if no folder
#: above it is one.
WEAK_PROJECT_FILES: Final = ("pytest.ini", "tox.ini", ".git")


def is_there(path: Path) -> bool:
    """Return whether `path` exists. An inaccessible path counts as missing (for it, `Path.exists` raises)."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def git_toplevel(folder: Path) -> Path | None:
    """Return the nearest folder from `folder` upwards that has a `.git` (a folder, or a file as in work trees)."""
    return next((candidate for candidate in (folder, *folder.parents) if is_there(candidate / ".git")), None)


def project_root(rootdir: Path, cwd: Path, home: Path | None = None) -> Path:
    """Return the project of a session with this `rootdir`, started in `cwd`; an absolute path.

    It is the nearest folder from `rootdir` upwards with a file of `PROJECT_FILES`, else the nearest with one of
    `WEAK_PROJECT_FILES`, else `rootdir`. If it is a member of a uv workspace, the project is the whole workspace. The
    search ends at the top of the git work tree. Outside git, it ends at the
    nearest folder with either kind of file, unless the user started pytest above that folder: then it ends at `cwd`.
    The home folder and the file system's root are projects only if `rootdir` is that very folder and has a file of
    `PROJECT_FILES`. Otherwise a stray file there, or a home folder under version control, would cause everything to
    be sent.
    """
    rootdir, cwd = Path(rootdir).absolute(), Path(cwd).absolute()
    never = {Path(rootdir.anchor), home_folder() if home is None else home}
    weak: Path | None = None
    top = git_toplevel(rootdir)
    if top in never:
        top = None
    for folder in (rootdir, *rootdir.parents):
        if folder in never and folder != rootdir:
            break
        if _has(folder, PROJECT_FILES):
            return _workspace_of(folder, top, never) or folder
        if weak is None and folder not in never and _has(folder, WEAK_PROJECT_FILES):
            weak = folder
        if folder == top:
            break
        if top is None and weak is not None and not (cwd != folder and folder.is_relative_to(cwd)):
            break
    return weak or rootdir


def _workspace_of(folder: Path, top: Path | None, never: set[Path]) -> Path | None:
    """Return the root of the uv workspace that `folder` is a member of, if it may be sent."""
    above = []
    for candidate in folder.parents if folder != top else ():
        if candidate in never:
            break
        above.append(candidate)
        if candidate == top:
            break
    return uv_workspace.root_of_member(folder, above)


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return any(is_there(folder / name) for name in names)
