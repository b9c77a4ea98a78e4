"""Which folder is the project: the one that is sent, and relative to which the configuration is read.

pytest's rootdir alone is not enough: a `pytest.ini` in `tests/` makes `tests/` the rootdir, and the sources
beside it would stay at home. Nothing here reads a configuration; `pytest_remote_ci.config.load` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_remote_ci.config.user_file import home_folder

#: What describes a project or its requirements: a folder with one of these is a project.
PROJECT_FILES: Final = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt")
#: What may lie in a project's root or below it: a folder with one of these is a project when none is above
#: it.
WEAK_PROJECT_FILES: Final = ("pytest.ini", "tox.ini", ".git")


def is_there(path: Path) -> bool:
    """Whether something can be seen at `path`; what may not be looked at is not there (`Path.exists` raises)."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def git_toplevel(folder: Path) -> Path | None:
    """The nearest folder from `folder` upwards that has a `.git` (a folder, or a file as in work trees)."""
    return next((candidate for candidate in (folder, *folder.parents) if is_there(candidate / ".git")), None)


def project_root(rootdir: Path, cwd: Path, home: Path | None = None) -> Path:
    """The project that a session with this `rootdir`, started in `cwd`, belongs to; an absolute path.

    The nearest folder from `rootdir` upwards with a file of `PROJECT_FILES`, else the nearest with one of
    `WEAK_PROJECT_FILES`, else `rootdir`. The climb ends at the top of the git work tree. Outside git it ends
    at the nearest folder with either kind of file, unless the user started pytest above it: then at `cwd`.
    The home folder and the file system's root are projects only when `rootdir` is that very folder and has a
    file of `PROJECT_FILES`: a stray file there, or a home folder under version control, must not send
    everything.
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
            return folder
        if weak is None and folder not in never and _has(folder, WEAK_PROJECT_FILES):
            weak = folder
        if folder == top:
            break
        if top is None and weak is not None and not (cwd != folder and folder.is_relative_to(cwd)):
            break
    return weak or rootdir


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return any(is_there(folder / name) for name in names)
