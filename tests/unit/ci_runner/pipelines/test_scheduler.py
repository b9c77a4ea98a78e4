"""What a run does next: tables of moments, and runs through whatever may happen to their jobs."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pipelines import plan_of, planned

from ci_runner.model.verdict import Verdict
from ci_runner.pipelines.plan import Plan, Retries
from ci_runner.pipelines.report_status import ExecutionStatus, Part
from ci_runner.pipelines.scheduler import Drop, Facts, Halt, Start, Step, deadlines, decide, part_of

NOTHING = Facts()
QUEUED = Facts("j")
RUNNING = Facts("j", status="running", phase="testing")
PASSED = Facts("j", status="completed", success=True, exit_code=0)
FAILED = Facts("j", status="completed", success=False, exit_code=1)
LOST = Facts("j", status="failed", reason="container lost")
LATE = Facts("j", status="failed", success=False, reason="timed out after 60 min of testing")
CANCELLED = Facts("j", status="cancelled", reason="cancelled by ann")

A, B, C = (
    planned("a", "x", stage="one"),
    planned("b", "x", stage="two", needs=("a",)),
    planned("c", "x", stage="one"),
)
ABC = plan_of(A, C, B)


def step(plan: Plan, *facts: Facts, **more: Any) -> Step:
    return decide(plan, {job.name: found for job, found in zip(plan.jobs, facts, strict=True)}, **more)


def end(plan: Plan, *facts: Facts, **more: Any) -> Verdict:
    outcome = step(plan, *facts, **more).outcome
    assert outcome is not None
    return outcome


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ((NOTHING, NOTHING, NOTHING), Step((Start("a"), Start("c")))),
        ((QUEUED, NOTHING, NOTHING), Step((Start("c"),))),
        ((RUNNING, RUNNING, NOTHING), Step()),
        ((PASSED, RUNNING, NOTHING), Step((Start("b"),))),
        ((PASSED, PASSED, PASSED), Step(outcome=Verdict("completed", True))),
        (
            (FAILED, RUNNING, NOTHING),
            Step(drops=(Drop("b", "needs 'a', which failed"),)),
        ),
        (
            (RUNNING, FAILED, NOTHING),
            Step(drops=(Drop("b", "'c' failed"),)),
        ),
        (
            (QUEUED, FAILED, NOTHING),
            Step(
                drops=(Drop("b", "'c' failed"),),
                halts=(Halt("j", "the run, because 'c' failed", waiting_only=True),),
            ),
        ),
        (
            (CANCELLED, RUNNING, NOTHING),
            Step(drops=(Drop("b", "needs 'a', which was cancelled"),)),
        ),
    ],
    ids=[
        "all whose needs are done start together",
        "what is queued is not started again",
        "what waits goes on waiting",
        "a job starts as soon as what it needs is done, whatever the rest of the stage does",
        "the last one's end is the run's",
        "what needs a failed job is dropped",
        "after a failure nothing new is started, what runs goes on",
        "after a failure what is queued is taken back",
        "what needs a cancelled job is dropped",
    ],
)
def test_the_next_step(facts: tuple[Facts, ...], expected: Step) -> None:
    assert step(ABC, *facts) == expected


@pytest.mark.parametrize(
    "found",
    [
        Step((Start("a"),)),
        Step(drops=(Drop("a", "why"),)),
        Step(halts=(Halt("j", "ann"),)),
        Step(outcome=Verdict("completed", True)),
    ],
)
def test_a_step_is_true_when_anything_is_to_be_written(found: Step) -> None:
    assert found
    assert not Step()


def test_keep_going_runs_what_does_not_depend_on_the_failure() -> None:
    plan = replace(plan_of(A, C, B, planned("d", "x", needs=("c",))), keep_going=True)
    assert step(plan, FAILED, PASSED, NOTHING, NOTHING) == Step(
        (Start("d"),), (Drop("b", "needs 'a', which failed"),)
    )
    outcome = end(plan, FAILED, PASSED, replace(NOTHING, dropped="needs 'a', which failed"), PASSED)
    assert (outcome.status, outcome.success, outcome.reason) == (
        "completed",
        False,
        "job 'a' failed: exit code 1",
    )


def test_an_allowed_failure_stays_a_failure_and_lets_the_run_go_on() -> None:
    plan = plan_of(replace(A, allow_failure=True), C, B)
    assert step(plan, FAILED, RUNNING, NOTHING) == Step((Start("b"),))
    assert step(plan, LOST, RUNNING, NOTHING) == Step((Start("b"),))
    assert end(plan, FAILED, PASSED, PASSED) == Verdict("completed", True)


def test_the_two_failures_of_a_run_are_counted_in_its_reason() -> None:
    outcome = end(ABC, FAILED, LOST, replace(NOTHING, dropped="x"))
    assert outcome.reason == "job 'a' failed: exit code 1 (and 1 more)"
    assert end(ABC, LOST, PASSED, replace(NOTHING, dropped="x")).reason == "job 'a' failed: container lost"


@pytest.mark.parametrize(
    ("found", "codes", "again"),
    [
        (LOST, (), True),
        (FAILED, (), False),
        (FAILED, (1, 5), True),
        (FAILED, (5,), False),
        (LATE, (1,), False),
        (CANCELLED, (1,), False),
        (replace(LOST, retry=1), (), True),
        (replace(LOST, retry=2), (), False),
        (replace(LOST, cancelling=True), (), False),
    ],
    ids=[
        "the runner's own fault",
        "a red test is no fault of the runner's",
        "an exit code that is named",
        "an exit code that is not",
        "a timeout",
        "a cancelled job",
        "a second time",
        "as often as asked for, and no more",
        "not when its end was asked for",
    ],
)
def test_what_is_worth_another_try(found: Facts, codes: tuple[int, ...], again: bool) -> None:
    plan = plan_of(replace(A, retries=Retries(2, codes)))
    expected = (Start("a", found.retry + 1),) if again else ()
    assert step(plan, found).starts == expected
    assert (step(plan, found).outcome is None) is again


def test_a_failure_of_another_job_takes_the_further_try() -> None:
    plan = plan_of(replace(A, retries=Retries(2)), C)
    assert end(plan, LOST, FAILED).reason == "job 'a' failed: container lost (and 1 more)"


def test_an_allowed_failure_is_not_counted_when_it_may_not_be_retried() -> None:
    plan = plan_of(replace(A, allow_failure=True, retries=Retries(2)), C)
    assert end(plan, LOST, FAILED).reason == "job 'c' failed: exit code 1"


def test_no_more_jobs_wait_in_the_queue_than_there_is_room_for() -> None:
    assert step(ABC, NOTHING, NOTHING, NOTHING, room=1).starts == (Start("a"),)
    full = step(ABC, NOTHING, NOTHING, NOTHING, room=-1)
    assert full == Step()


def test_cancelling_drops_what_waits_and_halts_what_runs() -> None:
    assert step(ABC, RUNNING, PASSED, NOTHING, stop="cancel", by="ann") == Step(
        drops=(Drop("b", "cancelled by ann"),), halts=(Halt("j", "ann"),)
    )
    dropped = replace(NOTHING, dropped="cancelled by ann")
    assert end(ABC, CANCELLED, PASSED, dropped, stop="cancel", by="ann") == Verdict(
        "cancelled", None, None, "cancelled by ann"
    )
    assert step(ABC, replace(RUNNING, cancelling=True), PASSED, dropped, stop="cancel", by="ann") == Step()


def test_a_cancel_that_came_too_late_changes_nothing() -> None:
    assert end(ABC, PASSED, PASSED, PASSED, stop="cancel", by="ann") == Verdict("completed", True)


def test_a_run_that_lasts_too_long_is_failed_and_says_so() -> None:
    reason = "the run timed out after 5 s"
    found = step(ABC, RUNNING, PASSED, NOTHING, stop="timeout", reason=reason)
    assert found == Step(drops=(Drop("b", "the run timed out"),), halts=(Halt("j", "the run's timeout"),))
    dropped = replace(NOTHING, dropped="the run timed out")
    assert end(ABC, CANCELLED, PASSED, dropped, stop="timeout", reason=reason) == Verdict(
        "failed", False, None, reason
    )


def test_a_stage_or_a_job_is_cancelled_by_itself() -> None:
    asked = replace(NOTHING, cancelled_by="ann")
    assert step(ABC, asked, RUNNING, NOTHING).drops == (
        Drop("a", "cancelled by ann"),
        Drop("b", "needs 'a', which was cancelled"),
    )
    assert step(ABC, replace(RUNNING, cancelled_by="ann"), RUNNING, NOTHING).halts == (Halt("j", "ann"),)
    outcome = end(ABC, replace(CANCELLED, cancelled_by="ann"), PASSED, replace(NOTHING, dropped="x"))
    assert (outcome.status, outcome.reason) == ("cancelled", "job 'a': cancelled by ann")


def test_a_run_that_ends_by_dropping_its_last_job_gives_that_job_s_reason() -> None:
    asked = replace(NOTHING, cancelled_by="ann")
    assert step(plan_of(A, C), asked, PASSED) == Step(
        drops=(Drop("a", "cancelled by ann"),),
        outcome=Verdict("cancelled", None, None, "job 'a': cancelled by ann"),
    )


def test_a_job_that_was_dropped_before_is_named_by_the_run() -> None:
    assert end(plan_of(A, C), replace(NOTHING, dropped="x"), PASSED).reason == "job 'a': x"


def test_jobs_are_dropped_in_whatever_order_they_need_each_other() -> None:
    plan = replace(plan_of(planned("d", "x", needs=("b",)), B, A, C), keep_going=True)
    assert step(plan, NOTHING, NOTHING, FAILED, RUNNING).drops == (
        Drop("b", "needs 'a', which failed"),
        Drop("d", "needs 'b', which was cancelled"),
    )


def test_a_job_that_was_cancelled_without_a_reason_still_gives_the_run_one() -> None:
    assert end(plan_of(A), replace(CANCELLED, reason=None)).reason == "job 'a': cancelled"


T0 = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
#: Stage `one` may take a minute.
LIMITED = replace(plan_of(A, C, replace(B, needs=("a", "c"))), stage_timeouts={"one": 60.0})
BLAME = "the timeout of stage 'one' (60 s)"


def after(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("facts", "seconds", "expected"),
    [
        ((replace(RUNNING, started=T0), NOTHING, NOTHING), 59.9, Step((Start("c"),))),
        (
            (replace(RUNNING, started=T0), NOTHING, NOTHING),
            60,
            Step(
                drops=(
                    Drop("c", "stage 'one' timed out after 60 s"),
                    Drop("b", "needs 'c', which was cancelled"),
                ),
                halts=(Halt("j", BLAME),),
            ),
        ),
        ((QUEUED, NOTHING, NOTHING), 1e6, Step((Start("c"),))),
        ((replace(PASSED, started=T0), replace(PASSED, started=T0), NOTHING), 1e6, Step((Start("b"),))),
        (
            (
                replace(RUNNING, started=T0, cancelling=True, halted_by=BLAME),
                replace(PASSED, started=T0),
                NOTHING,
            ),
            60,
            Step(drops=(Drop("b", "stage 'one' timed out after 60 s"),)),
        ),
        (
            (replace(PASSED, started=T0), NOTHING, NOTHING),
            60,
            Step(
                drops=(
                    Drop("c", "stage 'one' timed out after 60 s"),
                    Drop("b", "needs 'c', which was cancelled"),
                ),
                outcome=Verdict("failed", False, None, "stage 'one' timed out after 60 s"),
            ),
        ),
    ],
    ids=[
        "until then nothing happens",
        "what runs is stopped, what waits is dropped",
        "the time begins when the first job is taken up",
        "a stage that was over in time is none of its business",
        "what was stopped is not stopped again",
        "what waits is dropped when nothing runs",
    ],
)
def test_the_time_of_a_stage(facts: tuple[Facts, ...], seconds: float, expected: Step) -> None:
    assert step(LIMITED, *facts, now=after(seconds)) == expected


def test_a_stage_with_a_time_may_follow_one_without() -> None:
    plan = replace(LIMITED, stage_timeouts={"two": 60.0})
    late = replace(RUNNING, started=T0)
    assert step(plan, PASSED, PASSED, late, now=after(60)).halts == (
        Halt("j", "the timeout of stage 'two' (60 s)"),
    )


def test_nothing_is_retried_in_a_stage_whose_time_is_up() -> None:
    lost = replace(LOST, started=T0)
    retried = replace(LIMITED, jobs=(replace(A, retries=Retries(2)), *LIMITED.jobs[1:]))
    assert step(retried, lost, PASSED, NOTHING, now=after(59)).starts == (Start("a", 1),)
    late = step(retried, lost, PASSED, NOTHING, now=after(60))
    assert (late.starts, late.drops) == ((), (Drop("b", "needs 'a', which failed"),))
    allowed = replace(
        retried, keep_going=True, jobs=(replace(retried.jobs[0], allow_failure=True), *retried.jobs[1:])
    )
    assert step(allowed, lost, PASSED, NOTHING, now=after(60)) == Step((Start("b"),))


@pytest.mark.parametrize("seconds", [0, 25])
def test_the_time_of_a_stage_begins_with_its_first_job(seconds: float) -> None:
    """Whatever the order of its jobs; others of the stage may be taken up long after."""
    first, second = replace(RUNNING, started=after(seconds)), replace(RUNNING, started=after(50))
    for facts in ((first, second, NOTHING), (second, first, NOTHING)):
        assert deadlines(
            LIMITED, {job.name: found for job, found in zip(LIMITED.jobs, facts, strict=True)}
        ) == {"one": after(seconds + 60)}
        assert step(LIMITED, *facts, now=after(seconds + 59.9)) == Step()
        assert step(LIMITED, *facts, now=after(seconds + 60)).halts == (Halt("j", BLAME), Halt("j", BLAME))


def test_a_stage_that_was_cut_off_stays_so_whatever_the_clock_says() -> None:
    """Another controller, with another clock, reads only what is written."""
    cut = replace(CANCELLED, started=T0, halted_by=BLAME, reason=f"cancelled by {BLAME}")
    words = "stage 'one' timed out after 60 s"
    assert step(LIMITED, cut, PASSED, NOTHING, now=after(-500)).drops == (
        Drop("b", "needs 'a', which was cancelled"),
    )
    gone = replace(NOTHING, dropped="needs 'a', which was cancelled")
    assert end(LIMITED, cut, PASSED, gone, now=after(-500)) == Verdict("failed", False, None, words)
    never = replace(NOTHING, dropped=words)
    assert end(LIMITED, PASSED, never, gone, now=after(-500)) == Verdict("failed", False, None, words)


def test_what_failed_before_a_stage_s_time_was_up_is_the_run_s_verdict() -> None:
    cut = replace(CANCELLED, started=T0, halted_by=BLAME)
    outcome = end(LIMITED, cut, FAILED, replace(NOTHING, dropped="x"), now=after(90))
    assert (outcome.status, outcome.reason) == ("completed", "job 'c' failed: exit code 1")


def test_somebody_who_cancels_in_a_stage_with_a_timeout_is_not_taken_for_it() -> None:
    by_ann = replace(CANCELLED, started=T0, halted_by="ann")
    outcome = end(LIMITED, by_ann, PASSED, replace(NOTHING, dropped="x"), now=after(90))
    assert (outcome.status, outcome.reason) == ("cancelled", "job 'a': cancelled by ann")


def test_a_run_is_not_over_while_a_job_may_run_again() -> None:
    plan = plan_of(replace(A, retries=Retries(1, (1,))))
    assert step(plan, FAILED) == Step((Start("a", 1),))
    assert step(plan, FAILED, room=0) == Step()


def test_who_stops_a_run_is_named_where_it_is_known() -> None:
    assert step(plan_of(A), NOTHING, stop="cancel", by="ann").drops == (Drop("a", "cancelled by ann"),)
    assert step(plan_of(A), NOTHING, stop="cancel").drops == (Drop("a", "cancelled by its user"),)
    assert step(plan_of(A), QUEUED, stop="cancel").halts == (Halt("j", "its user"),)
    assert end(plan_of(A), CANCELLED, stop="cancel") == Verdict(
        "cancelled", None, None, "cancelled by its user"
    )
    assert end(plan_of(A), CANCELLED, stop="timeout") == Verdict("failed", False, None, "the run timed out")
    assert end(plan_of(A), CANCELLED, stop="timeout", reason="x") == Verdict("failed", False, None, "x")


def test_who_cancels_a_run_whose_stage_is_late_is_named_before_the_stage() -> None:
    late = (replace(RUNNING, started=T0), NOTHING, NOTHING)
    drops = step(LIMITED, *late, now=after(90), stop="cancel", by="ann").drops
    assert {drop.reason for drop in drops if drop.name == "c"} == {"cancelled by ann"}


def test_what_is_left_out_takes_no_part_in_the_status_of_its_stage() -> None:
    assert part_of(A, PASSED) == Part(ExecutionStatus.SUCCESS, False, False)
    left_out = replace(A, skipped="why", allow_failure=True)
    assert part_of(left_out, NOTHING) == Part(ExecutionStatus.PENDING, True, True)


def test_a_job_that_is_left_out_is_neither_started_nor_missed() -> None:
    plan = plan_of(replace(A, skipped="nothing changed"), C)
    assert step(plan, NOTHING, NOTHING).starts == (Start("c"),)
    assert end(plan, NOTHING, PASSED) == Verdict("completed", True)
    alone = plan_of(replace(A, skipped="nothing changed"))
    assert end(alone, NOTHING).reason == "every job is left out of this run"


ENDS = [PASSED, FAILED, LOST, LATE, CANCELLED]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = [f"j{number}" for number in range(draw(st.integers(1, 7)))]
    jobs = []
    for index, name in enumerate(names):
        needs = tuple(draw(st.sets(st.sampled_from(names[:index])))) if index else ()
        jobs.append(
            planned(
                name,
                "x",
                needs=needs,
                stage=f"s{index % 3}",
                allow_failure=draw(st.booleans()),
                retries=Retries(draw(st.integers(0, 2)), draw(st.sampled_from([(), (1,)]))),
            )
        )
    made = plan_of(*draw(st.permutations(jobs)))
    limits = draw(st.dictionaries(st.sampled_from(made.stages), st.integers(1, 30).map(float)))
    return replace(made, keep_going=draw(st.booleans()), stage_timeouts=limits)


@settings(max_examples=120, deadline=None)
@given(plans(), st.data())
def test_whatever_happens_every_run_ends_and_nothing_starts_early_or_twice(
    plan: Plan, data: st.DataObject
) -> None:
    """Steps are performed, lost, or decided again from the same rows; jobs end as they like."""
    jobs = {job.name: job for job in plan.jobs}
    facts = dict.fromkeys(jobs, NOTHING)
    started: Counter[tuple[str, int]] = Counter()
    stop: Any = None
    broken, lost = False, 5
    for seconds in range(200):
        room, now = data.draw(st.integers(1, 3)), after(seconds)
        chosen = decide(plan, facts, now=now, stop=stop, by="ann", room=room)
        again = decide(plan, facts, now=now, stop=stop, by="ann", room=room)
        assert chosen == again, "the same for the same rows"
        late = {stage for stage, moment in deadlines(plan, facts).items() if now >= moment}
        if lost and data.draw(st.integers(0, 5)) == 0:
            lost -= 1
            continue  # the controller died before it wrote this
        for start in chosen.starts:
            started[start.name, start.retry] += 1
            assert stop is None, "nothing starts in a run that is stopped"
            assert jobs[start.name].stage not in late, "nothing starts in a stage whose time is up"
            assert not broken or plan.keep_going, "nothing starts after a failure"
            for need in jobs[start.name].needs:
                word = facts[need].word
                allowed = jobs[need].allow_failure and word is ExecutionStatus.FAILED
                assert word is ExecutionStatus.SUCCESS or allowed
            begun = facts[start.name].started
            facts[start.name] = Facts(f"{start.name}-{start.retry}", start.retry, started=begun)
        for drop in chosen.drops:
            assert facts[drop.name] is NOTHING
            facts[drop.name] = replace(NOTHING, dropped=drop.reason)
        for halt in chosen.halts:
            name = halt.job_id.rpartition("-")[0]
            if not halt.waiting_only or facts[name].phase == "queued":
                facts[name] = replace(facts[name], cancelling=True, halted_by=halt.by)
        if chosen.outcome is not None:
            assert all(found.word.is_over for found in facts.values())
            break
        open_jobs = [name for name, found in facts.items() if found.job_id and not found.word.is_over]
        if open_jobs:
            name = data.draw(st.sampled_from(open_jobs))
            found = facts[name]
            if found.cancelling:
                ending = CANCELLED
            elif found.phase == "queued":
                ending = replace(RUNNING)
            else:
                ending = data.draw(st.sampled_from(ENDS))
            facts[name] = replace(
                ending,
                job_id=found.job_id,
                retry=found.retry,
                cancelling=found.cancelling,
                halted_by=found.halted_by,
                started=found.started or now,
            )
            final = facts[name].word is ExecutionStatus.FAILED and name not in {
                start.name for start in decide(plan, facts).starts
            }
            broken = broken or (final and not jobs[name].allow_failure)
        if stop is None and data.draw(st.integers(0, 30)) == 0:
            stop = data.draw(st.sampled_from(["cancel", "timeout"]))
    else:
        raise AssertionError("the run never ended")
    assert set(started.values()) <= {1}, "no try was started twice"
    assert chosen.outcome.status in ("completed", "failed", "cancelled")
    assert not (chosen.outcome.success and broken)
