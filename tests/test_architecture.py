"""Who may import whom, as docs/internals/index.md has it.

Imports inside functions count, too: a lazy import is still a dependency.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from import_table import PAGE, with_table

ROOT = Path(__file__).parents[1]
PACKAGES = ("pytest_remote_ci", "ci_runner")

#: Modules of ours that put the parts together; nothing else may import them.
COMPOSITION = (
    "cli",
    "__main__",
    "programs",
    "embedded",
    "doctor",
    "status",
    "uninstall",
    "base_image",
    "plugins.policy",
)

#: Back-ports of the standard library, allowed wherever their original is.
BACKPORTS = {"tomli", "typing_extensions", "exceptiongroup"}

_OURS = (
    "wire",
    "job",
    "core",
    "pipelines",
    "plugins",
    "store",
    "server",
    "controller",
    "engine contract",
    "engines",
    "admin",
)

#: Row of the table → (what belongs to it, packages of ours it may import, third-party packages it may import).
#: The first row whose prefix fits a module is its row.
TABLE: dict[str, tuple[tuple[str, ...], tuple[str, ...], set[str]]] = {
    "wire": (
        ("pytest_remote_ci.wire",),
        ("wire",),
        set(),
    ),
    "job": (("pytest_remote_ci.job",), ("wire", "job"), {"pytest", "_pytest", "pluggy"}),
    "client": (
        ("pytest_remote_ci",),
        ("wire", "job", "client"),
        {"argcomplete", "pytest", "_pytest", "pluggy", "requests", "urllib3", "sseclient", "tomli_w"},
    ),
    "composition": (
        tuple(f"ci_runner.{name}" for name in COMPOSITION),
        (*_OURS, "composition"),
        {"argcomplete"},
    ),
    "store": (
        ("ci_runner.store",),
        ("wire", "core", "pipelines", "store"),
        {"peewee", "playhouse", "cryptography"},
    ),
    "server": (
        ("ci_runner.server",),
        ("wire", "core", "pipelines", "store", "server"),
        {"falcon", "waitress", "msgspec", "prometheus_client"},
    ),
    "engines": (
        ("ci_runner.controller.engines",),
        ("wire", "core", "plugins", "engines", "engine contract"),
        {"docker", "requests", "urllib3"},
    ),
    "engine contract": (("ci_runner.controller.engine",), ("wire", "core"), set()),
    "controller": (
        ("ci_runner.controller",),
        ("wire", "job", "core", "pipelines", "store", "controller", "engine contract"),
        {"uv"},
    ),
    "admin": (("ci_runner.admin",), ("wire", "core", "store", "admin"), set()),
    "plugins": (
        ("ci_runner.plugins",),
        ("wire", "core", "plugins", "engine contract"),
        {"pluggy", "jwt"},
    ),
    "pipelines": (("ci_runner.pipelines",), ("wire", "core", "pipelines"), {"yaml", "msgspec"}),
    "core": (("ci_runner",), ("wire", "core"), {"msgspec"}),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of ours with its dotted name."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def row_of(module: str) -> str:
    """The row of the table that a module belongs to."""
    for row, (prefixes, _, _) in TABLE.items():
        if any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes):
            return row
    raise AssertionError(f"{module} is in no row")


def imports(module: str, path: Path) -> Iterator[tuple[str, int]]:
    """The dotted names that a module imports, and where; `from a import b` gives a.b where that is a module."""
    known = {name for name, _ in modules()}
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield (full if full in known else base), node.lineno


MODULES = list(modules())
IDS = [name for name, _ in MODULES]


@pytest.mark.parametrize(("module", "path"), MODULES, ids=IDS)
def test_a_module_imports_only_what_its_row_allows(module: str, path: Path) -> None:
    row = row_of(module)
    _, ours, third = TABLE[row]
    wrong = []
    for name, line in imports(module, path):
        top = name.partition(".")[0]
        if top in PACKAGES:
            # A package's own __init__ (version and docstring) is free for all of that side.
            if name not in PACKAGES and row_of(name) not in ours:
                wrong.append(f"{path.name}:{line} imports {name} ({row_of(name)})")
        elif top not in sys.stdlib_module_names | {"tomllib"} and top not in third | BACKPORTS | {
            "__future__"
        }:
            wrong.append(f"{path.name}:{line} imports {name}")
    assert not wrong, f"row {row!r} may not: {wrong}"


def test_a_third_party_package_of_the_runner_appears_in_one_row() -> None:
    # msgspec is how a type is declared, wherever it belongs.
    everywhere = {"msgspec"}
    rows = defaultdict(set)
    for module, path in MODULES:
        for name, _ in imports(module, path):
            top = name.partition(".")[0]
            if module.startswith("ci_runner") and top not in {
                *PACKAGES,
                *BACKPORTS,
                *sys.stdlib_module_names,
                *everywhere,
            }:
                rows[top].add(row_of(module))
    assert {name: found for name, found in rows.items() if len(found) > 1} == {}


def test_the_table_of_the_documentation_is_this_one() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page, TABLE), "run: python tests/import_table.py"


def test_the_runner_never_reaches_into_the_client() -> None:
    light = {"wire", "job"}
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES
        if module.startswith("ci_runner")
        for name, _ in imports(module, path)
        if name.startswith("pytest_remote_ci.") and row_of(name) not in light
    ]
    assert wrong == []


#: The client's layers, the lowest first: a module imports from its own layer and from those below. A module belongs to
#: the layer that names the longest part of its path.
CLIENT_LAYERS: tuple[set[str], ...] = (
    {"exit_codes", "options", "wire"},
    {"errors", "job"},
    {"config", "workspace"},
    {"session.argv", "session.arguments"},
    {"terminal"},
    {"client", "artifacts"},
    {"session.remote", "session.remote_job", "session.remote_run"},
    {"replay"},
    {"session"},
    {"plugin", "hookspecs"},
    {"cli"},
)


def layer_of(name: str) -> int | None:
    """The number of the client's layer that a name of ours belongs to; None for what is no module of a layer."""
    parts = name.split(".")[1:]
    for end in range(len(parts), 0, -1):
        for number, layer in enumerate(CLIENT_LAYERS):
            if ".".join(parts[:end]) in layer:
                return number
    return None


def test_each_part_of_the_client_is_in_a_layer() -> None:
    parts = {module.split(".")[1] for module, _ in MODULES if module.startswith("pytest_remote_ci.")}
    assert {part for part in parts if layer_of(f"pytest_remote_ci.{part}") is None} == set()
    names = {module.partition(".")[2] for module, _ in MODULES}
    assert {name for layer in CLIENT_LAYERS for name in layer} <= names


def test_the_client_s_layers_import_downwards() -> None:
    wrong = [
        f"{module}:{line} imports {name}"
        for module, path in MODULES
        if module.startswith("pytest_remote_ci.")
        for name, line in imports(module, path)
        if name.startswith("pytest_remote_ci.") and (layer_of(name) or 0) > (layer_of(module) or 0)
    ]
    assert wrong == []


@pytest.mark.parametrize(("module", "path"), MODULES, ids=IDS)
def test_a_module_says_why_it_exists(module: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


#: The modules of the client in which private names of other projects stand, each with the versions that have it.
INTERNALS = ("pytest_remote_ci.replay.pytest_internals", "pytest_remote_ci.job.pytest_internals")
#: Names of the standard library that begin with an underscore and are documented.
DOCUMENTED = {("os", "_exit"), ("sys", "_getframe"), ("sys", "_xoptions")}
#: Documented methods of named tuples.
OF_NAMED_TUPLES = {"_make", "_replace"}
#: `zipfile.ZipInfo` has a public name for it since Python 3.13.
UNAVOIDABLE = {"pytest_remote_ci.workspace.zip_writer": {"_compresslevel"}}
#: The parameter by which pytest's constructors ask not to be called.
_ISPYTEST = "_ispytest"


#: What a checker, or a reader, is asked to accept.
_SUPPRESSION = re.compile(
    r"(# (?:ruff: )?noqa\b(?:: [A-Z]+\d+(?:, [A-Z]+\d+)*)?|# type: ignore(?:\[[\w, -]+\])?"
    r"|# pragma: no cover|raise NotImplementedError)"
)


def unexplained(lines: Sequence[str]) -> list[str]:
    """Return the lines that suppress a checker's error, and give no reason, either there or in the line above."""
    return [
        line.strip()
        for above, line in zip(["", *lines], lines, strict=False)
        if _SUPPRESSION.search(line)
        and not _SUPPRESSION.split(line)[-1].strip(" #-:")
        and not above.strip().startswith("#")
    ]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("x = 1  # noqa: S108", True),
        ("x = 1  # type: ignore[arg-type]  # noqa: S108", True),
        ("raise NotImplementedError", True),
        ("x = 1  # pragma: no cover", True),
        ("x = 1  # noqa: S108  # compared", False),
        ("x = 1  # noqa: S108 - compared", False),
        ("x = 1  # type: ignore[misc] # noqa: S108  # compared", False),
        ("# It is compared.\nx = 1  # noqa: S108", False),
        ("x = 1", False),
    ],
)
def test_an_unexplained_suppression_is_found(text: str, wrong: bool) -> None:
    assert bool(unexplained(text.splitlines())) == wrong


def test_each_suppression_gives_its_reason() -> None:
    wrong = [
        f"{path.name}: {line}"
        for _, path in MODULES
        for line in unexplained(path.read_text(encoding="utf-8").splitlines())
    ]
    assert not wrong


def is_private(name: object) -> bool:
    """Whether this is a name with one underscore in front."""
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """Private names that the classes of a module define: members, and attributes of `self` and `cls`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    found.add(member.name)
                elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    found.add(member.target.id)
                elif isinstance(member, ast.Assign):
                    found |= {target.id for target in member.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
    return found


def is_self(node: ast.expr) -> bool:
    """Whether this is the object that a method belongs to."""
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def foreign_privates(source: str) -> Iterator[tuple[str, int]]:
    """Private names of other projects that a module uses, and where."""
    tree = ast.parse(source)
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.startswith("_pytest"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("_pytest"):
            yield node.module or "", node.lineno
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            base = node.value.id if isinstance(node.value, ast.Name) else ""
            documented = node.attr in OF_NAMED_TUPLES or (base, node.attr) in DOCUMENTED
            if not is_self(node.value) and node.attr not in own and not documented:
                yield node.attr, node.lineno
        elif isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            if called in ("getattr", "hasattr", "setattr", "delattr") and isinstance(
                node.args[1], ast.Constant
            ):
                name = node.args[1].value
                if is_private(name) and name not in own:
                    yield str(name), node.lineno
            yield from ((_ISPYTEST, node.lineno) for word in node.keywords if word.arg == _ISPYTEST)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from _pytest import config\nimport _pytest.main", ["_pytest", "_pytest.main"]),
        ("reporter._tw.line()\nself._reporter._tw._file = 1", ["_tw", "_file", "_tw"]),
        ("getattr(config, '_inicache', None)\nsetattr(x, '_id', 1)", ["_inicache", "_id"]),
        ("Mark('a', (), {}, _ispytest=True)", ["_ispytest"]),
        ("class A:\n  _x = 1\n  def _f(self): self._y = 1\ndef g(a): return a._x, a._f, a._y", []),
        ("sys._getframe(1).f_back\nself._z\nx.__dict__", []),
    ],
)
def test_foreign_private_names_are_found(source: str, names: list[str]) -> None:
    assert sorted(name for name, _ in foreign_privates(source)) == sorted(names)


@pytest.mark.parametrize(
    ("module", "path"),
    [(name, path) for name, path in MODULES if name.startswith("pytest_remote_ci") and name not in INTERNALS],
    ids=[name for name in IDS if name.startswith("pytest_remote_ci") and name not in INTERNALS],
)
def test_private_names_of_other_projects_stand_in_one_file_per_side(module: str, path: Path) -> None:
    allowed = UNAVOIDABLE.get(module, set())
    wrong = [
        f"{path.name}:{line} {name}"
        for name, line in foreign_privates(path.read_text(encoding="utf-8"))
        if name not in allowed
    ]
    assert not wrong, f"belongs into {' or '.join(INTERNALS)}: {wrong}"


@pytest.mark.parametrize("module", INTERNALS)
def test_a_private_name_stands_beside_what_happens_without_it(module: str) -> None:
    source = dict(MODULES)[module].read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and list(foreign_privates(ast.unparse(node))):
            text = ast.get_docstring(node) or ""
            assert "without" in text.lower(), f"{node.name}: what happens without the name?"


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    code += "; import sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    # The measurement of coverage would load modules of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


HEAVY = {
    "argcomplete",
    "requests",
    "urllib3",
    "sseclient",
    "tomli_w",
    "falcon",
    "waitress",
    "peewee",
    "docker",
    "yaml",
    "msgspec",
    "ci_runner",
}


def test_the_plugin_loads_nothing_heavy() -> None:
    assert loaded_by("import pytest_remote_ci.plugin") & (HEAVY | {"ssl", "http", "sqlite3"}) == set()


def test_the_runner_s_command_loads_no_plane_before_it_knows_which() -> None:
    assert loaded_by("import ci_runner.cli") & (HEAVY - {"ci_runner"}) == set()


#: Operations that `JobRepository` names, as the store's own attributes have them.
OF_THE_REPOSITORY = {
    "users": {"create", "get", "by_email", "list", "set_active"},
    "keys": {"create", "by_hash", "list", "revoke", "touch"},
    "jobs": {"get", "list", "update"},
    "events": {"add"},
}


def test_what_the_repository_names_has_one_spelling_outside_of_the_store() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for module, path in modules()
        if row_of(module) in {"server", "controller", "admin", "composition"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.attr in OF_THE_REPOSITORY.get(node.value.attr, ())
    ]
    assert found == []
