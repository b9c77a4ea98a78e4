"""Client for runs of pipelines: submit, list, follow, cancel, rerun, report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_remote_ci.client.ids import PAGE, whole_id
from pytest_remote_ci.errors import ConfigError, JobNotFound

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.client.delta import WorkspaceUpload
    from pytest_remote_ci.client.multipart import Progress
    from pytest_remote_ci.client.stream import EventStream, OnTrouble
    from pytest_remote_ci.wire.protocol import SubmitOptions

#: Number of lines of a failed job's log that are shown at the end of its run.
_TAIL = 20
#: Digits of the largest number of a run that a runner accepts.
_MAX_DIGITS = 15

#: A whole id; names of pipelines may be as long.
_RUN_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")

#: A run as returned by `GET /runs/{id}`.
Run = dict[str, Any]


def secrets_of(plan: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the values of the secrets that a plan's jobs name. Raises `ConfigError` naming those not set locally."""
    names = {name for job in plan["jobs"] if not job.get("skipped") for name in job.get("secrets", ())}
    missing = sorted(names - environ.keys())
    if missing:
        raise ConfigError(f"secrets of the pipeline are not set in the environment: {', '.join(missing)}")
    return {name: environ[name] for name in sorted(names)}


def submission(
    plan: Mapping[str, Any],
    options: SubmitOptions,
    *,
    keep_going: bool = False,
    timeout: float | None = None,
) -> str:
    """Return the request for a run of `plan`, as JSON. Raises `ConfigError` if a secret is not set locally."""
    request: dict[str, Any] = {
        "plan": dict(plan),
        "submit": options.to_dict(),
        "secrets": secrets_of(plan),
        "keep_going": keep_going,
    }
    if timeout is not None:
        request["timeout"] = timeout
    return json.dumps(request)


class Runs:
    """A runner's operations on runs, with the rights of the client's key."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def send(self, parcel: WorkspaceUpload, request: str, key: str, progress: Progress) -> Run:
        """Start the run of this `submission` with the files in `parcel`; `key` makes repetitions harmless."""
        run: Run = self._client.upload("/runs", parcel.archive, request, parcel.manifest, progress, key)
        return run

    def get(self, run_id: str) -> Run:
        """Return the run with its jobs. Raises `JobNotFound`."""
        run: Run = self._client.ask("GET", f"/runs/{quote(run_id, safe='')}")
        return run

    def find(self, word: str) -> Run:
        """Return the run named by an id, ``pipeline#number``, ``pipeline`` (the newest run) or an id's beginning.

        Raises `JobNotFound`, `AmbiguousId`.
        """
        name, _, number = word.rpartition("#")
        if name and number.isascii() and number.isdigit():
            if not number.strip("0") or len(number) > _MAX_DIGITS:  # the runner would refuse it
                raise JobNotFound(f"Run not found: {word}")
            found: Run = self._client.ask("GET", f"/pipelines/{quote(name, safe='')}/runs/{number}")
            return found
        if _RUN_ID.fullmatch(word):
            return self.get(word)
        try:
            return self.newest(word)
        except JobNotFound:
            run_id = whole_id("run", word, lambda before: self.list(limit=PAGE, before=before))
        return self.get(run_id)

    def newest(self, pipeline: str) -> Run:
        """Return the newest run of a pipeline. Raises `JobNotFound`."""
        # An empty name would be no filter, and a name must be printable.
        found = self.list(pipeline=pipeline, limit=1) if pipeline and pipeline.isprintable() else []
        if not found:
            raise JobNotFound(f"Run not found: pipeline {pipeline!r} has no run")
        return self.get(found[0]["run_id"])

    def list(self, **wanted: Any) -> list[Run]:
        """Return summaries of runs, newest first."""
        params = {name: value for name, value in wanted.items() if value is not None}
        runs: list[Run] = self._client.ask("GET", "/runs", params)
        return runs

    def stream(
        self,
        run_id: str,
        *,
        from_beginning: bool = True,
        after: int = 0,
        view: str | None = None,
        on_trouble: OnTrouble | None = None,
    ) -> EventStream:
        """Return the events of all the run's jobs after event number `after`, up to `run_complete`."""
        return self._client.stream(
            run_id, from_beginning=from_beginning, after=after, view=view, on_trouble=on_trouble, of_run=True
        )

    def cancel(self, run_id: str, *, stage: str | None = None, job: str | None = None) -> Run:
        """Cancel the run, or a stage or job of it. Raises `SubmissionRefused` if it has already ended."""
        params = {name: value for name, value in (("stage", stage), ("job", job)) if value is not None}
        run: Run = self._client.ask("DELETE", f"/runs/{quote(run_id, safe='')}", params)
        return run

    def rerun(
        self,
        run_id: str,
        *,
        failed: bool = False,
        stage: str | None = None,
        job: str | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> Run:
        """Start a new run on the same workspace; see `POST /runs/{id}/rerun`."""
        body = {"failed": failed, "stage": stage, "job": job, "secrets": dict(secrets or {})}
        run: Run = self._client.ask("POST", f"/runs/{quote(run_id, safe='')}/rerun", body=body)
        return run

    def needed_secrets(self, run: Run) -> dict[str, str]:
        """Return the local values of the secrets that the run's jobs name. Raises `ConfigError` if one is not set."""
        return secrets_of({"jobs": run["jobs"]})

    def log(self, job_id: str) -> str:
        """Return all output of a job so far."""
        texts: list[str] = []
        after = 0
        while True:
            params = {"after": after, "limit": 1000}
            events = self._client.ask("GET", f"/jobs/{quote(job_id, safe='')}/events", params)
            if not events:
                return "".join(texts)
            texts += [str(event["data"]) for event in events if event.get("type") == "log"]
            after = events[-1]["seq"]

    def tail(self, job_id: str) -> tuple[str, ...]:
        """Return the last lines of a job's output."""
        return tuple(self.log(job_id).splitlines()[-_TAIL:])

    def durations(self, pipeline: str) -> dict[str, float]:
        """Return planned job name → its usual duration in seconds; empty if the pipeline never ran."""
        found: dict[str, float] = self._client.ask("GET", f"/pipelines/{quote(pipeline, safe='')}/durations")
        return found

    def report(self, *parts: object, **wanted: Any) -> Any:
        """Return the report of a pipeline, number, stage and job, or of all (see docs/guide/pipelines.md)."""
        path = "".join(f"/{quote(str(part), safe='')}" for part in parts)
        params = {name: value for name, value in wanted.items() if value is not None}
        return self._client.ask("GET", f"/reports/pipelines{path}", params)
