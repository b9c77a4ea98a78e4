"""System packages of a pipeline's jobs: those of the job, else those of the project."""

from __future__ import annotations

import pytest

from ci_runner.pipelines.check import check
from ci_runner.pipelines.planning import Choice, make_plan
from ci_runner.pipelines.run import options_of


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ["bash"]),
        ("packages: [g++, libcairo2-dev, g++]", ["g++", "libcairo2-dev"]),
        ("packages: []", None),
    ],
)
def test_a_job_has_its_own_packages_or_those_of_the_project(line: str, expected: list[str] | None) -> None:
    text = f"stages: [test]\njobs:\n  - name: tests\n    stage: test\n    {line}\n"
    checked = check([(".pipelines/ci.yaml", text)])
    assert checked.is_valid, checked.problems
    (planned,) = make_plan(checked.pipelines[0], Choice()).jobs
    assert options_of({"packages": ["bash"]}, planned).get("packages") == expected
