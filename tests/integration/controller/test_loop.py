"""The whole controller over a real store and a scripted engine: a job's life, and what may go wrong in it."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from support.controller import OTHER, USER, Runner, SimplePreparer, check_invariants, runner
from support.waiting import wait_until

from ci_runner.controller.engine import ContainerSpec
from ci_runner.controller.engines.memory import MemoryEngine, Output, Script
from ci_runner.controller.loop import ControllerRunning
from ci_runner.controller.snapshot import Policy
from ci_runner.errors import EngineUnavailable, EnvironmentFailed, ImageUnavailable, LeaseLost, PermanentError
from ci_runner.model.job import Job, utcnow

LASTING = Script(exit_after=None)


@pytest.fixture
def engine() -> Iterator[MemoryEngine]:
    engine = MemoryEngine()
    yield engine
    engine.close()


@pytest.fixture
def small(tmp_path: Path, engine: MemoryEngine) -> Iterator[Runner]:
    """Two jobs at once, short times."""
    policy = Policy(concurrency=2, builds=1, test_timeout=60, grace=0.3)
    with runner(tmp_path, engine, policy) as found:
        yield found


def memory(found: Runner) -> MemoryEngine:
    assert isinstance(found.engine, MemoryEngine)
    return found.engine


@pytest.mark.case(77)
def test_a_job_runs_to_its_end_and_leaves_only_its_events(small: Runner) -> None:
    memory(small)._script = lambda spec: Script(
        output=(Output(b"1 passed\n"), Output(b"oh\n", stream="stderr"))
    )
    with small.controller():
        job_id = small.submit()
        [job] = small.until_over(job_id)
    assert (job.status, job.success, job.exit_code, job.reason) == ("completed", True, 0, None)
    assert small.text(job_id) == "1 passed\n"
    assert small.text(job_id, "stderr") == "oh\n"
    phases = [event.fields["phase"] for event in small.events(job_id) if event.type == "state"]
    assert phases[-3:] in (["preparing", "starting", "testing"], ["starting", "testing", "finishing"])
    assert [job.id for job in small.finished] == [job_id]
    check_invariants(small, [job_id])


@pytest.mark.defect("A7")
def test_a_failing_run_gives_its_exit_code(small: Runner) -> None:
    memory(small)._script = lambda spec: Script(exit_code=1)
    with small.controller():
        [job] = small.until_over(small.submit())
    assert (job.status, job.success, job.exit_code) == ("completed", False, 1)


@pytest.mark.case(74)
def test_nothing_to_do_is_harmless(small: Runner) -> None:
    with small.controller() as controller:
        assert controller.ready.wait(10)
    assert memory(small).creates == {}


@pytest.mark.defect("A4")
@pytest.mark.case(76)
def test_a_job_is_started_exactly_once(small: Runner) -> None:
    with small.controller():
        ids = [small.submit() for _ in range(10)]
        small.until_over(*ids)
    assert set(memory(small).creates.values()) == {1}
    assert len(memory(small).creates) == 10
    check_invariants(small, ids)


@pytest.mark.case(78)
def test_a_container_that_vanishes_while_testing_is_lost(small: Runner) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = LASTING
    with small.controller():
        small.until(job_id, lambda job: job.phase == "testing")
        memory(small).lose(job_id)
        [job] = small.until_over(job_id)
    assert (job.status, job.success, job.exit_code, job.reason) == ("failed", None, None, "container lost")


@pytest.mark.parametrize(
    ("script", "status", "code", "reason"),
    [
        (Script(exit_code=143, final_frame=False), "failed", None, "container lost"),
        (Script(exit_code=137, final_frame=False), "failed", None, "container lost"),
        (
            Script(exit_code=137, final_frame=False, oom_killed=True),
            "failed",
            None,
            "out of memory (limit 2 GiB; setting: memory)",
        ),
        (Script(exit_code=137), "completed", 1, "a test took pytest down: it was ended by SIG9"),
        (Script(exit_code=0, oom_killed=True), "completed", 0, None),
        (Script(exit_code=5), "completed", 5, None),
    ],
    ids=[
        "the engine shut down",
        "killed by nobody we know",
        "out of memory",
        "pytest was killed and the worker lives",
        "only a child was killed for memory",
        "no tests",
    ],
)
def test_what_happened_becomes_a_verdict(
    small: Runner, script: Script, status: str, code: int | None, reason: str | None
) -> None:
    memory(small)._script = lambda spec: script
    with small.controller():
        [job] = small.until_over(small.submit())
    assert (job.status, job.exit_code, job.reason) == (status, code, reason)


@pytest.mark.case(80)
def test_containers_of_unknown_jobs_are_removed_by_label(small: Runner) -> None:
    memory(small).create(ContainerSpec("whatever-name", "image", ("true",), "test", "no such job", 1))
    memory(small).create(ContainerSpec("a-build", "image", ("true",), "build", "no such job", 1))
    with small.controller():
        wait_until(lambda: not memory(small).list(), what="orphans removed")


def test_a_worker_that_never_starts_is_tried_three_times(small: Runner) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = Script(exit_code=3, writes_spool=False)
    with small.controller():
        [job] = small.until_over(job_id)
    assert job.status == "failed"
    assert job.reason == "container lost: it ended with code 3 before the tests began (3 attempts)"
    assert small.text(job_id, "runner").count("trying again") == 2
    assert len(memory(small).creates) == 3
    check_invariants(small, [job_id])


def test_a_container_lost_before_its_start_is_replaced(small: Runner) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = Script(exit_after=None, writes_spool=False)
    with small.controller():
        wait_until(lambda: any(item.state == "running" for item in memory(small).list()), what="running")
        small.until(job_id, lambda job: job.container_id is not None)
        memory(small).scripts[job_id] = Script()
        memory(small).lose(job_id)
        [job] = small.until_over(job_id)
    assert (job.status, job.attempt, job.exit_code) == ("completed", 2, 0)


def test_a_container_that_vanishes_before_its_start_is_replaced(
    small: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = memory(small)
    start = engine.start

    def lose_first(container_id: str) -> None:
        monkeypatch.setattr(engine, "start", start)
        engine.remove(container_id)
        start(container_id)

    monkeypatch.setattr(engine, "start", lose_first)
    with small.controller():
        [job] = small.until_over(small.submit())
    assert (job.status, job.attempt, job.exit_code) == ("completed", 2, 0)


def test_a_running_job_is_adopted_after_a_restart(small: Runner) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = LASTING
    with small.controller():
        small.until(job_id, lambda job: job.phase == "testing")
        memory(small).write(job_id, b"before\n")
    memory(small).write(job_id, b"between\n")
    with small.controller():
        memory(small).write(job_id, b"after\n")
        wait_until(lambda: small.text(job_id) == "before\nbetween\nafter\n", what="all output")
        memory(small).end(job_id)
        [job] = small.until_over(job_id)
    assert job.exit_code == 0
    assert list(memory(small).creates.values()) == [1]
    check_invariants(small, [job_id])


def test_a_job_that_ended_while_no_controller_ran_gets_its_verdict(small: Runner) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = LASTING
    with small.controller():
        small.until(job_id, lambda job: job.phase == "testing")
    memory(small).write(job_id, b"late\n")
    memory(small).end(job_id, 1)
    with small.controller():
        [job] = small.until_over(job_id)
    assert (job.exit_code, small.text(job_id)) == (1, "late\n")


def test_a_waiting_job_is_cancelled_at_once(small: Runner) -> None:
    job_id = small.submit()
    small.store.jobs.request_cancel(job_id, "somebody")
    with small.controller():
        [job] = small.until_over(job_id)
    assert (job.status, job.reason) == ("cancelled", "cancelled by somebody")
    assert memory(small).creates == {}


def test_cancelling_records_the_intent_before_the_first_signal(
    small: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = LASTING
    intents: list[str | None] = []
    signal = memory(small).signal

    def spy(container_id: str, name: Literal["TERM", "KILL"]) -> None:
        intents.append(small.job(job_id).stop_intent)
        signal(container_id, name)

    monkeypatch.setattr(memory(small), "signal", spy)
    with small.controller():
        small.until(job_id, lambda job: job.phase == "testing")
        small.store.jobs.request_cancel(job_id, "its user")
        [job] = small.until_over(job_id)
    assert (job.status, job.success, job.reason) == ("cancelled", None, "cancelled by its user")
    assert intents == ["cancel"]


def test_a_job_that_ignores_term_is_killed_after_the_grace(small: Runner) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = Script(exit_after=None, on_term=None)
    with small.controller():
        small.until(job_id, lambda job: job.phase == "testing")
        small.store.jobs.request_cancel(job_id, "its user")
        [job] = small.until_over(job_id)
    assert job.status == "cancelled"
    assert [argument[:4] for name, argument in memory(small).calls if name == "signal"] == ["TERM", "KILL"]


def test_testing_too_long_is_a_timeout(small: Runner) -> None:
    job_id = small.submit(timeout=0.5)
    memory(small).scripts[job_id] = LASTING
    with small.controller():
        [job] = small.until_over(job_id)
    assert (job.status, job.success, job.reason) == ("failed", False, "timed out after 0.5 s of testing")


def test_preparing_too_long_is_a_timeout(tmp_path: Path, engine: MemoryEngine) -> None:
    with runner(tmp_path, engine, Policy(prepare_timeout=0.3)) as found, found.controller():
        [job] = found.until_over(found.submit(extra={"build": 60}))
    assert (job.status, job.success, job.reason) == ("failed", False, "timed out after 0.3 s of preparing")


def test_a_preparation_ends_when_its_job_is_cancelled(small: Runner) -> None:
    with small.controller():
        job_id = small.submit(extra={"build": 60})
        small.until(job_id, lambda job: job.building)
        small.store.jobs.request_cancel(job_id, "its user")
        [job] = small.until_over(job_id)
    assert job.status == "cancelled"
    assert small.text(job_id, "runner") == "building\n"


def test_writing_too_much_is_stopped(tmp_path: Path, engine: MemoryEngine) -> None:
    with runner(tmp_path, engine, Policy(disk=1 << 20)) as found, found.controller():
        job_id = found.submit()
        engine.scripts[job_id] = LASTING
        found.until(job_id, lambda job: job.phase == "testing")
        (tmp_path / "work" / f"{job_id}-1" / "upper" / "big").write_bytes(b"x" * (2 << 20))
        [job] = found.until_over(job_id)
    assert (job.status, job.reason) == ("failed", "disk limit of 1 MiB exceeded")


@pytest.mark.parametrize("phase", ["preparing", "testing"])
def test_what_services_write_counts_as_their_job_s(tmp_path: Path, engine: MemoryEngine, phase: str) -> None:
    engine._script = lambda spec: LASTING
    with runner(tmp_path, engine, Policy(disk=1 << 20, concurrency=2)) as found, found.controller():
        service = {"name": "db", "image": "postgres"}
        extra = {"build": 60} if phase == "preparing" else {}
        job_id, other = found.submit(services=[service], extra=extra), found.submit()
        found.until(job_id, lambda job: job.phase == phase)
        found.until(other, lambda job: job.phase == "testing")
        engine.fail_next("written_by_services", EngineUnavailable("busy"))
        engine.written = {job_id: 2 << 20}
        [job] = found.until_over(job_id)
        assert found.job(other).phase == "testing", "others go on"
        found.store.jobs.request_cancel(other, "its user")
        found.until_over(other)
    assert (job.status, job.reason) == ("failed", "disk limit of 1 MiB exceeded")


@pytest.mark.defect("A10")
def test_so_many_run_at_once_and_building_ones_do_not_count(small: Runner) -> None:
    memory(small)._script = lambda spec: LASTING
    with small.controller():
        building = small.submit(extra={"build": 2})
        small.until(building, lambda job: job.building)
        others = [small.submit() for _ in range(3)]
        for job_id in others[:2]:
            small.until(job_id, lambda job: job.phase == "testing")
        assert small.job(others[2]).phase == "queued"
        small.until(building, lambda job: job.phase == "starting", what="built, and waiting for a slot")
        assert len(memory(small).list()) == 2
        memory(small).end(others[0])
        small.until(building, lambda job: job.phase == "testing")
        assert small.job(others[2]).phase == "queued"
        for job_id in (others[1], building):
            memory(small).end(job_id)
        small.until(others[2], lambda job: job.phase == "testing")
        memory(small).end(others[2])
        small.until_over(building, *others)
    check_invariants(small, [building, *others])


def test_users_take_turns(tmp_path: Path, engine: MemoryEngine) -> None:
    with runner(tmp_path, engine, Policy(concurrency=1)) as found:
        mine = [found.submit() for _ in range(5)]
        theirs = found.submit(OTHER)
        with found.controller():
            found.until_over(*mine, theirs)
        assert found.preparer.prepared.index(theirs) <= 1


def test_waiting_jobs_write_no_events(tmp_path: Path, engine: MemoryEngine) -> None:
    engine._script = lambda spec: LASTING
    with runner(tmp_path, engine, Policy(concurrency=1)) as found, found.controller():
        first = found.submit()
        found.until(first, lambda job: job.phase == "testing")
        second, third = found.submit(), found.submit()
        engine.end(first)
        found.until(second, lambda job: job.phase == "testing")
        assert found.events(third) == []
        engine.end(second)
        found.until(third, lambda job: job.phase == "testing")
        engine.end(third)
        found.until_over(first, second, third)


@pytest.mark.parametrize(
    "error",
    [EnvironmentFailed("no such package: nothing-like-this"), ImageUnavailable("image 'x' does not exist")],
    ids=["unbuildable", "image missing"],
)
def test_what_cannot_be_prepared_fails_with_its_reason(small: Runner, error: PermanentError) -> None:
    def refuse(job: object) -> None:
        raise error

    small.preparer.hook = refuse
    with small.controller():
        [job] = small.until_over(small.submit())
    assert (job.status, job.success, job.reason) == ("failed", None, str(error))


def test_a_command_that_cannot_start_fails_with_the_engines_words(small: Runner) -> None:
    memory(small)._script = lambda spec: Script(start_error="python: not found")
    with small.controller():
        job_id = small.submit()
        [job] = small.until_over(job_id)
    assert job.reason == "the container could not be started: python: not found"
    check_invariants(small, [job_id])


def test_a_defect_in_one_jobs_preparation_ends_that_job_only(small: Runner) -> None:
    def break_down(job: object) -> None:
        if getattr(job, "name", None) == "broken":
            raise ZeroDivisionError

    small.preparer.hook = break_down
    with small.controller():
        broken, fine = small.submit(name="broken"), small.submit()
        [good] = small.until_over(fine)
        [bad] = small.until_over(broken, timeout=60)
    assert good.success
    assert bad.reason == "internal error of the runner (prepare: ZeroDivisionError)"


@pytest.mark.parametrize("method", ["create", "start", "list", "remove", "inspect"])
def test_an_engine_call_that_fails_for_a_moment_is_repeated(small: Runner, method: str) -> None:
    for _ in range(2):
        memory(small).fail_next(method, EngineUnavailable("no answer"))
    with small.controller():
        job_id = small.submit()
        [job] = small.until_over(job_id)
    assert job.success
    assert list(memory(small).creates.values()) == [1]
    if method in ("create", "start"):
        assert small.text(job_id, "runner") == "no answer; trying again\n"
    check_invariants(small, [job_id])


def test_jobs_wait_while_the_engine_is_away(small: Runner, caplog: pytest.LogCaptureFixture) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = LASTING
    with small.controller():
        small.until(job_id, lambda job: job.phase == "testing")
        memory(small).available = False
        # A job that is claimed before would have a container that must be looked for first.
        wait_until(lambda: "the engine does not answer" in caplog.text, 60)
        second = small.submit()
        small.store.jobs.request_cancel(second, "its user")
        small.until(second, lambda job: job.status == "cancelled", what="cancelled without an engine")
        assert small.job(job_id).phase == "testing"
        memory(small).available = True
        memory(small).end(job_id)
        small.until_over(job_id, second)
    assert small.job(job_id).success


def test_a_log_beyond_its_budget_is_cut_and_says_so(tmp_path: Path, engine: MemoryEngine) -> None:
    engine._script = lambda spec: Script(output=tuple(Output(b"x" * 79 + b"\n") for _ in range(50)))
    with runner(tmp_path, engine, log_budget=1000) as found:
        job_id = found.submit()
        with found.controller():
            [job] = found.until_over(job_id)
        assert job.success
        assert found.text(job_id) == (("x" * 79 + "\n") * 13)[:1000]
        [notice] = [event for event in found.events(job_id) if event.fields.get("truncated")]
        assert "log truncated" in (notice.data or "")


@pytest.mark.defect("A13")
def test_hostile_output_survives(small: Runner) -> None:
    data = b"\xff\xfe\0" + b"y" * (10 << 20) + "\N{SNOWMAN}\n".encode()
    memory(small)._script = lambda spec: Script(output=(Output(data),))
    with small.controller():
        job_id = small.submit()
        small.until_over(job_id, timeout=60)
    assert small.text(job_id) == data.decode("utf-8", "replace")
    assert max(len(event.data or "") for event in small.events(job_id)) <= 65536


@pytest.mark.case(73)
def test_a_controller_starts_and_stops_and_the_next_one_goes_on(small: Runner) -> None:
    """Jobs do not notice: their containers run on while no controller does."""
    before = set(threading.enumerate())
    with small.controller() as controller:
        assert controller.ready.wait(10)
        job_id = small.submit()
        memory(small).scripts[job_id] = LASTING
        small.until(job_id, lambda job: job.phase == "testing")
    assert set(threading.enumerate()) <= before, "no thread is left"
    assert [seen.state for seen in memory(small).list()] == ["running"]
    assert small.job(job_id).phase == "testing"
    with small.controller() as controller:
        assert controller.ready.wait(10)
        memory(small).end(job_id)
        [job] = small.until_over(job_id)
    assert (job.status, job.success, job.attempt) == ("completed", True, 1)
    check_invariants(small, [job_id])


@pytest.mark.case(73)
def test_a_second_controller_is_refused_at_once(small: Runner) -> None:
    with small.controller() as controller:
        assert controller.ready.wait(10)
        with pytest.raises(ControllerRunning, match="already"):
            controller.run(threading.Event())


def _lose_the_lease(small: Runner, job_id: str) -> None:
    with small.controller():
        small.until(job_id, lambda job: job.phase == "testing")
        small.store.lease.acquire("another")
        memory(small).write(job_id, b"said to the next one\n")
        wait_until(lambda: not any(t.name == "followers" for t in threading.enumerate()), what="the end")


def test_a_controller_that_lost_its_lease_ends(small: Runner) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = LASTING
    with pytest.raises(LeaseLost):
        _lose_the_lease(small, job_id)
    assert small.text(job_id) == ""
    with small.controller():
        memory(small).end(job_id)
        small.until_over(job_id)
    assert small.text(job_id) == "said to the next one\n"


def test_working_folders_of_unknown_jobs_go(small: Runner) -> None:
    stray = small.data_dir / "work" / "33333333-3333-4333-8333-333333333333-1"
    (stray / "upper").mkdir(parents=True)
    with small.controller():
        wait_until(lambda: not stray.exists(), what="stray folder removed")


@pytest.mark.case(83)
def test_what_a_finished_job_left_in_its_working_folder_goes(small: Runner) -> None:
    with small.controller():
        job_id = small.submit(wait=True)
    left = small.data_dir / "work" / f"{job_id}-1" / "upper"
    left.mkdir(parents=True)
    with small.controller():
        wait_until(lambda: not left.parent.exists(), what="folder removed")
    assert small.job(job_id).success


@pytest.mark.case(84)
def test_the_working_folder_of_a_running_job_is_left_alone(small: Runner) -> None:
    job_id = small.submit()
    memory(small).scripts[job_id] = LASTING
    stray = small.data_dir / "work" / "33333333-3333-4333-8333-333333333333-1"
    with small.controller():
        small.until(job_id, lambda job: job.phase == "testing")
        stray.mkdir()
    with small.controller():  # a new one reaps at once
        wait_until(lambda: not stray.exists(), what="a round of reaping")
        assert (small.data_dir / "work" / f"{job_id}-1" / "spool" / "job.json").exists()
        memory(small).end(job_id)
        [job] = small.until_over(job_id)
    assert job.success


def test_what_a_deleted_user_left_goes(small: Runner) -> None:
    job_id = small.submit(OTHER)
    memory(small).scripts[job_id] = LASTING
    environments = small.data_dir / "environments" / OTHER
    environments.mkdir(parents=True)
    with small.controller():
        small.until(job_id, lambda job: job.phase == "testing")
        small.store.users.delete(OTHER)
        small.until_over(job_id)
    with small.controller():  # a new one reaps at once
        wait_until(lambda: not small.store.users.deleted(), what="user purged")
    assert small.store.jobs.get(job_id) is None
    assert not environments.exists()


def test_times_are_set(small: Runner) -> None:
    before = utcnow()
    with small.controller():
        [job] = small.until_over(small.submit())
    assert job.start_time is not None
    assert job.end_time is not None
    assert before <= job.start_time <= job.end_time <= utcnow()


class _Compiling(SimplePreparer):
    """Its byte code takes as long as the test likes."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.may_end = threading.Event()
        self.began: list[str | None] = []

    def compile_bytecode(self, job: Job, stopping: Callable[[], bool]) -> None:
        self.began.append(job.user_id)
        wait_until(lambda: self.may_end.is_set() or stopping(), 60)


def test_byte_code_that_takes_long_delays_no_job(small: Runner) -> None:
    """One at a time, and of each user one: a user who has many environments compiled keeps nobody waiting."""
    small.preparer = preparer = _Compiling(small.data_dir)
    with small.controller():
        small.until_over(*(small.submit() for _ in range(10)))  # more than there are threads for actions
        small.until_over(*(small.submit(OTHER) for _ in range(2)))
        assert preparer.began == [USER]
        preparer.may_end.set()
        wait_until(lambda: preparer.began == [USER, OTHER], what="the other user's turn")
        small.until_over(small.submit())
        wait_until(lambda: preparer.began == [USER, OTHER, USER], what="the next turn")


def test_a_locked_database_is_one_line_and_nothing_is_lost(
    small: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ci_runner")
    memory(small)._script = lambda spec: LASTING
    with small.controller():
        job_id = small.submit()
        small.until(job_id, lambda job: job.phase == "testing")
        with contextlib.closing(sqlite3.connect(small.data_dir / "runner.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            memory(small).end(job_id)  # to be written down, as is the heartbeat
            wait_until(lambda: len(locked(caplog)) >= 3, 30, what="several threads to meet it")
            other.execute("ROLLBACK")
        [job] = small.until_over(job_id)
    assert job.status == "completed"
    assert sum(record.levelno >= logging.WARNING for record in locked(caplog)) == 1
    assert not any(record.exc_info for record in caplog.records)


def locked(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "is locked by another" in record.getMessage()]
