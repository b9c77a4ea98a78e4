"""Dependencies that a project takes from folders of this machine (uv's sources, Poetry's paths, direct references).

A folder outside of the project is not sent, so that its installation would fail on the runner: it is refused by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from pytest_remote_ci.config import user_file
from pytest_remote_ci.errors import ConfigError, WorkspaceError

#: Groups and extras whose dependencies a job has unless something else is configured.
_USUAL: Final = frozenset({"test", "tests", "testing", "dev"})
_NAME: Final = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_FILE_URL: Final = re.compile(r"@\s*file:(?://)?([^\s;#]+)")


@dataclass(frozen=True)
class PathSource:
    """A dependency that lies in a folder or file of this machine."""

    name: str
    #: As it is spelt in the project's file.
    path: str


def refuse_missing(root: Path, sent: Collection[str]) -> None:
    """Raise `WorkspaceError` if the project in `root` needs a folder of which nothing is among the paths `sent`."""
    for source in find(root):
        place = os.path.relpath(os.path.realpath(root / source.path), os.path.realpath(root)).replace(
            os.sep, "/"
        )
        if place == "." or place in sent or any(path.startswith(f"{place}/") for path in sent):
            continue
        if place.startswith("../"):
            raise WorkspaceError(
                f"{source.name} is taken from {source.path} (in {root / 'pyproject.toml'}), which is outside of the "
                "project and not sent, so nothing was sent: put both into one uv workspace, move it into the project, "
                "or depend on a release or a git address"
            )
        raise WorkspaceError(
            f"{source.name} is taken from {source.path}, of which nothing is sent: it does not exist, or is ignored; "
            f'`include = ["/{place}/"]` in [tool.remote-ci] sends it'
        )


def find(root: Path) -> Iterator[PathSource]:
    """Yield the sources that a job of the project in `root` needs, as far as its pyproject.toml shows them."""
    try:
        pyproject = user_file.read_toml(root / "pyproject.toml")
    except ConfigError:  # the settings in it have been read already
        return
    lines = list(_lines(pyproject))
    sources = _table(pyproject, "tool", "uv", "sources")
    by_name = {_normalized(name): source for name, source in sources.items()}
    for line in lines:
        name = _NAME.match(line)
        if name is None:
            continue
        direct = _FILE_URL.search(line)
        if direct is not None:
            yield PathSource(name[1], unquote(direct[1]))
        for item in _list(by_name.get(_normalized(name[1]), [])):
            if isinstance(item, Mapping) and isinstance(item.get("path"), str) and not item.get("marker"):
                yield PathSource(name[1], item["path"])
    for dependency, value in _poetry(_table(pyproject, "tool", "poetry")):
        for item in _list(value):
            if isinstance(item, Mapping) and isinstance(item.get("path"), str) and not item.get("optional"):
                yield PathSource(dependency, item["path"])


def _lines(pyproject: Mapping[str, Any]) -> Iterator[str]:
    """Yield the requirement lines of the project, and of its usual groups and extras."""
    uv = _table(pyproject, "tool", "uv")
    found = [_table(pyproject, "project").get("dependencies"), uv.get("dev-dependencies")]
    defaults = {name for name in _list(uv.get("default-groups", [])) if isinstance(name, str)}
    for tables, names in (
        (_table(pyproject, "dependency-groups"), _USUAL | defaults),
        (_table(pyproject, "project", "optional-dependencies"), _USUAL - {"dev"}),
    ):
        found += [lines for name, lines in tables.items() if name in names]
    for lines in found:
        if isinstance(lines, list):
            yield from (line for line in lines if isinstance(line, str))


def _poetry(poetry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in ("dependencies", "dev-dependencies"):
        yield from _table(poetry, name).items()
    groups = _table(poetry, "group")
    for name in _USUAL.intersection(groups):
        yield from _table(groups, name, "dependencies").items()


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _table(content: Any, *names: str) -> Mapping[str, Any]:
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}
