"""uv workspaces: a member is tested within its whole workspace, because its lock and its siblings are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from pytest_remote_ci.config import user_file
from pytest_remote_ci.errors import ConfigError

_FILE: Final = "pyproject.toml"


def root_of_member(folder: Path, above: Iterable[Path]) -> Path | None:
    """Return the nearest folder of `above` that is the root of a workspace with the member `folder`."""
    for candidate in above:
        workspace = _table(_read(candidate / _FILE), "tool", "uv", "workspace")
        if workspace is None:
            continue
        parts = folder.relative_to(candidate).parts
        is_member = _matches(parts, workspace.get("members")) and not _matches(
            parts, workspace.get("exclude")
        )
        return candidate if is_member else None
    return None


def unread_settings(root: Path, cwd: Path) -> str | None:
    """Return one line if a member around `cwd` has settings, which are read from the workspace's root only."""
    for folder in (cwd, *cwd.parents):
        if folder == root or not folder.is_relative_to(root):
            return None
        if _table(_read(folder / _FILE), "tool", "remote-ci") is not None:
            name = (folder / _FILE).relative_to(root).as_posix()
            return (
                f"{name}: [tool.remote-ci] is not read, because {root / _FILE} is that of the whole workspace"
            )
    return None


def _matches(parts: tuple[str, ...], patterns: object) -> bool:
    if not isinstance(patterns, list):
        return False
    return any(isinstance(pattern, str) and _fits(parts, pattern) for pattern in patterns)


def _fits(parts: tuple[str, ...], pattern: str) -> bool:
    """Return whether a path fits a pattern, part by part; ``**`` stands for any number of parts."""
    reached = {0}
    for wanted in (part for part in pattern.split("/") if part not in ("", ".")):
        if wanted == "**":
            reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], wanted)}
    return len(parts) in reached


def _read(file: Path) -> Mapping[str, object]:
    """Return the content of a TOML file; {} if there is none or it cannot be read."""
    try:
        if b"[tool." not in file.read_bytes():
            return {}
        return user_file.read_toml(file)
    except (OSError, ConfigError):
        return {}


def _table(content: object, *names: str) -> Mapping[str, object] | None:
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else None
