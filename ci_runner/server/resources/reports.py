"""`GET /reports/pipelines…`: reports on the caller's runs, at four levels, and their histories, newest first."""

from __future__ import annotations

from typing import Final

import falcon

from ci_runner.errors import InvalidSubmission, NotFound
from ci_runner.pipelines import report
from ci_runner.pipelines.report import ReportQuery
from ci_runner.pipelines.run import Run
from ci_runner.server import parameters
from ci_runner.server.http.auth import caller_of
from ci_runner.server.resources.paging import link_next_page
from ci_runner.server.resources.runs import RunFilters
from ci_runner.store import Store

#: Paths below `/reports/pipelines`: everything, a history, a run, one of its stages, a job of the stage.
REPORT_PATHS: Final = (
    "",
    "/{name}",
    "/{name}/runs/{run_number}",
    "/{name}/runs/{run_number}/stages/{stage}",
    "/{name}/runs/{run_number}/stages/{stage}/jobs/{job}",
)


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
            raise NotFound("Pipeline execution not found for run", wanted.runNumber)
        resp.media = self._report(run, wanted)

    def _history(
        self, req: falcon.Request, resp: falcon.Response, user_id: str, wanted: ReportQuery
    ) -> list[dict[str, object]]:
        limit = parameters.HISTORY_LIMIT.read(req)
        filters: RunFilters = {
            "pipeline": wanted.pipelineName,
            "status": parameters.STATUS.given(req),
            "since": wanted.since,
        }
        runs = self._store.runs.list(user_id, limit=limit, before=parameters.BEFORE.text(req), **filters)
        if len(runs) == limit and self._store.runs.list(user_id, limit=1, before=runs[-1].id, **filters):
            link_next_page(req, resp, parameters.HISTORY, runs[-1].id)
        found: list[dict[str, object]] = []
        missing: NotFound | None = None
        for run in runs:
            try:
                found.append(self._report(run, wanted))
            except NotFound as error:  # this run's definition had no such stage or job
                missing = missing or error
        if not found and missing is not None:
            raise missing
        return found

    def _report(self, run: Run, wanted: ReportQuery) -> dict[str, object]:
        states, tries = self._store.runs.states(run), self._store.runs.executions(run.id)
        if wanted.stageName is None:
            return report.to_dict(report.pipeline_report(run, states, tries))
        if wanted.jobName is None:
            return report.to_dict(report.stage_report(run, wanted.stageName, states, tries))
        return report.to_dict(report.job_report(run, wanted.stageName, wanted.jobName, states, tries))

    def _require_pipeline(self, user_id: str, name: str) -> None:
        if not self._store.runs.list(user_id, pipeline=name, limit=1):
            raise NotFound("Pipeline not found", name)


def _query(
    req: falcon.Request, name: str | None, run_number: str | None, stage: str | None, job: str | None
) -> ReportQuery:
    status = parameters.STATUS.given(req)
    since = parameters.SINCE.given(req)
    return ReportQuery(
        name,
        None if run_number is None else parameters.RUN_NUMBER.parse(run_number),
        stage or parameters.HISTORY_STAGE.text(req),
        job or parameters.HISTORY_JOB.text(req),
        status,
        since,
    )
