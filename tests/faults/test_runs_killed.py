"""`kill -9` of the controller anywhere in a run's life: no job starts twice or before its needs, and the run ends."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from faults.test_controller_killed import start
from support.controller import POLICY, Runner, check_invariants, process_engine, runner
from support.pipelines import plan_of, planned
from support.waiting import wait_until

from ci_runner.pipelines.plan import Plan, Retries

#: Where the controller dies, and at which hit: in the run's own steps, and where a job's rows meet them.
POINTS = [
    ("controller.run.before", 2),
    ("controller.run.after", 3),
    ("store.runs.advance.before", 1),
    ("store.runs.advance.after", 2),
    ("controller.claim.after", 2),
    ("store.jobs.finish.after", 3),
]


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Runner]:
    engine = process_engine(tmp_path)
    with runner(tmp_path, engine, POLICY) as made:
        yield made
    for item in engine.list():
        engine.remove(item.id)
    engine.close()


def diamond(ran: Path) -> Plan:
    """Each job notes that it ran; `left` succeeds at its second try, and nothing may come before what it needs."""

    def note(name: str, *needs: str) -> tuple[str, ...]:
        return (*(f"test -s {ran / need}" for need in needs), f"echo ran >> {ran / name}")

    again = f"test $(wc -l < {ran / 'left'}) -ge 2 || exit 9"
    return plan_of(
        planned("root", *note("root"), stage="one"),
        planned("left", *note("left", "root"), again, stage="two", needs=("root",), retries=Retries(1, (9,))),
        planned("right", *note("right", "root"), "exit 3", stage="two", needs=("root",), allow_failure=True),
        planned("join", *note("join", "left", "right"), stage="three", needs=("left", "right")),
        planned("never", *note("never"), stage="three", needs=("join", "bad")),
        planned("bad", *note("bad", "join"), "exit 1", stage="three", needs=("join",)),
    )


def finish(found: Runner, run_id: str, ran: Path) -> None:
    """Let another controller bring the run to its end; what must be true then, wherever the first one died."""
    with found.controller():
        run = found.until_run_over(run_id)
    assert (run.status, run.success, run.reason) == ("completed", False, "job 'bad' failed: exit code 1")
    times = {file.name: len(file.read_text().splitlines()) for file in ran.iterdir()}
    assert times == {"root": 1, "left": 2, "right": 1, "join": 1, "bad": 1}, "each try ran exactly once"
    facts = found.store.runs.facts(run_id)
    assert facts["never"].dropped == "needs 'bad', which failed"
    jobs = {(job.planned, job.retry): job for job in found.store.runs.executions(run_id)}
    assert sorted(jobs) == [("bad", 0), ("join", 0), ("left", 0), ("left", 1), ("right", 0), ("root", 0)]
    for job in jobs.values():
        planned_job = next(item for item in run.plan.jobs if item.name == job.planned)
        for need in planned_job.needs:
            last = jobs[need, facts[need].retry]
            assert last.end_time is not None
            assert job.submitted_at is not None
            assert last.end_time <= job.submitted_at, f"{job.planned} was made before {need} was over"
    check_invariants(found, [job.id for job in jobs.values()])
    items = found.store.feed.after(run_id, 0, limit=10_000)
    assert [item.seq for item in items] == list(range(1, len(items) + 1))
    assert [item.event.type for item in items].count("run_complete") == 1
    assert items[-1].event.type == "run_complete"


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("point", "hit"), POINTS)
def test_a_controller_killed_there(found: Runner, tmp_path: Path, point: str, hit: int) -> None:
    ran = tmp_path / "ran"
    ran.mkdir()
    run = found.submit_run(diamond(ran))
    process = start(tmp_path, CI_RUNNER_FAILPOINTS=f"{point}=kill@{hit}")

    try:
        wait_until(lambda: process.poll() is not None, 60, what="its death")
        assert process.poll() == -signal.SIGKILL
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    finish(found, run.id, ran)


def test_the_time_of_a_stage_goes_on_while_no_controller_runs(found: Runner, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    ran.mkdir()
    plan = replace(
        plan_of(
            planned("long", f"echo ran >> {ran / 'long'}", "sleep 300", stage="one"),
            planned("behind", f"echo ran >> {ran / 'behind'}", stage="one", needs=("long",)),
            planned("later", f"echo ran >> {ran / 'later'}", stage="two", needs=("long", "behind")),
        ),
        stage_timeouts={"one": 3600.0},
    )
    run = found.submit_run(plan)
    process = start(tmp_path)
    try:
        wait_until(lambda: (ran / "long").exists(), 60, what="the first job's command")
    finally:
        process.kill()
        process.wait()
    job_id = found.store.runs.facts(run.id)["long"].job_id
    with closing(sqlite3.connect(tmp_path / "runner.db")) as database, database:
        moved = database.execute(
            "UPDATE jobs SET start_time = start_time - 3600000000 WHERE id = ?", (job_id,)
        ).rowcount
    assert moved == 1, "an hour passes without a controller"
    with found.controller():
        over = found.until_run_over(run.id)
    assert (over.status, over.success, over.reason) == ("failed", False, "stage 'one' timed out after 60 min")
    facts = found.store.runs.facts(run.id)
    assert (facts["long"].status, facts["long"].reason) == (
        "cancelled",
        "cancelled by the timeout of stage 'one' (60 min)",
    )
    assert facts["behind"].dropped == "stage 'one' timed out after 60 min"
    assert facts["later"].dropped == "needs 'behind', which was cancelled"
    assert [file.name for file in ran.iterdir()] == ["long"]


def test_a_controller_that_is_killed_again_and_again(found: Runner, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    ran.mkdir()
    run = found.submit_run(diamond(ran))
    for point in (
        "run.after",
        "launch.created",
        "launch.started",
        "finish.after",
        "run.before",
        "claim.after",
    ):
        process = start(tmp_path, CI_RUNNER_FAILPOINTS=f"controller.{point}=kill")
        wait_until(lambda: process.poll() is not None, 60)  # noqa: B023
    finish(found, run.id, ran)
