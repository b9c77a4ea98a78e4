"""What a job did to the files of the project: the record of one file, and names that never are a project's files.

Standard library only. The runner makes the records from what the job left behind; the client checks each of them again,
because names and contents are of a job's choosing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from pytest_remote_ci.wire.protocol import is_digest

ChangeKind = Literal["created", "changed", "deleted"]

CREATED: Final[ChangeKind] = "created"
CHANGED: Final[ChangeKind] = "changed"
DELETED: Final[ChangeKind] = "deleted"
KINDS: Final[tuple[ChangeKind, ...]] = (CREATED, CHANGED, DELETED)

#: Folders that tools, environments and version control make for themselves.
_FOLDERS: Final = frozenset(
    {
        "__pycache__",
        "node_modules",
        ".approval_tests_temp",
        ".bzr",
        ".cache",
        ".coverage",
        ".eggs",
        ".git",
        ".hg",
        ".hypothesis",
        ".ipynb_checkpoints",
        ".jj",
        ".mypy_cache",
        ".nox",
        ".pytest_cache",
        ".remote-ci-artifacts",
        ".remote-ci-reports",
        ".ruff_cache",
        ".svn",
        ".tox",
        ".venv",
        "CVS",
        "_darcs",
    }
)
#: Folders that builds and coverage make, by the ends of their names.
_FOLDER_ENDS: Final = (".egg-info", ".dist-info")
#: Byte code, data of coverage, and what editors and file systems leave.
_FILE: Final = re.compile(r".*\.py[co]|\.coverage(\..*)?|\.DS_Store|\.nfs[0-9a-f]+")

#: What Hypothesis stores of failing tests; the names are hashes.
_DATABASE: Final = re.compile(r"(.*/)?\.hypothesis/examples/[0-9a-f/]+")


@dataclass(frozen=True)
class Change:
    """A file of the project that a job created, changed or deleted."""

    #: Relative to the project, like a workspace's paths.
    path: str
    kind: ChangeKind
    #: Bytes; 0 for a deleted file.
    size: int = 0
    #: Digest of the content that the job left; None for a deleted file, and if the runner did not store it.
    sha256: str | None = None
    executable: bool = False
    #: Digest of the content that was sent; None for a created file.
    before: str | None = None

    @property
    def is_stored(self) -> bool:
        """Whether the change can be applied: a content is on the runner, or none is needed."""
        return self.kind == DELETED or self.sha256 is not None


def is_database(path: str) -> bool:
    """Return whether a file of that name holds examples with which tests failed, for the next run."""
    return _DATABASE.fullmatch(path) is not None


def is_in_repository(path: str) -> bool:
    """Return whether a file is in a ``.git`` folder, or is that of a work tree: it never comes home."""
    return ".git" in path.split("/")


def is_by_product(path: str) -> bool:
    """Return whether a new file of that name is none of the project's: a cache, byte code, build metadata."""
    *folders, name = path.split("/")
    return not is_database(path) and (
        not _FOLDERS.isdisjoint(folders)
        or any(folder.endswith(_FOLDER_ENDS) for folder in folders)
        or _FILE.fullmatch(name) is not None
    )


def parse_list(answer: object) -> list[Change] | None:
    """Parse the runner's list; return None if it is malformed."""
    if not isinstance(answer, list):
        return None
    found = []
    for item in answer:
        if not isinstance(item, dict):
            return None
        path, kind, size = (item.get(name) for name in ("path", "kind", "size"))
        digests = [item.get(name) for name in ("sha256", "before")]
        if not isinstance(path, str) or kind not in KINDS or type(size) is not int or size < 0:
            return None
        if not all(digest is None or is_digest(digest) for digest in digests):
            return None
        if (kind == DELETED and digests[0] is not None) or (kind == CREATED) != (digests[1] is None):
            return None
        found.append(Change(path, kind, size, digests[0], item.get("executable") is True, digests[1]))
    return found
