"""Runs of pipelines as a client of the API has them: real `serve` and `reconcile`, jobs as plain processes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import sqlite3
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from support.pipelines import Api, by_name, plan_of, planned
from support.runner import Runner
from support.waiting import wait_until

from ci_runner.pipelines.plan import Retries

RUNNER_OPTIONS = ("--concurrency", "3")
pytestmark = pytest.mark.parametrize("runner", ["process"], indirect=True)

PROJECT = {"requirements.txt": "pytest\n", "test_it.py": "def test_it():\n    assert True\n"}


@pytest.fixture
def api(runner: Runner) -> Api:
    """The runner's one user."""
    return Api(runner)


@pytest.mark.defect(7)
@pytest.mark.case("B59", "B64", "B65")
def test_two_jobs_run_one_after_the_other(api: Api) -> None:
    plan = plan_of(
        planned("lint", "echo linting", "test -f test_it.py", stage="check"),
        planned("tests", stage="test", needs=("lint",)),
    )
    run = api.run(plan, PROJECT)
    assert (run["pipeline"], run["number"], run["status"]) == ("default", 1, "queued")
    assert [job["status"] for job in run["jobs"]] == ["queued", "queued"]
    over = api.until_over(run["run_id"])
    assert (over["status"], over["success"], over["reason"]) == ("completed", True, None), over
    jobs = by_name(over)
    assert [job["exit_code"] for job in over["jobs"]] == [0, 0]
    assert jobs["lint"]["end_time"] <= jobs["tests"]["start_time"]
    assert over["start_time"] == jobs["lint"]["start_time"] > over["submitted_at"]
    assert "$ echo linting\nlinting\n" in api.log(jobs["lint"]["job_id"])
    assert "1 passed" in api.log(jobs["tests"]["job_id"])


@pytest.mark.case("B68")
def test_a_script_stops_at_its_first_failure_and_keeps_its_shell(api: Api) -> None:
    """Commands run in the order of the definition (the reference system's order was undefined, its bug 9)."""
    plan = plan_of(
        planned(
            "script",
            "mkdir -p sub && cd sub",
            "export WORD=kept",
            'echo "$WORD in $(basename "$PWD")"',
            "echo one\necho two",
            "false",
            "echo never",
        ),
        planned("folder", "cat here.txt", working_dir="sub"),
        planned("missing", "no-such-program-at-all"),
        planned("quote", "echo 'open"),
        keep_going=True,
    )
    over = api.until_over(api.run(plan, {**PROJECT, "sub/here.txt": "here I am\n"})["run_id"])
    jobs = by_name(over)
    log = api.log(jobs["script"]["job_id"])
    assert "kept in sub\n" in log
    assert "$ echo one\n> echo two\none\ntwo\n$ false\n" in log
    assert "never" not in log
    assert (jobs["script"]["status"], jobs["script"]["success"], jobs["script"]["exit_code"]) == (
        "completed",
        False,
        1,
    )
    assert "here I am\n" in api.log(jobs["folder"]["job_id"])
    assert jobs["missing"]["exit_code"] == 127
    assert jobs["quote"]["exit_code"] not in (0, None)
    assert over["reason"] == "job 'script' failed: exit code 1 (and 2 more)"


@pytest.mark.case("B65", "B67")
def test_failure_drops_what_waits_and_allowed_failure_does_not(api: Api) -> None:
    """A failed stage is not hidden by a good one behind it, later stages do not run, statuses move by themselves."""
    plan = plan_of(
        planned("flaky", "exit 3", stage="one", allow_failure=True),
        planned("good", "true", stage="one"),
        planned("bad", "exit 4", stage="two", needs=("flaky", "good")),
        planned("late", "true", stage="three", needs=("bad",)),
    )
    over = api.until_over(api.run(plan, PROJECT)["run_id"])
    jobs = by_name(over)
    assert (over["status"], over["success"], over["reason"]) == (
        "completed",
        False,
        "job 'bad' failed: exit code 4",
    )
    assert (jobs["flaky"]["status"], jobs["flaky"]["success"], jobs["flaky"]["exit_code"]) == (
        "completed",
        False,
        3,
    )
    assert jobs["good"]["success"] is True
    assert (jobs["late"]["status"], jobs["late"]["job_id"]) == ("cancelled", None)
    assert jobs["late"]["reason"] == "needs 'bad', which failed"


@pytest.mark.defect(3, 4)
@pytest.mark.case("B62")
def test_numbers_count_per_pipeline_and_the_same_tree_twice_is_two_runs(api: Api) -> None:
    plan = plan_of(planned("a", "true"), pipeline="counted")
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda _: api.run(plan, PROJECT), range(6)))
    assert sorted(run["number"] for run in runs) == [1, 2, 3, 4, 5, 6]
    assert len({run["run_id"] for run in runs}) == 6
    assert len({run["workspace"] for run in runs}) == 1
    other = api.run(plan_of(planned("a", "true"), pipeline="other"), PROJECT)
    assert other["number"] == 1
    third = next(run for run in runs if run["number"] == 3)
    assert api.get("/pipelines/counted/runs/3")["run_id"] == third["run_id"]
    for run in runs:  # each can be asked for, however many there are
        assert api.until_over(run["run_id"])["success"] is True
    assert {run["number"] for run in api.get("/runs?pipeline=counted&status=completed")} == {1, 2, 3, 4, 5, 6}
    page = api.ask("GET", "/runs?pipeline=counted&limit=4")
    assert [run["number"] for run in page.json()] == sorted(
        (run["number"] for run in page.json()), reverse=True
    )
    behind = api.get(page.links["next"]["url"])
    assert len(behind) == 2
    assert not {run["number"] for run in behind} & {run["number"] for run in page.json()}


def test_an_idempotency_key_finds_the_run_that_was_made(api: Api) -> None:
    plan, headers = plan_of(planned("a", "true"), pipeline="once"), {"Idempotency-Key": "k1"}
    first = api.run(plan, PROJECT, headers=headers)
    assert api.run(plan, PROJECT, headers=headers)["run_id"] == first["run_id"]
    changed = api.post(plan_of(planned("a", "false"), pipeline="once"), PROJECT, headers=headers)
    assert changed.status_code == 409


def test_the_stream_has_all_jobs_tagged_and_is_resumed_anywhere(api: Api) -> None:
    plan = plan_of(
        planned("a", "echo from a"), planned("b", "echo from b", needs=("a",)), pipeline="streamed"
    )
    run = api.run(plan, PROJECT)
    live = api.events(run["run_id"])
    api.until_over(run["run_id"])
    again = api.events(run["run_id"])
    assert live == again
    assert [event["n"] for event in again] == sorted({event["n"] for event in again})
    assert again[-1]["type"] == "run_complete"
    assert again[-1]["success"] is True
    text = {
        name: "".join(e["data"] for e in again if e.get("job") == name and e["type"] == "log")
        for name in "ab"
    }
    assert "from a\n" in text["a"]
    assert "from b\n" in text["b"]
    ends = [(event["job"], event["success"]) for event in again if event["type"] == "complete"]
    assert ends == [("a", True), ("b", True)]
    for position, event in enumerate(again):
        assert api.events(run["run_id"], after=event["n"]) == (
            again[position + 1 :] or [{**again[-1], "n": 0}]
        )
    everything = api.events(run["run_id"], view="all")
    assert [e["status"] for e in everything if e["type"] == "run_job"] == ["queued", "queued"]
    assert any(event["type"] == "state" and event["job"] == "b" for event in everything)


def test_a_job_runs_again_as_often_as_it_may(api: Api) -> None:
    counting = "echo x >> /tmp/$TEST_MARK; test $(wc -l < /tmp/$TEST_MARK) -ge 3 || exit 75"
    mark = f"remote-ci-retry-{uuid.uuid4().hex}"
    plan = plan_of(
        planned("third", counting, retries=Retries(5, (75,)), env={"TEST_MARK": mark}),
        planned("other", "exit 7", retries=Retries(5, (75,)), allow_failure=True),
    )
    try:
        over = api.until_over(api.run(plan, PROJECT)["run_id"])
    finally:
        Path("/tmp", mark).unlink(missing_ok=True)
    jobs = by_name(over)
    assert (over["success"], jobs["third"]["retry"], jobs["other"]["retry"]) == (True, 2, 0)
    names = [job["name"] for job in api.get("/jobs") if job.get("run_id") == over["run_id"]]
    assert len(names) == 4
    assert len({job["job_id"] for job in api.get("/jobs") if job.get("planned") == "third"}) == 3


@pytest.mark.defect(10)
@pytest.mark.case("B66")
def test_cancelling_a_run_ends_what_runs_and_drops_the_rest(api: Api) -> None:
    """A cancelled job really stops, and no late result overwrites that."""
    plan = plan_of(
        planned("long", "echo process $$", "exec sleep 300"),
        planned("next", "true", needs=("long",)),
        pipeline="cancelled",
    )
    run = api.run(plan, PROJECT)
    wait_until(
        lambda: by_name(api.get(f"/runs/{run['run_id']}"))["long"]["phase"] == "testing", 60, what="its start"
    )
    assert api.get(f"/runs/{run['run_id']}")["status"] == "running"
    job_id = by_name(run)["long"]["job_id"] or by_name(api.get(f"/runs/{run['run_id']}"))["long"]["job_id"]
    said = wait_until(
        lambda: re.search(r"^process (\d+)$", api.log(job_id), re.MULTILINE), what="its process"
    )
    process = Path("/proc", said[1])
    assert process.exists()
    assert api.ask("DELETE", f"/runs/{run['run_id']}").status_code == 202
    over = api.until_over(run["run_id"])
    assert (over["status"], over["success"]) == ("cancelled", None)
    assert over["reason"] == "cancelled by ann"
    assert [job["status"] for job in over["jobs"]] == ["cancelled", "cancelled"]
    wait_until(lambda: not process.exists(), 30, what="the end of its process")
    assert api.get(f"/runs/{run['run_id']}")["status"] == "cancelled"
    assert api.ask("DELETE", f"/runs/{run['run_id']}").status_code == 202


@pytest.mark.case("B66")
def test_a_job_and_a_stage_are_cancelled_by_name(api: Api) -> None:
    plan = plan_of(
        planned("gone", "sleep 300", stage="one"),
        planned("kept", "true", stage="one"),
        planned("waits", "true", stage="two", needs=("gone",)),
        planned("free", "sleep 300", stage="three"),
        pipeline="parts",
    )
    run = api.run(plan, PROJECT)
    path = f"/runs/{run['run_id']}"
    assert api.ask("DELETE", f"{path}?job=gone").status_code == 202
    assert api.ask("DELETE", f"{path}?stage=three").status_code == 202
    assert api.ask("DELETE", f"{path}?stage=nine").status_code == 404
    over = api.until_over(run["run_id"])
    assert {job["name"]: job["status"] for job in over["jobs"]} == {
        "gone": "cancelled",
        "kept": "completed",
        "waits": "cancelled",
        "free": "cancelled",
    }
    assert over["status"] == "cancelled"
    assert api.ask("DELETE", f"{path}?job=kept").status_code == 202  # over, and cancelled


def test_timeouts_of_a_job_and_of_a_run(api: Api) -> None:
    plan = plan_of(
        planned("slow", "sleep 300", timeout=1), planned("next", "true", needs=("slow",)), pipeline="timed"
    )
    over = api.until_over(api.run(plan, PROJECT)["run_id"])
    assert (over["status"], over["reason"]) == (
        "completed",
        "job 'slow' failed: timed out after 1 s of testing",
    )
    endless = plan_of(
        planned("slow", "sleep 300"), planned("next", "true", needs=("slow",)), pipeline="timed"
    )
    over = api.until_over(api.run(endless, PROJECT, timeout=2)["run_id"])
    assert (over["status"], over["success"], over["reason"]) == (
        "failed",
        False,
        "the run timed out after 2 s",
    )
    assert [job["status"] for job in over["jobs"]] == ["cancelled", "cancelled"]


def test_a_stage_whose_time_is_up_is_stopped_and_says_so(api: Api) -> None:
    files = {
        ".pipelines/limited.yaml": """
stages: [{name: slow, timeout: 12s}, after]
jobs:
  - {name: endless, stage: slow, script: [sleep 300]}
  - {name: quick, stage: slow, script: ["true"]}
  - {name: publish, stage: after, script: ["true"]}
"""
    }
    over = api.until_over(api.run(None, {**PROJECT, **files}, pipeline="limited")["run_id"])
    assert (over["status"], over["success"]) == ("failed", False)
    assert over["reason"] == "stage 'slow' timed out after 12 s"
    assert {job["name"]: job["reason"] for job in over["jobs"]} == {
        "endless": "cancelled by the timeout of stage 'slow' (12 s)",
        "quick": None,
        "publish": "stage 'slow' timed out after 12 s",
    }


def test_a_repetition_runs_all_or_only_what_did_not_pass(api: Api) -> None:
    plan = plan_of(
        planned("good", "true", stage="one"),
        planned("bad", 'test "$TOKEN" = right', stage="one", secrets=("TOKEN",)),
        planned("after", "true", stage="two", needs=("good", "bad")),
        pipeline="repeated",
    )
    first = api.until_over(api.run(plan, PROJECT, secrets={"TOKEN": "wrong"})["run_id"])
    assert first["success"] is False
    path = f"/runs/{first['run_id']}/rerun"
    unsaid = api.ask("POST", path, json={"failed": True})
    assert unsaid.status_code == 422
    assert "TOKEN is not given" in unsaid.json()["detail"]
    made = api.ask("POST", path, json={"failed": True, "secrets": {"TOKEN": "right"}})
    assert made.status_code == 200, made.text
    second = api.until_over(made.json()["run_id"])
    assert (second["success"], second["number"], second["rerun_of"]) == (True, 2, first["run_id"])
    old, new = by_name(first), by_name(second)
    assert (new["good"]["job_id"], new["good"]["reused"]) == (old["good"]["job_id"], True)
    assert new["bad"]["job_id"] != old["bad"]["job_id"]
    assert new["after"]["success"] is True
    nothing = api.ask(
        "POST", f"/runs/{second['run_id']}/rerun", json={"failed": True, "secrets": {"TOKEN": "x"}}
    )
    assert (nothing.status_code, nothing.json()["detail"]) == (
        409,
        "Nothing failed in this run: there is nothing to run again",
    )
    whole = api.ask("POST", f"/runs/{second['run_id']}/rerun", json={"secrets": {"TOKEN": "right"}}).json()
    third = api.until_over(whole["run_id"])
    assert not any(job["reused"] for job in third["jobs"])
    stage = api.ask(
        "POST", f"/runs/{third['run_id']}/rerun", json={"stage": "two", "secrets": {"TOKEN": "right"}}
    )
    fourth = api.until_over(stage.json()["run_id"])
    assert {job["name"] for job in fourth["jobs"] if job["reused"]} == {"good", "bad"}


def test_a_run_that_goes_on_is_not_repeated(api: Api) -> None:
    run = api.run(plan_of(planned("long", "sleep 300")), PROJECT)
    again = api.ask("POST", f"/runs/{run['run_id']}/rerun", json={})
    assert (again.status_code, again.json()["detail"]) == (
        409,
        "The run has not ended: cancel it, or wait for its end",
    )
    api.ask("DELETE", f"/runs/{run['run_id']}")
    api.until_over(run["run_id"])


def test_secrets_reach_the_jobs_that_name_them_and_nobody_else(api: Api, runner: Runner) -> None:
    plan = plan_of(
        planned("named", 'test "${#TOKEN}" = 12', 'echo "it is $TOKEN!"', secrets=("TOKEN",)),
        planned("not-named", 'test -z "${TOKEN:-}"'),
        pipeline="secret",
    )
    missing = api.post(plan, PROJECT)
    assert missing.status_code == 422
    assert "TOKEN is not given" in missing.json()["detail"]
    run = api.run(plan, PROJECT, secrets={"TOKEN": "s3cr3t-value", "UNUSED": "s3cr3t-value"})
    over = api.until_over(run["run_id"])
    assert over["success"] is True, over
    seen = json.dumps([run, over, api.get("/runs"), api.get("/jobs"), api.events(run["run_id"], view="all")])
    assert "s3cr3t-value" not in seen
    assert "it is ***!\n" in api.log(by_name(over)["named"]["job_id"])
    assert "s3cr3t-value" not in runner.log("serve") + runner.log("reconcile")


def test_credentials_of_builds_reach_builds_and_scripts_but_no_tests(api: Api, runner: Runner) -> None:
    name = "UV_INDEX_ACME_PASSWORD"
    test = f"import os\ndef test_it():\n    assert {name!r} not in os.environ\n"
    plan = plan_of(
        planned("tests", secrets=(name,)),
        planned("script", f'test "${name}" = s3cr3t-value', secrets=(name,)),
    )
    run = api.run(plan, {"test_it.py": test}, secrets={name: "s3cr3t-value"})
    over = api.until_over(run["run_id"])
    assert over["success"] is True, over
    scopes = {path.parents[1].name for path in runner.data_dir.glob("environments/*/envs/*.ok")}
    assert scopes - {"shared"}, "an environment was built for nobody else"


def files_with(runner: Runner, *values: str) -> list[str]:
    """Names of files in the data directory whose bytes hold one of the values."""
    found = []
    for folder, _, names in os.walk(runner.data_dir):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(OSError):  # gone meanwhile
                if path.is_file() and any(value.encode() in path.read_bytes() for value in values):
                    found.append(path.relative_to(runner.data_dir).as_posix())
    return found


def test_no_file_of_the_runner_holds_a_secret_while_its_job_runs_or_later(api: Api, runner: Runner) -> None:
    value = f"s3cr3t-{uuid.uuid4()}"
    plan = plan_of(planned("waits", 'test -n "$TOKEN" && echo started', "sleep 300", secrets=("TOKEN",)))
    run = api.run(plan, PROJECT, secrets={"TOKEN": value})
    job_id = wait_until(lambda: by_name(api.get(f"/runs/{run['run_id']}"))["waits"].get("job_id"), 60)
    wait_until(lambda: "started\n" in api.log(job_id), 90, what="the job runs")
    assert files_with(runner, value) == []
    with contextlib.closing(sqlite3.connect(runner.data_dir / "runner.db")) as database:
        query = "SELECT value FROM run_secrets WHERE run_id = ?"
        [(encrypted,)] = database.execute(query, (run["run_id"],)).fetchall()
    api.ask("DELETE", f"/runs/{run['run_id']}")
    api.until_over(run["run_id"])
    wait_until(lambda: not files_with(runner, encrypted), 30, what="what stood for the value is gone")
    assert files_with(runner, value) == []


def test_a_secret_is_masked_in_every_place_where_it_is_shown(api: Api, runner: Runner) -> None:
    value = f"s3cr3t/{uuid.uuid4()}"
    project = {
        **PROJECT,
        "test_it.py": "import os, time, pytest\nTOKEN = os.environ.get('TOKEN', 'none')\n"
        "@pytest.mark.parametrize('token', [TOKEN])\n"
        "def test_it(token):\n    print('captured', token)\n    assert token == 'other'\n"
        "@pytest.mark.parametrize('token', [TOKEN])\n"
        "def test_slow(token):\n    time.sleep(300)\n",
    }
    pieces = "printf 'a %s' \"$(echo $TOKEN | cut -c1-9)\"; sleep 1; echo $TOKEN | cut -c10-"
    plan = plan_of(
        planned("prints", pieces, 'printf "user:%s" "$TOKEN" | base64 -w0; echo', secrets=("TOKEN",)),
        planned("tests", secrets=("TOKEN",), timeout=16),
    )
    run = api.run(plan, project, secrets={"TOKEN": value}, submit={"records": True})
    over = api.until_over(run["run_id"], 150)
    jobs = by_name(over)
    assert "a ***\n" in api.log(jobs["prints"]["job_id"])
    slow = "timed out after 16 s of testing while running test_it.py::test_slow[***]"
    assert jobs["tests"]["reason"] == slow, api.log(jobs["tests"]["job_id"])
    tests = api.get(f"/jobs/{jobs['tests']['job_id']}/tests")
    seen = json.dumps([run, over, tests, api.get("/jobs"), api.events(run["run_id"], view="all")])
    assert "test_it[***]" in seen
    assert value not in seen
    assert value.replace("/", "") not in seen.replace("/", "")
    assert base64.b64encode(f"user:{value}".encode()).decode()[12:-4] not in seen


def test_a_lost_key_costs_the_jobs_with_secrets_and_no_others(api: Api, runner: Runner) -> None:
    plan = plan_of(
        planned("with", "echo $TOKEN", secrets=("TOKEN",)), planned("without", "echo fine"), keep_going=True
    )
    runner.stop("reconcile")
    run = api.run(plan, PROJECT, secrets={"TOKEN": "s3cr3t-value"})
    (runner.data_dir / "secrets.key").unlink()
    runner.start_reconcile()
    jobs = by_name(api.until_over(run["run_id"]))
    assert jobs["without"]["success"] is True
    assert (jobs["with"]["status"], jobs["with"]["reason"]) == (
        "failed",
        "the job's secrets cannot be read: the runner's key for them is missing; submit again",
    )
    again = api.until_over(api.run(plan, PROJECT, secrets={"TOKEN": "s3cr3t-value"})["run_id"])
    assert again["success"] is True, again


@pytest.mark.case("B59", "B68", "B71")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"plan": {"version": 9}}, "plan.version: must be 1"),
        ({"nonsense": 1}, "options.nonsense: is unknown"),
        ({"timeout": -1}, "options.timeout: must be a number"),
        ({"secrets": {"A": 1}}, "secrets.A: must be text"),
        ({"secrets": {"A": "\ud800"}}, "options: not valid JSON (half of a surrogate pair)"),
        ({"secrets": {"A": "x" * 70_000}}, "secrets.A: must be at most 65536 characters long"),
        (
            {"secrets": {f"A{number}": "x" * 60_000 for number in range(5)}},
            "secrets: at most 100, together at most",
        ),
        ({"secrets": {f"A{number}": "x" for number in range(101)}}, "secrets: at most 100, together at most"),
        ({"submit": {"env": {"LD_PRELOAD": "x"}}}, "options.env: LD_PRELOAD cannot be passed to a job"),
        ({"plan": plan_of().to_dict()}, "the plan has no jobs"),
        ({"submit": {"python": "two"}}, "options.python"),
    ],
)
def test_what_makes_no_run_is_refused_in_words(api: Api, options: dict[str, object], words: str) -> None:
    answer = api.post(None, PROJECT, raw=options)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


@pytest.mark.case("B60", "B66", "B71")
def test_unknown_runs_are_not_found(api: Api) -> None:
    for method, path, name in (
        ("GET", "/runs/nothing", "nothing"),
        ("DELETE", "/runs/nothing", "nothing"),
        ("GET", "/runs/nothing/stream", "nothing"),
        ("POST", "/runs/nothing/rerun", "nothing"),
        ("GET", "/pipelines/default/runs/4711", "default#4711"),
    ):
        answer = api.ask(method, path)
        assert (answer.status_code, answer.json()["detail"]) == (404, f"Run not found: {name}")
        assert requests.request(method, api.url + path, timeout=30).status_code == 401


@pytest.mark.case("B69")
def test_artifacts_of_needed_jobs_are_in_a_later_job_s_workspace(api: Api) -> None:
    """Also after the folder was a file; a job that names no artifacts starts on what was sent."""
    plan = plan_of(
        planned(
            "build",
            "rm -f out",
            "mkdir out",
            "echo built > out/it.txt",
            "echo other > side.txt",
            artifacts=("out/**",),
        ),
        planned("use", "cat out/it.txt", "test ! -e side.txt", needs=("build",), artifacts_from=("build",)),
        planned("apart", "cat out", needs=("build",)),
        pipeline="handed-over",
    )
    over = api.until_over(api.run(plan, {**PROJECT, "out": "a file\n"})["run_id"])
    jobs = by_name(over)
    assert over["success"] is True, over
    assert "built\n" in api.log(jobs["use"]["job_id"])
    assert "a file\n" in api.log(jobs["apart"]["job_id"])
    found = api.get(f"/jobs/{jobs['build']['job_id']}/artifacts")
    assert [item["path"] for item in found] == ["out/it.txt"]
    assert api.get(f"/jobs/{jobs['use']['job_id']}/artifacts") == []


@pytest.mark.defect(8)
def test_a_run_has_the_files_of_its_own_submission(api: Api) -> None:
    """The reference system's second run tested the clone of the first."""
    plan = plan_of(planned("look", "cat word.txt"), pipeline="fresh")
    words = []
    for word in ("first", "second"):
        over = api.until_over(api.run(plan, {**PROJECT, "word.txt": f"{word}\n"})["run_id"])
        words.append(api.log(over["jobs"][0]["job_id"]).splitlines()[-1])
    assert words == ["first", "second"]
