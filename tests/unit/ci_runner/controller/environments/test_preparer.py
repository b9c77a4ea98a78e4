"""What a job's container may use: what the job asks for, or the runner's default, but never more than the operator's
limit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.preparer import Bench

from ci_runner.controller.engine import Limits
from ci_runner.controller.engines.memory import MemoryEngine

SETTINGS = {"cpus": 2.0, "max_cpus": 3.0, "memory": 2 << 30, "max_memory": 3 << 30, "pids": 77}


def limits_of(folder: Path, settings: dict[str, Any], **options: Any) -> tuple[Limits, str]:
    """The limits of a job's container, and what its command is told."""
    engine = MemoryEngine()
    engine.pythons = ()
    try:
        bench = Bench(folder, engine, "base:1", reconcile={**SETTINGS, **settings})
        job = bench.submit({"a.txt": "a"}, image="no-python:1", **options)
        job = dataclasses.replace(job, options=dataclasses.replace(job.options, script=("true",)))
        prepared, _ = bench.prepare(job)
        spec = bench.preparer.container_spec(job, prepared, 1)
        return spec.limits, (folder / "work" / f"{job.id}-1" / "spool" / "command").read_text()
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("asked", "settings", "cpus"),
    [
        (None, {}, 2.0),
        (1.5, {}, 1.5),
        (3.0, {}, 3.0),
        (16.0, {}, 3.0),
        (None, {"cpus": 8.0}, 3.0),
        (16.0, {"max_cpus": 32.0}, 16.0),
    ],
)
def test_processors(tmp_path: Path, asked: float | None, settings: dict[str, Any], cpus: float) -> None:
    limits, command = limits_of(tmp_path, settings, **({} if asked is None else {"cpus": asked}))
    assert limits.cpus == cpus
    for name in ("PYTEST_XDIST_AUTO_NUM_WORKERS", "PYTHON_CPU_COUNT", "OMP_NUM_THREADS"):
        assert f"{name}={round(cpus)}" in command.replace("'", "")


@pytest.mark.parametrize(
    ("asked", "settings", "memory"),
    [
        (None, {}, 2 << 30),
        (1 << 30, {}, 1 << 30),
        (3 << 30, {}, 3 << 30),
        (64 << 30, {}, 3 << 30),
        (None, {"memory": 8 << 30}, 3 << 30),
        (64 << 30, {"max_memory": 128 << 30}, 64 << 30),
    ],
)
def test_memory(tmp_path: Path, asked: int | None, settings: dict[str, Any], memory: int) -> None:
    limits, _ = limits_of(tmp_path, settings, **({} if asked is None else {"memory": asked}))
    assert limits.memory == memory


def test_processes_are_the_operators_alone(tmp_path: Path) -> None:
    assert limits_of(tmp_path, {})[0].pids == 77
