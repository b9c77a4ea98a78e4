"""Whatever happens in whatever order, and wherever the controller dies: every job ends once, and nothing is left.

A model of rows and containers stands in for the store and an engine; each decided action is performed, lost before it
did anything, or cut off between the engine and the row, as a crash would do.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import replace
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

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
from ci_runner.controller.decide import decide, follows, serving, writing
from ci_runner.controller.engine import Observed
from ci_runner.controller.snapshot import Policy, Snapshot, SpoolResult
from ci_runner.controller.spool.reader import ExitFrame
from ci_runner.model.job import Job

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.timezone.utc)
POLICY = Policy(concurrency=2, builds=1, grace=5)

#: How far an action gets before the controller dies: not at all, up to the engine, to the end.
Reach = Literal["nothing", "engine", "all"]


class Model:
    """Rows, containers and spools."""

    def __init__(self, users: list[str]) -> None:
        self.now = NOW
        self.jobs = {
            f"j{number}": Job(f"j{number}", user_id=user, submitted_at=NOW + dt.timedelta(seconds=number))
            for number, user in enumerate(users)
        }
        self.served: dict[str, dt.datetime] = {}
        self.boxes: dict[str, Observed] = {}
        #: (job, attempt) → whether the command ran, and its last word.
        self.spools: dict[tuple[str, int], tuple[bool, ExitFrame | None]] = {}
        self.signalled: set[str] = set()
        self.creates: Counter[tuple[str, int]] = Counter()
        self.starts: Counter[tuple[str, int]] = Counter()
        self.ends: Counter[str] = Counter()
        self.claims: list[str] = []

    def world(self) -> Snapshot:
        world = Snapshot(
            self.now,
            POLICY,
            tuple(job for job in self.jobs.values() if not job.is_over),
            tuple(job for job in self.jobs.values() if job.is_over and job.cleaned_at is None),
            self.served,
            observed=tuple(self.boxes.values()),
            signalled=frozenset(self.signalled),
        )
        endings = {
            key: SpoolResult(*self.spools.get(key, (False, None)))
            for key, item in (follows(world) or {}).items()
            if item.over
        }
        return replace(world, endings=endings)

    def change(self, job_id: str, **changes: Any) -> None:
        job = self.jobs[job_id]
        assert not job.is_over or changes.keys() == {"cleaned_at"}, "a terminal status is never changed"
        self.jobs[job_id] = replace(job, **changes)

    def perform(self, action: Action, reach: Reach) -> None:
        if reach == "nothing":
            return
        record = reach == "all"
        match action:
            case Launch(job_id, attempt, container_id):
                self._launch(job_id, attempt, container_id, record)
            case Stop(job_id, intent, container_id):
                self.change(job_id, stop_intent=intent, stop_requested_at=self.now)
                if record:
                    self.signalled.add(job_id)
                    self.signal(container_id)
            case Kill(job_id, container_id, intent):
                self.change(job_id, stop_intent=self.jobs[job_id].stop_intent or intent)
                self.signal(container_id)
            case Clean(job_id, container_ids):
                for container_id in container_ids:
                    self.boxes.pop(container_id, None)
                if record:
                    self.change(job_id, cleaned_at=self.now)
            case RemoveContainer(container_id, _):
                self.boxes.pop(container_id, None)
            case _ if record:
                self._record(action)

    def _record(self, action: Action) -> None:
        match action:
            case Claim(job_id):
                self.claims.append(job_id)
                self.served[self.jobs[job_id].user_id or ""] = self.now
                self.change(
                    job_id,
                    status="running",
                    phase="preparing",
                    phase_since=self.now,
                    start_time=self.now,
                    attempt=1,
                )
            case Prepare(job_id):
                self.change(job_id, phase="starting", phase_since=self.now)
            case Record(job_id, _, container_id):
                self.change(job_id, container_id=container_id)
            case Finishing(job_id):
                self.change(job_id, phase="finishing")
            case Retry(job_id, attempt, _):
                self.change(job_id, attempt=attempt + 1, container_id=None)
            case Finish(job_id, verdict, _):
                self.ends[job_id] += 1
                self.change(job_id, status=verdict.status, success=verdict.success, end_time=self.now)

    def _launch(self, job_id: str, attempt: int, container_id: str | None, record: bool) -> None:
        name = f"{job_id}-{attempt}"
        if container_id is None:
            assert name not in {item.name for item in self.boxes.values()}, "adopted, not made again"
            self.creates[job_id, attempt] += 1
            container_id = f"{name}#{self.creates[job_id, attempt]}"
            self.boxes[container_id] = Observed(container_id, name, "test", job_id, attempt, "created")
        if record and container_id in self.boxes:
            self.change(job_id, container_id=container_id, phase_since=self.now)
            self.starts[job_id, attempt] += 1
            self.boxes[container_id] = replace(self.boxes[container_id], state="running")

    def signal(self, container_id: str | None) -> None:
        item = self.boxes.get(container_id or "")
        if item is not None and item.state == "running":
            self.boxes[item.id] = replace(item, state="exited", exit_code=143)

    # -- what happens by itself
    def begin(self, job_id: str) -> None:
        """The worker says that the command runs, and the follower records it."""
        job = self.jobs[job_id]
        item = self.boxes.get(job.container_id or "")
        if job.phase == "starting" and not job.is_over and item is not None and item.state == "running":
            self.spools[job_id, job.attempt] = (True, None)
            self.change(job_id, phase="testing", phase_since=self.now)

    def exit(self, job_id: str, said: bool) -> None:
        """The container ends, with its last word or without."""
        for item in self.boxes.values():
            if item.job_id == job_id and item.state == "running":
                started = self.spools.get((job_id, item.attempt), (False, None))[0]
                self.spools[job_id, item.attempt] = (started or said, ExitFrame(0) if said else None)
                self.boxes[item.id] = replace(item, state="exited", exit_code=0 if said else 137)
                return

    def vanish(self, job_id: str) -> None:
        """Somebody removes the container."""
        for item in list(self.boxes.values()):
            if item.job_id == job_id and item.state != "created":
                del self.boxes[item.id]
                return

    def cancel(self, job_id: str) -> None:
        if not self.jobs[job_id].is_over:
            self.change(job_id, cancel_requested_at=self.now, cancelled_by="its user")

    def check(self) -> None:
        live = Counter(item.job_id for item in self.boxes.values() if item.state == "running")
        assert all(count == 1 for count in live.values()), "never two containers of a job"
        assert sum(live.values()) <= POLICY.concurrency
        assert all(count == 1 for count in self.starts.values()), "an attempt is started once"
        assert all(count == 1 for count in self.ends.values()), "one end"


reaches = st.sampled_from(["nothing", "engine", "all", "all", "all"])
happenings = st.tuples(
    st.sampled_from(
        ["tick", "tick", "tick", "begin", "exit", "lose", "vanish", "cancel", "restart", "later"]
    ),
    st.integers(0, 5),
    st.lists(reaches, max_size=4),
)


@given(
    users=st.lists(st.sampled_from("uvw"), min_size=1, max_size=6),
    story=st.lists(happenings, max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_every_job_ends_once_and_nothing_is_left(
    users: list[str], story: list[tuple[str, int, list[Reach]]]
) -> None:
    model = Model(users)
    for what, number, reach in story:
        job_id = f"j{number % len(users)}"
        if what == "tick":
            tick(model, reach)
        elif what == "restart":
            model.signalled.clear()
        elif what == "later":
            model.now += dt.timedelta(seconds=3)
        elif what in ("exit", "lose"):
            model.exit(job_id, said=what == "exit")
        else:
            getattr(model, what)(job_id)
        model.check()
    for _ in range(200):
        tick(model, [])
        for job_id in model.jobs:
            model.begin(job_id)
            model.exit(job_id, said=True)
        model.check()
        model.now += dt.timedelta(seconds=1)
    assert all(job.is_over and job.cleaned_at is not None for job in model.jobs.values())
    assert model.boxes == {}
    assert decide(model.world()).actions == (), "nothing more to do"
    assert model.ends == Counter(dict.fromkeys(model.jobs, 1))


def tick(model: Model, reach: list[Reach]) -> None:
    """One pass; every action has its own fate."""
    world = model.world()
    for number, action in enumerate(decide(world).actions):
        if getattr(action, "job_id", None) in model.jobs and _is_overtaken(model, world, action):
            continue
        model.perform(action, reach[number] if number < len(reach) else "all")


def _is_overtaken(model: Model, world: Snapshot, action: Any) -> bool:
    """Compare-and-set: a row that changed since the world was read is not written."""
    before = {job.id: job for job in (*world.jobs, *world.uncleaned)}
    return model.jobs[action.job_id] != before.get(action.job_id)


@given(users=st.lists(st.sampled_from("uv"), min_size=1, max_size=8))
def test_within_a_user_jobs_are_taken_up_in_order(users: list[str]) -> None:
    model = Model(users)
    for _ in range(100):
        tick(model, [])
        for job_id in model.jobs:
            model.begin(job_id)
            model.exit(job_id, said=True)
    for user in set(users):
        mine = [job_id for job_id in model.claims if model.jobs[job_id].user_id == user]
        assert mine == sorted(mine)


@given(
    users=st.lists(st.sampled_from("uvw"), min_size=1, max_size=6),
    story=st.lists(happenings, max_size=40),
    seconds=st.one_of(st.integers(0, 30), st.integers(0, 10_000)),
)
@settings(max_examples=150, deadline=None)
def test_what_was_decided_holds_until_a_time_that_was_asked_for(
    users: list[str], story: list[tuple[str, int, list[Reach]]], seconds: int
) -> None:
    """So a controller need not decide again as long as `Decision.holds_in` says so."""
    model = Model(users)
    for what, number, reach in story:
        job_id = f"j{number % len(users)}"
        if what == "tick":
            tick(model, reach)
        elif what == "later":
            model.now += dt.timedelta(seconds=3)
        elif what in ("begin", "vanish", "cancel"):
            getattr(model, what)(job_id)
        elif what in ("exit", "lose"):
            model.exit(job_id, said=what == "exit")
        world = model.world()
        decision = decide(world)
        assert decision.until is None or decision.until > world.now
        later = replace(model.world(), now=world.now + dt.timedelta(seconds=seconds))
        if decision.holds_in(later):
            assert decide(later).actions == decision.actions
            assert decide(later).until == decision.until
            assert follows(later) == follows(world)


@given(moment=st.integers(0, 10), users=st.lists(st.sampled_from("uv"), min_size=1, max_size=4))
def test_deciding_changes_nothing_in_the_world(moment: int, users: list[str]) -> None:
    model = Model(users)
    for _ in range(moment):
        tick(model, [])
    world = model.world()
    before = repr(world)
    decision = decide(world)
    after_one = repr(decision)
    follows(world)
    writing(world)
    serving(world)
    assert repr(decide(world)) == repr(decision) == after_one
    assert repr(world) == before


@given(moment=st.integers(0, 10), users=st.lists(st.sampled_from("uv"), min_size=1, max_size=4))
def test_the_same_world_gives_the_same_answer(moment: int, users: list[str]) -> None:
    model = Model(users)
    for _ in range(moment):
        tick(model, [])
    world = model.world()
    shuffled = replace(world, jobs=world.jobs[::-1], observed=(world.observed or ())[::-1])
    assert decide(world) == decide(world)
    assert set(map(repr, decide(world).actions)) == set(map(repr, decide(shuffled).actions))
    assert decide(world).until == decide(shuffled).until
