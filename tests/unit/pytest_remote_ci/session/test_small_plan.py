"""Plain sessions with several Pythons or retries, as plans that the runner reads."""

from __future__ import annotations

from typing import Any

import pytest

from ci_runner.pipelines.plan import Plan, Retries
from ci_runner.pipelines.run import options_of
from pytest_remote_ci import options
from pytest_remote_ci.config.config import Config
from pytest_remote_ci.config.values import Retries as Wanted
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session import small_plan
from pytest_remote_ci.wire import answers
from pytest_remote_ci.wire.checks import as_services
from pytest_remote_ci.wire.protocol import SubmitOptions

SENT = SubmitOptions(
    root="/home/me/project", cwd="sub", args=("-k", "x"), python="3.10", env={"A": "1"}, records=True
)


def made(sent: SubmitOptions = SENT, **settings: Any) -> answers.Plan:
    plan = small_plan.make(Config(**settings), sent)
    assert plan is not None
    return plan


@pytest.mark.parametrize("settings", [{}, {"python": ("3.10",)}, {"retries": Wanted(0, (1,))}])
def test_one_job_needs_no_plan(settings: dict[str, Any]) -> None:
    assert small_plan.make(Config(**settings), SENT) is None


def test_each_python_has_a_job_with_all_options() -> None:
    raw = made(python=("3.10", "3.13"), retries=Wanted(2, (1,)))
    plan = Plan.from_dict(raw.fields)
    assert (plan.pipeline, plan.keep_going, [job.name for job in plan.jobs]) == (
        "project",
        True,
        ["py3.10", "py3.13"],
    )
    assert small_plan.labels(raw) == {"py3.10": "py3.10", "py3.13": "py3.13"}
    for job, version in zip(plan.jobs, ("3.10", "3.13"), strict=True):
        assert (job.retries, dict(job.cell)) == (Retries(2, (1,)), {"python": version})
        assert options_of(SENT.to_dict(), job) == {**SENT.to_dict(), "python": version}


def test_an_image_stays_that_of_every_python() -> None:
    sent = SubmitOptions(root="/p", image="mine:1", python="3.10")
    for job in Plan.from_dict(made(sent, python=("3.10", "3.13")).fields).jobs:
        assert options_of(sent.to_dict(), job)["image"] == "mine:1"


def test_retries_change_nothing_else_of_the_only_job() -> None:
    raw = made(retries=Wanted(1), name="nightly")
    plan = Plan.from_dict(raw.fields)
    assert (plan.pipeline, plan.jobs[0].retries, small_plan.labels(raw)) == (
        "nightly",
        Retries(1),
        {"tests": ""},
    )
    assert options_of(SENT.to_dict(), plan.jobs[0]) == SENT.to_dict()


def test_limits_services_and_secrets_are_those_of_a_single_job() -> None:
    sent = SubmitOptions(
        root="/p",
        shm_size=2 << 20,
        services=as_services("services", [{"name": "db", "image": "postgres:16"}]),
    )
    job = Plan.from_dict(made(sent, retries=Wanted(1), secrets=("TOKEN",)).fields).jobs[0]
    found = options_of(sent.to_dict(), job)
    assert (found["shm_size"], found["secrets"]) == (2 << 20, ["TOKEN"])
    [service] = SubmitOptions.from_dict(found).services
    assert service["image"] == "postgres:16"


@pytest.mark.parametrize("root", ["/", None, "/home/\x1b[2J", "C:/code/project"])
def test_a_name_is_always_one_that_the_runner_accepts(root: str | None) -> None:
    Plan.from_dict(made(SubmitOptions(root=root), retries=Wanted(1)).fields)


def test_several_pythons_are_not_shown_as_text() -> None:
    small_plan.refuse_text(made(retries=Wanted(1)))
    with pytest.raises(ConfigError, match="choose one with --remote-ci-python"):
        small_plan.refuse_text(made(python=("3.10", "3.13")))


@pytest.mark.parametrize(
    ("given", "alone"),
    [
        (["-x", "-v", "--lf", "-k", "x", "--remote-ci-python=3.10,3.13", "--remote-ci-name=x"], []),
        (["--markers"], ["--markers"]),
        (["--collect-only", "--sw"], ["--collect-only", "--sw"]),
    ],
)
def test_some_options_need_a_single_job(given: list[str], alone: list[str]) -> None:
    assert small_plan.single_only(given, options.takes_value) == alone
