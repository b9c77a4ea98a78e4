"""Search for requirements files where nothing is configured; pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Final

#: Files with what the project itself needs. The second line is for projects without a file in their root.
MAIN: Final = (
    ("requirements.txt",),
    (
        "requirements/base.txt",
        "requirements/common.txt",
        "requirements/main.txt",
        "requirements/requirements.txt",
    ),
)
#: Files with what tests need.
TESTS: Final = (
    "requirements-dev.txt",
    "requirements_dev.txt",
    "dev-requirements.txt",
    "requirements-test.txt",
    "requirements-tests.txt",
    "requirements_test.txt",
    "requirements_tests.txt",
    "test-requirements.txt",
    "requirements/test*.txt",
    "requirements/requirements-test*.txt",
    "requirements/pytest.txt",
    "tests/requirements.txt",
    "test/requirements.txt",
)
#: Files with what developers need beside the tests; taken if there is none of `TESTS`.
DEVELOPMENT: Final = (
    "requirements/dev.txt",
    "requirements/develop.txt",
    "requirements/development.txt",
    "requirements/requirements-dev.txt",
    "requirements/local.txt",
    "requirements/ci.txt",
)
#: The end of a name that says for which Python a file was compiled.
_PYTHON: Final = re.compile(r"[-_.]?(?:py|python|cp)?[-_.]?(?:2[._]?[67]|3[._]?(?:[3-9]|1\d))\Z")


def find(paths: Iterable[str], python: str | None = None, *, development: bool = True) -> tuple[str, ...]:
    """Return the usual files among `paths`, those for the project first.

    `development`: take files for developers if there are none for tests.

    A file that was compiled for one Python (``tests37.txt``) is taken for this `python` only ("3.12"), and then in
    place of the file without a version. A source of pip-tools (``tests.in``) is taken if nothing was compiled from it.
    """
    usable = _for_python(_named(paths), python)
    found: list[str] = next((taken for names in MAIN if (taken := _matching(usable, names))), [])
    found += _matching(usable, TESTS) or (_matching(usable, DEVELOPMENT) if development else [])
    return tuple(dict.fromkeys(found))


def is_for_tests(path: str) -> bool:
    """Return whether a found file is one that names more than the project's own dependencies."""
    name = f"{_PYTHON.sub('', posixpath.splitext(path)[0])}.txt"
    return all(name not in names for names in MAIN)


def _named(paths: Iterable[str]) -> list[str]:
    """Return the .txt files, and the .in files without one, that may be requirements."""
    texts = {path for path in paths if path.count("/") <= 1 and path.endswith(".txt")}
    sources = (path for path in paths if path.count("/") <= 1 and path.endswith(".in"))
    compiled = {_PYTHON.sub("", path[:-4]) for path in texts}
    return sorted(texts) + sorted(path for path in sources if path[:-3] not in compiled)


def _for_python(paths: list[str], python: str | None) -> dict[str, str]:
    """Return the file to take for each name without a Python version."""
    result: dict[str, str] = {}
    for path in paths:
        stem = posixpath.splitext(path)[0]
        version = _PYTHON.search(stem)
        name = f"{_PYTHON.sub('', stem)}.txt"
        if version is None:
            result.setdefault(name, path)
        elif python is not None and re.sub(r"\D", "", version[0]) == python.replace(".", ""):
            result[name] = path
    return result


def _matching(usable: dict[str, str], patterns: Iterable[str]) -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        depth = pattern.count("/")
        found += [
            usable[name] for name in sorted(usable) if name.count("/") == depth and fnmatch(name, pattern)
        ]
    return found
