"""Compare the outcomes of each test between jobs that run the same suite, such as one for each Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pytest_remote_ci.wire.control_characters import escaped

if TYPE_CHECKING:
    import pytest

#: Limit for the number of lines.
_MOST: Final = 20
#: Outcomes, the worst first: a later phase of a test replaces its outcome only by a worse one.
_ORDER: Final = ("error", "failed", "xfailed", "skipped", "xpassed", "passed")


class Comparison:
    """A pytest plugin that notes outcomes; `label_of` returns the job and the node id in it."""

    def __init__(self, label_of: Callable[[str], tuple[str, str] | None]) -> None:
        self._label_of = label_of
        #: Node id without label → job → outcome.
        self._outcomes: dict[str, dict[str, str]] = {}
        #: Node id with label of each report.
        self._seen: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a phase of a test."""
        nodeid, outcome = str(report.nodeid), _outcome(report)
        before = self._seen.get(nodeid)
        if before is None or _ORDER.index(outcome) < _ORDER.index(before):
            self._seen[nodeid] = outcome

    def lines(self) -> list[str]:
        """Return a line for each test whose outcome differs between the jobs that ran it."""
        for nodeid, outcome in self._seen.items():
            found = self._label_of(nodeid)
            if found is not None:
                self._outcomes.setdefault(found[1], {})[found[0]] = outcome
        lines = []
        for nodeid, by_job in self._outcomes.items():
            if len(set(by_job.values())) < 2:
                continue
            jobs: dict[str, list[str]] = {}
            for job, outcome in sorted(by_job.items(), key=lambda item: _ORDER.index(item[1])):
                jobs.setdefault(outcome, []).append(job)
            parts = [f"{outcome} with {', '.join(names)}" for outcome, names in jobs.items()]
            lines.append(escaped(f"{nodeid}: {'; '.join(parts)}"))
        more = len(lines) - _MOST
        return lines[:_MOST] + ([f"{more} more tests differ between the jobs"] if more > 0 else [])


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.failed and report.when != "call":
        return "error"
    return str(report.outcome) if report.outcome in _ORDER else "passed"
