"""Mount points without mounting: the process engine's path replacement and its writable workspaces."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ci_runner.controller.engine import HOME, SPOOL, ContainerSpec, Overlay
from ci_runner.errors import PermanentError
from ci_runner.storage.safe_fs import FILE, Entry, Walk, is_folder, opened_folder

#: Marks a `job.json` with paths that are already replaced.
_MAPPED = "mapped"
#: Maximum depth of folders to copy: more than a workspace may have.
_MOST_LEVELS: Final = 200
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def mapping(spec: ContainerSpec, home: Path) -> dict[str, str]:
    """Return mount point → real path."""
    result = {bind.target: str(bind.source) for bind in spec.binds}
    result.update({overlay.target: str(overlay.upper) for overlay in spec.overlays()})
    result[HOME] = str(home)
    return result


def translator(places: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that replaces mount points in a text wherever they are (the beginning of) a path.

    ``/ci/spool`` is replaced in ``--out=/ci/spool/x`` and in ``file:///ci/spool``, but not in ``/data/ci/spool`` or
    ``/ci/spooler``. The deepest mount point wins; replacements are not replaced again.
    """
    targets = sorted(places, key=len, reverse=True)
    if not targets:
        return lambda text: text
    choice = "|".join(re.escape(target) for target in targets)
    pattern = re.compile(rf"(?:(?<=://)|(?<![\w.\-/]))(?:{choice})(?![\w\-]|\.\w)")
    return lambda text: pattern.sub(lambda match: places[match.group()], text)


def map_job(spec: ContainerSpec, translate: Callable[[str], str]) -> None:
    """Replace the paths in the spool's `job.json`, from which the worker reads its command."""
    spool = next((bind.source for bind in spec.binds if bind.target == SPOOL), None)
    if spool is None or not (spool / "job.json").is_file():
        return
    job = json.loads((spool / "job.json").read_text())
    if job.get(_MAPPED):
        return
    temporary = spool / ".job.json"
    mapped = {key: _translate(value, translate) for key, value in job.items()}
    temporary.write_text(json.dumps({**mapped, _MAPPED: True}))
    temporary.replace(spool / "job.json")


def _translate(value: object, translate: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return translate(value)
    if isinstance(value, list):
        return [_translate(item, translate) for item in value]
    if isinstance(value, dict):
        return {key: _translate(item, translate) for key, item in value.items()}
    return value


def materialise(overlay: Overlay) -> None:
    """Copy the layers into `upper`, the topmost winning, with modes and times; may be repeated.

    A build's output is hostile: only folders, plain files and links are copied, links are not followed, and anything
    deeper than a workspace may be raises `PermanentError`.
    """
    with opened_folder(overlay.upper.parent) as parent:
        if not is_folder(parent, overlay.upper.name):
            os.mkdir(overlay.upper.name, dir_fd=parent)
    with opened_folder(overlay.upper) as target:
        for lower in reversed(overlay.lowers):
            with opened_folder(lower) as source:
                _copy_tree(source, target)


def _copy_tree(source: int, target: int) -> None:
    walk = Walk(source, depth=_MOST_LEVELS)
    folders: list[tuple[str, os.stat_result]] = [("", os.fstat(source))]
    with contextlib.ExitStack() as stack:
        place, here = None, target
        for entry in walk:
            above = entry.path.rpartition("/")[0]
            if above != place:
                stack.close()
                here = stack.enter_context(opened_folder(target, *filter(None, above.split("/"))))
                place = above
            _copy(entry, here)
            if entry.is_folder:
                folders.append((entry.path, entry.status))
    if not walk.complete:
        raise PermanentError(
            f"the project cannot be copied: it changes meanwhile, or has folders more than {_MOST_LEVELS} levels deep"
        )
    for path, status in reversed(folders):  # copying into a folder changes its time
        with opened_folder(target, *filter(None, path.split("/"))) as folder:
            os.fchmod(folder, stat.S_IMODE(status.st_mode) | 0o700)
            os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy(entry: Entry, target: int) -> None:
    """Copy the entry into the folder `target`, replacing one of the same name."""
    name, mode = entry.name, entry.status.st_mode
    if entry.is_folder:
        if not is_folder(target, name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=target)
            os.mkdir(name, 0o700, dir_fd=target)
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        return
    _clear(target, name)
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=entry.folder), name, dir_fd=target)
        return
    with (
        os.fdopen(os.open(name, FILE, dir_fd=entry.folder), "rb") as original,
        os.fdopen(os.open(name, _NEW_FILE, 0o600, dir_fd=target), "wb") as copy,
    ):
        shutil.copyfileobj(original, copy)
        copy.flush()
        os.fchmod(copy.fileno(), stat.S_IMODE(mode) & 0o777)
        os.utime(copy.fileno(), ns=(entry.status.st_atime_ns, entry.status.st_mtime_ns))


def _clear(target: int, name: str) -> None:
    """Remove a name from the folder `target`; a folder of a lower layer with all its contents."""
    if not is_folder(target, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=target)
        return
    for folders in (False, True):
        with opened_folder(target, name) as top:
            entries = [entry.path for entry in Walk(top, depth=_MOST_LEVELS) if entry.is_folder == folders]
            for path in reversed(entries):
                *above, last = path.split("/")
                with opened_folder(top, *above) as folder:
                    os.rmdir(last, dir_fd=folder) if folders else os.unlink(last, dir_fd=folder)
    os.rmdir(name, dir_fd=target)
