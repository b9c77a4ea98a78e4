"""A project's build files, read without running any of them; pure.

Reads pyproject.toml (standard tables and Poetry's), setup.cfg, and the parts of setup.py that are visible in its
text. `install_plan` interprets the result.
"""

from __future__ import annotations

import ast
import configparser
import posixpath
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ci_runner.dependencies import poetry, tool_groups
from ci_runner.dependencies.bounded_toml import MOST_PARTS, line_of_long_key, texts
from ci_runner.dependencies.requirements import names, normalized
from ci_runner.errors import EnvironmentFailed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The files that define how a project is built.
BUILD_FILES: Final = ("pyproject.toml", "setup.py", "setup.cfg")


@dataclass(frozen=True)
class Tree:
    """The files of a workspace."""

    #: Relative POSIX path → SHA-256 of the content.
    digests: Mapping[str, str]
    #: Content of one of these files.
    content: Callable[[str], bytes]

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist."""
        return self.content(path) if path in self.digests else None

    def seen_from(self, folder: str) -> Tree:
        """Return the same files with paths relative to `folder`; those beside it begin with ``..``."""
        if not folder:
            return self
        paths = {posixpath.relpath(path, folder): path for path in self.digests}
        digests = {path: self.digests[origin] for path, origin in paths.items()}
        return Tree(digests, lambda path: self.content(paths[path]))


def read_toml(tree: Tree, path: str) -> dict[str, object]:
    """Parse a TOML file of the workspace; {} if absent. Raises `EnvironmentFailed` naming file and line."""
    content = tree.read(path)
    if content is None:
        return {}
    try:
        text = content.decode("utf-8")
        line = line_of_long_key(text)
        if line is not None:
            raise EnvironmentFailed(f"{path}: a key of more than {MOST_PARTS} parts in line {line}")
        return dict(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # invalid, not UTF-8, an endless number; too deep
        last = content.count(b"\n") + 1
        words = str(error).replace("(at end of document)", f"(at the end, line {last})")
        raise EnvironmentFailed(f"{path}: {words}") from error


class Project:
    """The contents of a project's build files, without running any of them."""

    def __init__(self, tree: Tree, pyproject: dict[str, object]) -> None:
        self._tree = tree
        self._pyproject = pyproject
        self._table = _dict(pyproject.get("project"))
        self._poetry = _dict(_dict(pyproject.get("tool")).get("poetry"))
        self._cfg = self._setup_cfg()
        self._setup_py = tree.read("setup.py") or b""
        self.is_poetry = bool(self._poetry)
        #: Groups that are not in the standard's table.
        self.tool_groups = tool_groups.read(pyproject)
        self.name: str | None = self._name()
        self.file = self._file()
        #: Whether it can be installed.
        self.is_package = self._is_package()
        #: Whether its metadata is known only after its code has run.
        self.is_dynamic = self.file in ("setup.py", "setup.cfg") or bool(
            self.file and (not self._table or self._table.get("dynamic"))
        )

    def _setup_cfg(self) -> configparser.RawConfigParser:
        parser = configparser.RawConfigParser(strict=False)
        content = self._tree.read("setup.cfg")
        if content is not None:
            try:
                parser.read_string(content.decode("utf-8", errors="replace"), "setup.cfg")
            except configparser.Error as error:
                raise EnvironmentFailed(f"setup.cfg: {' '.join(str(error).split())}") from error
        return parser

    def _name(self) -> str | None:
        name = self._table.get("name") or self._poetry.get("name")
        if not name and self._cfg.has_option("metadata", "name"):
            name = self._cfg.get("metadata", "name")
        return name if isinstance(name, str) else _name_in_setup_py(self._setup_py)

    def _file(self) -> str | None:
        """Return the file with metadata that the installer resolves; the runner reads Poetry's own tables itself."""
        if self._table:
            return "pyproject.toml"
        if self.is_poetry and "name" in self._poetry:
            return None
        if b"setup(" in self._setup_py:
            return "setup.py"
        if self._cfg.has_section("metadata") or self._cfg.has_section("options"):
            return "setup.cfg"
        return "pyproject.toml" if "build-system" in self._pyproject else None

    def _is_package(self) -> bool:
        tool = _dict(self._pyproject.get("tool"))
        if self._poetry.get("package-mode") is False or _dict(tool.get("uv")).get("package") is False:
            return False
        if "build-system" in self._pyproject or self.file in ("setup.py", "setup.cfg"):
            return self.file is not None or self.is_poetry
        return bool(self._table) and (b"setup(" in self._setup_py or self._is_discoverable())

    def _is_discoverable(self) -> bool:
        """Return whether the default backend finds the package of a project that names no backend."""
        module = normalized(self.name or "").replace("-", "_")
        return any(path.startswith("src/") and path.endswith(".py") for path in self._tree.digests) or (
            f"{module}/__init__.py" in self._tree.digests or f"{module}.py" in self._tree.digests
        )

    def standard_groups(self) -> Mapping[str, object]:
        """Return the PEP 735 groups."""
        return _dict(self._pyproject.get("dependency-groups"))

    def locked_groups(self) -> set[str]:
        """Return the groups that uv's lock has."""
        return set(self.standard_groups()) | ({"dev"} if self.tool_groups.is_dev_in_lock else set())

    def groups(self) -> set[str]:
        """Return the names of all groups, those of the tools included."""
        return set(self.standard_groups()) | set(self.tool_groups.lines)

    def own_lines(self, extras: tuple[str, ...], groups: tuple[str, ...]) -> list[str]:
        """Return the requirement lines that only the tables of tools have, as far as they are chosen."""
        lines = poetry.main_requirements(self._poetry, extras) if self.is_poetry and not self._table else []
        for name, found in self.tool_groups.lines.items():
            if name in groups:
                lines.extend(found)
        return lines

    def extras(self) -> tuple[str, ...]:
        """Return the names of the project's extras that are known without running code."""
        found = [*_dict(self._table.get("optional-dependencies")), *_dict(self._poetry.get("extras"))]
        flit = _dict(_dict(_dict(self._pyproject.get("tool")).get("flit")).get("metadata"))
        found += _dict(flit.get("requires-extra"))
        dynamic = _dict(_dict(_dict(self._pyproject.get("tool")).get("setuptools")).get("dynamic"))
        found += _dict(dynamic.get("optional-dependencies"))
        if not self._table or "optional-dependencies" in _list(self._table.get("dynamic")):
            if self._cfg.has_section("options.extras_require"):
                found += self._cfg.options("options.extras_require")
            found += _extras_of_setup_py(self._setup_py)
        return tuple(dict.fromkeys(found))

    def dependencies(self) -> list[str]:
        """Return the lines in ``[project]``."""
        found = self._table.get("dependencies")
        return [] if found is None else texts(found, "dependencies")

    def static_names(self, extras: tuple[str, ...], groups: tuple[str, ...]) -> set[str]:
        """Return the normalized names of the dependencies in the project's own static metadata."""
        lines = [*_list(self._table.get("dependencies"))]
        optional = _dict(self._table.get("optional-dependencies"))
        for extra in extras:
            lines += _list(optional.get(extra))
        lines += self._group_lines(groups)
        for option in ("install_requires", "tests_require"):
            if self._cfg.has_option("options", option):
                lines += self._cfg.get("options", option).splitlines()
        for extra in extras:
            if self._cfg.has_option("options.extras_require", extra):
                lines += self._cfg.get("options.extras_require", extra).splitlines()
        return names(line for line in lines if isinstance(line, str))

    def _group_lines(self, groups: tuple[str, ...]) -> list[str]:
        """Return the lines of standard groups, and of groups that they include."""
        lines: list[str] = []
        pending, seen = list(groups), set(groups)
        while pending:
            items = self.standard_groups().get(pending.pop(), ())
            for item in items if isinstance(items, list) else ():
                included = item.get("include-group") if isinstance(item, dict) else None
                if isinstance(item, str):
                    lines.append(item)
                elif isinstance(included, str) and included not in seen:
                    seen.add(included)
                    pending.append(included)
        return lines


def _extras_of_setup_py(source: bytes) -> list[str]:
    """Return the keys of `extras_require` in a setup.py, without running it; best effort."""
    assigned: dict[str, ast.Dict] = {}
    wanted: list[str] = []
    found: list[str] = []
    for node in _nodes(source):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            assigned.update(
                {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
            )
        elif isinstance(node, ast.keyword) and node.arg == "extras_require":
            if isinstance(node.value, ast.Dict):
                found += _keys(node.value)
            elif isinstance(node.value, ast.Name):
                wanted.append(node.value.id)
    return found + [key for name in wanted if name in assigned for key in _keys(assigned[name])]


def _name_in_setup_py(source: bytes) -> str | None:
    """Return the distribution's name in a setup.py if it is a literal text."""
    for node in _nodes(source):
        if isinstance(node, ast.Call) and _called(node) == "setup":
            for keyword in node.keywords:
                if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                    return keyword.value.value if isinstance(keyword.value.value, str) else None
    return None


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def _nodes(source: bytes) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return []


def _keys(node: ast.Dict) -> list[str]:
    return [key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
