"""Locks: the exact contents of an environment, as a container resolved them; pure.

A container's output is not trusted: `parse` accepts only requirement lines of the known forms, bounded in number and
length. It works out itself which of them are folders of the workspace, and whether the rest may be shared.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from ci_runner.dependencies.project import BUILD_FILES, Tree
from ci_runner.errors import EnvironmentFailed
from ci_runner.model.decode import decode
from pytest_remote_ci.wire import formats

#: Characters of a lock, and of one line without its hashes; lines, and hashes of one line.
MAX_SIZE: Final = 4 << 20
_MAX_LINE: Final = 2000
_MAX_LINES: Final = 5000
_MAX_HASHES: Final = 2000

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,100}[A-Za-z0-9])?"
_EXTRAS: Final = rf"(?:\[{_NAME}(?:, ?{_NAME}){{0,50}}\])?"
_PINNED: Final = re.compile(rf"{_NAME}{_EXTRAS}==[A-Za-z0-9][A-Za-z0-9.!+_-]{{0,100}}")
_NAMED_URL: Final = re.compile(rf"{_NAME}{_EXTRAS} @ (\S+)")
#: Only uv's own git support, a web server or the container's files can answer these.
_URL: Final = re.compile(r"(?:(?:git\+)?(?:https?|ssh)|(?:git\+)?file)://[A-Za-z0-9._~:/?#\[\]@!&()*+,=%-]+")
_PATH: Final = re.compile(r"(?:\.{1,2}/|/)[A-Za-z0-9._~/@+,=%-]*|\.")
_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_MARKER_PART: Final = re.compile(
    r""" ?(?:'[^'"\\$]*'|"[^'"\\$]*"|[A-Za-z_.]+|[<>!=~]{1,3}|[()]) ?"""  # contains no option
)


@dataclass(frozen=True)
class Lock:
    """The exact packages to install."""

    #: Requirement lines.
    text: str
    #: Folders of the workspace, relative to the project, to be installed editable.
    locals: tuple[str, ...] = ()
    #: Whether every line is a name, a version and hashes: only certain files of the configured indexes can satisfy
    #: it.
    pinned: bool = False
    #: Something in it has to be built from source: known once an installation without building failed.
    needs_build: bool = False

    @classmethod
    def from_dict(cls, raw: object) -> Lock:
        """Return a lock from the result of `dataclasses.asdict`; raises ValueError for anything else."""
        try:
            if not isinstance(raw, dict) or "locals" not in raw:
                raise ValueError("it is of another version")
            return decode("lock", raw, cls)
        except ValueError as error:
            raise ValueError("no stored lock") from error


def parse(text: object, mount: str, tree: Tree) -> Lock:
    """Parse the lock that a container made of the project `tree`, which is at `mount`.

    Raises `EnvironmentFailed`, in one line, for anything but requirements of the known forms.
    """
    if not isinstance(text, str):
        raise EnvironmentFailed("the build created no lock")
    if len(text) > MAX_SIZE:
        raise EnvironmentFailed(f"the lock is larger than {formats.size(MAX_SIZE)}")
    entries = _entries(text)
    if len(entries) > _MAX_LINES:
        raise EnvironmentFailed(f"the lock has more than {_MAX_LINES} lines")
    known = _folders(tree)
    lines: list[str] = []
    folders: list[str] = []
    pinned = True
    for entry in entries:
        requirement, marker, hashes = _split(entry)
        if _PINNED.fullmatch(requirement):
            pinned = pinned and bool(hashes)
        else:
            pinned = False
            place, editable = _place(requirement)
            folder = None if place is None else _folder(place, mount, known)
            if folder is not None:
                folders.extend([folder] if folder else [])  # the project itself has a separate layer
                continue
            if place is None or editable:
                raise _refused(entry)
        lines.append(" ".join([requirement, *([f"; {marker}"] if marker else []), *hashes]))
    return Lock("".join(f"{line}\n" for line in lines), tuple(dict.fromkeys(folders)), pinned)


def _entries(text: str) -> list[str]:
    """Return the lines without comments, joined at continuation backslashes, with single blanks."""
    joined = text.replace("\\\n", " ").split("\n")
    lines = (re.sub(r" +", " ", line).strip(" ") for line in joined if not line.startswith("#"))
    return [line for line in lines if line]


def _split(entry: str) -> tuple[str, str, list[str]]:
    """Return (requirement, marker, hash options) of an entry."""
    head, *hashes = entry.split(" --hash=")
    if len(head) > _MAX_LINE or len(hashes) > _MAX_HASHES or not all(map(_HASH.fullmatch, hashes)):
        raise _refused(entry)
    requirement, separator, marker = head.partition(" ;")
    marker = marker.strip(" ")
    if separator and not _is_marker(marker):
        raise _refused(entry)
    return requirement, marker, [f"--hash={digest}" for digest in hashes]


def _is_marker(text: str) -> bool:
    position = 0
    while position < len(text):
        match = _MARKER_PART.match(text, position)
        if match is None:
            return False
        position = match.end()
    return bool(text)


def _place(requirement: str) -> tuple[str | None, bool]:
    """Return (the URL or path of a requirement, whether it is installed editable); None if it has neither."""
    editable = requirement.startswith("-e ")
    target = requirement.removeprefix("-e ")
    named = _NAMED_URL.fullmatch(target)
    if named is not None:
        target = named[1]
    if _URL.fullmatch(target) or (named is None and _PATH.fullmatch(target)):
        return target, editable
    return None, editable


def _folders(tree: Tree) -> set[str]:
    """Return all folders of a workspace; "" is the project itself, and those beside it begin with ``..``."""
    found = {""}
    for path in tree.digests:
        folder = posixpath.dirname(path)
        while folder not in found and posixpath.basename(folder) != "..":
            found.add(folder)
            folder = posixpath.dirname(folder)
    return found | {
        posixpath.dirname(path) for path in tree.digests if posixpath.basename(path) in BUILD_FILES
    }


def _folder(place: str, mount: str, known: set[str]) -> str | None:
    """Return the workspace's folder that a URL or path names, relative to the project ("" itself), or None."""
    if "://" in place and not place.startswith("file://"):
        return None
    path = posixpath.normpath(posixpath.join(mount, unquote(place.removeprefix("file://"))))
    inner = posixpath.relpath(path, mount)
    inner = "" if inner == "." else inner
    return inner if inner in known else None


def _refused(entry: str) -> EnvironmentFailed:
    shown = ascii(entry[:80])[1:-1]
    return EnvironmentFailed(f"the lock has a line that is not a plain requirement: {shown}")
