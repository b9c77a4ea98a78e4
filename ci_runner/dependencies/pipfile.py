"""Requirement lines of a Pipfile or its lock; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ci_runner.dependencies import poetry
from ci_runner.dependencies.bounded_toml import table, text
from ci_runner.dependencies.project import Tree, read_toml
from ci_runner.errors import EnvironmentFailed

#: Files in the order in which they are preferred.
FILES: Final = ("Pipfile.lock", "Pipfile")
_PUBLIC_INDEX: Final = "https://pypi.org/"
#: Keys that are markers of their own in a Pipfile.
_MARKERS: Final = ("os_name", "sys_platform", "platform_machine", "platform_system", "python_version")


@dataclass
class Pipfile:
    """What is installed by ``pipenv sync --dev``."""

    #: The file that was read; None if there is none.
    file: str | None = None
    lines: list[str] = field(default_factory=list)
    #: Options that name indexes other than the public one.
    index_options: list[str] = field(default_factory=list)
    #: Extras with which the project itself is installed.
    project_extras: list[str] = field(default_factory=list)


def read(tree: Tree) -> Pipfile:
    """Return the dependencies in the lock, else those in the Pipfile. Raises `EnvironmentFailed`."""
    result = Pipfile(next((file for file in FILES if file in tree.digests), None))
    if result.file is None:
        return result
    if result.file == "Pipfile.lock":
        content = _read_json(tree, result.file)
        parts = [table(content, "default"), table(content, "develop")]
        sources = table(content, "_meta").get("sources")
    else:
        content = read_toml(tree, result.file)
        parts = [table(content, "packages"), table(content, "dev-packages")]
        sources = content.get("source")
    merged: dict[str, object] = {}
    for part in parts:
        for name, value in part.items():
            merged.setdefault(name, value)
    for name, value in merged.items():
        _add(result, name, value, result.file)
    for source in sources if isinstance(sources, list) else []:
        url = text(table({"": source}, "").get("url", _PUBLIC_INDEX), "the url of a source", result.file)
        if not url.startswith(_PUBLIC_INDEX) and "$" not in url and " " not in url:
            result.index_options.append(f"--extra-index-url {url}")
    return result


def _add(into: Pipfile, name: str, value: object, file: str) -> None:
    """Add one dependency."""
    if not isinstance(value, Mapping):
        into.lines.append(poetry.requirement(name, value, file))
        return
    entry = {key: value[key] for key in ("version", "extras", "markers", "git", "path") if key in value}
    if value.get("ref"):
        entry["rev"] = value["ref"]
    if "file" in value:
        entry["url"] = value["file"]
    entry["develop"] = value.get("editable", False)
    own = [f"{key} {text(value[key], key, file)}" for key in _MARKERS if key in value]
    if own:
        entry["markers"] = " and ".join([*([f"({entry['markers']})"] if "markers" in entry else []), *own])
    line = poetry.requirement(name, entry, file)
    if entry.get("path") in (".", "./"):
        into.project_extras += [str(extra) for extra in entry.get("extras", ())]
    else:
        into.lines.append(line)


def _read_json(tree: Tree, path: str) -> Mapping[str, object]:
    try:
        content = json.loads(tree.read(path) or b"")
    except (ValueError, RecursionError) as error:  # invalid, not UTF-8, an endless number; too deep
        raise EnvironmentFailed(f"{path}: {error}") from error
    if not isinstance(content, Mapping):
        raise EnvironmentFailed(f"{path}: is not an object")
    return content
