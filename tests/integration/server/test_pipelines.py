"""Checking pipelines over real HTTP; every answer is held against the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_runner import KEY, fake_runner
from support.http_server import Person, Runner, running

from ci_runner.pipelines.plan import Plan
from pytest_remote_ci.cli import main
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.errors import RunnerUnreachable
from pytest_remote_ci.session import pipeline_files

GOOD = "{stages: [s], jobs: [{name: a, stage: s, matrix: {x: [1, 2]}}, {name: b, stage: s, needs: a}]}"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture(scope="module")
def person(runner: Runner) -> Person:
    return runner.person()


def ask(runner: Runner, person: Person | None, question: Any, status: int = 200) -> Any:
    response = runner.request("POST", "/pipelines/check", person, json=question)
    assert response.status_code == status, response.text
    return response.json()


def test_mistakes_come_with_their_places(runner: Runner, person: Person) -> None:
    answer = ask(runner, person, {"files": [["a.yaml", "stages: [s]\nname: 7\n"]]})
    assert answer == {
        "valid": False,
        "pipelines": [{"name": "a", "file": "a.yaml", "line": 1, "stages": ["s"], "jobs": []}],
        "problems": [
            {
                "file": "a.yaml",
                "line": 1,
                "column": 10,
                "path": "stages[0]",
                "severity": "warning",
                "message": "stage 's' has no jobs",
            },
            {
                "file": "a.yaml",
                "line": 2,
                "column": 7,
                "path": "name",
                "severity": "error",
                "message": "'name' must be text (in quotes: \"…\"), not 7",
            },
        ],
    }


def test_a_plan_is_made_when_asked_for(runner: Runner, person: Person) -> None:
    assert "plan" not in ask(runner, person, {"files": [["a.yaml", GOOD]]})
    wanted = {"pipeline": "A", "jobs": ["b"], "changed": None, "tag": "v1", "keep_going": True}
    answer = ask(runner, person, {"files": [["a.yaml", GOOD]], "plan": wanted})
    plan = Plan.from_dict(answer["plan"])
    assert [job.name for job in plan.jobs] == ["a (x=1)", "a (x=2)", "b"]
    assert plan.keep_going


def test_a_plan_tells_the_timeouts_of_its_stages(runner: Runner, person: Person) -> None:
    limited = "{stages: [{name: s, timeout: 20m}, t], jobs: [{name: a, stage: s, script: x}]}"
    answer = ask(runner, person, {"files": [["a.yaml", limited]], "plan": {}})
    assert answer["plan"]["stage_timeouts"] == {"s": 1200}


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"pipeline": "b"}, "no pipeline 'b'; known: a"),
        ({"jobs": ["c"]}, "no job 'c' in pipeline 'a'; known: a, b"),
    ],
)
def test_a_plan_that_cannot_be_is_no_error_of_the_request(
    runner: Runner, person: Person, wanted: dict[str, Any], why: str
) -> None:
    assert ask(runner, person, {"files": [["a.yaml", GOOD]], "plan": wanted})["refused"] == why


@pytest.mark.parametrize(
    ("question", "detail"),
    [
        ([], "body: must be a JSON object"),
        ({}, "files: must be a list of 1 to 100 pairs [name, text]"),
        ({"files": [["a"]]}, "files[0]: must be [name, text]"),
        ({"files": [["a.yaml", ""]], "plan": {"job": "x"}}, "plan.job: is unknown to this runner"),
        ({"files": [["a.yaml", ""]], "plan": {"jobs": "x"}}, "plan.jobs: must be a list of strings"),
    ],
)
def test_what_is_no_question_is_refused_by_name(
    runner: Runner, person: Person, question: Any, detail: str
) -> None:
    assert ask(runner, person, question, 422) == {"detail": detail}


def test_a_key_is_needed_and_a_long_body_refused(runner: Runner, person: Person) -> None:
    assert ask(runner, None, {"files": [["a.yaml", GOOD]]}, 401) == {"detail": "Not authenticated"}
    assert "longer than" in ask(runner, person, {"files": [["a.yaml", "x" * (1 << 20)]]}, 413)["detail"]


def test_a_client_without_a_parser_asks_its_runner(
    runner: Runner,
    person: Person,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "ci.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REMOTE_CI_URL", runner.url)
    monkeypatch.setenv("REMOTE_CI_API_KEY", person.key)
    monkeypatch.setattr(pipeline_files, "can_read_locally", lambda: False)
    assert main.main(["pipeline", "dry-run", "ci.yaml", "--job", "a (x=2)"]) == 0
    assert "  a (x=2):\n" in capsys.readouterr().out


def test_an_older_runner_is_told_as_such() -> None:
    with fake_runner() as old, Client(old.url, KEY) as client:
        old.intercept = lambda request: (404, {"detail": "Not Found"}, {})
        with pytest.raises(RunnerUnreachable, match="is too old for pipelines: update it"):
            client.check_pipelines({})
        old.intercept = lambda request: (200, {"hello": "world"}, {})
        with pytest.raises(
            RunnerUnreachable,
            match=r"does not answer like a runner .nothing about pipelines: problems is missing.; check",
        ):
            client.check_pipelines({})
