"""Client for runs of pipelines: submit, list, follow, cancel, rerun, report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from pytest_remote_ci.client.ids import PAGE, whole_id
from pytest_remote_ci.client.parameters import given
from pytest_remote_ci.errors import ConfigError, JobNotFound
from pytest_remote_ci.wire import answers
from pytest_remote_ci.wire.answers import Plan, Run, RunSummary

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


def secrets_of(names: Iterable[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the values of secrets with these names. Raises `ConfigError` naming those not set locally."""
    names = set(names)
    missing = sorted(names - environ.keys())
    if missing:
        raise ConfigError(f"secrets of the pipeline are not set in the environment: {', '.join(missing)}")
    return {name: environ[name] for name in sorted(names)}


def submission(
    plan: Plan,
    options: SubmitOptions,
    *,
    keep_going: bool = False,
    timeout: float | None = None,
) -> str:
    """Return the request for a run of `plan`, as JSON. Raises `ConfigError` if a secret is not set locally."""
    request: dict[str, object] = {
        "plan": dict(plan.fields),
        "submit": options.to_dict(),
        "secrets": secrets_of(name for job in plan.jobs if not job.skipped for name in job.secrets),
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
        return self._run(
            self._client.upload("/runs", parcel.archive, request, parcel.manifest, progress, key)
        )

    def _run(self, answer: object) -> Run:
        return self._client.read("not a run", Run, answer)

    def get(self, run_id: str) -> Run:
        """Return the run with its jobs. Raises `JobNotFound`."""
        return self._run(self._client.ask("GET", f"/runs/{quote(run_id, safe='')}"))

    def find(self, word: str) -> Run:
        """Return the run named by an id, ``pipeline#number``, ``pipeline`` (the newest run) or an id's beginning.

        Raises `JobNotFound`, `AmbiguousId`.
        """
        name, _, number = word.rpartition("#")
        if name and number.isascii() and number.isdigit():
            if not number.strip("0") or len(number) > _MAX_DIGITS:  # the runner would refuse it
                raise JobNotFound(f"Run not found: {word}")
            return self._run(self._client.ask("GET", f"/pipelines/{quote(name, safe='')}/runs/{number}"))
        if _RUN_ID.fullmatch(word):
            return self.get(word)
        try:
            return self.newest(word)
        except JobNotFound:
            run_id = whole_id("run", word, self._page)
        return self.get(run_id)

    def _page(self, before: str | None) -> list[str]:
        """Return the ids of a page of runs."""
        return [run.run_id for run in self.list(limit=PAGE, before=before)]

    def newest(self, pipeline: str) -> Run:
        """Return the newest run of a pipeline. Raises `JobNotFound`."""
        # An empty name would be no filter, and a name must be printable.
        found = self.list(pipeline=pipeline, limit=1) if pipeline and pipeline.isprintable() else []
        if not found:
            raise JobNotFound(f"Run not found: pipeline {pipeline!r} has no run")
        return self.get(found[0].run_id)

    def list(
        self,
        *,
        pipeline: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[RunSummary]:
        """Return summaries of runs, newest first."""
        params = given(pipeline=pipeline, status=status, limit=limit, before=before)
        answer = self._client.ask("GET", "/runs", params)
        return self._client.read("not a list of runs", answers.list_of(RunSummary), answer)

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
        params = given(stage=stage, job=job)
        return self._run(self._client.ask("DELETE", f"/runs/{quote(run_id, safe='')}", params))

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
        return self._run(self._client.ask("POST", f"/runs/{quote(run_id, safe='')}/rerun", body=body))

    def needed_secrets(self, run: Run) -> dict[str, str]:
        """Return the local values of the secrets that the run's jobs name. Raises `ConfigError` if one is not set."""
        return secrets_of(name for job in run.jobs if not job.is_skipped for name in job.secrets)

    def log(self, job_id: str) -> str:
        """Return all output of a job so far."""
        texts: list[str] = []
        after = 0
        while True:
            events = self._client.events(job_id, after=after, limit=1000)
            texts += [event.text for event in events if event.type == "log"]
            if not events or events[-1].seq <= after:
                return "".join(texts)
            after = events[-1].seq

    def tail(self, job_id: str) -> tuple[str, ...]:
        """Return the last lines of a job's output."""
        return tuple(self.log(job_id).splitlines()[-_TAIL:])

    def durations(self, pipeline: str) -> dict[str, float]:
        """Return planned job name → its usual duration in seconds; empty if the pipeline never ran."""
        answer = self._client.ask("GET", f"/pipelines/{quote(pipeline, safe='')}/durations")
        return self._client.read("not durations", answers.numbers_by_name, answer)

    def report(self, *parts: object, stage: str | None = None, job: str | None = None) -> object:
        """Return the report of a pipeline, number, stage and job, or of all (see docs/guide/pipelines.md).

        `pytest_remote_ci.cli.report_formats` reads it: one of unknown shape is shown as it is.
        """
        path = "".join(f"/{quote(str(part), safe='')}" for part in parts)
        return self._client.ask("GET", f"/reports/pipelines{path}", given(stage=stage, job=job))
