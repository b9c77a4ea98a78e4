"""A pipeline as defined by its author: stages and jobs with defaults filled in, matrices not yet expanded.

`parse` makes it from a file, `validate` checks it as a whole, `planning` turns it into a plan.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ci_runner.pipelines.plan import ArtifactsWhen, Retries, Service
from ci_runner.pipelines.source.tree import Place

_NONE = Retries()


@dataclass(frozen=True)
class Named:
    """A name and its position in the file."""

    name: str
    place: Place = field(default=Place(), compare=False)
    path: str = field(default="", compare=False)

    @property
    def position(self) -> str:
        """The position in words, for a message about another place."""
        return f"in line {self.place.line}" if self.place.is_known else f"at {self.path}"


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of a job."""

    paths: tuple[str, ...]
    when: ArtifactsWhen = "always"
    days: float | None = None


@dataclass(frozen=True)
class When:
    """The conditions for a job to take part in a run; all that are given must hold."""

    #: False: never.
    ever: bool = True
    #: One of these patterns must match a changed path; None: no condition.
    changed: tuple[str, ...] | None = None
    #: One of these patterns must match the tag; None: no condition.
    tags: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Matrix:
    """One job per combination of values."""

    axes: Mapping[str, tuple[str, ...]]
    #: Additional cells, each with all axes.
    include: tuple[Mapping[str, str], ...] = ()
    #: Excluded cells: those with all these values.
    exclude: tuple[Mapping[str, str], ...] = ()

    @property
    def size(self) -> int:
        """The number of cells before exclusion."""
        return math.prod(len(values) for values in self.axes.values()) + len(self.include)

    @cached_property
    def cells(self) -> list[dict[str, str]]:
        """Axis → value of each cell: the product less excluded cells, then included ones; no duplicates."""
        product = (
            dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())
        )
        found = [cell for cell in product if not any(out.items() <= cell.items() for out in self.exclude)]
        found += [{axis: extra[axis] for axis in self.axes} for extra in self.include]
        return [cell for index, cell in enumerate(found) if cell not in found[:index]]


@dataclass(frozen=True)
class JobDefinition:
    """One job; None, empty values and the defaults mean: not set."""

    named: Named
    stage: Named
    needs: tuple[Named, ...] = ()
    image: str | None = None
    python: str | None = None
    packages: tuple[str, ...] | None = None
    script: tuple[str, ...] | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    working_dir: str = ""
    allow_failure: bool = False
    retries: Retries = _NONE
    timeout: float | None = None
    matrix: Matrix | None = None
    artifacts: Artifacts = Artifacts(())
    services: tuple[Service, ...] = ()
    cpus: float | None = None
    memory: int | None = None
    #: Bytes of folders in memory and of the largest file, and open files of a process; None: the runner's defaults.
    shm_size: int | None = None
    tmp_size: int | None = None
    home_size: int | None = None
    file_size: int | None = None
    open_files: int | None = None
    when: When = When()

    @property
    def name(self) -> str:
        """The job's name, shared by all cells of its matrix."""
        return self.named.name


@dataclass(frozen=True)
class Definition:
    """One pipeline."""

    named: Named
    #: The file's name in messages.
    file: str
    stages: tuple[Named, ...]
    #: In the order of stages, then of the file.
    jobs: tuple[JobDefinition, ...]
    keep_going: bool = False
    #: Name of a stage → its time limit in seconds.
    stage_timeouts: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.named.name
