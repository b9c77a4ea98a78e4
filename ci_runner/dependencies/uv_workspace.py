"""uv workspaces: the members of a project that holds several packages; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from ci_runner.dependencies.bounded_toml import table, texts
from ci_runner.dependencies.project import Project, Tree, read_toml
from ci_runner.errors import EnvironmentFailed

_FILE: Final = "pyproject.toml"
#: More members than any real workspace has.
_MOST_MEMBERS: Final = 500


@dataclass(frozen=True)
class Member:
    """One package of a workspace."""

    #: Relative path of its folder.
    folder: str
    project: Project

    @property
    def file(self) -> str:
        """The path of its pyproject.toml."""
        return f"{self.folder}/{_FILE}"


def members(tree: Tree, pyproject: Mapping[str, object]) -> tuple[Member, ...] | None:
    """Return the members of the workspace whose root has this pyproject.toml; None if it is not the root of one.

    Raises `EnvironmentFailed` for values of a wrong form.
    """
    workspace = table(pyproject, "tool", "uv").get("workspace")
    if not isinstance(workspace, Mapping):
        return None
    wanted = texts(workspace.get("members", []), "tool.uv.workspace.members")
    unwanted = texts(workspace.get("exclude", []), "tool.uv.workspace.exclude")
    found = [
        path.removesuffix(f"/{_FILE}")
        for path in sorted(tree.digests)
        if path.endswith(f"/{_FILE}")
        and not path.startswith("../")
        and _matches(path.removesuffix(f"/{_FILE}"), wanted)
        and not _matches(path.removesuffix(f"/{_FILE}"), unwanted)
    ]
    if len(found) > _MOST_MEMBERS:
        raise EnvironmentFailed(f"{_FILE}: the workspace has more than {_MOST_MEMBERS} members")
    inside = _files_of(tree, found)
    return tuple(_member(tree, folder, inside[folder]) for folder in found)


def _files_of(tree: Tree, folders: list[str]) -> dict[str, dict[str, str]]:
    """Return the files of each folder, relative to it, with their digests."""
    result: dict[str, dict[str, str]] = {folder: {} for folder in folders}
    for path, digest in tree.digests.items():
        at = path.find("/")
        while at != -1:
            if path[:at] in result:
                result[path[:at]][path[at + 1 :]] = digest
            at = path.find("/", at + 1)
    return result


def _member(tree: Tree, folder: str, digests: Mapping[str, str]) -> Member:
    inner = Tree(digests, lambda path: tree.content(f"{folder}/{path}"))
    try:
        return Member(folder, Project(inner, read_toml(inner, _FILE)))
    except EnvironmentFailed as error:
        raise EnvironmentFailed(f"{folder}/{error}") from error


def _matches(folder: str, patterns: list[str]) -> bool:
    parts = folder.split("/")
    return any(
        _fits(parts, [part for part in pattern.split("/") if part not in ("", ".")]) for pattern in patterns
    )


def _fits(parts: list[str], pattern: list[str]) -> bool:
    """Return whether a path fits a pattern, part by part; ``**`` stands for any number of parts."""
    reached = {0}
    for wanted in pattern:
        if wanted == "**":
            reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], wanted)}
    return len(parts) in reached


def unlocked_lines(found: tuple[Member, ...]) -> Iterator[str]:
    """Yield the requirement lines of a workspace without a lock: its packages, and what its other members need."""
    for member in found:
        if member.project.is_package:
            yield f"-e ./{member.folder}"
        else:
            yield from member.project.dependencies()
