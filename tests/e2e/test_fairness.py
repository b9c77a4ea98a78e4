"""Whose job starts next, with one place for all: users take turns, priorities decide, and the place is shown."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.developer import Developer
from support.runner import Runner
from support.waiting import wait_until

from pytest_remote_ci.client.client import Client, create_project_zip
from pytest_remote_ci.wire.protocol import SubmitOptions

pytestmark = pytest.mark.docker

#: Of this module's runner: one job at a time.
RUNNER_OPTIONS = ("--concurrency", "1")


def project(folder: Path, seconds: float) -> Path:
    """A project whose one test takes so long."""
    folder.mkdir()
    (folder / "test_it.py").write_text(f"import time\ndef test_it():\n    time.sleep({seconds})\n")
    return folder


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A project that is done soon."""
    return project(tmp_path / "short", 0.1)


@pytest.fixture
def people(developer: Developer, another: Developer, short: Path) -> tuple[Developer, Developer]:
    """Two users whose environment is there already."""
    for person in (developer, another):
        done = person.pytest("-q", cwd=short)
        assert done.code == 0, done.text
    return developer, another


def submit(developer: Developer, folder: Path, name: str, **options: Any) -> str:
    """Submit without waiting; the job's id."""
    with Client(developer.runner.public_url, developer.key) as client:
        return client.submit(io.BytesIO(create_project_zip(folder)), SubmitOptions(name=name, **options))


def jobs_of(*people: Developer) -> dict[str, dict[str, Any]]:
    """All named jobs, by name."""
    return {job["name"]: job for developer in people for job in developer.jobs() if job["name"]}


def block(developer: Developer, tmp_path: Path) -> str:
    """Take the one place, until the job is cancelled."""
    job_id = submit(developer, project(tmp_path / "long", 100), "first")
    wait_until(lambda: jobs_of(developer)["first"]["phase"] == "testing", 60)
    return job_id


def order_of(*people: Developer) -> list[str]:
    """Names of the jobs that ran to an end, in the order in which they were taken up, after all are over."""
    wait_until(lambda: all(job["end_time"] for job in jobs_of(*people).values()), 120)
    found = {name: job for name, job in jobs_of(*people).items() if job["status"] == "completed"}
    return sorted(found, key=lambda name: str(found[name]["start_time"]))


@pytest.mark.every(2)
def test_who_queues_one_job_does_not_wait_behind_anothers_many(
    people: tuple[Developer, Developer], short: Path, tmp_path: Path
) -> None:
    many, one = people
    first = block(many, tmp_path)
    names = [f"many-{number}" for number in range(8)]
    for name in names:
        submit(many, short, name)
    assert [jobs_of(many)[name]["queue_position"] for name in names] == [1, 2, 3, 4, 5, 6, 7, 8]
    submit(one, short, "one")
    assert jobs_of(one)["one"]["queue_position"] == 1
    assert [jobs_of(many)[name]["queue_position"] for name in names] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert many.remote_ci("cancel", first).code == 0
    assert order_of(many, one) == ["one", *names]


def test_builds_that_hang_keep_only_their_own_user_waiting(
    people: tuple[Developer, Developer], tmp_path: Path
) -> None:
    hostile, other = people
    for number in range(8):
        folder = project(tmp_path / f"hangs-{number}", 0)
        (folder / "setup.py").write_text(
            f"import time\ntime.sleep(600)  # {number}\nfrom setuptools import setup\nsetup(name='hangs')\n"
        )
        submit(hostile, folder, f"hangs-{number}")
    wait_until(lambda: len(being_built(hostile)) == 6, 90, what="as many builds and waiting jobs as may be")
    normal = project(tmp_path / "normal", 0.1)
    (normal / "setup.py").write_text("from setuptools import setup\nsetup(name='normal', py_modules=[])\n")
    began = time.monotonic()
    done = other.pytest("-q", cwd=normal)
    took = time.monotonic() - began
    assert (done.code, "1 passed" in done.text) == (0, True), done.text
    assert took < 90
    assert len(being_built(hostile)) == 6, "none has ended"
    for job in jobs_of(hostile).values():
        hostile.remote_ci("cancel", job["job_id"])
    wait_until(lambda: all(job["end_time"] for job in jobs_of(hostile).values()), 60)


def being_built(developer: Developer) -> list[str]:
    return [name for name, job in jobs_of(developer).items() if job["phase"] == "preparing"]


def test_priorities_go_before_turns_as_far_as_the_operator_lets_them(
    runner: Runner, people: tuple[Developer, Developer], short: Path, tmp_path: Path
) -> None:
    capped, trusted = people
    name = trusted.home.name.removeprefix("home-")
    [user] = [user for user in runner.admin("user", "list") if user["name"] == name]
    runner.admin("user", "set-priority-cap", user["id"], "high")
    first = block(capped, tmp_path)
    submit(trusted, short, "low", priority="low")
    submit(trusted, short, "normal")
    submit(capped, short, "asked for high", priority="high")  # gets no more than normal
    submit(trusted, short, "high", priority="high")
    assert capped.remote_ci("cancel", first).code == 0
    order = order_of(capped, trusted)
    assert (order[0], order[-1]) == ("high", "low")
    assert set(order[1:3]) == {"normal", "asked for high"}


def test_waiting_jobs_of_a_deactivated_user_end_and_running_ones_go_on(
    people: tuple[Developer, Developer], short: Path, tmp_path: Path
) -> None:
    gone, other = people
    block(gone, tmp_path)
    waiting = submit(gone, short, "second")
    name = gone.home.name.removeprefix("home-")
    [user] = [user for user in gone.runner.admin("user", "list") if user["name"] == name]
    gone.runner.admin("user", "deactivate", user["id"])
    reason = "cancelled by an administrator, who deactivated the user"
    log = gone.runner.log
    wait_until(lambda: f"job {waiting}: cancelled ({reason})" in log("reconcile"), 30)
    gone.runner.admin("user", "activate", user["id"])
    found = jobs_of(gone)
    assert (found["second"]["status"], found["second"]["reason"]) == ("cancelled", reason)
    assert (found["first"]["status"], found["first"]["phase"]) == ("running", "testing")
    gone.runner.admin("user", "deactivate", user["id"], "--cancel")
    submit(other, short, "next")
    assert order_of(other) == ["next"]
    gone.runner.admin("user", "activate", user["id"])
    assert (jobs_of(gone)["first"]["status"], jobs_of(gone)["first"]["reason"]) == ("cancelled", reason)


def test_the_place_in_the_queue_is_shown_while_waiting(
    people: tuple[Developer, Developer], short: Path, tmp_path: Path
) -> None:
    developer, _ = people
    first = block(developer, tmp_path)
    submit(developer, short, "second")
    process = developer.popen(
        sys.executable, "-m", "pytest", "--remote-ci", "--remote-ci-name=third", cwd=short
    )
    wait_until(lambda: "third" in jobs_of(developer), 60)
    assert jobs_of(developer)["third"]["queue_position"] == 2
    assert developer.remote_ci("cancel", first).code == 0
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert "1 passed" in out
    places = [int(place) for place in re.findall(r"queued, position (\d+)", err)]
    assert places[0] == 2, err
    assert places == sorted(places, reverse=True)
