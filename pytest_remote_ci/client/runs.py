"""Runs of pipelines from the developer's side: sent, looked at, followed, repeated; and the working tree for it all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_remote_ci.client.delta import Parcel, deliver
from pytest_remote_ci.errors import ConfigError, JobNotFound

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.client.multipart import Progress
    from pytest_remote_ci.client.stream import EventStream
    from pytest_remote_ci.wire.protocol import SubmitOptions
    from pytest_remote_ci.workspace.collect import Workspace

#: Lines of a failed job's log that are shown at the end of its run.
_TAIL = 20

#: A run as `GET /runs/{id}` gives it.
Run = dict[str, Any]


def secrets_of(plan: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The values of the secrets that a plan's jobs name; raises `ConfigError` naming those that are not set here."""
    names = {name for job in plan["jobs"] if not job.get("skipped") for name in job.get("secrets", ())}
    missing = sorted(names - environ.keys())
    if missing:
        raise ConfigError(f"secrets of the pipeline are not set in the environment: {', '.join(missing)}")
    return {name: environ[name] for name in sorted(names)}


class Runs:
    """What a runner does with runs, as the owner of the client's key sees it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(
        self,
        workspace: Workspace,
        plan: Mapping[str, Any],
        options: SubmitOptions,
        *,
        again: Callable[[], Workspace],
        keep_going: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Run:
        """Send the project and run `plan` on it. Raises what `delivery.deliver` and the client raise."""
        request: dict[str, Any] = {
            "plan": dict(plan),
            "submit": options.to_dict(),
            "secrets": secrets_of(plan),
            "keep_going": keep_going,
        }
        if timeout is not None:
            request["timeout"] = timeout
        key, text = uuid.uuid4().hex, json.dumps(request)
        sent: dict[str, Run] = {}

        def send(parcel: Parcel) -> str:
            run = self._client.upload("/runs", parcel.archive, text, parcel.manifest, progress, key)
            sent["run"] = run
            return str(run["run_id"])

        deliver(self._client, workspace, send, again=again, progress=progress)
        return sent["run"]

    def get(self, run_id: str) -> Run:
        """The run with its jobs. Raises `JobNotFound`."""
        run: Run = self._client.ask("GET", f"/runs/{quote(run_id, safe='')}")
        return run

    def find(self, word: str) -> Run:
        """The run that `word` names: an id, the beginning of one, or ``pipeline#number``. Raises `JobNotFound`."""
        name, _, number = word.rpartition("#")
        if name and number.isdigit():
            found: Run = self._client.ask("GET", f"/pipelines/{quote(name, safe='')}/runs/{number}")
            return found
        if len(word) < 36:
            # Every id begins with nothing, which names none of them.
            ids = [run["run_id"] for run in self.list() if word and run["run_id"].startswith(word)]
            if len(ids) != 1:
                raise JobNotFound(
                    f"Run not found: {word}" if not ids else f"{word} is the beginning of several runs"
                )
            word = ids[0]
        return self.get(word)

    def list(self, **wanted: Any) -> list[Run]:
        """Summaries of runs, newest first."""
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
        on_trouble: Callable[[str], None] | None = None,
    ) -> EventStream:
        """The events of all its jobs after number `after`, up to `run_complete`."""
        return self._client.stream(
            run_id, from_beginning=from_beginning, after=after, view=view, on_trouble=on_trouble, of_run=True
        )

    def cancel(self, run_id: str, *, stage: str | None = None, job: str | None = None) -> Run:
        """Ask for the end of the run, or of a part of it. Raises `SubmissionRefused` when it is over already."""
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
        """A new run on the same workspace; see `POST /runs/{id}/rerun`."""
        body = {"failed": failed, "stage": stage, "job": job, "secrets": dict(secrets or {})}
        run: Run = self._client.ask("POST", f"/runs/{quote(run_id, safe='')}/rerun", body=body)
        return run

    def needed_secrets(self, run: Run) -> dict[str, str]:
        """The values here of the secrets that the run's jobs name; raises `ConfigError`."""
        return secrets_of({"jobs": run["jobs"]})

    def log(self, job_id: str) -> str:
        """All that a job has written so far."""
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
        """The last lines of that."""
        return tuple(self.log(job_id).splitlines()[-_TAIL:])

    def durations(self, pipeline: str) -> dict[str, float]:
        """Planned name → seconds that its job usually takes; nothing of a pipeline that never ran."""
        found: dict[str, float] = self._client.ask("GET", f"/pipelines/{quote(pipeline, safe='')}/durations")
        return found

    def report(self, *parts: object, **wanted: Any) -> Any:
        """A report: nothing, pipeline, number, stage, job (see docs/guide/pipelines.md)."""
        path = "".join(f"/{quote(str(part), safe='')}" for part in parts)
        params = {name: value for name, value in wanted.items() if value is not None}
        return self._client.ask("GET", f"/reports/pipelines{path}", params)
