"""The files of tests/scenarios, for the tests that hold them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml

from ci_runner.pipelines.check import check, choose
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.planning import Choice, make_plan

FILES = sorted((Path(__file__).parents[1] / "scenarios").glob("*.yaml"))


def load(file: Path) -> dict[str, Any]:
    """A scenario; its pipeline stays text, as in a file of its own."""
    text = file.read_text("utf-8")
    scenario: dict[str, Any] = yaml.safe_load(text)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    nodes = {key.value: value for key, value in root.value}
    start, end = nodes["pipeline"].start_mark, nodes["pipeline"].end_mark
    return {**scenario, "pipeline": textwrap.dedent(" " * start.column + text[start.index : end.index])}


def plan_of(scenario: dict[str, Any]) -> Plan:
    """The plan of a scenario without mistakes."""
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in scenario.get("choice", {}).items()
    }
    return make_plan(choose(check([("scenario.yaml", scenario["pipeline"])]), None), Choice(**given))
