"""The example project's pipeline, run for real: lint, tests on two Pythons beside PostgreSQL, coverage out of their
artifacts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from support.pipelines import Api, by_name
from support.runner import Runner

from ci_runner.base_image import pythons
from ci_runner.base_image.build import LABEL_PYTHONS

pytestmark = [pytest.mark.docker, pytest.mark.parametrize("runner", ["docker"], indirect=True)]

EXAMPLE = Path(__file__).parents[3] / "examples" / "pipeline"
SUFFIXES = (".py", ".toml", ".md")
#: The example's own matrix.
MATRIX = ("3.10", "3.12")


def minor(version: str) -> int:
    """12 of ``3.12``."""
    return int(version.split(".")[1])


@pytest.fixture
def versions(docker_engine: str) -> tuple[str, ...]:
    """The example's Pythons where the base image has them, else two that it has; one on a machine with only one."""
    form = '{{index .Config.Labels "' + LABEL_PYTHONS + '"}}'
    command = ["docker", "image", "inspect", "--format", form, docker_engine]
    label = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    present = sorted({name for name in label.split(",") if minor(name) >= 10}, key=minor)
    if set(MATRIX) <= set(present):
        return MATRIX
    here = [found.version for found in pythons.installed() if minor(found.version) >= 10]
    if len(present) < 2 and len({*present, *here}) > 1 and os.environ.get("CI"):
        pytest.fail(
            f"{docker_engine} has Python {label} only, this machine has {', '.join(here)}: "
            "run scripts/base-image",
            pytrace=False,
        )
    return tuple(present[-2:])


def test_the_example_s_pipeline_passes_on_two_pythons_and_leaves_a_coverage_report(
    runner: Runner, postgres_image: str, versions: tuple[str, ...]
) -> None:
    files = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text("utf-8")
        for path in sorted(EXAMPLE.rglob("*"))
        if path.suffix in SUFFIXES
    }
    # What can be had without a registry: this PostgreSQL, and the Pythons of the base image.
    matrix = ", ".join(f'"{version}"' for version in versions)
    for written, here in (('"postgres:17"', f'"{postgres_image}"'), ('["3.10", "3.12"]', f"[{matrix}]")):
        assert written in files["pyproject.toml"]
        files["pyproject.toml"] = files["pyproject.toml"].replace(written, here)
    api = Api(runner)
    run = api.until_over(api.run(None, files, pipeline="ci")["run_id"], seconds=240)
    jobs = by_name(run)
    logs = {name: api.log(job["job_id"]) for name, job in jobs.items() if job["job_id"]}
    assert (run["status"], run["success"]) == ("completed", True), logs
    assert list(jobs) == ["lint", *(f"tests (python={version})" for version in versions), "coverage"]
    assert "All checks passed!" in logs["lint"], logs["lint"]
    for version in versions:
        log = logs[f"tests (python={version})"]
        ran = re.search(r"^platform linux -- Python (3\.\d+)\.\d+, pytest", log, re.MULTILINE)
        assert ran is not None, log
        assert ran[1] == version
        assert "6 passed" in log
    assert f"Combined {len(versions)} file" in logs["coverage"], logs["coverage"]
    assert "TOTAL" in logs["coverage"]
    left = api.get(f"/jobs/{jobs['coverage']['job_id']}/artifacts")
    assert "coverage.xml" in str(left)
