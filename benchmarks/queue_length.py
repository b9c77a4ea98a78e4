"""Measure what a long queue costs: ``python benchmarks/queue_length.py [--jobs 2000] [--runs 20] [--json]``.

A real store on an empty folder gets that many waiting jobs of ten users, and as many that are over. Then come, in
turns: summaries of a waiting job, cancels, lists by status and by name, and one decision of the controller. Figures are
milliseconds, medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from common import positive, report_at_end

from ci_runner.controller.decide import decide
from ci_runner.controller.snapshot import Policy, Snapshot
from ci_runner.model.job import Job, User, utcnow
from ci_runner.model.verdict import failed, ran
from ci_runner.store import Store

Figures = dict[str, list[float]]
_USERS = 10


def fill(store: Store, number: int) -> list[str]:
    """Add users and jobs; return the ids of the waiting ones."""
    epoch = store.lease.acquire("benchmark")
    for index in range(_USERS):
        store.users.create(User(f"user-{index}", "User", f"user{index}@example.org", utcnow()))
    waiting = []
    for index in range(number):
        user = f"user-{index % _USERS}"
        over = store.jobs.create(Job(f"over-{index}", user_id=user, name=f"over {index}")).id
        store.jobs.finish(over, epoch, failed("lost") if index % 100 == 0 else ran(0))
        store.jobs.cleaned(over, epoch)
        waiting.append(store.jobs.create(Job(f"waiting-{index}", user_id=user, name=f"waits {index}")).id)
    return waiting


def milliseconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return round(1000 * (time.perf_counter() - began), 3)


def measure(arguments: argparse.Namespace, found: Figures) -> None:
    """Add all figures to `found` as they are taken."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="queue-"))
        store = stack.enter_context(closing(Store.open(Path(folder) / "runner.db")))
        waiting = fill(store, arguments.jobs)
        policy = Policy(concurrency=1)
        for _ in range(arguments.runs):
            job_id = waiting.pop()
            jobs = tuple(store.jobs.open())
            seen = Snapshot(utcnow(), policy, jobs, served=store.jobs.served())
            calls: dict[str, Callable[[], object]] = {
                "summary": partial(store.jobs.get, job_id),
                "cancel": partial(store.jobs.request_cancel, job_id, "benchmark"),
                "summary after it": partial(store.jobs.get, job_id),
                "list of failed jobs": partial(store.jobs.list, "user-0", status="failed"),
                "list by name": partial(store.jobs.list, "user-0", query="no such name"),
                "decision": partial(decide, seen),
            }
            for name, call in calls.items():
                found[name].append(milliseconds(call))


def show(found: Figures) -> None:
    """Print one line per figure."""
    for name, values in found.items():
        if values:
            print(f"{name:<22} {statistics.median(values):9.3f} ms   (most: {max(values):.3f} ms)")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs", type=positive, default=2000, help="jobs that wait, and jobs that are over [2000]"
    )
    parser.add_argument("--runs", type=positive, default=20, help="calls of each kind [20]")
    parser.add_argument("--json", action="store_true", help="all figures, for programs")
    arguments = parser.parse_args()
    if arguments.runs >= arguments.jobs:
        parser.error("--runs must be less than --jobs")
    names = (
        "summary",
        "cancel",
        "summary after it",
        "list of failed jobs",
        "list by name",
        "decision",
    )
    found: Figures = {name: [] for name in names}
    with report_at_end(lambda: found, show, as_json=arguments.json):
        measure(arguments, found)


if __name__ == "__main__":
    main()
