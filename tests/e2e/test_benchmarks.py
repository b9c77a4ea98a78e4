"""Each benchmark runs with its smallest numbers, wherever and by whoever it is started."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.developer import Done, run
from support.docker import TEST_IMAGE
from support.runner import Runner

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
#: Program → its smallest numbers, and a figure that it must give.
SMALLEST: dict[str, tuple[list[str], str]] = {
    "builds": (["--rounds", "1", "--image", TEST_IMAGE], "layer"),
    "collect": (["--files", "60"], "warm"),
    "compare": (["--base-image", TEST_IMAGE, "--rounds", "1", "--suites", "tiny"], "unchanged"),
    "output_memory": (["--megabytes", "1"], "client/direct"),
    "overhead": (
        ["--engine", "process", "--suites", "plain", "--runs", "1", "--cold-runs", "1", "--interrupts", "1"],
        "sleeping",
    ),
    "queue_length": (["--jobs", "20", "--runs", "2"], "summary"),
    "replay": (["--tests", "20", "--runs", "1", "--sleepers", "5"], "heard"),
    "results": (["--tests", "20", "--runs", "1"], "without counting"),
    "runs": (["4", "--seconds", "0.5", "--turns", "1"], "run / plain"),
    "startup": (["--runs", "1"], "elapsed difference"),
    "targets": (
        [
            *("--engine", "process", "--runs", "1", "--files", "60", "--megabytes", "1"),
            *("--only", "tiny", "upload", "pick-up", "idle"),
        ],
        "met",
    ),
    "warm_starts": (["--engine", "process", "--runs", "1", "--pause", "0"], "warm"),
}
#: Modules that benchmarks import.
SHARED = {"buildbot_try", "client_clock", "common", "private_runner", "replay_clock", "suites"}


def environment(tmp_path: Path) -> dict[str, str]:
    """Settings of somebody who uses the product, none of which concerns a benchmark."""
    packages = Runner(tmp_path, "process", "").environment()
    return packages | {
        "CI_RUNNER_BASE_IMAGE": "no-such-image",
        "CI_RUNNER_ENGINE": "docker",
        "CI_RUNNER_PORT": "1",
        "REMOTE_CI_URL": "http://127.0.0.1:9",
        "REMOTE_CI_API_KEY": "of-another-runner",
        "PYTEST_ADDOPTS": "--no-such-option",
        "PYTHONWARNINGS": "error",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_DIR": str(tmp_path / "no-repository"),
        "HOME": str(tmp_path / "no-home"),
        "CI": "true",
        "FORCE_COLOR": "1",
        "COLUMNS": "20",
    }


def benchmark(name: str, *args: str, cwd: Path) -> Done:
    command = [sys.executable, str(FOLDER / f"{name}.py"), *args]
    return run(command, cwd=cwd, env=environment(cwd), timeout=560)


def keys(value: Any) -> set[str]:
    """All names of figures in it."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    return set(value).union(*map(keys, value.values())) if isinstance(value, dict) else set()


def test_every_benchmark_is_run_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} - SHARED == set(SMALLEST)


@pytest.mark.parametrize("name", SMALLEST)
def test_it_explains_itself(name: str, tmp_path: Path) -> None:
    done = benchmark(name, "--help", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert f"usage: {name}.py" in done.out
    wrong = benchmark(name, "--no-such-option", cwd=tmp_path)
    assert wrong.code == 2
    assert "Traceback" not in wrong.err


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.docker] * (name in ("builds", "compare"))) for name in SMALLEST],
)
def test_it_gives_figures_with_its_smallest_numbers(name: str, tmp_path: Path) -> None:
    args, figure = SMALLEST[name]
    done = benchmark(name, *args, "--json", cwd=tmp_path)
    assert done.code == 0, done.text
    # One document, or one a line.
    found = [json.loads(done.out)] if name != "collect" else list(map(json.loads, done.out.splitlines()))
    assert figure in keys(found)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_figures_that_were_taken_are_shown_when_a_later_part_fails(tmp_path: Path) -> None:
    args = [
        "--engine",
        "process",
        "--suites",
        "plain",
        "--runs",
        "1",
        "--cold-runs",
        "0",
        "--interrupts",
        "9",
    ]
    command = [sys.executable, str(FOLDER / "overhead.py"), *args, "--json"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert "plain: done" in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 1, err
    assert "stopped" in err
    assert json.loads(out)["medians"]["plain"]["warm"]["total"] > 0
