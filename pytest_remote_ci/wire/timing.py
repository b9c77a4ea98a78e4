"""Timing: how long the phases of a job took, and what had to be prepared for it.

Each side measures its own phases with a steady clock: the client those before the upload and after the end, the runner
all others. A phase that was not measured is missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pytest_remote_ci.wire.checks import WireError

#: Phases in order → what they consist of.
PHASES: Final[Mapping[str, str]] = {
    "start": "starting pytest and the client",
    "collect": "finding and hashing the project's files",
    "pack": "asking for missing contents, and packing them",
    "upload": "sending the submission, and storing it",
    "queue": "waiting for a free slot",
    "workspace": "assembling the project's files",
    "environment": "finding or building image, environment and project",
    "services": "starting the services",
    "container": "creating and starting the container",
    "pytest": "starting pytest in the container, and collecting tests",
    "tests": "from the start of the first test to the end of the last; of other commands: all of it",
    "end": "ending pytest and the container, and storing the job's files",
    "fetch": "fetching the job's files",
}
#: Phases that a client measures before it submits.
CLIENT_PHASES: Final = ("start", "collect", "pack")
#: Upper bound of a phase in seconds (exclusive).
_LONGEST: Final = 1e9
#: Most reasons of one job, and characters of a reason.
_REASONS: Final = 10
_REASON_LENGTH: Final = 500


@dataclass(frozen=True)
class Timing:
    """The seconds of each measured phase, and why some took longer than in a repetition."""

    phases: Mapping[str, float] = field(default_factory=dict)
    #: Words about what was not there yet, such as "environment built in 14.2 s: requirements.txt changed".
    cold: tuple[str, ...] = ()
    #: How the container was started, such as "warm"; "" if the runner starts none ahead.
    container: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-ready dictionary: phases in order, to a tenth of a millisecond."""
        found: dict[str, object] = {"phases": {name: round(value, 4) for name, value in self.ordered()}}
        if self.cold:
            found["cold"] = list(self.cold)
        if self.container:
            found["container"] = self.container
        return found

    @classmethod
    def parse(cls, raw: object) -> Timing | None:
        """Return the timing that a runner sent; None without one. Unknown phases and invalid values are left out."""
        if not isinstance(raw, dict) or not isinstance(raw.get("phases"), dict):
            return None
        phases = {
            name: float(value)
            for name, value in raw["phases"].items()
            if name in PHASES and _is_duration(value)
        }
        cold = raw.get("cold")
        container = "".join(_reasons([raw.get("container")]))
        return cls(phases, _reasons(cold if isinstance(cold, list) else ()), container)

    def ordered(self) -> list[tuple[str, float]]:
        """Return the phases in order."""
        return [(name, self.phases[name]) for name in PHASES if name in self.phases]

    @property
    def total(self) -> float:
        """The sum of all phases."""
        return sum(self.phases.values())

    def with_phases(self, phases: Mapping[str, float]) -> Timing:
        """Return the same with more phases, or with these in place of its own."""
        return replace(self, phases={**self.phases, **phases})


class Stopwatch:
    """Measures phases, one after the other, by the steady clock."""

    def __init__(self, began: float | None = None) -> None:
        """`began`: when the first phase began, by `time.monotonic`; None: now."""
        self._last = time.monotonic() if began is None else began
        self.phases: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """Add the time since the last call to this phase."""
        now = time.monotonic()
        self.phases[phase] = self.phases.get(phase, 0.0) + now - self._last
        self._last = now

    def skip(self) -> None:
        """Count the time since the last call for no phase."""
        self._last = time.monotonic()


def as_client_phases(where: str, value: object) -> dict[str, float]:
    """Check the phases that a client measured; those that this version does not know are left out."""
    if not isinstance(value, dict):
        raise WireError(f"{where}: must be an object of seconds by phase")
    known = {name: value[name] for name in CLIENT_PHASES if name in value}
    if not all(map(_is_duration, known.values())):
        raise WireError(f"{where}: each phase must be a number of seconds, 0 or more")
    return {name: float(seconds) for name, seconds in known.items()}


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LONGEST


def _reasons(found: Iterable[object]) -> tuple[str, ...]:
    texts = [reason[:_REASON_LENGTH] for reason in found if isinstance(reason, str)]
    return tuple(texts[:_REASONS])
