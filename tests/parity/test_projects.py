"""Real projects look the same, to the line: small ones here, many more in docs/parity.md.

`scripts/parity` does the work. Source distributions are kept in `.cache`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from developers import Developer, run

ROOT = Path(__file__).resolve().parents[2]

PROJECTS = {"iniconfig==2.3.1": ("-v", "-rA"), "h11==0.16.0": ("-ra", "--durations=0", "--durations-min=90")}


@pytest.mark.parametrize(("project", "args"), PROJECTS.items(), ids=PROJECTS)
def test_a_real_project_shows_the_same(
    developer: Developer, tmp_path: Path, project: str, args: tuple[str, ...]
) -> None:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "parity"),
        project,
        "--same-user",
        "--work",
        str(tmp_path),
    ]
    done = run([*command, "--sdists", str(ROOT / ".cache" / "sdists"), "--", *args], env=developer.environ())
    assert done.code == 0, done.text
    assert "equal" in done.out
