"""The project layer: inputs of a project's editable install, and the files that it may add to the workspace; pure.

An edited ``.py`` file changes no input: this makes the second run of a package fast.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from typing import Final

from ci_runner.dependencies.install_plan import Plan
from ci_runner.dependencies.project import BUILD_FILES, Tree
from ci_runner.dependencies.requirements import normalized

#: Raised when the meaning of a layer changes.
VERSION: Final = 2

_CONFIGURATION: Final = (
    *BUILD_FILES,
    "MANIFEST.in",
    "CMakeLists.txt",
    "*.cmake",
    "meson.build",
    "meson_options.txt",
    "meson.options",
    "Cargo.toml",
    "Cargo.lock",
    "build.rs",
    "hatch.toml",
    "hatch_build.py",
    "versioneer.py",
    "PKG-INFO",
)
_COMPILED: Final = (
    "*.pyx",
    "*.pxd",
    "*.pxi",
    "*.c",
    "*.cc",
    "*.cpp",
    "*.cxx",
    "*.h",
    "*.hh",
    "*.hpp",
    "*.hxx",
    "*.inl",
    "*.rs",
    "*.f",
    "*.f77",
    "*.f90",
    "*.f95",
    "*.s",
    "*.S",
    "*.asm",
    "*.m",
    "*.mm",
    "*.cu",
    "*.cuh",
    "*.i",
    "*.go",
    "*.proto",
    "*.in",
    "*.tmpl",
    "*.templ",
)
#: setuptools-scm and hatch-vcs, pbr, pdm-backend, poetry-dynamic-versioning, uv-dynamic-versioning.
_VERSION_VARIABLES: Final = (
    "SETUPTOOLS_SCM_PRETEND_VERSION",
    "PBR_VERSION",
    "PDM_BUILD_SCM_VERSION",
    "POETRY_DYNAMIC_VERSIONING_BYPASS",
    "UV_DYNAMIC_VERSIONING_BYPASS",
)
_NEVER_INSTALLED: Final = (
    "tests",
    "test",
    "testing",
    "docs",
    "doc",
    "examples",
    "benchmarks",
    "scripts",
    "tools",
)
_VERSION_FILES: Final = ("__init__.py", "__about__.py", "__version__.py", "_version.py", "version.py")
_VERSION_LINE: Final = re.compile(
    rb"^\s*_*(?:version|VERSION|version_info|author|doc)_*\s*[:=].*$", re.MULTILINE
)


def layer_digest(tree: Tree, plan: Plan) -> str:
    """Return a digest that stays equal as long as the project's editable install would give the same result.

    Its inputs are build configuration, compiled sources, files that the configuration mentions, version lines, and
    the set of top-level packages and modules. An edited ``.py`` file changes nothing.
    """
    return digest_of(layer_rows(tree, plan), plan)


def digest_of(rows: Sequence[Sequence[str]], plan: Plan) -> str:
    """Return the digest for the result of `layer_rows`."""
    return _sha256(json.dumps([VERSION, rows, plan.scm_version, plan.name]))


def layer_rows(tree: Tree, plan: Plan) -> list[list[str]]:
    """Return the inputs of `layer_digest` that are files, as [path, digest], then as ["module", name]."""
    settings = b"\n".join(tree.read(path) or b"" for path in BUILD_FILES)
    rows: list[list[str]] = []
    for path, digest in sorted(tree.digests.items()):
        name = posixpath.basename(path)
        if _decides(name) or (path.encode() in settings if "/" in path else name.encode() in settings):
            rows.append([path, digest])
        elif name in _VERSION_FILES and path.count("/") <= 3:
            lines = b"\n".join(_VERSION_LINE.findall(tree.read(path) or b""))
            rows.append([path, _sha256(lines)])
    rows.extend(["module", name] for name in sorted(_importable(tree.digests)))
    return rows


def _decides(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in (*_CONFIGURATION, *_COMPILED))


def _importable(paths: Iterable[str]) -> set[str]:
    """Return top-level packages and modules, and parts of namespace packages: an editable install may list them."""
    files = [path.removeprefix("src/") for path in paths if path.endswith((".py", ".pyi"))]
    packages = {posixpath.dirname(path) for path in files if path.endswith("/__init__.py")}
    found = set()
    for path in files:
        top, _, rest = path.partition("/")
        if rest and top in _NEVER_INSTALLED and top not in packages:
            continue
        found.add(top if top in packages or not rest else "/".join(path.split("/")[:2]))
    return found


def is_product(path: str, tree: Tree) -> bool:
    """Return whether a file that the build wrote belongs to the layer.

    These are new files, and files regenerated from inputs of the layer. Other files of the workspace stay as the
    developer has them.
    """
    return path not in tree.digests or _decides(posixpath.basename(path)) or ".egg-info/" in path


def version_env(plan: Plan, *, alone: bool) -> dict[str, str]:
    """Return variables that pass version control's version to build backends.

    `alone`: only the project is built, so variables that affect every distribution do no harm.
    """
    if plan.scm_version is None:
        return {}
    env = {}
    if plan.name:
        name = re.sub(r"[^A-Z0-9]+", "_", normalized(plan.name).upper())
        env[f"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_{name}"] = plan.scm_version
    if alone or not plan.name:
        for variable in _VERSION_VARIABLES:
            env[variable] = plan.scm_version
    return env


def _sha256(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
