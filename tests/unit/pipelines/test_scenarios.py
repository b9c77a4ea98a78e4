"""Every file of tests/scenarios: a pipeline goes in, its jobs and what becomes of them come out."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci_runner.pipelines.checking import check, choose
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.planning import Choice, make_plan

FOLDER = Path(__file__).parents[2] / "scenarios"
FILES = sorted(FOLDER.glob("*.yaml"))
KEYS = {"about", "pipeline", "choice", "problems", "jobs", "outcomes", "cancel", "starts", "ends"}


def load(file: Path) -> dict[str, Any]:
    """A scenario; its pipeline stays text, as in a file of its own."""
    text = file.read_text("utf-8")
    scenario: dict[str, Any] = yaml.safe_load(text)
    nodes = {key.value: value for key, value in yaml.compose(text, Loader=yaml.SafeLoader).value}
    start, end = nodes["pipeline"].start_mark, nodes["pipeline"].end_mark
    return {**scenario, "pipeline": textwrap.dedent(" " * start.column + text[start.index : end.index])}


def plan_of(scenario: dict[str, Any]) -> Plan:
    """The plan of a scenario without mistakes."""
    given = scenario.get("choice", {})
    choice = Choice(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    )
    return make_plan(choose(check([("scenario.yaml", scenario["pipeline"])]), None), choice)


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
