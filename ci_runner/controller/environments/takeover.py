"""Takeover of a build's files: checked by descriptors, closed to their maker, moved without following anything.

Call these functions only once all containers that could write to the files are gone.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from ci_runner.dependencies.project import Tree
from ci_runner.dependencies.project_layer import is_product
from ci_runner.errors import EnvironmentFailed
from ci_runner.storage.safe_fs import Walk, is_folder, open_up, opened_folder, set_folder_mode

#: Maximum entries of one environment.
MAX_ENTRIES: Final = 1_000_000
MAX_DEPTH: Final = 100


def take_ownership(parent: int, name: str, owner: int | None) -> None:
    """Check the tree `name` in the folder `parent`, made by a container with the uid `owner` (None: the runner's).

    Afterwards it has only folders, regular files and links, all of that owner, and none that others can write; its
    folders are the runner's. Raises `EnvironmentFailed` for anything else.
    """
    if not is_folder(parent, name):
        raise EnvironmentFailed("the build created no environment")
    allowed = {os.geteuid(), *([] if owner is None else [owner])}
    _own_folder(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False), allowed)
    with opened_folder(parent, name) as top:
        walk = Walk(top, MAX_ENTRIES, MAX_DEPTH)
        for entry in walk:
            if entry.is_folder:
                _own_folder(entry.folder, entry.name, entry.status, allowed)
            else:
                _own_file(entry.folder, entry.name, entry.status, allowed)
    if not walk.complete:
        raise EnvironmentFailed(
            f"the build created more than {MAX_ENTRIES} files, or folders more than {MAX_DEPTH} levels deep"
        )


def _own_folder(parent: int, name: str, found: os.stat_result, allowed: set[int]) -> None:
    if found.st_uid not in allowed:
        raise EnvironmentFailed("the build created a folder of another owner")
    if found.st_uid != os.geteuid():
        os.chown(name, os.geteuid(), os.getegid(), dir_fd=parent, follow_symlinks=False)
    if stat.S_IMODE(found.st_mode) != 0o755:
        set_folder_mode(parent, name, 0o755)


def _own_file(parent: int, name: str, found: os.stat_result, allowed: set[int]) -> None:
    if found.st_uid not in allowed:
        raise EnvironmentFailed("the build created a file of another owner")
    if stat.S_ISLNK(found.st_mode):
        return  # followed inside containers only
    if not stat.S_ISREG(found.st_mode):
        raise EnvironmentFailed("the build created something other than files, folders and links")
    wanted = 0o755 if found.st_mode & 0o111 else 0o644
    if stat.S_IMODE(found.st_mode) != wanted:
        os.chmod(name, wanted, dir_fd=parent)  # a regular file that can no longer be replaced


def keep_products(upper: int, target: int, tree: Tree, owner: int | None) -> None:
    """Move an editable install's files in the workspace from the overlay's folder `upper` to `target`.

    Files of the workspace that the build merely touched, marks of deletion, byte code, and folders with an overlay's
    attributes are left behind: they would hide the developer's files. `owner`: the uid of jobs.
    """
    allowed = {os.geteuid(), *([] if owner is None else [owner])}
    made = {""}
    walk = Walk(upper, MAX_ENTRIES, MAX_DEPTH)
    for entry in walk:
        if entry.is_folder:
            open_up(entry.folder, entry.name)
            continue
        mode = entry.status.st_mode
        is_file = stat.S_ISREG(mode) or stat.S_ISLNK(mode)
        if not is_file or not is_product(entry.path, tree) or entry.path.endswith(".pyc"):
            continue
        if entry.status.st_uid not in allowed:
            raise EnvironmentFailed("the build created a file of another owner")
        *folders, _ = entry.path.split("/")
        _make_folders(target, folders, made, owner)
        if stat.S_ISREG(mode) and mode & 0o7022:
            os.chmod(entry.name, stat.S_IMODE(mode) & 0o755, dir_fd=entry.folder)
        with opened_folder(target, *folders) as place:
            os.rename(entry.name, entry.name, src_dir_fd=entry.folder, dst_dir_fd=place)
    if not walk.complete:
        raise EnvironmentFailed(
            f"the build created more than {MAX_ENTRIES} files, or folders more than {MAX_DEPTH} levels deep"
        )


def _make_folders(target: int, names: list[str], made: set[str], owner: int | None) -> None:
    for depth in range(1, len(names) + 1):
        path = "/".join(names[:depth])
        if path in made:
            continue
        with opened_folder(target, *names[: depth - 1]) as parent:
            os.mkdir(names[depth - 1], 0o755, dir_fd=parent)
            if owner is not None:
                os.chown(names[depth - 1], owner, owner, dir_fd=parent, follow_symlinks=False)
        made.add(path)


def move_byte_code(made: int, environment: int, owner: int | None) -> int:
    """Move each byte code file below the folder `made` to the same place below `environment`; return how many.

    Moves only plain files of `owner`, and only into real folders of the environment: both sides have foreign files.
    """
    allowed = {os.geteuid(), *([] if owner is None else [owner])}
    moved = 0
    for entry in Walk(made, MAX_ENTRIES, MAX_DEPTH):
        if not entry.is_folder or entry.name != "__pycache__":
            continue
        *folders, _ = entry.path.split("/")
        with (
            contextlib.suppress(OSError),  # no such folder in the environment, or a link in its place
            opened_folder(environment, *folders) as place,
            opened_folder(entry.folder, entry.name) as source,
        ):
            moved += _move_byte_code_of_folder(source, place, allowed)
    return moved


def _move_byte_code_of_folder(source: int, place: int, allowed: set[int]) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir("__pycache__", 0o755, dir_fd=place)
    moved = 0
    with opened_folder(place, "__pycache__") as target:
        for name in os.listdir(source):
            found = os.stat(name, dir_fd=source, follow_symlinks=False)
            if name.endswith(".pyc") and stat.S_ISREG(found.st_mode) and found.st_uid in allowed:
                os.chmod(name, 0o644, dir_fd=source)
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
                moved += 1
    return moved
