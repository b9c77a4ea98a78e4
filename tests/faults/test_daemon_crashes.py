"""`kill -9` and restart of the Docker daemon at five points of a job's life, with and without live-restore.

The daemon is a private one, in a network namespace of its own, without any network: the environment was built
before, on the machine's own engine, of the same image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.crash_project import LINES, Crashing, Followed, lines_of, text_of
from faults.docker_daemon import PrivateEngine
from support.waiting import wait_until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="a private daemon needs root"),
]

#: Lines that are there before the daemon is killed.
SOME = 10
#: Engines before 24 keep the volume of a container beside which they were restarted until they are restarted again.
STUCK = frozenset({"volumes"})


def pause_of(daemon: PrivateEngine) -> float:
    """Seconds between two lines or tests: what does not outlive the daemon must not end before it is back."""
    return 0.03 if daemon.live_restore else 1.0


def many(daemon: PrivateEngine) -> str:
    """As many tests as the other suite has lines; the first ones are quick."""
    return f"""
import time
import pytest

@pytest.mark.parametrize("number", range(1, {LINES + 1}))
def test_it(number): time.sleep(0.03 if number <= {SOME} else {pause_of(daemon)})
"""


@pytest.fixture(scope="module")
def crashing(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    """A runner whose environment is there; `reconcile` does not run."""
    made = Crashing(tmp_path_factory.mktemp("crashing"), docker_engine)
    try:
        made.runner.start()
        made.check(made.submit(made.project()))
        with made.popen(in_one_place(made, "def test_one(): pass\n")) as native:
            text, _ = native.communicate()
        assert native.returncode == 0, text
        made.runner.stop("reconcile")
        yield made
    finally:
        made.runner.close()


@pytest.fixture(scope="module")
def private_engine(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """A daemon that has the image: copying it takes longer than the tests."""
    with PrivateEngine(tmp_path_factory.mktemp("daemon"), live_restore=True) as engine:
        engine.load(docker_engine)
        yield engine


@pytest.fixture(scope="module", params=[True, False], ids=["live-restore", "no-live-restore"])
def daemon(
    request: pytest.FixtureRequest, crashing: Crashing, private_engine: PrivateEngine
) -> Iterator[PrivateEngine]:
    """The runner's engine from here on."""
    private_engine.stop()
    private_engine.live_restore = request.param
    private_engine.start()
    crashing.runner.env["DOCKER_HOST"] = private_engine.url
    try:
        yield private_engine
    finally:
        if "reconcile" in crashing.runner.processes:
            crashing.runner.stop("reconcile")
        crashing.runner.remove_from_engine()
        del crashing.runner.env["DOCKER_HOST"]


def crash(daemon: PrivateEngine) -> None:
    daemon.kill()
    daemon.start()


def next_one_passes(crashing: Crashing) -> None:
    crashing.check(crashing.submit(crashing.project(pause=0.001)))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "point",
    ["controller.prepare.before", "controller.launch.created", "controller.launch.before_start"],
)
def test_before_the_tests_begin_nothing_is_lost(
    crashing: Crashing, daemon: PrivateEngine, point: str
) -> None:
    crashing.restart("reconcile", f"{point}=sleep:1")
    followed = crashing.follow(crashing.project())
    crashing.until_reached(point)
    crash(daemon)
    crashing.check(followed.job_id, followed)


@pytest.mark.sampled(1)
def test_while_the_tests_run(crashing: Crashing, daemon: PrivateEngine) -> None:
    """With live-restore they go on; without, the daemon ends them when it comes back."""
    crashing.restart("reconcile")
    followed = crashing.follow(crashing.project(pause=pause_of(daemon)))
    wait_until(lambda: followed.lines() >= SOME, 30, what="output")
    crash(daemon)
    survived_or_lost(crashing, daemon, followed, SOME)


@pytest.mark.sampled(1)
def test_the_daemon_and_the_controller_at_once(crashing: Crashing, daemon: PrivateEngine) -> None:
    crashing.restart("reconcile")
    followed = crashing.follow(crashing.project(pause=pause_of(daemon)))
    wait_until(lambda: followed.lines() >= 5, 30, what="output")
    daemon.kill()
    crashing.runner.kill("reconcile")
    daemon.start()
    crashing.restart("reconcile")
    survived_or_lost(crashing, daemon, followed, 5)


@pytest.mark.sampled(1)
def test_a_native_session_shows_each_result_once_or_names_the_test_that_was_lost(
    crashing: Crashing, daemon: PrivateEngine
) -> None:
    crashing.restart("reconcile")
    process = crashing.popen(in_one_place(crashing, many(daemon)), "-v", "--color=no")
    assert process.stdout is not None
    with process:
        seen = ""
        while shown(seen) != numbers(SOME):  # the runner's own time limits end this
            line = process.stdout.readline()
            assert line, seen
            seen += line
        crash(daemon)
        seen += process.stdout.read()
    results = [
        (int(number), outcome)
        for number, outcome in re.findall(r"^test_counts\.py::test_it\[(\d+)\] ([A-Z]+)", seen, re.MULTILINE)
    ]
    if daemon.live_restore:
        assert results == [(number, "PASSED") for number in numbers(LINES)], seen
        assert process.returncode == 0, seen
    else:
        *before, (last, outcome) = results
        if before and before[-1] == (last, "PASSED"):  # lost between its call and its teardown's end
            assert outcome == "ERROR", seen
            before.pop()
        assert before == [(number, "PASSED") for number in numbers(last - 1)], seen  # each once, in order
        assert outcome in ("FAILED", "ERROR"), seen
        assert process.returncode == 70, seen
        named = re.findall(r"^E? *(container lost.*while running \S+)$", seen, re.MULTILINE)
        assert len(named) == 1, seen
        assert named[0].endswith(f"test_counts.py::test_it[{last}]")
        assert f"{LINES - last} test(s) were not run" in seen
    crashing.check_nothing_left(STUCK if daemon.live_restore else frozenset())
    if daemon.live_restore:
        crash(daemon)
        crashing.check_nothing_left()


def in_one_place(crashing: Crashing, suite: str) -> Path:
    """A project for native sessions, whose dependencies are resolved anew for each place."""
    folder = crashing.folder / "in-one-place"
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text("pytest\n")
    (folder / "test_counts.py").write_text(suite)
    return folder


def shown(text: str) -> list[int]:
    """The numbers of the tests whose results are in it, as they came."""
    return [int(number) for number in re.findall(r"::test_it\[(\d+)\] [A-Z]+\b", text)]


def numbers(count: int) -> list[int]:
    return list(range(1, count + 1))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("point", ["controller.finish.before", "controller.remove.before"])
def test_after_the_tests_nothing_is_lost(crashing: Crashing, daemon: PrivateEngine, point: str) -> None:
    crashing.restart("reconcile", f"{point}=sleep:1")
    followed = crashing.follow(crashing.project())
    crashing.until_reached(point)
    crash(daemon)
    crashing.check(followed.job_id, followed)


def survived_or_lost(crashing: Crashing, daemon: PrivateEngine, followed: Followed, lines: int) -> None:
    if daemon.live_restore:
        crashing.check(followed.job_id, followed, STUCK)
        crash(daemon)
        crashing.check_nothing_left()
    else:
        lost(crashing, followed, lines)
    next_one_passes(crashing)


def lost(crashing: Crashing, followed: Followed, lines: int) -> None:
    """Failed for the right reason, once, with the output up to then."""
    summary = crashing.until_over(followed.job_id)
    assert (summary["status"], summary["success"], summary["exit_code"]) == ("failed", None, None), summary
    assert summary["reason"].startswith("container lost")
    events = crashing.check_events(followed.job_id)
    followed.join()
    assert followed.events == events
    numbers = lines_of(events)
    assert numbers == list(range(1, len(numbers) + 1))
    assert lines <= len(numbers) < LINES
    assert text_of(events).count("run ") == 1
    crashing.check_nothing_left()
