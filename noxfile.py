"""Sessions of `nox` (`pip install nox`): other Pythons and pytests, distributions, documentation, benchmarks.

    nox --list
    nox -s "tests-3.12(pytest='8.4')" -- tests/unit/pytest_remote_ci/test_plugin.py

`.ci/run` checks one Python with all tests; `nox -s tests` checks the tests that need no Docker with all Pythons that
this machine has.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["style", "docs", "wheel"]

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
#: The oldest that the client supports, the last ones of each further series, and the newest.
PYTESTS = ["7.4", "8.4", "newest"]
#: Tests that need neither Docker nor root.
TESTS = ["tests/unit", "tests/test_docs.py", "tests/test_wire_page.py"]


def install_group(session: nox.Session, name: str) -> None:
    """Install a dependency group of pyproject.toml."""
    session.install(*nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name))


@nox.session(python=PYTHONS)
@nox.parametrize("pytest", PYTESTS)
def tests(session: nox.Session, pytest: str) -> None:
    """Run the tests that need no Docker, with the project's wheel; arguments go to pytest."""
    install_group(session, "dev")
    session.install("uv", "pytest" if pytest == "newest" else f"pytest=={pytest}.*")
    session.run("python", "scripts/install_wheel.py")
    session.run("python", "-m", "pytest", *(session.posargs or TESTS))


@nox.session
def style(session: nox.Session) -> None:
    """Check style and types as `.ci/run` does."""
    install_group(session, "dev")
    session.install(".[runner]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site; a warning is an error. `nox -s docs -- serve` shows it."""
    install_group(session, "docs")
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]))


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the source distribution and, from it, the wheel, and check both for the package index."""
    session.install("build", "twine")
    folder = Path(session.create_tmp()).resolve() / "dist"
    session.run("python", "-m", "build", "--outdir", str(folder))
    session.run("twine", "check", "--strict", *sorted(str(path) for path in folder.iterdir()))


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Run the quick benchmarks, or those named: `nox -s benchmarks -- overhead.py --engine process`."""
    install_group(session, "dev")
    session.install(".[runner]")
    if session.posargs:
        session.run("python", f"benchmarks/{session.posargs[0]}", *session.posargs[1:])
        return
    for name in ("startup.py", "collect.py"):
        session.run("python", f"benchmarks/{name}")
