"""What a native session costs: ``python benchmarks/replay.py [--tests 10000] [--runs 3] [--json]``.

One suite of tests that do nothing, run in turns by a plain pytest, by ``pytest -n 1`` (pytest-xdist, which replays
reports of another process, too) and by ``pytest --remote-ci`` on a runner of its own. Processor time is that of whole
processes, user and system:

direct   the plain pytest (like the others without the plugins that only this environment has)
xdist    both processes of ``pytest -n 1``
client   the developer's pytest
job      worker, pytest and recorder, over there, up to the end of their processes
runner   the server and the controller

Added per test is what a way costs beyond the plain pytest. Then, with tests that sleep, how long it takes from the end
of a test to the local hook that hears of it, and to the line on the screen. Peak memory is that of the developer's
process, for a tenth of the tests and for all.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import positive, report_at_end
from private_runner import PrivateRunner, private_runner

#: Tests in one file.
_PER_FILE = 100
#: Tests whose way to the screen is timed, and seconds that each sleeps.
_SLEEPERS, _NAP = 60, 0.05
#: Seconds in which the runner has tidied up behind a job, and all its processes have ended.
_SETTLED = 1.0
#: From linux/prctl.h.
_PR_SET_CHILD_SUBREAPER = 36
Figures = dict[str, float]


def make_suite(folder: Path, tests: int) -> Path:
    """A project of that many tests that do nothing."""
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    for number in range(-(-tests // _PER_FILE)):
        count = min(_PER_FILE, tests - number * _PER_FILE)
        lines = [f"def test_{index:03}():\n    pass\n\n" for index in range(count)]
        (folder / f"test_{number:04}.py").write_text("".join(lines))
    return folder


def make_sleepers(folder: Path, tests: int) -> Path:
    """A project whose tests end one after the other, slowly enough for each to be seen."""
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_naps.py").write_text(
        "import time\nimport pytest\n"
        f"@pytest.mark.parametrize('number', range({tests}))\n"
        f"def test_nap(number):\n    time.sleep({_NAP})\n"
    )
    return folder


def run(project: Path, environ: Mapping[str, str], *args: str) -> Figures:
    """Wall and processor seconds and peak bytes of ``pytest ARGS``, children included where it waited for them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:timeout", *args]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=project, env=dict(environ), stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        if process.returncode:
            output.seek(0)
            raise SystemExit(
                f"{' '.join(command)} ended with {process.returncode}:\n{output.read().decode()}"
            )
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024.0}


def processor_time(pid: int) -> float:
    """Seconds that a process has used itself."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def inherit_orphans() -> None:
    """What outlives its parent becomes a child of this process (prctl(2)): the engine's supervisor of a job does."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def processor_time_of_orphans() -> float:
    """Seconds of those that are over, and of all that they waited for."""
    seconds = 0.0
    while (ended := os.wait4(-1, os.WNOHANG))[0]:
        seconds += ended[2].ru_utime + ended[2].ru_stime
    return seconds


def remote(project: Path, runner: PrivateRunner, environ: Mapping[str, str]) -> Figures:
    """One remote run: `client`, `job` and `runner` are processor seconds."""
    before = processor_time(runner.pid)
    processor_time_of_orphans()
    figures = run(project, environ, "--remote-ci")
    time.sleep(_SETTLED)
    job = processor_time_of_orphans()
    return figures | {"client": figures["cpu"], "job": job, "runner": processor_time(runner.pid) - before}


def delays(project: Path, environ: Mapping[str, str], folder: Path) -> tuple[list[float], list[float]]:
    """Seconds from the end of each test to the local hook, and to its line on the screen."""
    clock = folder / "hooks"
    more = {
        "PYTEST_PLUGINS": "replay_clock",
        "REPLAY_CLOCK": str(clock),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    command = [sys.executable, "-m", "pytest", "--remote-ci", "-v"]
    process = subprocess.Popen(
        command,
        cwd=project,
        env={**environ, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    shown: list[float] = []
    assert process.stdout is not None
    with process, process.stdout:
        for line in process.stdout:
            if "PASSED" in line:
                shown.append(time.time())
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    marks = [json.loads(line) for line in clock.read_text().splitlines()]
    heard = [mark["heard"] - mark["ended"] for mark in marks]
    return heard, [at - mark["ended"] for at, mark in zip(shown, marks, strict=True)]


def measure(arguments: argparse.Namespace, raw: dict[str, Any]) -> None:
    """Add all figures to `raw` as they are taken."""
    found: dict[str, list[Figures]] = {"direct": [], "xdist": [], "remote": []}
    raw |= {"runs": found, "peaks": {}, "heard": [], "shown": [], "tests": arguments.tests}
    with tempfile.TemporaryDirectory(prefix="replay-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        with private_runner(folder, "process", None) as runner:
            environ = runner.environ(folder)
            suite = make_suite(folder / "suite", arguments.tests)
            small = make_suite(folder / "small", max(1, arguments.tests // 10))
            remote(small, runner, environ)  # prepares the environment
            raw["peaks"] = {
                "client, a tenth": remote(small, runner, environ)["peak"],
                "direct, a tenth": run(small, environ, "-p", "no:xdist")["peak"],
            }
            for number in range(arguments.runs):
                found["direct"].append(run(suite, environ, "-p", "no:xdist"))
                found["remote"].append(remote(suite, runner, environ))
                if not arguments.without_xdist:
                    found["xdist"].append(run(suite, environ, "-n", "1"))
                print(f"round {number + 1} of {arguments.runs} is over", file=sys.stderr, flush=True)
            sleepers = make_sleepers(folder / "sleepers", arguments.sleepers)
            raw["heard"], raw["shown"] = delays(sleepers, environ, folder)


def summary(raw: dict[str, Any]) -> dict[str, float]:
    """Medians, ratios, microseconds per test."""

    def median(way: str, key: str) -> float:
        return float(statistics.median(figures[key] for figures in raw["runs"][way]))

    if not (raw.get("runs") and raw["runs"]["direct"] and raw["runs"]["remote"]):
        return {}
    per_test = 1e6 / raw["tests"]
    direct = median("direct", "cpu")
    parts = {key: median("remote", key) for key in ("client", "job", "runner")}
    added = (parts["client"] + parts["job"] - direct) * per_test
    result = {
        "direct, s": direct,
        **{f"{name}, s": value for name, value in parts.items()},
        "added by client and job, us/test": added,
        "runner, us/test": parts["runner"] * per_test,
        "wall, remote / direct": median("remote", "wall") / median("direct", "wall"),
    }
    if raw["runs"]["xdist"]:
        xdist = (median("xdist", "cpu") - direct) * per_test
        result |= {
            "xdist, s": median("xdist", "cpu"),
            "added by xdist, us/test": xdist,
            "added, remote / xdist": added / xdist,
            "wall, xdist / direct": median("xdist", "wall") / median("direct", "wall"),
        }
    result |= {
        "client peak, MB": median("remote", "peak") / 1e6,
        "direct peak, MB": median("direct", "peak") / 1e6,
        **{f"{name} of the tests, peak, MB": value / 1e6 for name, value in raw["peaks"].items()},
    }
    if raw["heard"]:
        result |= _delays_of(raw)
    return result


def _delays_of(raw: dict[str, Any]) -> dict[str, float]:
    return {
        "test to hook, ms, median": statistics.median(raw["heard"]) * 1000,
        "test to hook, ms, p95": sorted(raw["heard"])[int(len(raw["heard"]) * 0.95)] * 1000,
        "test to screen, ms, median": statistics.median(raw["shown"]) * 1000,
        "first test to screen, ms": raw["shown"][0] * 1000,
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tests", type=positive, default=10_000, help="tests that do nothing [10000]")
    parser.add_argument("--runs", type=positive, default=3, help="runs of each way [3]")
    parser.add_argument(
        "--sleepers",
        type=positive,
        default=_SLEEPERS,
        help=f"tests whose way to the screen is timed [{_SLEEPERS}]",
    )
    parser.add_argument("--without-xdist", action="store_true", help="do not compare with pytest-xdist")
    parser.add_argument("--json", action="store_true", help="all figures, for programs")
    arguments = parser.parse_args()
    if not arguments.without_xdist and importlib.util.find_spec("xdist") is None:
        parser.error("pytest-xdist is missing: install it, or give --without-xdist")
    inherit_orphans()
    raw: dict[str, Any] = {}
    with report_at_end(lambda: raw, show, as_json=arguments.json):
        measure(arguments, raw)


def show(raw: dict[str, Any]) -> None:
    """Print a summary."""
    for name, value in summary(raw).items():
        print(f"{name:<40}{value:10.2f}")


if __name__ == "__main__":
    main()
