"""A runner whose programs are killed, a project whose log tells what ran, and what must hold afterwards."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.runner import Runner, docker, is_ahead
from support.waiting import wait_until

from pytest_remote_ci.client.client import Client, create_project_zip
from pytest_remote_ci.wire.protocol import SubmitOptions

#: What the project's test writes: so many lines, each its number, some time apart (seconds).
LINES = 100
PAUSE = 0.008
_SUITE = f"""
# {{nonce}}
import time, uuid

def test_counts():
    print(f"\\nrun {{{{uuid.uuid4()}}}}", flush=True)
    for number in range(1, {LINES} + 1):
        print(f"line {{{{number}}}}", flush=True)
        time.sleep({{pause}})
"""
#: Seconds that anything may take that a crash has delayed.
PATIENCE = 60.0


@dataclass
class Followed:
    """A thread that submits a project, or joins a job, and sees every event to the end."""

    events: list[dict[str, Any]] = field(default_factory=list)
    job_id: str = ""
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def join(self) -> None:
        """Wait for the end; raises what ended the thread early."""
        assert self.thread is not None
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), f"still following {self.job_id}: {self.events[-3:]}"
        if self.error is not None:
            raise self.error

    def lines(self) -> int:
        """How many of the project's lines arrived."""
        return len(lines_of(self.events))


class Crashing:
    """A runner of ours. Every program's temporary folder is `temporary`, which must stay empty."""

    def __init__(self, folder: Path, image: str, **env: str) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._data = folder / "runner" / "data"
        self._data.mkdir(parents=True, mode=0o700)
        self._trace = folder / "trace"
        options = ("--concurrency", "2", "--interval", "1")
        self.runner = Runner(
            self._data, "docker", image, options=options, env={"TMPDIR": str(self.temporary), **env}
        )
        #: Summaries of jobs that are over: they must never change.
        self._over: dict[str, dict[str, Any]] = {}

    # -- programs
    def restart(self, program: str, failpoints: str = "") -> None:
        """Start a program (again) with these failpoints."""
        if program in self.runner.processes:
            self.runner.stop(program)
        self._trace.unlink(missing_ok=True)
        armed = {
            "CI_RUNNER_ALLOW_FAILPOINTS": "1",
            "CI_RUNNER_FAILPOINTS": failpoints,
            "CI_RUNNER_FAILPOINT_TRACE": str(self._trace),
        }
        plain = self.runner.env
        self.runner.env = {**plain, **(armed if failpoints else {})}
        try:
            self.runner.start_serve() if program == "serve" else self.runner.start_reconcile()
        finally:
            self.runner.env = plain

    def until_reached(self, point: str) -> None:
        """Wait until a program that was started with failpoints is at that one."""
        self.wait(lambda: self._trace.exists() and point in self._trace.read_text().split(), point)

    def until_dead(self, program: str) -> None:
        """Wait until a program's failpoint has killed it."""
        process = self.runner.processes[program]
        wait_until(lambda: process.poll() is not None, PATIENCE, what=f"{program} to die")
        assert process.returncode == -signal.SIGKILL, self.log()
        del self.runner.processes[program]

    def wait(
        self, predicate: Callable[[], object], what: str, state: Callable[[], object] = lambda: ""
    ) -> None:
        """Wait; where it is in vain, show how things are then."""
        try:
            wait_until(lambda: bool(predicate()), PATIENCE, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{state()}\n{self.log()}") from None

    def log(self) -> str:
        """The ends of the programs' logs."""
        return "".join(f"\n{name}:\n{self.runner.log(name)[-3000:]}" for name in ("serve", "reconcile"))

    # -- developers
    def project(self, pause: float = PAUSE, requirements: str = "pytest\n", suite: str = "") -> Path:
        """A project nobody has sent yet, with a suite of its own or the one that counts."""
        nonce = uuid.uuid4().hex
        folder = self.folder / f"project-{nonce}"
        folder.mkdir()
        (folder / "requirements.txt").write_text(requirements)
        text = f"# {nonce}\n{suite}" if suite else _SUITE.format(nonce=nonce, pause=pause)
        (folder / "test_counts.py").write_text(text)
        return folder

    def archive(self, project: Path) -> Path:
        """The project's zip."""
        kept = self.folder / f"{project.name}.zip"
        kept.write_bytes(create_project_zip(project))
        return kept

    def client(self) -> Client:
        """As the user, in this process."""
        return Client(self.runner.url, self.runner.key)

    def submit(self, project: Path, key: str | None = None) -> str:
        """Send a project; the job's id."""
        with self.client() as client:
            return client.submit(self.archive(project), OPTIONS, idempotency_key=key)

    def follow(self, project: Path | None = None, job_id: str = "", key: str | None = None) -> Followed:
        """Submit (or join) and follow in a thread."""
        followed = Followed(job_id=job_id)

        def run() -> None:
            try:
                if project is not None:
                    followed.job_id = self.submit(project, key)
                with self.client() as client:
                    stream = client.stream(followed.job_id, view="all")
                    for event in stream:
                        followed.events.append({**event.fields, "seq": stream.last_seq})
            except BaseException as error:
                followed.error = error

        followed.thread = threading.Thread(target=run, name="follower", daemon=True)
        followed.thread.start()
        return followed

    def popen(self, project: Path, *args: str) -> subprocess.Popen[str]:
        """`pytest --remote-ci` with pipes."""
        command = [sys.executable, "-m", "pytest", "--remote-ci", "-s", *args]
        return subprocess.Popen(
            command,
            cwd=project,
            env=self.user_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def user_environment(self) -> dict[str, str]:
        """What a developer's commands see."""
        return self.runner.client_environment(
            TMPDIR=str(self.temporary), PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1"
        )

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of the user."""
        found: list[dict[str, Any]] = self.runner.get("/jobs?limit=1000")
        return found

    def job(self, job_id: str) -> dict[str, Any]:
        """A job's summary."""
        found: dict[str, Any] = self.runner.get(f"/jobs/{job_id}")
        return found

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """All stored events."""
        found: list[dict[str, Any]] = []
        while more := self.runner.get(f"/jobs/{job_id}/events?after={len(found)}&limit=1000&view=all"):
            found += more
        return found

    # -- what must hold
    def until_over(self, job_id: str) -> dict[str, Any]:
        """The job's summary once it is over."""
        self.wait(lambda: self.job(job_id)["end_time"], f"the end of {job_id}", lambda: self.job(job_id))
        return self.job(job_id)

    def check(
        self, job_id: str, followed: Followed | None = None, except_: frozenset[str] = frozenset()
    ) -> list[dict[str, Any]]:
        """The job passed, ran once, lost, repeated and left nothing; `followed` saw that. Its stored events.

        `except_`: kinds of things that may be left.
        """
        summary = self.until_over(job_id)
        assert (summary["status"], summary["exit_code"]) == ("completed", 0), f"{summary}{self.log()}"
        events = self.check_events(job_id)
        check_lines(events)
        if followed is not None:
            followed.join()
            assert followed.job_id == job_id
            assert followed.events == events
        self.check_nothing_left(except_)
        return events

    def check_events(self, job_id: str) -> list[dict[str, Any]]:
        """Numbers without gaps and one end, which is last. The stored events."""
        summary = self.until_over(job_id)
        events = self.events(job_id)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["seq"] for event in events if event["type"] == "complete"] == [len(events)]
        assert events[-1]["status"] == summary["status"]
        self._over[job_id] = summary
        return events

    def check_nothing_left(self, except_: frozenset[str] = frozenset()) -> None:
        """No container, volume, working folder, upload or temporary file, soon; what is over is as it was."""
        self.wait(lambda: set(self.left()) <= except_, "nothing to be left", self.left)
        assert {job_id: self.job(job_id) for job_id in self._over} == self._over

    def left(self) -> dict[str, list[str]]:
        """What is there although nothing runs, by kind; a container that waits for the next job may be."""
        label = f"label=ci-runner.install={(self._data / 'install-id').read_text().strip()}"
        folders = {name: self._data / name for name in ("work", "uploads")} | {"temporary": self.temporary}
        found = {
            "containers": self.runner.containers(),
            "volumes": docker("volume", "ls", "--quiet", "--filter", label, env=self.runner.env).split(),
            **{name: [path.name for path in folder.iterdir()] for name, folder in folders.items()},
            "trees": [path.name for path in (self._data / "trees").glob(".*")],
        }
        unexpected = {kind: [name for name in names if not is_ahead(name)] for kind, names in found.items()}
        return {kind: names for kind, names in unexpected.items() if names}

    def running(self, job_id: str) -> list[str]:
        """Ids of the job's containers that run."""
        return docker(
            "ps", "--quiet", "--filter", f"label=ci-runner.job={job_id}", env=self.runner.env
        ).split()

    def starts(self, job_id: str) -> int:
        """How many containers the engine has started for the job's tests."""
        found = docker(
            "events",
            "--since",
            "1h",
            "--until",
            f"{time.time():.9f}",
            "--filter",
            "event=start",
            "--filter",
            f"label=ci-runner.job={job_id}",
            "--filter",
            "label=ci-runner.role=test",
            "--format",
            "{{.ID}}",
            env=self.runner.env,
        )
        return len(found.split())


OPTIONS = SubmitOptions(args=("-s",), python=f"{sys.version_info[0]}.{sys.version_info[1]}")


def text_of(events: Iterable[dict[str, Any]]) -> str:
    """What the command wrote."""
    return "".join(
        event["data"] for event in events if event["type"] == "log" and event["stream"] != "runner"
    )


def lines_of(events: Iterable[dict[str, Any]]) -> list[int]:
    """The numbers of the project's lines, as they came."""
    return numbers_in(text_of(events))


def numbers_in(text: str) -> list[int]:
    """The numbers of the project's lines in a text."""
    return [int(number) for number in re.findall(r"^line (\d+)\r?$", text, re.MULTILINE)]


def check_lines(events: list[dict[str, Any]]) -> None:
    """The test ran once: every line once, in order, and one run's name."""
    assert lines_of(events) == list(range(1, LINES + 1))
    assert len(re.findall(r"^run [-0-9a-f]{36}$", text_of(events), re.MULTILINE)) == 1
