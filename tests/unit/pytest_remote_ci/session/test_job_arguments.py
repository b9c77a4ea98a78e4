"""Arguments of the command line in the plan of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session import arguments, job_arguments
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.wire.answers import Plan

FINE = "--remote-ci-only-if-known=--remote-ci-none-is-fine"


def takes_value(option: str) -> bool | None:
    return option in ("-k", "-m", "-p", "--tb", "--deselect", "--maxfail", "--ignore", "--of-a-plugin")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "test_a.py").touch()
    return Place(tmp_path, tmp_path / "sub")


def given_to(place: Place, given: Sequence[str], *jobs: dict[str, Any]) -> list[list[str] | None]:
    """What each job's pytest gets."""
    plan = Plan(
        {
            "version": 1,
            "pipeline": "ci",
            "jobs": [{"name": f"job{n}", "stage": "test", **job} for n, job in enumerate(jobs)],
        }
    )

    def forward(words: Sequence[str], there: Place) -> list[str]:
        return arguments.forward(words, there, takes_value)

    made = job_arguments.appended(plan, given, place, takes_value, forward)
    assert [job.fields for job in made.jobs] == made.fields["jobs"]
    return [job.args if job.is_pytest else None for job in made.jobs]


TABLE: list[tuple[str, list[str], list[str], list[str]]] = [
    ("nothing", [], ["-x"], ["-x"]),
    (
        "what selects nothing",
        ["-v", "--tb=short", "--remote-ci-pipeline", "ci"],
        ["-x"],
        ["-x", "-v", "--tb=short"],
    ),
    ("a plugin's value", ["--of-a-plugin", "test_a.py"], ["-x"], ["-x", "--of-a-plugin", "test_a.py"]),
    ("an expression", ["-k", "a"], ["-x"], ["-x", FINE, "-k", "a"]),
    ("an expression of its own", ["-v"], ["-k", "b"], ["-k", "b", "-v"]),
    ("both", ["-xk", "a or c"], ["-kb"], ["-kb", FINE, "-xk", "a or c", "-k", "(b) and (a or c)"]),
    (
        "both, before a path",
        ["-m", "slow", "--", "-a"],
        ["-m", "not db"],
        ["-m", "not db", FINE, "-m", "slow", "-m", "(not db) and (slow)", "--", "-a"],
    ),
    ("a path from a subdirectory", ["test_a.py::test_b"], [], [FINE, "sub/test_a.py::test_b"]),
    ("failures of the last time", ["--lf"], [], [FINE, "--lf"]),
]


@pytest.mark.parametrize(
    ("given", "own", "result"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_arguments_follow_those_of_the_job(
    place: Place, given: list[str], own: list[str], result: list[str]
) -> None:
    assert given_to(place, given, {"args": own}, {"script": ["true"]}) == [result, None]


def test_paths_hold_where_the_job_runs(place: Place) -> None:
    there = {"working_dir": "sub"}
    assert given_to(place, ["test_a.py"], there, {}) == [[FINE, "test_a.py"], [FINE, "sub/test_a.py"]]


def test_a_path_beside_a_path_of_the_job_would_choose_more(place: Place) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^test_a.py: job 'job1' has its own tests \(unit\), and a path would add to them; "
        "select with -k or -m$",
    ):
        given_to(place, ["test_a.py"], {}, {"args": ["-k", "x", "unit"]})
    assert given_to(place, ["test_a.py"], {"args": ["unit"], "skipped": "when"}, {})[1]


def test_nothing_can_be_chosen_where_there_are_no_tests(place: Place) -> None:
    assert given_to(place, ["-v"], {"script": ["true"]}) == [None]
    with pytest.raises(ConfigError, match="pipeline 'ci' has no pytest job, so -k selects nothing"):
        given_to(place, ["-k", "a"], {"script": ["true"]})


@pytest.mark.parametrize(
    "given", [["--co"], ["-v", "--sw"], ["--remote-ci-text"], ["--remote-ci-name=x"], ["--fixtures"]]
)
def test_what_a_run_cannot_do_is_refused_by_name(given: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=f"^{given[-1].partition('=')[0]} cannot be used with --remote-ci-pipeline: "
    ):
        job_arguments.refuse(given, takes_value)
    job_arguments.refuse(["-k--co", "--", "--sw"], takes_value)


def test_a_plugins_value_in_a_job_is_no_path_to_which_one_would_add(place: Place) -> None:
    [args] = given_to(place, ["test_a.py"], {"kind": "pytest", "args": ["--of-a-plugin", "test_b.py"]})
    assert args is not None
    assert args[:2] == ["--of-a-plugin", "test_b.py"]
