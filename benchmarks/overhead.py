"""What a remote run costs over a local one, by phase: ``python benchmarks/overhead.py [--json]``.

Starts a runner of its own on an empty data directory and runs small suites with ``pytest --remote-ci``: cold (nothing
is prepared: one run per data directory), warm (nothing changed since the last run) and edited (one file changed),
beside the same suite run by a local pytest. Then it presses Ctrl-C while a test sleeps. Times are seconds, medians of
`--runs`; all clocks are this machine's.

start-up  from the start of the process to the hand-over of pytest's session
collect   until the project's files are known and hashed
pack      until the submission begins
upload    until the runner has answered with the job's id
queue     until the job is taken up
prepare   until workspace and environment are there
start     until the command runs in its container
test      until its last output was made
finish    until the client has ended
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import itertools
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import not_negative, positive, report_at_end
from private_runner import add_engine_options, parse_with_engine, private_runner
from suites import SUITES, edit, make_sleeper

PHASES = ("start-up", "collect", "pack", "upload", "queue", "prepare", "start", "test", "finish")
Figures = dict[str, float]

_numbers = itertools.count(1)


def local_run(project: Path, environ: dict[str, str]) -> float:
    """Seconds of one local run."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the local run failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


def remote_run(project: Path, environ: dict[str, str], clock: Path) -> Figures:
    """The phases of one remote run, their sum as "total", and when the first output was shown as "first"."""
    clock.unlink(missing_ok=True)
    more = {
        "PYTEST_PLUGINS": "client_clock",
        "CLIENT_CLOCK": str(clock),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--remote-ci", "-q"],
        cwd=project,
        env=environ | more,
        capture_output=True,
        text=True,
        check=False,
    )
    ended = time.time()
    if done.returncode:
        raise SystemExit(f"the remote run failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    marks = [json.loads(line) for line in clock.read_text().splitlines()]
    return _phases(marks, began, ended)


def _phases(marks: list[dict[str, Any]], began: float, ended: float) -> Figures:
    at = {mark["name"]: mark["at"] for mark in marks if mark["name"] != "event"}
    states = {mark["phase"]: _seconds(mark) for mark in marks if mark.get("type") == "state"}
    output = [mark for mark in marks if mark.get("type") == "log" and mark.get("stream") == "terminal"]
    steps = [
        began,
        at["handover"],
        at["collected"],
        at["upload"],
        at["submitted"],
        states["preparing"],
        states["starting"],
        states["testing"],
        _seconds(output[-1]),
        ended,
    ]
    # The job may be taken up before the client has the answer: no phase is shorter than nothing.
    steps = list(itertools.accumulate(steps, max))
    figures = {
        name: after - before for name, (before, after) in zip(PHASES, itertools.pairwise(steps), strict=True)
    }
    return figures | {"total": ended - began, "first": output[0]["at"] - began}


def _seconds(mark: dict[str, Any]) -> float:
    return dt.datetime.fromisoformat(mark["timestamp"].replace("Z", "+00:00")).timestamp()


def interrupted_run(project: Path, environ: dict[str, str], until: str) -> float:
    """Seconds from Ctrl-C, pressed when a line with `until` was printed, to the client's end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--remote-ci", "-s"],
        cwd=project,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        for line in process.stdout:
            if until in line:
                break
        began = time.perf_counter()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        process.wait(60)
        seconds = time.perf_counter() - began
    if process.returncode != 2 or "was cancelled." not in rest:
        raise SystemExit(f"the run was not cancelled ({process.returncode}):\n{rest}")
    return seconds


def measure_suite(
    name: str, folder: Path, environ: dict[str, str], runs: int, found: dict[str, list[Any]]
) -> None:
    """Add local, warm and edited runs of a suite, in turns, so that what else the machine does hits all alike."""
    project = folder / f"project-{name}"
    project.mkdir()
    SUITES[name](project)
    time.sleep(2.5)  # digests of files that were just written are not remembered
    clock = folder / "clock"
    found["first"].append(remote_run(project, environ, clock))
    local_run(project, environ)
    for _ in range(runs):
        found["local"].append(local_run(project, environ))
        found["warm"].append(remote_run(project, environ, clock))
        edit(project, next(_numbers))
        found["edited"].append(remote_run(project, environ, clock))


def measure_interrupts(folder: Path, environ: dict[str, str], runs: int, found: list[float]) -> None:
    """Add the seconds from Ctrl-C to the client's end while a test sleeps."""
    project = folder / "project-sleeper"
    project.mkdir()
    make_sleeper(project)
    for _ in range(runs):
        found.append(interrupted_run(project, environ, "sleeping"))


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """An empty folder; what a runner's jobs wrote in it may be another user's."""
    made = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def measure(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Add all figures to `result` as they are taken."""
    for name in arguments.suites:
        result[name] = {kind: [] for kind in ("cold", "first", "local", "warm", "edited")}
    for round_ in range(max(1, arguments.cold_runs)):
        for name in arguments.suites if arguments.cold_runs else ():
            with (
                fresh_folder() as folder,
                private_runner(folder, arguments.engine, arguments.base_image) as runner,
            ):
                project = folder / "project"
                project.mkdir()
                SUITES[name](project)
                figures = remote_run(project, runner.environ(folder), folder / "clock")
                result[name]["cold"].append(figures)
                progress(f"{name} cold {round_ + 1}: {figures['total']:.2f} s")
    with fresh_folder() as folder, private_runner(folder, arguments.engine, arguments.base_image) as runner:
        environ = runner.environ(folder)
        for name in arguments.suites:
            measure_suite(name, folder, environ, arguments.runs, result[name])
            progress(f"{name}: done")
        if arguments.interrupts:
            result["interrupt"] = {"sleeping": []}
            measure_interrupts(folder, environ, arguments.interrupts, result["interrupt"]["sleeping"])


def progress(text: str) -> None:
    """Say how far we are, beside the results."""
    print(text, file=sys.stderr, flush=True)


def summary(raw: dict[str, Any]) -> dict[str, Any]:
    """Medians and ratios of them."""
    result: dict[str, Any] = {}
    for name, kinds in raw.items():
        if name == "interrupt":
            result[name] = {kind: statistics.median(values) for kind, values in kinds.items() if values}
            continue
        local = statistics.median(kinds["local"]) if kinds["local"] else None
        result[name] = {} if local is None else {"local": local}
        for kind in ("cold", "warm", "edited"):
            if kinds[kind]:
                keys = (*PHASES, "total", "first")
                medians = {key: statistics.median(run[key] for run in kinds[kind]) for key in keys}
                if local is not None:
                    medians |= {"overhead": medians["total"] - local, "ratio": medians["total"] / local}
                result[name][kind] = medians
    return result


def show(figures: dict[str, Any]) -> None:
    """Print a table of medians per suite."""
    for name, kinds in figures["medians"].items():
        if name == "interrupt":
            for kind, seconds in kinds.items():
                print(f"Ctrl-C, {kind}: {seconds:.2f} s to the client's end")
            continue
        columns = [kind for kind in ("cold", "warm", "edited") if kind in kinds]
        print(f"{name}: local pytest {kinds['local']:.3f} s" if "local" in kinds else name)
        print(" " * 12 + "".join(f"{column:>10}" for column in columns))
        for key in (*PHASES, "total", "first", "overhead", "ratio"):
            if all(key in kinds[column] for column in columns):
                print(f"  {key:<10}" + "".join(f"{kinds[column][key]:10.3f}" for column in columns))
        print()


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=positive, default=7, help="warm and edited runs of each suite [7]")
    parser.add_argument("--cold-runs", type=not_negative, default=1, help="cold runs of each suite [1]")
    parser.add_argument("--interrupts", type=not_negative, default=3, help="runs that Ctrl-C ends [3]")
    parser.add_argument("--suites", nargs="+", choices=sorted(SUITES), default=list(SUITES))
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print medians and all runs as JSON")
    arguments = parse_with_engine(parser)
    raw: dict[str, Any] = {}
    with report_at_end(lambda: {"medians": summary(raw), "runs": raw}, show, as_json=arguments.json):
        measure(arguments, raw)


if __name__ == "__main__":
    main()
