"""What a workspace needs before its tests can run: a pure decision over its files.

`make_plan` says from which files the dependencies come, `layer_digest` what the editable install of the project
depends on, `mount_point` and `map_arguments` where the workspace appears. Installing is left to
`ci_runner.controller.environments`; the files are read through a `Tree`, so that nothing here does I/O of its own.
"""

from __future__ import annotations

import ast
import configparser
import hashlib
import json
import posixpath
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Final

from ci_runner import poetry
from ci_runner.errors import EnvironmentFailed
from ci_runner.requirements import names, normalized, read_all
from pytest_remote_ci.wire import SubmitOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Raised when the meaning of a plan changes, so that no older lock is taken for it.
VERSION: Final = 1
#: Dependency groups and extras that are tried when nothing is configured.
GUESSED: Final = ("test", "tests", "testing", "dev")
#: Requirements files that are looked for when nothing is configured.
FOUND: Final = (
    "requirements.txt",
    "requirements-dev.txt",
    "requirements/test*.txt",
    "tests/requirements.txt",
)
#: Where a workspace goes whose own path cannot be used.
DEFAULT_MOUNT: Final = "/workspace"

_BUILD_FILES: Final = ("pyproject.toml", "setup.py", "setup.cfg")
_CONFIGURATION: Final = (
    *_BUILD_FILES, "MANIFEST.in", "CMakeLists.txt", "*.cmake", "meson.build", "meson_options.txt", "meson.options",
    "Cargo.toml", "Cargo.lock", "build.rs", "hatch.toml", "hatch_build.py", "versioneer.py", "PKG-INFO",
)  # fmt: skip
_COMPILED: Final = (
    "*.pyx", "*.pxd", "*.pxi", "*.c", "*.cc", "*.cpp", "*.cxx", "*.h", "*.hh", "*.hpp", "*.hxx", "*.inl", "*.rs",
    "*.f", "*.f77", "*.f90", "*.f95", "*.s", "*.S", "*.asm", "*.m", "*.mm", "*.cu", "*.cuh", "*.i", "*.go", "*.proto",
    "*.in", "*.tmpl", "*.templ",
)  # fmt: skip
_VERSION_FILES: Final = ("__init__.py", "__about__.py", "__version__.py", "_version.py", "version.py")
_VERSION_LINE: Final = re.compile(
    rb"^\s*_*(?:version|VERSION|version_info|author|doc)_*\s*[:=].*$", re.MULTILINE
)
_SYSTEM: Final = ("bin", "boot", "dev", "etc", "proc", "run", "sbin", "sys", "usr", "ci")
_SHARED_FOLDERS: Final = ("tmp", "home", "root", "var", "opt", "mnt", "srv", "media", "data", "workspace")


@dataclass(frozen=True)
class Tree:
    """The files of a workspace."""

    #: Relative POSIX path → SHA-256 of the content.
    digests: Mapping[str, str]
    #: Content of one of these files.
    content: Callable[[str], bytes]

    def read(self, path: str) -> bytes | None:
        """The content of a file, or None when there is no such file."""
        return self.content(path) if path in self.digests else None


@dataclass(frozen=True)
class Plan:
    """What to install."""

    #: "uv.lock": the lock is exported; "project": `project_file` is resolved; "lines": only `requirements` are.
    source: str
    #: pyproject.toml, setup.py or setup.cfg, when the project's own metadata names dependencies.
    project_file: str | None = None
    #: Requirement lines beside the project's own; the pytest of the client comes last when it was added.
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    #: Options of requirements files that choose indexes.
    index_options: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    #: Extras that nobody asked for: left out again when the project does not have them after all.
    guessed_extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    #: Added when the result would have no pytest otherwise.
    pytest: str = "pytest"
    #: Whether the pytest line is among `requirements` because nothing else names one.
    adds_pytest: bool = False
    #: Whether the project is installed (editable) in a layer of its own.
    install: bool = False
    #: Distribution name, where it is known without running code.
    name: str | None = None
    #: Version that the project's version control would give.
    scm_version: str | None = None
    #: (path, digest) of every file that the above was read from or that the installer reads itself.
    files: tuple[tuple[str, str], ...] = ()
    #: Sentences for the job's log.
    notes: tuple[str, ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what decides about the lock, and nothing else."""
        result = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "notes"}
        return {"version": VERSION, **result}

    def digest(self) -> str:
        """Equal for plans that lead to the same lock (given the same image, Python and indexes)."""
        return _sha256(json.dumps(self.to_dict(), sort_keys=True))


def make_plan(tree: Tree, options: SubmitOptions) -> Plan:
    """Decide. Raises `EnvironmentFailed` for files that cannot be read, naming file and line."""
    pyproject = _toml(tree, "pyproject.toml")
    project = _Project(tree, pyproject)
    configured = bool(options.requirements or options.extras or options.groups)
    locked = "uv.lock" in tree.digests and "project" in pyproject
    found = options.requirements or (() if locked or configured else _find_requirements(tree))
    files = read_all(found, tree.read)
    known_groups = project.groups()
    groups = tuple(
        name for name in (options.groups or (() if configured else GUESSED)) if name in known_groups
    )
    extras, guessed = _choose_extras(options, configured, groups, project.extras(), files.project_extras)
    lines = [*files.lines, *project.poetry_lines(extras, groups)]
    constraints = list(files.constraints)
    if project.is_poetry and "poetry.lock" in tree.digests:
        constraints.extend(poetry.pins(_toml(tree, "poetry.lock")))
    wanted_pytest = f"pytest=={options.pytest_version}" if options.pytest_version else "pytest"
    adds_pytest = not locked and "pytest" not in names(lines) | project.static_names(extras, groups)
    install = options.install_project is not False and (project.is_package or options.install_project is True)
    decisive = [*files.files, *_BUILD_FILES, "uv.lock", "poetry.lock", "uv.toml"]
    return Plan(
        source="uv.lock" if locked else "project" if project.file else "lines",
        project_file=project.file,
        requirements=tuple([*lines, wanted_pytest] if adds_pytest else lines),
        constraints=tuple(constraints),
        index_options=tuple(files.index_options),
        extras=extras,
        guessed_extras=guessed,
        groups=tuple(name for name in groups if name in project.standard_groups()),
        pytest=wanted_pytest,
        adds_pytest=adds_pytest,
        install=install,
        name=project.name,
        scm_version=options.scm_version,
        files=tuple((path, tree.digests[path]) for path in dict.fromkeys(decisive) if path in tree.digests),
        notes=tuple(_notes(options, files.missing, known_groups)),
    )


def _choose_extras(
    options: SubmitOptions,
    configured: bool,
    groups: tuple[str, ...],
    known: tuple[str, ...],
    named: Iterable[str],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(extras, those of them that are only a guess): asked for, else those that tests usually need."""
    asked = tuple(dict.fromkeys([*options.extras, *named]))
    if configured or asked or any(name in groups for name in GUESSED[:3]):
        return asked, ()
    found = tuple(name for name in known if normalized(name) in GUESSED[:3])
    if not found and not groups:
        found = tuple(name for name in known if normalized(name) == "dev")
    return found, found


def _notes(options: SubmitOptions, missing: Iterable[str], known_groups: Iterable[str]) -> list[str]:
    notes = [f"requirements file {path} is not in the project: left out" for path in missing]
    known = set(known_groups)
    return notes + [
        f"dependency group {name!r} does not exist" for name in options.groups if name not in known
    ]


def _find_requirements(tree: Tree) -> tuple[str, ...]:
    found: list[str] = []
    for pattern in FOUND:
        depth = pattern.count("/")
        found += sorted(path for path in tree.digests if path.count("/") == depth and fnmatch(path, pattern))
    return tuple(found)


def _toml(tree: Tree, path: str) -> dict[str, Any]:
    content = tree.read(path)
    if content is None:
        return {}
    try:
        return dict(tomllib.loads(content.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnvironmentFailed(f"{path}: {error}") from error


class _Project:
    """What the project's own build files say, without running any of them."""

    def __init__(self, tree: Tree, pyproject: dict[str, Any]) -> None:
        self._tree = tree
        self._pyproject = pyproject
        self._table = _dict(pyproject.get("project"))
        self._poetry = _dict(_dict(pyproject.get("tool")).get("poetry"))
        self._cfg = self._setup_cfg()
        self._setup_py = tree.read("setup.py") or b""
        self.is_poetry = bool(self._poetry)
        self.name: str | None = self._name()
        self.file = self._file()
        self.is_package = self._is_package()

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
        return name if isinstance(name, str) else None

    def _file(self) -> str | None:
        """The file whose metadata the installer resolves; Poetry's own tables are read here instead."""
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
        """Whether the default backend finds the package of a project that names no backend."""
        module = normalized(self.name or "").replace("-", "_")
        return any(path.startswith("src/") and path.endswith(".py") for path in self._tree.digests) or (
            f"{module}/__init__.py" in self._tree.digests or f"{module}.py" in self._tree.digests
        )

    def standard_groups(self) -> Mapping[str, Any]:
        """PEP 735 groups."""
        return _dict(self._pyproject.get("dependency-groups"))

    def groups(self) -> set[str]:
        """Names of all groups, Poetry's included."""
        return set(self.standard_groups()) | set(poetry.groups(self._poetry))

    def poetry_lines(self, extras: tuple[str, ...], groups: tuple[str, ...]) -> list[str]:
        """Requirement lines that only Poetry's tables have."""
        if not self.is_poetry:
            return []
        lines = [] if self._table else poetry.main_requirements(self._poetry, extras)
        for name, found in poetry.groups(self._poetry).items():
            if name in groups:
                lines.extend(found)
        return lines

    def extras(self) -> tuple[str, ...]:
        """Names of the project's extras, as far as they can be known without running code."""
        found = [*_dict(self._table.get("optional-dependencies")), *_dict(self._poetry.get("extras"))]
        dynamic = _dict(_dict(_dict(self._pyproject.get("tool")).get("setuptools")).get("dynamic"))
        found += _dict(dynamic.get("optional-dependencies"))
        if not self._table or "optional-dependencies" in self._table.get("dynamic", ()):
            if self._cfg.has_section("options.extras_require"):
                found += self._cfg.options("options.extras_require")
            found += _extras_of_setup_py(self._setup_py)
        return tuple(dict.fromkeys(found))

    def static_names(self, extras: tuple[str, ...], groups: tuple[str, ...]) -> set[str]:
        """Normalized names that the project's own metadata asks for, as far as it says so statically."""
        lines = [*self._table.get("dependencies", ())]
        optional = _dict(self._table.get("optional-dependencies"))
        for extra in extras:
            lines += optional.get(extra, ())
        for group in groups:
            lines += [item for item in self.standard_groups().get(group, ()) if isinstance(item, str)]
        for option in ("install_requires", "tests_require"):
            if self._cfg.has_option("options", option):
                lines += self._cfg.get("options", option).splitlines()
        for extra in extras:
            if self._cfg.has_option("options.extras_require", extra):
                lines += self._cfg.get("options.extras_require", extra).splitlines()
        return names(line for line in lines if isinstance(line, str))


def _extras_of_setup_py(source: bytes) -> list[str]:
    """Keys of `extras_require` in a setup.py, read without running it; best effort."""
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    assigned: dict[str, ast.Dict] = {}
    wanted: list[str] = []
    found: list[str] = []
    for node in ast.walk(module):
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


def _keys(node: ast.Dict) -> list[str]:
    return [key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]


def layer_digest(tree: Tree, plan: Plan) -> str:
    """Equal as long as an editable install of the project would give the same result.

    Decides: build configuration, compiled sources, files that the configuration mentions, version lines, and which
    top-level packages and modules there are. An edited ``.py`` file changes nothing.
    """
    settings = b"\n".join(tree.read(path) or b"" for path in _BUILD_FILES)
    rows: list[list[str]] = []
    for path, digest in sorted(tree.digests.items()):
        name = posixpath.basename(path)
        if any(fnmatch(name, pattern) for pattern in (*_CONFIGURATION, *_COMPILED)) or (
            path.encode() in settings if "/" in path else name.encode() in settings
        ):
            rows.append([path, digest])
        elif name in _VERSION_FILES and path.count("/") <= 3:
            lines = b"\n".join(_VERSION_LINE.findall(tree.read(path) or b""))
            rows.append([path, _sha256(lines)])
    rows.extend(["module", name] for name in sorted(_importable(tree.digests)))
    return _sha256(json.dumps([VERSION, rows, plan.scm_version, plan.name]))


def _importable(paths: Iterable[str]) -> set[str]:
    """Top-level packages and modules, and the parts of namespace packages: what an editable install may list."""
    files = [path.removeprefix("src/") for path in paths if path.endswith((".py", ".pyi"))]
    packages = {posixpath.dirname(path) for path in files if path.endswith("/__init__.py")}
    found = set()
    for path in files:
        top, _, rest = path.partition("/")
        found.add(top if top in packages or not rest else "/".join(path.split("/")[:2]))
    return found


def mount_point(root: str | None) -> str:
    """Where a workspace appears in a container: at the client's own path, unless that is no path for it."""
    if root is None or not root.startswith("/") or root.startswith("//") or len(root) > 1000:
        return DEFAULT_MOUNT
    path = posixpath.normpath(root)
    if any(ord(char) < 32 for char in path) or ".." in root.split("/"):
        return DEFAULT_MOUNT
    parts = path.split("/")[1:]
    if parts[0] in ("", *_SYSTEM) or parts[0].startswith("lib"):
        return DEFAULT_MOUNT
    return DEFAULT_MOUNT if len(parts) == 1 and parts[0] in _SHARED_FOLDERS else path


def map_arguments(args: Iterable[str], root: str | None, mount: str) -> tuple[str, ...]:
    """pytest's arguments with the client's own root replaced by the mount point, where they differ."""
    if root is None or root == mount:
        return tuple(args)
    return tuple(_map_argument(argument, root.rstrip("/\\"), mount) for argument in args)


def _map_argument(argument: str, root: str, mount: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if not value.startswith(root) or value[len(root) : len(root) + 1] not in ("", "/", "\\", ":"):
        return argument
    path, colons, rest = value[len(root) :].partition("::")
    if "\\" in root:
        path = path.replace("\\", "/")
    return f"{option}{equals}{mount}{path}{colons}{rest}"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _sha256(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
