"""What the store must do quickly, with many jobs behind it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci_runner.model import verdict
from ci_runner.model.job import Job, User
from ci_runner.model.job_options import JobOptions
from ci_runner.store import Store

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "runner.db")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with 100,000 jobs that are over."""
    store = Store.open(tmp_path_factory.mktemp("crowded") / "runner.db")
    store.users.create(User("ann", "Ann", "ann@example.org", NOON))
    store.jobs.create(
        Job("model", user_id="ann", name="model", options=JobOptions.from_dict({"args": ["-v"]}))
    )
    store.jobs.finish("model", None, verdict.ran(0))
    store.jobs.cleaned("model", store.lease.acquire("test"))
    columns = ", ".join(str(name) for _, name, *_ in store._database.sql("PRAGMA table_info(jobs)"))
    copied = columns.replace("id,", "'job-' || n,", 1).replace("submitted_at", "submitted_at + n")
    with store._database.write():
        store._database.sql(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)"
            f" INSERT INTO jobs ({columns}) SELECT {copied} FROM numbers, jobs WHERE id = 'model'"
        )
    store.jobs.create(Job("open", user_id="ann"))
    yield store
    store.close()


class TestSpeed:
    """Bounds are generous: they catch a scan or a lock, not a slow machine."""

    @pytest.mark.parametrize(
        ("call", "options", "index"),
        [
            ("open", {}, "jobs_open"),
            ("uncleaned", {}, "jobs_uncleaned"),
            ("list", {}, "jobs_newest"),
            ("list", {"user_id": "ann", "status": "failed"}, "jobs_by_status_of_user"),
            ("list", {"user_id": "ann", "query": "nothing"}, "COVERING INDEX jobs_newest_of_user"),
            ("list", {"user_id": "ann", "query": "x", "status": "failed"}, "jobs_by_status_of_user"),
            ("queue", {}, "jobs_open"),
            ("count_waiting", {"user_id": "ann"}, "jobs_open_of_user"),
        ],
    )
    def test_finished_jobs_cost_nothing(
        self,
        crowded: Store,
        call: str,
        options: dict[str, Any],
        index: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        plans: list[str] = []
        execute: Any = crowded._database._database.execute_sql

        def explain(sql: str, parameters: object = None) -> object:
            plans.append(str(execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()))
            return execute(sql, parameters)

        monkeypatch.setattr(crowded._database._database, "execute_sql", explain)
        getattr(crowded.jobs, call)(**options)
        assert index in plans[0]
        assert "TEMP B-TREE" not in plans[0]
