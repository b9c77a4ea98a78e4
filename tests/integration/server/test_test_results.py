"""Results of tests over real HTTP, and as the commands show them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http_server import Person, Runner, running

from ci_runner.model.job import JobEvent
from pytest_remote_ci.cli import main
from pytest_remote_ci.cli.tables import report, results
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.errors import JobNotFound
from pytest_remote_ci.wire.answers import TestReport, TestResult


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture
def person(runner: Runner) -> Person:
    return runner.person()


def recorded(runner: Runner, person: Person, root: str = "/home/ann/project", **outcomes: str) -> str:
    """Id of a finished job in which these tests ended so."""
    job = runner.job(person, options={"root": root})
    events = [
        JobEvent(
            "report",
            fields={
                "t": "report",
                "d": {"nodeid": name, "when": "call", "outcome": outcome, "duration": 0.5},
            },
        )
        for name, outcome in outcomes.items()
    ]
    runner.store.events.append(job.id, runner.epoch, events)
    runner.finish(job.id)
    return job.id


def test_a_jobs_tests_are_listed_in_pages(runner: Runner, person: Person) -> None:
    job_id = recorded(runner, person, a="passed", b="failed", c="skipped")
    found = runner.get(f"/jobs/{job_id}/tests", person).json()
    assert [(item["id"], item["outcome"], item["duration"]) for item in found] == [
        ("a", "passed", 0.5),
        ("b", "failed", 0.5),
        ("c", "skipped", 0.5),
    ]
    page = runner.get(f"/jobs/{job_id}/tests", person, params={"after": "a", "limit": 1}).json()
    assert [item["id"] for item in page] == ["b"]
    assert runner.get(f"/jobs/{job_id}", person).json()["counts"] == {"passed": 1, "failed": 1, "skipped": 1}


def test_a_job_that_is_not_recorded_has_none(runner: Runner, person: Person) -> None:
    assert runner.get(f"/jobs/{runner.job(person).id}/tests", person).json() == []


def test_the_client_turns_pages(runner: Runner, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = recorded(runner, person, **{f"t{number:04}": "passed" for number in range(1001)})
    with Client(runner.url, person.key) as client:
        assert len(list(client.tests(job_id))) == 1001
        with pytest.raises(JobNotFound):
            list(client.tests("nobody"))


def test_a_report_is_about_ones_own_runs_of_a_project(runner: Runner, person: Person) -> None:
    recorded(runner, runner.person("Eve"), a="failed")
    one = recorded(runner, person, a="passed", b="passed")
    two = recorded(runner, person, a="failed", b="passed")
    recorded(runner, person, root="/elsewhere", a="passed")
    answer = runner.get("/reports/tests", person, params={"root": "/home/ann/project"}).json()
    assert [run["job_id"] for run in answer["runs"]] == [one, two]
    assert [(item["id"], item["pass_rate"]) for item in answer["tests"]] == [("a", 0.5), ("b", 1.0)]
    assert answer["tests"][0]["failing_since"]["job_id"] == two
    assert answer["tests"][0]["flaky_workspaces"] == 1
    everywhere = runner.get("/reports/tests", person).json()
    assert len(everywhere["runs"]) == 3
    last = runner.get("/reports/tests", person, params={"runs": 1}).json()
    assert [len(last["runs"]), last["tests"][0]["counts"]] == [1, {"passed": 1}]


@pytest.mark.parametrize(
    ("kind", "names"), [("all", "ab"), ("slowest", "ab"), ("flaky", "a"), ("failing-since", "a")]
)
def test_a_report_is_of_a_kind(runner: Runner, person: Person, kind: str, names: str) -> None:
    recorded(runner, person, a="passed", b="passed")
    recorded(runner, person, a="failed", b="passed")
    answer = runner.get("/reports/tests", person, params={"kind": kind}).json()
    assert answer["kind"] == kind
    assert "".join(item["id"] for item in answer["tests"]) == names


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"kind": "worst"}, "kind: must be one of all, slowest, flaky, failing-since"),
        ({"runs": "201"}, "runs: must be a whole number from 1 to 200"),
        ({"limit": "0"}, "limit: must be a whole number from 1 to 1000"),
    ],
)
def test_a_bad_parameter_is_named(
    runner: Runner, person: Person, params: dict[str, str], reason: str
) -> None:
    response = runner.get("/reports/tests", person, params=params)
    assert (response.status_code, response.json()["detail"]) == (422, reason)


# -- the commands


@pytest.fixture
def project(runner: Runner, person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REMOTE_CI_URL", runner.url)
    monkeypatch.setenv("REMOTE_CI_API_KEY", person.key)
    return folder


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main.main(args) == 0
    return capsys.readouterr().out


def test_the_command_reports_on_the_project_around(
    runner: Runner, person: Person, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(project)
    recorded(runner, person, root, a="passed", b="passed")
    last = recorded(runner, person, root, a="failed", b="passed")
    recorded(runner, person, c="failed")
    lines = said(capsys, "tests").splitlines()
    assert lines[0].startswith("2 runs, ")
    assert lines[1].split() == ["PASSED", "RUNS", "MEAN", "TREND", "TEST"]
    assert lines[2].split()[:6] == ["50%", "2", "0.500", "s", "-", "a"]
    assert f"job {last}" in lines[2]
    assert lines[2].endswith("flaky: passed and failed on the same files)")
    assert "c" not in [line.split()[-1] for line in lines]
    assert len(said(capsys, "tests", "--flaky").splitlines()) == 3
    assert (
        said(capsys, "tests", "--failing-since", "--runs", "1").splitlines()[1]
        == "Nothing fails that passed before."
    )
    found = json.loads(said(capsys, "tests", "--slowest", "--limit", "1", "--everywhere", "--json"))
    assert (len(found["tests"]), len(found["runs"])) == (1, 3)


def test_the_command_says_when_there_is_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "tests") == "No recorded runs of this project yet.\n"


def test_a_job_is_shown_with_its_tests(
    runner: Runner, person: Person, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = recorded(runner, person, a="passed", b="failed")
    lines = said(capsys, "show", job_id, "--tests").splitlines()
    assert [line.split() for line in lines[-2:]] == [
        ["failed", "0.500", "s", "b"],
        ["passed", "0.500", "s", "a"],
    ]
    assert "counts:         1 passed, 1 failed" in lines
    assert [
        item["id"] for item in json.loads(said(capsys, "show", job_id, "--tests", "--json"))["tests"]
    ] == ["a", "b"]
    assert "tests" not in json.loads(said(capsys, "show", job_id, "--json"))
    text = runner.job(person).id
    assert said(capsys, "show", text, "--tests").endswith("(only recorded sessions have them).\n")


def test_names_of_tests_move_no_cursor() -> None:
    wild = {"id": "a\x1b[2J\nb\u202e", "outcome": "failed", "duration": 1}
    lines = list(results([TestResult(wild)]))
    assert ("failed" in lines[0], len(lines)) == (True, 1)
    assert lines[0].isprintable()
    answer: dict[str, Any] = {
        "runs": [{"at": "x"}],
        "tests": [{**wild, "failing_since": {"job_id": "\x1b", "at": "3"}}],
    }
    lines = list(report(TestReport(answer)))
    assert len(lines) > 1
    assert [line for line in lines if not line.isprintable()] == []
