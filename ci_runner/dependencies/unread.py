"""Files that declare test dependencies in a way that is not read, for one line in the job's log; pure."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from ci_runner.dependencies.bounded_toml import table
from ci_runner.dependencies.project import Tree, read_toml
from ci_runner.dependencies.requirements import requirement_name
from ci_runner.errors import EnvironmentFailed

_CONDA: Final = (
    "environment.yml",
    "environment.yaml",
    "environment-dev.yml",
    "environment_dev.yml",
    "conda.yml",
)
#: Files are searched up to this many bytes.
_MOST: Final = 1 << 20
_NOX_INSTALL: Final = re.compile(rb"\.\s*(?:conda_)?install\s*\(")


def note(tree: Tree, pyproject: Mapping[str, object], beside: Iterable[str] = ()) -> str | None:
    """Return one line that names files with test dependencies that are not read; None if there is none.

    `beside`: requirements files that are not read because of a lock.
    """
    found = [*beside, *_files(tree, pyproject)]
    if not found:
        return None
    verb = "lists" if len(found) == 1 else "list"
    return (
        f"{' and '.join(found)} {verb} test dependencies, which are not read; copy them to a dependency group, or set "
        "requirements = [...] in [tool.remote-ci]"
    )


def _files(tree: Tree, pyproject: Mapping[str, object]) -> Iterator[str]:
    for file in ("tox.ini", "setup.cfg"):
        if _has_tox_dependencies(tree.read(file)):
            yield file
    if _has_tox_tables(_toml(tree, "tox.toml")):
        yield "tox.toml"
    if _has_tox_tables(table(pyproject, "tool", "tox")):
        yield "[tool.tox] in pyproject.toml"
    if _NOX_INSTALL.search((tree.read("noxfile.py") or b"")[:_MOST]):
        yield "noxfile.py"
    yield from (file for file in _CONDA if file in tree.digests)
    if "pixi.toml" in tree.digests:
        yield "pixi.toml"
    if table(pyproject, "tool", "pixi"):
        yield "[tool.pixi] in pyproject.toml"
    if b"tests_require" in (tree.read("setup.py") or b"")[:_MOST]:
        yield "setup.py (tests_require)"


def _has_tox_dependencies(content: bytes | None) -> bool:
    """Return whether an environment of an INI file for tox names more than pytest."""
    if content is None or len(content) > _MOST:
        return False
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(content.decode("utf-8", "replace"))
    except configparser.Error:
        return False
    return any(
        _names_more(parser.get(section, "deps").splitlines())
        for section in parser.sections()
        if section.startswith("testenv") and parser.has_option(section, "deps")
    ) or (
        parser.has_option("options", "tests_require")
        and _names_more(parser.get("options", "tests_require").splitlines())
    )


def _has_tox_tables(tox: Mapping[str, object]) -> bool:
    environments = [table(tox, "env_run_base"), *table(tox, "env").values()]
    legacy = tox.get("legacy_tox_ini")
    return (isinstance(legacy, str) and _has_tox_dependencies(legacy.encode("utf-8", "replace"))) or any(
        _names_more([item for item in deps if isinstance(item, str)])
        for environment in environments
        if isinstance(environment, Mapping) and isinstance(deps := environment.get("deps"), list)
    )


def _names_more(lines: list[str]) -> bool:
    """Return whether dependencies of tox name anything but pytest, which every job has."""
    plain = (
        re.sub(r"^[A-Za-z0-9_,{}.!-]+:\s+", "", line.strip()) for line in lines
    )  # py39: importlib-metadata
    return any(line and not line.startswith("#") and requirement_name(line) != "pytest" for line in plain)


def _toml(tree: Tree, path: str) -> Mapping[str, object]:
    try:
        return read_toml(tree, path)
    except EnvironmentFailed:  # only searched for a hint
        return {}
