"""Measure what counting test results adds to storing reports: ``python benchmarks/results.py [--tests 2000] [--json]``.

A real store on an empty folder gets the reports of that many tests, three each, in batches of a hundred tests, with
and without counting, in turns. The reports contain nothing else, which makes them the quickest to store and counting
the most expensive. Figures are processor time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from unittest import mock

from common import positive, report_at_end

from ci_runner.model.job import Job, JobEvent
from ci_runner.store import Store
from ci_runner.store import test_results as counting
from pytest_remote_ci.wire.records import Report

Figures = dict[str, list[float]]
#: Tests whose reports are stored at a time.
_BATCH = 100
_WITH, _WITHOUT = "with counting", "without counting"


def reports(number: int) -> list[JobEvent]:
    """Return the reports of one test that passed."""
    nodeid = f"tests/test_{number // _BATCH}.py::test_{number}[{'x' * 20}]"
    return [
        JobEvent(
            "report",
            fields=Report(d={"nodeid": nodeid, "when": when, "outcome": "passed", "duration": 0.1}).dump(),
        )
        for when in ("setup", "call", "teardown")
    ]


def seconds(batches: Sequence[Sequence[JobEvent]], *, counts: bool) -> float:
    """Return the processor seconds of storing these batches."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="results-"))
        store = stack.enter_context(closing(Store.open(Path(folder) / "runner.db")))
        if not counts:
            stack.enter_context(mock.patch.object(counting, "parts", return_value={}))
        epoch = store.lease.acquire("benchmark")
        store.jobs.create(Job("job"))
        began = time.process_time()
        for batch in batches:
            store.events.append("job", epoch, batch)
        return time.process_time() - began


def measure(arguments: argparse.Namespace, found: Figures) -> None:
    """Add all figures to `found` as they are taken."""
    numbers = range(arguments.tests)
    batches = [
        [event for number in numbers[start : start + _BATCH] for event in reports(number)]
        for start in numbers[::_BATCH]
    ]
    for _ in range(arguments.runs):
        found[_WITH].append(seconds(batches, counts=True))
        found[_WITHOUT].append(seconds(batches, counts=False))


def show(found: Figures) -> None:
    """Print medians and their ratio."""
    if not found[_WITHOUT]:
        return
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, value in medians.items():
        print(f"{name:<20}{value:10.3f} s")
    print(f"{'ratio':<20}{medians[_WITH] / medians[_WITHOUT]:10.2f}")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tests", type=positive, default=2000, help="tests whose reports are stored [2000]")
    parser.add_argument("--runs", type=positive, default=5, help="runs of each way [5]")
    parser.add_argument("--json", action="store_true", help="all figures, for programs")
    arguments = parser.parse_args()
    found: Figures = {_WITH: [], _WITHOUT: []}
    with report_at_end(lambda: found, show, as_json=arguments.json):
        measure(arguments, found)


if __name__ == "__main__":
    main()
