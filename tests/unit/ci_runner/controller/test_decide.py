"""Decisions as a table: one moment in, what to do out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from support.pipelines import plan_of, planned

from ci_runner.controller import verdicts
from ci_runner.controller.actions import (
    Action,
    Claim,
    Clean,
    Finish,
    Finishing,
    Kill,
    Launch,
    Prepare,
    Record,
    RemoveContainer,
    Retry,
    Stop,
)
from ci_runner.controller.decide import Follow, decide, follows, serving, writing
from ci_runner.controller.engine import Observed
from ci_runner.controller.snapshot import OpenRun, Policy, Snapshot, SpoolResult
from ci_runner.controller.spool.reader import ExitFrame
from ci_runner.model.job import Job
from ci_runner.model.job_options import JobOptions
from ci_runner.model.verdict import CONTAINER_LOST, Verdict, cancelled, failed, ran
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.run import Run
from ci_runner.pipelines.scheduler import Facts

#: No row has such a time; whatever is decided about it fails.
NAIVE = dt.datetime(2029, 1, 1)  # noqa: DTZ001
NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.timezone.utc)
POLICY = Policy(concurrency=2, builds=1, test_timeout=3600, prepare_timeout=900, grace=10)


def ago(seconds: float) -> dt.datetime:
    return NOW - dt.timedelta(seconds=seconds)


def asking(options: dict[str, Any]) -> JobOptions:
    return JobOptions.from_dict(options)


def job(name: str = "a", phase: str = "queued", **fields: Any) -> Job:
    values: dict[str, Any] = {"user_id": "u", "submitted_at": ago(100), "phase_since": ago(1)}
    if phase != "queued":
        values |= {"status": "running", "attempt": 1, "start_time": ago(50)}
    if phase in ("testing", "finishing"):
        values |= {"container_id": f"c-{name}"}
    return Job(name, **{"phase": phase, **values, **fields})


def box(job_id: str = "a", state: str = "running", **fields: Any) -> Observed:
    values: dict[str, Any] = {"id": f"c-{job_id}", "name": f"n-{job_id}", "role": "test", "attempt": 1}
    return Observed(**{**values, "job_id": job_id, "state": state, **fields})


def world(*jobs: Job, boxes: Sequence[Observed] = (), **fields: Any) -> Snapshot:
    return Snapshot(
        **{
            "now": NOW,
            "policy": POLICY,
            "jobs": jobs,
            "observed": tuple(boxes),
            **fields,
        }
    )


CANCEL: dict[str, Any] = {"cancel_requested_at": NOW, "cancelled_by": "somebody"}
STOPPED: dict[str, Any] = {"stop_intent": "cancel", "stop_requested_at": ago(3), **CANCEL}
BUSY: dict[str, Any] = {"in_flight": {"a": frozenset({"Launch"})}}
PREPARING: dict[str, Any] = {"in_flight": {"a": frozenset({"Prepare"})}}
GONE = {("a", 1): SpoolResult(started=True)}
NEVER_RAN = {("a", 1): SpoolResult(started=False)}
RAN = {("a", 1): SpoolResult(started=True, exit=ExitFrame(0))}

CASES: dict[str, tuple[Snapshot, list[Action]]] = {
    "nothing to do": (world(), []),
    "a waiting job is taken up": (world(job()), [Claim("a")]),
    "a waiting job that is being taken up is left alone": (
        world(job(), in_flight={"a": frozenset({"Claim"})}),
        [],
    ),
    "a waiting job whose claim failed lately is left alone": (world(job(), held=frozenset({"Claim a"})), []),
    "a waiting job that is cancelled ends": (world(job(**CANCEL)), [Finish("a", cancelled("somebody"))]),
    "a waiting job of a deactivated user ends": (
        world(job(), job("b", user_id="v"), inactive=frozenset({"u"})),
        [Finish("a", cancelled("an administrator, who deactivated the user")), Claim("b")],
    ),
    "a waiting job of a deactivated user ends while the engine is silent": (
        world(job(), inactive=frozenset({"u"}), observed=None),
        [Finish("a", cancelled("an administrator, who deactivated the user"))],
    ),
    "a job of a deactivated user goes on once it was taken up": (
        world(job(phase="testing"), boxes=[box()], inactive=frozenset({"u"})),
        [],
    ),
    "a waiting job that has a container loses that container": (
        world(job(), boxes=[box()]),
        [RemoveContainer("c-a", "n-a"), Claim("a")],
    ),
    "a waiting job is cancelled while the engine is silent": (
        world(job(**CANCEL), observed=None),
        [Finish("a", cancelled("somebody"))],
    ),
    "a waiting job is not taken up while the engine is silent": (world(job(), observed=None), []),
    "a job taken up is prepared": (world(job(phase="preparing")), [Prepare("a")]),
    "a preparation that goes on is left alone": (world(job(phase="preparing"), **PREPARING), []),
    "a preparation that goes on is ended when its job is cancelled": (
        world(job(phase="preparing", **CANCEL), **PREPARING),
        [Stop("a", "cancel", None)],
    ),
    "a preparation that goes on is ended, also while the engine is silent": (
        world(job(phase="preparing", **CANCEL), observed=None, **PREPARING),
        [Stop("a", "cancel", None)],
    ),
    "a preparation that was told to end is not told again": (
        world(job(phase="preparing", **STOPPED), signalled=frozenset({"a"}), **PREPARING),
        [],
    ),
    "a preparation that takes too long is ended": (
        world(job(phase="preparing", phase_since=ago(900)), **PREPARING),
        [Stop("a", "timeout", None)],
    ),
    "a job whose preparation was ended is over": (
        world(job(phase="preparing", **STOPPED)),
        [Finish("a", cancelled("somebody"))],
    ),
    "a job whose preparation took too long is over": (
        world(job(phase="preparing", stop_intent="timeout")),
        [Finish("a", failed("timed out after 15 min of preparing", timed_out=True))],
    ),
    "a cancelled job does not wait for its failed preparation's turn": (
        world(job(phase="preparing", **CANCEL), held=frozenset({"Prepare a"})),
        [Finish("a", cancelled("somebody"))],
    ),
    "a prepared job is launched": (world(job(phase="starting")), [Launch("a", 1)]),
    "a prepared job that is cancelled ends": (
        world(job(phase="starting", **CANCEL)),
        [Finish("a", cancelled("somebody"))],
    ),
    "a launch that goes on is left alone": (
        world(job(phase="starting"), boxes=[box(state="created")], **BUSY),
        [],
    ),
    "a container that was created, but not recorded, is adopted": (
        world(job(phase="starting"), boxes=[box(state="created")]),
        [Launch("a", 1, "c-a")],
    ),
    "a container that was created and recorded is started": (
        world(job(phase="starting", container_id="c-a"), boxes=[box(state="created")]),
        [Launch("a", 1, "c-a")],
    ),
    "a created container of a cancelled job is never started": (
        world(job(phase="starting", container_id="c-a", **CANCEL), boxes=[box(state="created")]),
        [Finish("a", cancelled("somebody"))],
    ),
    "a running container that nobody recorded is recorded": (
        world(job(phase="starting"), boxes=[box()]),
        [Record("a", 1, "c-a")],
    ),
    "a running container whose command is not yet seen is left alone": (
        world(job(phase="starting", container_id="c-a"), boxes=[box()]),
        [],
    ),
    "a running container whose command never comes is stopped in the end": (
        world(job(phase="starting", container_id="c-a", phase_since=ago(3600)), boxes=[box()]),
        [Stop("a", "timeout", "c-a")],
    ),
    "a container of an earlier attempt is removed": (
        world(job(phase="starting", attempt=2), boxes=[box()]),
        [RemoveContainer("c-a", "n-a"), Launch("a", 2)],
    ),
    "a second container of the same attempt is removed": (
        world(job(phase="testing"), boxes=[box(), box(id="x", name="n-x")]),
        [RemoveContainer("x", "n-x")],
    ),
    "a running job is left alone": (world(job(phase="testing"), boxes=[box()]), []),
    "a paused container is left alone until its time is over": (
        world(job(phase="testing"), boxes=[box(state="paused")]),
        [],
    ),
    "a paused container is stopped when its time is over": (
        world(job(phase="testing", phase_since=ago(3600)), boxes=[box(state="paused")]),
        [Stop("a", "timeout", "c-a")],
    ),
    "a job asks for less time": (
        world(job(phase="testing", phase_since=ago(61), options=asking({"timeout": 60})), boxes=[box()]),
        [Stop("a", "timeout", "c-a")],
    ),
    "a job cannot ask for more time": (
        world(job(phase="testing", phase_since=ago(3601), options=asking({"timeout": 7200})), boxes=[box()]),
        [Stop("a", "timeout", "c-a")],
    ),
    "a running job that is cancelled is asked to stop": (
        world(job(phase="testing", **CANCEL), boxes=[box()]),
        [Stop("a", "cancel", "c-a")],
    ),
    "a job that was asked to stop has its grace": (
        world(job(phase="testing", **STOPPED), boxes=[box()], signalled=frozenset({"a"})),
        [],
    ),
    "a job whose signal may have been lost in a crash is asked again": (
        world(job(phase="testing", **STOPPED), boxes=[box()]),
        [Stop("a", "cancel", "c-a")],
    ),
    "a job that is being asked to stop is not asked again": (
        world(job(phase="testing", **CANCEL), boxes=[box()], in_flight={"stop a": frozenset({"Stop"})}),
        [],
    ),
    "a job that outlives its grace is killed": (
        world(job(phase="testing", **{**STOPPED, "stop_requested_at": ago(10)}), boxes=[box()]),
        [Kill("a", "c-a", "cancel")],
    ),
    "a job that writes too much is killed without grace": (
        world(job(phase="testing"), boxes=[box()], over_disk=frozenset({"a"})),
        [Kill("a", "c-a", "disk")],
    ),
    "the job that writes most is killed without grace when the disk is nearly full": (
        world(job(phase="testing"), boxes=[box()], filling_disk=frozenset({"a"})),
        [Kill("a", "c-a", "full")],
    ),
    "an ended container is read to its end first": (
        world(job(phase="testing"), boxes=[box(state="exited", exit_code=0)]),
        [Finishing("a")],
    ),
    "an ended container that is being read is left alone": (
        world(job(phase="finishing"), boxes=[box(state="exited", exit_code=0)]),
        [],
    ),
    "an ended container that was read gives the verdict": (
        world(job(phase="finishing"), boxes=[box(state="exited", exit_code=0)], endings=RAN),
        [Finish("a", ran(0))],
    ),
    "a container whose worker has said its last word gives the verdict at once": (
        world(job(phase="testing"), boxes=[box()], endings=RAN),
        [Finish("a", ran(0))],
    ),
    "a container that ends by itself after its last word is not removed before": (
        world(uncleaned=(job(status="completed", end_time=ago(0.1)),), boxes=[box()]),
        [],
    ),
    "a container that goes on after its last word is removed": (
        world(uncleaned=(job(status="completed", end_time=ago(1)),), boxes=[box()]),
        [Clean("a", ("c-a",))],
    ),
    "a vanished container is lost": (
        world(job(phase="testing"), endings=GONE),
        [Finish("a", failed(CONTAINER_LOST))],
    ),
    "a vanished container that had said its last word gives the verdict": (
        world(job(phase="testing"), endings=RAN),
        [Finish("a", ran(0))],
    ),
    "a dead container is lost": (
        world(job(phase="testing"), boxes=[box(state="dead")], endings=GONE),
        [Finish("a", failed(CONTAINER_LOST))],
    ),
    "a container that is created again after its command ran is lost": (
        world(job(phase="testing"), boxes=[box(state="created")], endings=GONE),
        [Finish("a", failed(CONTAINER_LOST))],
    ),
    "a running job that has lost even its container's name is lost": (
        world(job(phase="testing", container_id=None)),
        [Finish("a", failed(CONTAINER_LOST))],
    ),
    "nothing is said about containers while the engine is silent": (
        world(job(phase="testing"), observed=None, endings=GONE),
        [],
    ),
    "a container that ended before the command ran is replaced": (
        world(
            job(phase="starting", container_id="c-a"),
            boxes=[box(state="exited", exit_code=3)],
            endings=NEVER_RAN,
        ),
        [Retry("a", 1, "it ended with code 3 before the tests began")],
    ),
    "a container that vanished before the command ran is replaced": (
        world(job(phase="starting", container_id="c-a"), endings=NEVER_RAN),
        [Retry("a", 1, "it vanished before the tests began")],
    ),
    "a third container lost before the command ran is the last": (
        world(
            job(phase="starting", container_id="c-a", attempt=3),
            boxes=[box(state="exited", exit_code=3, attempt=3)],
            endings={("a", 3): SpoolResult(False)},
        ),
        [
            Finish(
                "a", failed("container lost: it ended with code 3 before the tests began (3 attempts)"), "c-a"
            )
        ],
    ),
    "a container that was out of memory before the command ran is not replaced": (
        world(
            job(phase="starting", container_id="c-a"),
            boxes=[box(state="exited", exit_code=137, oom_killed=True)],
            endings=NEVER_RAN,
        ),
        [Finish("a", failed("out of memory (limit 2 GiB; setting: memory)"))],
    ),
    "a cancelled job's lost container is not replaced": (
        world(job(phase="starting", container_id="c-a", **CANCEL), endings=NEVER_RAN),
        [Finish("a", cancelled("somebody"))],
    ),
    "remains of a job that is over are removed": (
        world(uncleaned=(job(status="failed", container_id="c-a"),), boxes=[box(state="exited")]),
        [Clean("a", ("c-a",))],
    ),
    "services are removed with what is left of their job, the one that brings the network last": (
        world(
            uncleaned=(job(status="failed", container_id="c-a"),),
            boxes=[
                box(id="s1", role="service", attempt=0),
                box(id="s2", role="service", attempt=0),
                box(state="exited"),
            ],
        ),
        [Clean("a", ("c-a", "s2", "s1"))],
    ),
    "services of a job that waits or runs are left alone": (
        world(
            job(phase="testing"),
            job("b", phase="preparing"),
            boxes=[
                box(),
                box(id="s1", role="service", attempt=0),
                box("b", id="s2", role="service", attempt=0),
            ],
            in_flight={"b": frozenset({"Prepare"})},
        ),
        [],
    ),
    "a service of no job is removed": (
        world(boxes=[box(role="service", attempt=0)]),
        [RemoveContainer("c-a", "n-a")],
    ),
    "remains that are being removed are left alone": (
        world(uncleaned=(job(status="failed"),), in_flight={"a": frozenset({"Clean"})}),
        [],
    ),
    "remains whose removal failed lately are left alone": (
        world(uncleaned=(job(status="failed"),), held=frozenset({"Clean a"})),
        [],
    ),
    "remains wait while the engine is silent": (world(uncleaned=(job(status="failed"),), observed=None), []),
    "a container of no job is removed": (world(boxes=[box()]), [RemoveContainer("c-a", "n-a")]),
    "a container that is being removed is left alone": (
        world(boxes=[box()], in_flight={"c-a": frozenset({"RemoveContainer"})}),
        [],
    ),
    "a build container of nobody is removed": (
        world(job(phase="preparing"), boxes=[box(role="build")], **PREPARING),
        [RemoveContainer("c-a", "n-a")],
    ),
    "a build container in use is left alone": (
        world(job(phase="preparing"), boxes=[box(role="build")], builds=frozenset({"n-a"}), **PREPARING),
        [],
    ),
    "a waiting job that is being taken up is not ended while the engine is silent": (
        world(job(**CANCEL), observed=None, in_flight={"a": frozenset({"Claim"})}),
        [],
    ),
    "a running job is not ended while the engine is silent": (
        world(job(phase="testing", **CANCEL), observed=None),
        [],
    ),
    "a preparation that is not going on needs no end while the engine is silent": (
        world(job(phase="preparing", **CANCEL), observed=None),
        [],
    ),
    "a preparation that is being told to end is not told again": (
        world(
            job(phase="preparing", **CANCEL),
            in_flight={"a": frozenset({"Prepare"}), "stop a": frozenset({"Stop"})},
        ),
        [],
    ),
    "a job that waits has written nothing, whatever is counted": (
        world(job(), over_disk=frozenset({"a"}), **PREPARING),
        [],
    ),
    "a job that waits fills no disk, whatever is counted": (
        world(job(), filling_disk=frozenset({"a"}), **PREPARING),
        [],
    ),
    "a job that cannot be decided about is left alone while something is done for it": (
        world(job(phase="testing", phase_since=NAIVE), boxes=[box()], **BUSY),
        [],
    ),
    "a job that is prepared again loses the container that it has": (
        world(job(phase="preparing"), boxes=[box()]),
        [RemoveContainer("c-a", "n-a"), Prepare("a")],
    ),
    "a job that waits again loses the container that it has": (
        world(job(attempt=1), boxes=[box()]),
        [RemoveContainer("c-a", "n-a"), Claim("a")],
    ),
    "a job without a container whose time is up is over": (
        world(job(phase="testing", container_id=None, stop_intent="timeout")),
        [Finish("a", failed("timed out after 60 min of testing", timed_out=True))],
    ),
    "a created container of a job whose time is up is never started": (
        world(job(phase="starting", container_id="c-a", stop_intent="timeout"), boxes=[box(state="created")]),
        [Finish("a", failed("timed out after 60 min of testing", timed_out=True))],
    ),
    "a job that waits long for its container has all of its time": (
        world(job(phase="starting", phase_since=ago(3600))),
        [Launch("a", 1)],
    ),
    "a job whose tests are over in time is not too late": (
        world(job(phase="finishing", phase_since=ago(3600)), boxes=[box()]),
        [],
    ),
    "a container that vanished is not launched again before its spool is read": (
        world(job(phase="starting", container_id="c-a")),
        [],
    ),
    "a container whose command ran, but was not seen to, is lost and not replaced": (
        world(job(phase="starting", container_id="c-a"), endings=GONE),
        [Finish("a", failed(CONTAINER_LOST))],
    ),
    "files are collected of a command that was not seen to start": (
        world(
            job(phase="starting", container_id="c-a", options=asking({"artifacts": ["x"]})),
            endings={("a", 1): SpoolResult(False, ExitFrame(0))},
        ),
        [Finish("a", ran(0), collect=True)],
    ),
    "a container that is created again does not hold up the collection of files": (
        world(
            job(phase="testing", options=asking({"artifacts": ["x"]})),
            boxes=[box(state="created")],
            endings=GONE,
        ),
        [Finish("a", failed(CONTAINER_LOST), collect=True)],
    ),
    "a third container that vanished before the command ran is the last": (
        world(job(phase="starting", container_id="c-a", attempt=3), endings={("a", 3): SpoolResult(False)}),
        [Finish("a", failed("container lost: it vanished before the tests began (3 attempts)"))],
    ),
    "a container that has ended is removed at once": (
        world(uncleaned=(job(status="completed", end_time=ago(0.1)),), boxes=[box(state="exited")]),
        [Clean("a", ("c-a",))],
    ),
    "a container that runs on after a failure of the runner is removed at once": (
        world(uncleaned=(job(status="failed", end_time=ago(0.1)),), boxes=[box()]),
        [Clean("a", ("c-a",))],
    ),
    "a job that cannot be decided about ends": (
        world(job(phase="testing", phase_since=NAIVE), boxes=[box()]),
        [
            Finish(
                "a",
                failed(
                    "internal error of the runner (TypeError: can't compare offset-naive and offset-aware datetimes)"
                ),
            )
        ],
    ),
    "a job whose options cannot be read runs on": (
        world(job(phase="testing", options=asking({"timeout": "soon"})), boxes=[box()]),
        [],
    ),
    "a job whose options cannot be read ends when the operator says": (
        world(
            job(phase="testing", phase_since=ago(3600), options=asking({"timeout": "soon"})), boxes=[box()]
        ),
        [Stop("a", "timeout", "c-a")],
    ),
    "the log of a job whose options cannot be read says why no file of it is kept": (
        world(job(phase="finishing", options=asking({"timeout": "soon"})), endings=RAN),
        [Finish("a", ran(0), collect=True)],
    ),
}


def actions_in(moment: Snapshot) -> list[Action]:
    return list(decide(moment).actions)


@pytest.mark.parametrize(("moment", "expected"), CASES.values(), ids=CASES.keys())
def test_decision(moment: Snapshot, expected: list[Action]) -> None:
    assert actions_in(moment) == expected


def claimed(moment: Snapshot) -> list[str]:
    return [action.job_id for action in actions_in(moment) if isinstance(action, Claim)]


def test_no_more_than_the_concurrency_run() -> None:
    queue = [job(name, submitted_at=ago(100 - number)) for number, name in enumerate("abcd")]
    assert claimed(world(*queue)) == ["a", "b"]
    assert claimed(world(*queue, job("x", "testing"), boxes=[box("x")])) == ["a"]
    assert claimed(world(*queue, job("x", "testing"), job("y", "starting"), boxes=[box("x")])) == []
    assert claimed(world(*queue, in_flight={"a": frozenset({"Claim"})})) == ["b"]


def test_building_jobs_hold_no_run_slot() -> None:
    queue = [job(name, submitted_at=ago(100 - number)) for number, name in enumerate("abcd")]
    building = job("x", "preparing", building=True)
    assert claimed(world(*queue, building)) == ["a", "b"]


def test_no_job_is_taken_up_while_too_many_of_the_same_user_wait_for_builds() -> None:
    building = [job(f"x{number}", "preparing", building=True) for number in range(5)]
    assert claimed(world(job("a"), *building[:4])) == ["a"]
    assert claimed(world(job("a"), *building)) == []


def test_builds_keep_no_job_of_another_user_waiting() -> None:
    building = [job(f"x{number}", "preparing", building=True) for number in range(5)]
    queue = [
        job("mine", submitted_at=ago(90)),
        job("theirs", user_id="v", submitted_at=ago(80)),
        job("more of theirs", user_id="v", submitted_at=ago(70)),
        job("third", user_id="w", submitted_at=ago(60)),
    ]
    assert claimed(world(*queue, *building, policy=replace(POLICY, concurrency=9))) == ["theirs", "third"]
    assert claimed(world(*queue[:2], *building)) == ["theirs"]
    assert claimed(world(*queue, *building, policy=replace(POLICY, concurrency=1))) == ["theirs"]


@pytest.mark.parametrize(
    "other",
    [
        world(job("y", "preparing", user_id="v")),
        world(job("y", user_id="v"), in_flight={"y": frozenset({"Claim"})}),
    ],
    ids=["is being prepared", "is being claimed"],
)
def test_beside_many_builds_each_user_gets_one_job_prepared_at_a_time(other: Snapshot) -> None:
    building = [job(f"x{number}", "preparing", building=True) for number in range(5)]
    policy = replace(POLICY, concurrency=9)
    queue = [job("theirs", user_id="v")]
    assert claimed(replace(other, jobs=(*other.jobs, *queue, *building), policy=policy)) == []
    assert claimed(replace(other, jobs=(*other.jobs, *queue, *building[:4]), policy=policy)) == ["theirs"]


def test_the_users_who_get_a_job_prepared_beside_many_builds_are_bounded() -> None:
    building = [job(f"x{number}", "preparing", building=True, user_id=f"u{number}") for number in range(5)]
    assert claimed(world(job("a"), *building)) == []
    building[0] = replace(building[0], user_id="u1")
    assert claimed(world(job("a"), job("b", user_id="w"), *building)) == ["a"]


def test_a_user_with_builds_stays_behind_another_user() -> None:
    building = [job(f"x{number}", "preparing", building=True) for number in range(5)]
    queue = [job("mine", submitted_at=ago(90)), job("theirs", user_id="v", submitted_at=ago(80))]
    moment = world(*queue, *building, served={"v": ago(1)})
    assert claimed(moment) == ["theirs"]


def test_priority_goes_before_order_and_users_take_turns() -> None:
    queue = [
        job("low", priority="low", submitted_at=ago(90)),
        job("first", submitted_at=ago(80)),
        job("second", submitted_at=ago(70)),
        job("other", user_id="v", submitted_at=ago(60)),
        job("high", priority="high", submitted_at=ago(50)),
    ]
    policy = replace(POLICY, concurrency=9)
    assert claimed(world(*queue, policy=policy)) == ["high", "other", "first", "second", "low"]


def test_prepared_jobs_wait_for_a_run_slot_in_the_order_they_were_taken_up() -> None:
    ready = [job(name, "starting", start_time=ago(50 - number)) for number, name in enumerate("abc")]
    assert actions_in(world(*ready)) == [Launch("a", 1), Launch("b", 1)]
    running = job("x", "testing")
    assert actions_in(world(*ready, running, boxes=[box("x")])) == [Launch("a", 1)]
    starting = job("y", "starting", container_id="c-y")
    assert actions_in(world(*ready, running, starting, boxes=[box("x"), box("y")])) == []
    backwards = [job(name, "starting", start_time=ago(50 - number)) for number, name in enumerate("cba")]
    assert actions_in(world(*backwards[::-1])) == [Launch("c", 1), Launch("b", 1)]


def test_what_waits_does_not_keep_what_is_prepared_from_its_slot() -> None:
    assert actions_in(world(job("a"), job("b", "starting"))) == [Launch("b", 1), Claim("a")]


@pytest.mark.parametrize(
    "other",
    [
        world(job("x", "starting"), in_flight={"x": frozenset({"Launch"})}),
        world(job("x", "starting", container_id="c-x")),
        world(job("x", "starting"), boxes=[box("x")], in_flight={"x": frozenset({"Record"})}),
        world(job("x", "testing"), boxes=[box("x")]),
        world(job("x", "testing", container_id=None), in_flight={"x": frozenset({"Finish"})}),
    ],
    ids=["is being launched", "vanished", "is being recorded", "runs", "is being ended"],
)
def test_a_slot_is_taken_by_whatever_may_run(other: Snapshot) -> None:
    policy = replace(POLICY, concurrency=1)
    moment = replace(other, jobs=(*other.jobs, job("a", "starting")), policy=policy)
    assert [action for action in actions_in(moment) if isinstance(action, Launch)] == []
    assert actions_in(world(job("a", "starting"), policy=policy)) == [Launch("a", 1)]


def test_whoever_has_less_running_comes_first() -> None:
    queue = [job("mine", submitted_at=ago(90)), job("theirs", user_id="v", submitted_at=ago(10))]
    assert claimed(world(*queue, job("x", "testing"), boxes=[box("x")])) == ["theirs"]


def test_a_launch_that_failed_lately_does_not_keep_others_from_the_slot() -> None:
    ready = [job(name, "starting", start_time=ago(50 - number)) for number, name in enumerate("ab")]
    policy = replace(POLICY, concurrency=1)
    assert actions_in(world(*ready, policy=policy, held=frozenset({"Launch a"}))) == [Launch("b", 1)]


FOLLOWS: dict[str, tuple[Snapshot, dict[tuple[str, int], bool] | None]] = {
    "a waiting job has no spool": (world(job()), {}),
    "a job without container has no spool": (world(job(phase="starting")), {}),
    "a running container is read": (world(job(phase="testing"), boxes=[box()]), {("a", 1): False}),
    "an ended container is read to its end": (
        world(job(phase="testing"), boxes=[box(state="exited")]),
        {("a", 1): True},
    ),
    "a vanished container is read to its end": (world(job(phase="testing")), {("a", 1): True}),
    "a container that is being launched is not yet gone": (
        world(job(phase="starting", container_id="c-a"), **BUSY),
        {("a", 1): False},
    ),
    "nothing is known while the engine is silent": (world(job(phase="testing"), observed=None), None),
}


@pytest.mark.parametrize(("moment", "expected"), FOLLOWS.values(), ids=FOLLOWS.keys())
def test_which_spools_are_read(moment: Snapshot, expected: dict[tuple[str, int], bool] | None) -> None:
    found = follows(moment)
    if expected is None:
        assert found is None
    else:
        [*jobs] = moment.jobs
        assert found == {key: Follow(jobs[0], over) for key, over in expected.items()}


def verdict(
    observed: Observed | None, exit_frame: ExitFrame | None, *, started: bool = True, **fields: Any
) -> Callable[[], Verdict]:
    """The question what this end means, asked in the test."""
    return lambda: verdicts.ended(
        job(phase="testing", **fields), observed, SpoolResult(started, exit_frame), POLICY
    )


KILLED = ExitFrame(None, "SIGKILL")
VERDICTS: dict[str, tuple[Callable[[], Verdict], Verdict]] = {
    "it passed": (verdict(box(state="exited", exit_code=0), ExitFrame(0)), ran(0)),
    "it failed": (verdict(box(state="exited", exit_code=1), ExitFrame(1)), ran(1)),
    "the engine went down": (
        verdict(box(state="exited", exit_code=2), ExitFrame(2, stopped=True)),
        failed("container lost (it was stopped from outside the runner)"),
    ),
    "it passed while the engine went down": (
        verdict(box(state="exited", exit_code=0), ExitFrame(0, stopped=True)),
        ran(0),
    ),
    "there were no tests": (verdict(box(state="exited", exit_code=5), ExitFrame(5)), ran(5)),
    "a forged pass is not believed": (
        verdict(box(state="exited", exit_code=137), ExitFrame(0)),
        failed("container lost (it ended with code 137)"),
    ),
    "pytest was killed": (
        verdict(box(state="exited", exit_code=137), KILLED),
        ran(1, "a test took pytest down: it was ended by SIGKILL"),
    ),
    "pytest was killed for memory": (
        verdict(box(state="exited", exit_code=137), replace(KILLED, oom=True)),
        ran(1, "a test took pytest down: out of memory (limit 2 GiB; setting: memory)"),
    ),
    "the whole container was out of memory": (
        verdict(box(state="exited", exit_code=137, oom_killed=True), None),
        failed("out of memory (limit 2 GiB; setting: memory)"),
    ),
    "the job's own memory limit is named": (
        verdict(
            box(state="exited", exit_code=137, oom_killed=True), None, options=asking({"memory": 512 << 20})
        ),
        failed("out of memory (limit 512 MiB; setting: memory)"),
    ),
    "a child was out of memory and the tests passed": (
        verdict(box(state="exited", exit_code=0, oom_killed=True), ExitFrame(0)),
        ran(0),
    ),
    "the engine was shut down": (verdict(box(state="exited", exit_code=143), None), failed(CONTAINER_LOST)),
    "the machine was rebooted": (verdict(box(state="exited", exit_code=255), None), failed(CONTAINER_LOST)),
    "it ended with 0 and without a last word": (
        verdict(box(state="exited", exit_code=0), None),
        failed(CONTAINER_LOST),
    ),
    "it was cancelled, whatever its last word is": (
        verdict(box(state="exited", exit_code=0), ExitFrame(0), **CANCEL),
        cancelled("somebody"),
    ),
    "it took too long": (
        verdict(box(state="exited", exit_code=137), None, stop_intent="timeout"),
        failed("timed out after 60 min of testing", timed_out=True),
    ),
    "it wrote too much": (
        verdict(box(state="exited", exit_code=137), None, stop_intent="disk"),
        failed("disk limit of 4 GiB exceeded"),
    ),
}


@pytest.mark.parametrize(("found", "expected"), VERDICTS.values(), ids=VERDICTS.keys())
def test_verdict(found: Callable[[], Verdict], expected: Verdict) -> None:
    assert found() == expected


ASKED = {"options": asking({"artifacts": ["dist"]})}
DONE = {("a", 1): SpoolResult(True, ExitFrame(0))}


@pytest.mark.parametrize("phase", ["testing", "finishing"])
@pytest.mark.parametrize("name", ["artifacts", "reports"])
def test_files_are_collected_before_the_end(phase: str, name: str) -> None:
    moment = world(
        job("a", phase, options=asking({name: ["x"]})), boxes=[box(state="exited", exit_code=0)], endings=DONE
    )
    assert actions_in(moment) == [Finish("a", ran(0), collect=True)]


def test_a_container_that_may_still_write_goes_before_files_are_read() -> None:
    moment = world(job("a", "testing", **ASKED), boxes=[box()], endings=DONE)
    assert actions_in(moment) == [Finish("a", ran(0), collect=True, going="c-a")]


def test_files_of_a_lost_container_are_collected_too() -> None:
    moment = world(job("a", "testing", **ASKED), boxes=[], endings={("a", 1): SpoolResult(True, None)})
    assert actions_in(moment) == [Finish("a", failed(CONTAINER_LOST), collect=True)]


def test_files_of_a_job_that_was_stopped_are_collected_too() -> None:
    stopping = job(
        "a", "testing", **ASKED, cancel_requested_at=ago(1), cancelled_by="x", stop_intent="cancel"
    )
    moment = world(
        stopping, boxes=[box(state="exited", exit_code=137)], endings={("a", 1): SpoolResult(True, None)}
    )
    assert actions_in(moment) == [Finish("a", cancelled("x"), collect=True)]


def test_nothing_is_collected_of_a_job_that_never_ran() -> None:
    waiting = job("a", "queued", **ASKED, cancel_requested_at=ago(1), cancelled_by="x")
    assert actions_in(world(waiting)) == [Finish("a", cancelled("x"))]


def test_nothing_is_collected_of_a_job_that_asks_for_nothing() -> None:
    moment = world(job("a", "testing", options=asking({"artifacts": []})), boxes=[box()], endings=DONE)
    assert actions_in(moment) == [Finish("a", ran(0))]


def later(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def run(plan: Plan, **fields: Any) -> OpenRun:
    running = {item.name: Facts(f"job-{item.name}", status="running", phase="testing") for item in plan.jobs}
    return OpenRun(Run("r", "u", plan, "0" * 64, **fields), running)


RUNNING = job("a", "testing", phase_since=ago(600))
WITH_TIMEOUT = {"options": {"run_timeout": 60}, "start_time": ago(20)}

UNTIL: dict[str, tuple[Snapshot, float | None]] = {
    "nothing": (world(), None),
    "a preparation's limit": (world(job("a", "preparing", phase_since=ago(100)), **PREPARING), 800),
    "a preparation's limit, while the engine is silent": (
        world(job("a", "preparing", phase_since=ago(100)), observed=None, **PREPARING),
        800,
    ),
    "a test run's limit": (world(RUNNING, boxes=[box()]), 3000),
    "a limit that the job asked for": (
        world(replace(RUNNING, options=asking({"timeout": 700})), boxes=[box()]),
        100,
    ),
    "the limit of a command that is not seen yet": (
        world(job("a", "starting", container_id="c-a", phase_since=ago(100)), boxes=[box()]),
        3500,
    ),
    "the end of a job's grace": (
        world(job("a", "testing", **STOPPED), boxes=[box()], signalled=frozenset({"a"})),
        7,
    ),
    "the time that a container has to end by itself": (
        world(uncleaned=(job(status="completed", end_time=ago(0.25)),), boxes=[box()]),
        0.75,
    ),
    "the first of several": (
        world(
            job("b", "testing", phase_since=ago(1000)),
            RUNNING,
            job("x", "testing", phase_since=ago(800)),
            boxes=[box("b"), box(), box("x")],
            policy=replace(POLICY, concurrency=3),
        ),
        2600,
    ),
    "a limit that has passed counts no more": (
        world(
            RUNNING,
            job("b", "testing", phase_since=ago(4000), **STOPPED),
            boxes=[box(), box("b")],
            signalled=frozenset({"b"}),
        ),
        7,
    ),
    "a run's limit": (world(runs=(run(plan_of(planned("a", "x")), **WITH_TIMEOUT),)), 40),
    "a run's limit that has passed": (
        world(runs=(run(plan_of(planned("a", "x")), options={"run_timeout": 20}, start_time=ago(20)),)),
        None,
    ),
    "a run that has no limit": (world(runs=(run(plan_of(planned("a", "x")), start_time=ago(20)),)), None),
    "a run that has not begun": (
        world(runs=(run(plan_of(planned("a", "x")), options={"run_timeout": 60}),)),
        None,
    ),
    "a stage's limit": (
        world(
            runs=(
                replace(
                    run(plan_of(planned("a", "x")), **WITH_TIMEOUT), deadlines=(ago(5), later(30), later(50))
                ),
            )
        ),
        30,
    ),
}


@pytest.mark.parametrize(("moment", "seconds"), UNTIL.values(), ids=UNTIL.keys())
def test_a_decision_says_when_time_alone_may_change_it(moment: Snapshot, seconds: float | None) -> None:
    assert decide(moment).until == (None if seconds is None else later(seconds))


def test_a_decision_holds_until_then_for_a_world_that_is_the_same_otherwise() -> None:
    moment = world(RUNNING, boxes=[box()])
    decision = decide(moment)
    until = decision.until
    assert until == later(3000)
    assert decision.holds_in(moment)
    assert decision.holds_in(replace(moment, now=until - dt.timedelta(microseconds=1)))
    assert not decision.holds_in(replace(moment, now=until))
    assert not decision.holds_in(replace(moment, over_disk=frozenset({"a"})))
    forever = decide(world())
    assert forever.holds_in(replace(world(), now=later(1e9)))
    assert not forever.holds_in(world(RUNNING))


def test_all_containers_that_run_write_for_their_job() -> None:
    boxes = [
        box(),
        box(id="c-build", role="build", state="paused"),
        box(id="c-db", role="service"),
        box("b", state="created"),
        box("c", state="exited"),
        box("gone"),
    ]
    jobs = [job("a", "testing"), job("b", "starting"), job("c", "finishing"), job("d")]
    assert writing(world(*jobs, boxes=boxes)) == {"a": ("c-a", "c-build", "c-db")}
    assert writing(replace(world(*jobs), observed=None)) == {}


def test_jobs_with_services_serve_from_their_preparation_to_the_end_of_their_tests() -> None:
    options = asking({"services": ({"name": "db", "image": "postgres:17"},)})
    phases = ("queued", "preparing", "starting", "testing", "finishing")
    jobs = [job(phase, phase, options=options) for phase in phases]
    assert serving(world(*jobs, job("plain", "testing"))) == {"preparing", "starting", "testing"}


@pytest.mark.parametrize("moment", [case[0] for case in CASES.values()], ids=CASES.keys())
def test_deciding_changes_nothing(moment: Snapshot) -> None:
    before = repr(vars(moment))
    decision = decide(moment)
    assert repr(vars(moment)) == before
    assert decide(moment) == decision


@pytest.mark.parametrize("name", ["served", "in_flight", "endings"])
def test_a_world_can_be_changed_neither_by_its_maker_nor_by_its_reader(name: str) -> None:
    given: dict[Any, Any] = {"a": NOW}
    fields: dict[str, Any] = {name: given}
    moment = world(**fields)
    given["b"] = NOW
    assert getattr(moment, name) == {"a": NOW}
    with pytest.raises(TypeError):
        getattr(moment, name)["b"] = NOW
    assert replace(moment, now=later(1)).differs_only_in_time(moment)
