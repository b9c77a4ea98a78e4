"""The example project: its pipeline is valid and planned as its README says, and its tests pass without a database."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ci_runner.pipelines.check import check, choose
from ci_runner.pipelines.planning import make_plan

EXAMPLE = Path(__file__).parents[4] / "examples" / "pipeline"


def test_its_pipeline_is_planned_as_its_readme_says() -> None:
    found = check([("pyproject.toml", (EXAMPLE / "pyproject.toml").read_text("utf-8"))])
    assert [str(problem) for problem in found.problems] == []
    plan = make_plan(choose(found, "ci"))
    assert [(job.stage, job.name, job.needs, job.artifacts_from) for job in plan.jobs] == [
        ("lint", "lint", (), ()),
        ("test", "tests (python=3.10)", ("lint",), ()),
        ("test", "tests (python=3.12)", ("lint",), ()),
        ("report", "coverage", (both := ("tests (python=3.10)", "tests (python=3.12)")), both),
    ]
    tests = plan.jobs[1]
    assert (tests.python, tests.env["COVERAGE_FILE"], tests.artifacts) == (
        "3.10",
        ".coverage.3.10",
        (".coverage.*",),
    )
    assert [service.name for service in tests.services] == ["db"]
    readme = (EXAMPLE / "README.md").read_text("utf-8")
    assert all(f"`{job.name}`" in readme for job in plan.jobs)


def test_its_tests_pass_here_without_a_database(tmp_path: Path) -> None:
    copy = Path(
        shutil.copytree(
            EXAMPLE, tmp_path / "guestbook", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    )
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DATABASE", "PYTEST", "COV"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=copy,
        env={**env, "PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "5 passed, 1 skipped" in done.stdout
