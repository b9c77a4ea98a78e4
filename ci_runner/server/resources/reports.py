"""`GET /reports/pipelines…`: reports on the caller's runs, at four levels, and their histories, newest first."""

from __future__ import annotations

from typing import Any, Final, cast
from urllib.parse import urlencode

import falcon

from ci_runner.errors import InvalidSubmission, NotFound
from ci_runner.pipelines import report
from ci_runner.pipelines.report import ReportQuery
from ci_runner.pipelines.run import Run
from ci_runner.server.http.auth import caller_of
from ci_runner.server.resources.paging import status_and_since
from ci_runner.server.streams.stream_response import number, parse_number
from ci_runner.store import Store
from pytest_remote_ci.wire.protocol import Status

#: Runs in one response: the default and the maximum.
_PAGE: Final = 50
_MOST: Final = 1000
_NUMBER: Final = 10**15


class Reports:
    """All routes below `/reports/pipelines`; the more parts a path has, the less the report covers."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        name: str | None = None,
        run_number: str | None = None,
        stage: str | None = None,
        job: str | None = None,
    ) -> None:
        """Send one report, or a list of reports if no run is named."""
        wanted = _query(req, name, run_number, stage, job)
        user_id = caller_of(req).user.id
        if wanted.jobName is not None and wanted.stageName is None:
            raise InvalidSubmission("job: name its stage, too")
        if wanted.pipelineName is not None:
            self._require_pipeline(user_id, wanted.pipelineName)
        if wanted.runNumber is None:
            resp.media = self._history(req, resp, user_id, wanted)
            return
        run = self._store.runs.by_number(user_id, wanted.pipelineName or "", wanted.runNumber)
        if run is None:
            raise NotFound(f"Pipeline execution not found for run: {wanted.runNumber}")
        resp.media = self._report(run, wanted)

    def _history(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, wanted: ReportQuery
    ) -> list[dict[str, Any]]:
        limit = number(req, "limit", _PAGE, 1, _MOST)
        filters: dict[str, Any] = {
            "pipeline": wanted.pipelineName,
            "status": cast("Status | None", wanted.status),
            "since": wanted.since,
        }
        runs = self._store.runs.list(user_id, limit=limit, before=req.get_param("before"), **filters)
        if len(runs) == limit and self._store.runs.list(user_id, limit=1, before=runs[-1].id, **filters):
            names = ("stage", "job", "status", "since", "limit")
            query = {name: value for name in names if (value := req.get_param(name)) is not None}
            resp.append_link(f"{req.path}?{urlencode(query | {'before': runs[-1].id})}", "next")
        found: list[dict[str, Any]] = []
        missing: NotFound | None = None
        for run in runs:
            try:
                found.append(self._report(run, wanted))
            except NotFound as error:  # this run's definition had no such stage or job
                missing = missing or error
        if not found and missing is not None:
            raise missing
        return found

    def _report(self, run: Run, wanted: ReportQuery) -> dict[str, Any]:
        states, tries = self._store.runs.states(run), self._store.runs.executions(run.id)
        if wanted.stageName is None:
            return report.to_dict(report.pipeline_report(run, states, tries))
        if wanted.jobName is None:
            return report.to_dict(report.stage_report(run, wanted.stageName, states, tries))
        return report.to_dict(report.job_report(run, wanted.stageName, wanted.jobName, states, tries))

    def _require_pipeline(self, user_id: str, name: str) -> None:
        if not self._store.runs.list(user_id, pipeline=name, limit=1):
            raise NotFound(f"Pipeline not found: {name}")


def _query(
    req: falcon.Request, name: str | None, run_number: str | None, stage: str | None, job: str | None
) -> ReportQuery:
    status, since = status_and_since(req)
    return ReportQuery(
        name,
        None if run_number is None else parse_number("number", run_number, 1, _NUMBER),
        stage or req.get_param("stage"),
        job or req.get_param("job"),
        status,
        since,
    )
