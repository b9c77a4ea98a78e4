"""What warm starts save: ``python benchmarks/warm_starts.py``.

Starts two runners on empty data directories, one with `warm-containers` and one without, and runs the same suite with
a local pytest and with both of them, in turns; one file is changed before each. Before a remote run it waits until
its runner is idle, as it is when a developer has read the last result. Figures are seconds, medians of `--runs`.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import positive
from overhead import local_run, remote_run
from private_runner import add_engine_options, parse_with_engine, private_runner
from suites import edit, make_plain


def measure(arguments: argparse.Namespace, result: dict[str, list[Any]]) -> None:
    """Add the figures to `result` as they are taken."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    try:
        with contextlib.ExitStack() as stack:
            environs = {}
            for name, most in (("cold", "0"), ("warm", "2")):
                place = folder / name
                place.mkdir()
                settings = {"CI_RUNNER_WARM_CONTAINERS": most}
                runner = stack.enter_context(
                    private_runner(place, arguments.engine, arguments.base_image, settings)
                )
                environs[name] = runner.environ(place)
            project = folder / "project"
            project.mkdir()
            make_plain(project)
            local = environs["cold"]
            for environ in environs.values():
                remote_run(project, environ, folder / "clock")
            local_run(project, local)
            for number in range(arguments.runs):
                edit(project, number)
                result["local"].append(local_run(project, local))
                for name, environ in environs.items():
                    time.sleep(arguments.pause)
                    result[name].append(remote_run(project, environ, folder / "clock"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=positive, default=9)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds before each remote run")
    add_engine_options(parser)
    arguments = parse_with_engine(parser)
    result: dict[str, list[Any]] = {"local": [], "cold": [], "warm": []}
    measure(arguments, result)
    local = statistics.median(result["local"])
    print(f"local  {local:.2f} s")
    for name in ("cold", "warm"):
        total = statistics.median(run["total"] for run in result[name])
        phases = " ".join(
            f"{phase} {statistics.median(run[phase] for run in result[name]):.3f}"
            for phase in result[name][0]
            if phase != "total"
        )
        print(f"{name}   {total:.2f} s, {total - local:+.2f} s over local, {total / local:.2f} × ({phases})")


if __name__ == "__main__":
    main()
