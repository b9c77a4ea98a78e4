"""A workspace's installation plan: a pure decision over its files.

`make_plan` chooses the files that define the dependencies; `mount_point` and `map_arguments` place the workspace in
the container. `ci_runner.controller.environments.environments` installs; `project_layer` describes the layer of the
project itself.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ci_runner.dependencies import pipfile, poetry, pylock, requirements_files, unread, uv_workspace
from ci_runner.dependencies.project import BUILD_FILES, Project, Tree, read_toml
from ci_runner.dependencies.requirements import names, normalized, read_all
from ci_runner.dependencies.tool_groups import HatchEnvironment, hatch_environment
from pytest_remote_ci.wire.protocol import SubmitOptions

#: Raised when the meaning of a plan changes, so that older locks are not reused.
VERSION: Final = 2
#: Dependency groups and extras that are tried if nothing is configured.
GUESSED: Final = ("test", "tests", "testing", "dev")
#: Files of which the installer or the runner reads the versions.
_LOCKS: Final = ("uv.lock", "poetry.lock", "pdm.lock", "uv.toml")
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
    #: Whether uv's lock is exported for all members of its workspace.
    all_packages: bool = False
    #: Added if the result would have no pytest otherwise.
    pytest: str = "pytest"
    #: Whether the pytest line is among `requirements` because nothing else names pytest.
    adds_pytest: bool = False
    #: Whether the environment has pip, as those of ``python -m venv`` have.
    pip: bool = True
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
    #: What was chosen, for the message of a conflict.
    chosen: tuple[str, ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, object]:
        """Return the fields that determine the lock, and no others, JSON-ready."""
        reported = ("notes", "chosen")
        result = {key: getattr(self, key) for key in self.__dataclass_fields__ if key not in reported}
        return {"version": VERSION, **result}

    def digest(self) -> str:
        """Return a digest that is equal for plans with the same lock (given the same image, Python and indexes)."""
        return _sha256(json.dumps(self.to_dict(), sort_keys=True))


def make_plan(tree: Tree, options: SubmitOptions, python: str | None = None) -> Plan:
    """Return the plan for a Python such as "3.12".

    Raises `EnvironmentFailed` for files that cannot be read, naming file and line.
    """
    pyproject = read_toml(tree, "pyproject.toml")
    project = Project(tree, pyproject)
    members = uv_workspace.members(tree, pyproject)
    packages = (project, *(member.project for member in members or ()))
    locked = "uv.lock" in tree.digests and ("project" in pyproject or members is not None)
    groups = _choose_groups(options, packages)
    known_groups = {name for package in packages for name in package.groups()}
    known_extras = tuple(dict.fromkeys(name for package in packages for name in package.extras()))
    has_tests = bool(groups or _guess(known_extras))
    found = _find(tree, options, python, locked=locked, development=not has_tests)
    files = read_all(found.requirements, tree.read)
    hatch = found.hatch or HatchEnvironment("")
    if not options.groups:
        groups = tuple(dict.fromkeys([*groups, *(name for name in hatch.groups if name in known_groups)]))
    extras, guessed = _choose_extras(
        options,
        groups,
        known_extras if locked else project.extras(),
        [*files.project_extras, *found.pipfile.project_extras, *hatch.extras],
    )
    lines = [*files.lines, *found.pipfile.lines, *found.pylock.lines, *hatch.lines]
    if not locked:
        lines += [line for package in packages for line in package.own_lines(extras, groups)]
        lines += uv_workspace.unlocked_lines(members or ())
    constraints = [*files.constraints, *found.pylock.constraints]
    for lock in ("poetry.lock", "pdm.lock") if not locked else ():
        if lock in tree.digests:
            constraints.extend(poetry.pins(read_toml(tree, lock), lock))
    wanted_pytest = f"pytest=={options.pytest_version}" if options.pytest_version else "pytest"
    named = names(lines).union(*(package.static_names(extras, groups) for package in packages))
    adds_pytest = not locked and "pytest" not in named
    install = options.install_project is not False and (project.is_package or options.install_project is True)
    notes = _notes(options, files.missing, known_groups)
    if not (found.is_for_tests or _guess((*groups, *extras)) or "pytest" in named or _is_configured(options)):
        beside = _find_requirements(tree, python, True) if locked else ()
        note = unread.note(
            tree, pyproject, [path for path in beside if requirements_files.is_for_tests(path)]
        )
        notes += [] if note is None else [note]
    decisive = [*files.files, *BUILD_FILES, *_LOCKS, "hatch.toml", *pipfile.FILES, *pylock.FILES]
    decisive += [member.file for member in members or ()]
    decisive += [
        path
        for path in sorted(tree.digests)
        if path.startswith("../") and posixpath.basename(path) in BUILD_FILES
    ]
    return Plan(
        source="uv.lock" if locked else "project" if project.file else "lines",
        project_file=project.file,
        requirements=tuple([*lines, wanted_pytest] if adds_pytest else lines),
        constraints=tuple(constraints),
        index_options=(*files.index_options, *found.pipfile.index_options),
        extras=extras,
        guessed_extras=guessed,
        groups=tuple(_installers_groups(project, members or (), groups, locked)),
        all_packages=locked and members is not None,
        pytest=wanted_pytest,
        adds_pytest=adds_pytest,
        pip=options.pip,
        install=install,
        is_dynamic=project.is_dynamic,
        name=project.name,
        scm_version=options.scm_version,
        files=tuple((path, tree.digests[path]) for path in dict.fromkeys(decisive) if path in tree.digests),
        notes=tuple(notes),
        chosen=(
            *files.files,
            *(file for file in (found.pipfile.file, found.pylock.file) if file is not None),
            *(f"group {name}" for name in groups),
            *(f"extra {name}" for name in extras),
            *([f"Hatch's environment {hatch.name}"] if hatch.name else []),
        ),
    )


@dataclass(frozen=True)
class _Found:
    """What is installed unless `requirements` is configured or uv's lock has everything."""

    requirements: tuple[str, ...] = ()
    pipfile: pipfile.Pipfile = field(default_factory=pipfile.Pipfile)
    pylock: pylock.Pylock = field(default_factory=pylock.Pylock)
    hatch: HatchEnvironment | None = None

    @property
    def is_for_tests(self) -> bool:
        """Return whether any of it usually has what tests need."""
        others = (self.pipfile.file, self.pylock.file, self.hatch)
        return any(other is not None for other in others) or any(
            map(requirements_files.is_for_tests, self.requirements)
        )


def _find(
    tree: Tree, options: SubmitOptions, python: str | None, *, locked: bool, development: bool
) -> _Found:
    if options.requirements:
        return _Found(options.requirements)
    if locked:
        return _Found()
    return _Found(
        _find_requirements(tree, python, development),
        pipfile.read(tree),
        pylock.read(tree),
        hatch_environment(read_toml(tree, "pyproject.toml"), read_toml(tree, "hatch.toml")),
    )


def _find_requirements(tree: Tree, python: str | None, development: bool) -> tuple[str, ...]:
    return requirements_files.find(tree.digests, python, development=development)


def _is_configured(options: SubmitOptions) -> bool:
    return bool(options.requirements or options.extras or options.groups)


def _installers_groups(
    project: Project, members: tuple[uv_workspace.Member, ...], groups: tuple[str, ...], locked: bool
) -> Iterator[str]:
    """Yield the groups that the installer reads itself, as it wants them named: from the lock, or from their files."""
    if locked:
        known = set[str]().union(*(each.locked_groups() for each in (project, *(m.project for m in members))))
        yield from (name for name in groups if name in known)
        return
    yield from (name for name in groups if name in project.standard_groups())
    for member in members:
        yield from (f"{member.file}:{name}" for name in groups if name in member.project.standard_groups())


def _choose_groups(options: SubmitOptions, packages: tuple[Project, ...]) -> tuple[str, ...]:
    """Return the configured groups, else those that the project's tool installs and those that tests usually need."""
    wanted = options.groups
    if not wanted:
        is_exclusive = any(package.tool_groups.is_exclusive for package in packages)
        wanted = (
            *(() if is_exclusive else GUESSED),
            *(name for package in packages for name in package.tool_groups.defaults),
        )
    known = {name for package in packages for name in package.groups()}
    return tuple(dict.fromkeys(name for name in wanted if name in known))


def _guess(known: Iterable[str]) -> tuple[str, ...]:
    """Return the names that are usual for the dependencies of tests."""
    return tuple(name for name in known if normalized(name) in GUESSED[:3])


def _choose_extras(
    options: SubmitOptions, groups: tuple[str, ...], known: tuple[str, ...], named: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (extras, those of them that are guessed): the requested ones, else those that tests usually need."""
    asked = tuple(dict.fromkeys([*options.extras, *named]))
    if asked or any(name in groups for name in GUESSED[:3]):
        return asked, ()
    found = _guess(known)
    if not found and not groups:
        found = tuple(name for name in known if normalized(name) == "dev")
    return found, found


def _notes(options: SubmitOptions, missing: Iterable[str], known_groups: Iterable[str]) -> list[str]:
    notes = [f"requirements file {path} is not in the project: ignored" for path in missing]
    known = set(known_groups)
    return notes + [
        f"dependency group {name!r} does not exist" for name in options.groups if name not in known
    ]


def mount_point(root: str | None, project_folder: str = "") -> str:
    """Return the workspace's path in the container: the client's own path, unless it cannot be used.

    `project_folder`: where the project `root` is in the workspace.
    """
    if root is not None and project_folder:
        suffix = f"/{project_folder}"
        root = root.removesuffix(suffix) if root.endswith(suffix) else None
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
