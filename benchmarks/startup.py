"""What the plugin costs a pytest that does not use it: ``python benchmarks/startup.py [--runs 40] [--json]``.

Runs an empty session with and without the plugin, in turns, and compares the medians of elapsed and of processor time
(milliseconds); and times what noise cannot hide within one process: the plugin's own import and registration.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import clean_environment, positive, report_at_end

#: Run in a process of its own: milliseconds from pytest being there to the plugin having done all it ever does.
_INSIDE = """
import time
import pytest
from _pytest.config import get_config
config = get_config(["-q"])
config.invocation_params = config.InvocationParams(args=("-q",), plugins=None, dir=config.invocation_params.dir)
before = time.perf_counter()
from pytest_remote_ci import plugin
config.pluginmanager.register(plugin, "remote_ci_measured")
plugin.pytest_cmdline_main(config)
print((time.perf_counter() - before) * 1000)
"""


def session(folder: Path, *options: str) -> tuple[float, float]:
    """Elapsed and processor milliseconds of one session without tests."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    elapsed = time.perf_counter() - began
    if done.returncode != 5:
        raise SystemExit(f"pytest did not end as it should:\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return elapsed * 1000, processor * 1000


def inside(folder: Path) -> float:
    """Milliseconds of the plugin's own work in one process."""
    command = [sys.executable, "-c", _INSIDE]
    done = subprocess.run(
        command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the plugin could not be timed:\n{done.stderr}")
    return float(done.stdout)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=positive, default=40, help="sessions with and without the plugin [40]")
    parser.add_argument("--json", action="store_true", help="medians as JSON")
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with report_at_end(lambda: summary(figures), show, as_json=arguments.json):
        measure(arguments.runs, figures)


def measure(runs: int, figures: dict[str, list[float]]) -> None:
    """Add the milliseconds of so many runs to `figures`."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        session(folder)
        for _ in range(runs):
            for name, options in (("with", ()), ("without", ("-p", "no:remote_ci"))):
                elapsed, processor = session(folder, *options)
                figures.setdefault(f"elapsed {name}", []).append(elapsed)
                figures.setdefault(f"processor {name}", []).append(processor)
            figures.setdefault("inside", []).append(inside(folder))


def summary(figures: dict[str, list[float]]) -> dict[str, float]:
    """Medians, and the differences of those with and without the plugin."""
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for kind in ("elapsed", "processor"):
        if f"{kind} without" in medians:
            medians[f"{kind} difference"] = medians[f"{kind} with"] - medians[f"{kind} without"]
    return medians


def show(medians: dict[str, float]) -> None:
    """Print a table."""
    for name, value in medians.items():
        print(f"{name:<22}{value:8.3f} ms")


if __name__ == "__main__":
    main()
