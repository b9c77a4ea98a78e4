"""Conversion of Poetry's notation into standard requirement lines; pure.

Covers only what Poetry has outside of the standard ``[project]`` table: its dependency tables, groups and lock. A
constraint that the standard cannot express (``||``) is left to the lock, else to the newest version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ci_runner.dependencies import ssh_repositories
from ci_runner.dependencies.bounded_toml import table, text, texts
from ci_runner.dependencies.requirements import normalized
from ci_runner.errors import EnvironmentFailed

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"(\^|~=|~|==|!=|>=|<=|>|<|=)?\s*v?([0-9][^\s,]*|\*)$")


def main_requirements(poetry: Mapping[str, object], extras: tuple[str, ...]) -> list[str]:
    """Return the lines of ``[tool.poetry.dependencies]`` that are not optional, or in the chosen extras."""
    wanted = {
        normalized(re.split(r"[\s\[<>=!~;(]", item)[0])
        for extra in extras
        for item in texts(table(poetry, "extras").get(extra, []), f"extra {extra[:80]!r}")
    }
    lines = []
    for name, value in table(poetry, "dependencies").items():
        for item in value if isinstance(value, list) else [value]:
            optional = isinstance(item, Mapping) and item.get("optional", False)
            if normalized(name) != "python" and (not optional or normalized(name) in wanted):
                lines.append(requirement(name, item))
    return lines


def default_groups(poetry: Mapping[str, object]) -> list[str]:
    """Return the groups that Poetry installs unless they are left out."""
    old = ["dev"] if "dev-dependencies" in poetry else []
    groups = table(poetry, "group")
    return old + [name for name in groups if table(groups, name).get("optional") is not True]


def groups(poetry: Mapping[str, object]) -> dict[str, list[str]]:
    """Return requirement lines by group; the old ``dev-dependencies`` are the group ``dev``."""
    result: dict[str, list[str]] = {}
    if "dev-dependencies" in poetry:
        result["dev"] = _lines(table(poetry, "dev-dependencies"))
    for name, group in table(poetry, "group").items():
        result.setdefault(name, []).extend(_lines(table(group, "dependencies")))
    return result


def pins(lock: Mapping[str, object], file: str = "poetry.lock") -> list[str]:
    """Return ``name==version`` for each package that the lock has in one version; forked ones are not pinned.

    ``pdm.lock`` has the same form, except that a package that comes from elsewhere says so itself.
    """
    versions: dict[str, set[str]] = {}
    packages = lock.get("package", [])
    for package in packages if isinstance(packages, list) else [packages]:
        match package:
            case {"name": str(name), "version": str(version)}:
                if not _comes_from_elsewhere(table(package)):
                    line = f"{normalized(text(name, 'a name', file))}=={text(version, 'a version', file)}"
                    versions.setdefault(normalized(name), set()).add(line)
            case _:
                raise EnvironmentFailed(f"{file}: a package is not a table with a name and a version")
    return [line for _, (line, *more) in sorted(versions.items()) if not more]


def _comes_from_elsewhere(package: Mapping[str, object]) -> bool:
    """Return whether a locked package is not a release of an index."""
    if any(key in package for key in ("git", "url", "path")):
        return True
    return table(package, "source").get("type") in ("git", "directory", "file", "url")


def requirement(name: str, value: object, file: str = "pyproject.toml") -> str:
    """Return one dependency as a requirement line; raises `EnvironmentFailed` if it is invalid."""
    if not _NAME.fullmatch(text(name, "a name", file)):
        raise EnvironmentFailed(f"{file}: {name[:80]!r} is not the name of a package")
    if isinstance(value, str):
        return name + specifier(text(value, f"the version of {name[:80]!r}", file))
    if not isinstance(value, Mapping):
        return name
    extras = texts(value.get("extras") or [], f"'extras' of {name[:80]!r}", file)
    for key in ("version", "python", "markers", "git", "rev", "tag", "branch", "url", "path"):
        if key in value:
            text(value[key], f"{key!r} of {name[:80]!r}", file)
    label = f"{name}[{','.join(extras)}]" if extras else name
    if "git" in value:
        revision = value.get("rev") or value.get("tag") or value.get("branch")
        line = f"{label} @ git+{ssh_repositories.as_url(value['git'])}" + (f"@{revision}" if revision else "")
    elif "url" in value:
        line = f"{label} @ {value['url']}"
    elif "path" in value:
        path = value["path"]
        path = path if path.startswith(("/", ".")) else f"./{path}"
        return f"-e {path}" if value.get("develop") else path
    else:
        line = label + specifier(value.get("version", "*"))
    markers = [f"({value['markers']})"] if value.get("markers") else []
    if value.get("python"):
        markers.extend(_python_marker(value["python"]))
    return line + (" ; " + " and ".join(markers) if markers else "")


def specifier(constraint: str) -> str:
    """Return a version constraint in the standard's notation; "" if any version matches."""
    if "|" in constraint:
        return ""
    parts: list[str] = []
    for item in re.split(r"\s*,\s*|(?<=[\w*])\s+(?=[\^~<>=!])", constraint.strip()):
        parts.extend(_one(item.strip()))
    return ",".join(parts)


def _one(item: str) -> list[str]:
    match = _VERSION.match(item)
    if match is None or match[2] == "*":
        return []
    operator, version = match[1] or "==", match[2]
    if operator in ("^", "~"):
        return [f">={version}", f"<{_above(operator, version)}"]
    return [("==" if operator == "=" else operator) + version]


def _above(operator: str, version: str) -> str:
    """Return the first version that a caret or tilde constraint excludes."""
    numbers = [int(number) for number in re.findall(r"\d+", re.split(r"[a-zA-Z+-]", version)[0])] or [0]
    if operator == "~":
        place = 0 if len(numbers) == 1 else 1
    else:
        place = next((index for index, number in enumerate(numbers) if number), len(numbers) - 1)
    return ".".join(str(number) for number in [*numbers[:place], numbers[place] + 1])


def _python_marker(constraint: str) -> list[str]:
    pairs = (re.match(r"([<>=!~]+)(.*)$", part) for part in specifier(constraint).split(",") if part)
    return [
        f"python_version {pair[1]} '{'.'.join(pair[2].split('.')[:2])}'" for pair in pairs if pair is not None
    ]


def _lines(dependencies: Mapping[str, object]) -> list[str]:
    items = ((name, item) for name, value in dependencies.items() for item in _list(value))
    return [requirement(name, item) for name, item in items if normalized(name) != "python"]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
