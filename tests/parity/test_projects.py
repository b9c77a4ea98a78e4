"""Real projects look the same, to the line: small ones here, many more in docs/reference/parity.md.

`scripts/parity` does the work. Source distributions are kept in `.cache`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.developer import Developer, Done, run
from support.parallel import Ahead, ahead, parameters

ROOT = Path(__file__).resolve().parents[2]

PROJECTS = {"iniconfig==2.3.1": ("-v", "-rA"), "h11==0.16.0": ("-ra", "--durations=0", "--durations-min=90")}


@pytest.fixture(scope="module")
def compared(
    request: pytest.FixtureRequest, developer: Developer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ahead[Done]]:
    """What the script says of a project."""

    def compare(project: str) -> Done:
        command = [sys.executable, str(ROOT / "scripts" / "parity"), project, "--same-user"]
        command += [
            "--work",
            str(tmp_path_factory.mktemp("compared")),
            "--sdists",
            str(ROOT / ".cache" / "sdists"),
        ]
        return run([*command, "--", *PROJECTS[project]], env=developer.environ())

    with ahead(compare, parameters(request, "project"), workers=2) as results:
        yield results


@pytest.mark.sampled(1)
@pytest.mark.parametrize("project", PROJECTS)
def test_a_real_project_shows_the_same(compared: Ahead[Done], project: str) -> None:
    done = compared(project)
    assert done.code == 0, done.text
    assert "equal" in done.out
