"""Who may import whom, as docs/internals/index.md has it.

Imports inside functions count, too: a lazy import is still a dependency.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_table import PAGE, with_table

ROOT = Path(__file__).parents[1]
PACKAGES = ("pytest_remote_ci", "ci_runner")

#: Modules of ours that put the parts together; nothing else may import them.
COMPOSITION = ("cli", "__main__", "programs", "embedded", "doctor", "base_image", "plugins.policy")

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
        {"pytest", "_pytest", "pluggy", "requests", "urllib3", "sseclient", "tomli_w"},
    ),
    "composition": (
        tuple(f"ci_runner.{name}" for name in COMPOSITION),
        (*_OURS, "composition"),
        set(),
    ),
    "store": (
        ("ci_runner.store",),
        ("wire", "core", "pipelines", "store"),
        {"peewee", "playhouse", "cryptography"},
    ),
    "server": (
        ("ci_runner.server",),
        ("wire", "core", "pipelines", "store", "server"),
        {"falcon", "waitress"},
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
    "pipelines": (("ci_runner.pipelines",), ("wire", "core", "pipelines"), {"yaml"}),
    "core": (("ci_runner",), ("wire", "core"), set()),
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
    rows = defaultdict(set)
    for module, path in MODULES:
        for name, _ in imports(module, path):
            top = name.partition(".")[0]
            if module.startswith("ci_runner") and top not in {
                *PACKAGES,
                *BACKPORTS,
                *sys.stdlib_module_names,
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
    {"exit_codes", "wire"},
    {"errors", "job"},
    {"config", "workspace"},
    {"session.arguments"},
    {"terminal"},
    {"client", "artifacts"},
    {"session.remote_job"},
    {"replay"},
    {"session"},
    {"plugin", "hookspecs"},
    {"cli"},
)

#: `pytest --remote-ci --help` asks the plugin for its options.
UPWARDS = {("session.remote_help", "plugin")}


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
        if name.startswith("pytest_remote_ci.")
        and (layer_of(name) or 0) > (layer_of(module) or 0)
        and (module.partition(".")[2], name.partition(".")[2]) not in UPWARDS
    ]
    assert wrong == []


@pytest.mark.parametrize(("module", "path"), MODULES, ids=IDS)
def test_a_module_says_why_it_exists(module: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


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
    "requests",
    "urllib3",
    "sseclient",
    "tomli_w",
    "falcon",
    "waitress",
    "peewee",
    "docker",
    "yaml",
    "ci_runner",
}


@pytest.mark.skipif(not (ROOT / "pytest_remote_ci/plugin.py").exists(), reason="there is no plugin yet")
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
