"""The example project's pipeline, run for real: lint, tests beside PostgreSQL, coverage out of their artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipelining import Api, by_name
from running import Runner

pytestmark = [pytest.mark.docker, pytest.mark.parametrize("runner", ["docker"], indirect=True)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipeline"
SUFFIXES = (".py", ".toml", ".md")


def test_the_example_s_pipeline_passes_and_leaves_a_coverage_report(
    runner: Runner, postgres_image: str
) -> None:
    files = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text("utf-8")
        for path in sorted(EXAMPLE.rglob("*"))
        if path.suffix in SUFFIXES
    }
    # What can be had without a registry: this PostgreSQL, and the Python of the base image.
    for written, here in (('"postgres:17"', f'"{postgres_image}"'), ('["3.10", "3.12"]', '["3.11"]')):
        assert written in files["pyproject.toml"]
        files["pyproject.toml"] = files["pyproject.toml"].replace(written, here)
    api = Api(runner)
    run = api.until_over(api.run(None, files, pipeline="ci")["run_id"], seconds=240)
    jobs = by_name(run)
    logs = {name: api.log(job["job_id"]) for name, job in jobs.items() if job["job_id"]}
    assert (run["status"], run["success"]) == ("completed", True), logs
    assert list(jobs) == ["lint", "tests (python=3.11)", "coverage"]
    assert "All checks passed!" in logs["lint"], logs["lint"]
    assert "6 passed" in logs["tests (python=3.11)"]
    assert "TOTAL" in logs["coverage"]
    left = api.get(f"/jobs/{jobs['coverage']['job_id']}/artifacts")
    assert "coverage.xml" in str(left)
