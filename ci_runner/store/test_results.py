"""Test results: one row per test and job, written together with the events that report them.

A batch of events is stored exactly once. Its results are added in the same transaction, so every report is counted
exactly once, whichever process is killed in between. The job's row has the rest (user, workspace).
"""

from __future__ import annotations

import builtins
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from peewee import Case, fn

from ci_runner.model.job import JobEvent, utcnow
from ci_runner.model.test_results import BAD, GOOD, OUTCOMES, TestHistory, TestResult, history, parts
from ci_runner.store.database import Database
from ci_runner.store.rows import JobId, JobOutcome, JobWithTests, NodeId, OutcomeCount, StoredTest
from ci_runner.store.schema import JobRow, TestRow, to_micros

#: The kinds of reports on tests.
Kind = Literal["all", "slowest", "flaky", "failing-since"]
KINDS: Final[tuple[Kind, ...]] = ("all", "slowest", "flaky", "failing-since")
#: Maximum number of jobs in a report.
MAX_RUNS: Final = 200
#: Maximum number of tests with all runs examined for a report.
_CANDIDATES: Final = 1000
_IDS: Final = 300

_RANKS: Final[Mapping[str, int]] = {name: rank for rank, name in enumerate(OUTCOMES)}
_GOOD: Final = [_RANKS[name] for name in sorted(GOOD)]
_BAD: Final = [_RANKS[name] for name in sorted(BAD)]
#: Keeps the worst outcome and adds the rest; the columns are those of `TestRow`.
_ADD: Final = """
INSERT INTO tests (job_id, node_id, outcome, duration, reruns, at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (job_id, node_id) DO UPDATE SET
  outcome = CASE WHEN excluded.outcome > tests.outcome THEN excluded.outcome ELSE tests.outcome END,
  duration = tests.duration + excluded.duration, reruns = tests.reruns + excluded.reruns
"""


@dataclass(frozen=True)
class Run:
    """One job in a report on tests."""

    job_id: str
    workspace: str | None
    at: dt.datetime
    #: Number of tests by outcome, and their total seconds.
    counts: Mapping[str, int]
    duration: float


class Tests:
    """Stored test results (`store.tests`)."""

    __test__ = False

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, job_id: str, after: str = "", limit: int = 1000) -> builtins.list[TestResult]:
        """Return a job's tests after the id `after`, ordered by id."""
        query = (
            TestRow.select()
            .where(TestRow.job_id == job_id, TestRow.node_id > after)
            .order_by(TestRow.node_id)
            .limit(limit)
        )
        return [_result(row) for row in self._database.rows(query, StoredTest)]

    def runs(self, user_id: str, *, root: str | None = None, limit: int = 50) -> builtins.list[Run]:
        """Return the user's newest recorded jobs (of the project in `root`), oldest first."""
        jobs = self._jobs(user_id, root, max(1, min(limit, MAX_RUNS)))
        counted: dict[str, dict[str, int]] = {job["id"]: {} for job in jobs}
        seconds: dict[str, int] = dict.fromkeys(counted, 0)
        query = (
            TestRow.select(
                TestRow.job_id,
                TestRow.outcome,
                fn.COUNT(TestRow.node_id).alias("n"),
                fn.SUM(TestRow.duration).alias("s"),
            )
            .where(TestRow.job_id.in_(list(counted)))
            .group_by(TestRow.job_id, TestRow.outcome)
        )
        for row in self._database.rows(query, JobOutcome):
            counted[row["job_id"]][OUTCOMES[row["outcome"]]] = row["n"]
            seconds[row["job_id"]] += row["s"]
        return [
            Run(
                job["id"], job["workspace"], job["submitted_at"], counted[job["id"]], seconds[job["id"]] / 1e6
            )
            for job in jobs
        ]

    def report(self, runs: Sequence[Run], kind: Kind = "all", limit: int = 50) -> builtins.list[TestHistory]:
        """Return at most `limit` tests of these runs, selected and ordered by `kind`.

        `all`: least reliable first. `slowest`: slowest first. `flaky`: only flaky tests. `failing-since`: only tests
        that fail since a known run, newest failure first.
        """
        chosen = self._candidates([run.job_id for run in runs], kind, limit)
        found = [history(results) for results in self._histories(runs, chosen)]
        if kind == "slowest":
            found.sort(key=lambda item: (-item.duration, item.node_id))
        elif kind == "flaky":
            found = [item for item in found if item.is_flaky]
            found.sort(key=lambda item: (-item.flaky_workspaces, -item.reruns, item.node_id))
        elif kind == "failing-since":
            since = [(item.failing_since[1], item) for item in found if item.failing_since is not None]
            since.sort(key=lambda pair: pair[1].node_id)
            since.sort(key=lambda pair: pair[0], reverse=True)
            found = [item for _, item in since]
        else:
            found.sort(key=lambda item: (2.0 if item.pass_rate is None else item.pass_rate, item.node_id))
        return found[:limit]

    def prune(self, older_than: dt.datetime) -> int:
        """Delete the tests of jobs that were over before `older_than`; return the number of deleted rows."""
        ended = JobRow.select(JobRow.id).where(JobRow.end_time < older_than)
        pruned = 0
        while True:
            some = TestRow.select(TestRow.job_id).where(TestRow.job_id.in_(ended)).distinct().limit(50)
            ids = [row["job_id"] for row in self._database.rows(some, JobId)]
            if not ids:
                return pruned
            with self._database.write(durable=False):
                pruned += self._database.run(TestRow.delete().where(TestRow.job_id.in_(ids)))

    def _jobs(self, user_id: str, root: str | None, limit: int) -> builtins.list[JobWithTests]:
        """Return the newest jobs that have tests, oldest first."""
        query = (
            JobRow.select(JobRow.id, JobRow.workspace, JobRow.submitted_at, JobRow.options)
            .where(
                JobRow.user_id == user_id,
                fn.EXISTS(TestRow.select(TestRow.job_id).where(TestRow.job_id == JobRow.id)),
            )
            .order_by(JobRow.submitted_at.desc(), JobRow.id.desc())
            .limit(limit if root is None else 10 * MAX_RUNS)
        )
        rows = [
            row
            for row in self._database.rows(query, JobWithTests)
            if root is None or row["options"].submitted.root == root
        ]
        return rows[:limit][::-1]

    def _candidates(self, job_ids: builtins.list[str], kind: Kind, limit: int) -> builtins.list[str]:
        """Return ids of tests that may belong in the report; selected by the database."""
        good = fn.SUM(Case(None, [(TestRow.outcome.in_(_GOOD), 1)], 0))
        bad = fn.SUM(Case(None, [(TestRow.outcome.in_(_BAD), 1)], 0))
        query = TestRow.select(TestRow.node_id).where(TestRow.job_id.in_(job_ids)).group_by(TestRow.node_id)
        if kind == "slowest":
            query = query.order_by(fn.AVG(TestRow.duration).desc(), TestRow.node_id).limit(limit)
        elif kind == "all":
            rate = fn.COALESCE(good * 1.0 / fn.NULLIF(good + bad, 0), 2.0)
            query = query.order_by(rate, TestRow.node_id).limit(limit)
        else:
            mixed = (good > 0) & (bad > 0)
            wanted = mixed | (fn.SUM(TestRow.reruns) > 0) if kind == "flaky" else mixed
            query = query.having(wanted).order_by(bad.desc(), TestRow.node_id).limit(_CANDIDATES)
        return [row["node_id"] for row in self._database.rows(query, NodeId)]

    def _histories(self, runs: Sequence[Run], node_ids: Sequence[str]) -> Iterator[builtins.list[TestResult]]:
        """Yield the results of each of these tests, oldest run first."""
        by_job = {run.job_id: (number, run) for number, run in enumerate(runs)}
        for start in range(0, len(node_ids), _IDS):
            found: dict[str, builtins.list[tuple[int, TestResult]]] = {}
            piece = node_ids[start : start + _IDS]
            query = TestRow.select().where(TestRow.job_id.in_(list(by_job)), TestRow.node_id.in_(piece))
            for row in self._database.rows(query, StoredTest):
                number, run = by_job[row["job_id"]]
                found.setdefault(row["node_id"], []).append((number, _result(row, run.workspace)))
            for results in found.values():
                yield [result for _, result in sorted(results, key=lambda pair: pair[0])]


def add_inside(database: Database, job_id: str, events: Sequence[JobEvent]) -> None:
    """Count the test results in `events`, inside the transaction that appends them."""
    found = parts(events, utcnow())
    if found:
        database.execute_many(
            _ADD,
            [
                (
                    job_id,
                    _clean(node_id),
                    part.rank,
                    round(part.duration * 1e6),
                    part.reruns,
                    to_micros(part.at),
                )
                for node_id, part in found.items()
            ],
        )


def counts_inside(database: Database, job_id: str) -> dict[str, int]:
    """Return the number of a job's tests by outcome; empty for a job that is not recorded."""
    query = TestRow.select(TestRow.outcome, fn.COUNT(TestRow.node_id).alias("n"))
    query = query.where(TestRow.job_id == job_id).group_by(TestRow.outcome)
    return {OUTCOMES[row["outcome"]]: row["n"] for row in database.rows(query, OutcomeCount)}


def _clean(text: str) -> str:
    """Return the text without characters that databases refuse."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _result(row: StoredTest, workspace: str | None = None) -> TestResult:
    return TestResult(
        row["node_id"],
        OUTCOMES[row["outcome"]],
        row["duration"] / 1e6,
        row["reruns"],
        row["at"],
        row["job_id"],
        workspace,
    )
