"""Real projects from the package index: every test ends remotely as it does here, in an equal environment.

`scripts/compare-outcomes` does the work and docs/guide/projects.md has what it found about many more; these few are
small, differ in their packaging, and show every kind of outcome. Their source distributions are kept in `.cache`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.developer import make_developer, run
from support.parallel import Ahead, ahead, parameters
from support.runner import Runner

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / ".cache" / "sdists"


#: What a test is about: a project and options of the script.
ITSDANGEROUS = (
    "itsdangerous==2.2.0",
    "--replace",
    "src/itsdangerous/timed.py",
    "if age > max_age:",
    "if age > max_age + 10:",
)
#: One of its tests reads a file that looks like secrets.
FLASK = ("flask==3.1.3", "--setting", 'include = ["/tests/test_apps/.env"]')
PLUGGY = ("pluggy==1.6.0", "--git", "1.6.0")
TABULATE = ("tabulate==0.10.0",)


def about(project: tuple[str, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("project", [pytest.param(project, id=project[0])])


@pytest.fixture(scope="module")
def compared(
    request: pytest.FixtureRequest, runner: Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ahead[dict[str, Any]]]:
    """What `scripts/compare-outcomes` says about a project; raises where the two sides differ."""

    def compare(project: tuple[str, ...]) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("compared")
        found = folder / "found.json"
        command = [sys.executable, str(ROOT / "scripts" / "compare-outcomes"), *project, "--json", str(found)]
        command += ["--work", str(folder / "work"), "--sdists", str(SOURCES)]
        done = run(command, env=developer.environ(), timeout=500)
        assert done.code == 0, done.text
        result: dict[str, Any] = json.loads(found.read_text())[0]
        assert result["equal"]
        return result

    developer = make_developer(runner, tmp_path_factory.mktemp("home"))
    with ahead(compare, parameters(request, "project"), workers=2) as results:
        yield results


@about(ITSDANGEROUS)
def test_a_src_layout_with_requirements_files_and_a_line_broken_on_purpose(
    compared: Ahead[dict[str, Any]], project: tuple[str, ...]
) -> None:
    result = compared(project)
    assert result["exit code"] == 1
    assert result["outcomes"]["failed"] > 0
    assert result["outcomes"]["passed"] > 200


@about(FLASK)
def test_a_lock_file_with_dependency_groups(
    compared: Ahead[dict[str, Any]], project: tuple[str, ...]
) -> None:
    result = compared(project)
    assert result["exit code"] == 0
    assert result["tests"] > 400


@about(PLUGGY)
def test_a_checkout_whose_version_comes_from_its_tag(
    compared: Ahead[dict[str, Any]], project: tuple[str, ...]
) -> None:
    result = compared(project)
    assert result["packages"]["pluggy"] == ["1.6.0", True]
    assert result["exit code"] == 0


@about(TABULATE)
def test_a_flat_layout_with_extras_and_skipped_tests(
    compared: Ahead[dict[str, Any]], project: tuple[str, ...]
) -> None:
    result = compared(project)
    assert result["exit code"] == 0
    assert result["outcomes"]["skipped"] > 0
    assert result["outcomes"]["passed"] > 200
