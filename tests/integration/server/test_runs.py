"""Runs over real HTTP: whose they are, what is refused, and what a run's stream and reports say. No controller."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http_server import PROJECT, Person, Runner, running
from support.pipelines import plan_of, planned

from ci_runner.model.job import utcnow
from ci_runner.model.verdict import Verdict, ran
from ci_runner.pipelines.run import Run, job_of
from ci_runner.pipelines.scheduler import Drop, Start, Step
from pytest_remote_ci.wire.protocol import Manifest

PLAN = plan_of(
    planned("a", "true", stage="one"), planned("b", "true", stage="two", needs=("a",)), pipeline="my ci"
)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture
def ann(runner: Runner) -> Person:
    return runner.person("Ann")


def submit(
    runner: Runner, person: Person, manifest: Manifest | None = None, **options: Any
) -> dict[str, Any]:
    options = {"plan": PLAN.to_dict(), **options}
    files: dict[str, Any] = {"options": (None, json.dumps(options), "application/json")}
    if manifest is None:
        files["file"] = ("project.zip", PROJECT, "application/zip")
    else:
        files["manifest"] = (None, json.dumps(manifest.to_dict()), "application/json")
    answer = runner.request("POST", "/runs", person, files=files)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def stored(runner: Runner, run_id: str) -> Run:
    run = runner.store.runs.get(run_id)
    assert run is not None
    return run


def play(runner: Runner, run_id: str) -> None:
    """The controller brings a run to its end: `a` fails, `b` is dropped."""
    runs = runner.store.runs
    run = stored(runner, run_id)
    job = job_of(run, "a", 0, {}, utcnow())
    assert runs.advance(run_id, runner.epoch, run.version, Step((Start("a"),)), [job])
    runner.store.jobs.advance(
        job.id, runner.epoch, "queued", phase="preparing", status="running", start_time=utcnow()
    )
    runner.log(job.id, "words of a\n")
    runner.store.jobs.finish(job.id, runner.epoch, ran(3))
    step = Step(
        drops=(Drop("b", "needs 'a', which failed"),), outcome=Verdict("completed", False, None, "a failed")
    )
    assert runs.advance(run_id, runner.epoch, stored(runner, run_id).version, step)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("GET", "/stream"), ("POST", "/rerun")],
    ids=["look", "cancel", "follow", "repeat"],
)
def test_another_user_s_run_is_denied(runner: Runner, ann: Person, method: str, path: str) -> None:
    run = submit(runner, ann)
    other = runner.request(method, f"/runs/{run['run_id']}{path}", runner.person("Bob"))
    assert (other.status_code, other.json()) == (403, {"detail": "Access denied"})
    nobody = runner.request(method, f"/runs/{run['run_id']}{path}")
    assert nobody.status_code == 401


def test_lists_numbers_and_reports_of_two_users_have_nothing_in_common(runner: Runner, ann: Person) -> None:
    """Names with spaces are names (the reference system's reports broke on them, its bug 14)."""
    bob = runner.person("Bob")
    mine, theirs = submit(runner, ann), submit(runner, bob)
    assert (mine["number"], theirs["number"]) == (1, 1)
    assert [run["run_id"] for run in runner.get("/runs", ann).json()] == [mine["run_id"]]
    assert runner.get("/pipelines/my%20ci/runs/1", bob).json()["run_id"] == theirs["run_id"]
    assert [item["id"] for item in runner.get("/reports/pipelines/my%20ci", ann).json()] == [mine["run_id"]]
    eve = runner.person("Eve")
    assert runner.get("/reports/pipelines", eve).json() == []
    unknown = runner.get("/reports/pipelines/my%20ci", eve)
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "Pipeline not found: my ci")


@pytest.mark.defect(5, 7)
def test_a_run_that_is_over_streams_and_reports_what_became_of_it(runner: Runner, ann: Person) -> None:
    run_id = submit(runner, ann)["run_id"]
    path = "/reports/pipelines/my%20ci/runs/1"
    waiting = runner.get(path, ann).json()
    assert (waiting["status"], waiting["startTime"]) == ("PENDING", None), "a time only once it runs"
    assert [stage["status"] for stage in waiting["stages"]] == ["PENDING", "PENDING"]
    play(runner, run_id)
    run = runner.get(f"/runs/{run_id}", ann).json()
    assert (run["status"], run["success"], run["reason"]) == ("completed", False, "a failed")
    report = runner.get(path, ann).json()
    assert (report["status"], report["reason"]) == ("FAILED", "a failed")
    assert [stage["status"] for stage in report["stages"]] == ["FAILED", "CANCELED"], "without being asked"
    stage = runner.get(f"{path}/stages/two", ann).json()
    assert (stage["pipelineName"], stage["runNumber"]) == ("my ci", 1)
    job = runner.get(f"{path}/stages/one/jobs/a", ann).json()
    assert [item["exitCode"] for item in job["executions"]] == [3]
    text = runner.get(f"/runs/{run_id}/stream?from_beginning=true", ann).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == ["run_job", "log", "complete", "run_job", "run_complete"]
    pages: list[dict[str, Any]] = []
    while page := runner.get(f"/runs/{run_id}/events?limit=2&after={len(pages)}&wait=60", ann).json():
        pages += page
    assert [event.pop("seq") for event in pages] == [1, 2, 3, 4, 5]
    assert pages == events
    shown = runner.get(f"/runs/{run_id}/events?view=report", ann).json()
    assert [event["type"] for event in shown] == ["run_job", "complete", "run_job", "run_complete"]
    assert runner.request("DELETE", f"/runs/{run_id}", ann).status_code == 409
    history = runner.get("/reports/pipelines/my%20ci?stage=one&job=a&status=completed", ann).json()
    assert [item["name"] for item in history] == ["a"]
    assert runner.get("/reports/pipelines/my%20ci?status=queued", ann).json() == []
    assert runner.get("/reports/pipelines?job=a", ann).status_code == 422
    assert runner.get("/reports/pipelines?status=nine", ann).status_code == 422


@pytest.mark.defect(16)
def test_names_of_any_characters_come_back_as_they_were(runner: Runner, ann: Person) -> None:
    """The reference system put texts between the quotes of its JSON as they came."""
    odd = """a "b" \\ 'c' {"d": ["e"]}, %41+%2B ü?#&"""
    plan = plan_of(planned(odd, "true", stage=odd), pipeline=odd)
    run = submit(runner, ann, plan=plan.to_dict())
    assert (run["pipeline"], run["stages"], run["jobs"][0]["name"]) == (odd, [odd], odd)
    part = urllib.parse.quote(odd, safe="")
    report = runner.get(f"/reports/pipelines/{part}/runs/1/stages/{part}/jobs/{part}", ann).json()
    assert (report["pipelineName"], report["stageName"], report["name"]) == (odd, odd, odd)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[]", "body: must be a JSON object"),
        ('{"nine": 1}', "body.nine: is unknown"),
        ('{"failed": "yes"}', "body.failed: must be true or false"),
        ('{"stage": 3}', "body.stage: must be text"),
        ("{", "body: not valid JSON"),
    ],
)
def test_a_repetition_that_makes_no_sense_is_refused(
    runner: Runner, ann: Person, body: str, words: str
) -> None:
    run_id = submit(runner, ann)["run_id"]
    answer = runner.request("POST", f"/runs/{run_id}/rerun", ann, data=body)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "names"),
    [
        ("GET", "/runs/nine", "Run not found: nine"),
        ("DELETE", "/runs/nine", "Run not found: nine"),
        ("GET", "/runs/nine/stream", "Run not found: nine"),
        ("GET", "/runs/nine/events", "Run not found: nine"),
        ("POST", "/runs/nine/rerun", "Run not found: nine"),
        ("GET", "/runs?before=nine", "Run not found: nine"),
        ("GET", "/reports/pipelines?before=nine", "Run not found: nine"),
        ("GET", "/jobs?before=nine", "Job not found: nine"),
        ("GET", "/pipelines/default/runs/9", "Run not found: default#9"),
        ("GET", "/reports/pipelines/nine", "Pipeline not found: nine"),
        ("GET", "/reports/pipelines/my%20ci/runs/9", "Pipeline execution not found for run: 9"),
        ("GET", "/reports/pipelines/my%20ci?stage=nine", "No executions found for stage: nine"),
        ("GET", "/reports/pipelines/my%20ci/runs/1/stages/nine", "No executions found for stage: nine"),
        ("DELETE", "/runs/{id}?stage=nine", "Run {id} has no such stage: nine"),
        ("DELETE", "/runs/{id}?job=nine", "Run {id} has no such job: nine"),
        ("GET", "/nine", "Not Found: /nine"),
    ],
)
def test_each_404_names_what_was_not_found(
    runner: Runner, ann: Person, method: str, path: str, names: str
) -> None:
    run_id = submit(runner, ann)["run_id"]
    answer = runner.request(method, path.format(id=run_id), ann, data="{}" if method == "POST" else None)
    assert (answer.status_code, answer.json()["detail"]) == (404, names.format(id=run_id))


def test_a_run_whose_files_are_gone_is_not_repeated(runner: Runner, ann: Person) -> None:
    run_id = submit(runner, ann)["run_id"]
    play(runner, run_id)
    runner.blobs.remove(stored(runner, run_id).workspace)
    answer = runner.request("POST", f"/runs/{run_id}/rerun", ann, data="{}")
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        "The run's workspace was deleted: submit the project again",
    )


def test_a_user_with_many_waiting_jobs_submits_no_run(tmp_path: Path) -> None:
    from ci_runner.settings.groups import ServeSettings

    with running(tmp_path, ServeSettings(max_queued_per_user=1)) as small:
        person = small.person()
        small.job(person)
        files = {"options": (None, json.dumps({"plan": PLAN.to_dict()})), "file": ("p.zip", PROJECT)}
        answer = small.request("POST", "/runs", person, files=files)
        assert answer.status_code == 429


def test_a_run_of_files_with_links_and_empty_folders_is_repeated(runner: Runner, ann: Person) -> None:
    run_id = submit(runner, ann, Manifest((), links={"link": "folder"}, folders=("folder",)))["run_id"]
    play(runner, run_id)
    answer = runner.request("POST", f"/runs/{run_id}/rerun", ann, data="{}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["rerun_of"] == run_id
