"""What a controller remembers of containers between its looks at the engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from support.engines import FOREVER, MemoryKit

from ci_runner.controller.snapshot import ContainerView
from ci_runner.model.job import Job


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
