"""What a controller remembers of containers between its looks at the engine."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.engines import FOREVER, MemoryKit

from ci_runner.controller.handlers import ActionHandlers
from ci_runner.controller.snapshot import ContainerView, OpenRun, Snapshot, SpoolResult
from ci_runner.model.job import Job
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.run import Run
from ci_runner.pipelines.scheduler import Facts

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)


def mappings(world: Snapshot) -> Iterator[Mapping[object, object]]:
    """Return all mappings of a snapshot itself, and those of its runs."""
    parts: tuple[Snapshot | OpenRun, ...] = (world, *world.runs)
    for part in parts:
        for item in dataclasses.fields(part):
            value = getattr(part, item.name)
            if isinstance(value, Mapping):
                yield value


def test_a_snapshot_is_frozen_with_all_its_mappings() -> None:
    served, facts = {"ada": NOW}, {"tests": Facts()}
    world = Snapshot(
        NOW,
        served=served,
        in_flight={"a": frozenset({"Claim"})},
        endings={("a", 1): SpoolResult(started=True)},
        runs=(OpenRun(Run("r", "ada", Plan("p", (), ()), "0" * 64), facts),),
    )
    for item in dataclasses.fields(world):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(world, item.name, None)
        assert not isinstance(getattr(world, item.name), (list, set, dict)), item.name
    found = list(mappings(world))
    assert len(found) == 4
    for mapping in found:
        with pytest.raises(TypeError):
            mapping["x"] = None  # type: ignore[index]
    served["bob"] = NOW
    facts.clear()
    assert world.served == {"ada": NOW}, "a copy, not a view"
    assert world.runs[0].facts == {"tests": Facts()}


def test_handlers_share_no_collection_between_threads() -> None:
    """What they remember of jobs has one owner with a lock, `ProcessState`."""
    kinds = {item.name: str(item.type) for item in dataclasses.fields(ActionHandlers)}
    assert kinds["state"] == "ProcessState"
    assert [name for name, kind in kinds.items() if kind.startswith(("set", "dict", "list", "deque"))] == []


def test_a_container_whose_command_runs_is_not_remembered_from_before_its_start(tmp_path: Path) -> None:
    kit = MemoryKit(tmp_path, "python:3.12-slim")
    spec = kit.spec(FOREVER)
    container_id = kit.engine.create(spec)
    job = Job(spec.job_id, user_id="u", phase="starting", attempt=1, container_id=container_id)
    sight = ContainerView(kit.engine)

    def state(job: Job) -> str:
        [seen] = sight.read((job,), refresh=False) or ()
        return seen.state

    assert state(job) == "created"
    kit.engine.start(container_id)  # by a controller that was killed meanwhile: nothing tells this one
    assert state(job) == "created"
    # Its output came first: "created" would mean that the engine had lost what it knew.
    assert state(dataclasses.replace(job, phase="testing")) == "running"
    kit.dispose()
