"""Rules for file names in a workspace: safe, unambiguous, bounded.

The same rules apply to archives and manifests. A name is refused, never repaired: the container must get exactly the
developer's files.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from ci_runner.errors import InvalidSubmission
from pytest_remote_ci.wire import control_characters

#: Bytes of UTF-8: Linux's limit for a file name, and a little less than its limit for a path.
MAX_PART_BYTES: Final = 255
MAX_PATH_BYTES: Final = 1024
#: Maximum number of folders around a file.
MAX_DEPTH: Final = 64

_DRIVE = re.compile(r"[A-Za-z]:")


def check_paths(
    what: str,
    paths: Iterable[str],
    *,
    max_files: int,
    links: Mapping[str, str] = MappingProxyType({}),
    folders: Iterable[str] = (),
) -> None:
    """Refuse unsafe, ambiguous or too many names, with a message that begins with `what`.

    `links` are symbolic links with their targets; nothing may lie below one. `folders` are empty folders.
    Raises `InvalidSubmission`.
    """
    # NUL sorts a folder before its contents.
    names = [(path.replace("/", "\0"), path) for path in (*paths, *links)]
    # Below an empty folder is a name that nothing else has, so it counts as a folder.
    names += [(f"{path.replace('/', chr(0))}\0", path) for path in folders]
    for _, path in names:
        problem = path_problem(path)
        if problem is not None:
            raise _refusal(what, path, problem)
    for path, target in links.items():
        problem = target_problem(path, target)
        if problem is not None:
            raise _refusal(what, path, problem)
    if len(names) > max_files:
        raise InvalidSubmission(f"{what}: has {len(names)} files; this runner accepts at most {max_files}")
    names.sort()
    found = 0
    before: tuple[str, str] = ("", "")
    for key, path in names:
        if key == before[0]:
            raise _refusal(what, path, "occurs twice")
        if before[0].endswith("\0") and key.startswith(before[0]):
            raise _refusal(what, before[1], "is not an empty folder")
        if before[0] and key.startswith(before[0] + "\0"):
            kind = "a link" if before[1] in links else "a file"
            raise _refusal(what, path, f"is below {shown(before[1])}, which is {kind}")
        found += _new_folders(before[0], key)
        before = key, path
    if found > max_files:
        raise InvalidSubmission(f"{what}: has {found} folders; this runner accepts at most {max_files}")


def target_problem(path: str, target: str) -> str | None:
    """Return why the link `path` may not have this target, or None if it may.

    A target is relative and, as text, does not lead out of the project. Only a job follows it, in its own container.
    """
    if not target or target.startswith("/") or _DRIVE.match(target) or "\\" in target:
        return f"is a link to {shown(target)}, which is not a relative path"
    if control_characters.holds_any(target) or "\0" in target:
        return "is a link whose target has control characters"
    try:
        length = len(target.encode())
    except UnicodeEncodeError:
        return "is a link whose target is not valid Unicode"
    if length > MAX_PATH_BYTES:
        return f"is a link whose target is longer than {MAX_PATH_BYTES} bytes"
    if posixpath.normpath(posixpath.join(posixpath.dirname(path), target)).split("/")[0] == "..":
        return f"is a link to {shown(target)}, outside of the project"
    return None


def path_problem(path: str) -> str | None:
    """Return why `path` may not be the name of a workspace's file, or None if it may."""
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if length > MAX_PATH_BYTES:
        return f"has a name longer than {MAX_PATH_BYTES} bytes"
    for text, problem in (("\0", "has a NUL in its name"), ("\\", "has a backslash in its name")):
        if text in path:
            return problem
    if control_characters.holds_any(path):
        return control_characters.name_problem(path)
    if path.startswith("/"):
        return "has an absolute path"
    if _DRIVE.match(path):
        return "has a drive letter"
    parts = path.split("/")
    if ".." in parts:
        return "is outside the project ('..')"
    if "" in parts or "." in parts:
        return "has an empty or '.' part in its name"
    if len(parts) > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} folders deep"
    if any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return f"has a part longer than {MAX_PART_BYTES} bytes in its name"
    return None


def _new_folders(before: str, key: str) -> int:
    """Return how many folders `key` adds to those of its predecessor `before`."""
    old, new = before.split("\0")[:-1], key.split("\0")[:-1]
    shared = 0
    for one, other in zip(old, new, strict=False):
        if one != other:
            break
        shared += 1
    return len(new) - shared


def shown(path: str) -> str:
    """Return `path` for a message: quoted, escaped, bounded."""
    return repr(path if len(path) <= 120 else path[:119] + "…")


def _refusal(what: str, path: str, problem: str) -> InvalidSubmission:
    return InvalidSubmission(f"{what}: entry {shown(path)} {problem}")
