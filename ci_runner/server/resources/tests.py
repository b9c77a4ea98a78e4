"""Test results: those of one job, and reports over a user's recorded jobs."""

from __future__ import annotations

import falcon

from ci_runner.server import parameters, schemas
from ci_runner.server.http.auth import caller_of
from ci_runner.server.resources.jobs import own_job
from ci_runner.store import Store


class JobTests:
    """`GET /jobs/{job_id}/tests`."""

    __test__ = False

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Send the job's tests, ordered by id, one page at a time."""
        job = own_job(self._store, req, job_id)
        limit = parameters.TESTS_LIMIT.read(req)
        found = self._store.tests.list(job.id, parameters.TESTS_AFTER.text(req) or "", limit)
        resp.media = [schemas.TestResult.of(item) for item in found]
        resp.set_header("Cache-Control", "no-store")


class TestReport:
    """`GET /reports/tests`."""

    __test__ = False

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send a report over the newest recorded jobs of the caller."""
        kind = parameters.REPORT_KIND.read(req)
        runs = self._store.tests.runs(
            caller_of(req).user.id,
            root=parameters.REPORT_ROOT.text(req),
            limit=parameters.REPORT_JOBS.read(req),
        )
        tests = self._store.tests.report(runs, kind, parameters.REPORT_LIMIT.read(req))
        resp.media = schemas.TestReport(
            kind=kind,
            runs=[schemas.RecordedJob.of(run) for run in runs],
            tests=[schemas.TestHistory.of(item) for item in tests],
        )
        resp.set_header("Cache-Control", "no-store")
