"""A workspace's installation plan: a pure decision over its files.

`make_plan` chooses the files that define the dependencies; `mount_point` and `map_arguments` place the workspace in
the container. `ci_runner.controller.environments.environments` installs; `project_layer` describes the layer of the
project itself.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Final

from ci_runner.dependencies import poetry
from ci_runner.dependencies.project import BUILD_FILES, Project, Tree, read_toml
from ci_runner.dependencies.requirements import names, normalized, read_all
from pytest_remote_ci.wire.protocol import SubmitOptions

#: Raised when the meaning of a plan changes, so that older locks are not reused.
VERSION: Final = 1
#: Dependency groups and extras that are tried if nothing is configured.
GUESSED: Final = ("test", "tests", "testing", "dev")
#: Requirements files that are searched for if nothing is configured.
FOUND: Final = (
    "requirements.txt",
    "requirements-dev.txt",
    "requirements_dev.txt",
    "dev-requirements.txt",
    "requirements-test.txt",
    "requirements-tests.txt",
    "requirements_test.txt",
    "test-requirements.txt",
    "requirements/test*.txt",
    "tests/requirements.txt",
)
#: Mount point of a workspace if its own path cannot be used.
DEFAULT_MOUNT: Final = "/workspace"

_SYSTEM: Final = ("bin", "boot", "dev", "etc", "proc", "run", "sbin", "sys", "usr", "ci")
_SHARED_FOLDERS: Final = ("tmp", "home", "root", "var", "opt", "mnt", "srv", "media", "data", "workspace")


@dataclass(frozen=True)
class Plan:
    """The dependencies and project to install."""

    #: "uv.lock": the lock is exported; "project": `project_file` is resolved; "lines": only `requirements` are.
    source: str
    #: pyproject.toml, setup.py or setup.cfg, if the project's own metadata names dependencies.
    project_file: str | None = None
    #: Requirement lines besides the project's own; the client's pytest comes last if it was added.
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    #: Options of requirements files that choose indexes.
    index_options: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    #: Extras that were not requested: left out again if the project turns out not to have them.
    guessed_extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    #: Added if the result would have no pytest otherwise.
    pytest: str = "pytest"
    #: Whether the pytest line is among `requirements` because nothing else names pytest.
    adds_pytest: bool = False
    #: Whether the project is installed (editable) in a separate layer.
    install: bool = False
    #: Whether the project's code has to run before its dependencies are known.
    is_dynamic: bool = False
    #: Distribution name, if known without running code.
    name: str | None = None
    #: Version from the project's version control.
    scm_version: str | None = None
    #: (path, digest) of every file that the above was read from or that the installer reads itself.
    files: tuple[tuple[str, str], ...] = ()
    #: Sentences for the job's log.
    notes: tuple[str, ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that determine the lock, and no others, JSON-ready."""
        result = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "notes"}
        return {"version": VERSION, **result}

    def digest(self) -> str:
        """Return a digest that is equal for plans with the same lock (given the same image, Python and indexes)."""
        return _sha256(json.dumps(self.to_dict(), sort_keys=True))


def make_plan(tree: Tree, options: SubmitOptions) -> Plan:
    """Return the plan. Raises `EnvironmentFailed` for files that cannot be read, naming file and line."""
    pyproject = read_toml(tree, "pyproject.toml")
    project = Project(tree, pyproject)
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
        constraints.extend(poetry.pins(read_toml(tree, "poetry.lock")))
    wanted_pytest = f"pytest=={options.pytest_version}" if options.pytest_version else "pytest"
    adds_pytest = not locked and "pytest" not in names(lines) | project.static_names(extras, groups)
    install = options.install_project is not False and (project.is_package or options.install_project is True)
    decisive = [*files.files, *BUILD_FILES, "uv.lock", "poetry.lock", "uv.toml"]
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
        is_dynamic=project.is_dynamic,
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
    """Return (extras, those of them that are guessed): the requested ones, else those that tests usually need."""
    asked = tuple(dict.fromkeys([*options.extras, *named]))
    if configured or asked or any(name in groups for name in GUESSED[:3]):
        return asked, ()
    found = tuple(name for name in known if normalized(name) in GUESSED[:3])
    if not found and not groups:
        found = tuple(name for name in known if normalized(name) == "dev")
    return found, found


def _notes(options: SubmitOptions, missing: Iterable[str], known_groups: Iterable[str]) -> list[str]:
    notes = [f"requirements file {path} is not in the project: ignored" for path in missing]
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


def mount_point(root: str | None) -> str:
    """Return the workspace's path in the container: the client's own path, unless it cannot be used."""
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
    """Return pytest's arguments with the client's root replaced by the mount point, if they differ."""
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


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
