"""What a run of a pipeline costs the controller: overhead per job of 200 trivial ones, and a tick beside an idle one.

``python benchmarks/runs.py [JOBS] [--json]``. A real store and controller over the scripted engine, whose containers
end at once: what is left is deciding, writing and being woken. For the second figure the 200 jobs of one run last, four
at a time run and the others wait in the plan, and ticks are timed against those of a controller with nothing to do, in
turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from common import positive, report_at_end
from support.controller import Runner, runner
from support.pipelines import plan_of, planned
from support.waiting import wait_until

from ci_runner.controller import loop
from ci_runner.controller.engines.memory import MemoryEngine, Script
from ci_runner.controller.snapshot import Policy

Figures = dict[str, float]


@contextmanager
def fresh(script: Script, concurrency: int) -> Iterator[Runner]:
    """A runner of one's own on an empty folder."""
    engine = MemoryEngine(script=lambda spec: script)
    with tempfile.TemporaryDirectory() as folder:
        with runner(Path(folder), engine, Policy(concurrency=concurrency), interval=0.05) as found:
            yield found
        engine.close()


@contextmanager
def timed() -> Iterator[list[float]]:
    """Processor seconds of each tick: what others do on the machine does not count."""
    ticks: list[float] = []
    original = loop._Tick.__call__

    def call(self: loop._Tick, *, refresh: bool) -> None:
        began = time.thread_time()
        original(self, refresh=refresh)
        ticks.append(time.thread_time() - began)

    loop._Tick.__call__ = call  # type: ignore[method-assign]  # a patch
    try:
        yield ticks
    finally:
        loop._Tick.__call__ = original  # type: ignore[method-assign]  # a patch


def overhead(jobs: int, figures: Figures) -> None:
    """Add the wall time per trivial job, as jobs of one run and as jobs that were submitted one by one."""
    with fresh(Script(), 8) as found:
        began = time.perf_counter()
        with found.controller():
            ids = [found.submit() for _ in range(jobs)]
            wait_until(lambda: not found.store.jobs.open(), 600, what="all jobs")
            alone = (time.perf_counter() - began) / len(ids)
    with fresh(Script(), 8) as found:
        run = found.submit_run(plan_of(*(planned(f"job{number}", "true") for number in range(jobs))))
        began = time.perf_counter()
        with found.controller():
            wait_until(lambda: not found.store.runs.open_versions(), 600, what="the run")
            together = (time.perf_counter() - began) / jobs
        assert found.store.runs.get(run.id).success  # type: ignore[union-attr]  # an error if it is missing
    figures |= {"ms per job of a run": together * 1000, "ms per job alone": alone * 1000}


def ticks(jobs: int, look: float, turns: int, figures: Figures) -> None:
    """Add the 95th percentile of ticks (processor time) with a run of so many jobs under way, against an idle one.

    And against one with as many plain jobs as the run has in the queue at once: what is left then is the run itself.
    """
    p95: dict[str, list[float]] = {"idle": [], "plain": [], "run": []}
    last = Script(exit_after=None)
    with fresh(last, 4) as idle, fresh(last, 4) as plain, fresh(last, 4) as busy:
        busy.submit_run(plan_of(*(planned(f"job{number}", "true") for number in range(jobs))))
        for _ in range(10):
            plain.submit()
        for _ in range(turns):
            for name, found in (("idle", idle), ("plain", plain), ("run", busy)):
                with found.controller() as controller, timed() as seconds:
                    controller.ready.wait(30)
                    time.sleep(1.0)  # what is to be started has been
                    seconds.clear()
                    time.sleep(look)
                    p95[name].append(percentile(seconds))
    for name, values in p95.items():
        figures[f"tick p95, {name}, ms"] = statistics.median(values) * 1000
    run = figures["tick p95, run, ms"]
    figures["run / idle"] = run / figures["tick p95, idle, ms"]
    figures["run / plain"] = run / figures["tick p95, plain, ms"]


def percentile(seconds: list[float]) -> float:
    """The 95th."""
    if len(seconds) < 2:
        raise SystemExit("too few ticks were seen: look longer (--seconds)")
    return statistics.quantiles(seconds, n=20)[-1]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="?", type=positive, default=200, help="jobs of a run [200]")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to look at ticks, each time [3]")
    parser.add_argument("--turns", type=positive, default=5, help="how often to look at each controller [5]")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    arguments = parser.parse_args()
    figures: Figures = {}
    with report_at_end(lambda: figures, show, as_json=arguments.json):
        overhead(arguments.jobs, figures)
        ticks(arguments.jobs, arguments.seconds, arguments.turns, figures)


def show(figures: Figures) -> None:
    """Print a table."""
    for name, value in figures.items():
        print(f"{name:<24}{value:9.2f}")


if __name__ == "__main__":
    main()
