"""What warm starts save: ``python benchmarks/warm_starts.py``.

Starts two runners on empty data directories, one with `warm-containers` and one without, and runs the same suite with
a local pytest and with both of them, in turns; one file is changed before each. Before a remote run it waits until
its runner is idle, as it is when a developer has read the last result. Figures are seconds, medians of `--runs`; the
phases are those of `overhead.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from common import positive, report_at_end
from overhead import Figures, local_run, remote_run
from private_runner import add_engine_options, parse_with_engine, private_runner
from suites import edit, make_plain

#: Way to run the suite → the figures of each run.
Runs = dict[str, list[Figures]]
#: Way to run the suite on a runner → how many containers may wait there.
RUNNERS = {"cold": "0", "warm": "2"}


def measure(arguments: argparse.Namespace, folder: Path, found: Runs) -> None:
    """Add the figures to `found` as they are taken; `folder` is empty."""
    with ExitStack() as runners:
        environs = {}
        for name, most in RUNNERS.items():
            place = folder / name
            place.mkdir()
            settings = {"CI_RUNNER_WARM_CONTAINERS": most}
            runner = private_runner(place, arguments.engine, arguments.base_image, settings)
            environs[name] = runners.enter_context(runner).environ(place)
        project = folder / "project"
        project.mkdir()
        make_plain(project)
        for environ in environs.values():
            remote_run(project, environ, folder / "clock")
        local = environs["cold"]
        local_run(project, local)
        for number in range(arguments.runs):
            edit(project, number)
            found["local"].append({"total": local_run(project, local)})
            for name, environ in environs.items():
                time.sleep(arguments.pause)
                found[name].append(remote_run(project, environ, folder / "clock"))


def medians(found: Runs) -> dict[str, Figures]:
    """Return the median of each figure of each way that was measured."""
    return {
        way: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for way, runs in found.items()
        if runs
    }


def show(found: dict[str, Figures]) -> None:
    """Print the medians, and what they are to the local one."""
    for way, figures in found.items():
        local = found["local"]["total"]
        phases = " ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "total")
        total = figures["total"]
        print(
            f"{way:<6} {total:.2f} s, {total - local:+.2f} s, {total / local:.2f} × local  {phases}".rstrip()
        )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=positive, default=9, help="runs of each kind [9]")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds before each remote run [3]")
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="medians as JSON")
    arguments = parse_with_engine(parser)
    found: Runs = {"local": [], **{name: [] for name in RUNNERS}}
    with (
        report_at_end(lambda: medians(found), show, as_json=arguments.json),
        tempfile.TemporaryDirectory(prefix="warm-") as made,
    ):
        measure(arguments, Path(made), found)


if __name__ == "__main__":
    main()
