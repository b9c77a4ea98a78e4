"""Projects whose remote runs are timed: as small as they can be, a package, and many files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from collect import make_project

#: Tests of each suite; they do nothing, so that what is measured is everything else.
TESTS = 20


def make_plain(root: Path) -> None:
    """A plain folder with requirements."""
    _tests(root, "")
    (root / "requirements.txt").write_text("pytest==8.3.4\n")


def make_package(root: Path) -> None:
    """A package in `src` layout, with an extra."""
    package = root / "src" / "overhead"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def one():\n    return 1\n")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=61"]\nbuild-backend = "setuptools.build_meta"\n\n'
        '[project]\nname = "overhead"\nversion = "1.0"\ndependencies = ["attrs==24.3.0"]\n\n'
        '[project.optional-dependencies]\ntest = ["pytest==8.3.4"]\n\n'
        '[tool.remote-ci]\nextras = ["test"]\n\n'
        '[tool.pytest.ini_options]\npythonpath = ["src"]\n'
    )
    _tests(root, "from overhead import one\n")


def make_tree(root: Path) -> None:
    """Ten thousand files beside the tests."""
    make_project(root, 10_000)
    make_plain(root)


#: Name → what makes it in an empty folder.
SUITES: dict[str, Callable[[Path], None]] = {"plain": make_plain, "package": make_package, "tree": make_tree}


def make_sleeper(root: Path) -> None:
    """One test that sleeps for longer than anybody waits."""
    make_plain(root)
    (root / "tests" / "test_trivial.py").write_text(
        "import time\n\n\ndef test_sleeps():\n    print('sleeping', flush=True)\n    time.sleep(600)\n"
    )


def edit(root: Path, number: int) -> None:
    """Change one file, as a developer does between two runs."""
    with (root / "tests" / "test_trivial.py").open("a") as file:
        file.write(f"\n# change {number}\n")


def _tests(root: Path, imports: str) -> None:
    folder = root / "tests"
    folder.mkdir()
    body = "".join(
        f"\n\ndef test_number_{number}():\n    assert {number} == {number}\n" for number in range(TESTS)
    )
    (folder / "test_trivial.py").write_text(imports + body)
