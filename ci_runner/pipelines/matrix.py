"""The cells of a matrix, their names, and the substitution of ``${axis}`` and ``{axis}``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ci_runner.pipelines.definition import JobDefinition, Matrix
from ci_runner.pipelines.plan import Service

Cell = Mapping[str, str]


def cells(matrix: Matrix | None) -> list[dict[str, str]]:
    """Return all cells in order; one empty cell if there is no matrix."""
    return [{}] if matrix is None else matrix.cells


def name_of(job: str, cell: Cell) -> str:
    """Return ``tests (python=3.12, database=none)``, or the job's own name if there is no matrix."""
    inner = ", ".join(f"{axis}={value}" for axis, value in cell.items())
    return f"{job} ({inner})" if inner else job


def filled(job: JobDefinition, cell: Cell) -> JobDefinition:
    """Return `job` with the values of `cell` in place of axis names.

    The axes `python` and `image` set these fields themselves, unless the job derives them from its axes.
    """
    if not cell:
        return job

    def fill(text: str) -> str:
        return substitute(text, cell)

    def fill_all(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(fill(text) for text in texts)

    return replace(
        job,
        image=_of_axis("image", job.image, cell),
        python=_of_axis("python", job.python, cell),
        script=None if job.script is None else fill_all(job.script),
        args=fill_all(job.args),
        env={name: fill(value) for name, value in job.env.items()},
        working_dir=fill(job.working_dir),
        artifacts=replace(job.artifacts, paths=fill_all(job.artifacts.paths)),
        services=tuple(_service(service, cell) for service in job.services),
    )


def _of_axis(key: str, written: str | None, cell: Cell) -> str | None:
    result = None if written is None else substitute(written, cell)
    return result if result != written else cell.get(key, written)


def _service(service: Service, cell: Cell) -> Service:
    return replace(
        service,
        image=substitute(service.image, cell),
        env={name: substitute(value, cell) for name, value in service.env.items()},
        health=None if service.health is None else substitute(service.health, cell),
        command=tuple(substitute(text, cell) for text in service.command),
    )


def substitute(text: str, cell: Cell) -> str:
    """Return `text` with ``${axis}`` and ``{axis}`` replaced, once; other braces stay."""
    if "{" not in text or not cell:
        return text
    names = "|".join(re.escape(axis) for axis in cell)
    return re.sub(rf"\$?\{{({names})\}}", lambda found: cell[found[1]], text)
