"""`kill -9` of the controller at each of its failpoints loses nothing, repeats nothing and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.controller import POLICY, Runner, check_invariants, process_engine, runner
from support.waiting import wait_until

import ci_runner.controller.loop  # noqa: F401  # registers the failpoints
from ci_runner.failpoints import REGISTRY
from ci_runner.storage.blobs import BlobStore

TESTS = Path(__file__).parents[1]
#: Failpoints of the real preparer, of the collector and of runs (`test_runs_killed`): there is nothing to do for them.
PREPARER = (
    "controller.build.",
    "controller.cell.",
    "controller.environment.",
    "controller.tree.",
    "controller.collect.",
    "controller.keep.",
    "controller.run.",
)
#: Every other failpoint of the controller, and of the transactions that only the controller makes.
POINTS = sorted(
    name
    for name in REGISTRY
    if name.startswith(("controller.", "store.jobs.advance.", "store.jobs.finish.", "store.events.append."))
    and not name.startswith(PREPARER)
)


#: Writes a file into the workspace, which the process engine has in the working folder.
LEAVE = "open('left', 'w').write('behind')"


class Mix:
    """Six jobs that between them go through everything a controller does."""

    def __init__(self, found: Runner) -> None:
        self._found = found
        self._ran = found.data_dir / "ran"
        self._ran.mkdir()
        self.passing = self._submit(f"{LEAVE}; print('fine')", artifacts=["**"])
        self.failing = self._submit(f"{LEAVE}; sys.stderr.write('bad\\n'); sys.exit(1)", artifacts=["left"])
        self.building = self._submit("print('built')", build=0.1)
        self.replaced = self._submit("print('second')", broken_attempts=1)
        self.cancelled = self._submit("time.sleep(60)")
        self.stubborn = self._submit("signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)")
        self.ids = [
            self.passing,
            self.failing,
            self.building,
            self.replaced,
            self.cancelled,
            self.stubborn,
        ]

    def _submit(self, body: str, artifacts: Sequence[str] = (), **extra: object) -> str:
        name = f"job{len(list(self._found.store.jobs.list()))}"
        script = (
            "import os, signal, sys, time\n"
            f"with open({str(self._ran / name)!r}, 'a') as file: file.write('ran\\n')\n{body}\n"
        )
        command = [sys.executable, "-c", script]
        return self._found.submit(name=name, artifacts=[*artifacts], extra={"command": command, **extra})

    def times_run(self, job_id: str) -> int:
        file = self._ran / str(self._found.job(job_id).name)
        return len(file.read_text().splitlines()) if file.exists() else 0

    def cancel_when_running(self) -> bool:
        """Ask for the end of those that would sleep, once their commands run; whether that is done."""
        for job_id in (self.cancelled, self.stubborn):
            if self.times_run(job_id) and self._found.job(job_id).cancel_requested_at is None:
                self._found.store.jobs.request_cancel(job_id, "its user")
        return all(self._found.job(job_id).cancel_requested_at for job_id in (self.cancelled, self.stubborn))

    def is_over(self) -> bool:
        self.cancel_when_running()
        return all(self._found.job(job_id).cleaned_at is not None for job_id in self.ids)


def start(data_dir: Path, **environ: str) -> subprocess.Popen[bytes]:
    log = (data_dir / "controller.log").open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, str(TESTS / "faults" / "controller_process.py"), str(data_dir)],
            env={**os.environ, "PYTHONPATH": str(TESTS), "CI_RUNNER_ALLOW_FAILPOINTS": "1", **environ},
            stdout=log,
            stderr=log,
        )


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Runner]:
    engine = process_engine(tmp_path)
    with runner(tmp_path, engine, POLICY) as made:
        yield made
    for item in engine.list():
        engine.remove(item.id)
    engine.close()


def finish(found: Runner, mix: Mix) -> None:
    """Let a new controller end everything, then check what must hold."""
    over = {job_id: job for job_id in mix.ids if (job := found.job(job_id)).is_over}
    process = start(found.data_dir)
    try:
        wait_until(
            mix.is_over, 60, what=f"all over; {(found.data_dir / 'controller.log').read_text()[-3000:]}"
        )
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)  # the latter before it could handle the signal
    check_invariants(found, mix.ids)
    assert found.store.jobs.pending_notifications() == []
    told = (found.data_dir / "told").read_text().split()
    assert set(told) == set(mix.ids), "told at least once"
    for job_id, before in over.items():
        after = found.job(job_id)
        assert (after.status, after.exit_code, after.reason, after.end_time) == (
            before.status,
            before.exit_code,
            before.reason,
            before.end_time,
        ), "a terminal row stays as it is"
    jobs = {name: found.job(getattr(mix, name)) for name in ("passing", "failing", "building", "replaced")}
    assert {name: (job.status, job.exit_code, job.reason) for name, job in jobs.items()} == {
        "passing": ("completed", 0, None),
        "failing": ("completed", 1, None),
        "building": ("completed", 0, None),
        "replaced": ("completed", 0, None),
    }
    assert found.job(mix.cancelled).status == found.job(mix.stubborn).status == "cancelled"
    assert {job_id: mix.times_run(job_id) for job_id in mix.ids} == dict.fromkeys(mix.ids, 1), (
        "run exactly once"
    )
    for job_id in (mix.passing, mix.failing):
        [left] = found.store.artifacts.list(job_id)
        with BlobStore(found.data_dir, None).open(left.sha256) as file:
            assert (left.path, file.read()) == ("left", b"behind"), "left behind once, whole"
        artifacts = found.events(job_id)[-1].fields["artifacts"]
        assert isinstance(artifacts, dict)
        assert artifacts["files"] == 1
    assert found.text(mix.passing) == "fine\n"
    assert found.text(mix.failing, "stderr") == "bad\n"


def test_the_mix_reaches_every_failpoint(found: Runner, tmp_path: Path) -> None:
    mix = Mix(found)
    trace = tmp_path / "trace"
    process = start(tmp_path, CI_RUNNER_FAILPOINT_TRACE=str(trace))
    try:
        wait_until(mix.is_over, 60, what="all over")
        wait_until(lambda: set(trace.read_text().split()) >= set(POINTS), 10, what="all failpoints reached")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finish(found, mix)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("point", POINTS)
def test_a_controller_killed_there(found: Runner, tmp_path: Path, point: str) -> None:
    mix = Mix(found)
    hit = (
        "1" if any(part in point for part in (".reap.", ".retry.", ".kill.", ".tell.")) else "2"
    )  # where there is one
    process = start(tmp_path, CI_RUNNER_FAILPOINTS=f"{point}=kill@{hit}")
    try:
        wait_until(lambda: (mix.cancel_when_running(), process.poll())[1] is not None, 60, what="its death")
        assert process.returncode == -signal.SIGKILL
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    finish(found, mix)


def test_a_controller_that_is_killed_again_and_again(found: Runner, tmp_path: Path) -> None:
    mix = Mix(found)
    for point in (
        "claim.after",
        "prepare.after",
        "launch.created",
        "launch.started",
        "finish.before",
        "remove.removed",
    ):
        process = start(tmp_path, CI_RUNNER_FAILPOINTS=f"controller.{point}=kill")
        wait_until(lambda: (mix.cancel_when_running(), process.poll())[1] is not None, 60)  # noqa: B023
    finish(found, mix)
