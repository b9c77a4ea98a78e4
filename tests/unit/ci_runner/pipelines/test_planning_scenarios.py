"""Every file of tests/scenarios: a pipeline goes in, its jobs and what becomes of them come out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.scenarios import FILES, load, plan_of

from ci_runner.pipelines.check import check

KEYS = {"about", "pipeline", "choice", "problems", "jobs", "outcomes", "cancel", "starts", "ends"}


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_scenario_is_planned_as_it_says(file: Path) -> None:
    scenario = load(file)
    assert scenario.keys() <= KEYS
    found = check([("scenario.yaml", scenario["pipeline"])])
    errors = [f"{one.path}: {one.message}" for one in found.problems if one.severity == "error"]
    assert errors == scenario.get("problems", [])
    if errors:
        return
    plan = plan_of(scenario)
    assert [job.name for job in plan.jobs] == list(scenario["jobs"])
    for job in plan.jobs:
        fields = dataclasses.asdict(job)
        for field, expected in scenario["jobs"][job.name].items():
            value = fields[field]
            assert (list(value) if isinstance(value, tuple) else value) == expected, (job.name, field)


def test_every_scenario_names_what_it_shows_and_ends() -> None:
    for file in FILES:
        scenario = load(file)
        assert scenario["about"].endswith((".", ")."))
        assert ("problems" in scenario) != ("jobs" in scenario), file
        assert ("starts" in scenario) == ("ends" in scenario), file
