"""Real projects from the package index: every test ends remotely as it does here, in an equal environment.

`scripts/compare` does the work and docs/projects.md has what it found about many more; these few are small, differ in
their packaging, and show every kind of outcome. Their source distributions are kept in `.cache`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from developers import Developer, run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / ".cache" / "sdists"


def compare(developer: Developer, folder: Path, project: str, *options: str) -> dict[str, Any]:
    """What `scripts/compare` says about a project; the run fails where the two sides differ."""
    found = folder / "found.json"
    command = [sys.executable, str(ROOT / "scripts" / "compare"), project, *options, "--json", str(found)]
    command += ["--work", str(folder / "work"), "--sdists", str(SOURCES)]
    done = run(command, env=developer.environ(), timeout=500)
    assert done.code == 0, done.text
    result: dict[str, Any] = json.loads(found.read_text())[0]
    assert result["equal"]
    return result


def test_a_src_layout_with_requirements_files_and_a_line_broken_on_purpose(
    developer: Developer, tmp_path: Path
) -> None:
    broken = ("src/itsdangerous/timed.py", "if age > max_age:", "if age > max_age + 10:")
    result = compare(developer, tmp_path, "itsdangerous==2.2.0", "--replace", *broken)
    assert result["exit code"] == 1
    assert result["outcomes"]["failed"] > 0
    assert result["outcomes"]["passed"] > 200


def test_a_lock_file_with_dependency_groups(developer: Developer, tmp_path: Path) -> None:
    result = compare(developer, tmp_path, "flask==3.1.3")
    assert result["exit code"] == 0
    assert result["tests"] > 400


def test_a_checkout_whose_version_comes_from_its_tag(developer: Developer, tmp_path: Path) -> None:
    result = compare(developer, tmp_path, "pluggy==1.6.0", "--git", "1.6.0")
    assert result["packages"]["pluggy"] == ["1.6.0", True]
    assert result["exit code"] == 0


def test_a_flat_layout_with_extras_and_skipped_tests(developer: Developer, tmp_path: Path) -> None:
    result = compare(developer, tmp_path, "tabulate==0.10.0")
    assert result["exit code"] == 0
    assert result["outcomes"]["skipped"] > 0
    assert result["outcomes"]["passed"] > 200
