"""Test results: those of one job, and reports over a user's recorded jobs."""

from __future__ import annotations

from typing import Final

import falcon

from ci_runner.errors import InvalidSubmission
from ci_runner.server.http.auth import caller_of
from ci_runner.server.resources.jobs import own_job
from ci_runner.server.streams.stream_response import number
from ci_runner.store import KINDS, MAX_RUNS, Store

_PAGE: Final = 1000
_RUNS: Final = 50
_TESTS: Final = 50


class JobTests:
    """`GET /jobs/{job_id}/tests`."""

    __test__ = False

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Send the job's tests, ordered by id, one page at a time."""
        job = own_job(self._store, req, job_id)
        limit = number(req, "limit", _PAGE, 1, _PAGE)
        found = self._store.tests.list(job.id, req.get_param("after") or "", limit)
        resp.media = [item.to_dict() for item in found]
        resp.set_header("Cache-Control", "no-store")


class TestReport:
    """`GET /reports/tests`."""

    __test__ = False

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send a report over the newest recorded jobs of the caller."""
        kind = req.get_param("kind", default="all")
        if kind not in KINDS:
            raise InvalidSubmission(f"kind: must be one of {', '.join(KINDS)}")
        runs = self._store.tests.runs(
            caller_of(req).user.id,
            root=req.get_param("root"),
            limit=number(req, "runs", _RUNS, 1, MAX_RUNS),
        )
        tests = self._store.tests.report(runs, kind, number(req, "limit", _TESTS, 1, _PAGE))
        resp.media = {
            "kind": kind,
            "runs": [run.to_dict() for run in runs],
            "tests": [item.to_dict() for item in tests],
        }
        resp.set_header("Cache-Control", "no-store")
