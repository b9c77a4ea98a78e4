"""Metrics over real HTTP: who may read them, and what they count."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from support.http_server import Runner, running

from ci_runner.model import verdict
from ci_runner.model.job import JobEvent, utcnow
from ci_runner.settings.groups import ServeSettings
from pytest_remote_ci.wire.timing import Timing

TOKEN = "scrape-me"
DEPLOY = Path(__file__).parents[3] / "deploy"


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with running(tmp_path, ServeSettings(port=0, metrics_token=TOKEN)) as started:
        yield started


def scrape(runner: Runner) -> dict[str, dict[str, float]]:
    """Return name of a sample → labels as text → value."""
    answer = requests.get(f"{runner.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_without_a_setting_there_are_no_metrics(tmp_path: Path) -> None:
    with running(tmp_path) as plain:
        answer = requests.get(f"{plain.url}/metrics", timeout=30)
        assert answer.status_code == 404
        assert "--metrics-token" in answer.json()["detail"]


@pytest.mark.parametrize("sent", [None, "Bearer wrong", "Bearer ", "Basic scrape-me", f"Bearer {TOKEN}x"])
def test_another_token_is_refused(runner: Runner, sent: str | None) -> None:
    headers = {} if sent is None else {"Authorization": sent}
    answer = requests.get(f"{runner.url}/metrics", headers=headers, timeout=30)
    assert answer.status_code == 401
    assert "ci_runner" not in answer.text


def test_a_user_s_key_does_not_open_the_metrics(runner: Runner) -> None:
    assert runner.get("/metrics", runner.person()).status_code == 401


def test_open_jobs_are_counted_by_phase(runner: Runner) -> None:
    person = runner.person()
    for _ in range(2):
        runner.job(person)
    taken = runner.job(person)
    runner.store.jobs.advance(
        taken.id, runner.epoch, "queued", phase="preparing", status="running", building=True
    )
    found = scrape(runner)
    assert found["ci_runner_jobs"] == {
        "phase=queued": 2.0,
        "phase=preparing": 1.0,
        "phase=starting": 0.0,
        "phase=testing": 0.0,
        "phase=finishing": 0.0,
    }
    assert found["ci_runner_jobs_building"] == {"": 1.0}
    assert 0 < found["ci_runner_oldest_waiting_job_seconds"][""] < 60
    assert 0 <= found["ci_runner_controller_heartbeat_age_seconds"][""] < 60
    assert found["ci_runner_database_up"] == {"": 1.0}
    assert found["ci_runner_disk_free_bytes"][""] > 0


def test_each_ended_job_is_counted_once(runner: Runner) -> None:
    person = runner.person()
    verdicts = [verdict.ran(0), verdict.ran(1), verdict.failed("lost"), verdict.cancelled("me")]
    for item in verdicts:
        job = runner.job(person)
        timing = Timing({"queue": 0.02, "container": 0.3}, cold=("environment built",), container="warm")
        runner.store.jobs.finish(job.id, runner.epoch, item, more={"timing": timing.to_dict()})
    found = scrape(runner)
    assert found["ci_runner_jobs_ended_total"] == {
        "result=passed": 1.0,
        "result=failed": 1.0,
        "result=no_verdict": 1.0,
        "result=cancelled": 1.0,
    }
    assert found["ci_runner_job_duration_seconds_count"] == {"": 4.0}
    assert found["ci_runner_job_phase_seconds_count"] == {"phase=queue": 4.0, "phase=container": 4.0}
    assert found["ci_runner_job_environments_total"] == {"state=built": 4.0}
    assert found["ci_runner_job_containers_total"] == {"start=warm": 4.0}
    job = runner.job(person)
    runner.store.jobs.advance(
        job.id, runner.epoch, "queued", phase="testing", status="running", start_time=utcnow()
    )
    runner.finish(job.id)
    again = scrape(runner)
    assert again["ci_runner_jobs_ended_total"]["result=passed"] == 2.0
    assert again["ci_runner_job_duration_seconds_count"] == {"": 5.0}
    assert again["ci_runner_job_queue_seconds_count"] == {"": 1.0}


def test_requests_are_measured_by_route_and_never_by_path(runner: Runner) -> None:
    person = runner.person()
    job = runner.job(person)
    runner.get(f"/jobs/{job.id}", person)
    runner.get("/secret-path", person)
    found = scrape(runner)["ci_runner_http_request_duration_seconds_count"]
    assert found["method=GET,route=/jobs/{job_id},status=2xx"] == 1.0
    assert found["method=GET,route=none,status=4xx"] == 1.0
    assert not any("secret-path" in labels or job.id in labels for labels in found)


def test_an_open_stream_is_counted(runner: Runner) -> None:
    person = runner.person()
    job = runner.job(person)
    runner.store.events.add(job.id, JobEvent("log", "x"))
    with runner.get(f"/jobs/{job.id}/stream", person, stream=True) as answer:
        next(answer.iter_lines())
        assert scrape(runner)["ci_runner_streams"] == {"": 1.0}


def test_what_is_deployed_names_only_metrics_that_exist(runner: Runner) -> None:
    person = runner.person()
    job = runner.job(person)
    timing = Timing({"container": 0.3})
    runner.store.jobs.finish(job.id, runner.epoch, verdict.ran(0), more={"timing": timing.to_dict()})
    names = set(scrape(runner)) | {"up"}
    dashboard = json.loads((DEPLOY / "grafana" / "ci-runner.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    used = set(re.findall(r"\bci_runner_\w+", "\n".join([*queries, rules])))
    assert len(queries) >= 8
    assert used - names == set()
