"""Plans of pipelines for tests, and a client that posts them as the API wants it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import requests

from ci_runner.pipelines.plan import Plan, PlannedJob
from support.runner import Runner
from support.waiting import wait_until


def planned(name: str, *script: str, stage: str = "test", **fields: Any) -> PlannedJob:
    """A job of a plan: a script, or pytest where there is no command."""
    return PlannedJob(name, fields.pop("definition", name), stage, script=script or None, **fields)


def plan_of(*jobs: PlannedJob, pipeline: str = "default", keep_going: bool = False) -> Plan:
    """A plan with the stages that its jobs name, in their order."""
    return Plan(pipeline, tuple(dict.fromkeys(job.stage for job in jobs)), jobs, keep_going)


def zip_of(files: Mapping[str, str]) -> bytes:
    """An archive of a project."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return target.getvalue()


class Api:
    """Requests of one user about runs."""

    def __init__(self, runner: Runner, key: str | None = None) -> None:
        self._runner = runner
        self._headers = {"Authorization": f"Bearer {key or runner.key}"}

    @property
    def url(self) -> str:
        """Where the runner is."""
        return self._runner.public_url

    def post(self, plan: Plan | None, files: Mapping[str, str], **options: Any) -> requests.Response:
        """Submit a run."""
        headers = {**self._headers, **options.pop("headers", {})}
        options = options.pop("raw", options)
        if plan is not None:
            options["plan"] = plan.to_dict()
        parts: dict[str, Any] = {
            "options": (None, json.dumps(options), "application/json"),
            "file": ("project.zip", zip_of(files), "application/zip"),
        }
        return requests.post(f"{self._runner.public_url}/runs", files=parts, headers=headers, timeout=60)

    def run(self, plan: Plan | None, files: Mapping[str, str], **options: Any) -> dict[str, Any]:
        """Submit a run that is taken."""
        answer = self.post(plan, files, **options)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        """Any other request."""
        headers = {**self._headers, **more.pop("headers", {})}
        url = self._runner.public_url + path
        return requests.request(method, url, headers=headers, timeout=60, **more)

    def get(self, path: str) -> Any:
        """The JSON of an answer that is fine."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def until_over(self, run_id: str, seconds: float = 90) -> dict[str, Any]:
        """Wait for the run's end; how it is then."""
        wait_until(
            lambda: self.get(f"/runs/{run_id}")["end_time"] is not None,
            seconds,
            what=f"the end of run {run_id}",
        )
        return dict(self.get(f"/runs/{run_id}"))

    def log(self, job_id: str) -> str:
        """What a job wrote."""
        events = self.get(f"/jobs/{job_id}/events?limit=1000")
        return "".join(event["data"] for event in events if event["type"] == "log")

    def events(self, run_id: str, **params: Any) -> list[dict[str, Any]]:
        """The whole stream of a run, with numbers."""
        params.setdefault("from_beginning", "true")
        found = []
        answer = self.ask("GET", f"/runs/{run_id}/stream", params=params, stream=True)
        assert answer.status_code == 200, answer.text
        seq = 0
        with answer:
            for line in answer.iter_lines():
                if line.startswith(b"id: "):
                    seq = int(line[4:])
                elif line.startswith(b"data: "):
                    found.append({**json.loads(line[6:]), "n": seq})
        return found


def by_name(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A run's jobs by their names."""
    return {job["name"]: job for job in run["jobs"]}
