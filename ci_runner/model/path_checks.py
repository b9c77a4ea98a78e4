"""Rules for file names in a workspace: safe, unambiguous on every file system, bounded.

The same rules apply to archives and manifests. A name is refused, never repaired: the container must get exactly the
developer's files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from ci_runner.errors import InvalidSubmission
from pytest_remote_ci.wire import control_characters

#: Bytes of UTF-8: Linux's limit for a file name, and a little less than its limit for a path.
MAX_PART_BYTES: Final = 255
MAX_PATH_BYTES: Final = 1024
#: Maximum number of folders around a file.
MAX_DEPTH: Final = 64

_DRIVE = re.compile(r"[A-Za-z]:")


def check_paths(what: str, paths: Iterable[str], *, max_files: int) -> None:
    """Refuse unsafe, ambiguous or too many names, with a message that begins with `what`.

    Raises `InvalidSubmission`.
    """
    folded = []
    for path in paths:
        problem = path_problem(path)
        if problem is not None:
            raise _refusal(what, path, problem)
        folded.append((_fold(path), path))
    if len(folded) > max_files:
        raise InvalidSubmission(f"{what}: has {len(folded)} files; this runner accepts at most {max_files}")
    folded.sort()
    folders = 0
    before: tuple[str, str] = ("", "")
    for key, path in folded:
        if key == before[0]:
            raise _refusal(what, path, collision(path, before[1]))
        if before[0] and key.startswith(before[0] + "\0"):
            raise _refusal(what, path, f"is below {shown(before[1])}, which is a file")
        folders += _new_folders(before[0], key)
        before = key, path
    if folders > max_files:
        raise InvalidSubmission(f"{what}: has {folders} folders; this runner accepts at most {max_files}")


def _fold(path: str) -> str:
    """Return a key that is equal for names that are one on some file system.

    NUL sorts a folder before its contents.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
    return folded.replace("/", "\0")


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


def collision(path: str, other: str) -> str:
    """Return a message that `path` is refused because of `other`."""
    if path == other:
        return "occurs twice"
    return f"has the same name as {shown(other)} on file systems that ignore case or Unicode forms"


def shown(path: str) -> str:
    """Return `path` for a message: quoted, escaped, bounded."""
    return repr(path if len(path) <= 120 else path[:119] + "…")


def _refusal(what: str, path: str, problem: str) -> InvalidSubmission:
    return InvalidSubmission(f"{what}: entry {shown(path)} {problem}")
