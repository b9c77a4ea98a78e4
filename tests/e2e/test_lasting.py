"""What outlives a job and what does not: results over restarts; no file, image or container of a job."""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from support.developer import Developer, make_developer
from support.runner import Runner, docker
from support.waiting import wait_until

from ci_runner.model.job import Job
from ci_runner.store import Store

pytestmark = pytest.mark.docker

Project = Callable[[str], Path]


def submitted(developer: Developer, folder: Path) -> str:
    """The id of a job that runs on its own."""
    done = developer.remote_ci("submit", "--async", cwd=folder)
    assert done.code == 0, done.text
    return done.out.strip().removeprefix("Job submitted: ")


def cleaned(runner: Runner) -> bool:
    """Nothing of any job is at the engine or in the working folder."""
    return not runner.containers() and list((runner.data_dir / "work").iterdir()) == []


@pytest.mark.case(12)
def test_a_restart_of_the_server_keeps_jobs_times_and_logs(
    runner: Runner, developer: Developer, project: Project
) -> None:
    jobs = [submitted(developer, project(name)) for name in ("dummy_project", "failing_project")]
    shown = {job: developer.remote_ci("wait", job, "--all") for job in jobs}
    before = json.loads(developer.remote_ci("list", "--json").out)
    assert {job["job_id"] for job in before} == set(jobs)
    runner.stop("serve")
    runner.start_serve()
    assert json.loads(developer.remote_ci("list", "--json").out) == before
    for job, code, words in zip(jobs, (0, 1), ("2 passed", "2 failed, 1 passed"), strict=True):
        done = developer.remote_ci("wait", job, "--all")
        assert (done.code, done.out) == (code, shown[job].out)
        assert words in done.out


def test_a_restart_of_the_server_is_not_noticed_by_who_waits(
    runner: Runner, developer: Developer, tmp_path: Path
) -> None:
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "test_slow.py").write_text(
        "import time\ndef test_slow():\n    time.sleep(6)\ndef test_after():\n    pass\n"
    )
    process = developer.popen(developer.python, "-m", "pytest_remote_ci.cli.main", "submit", cwd=folder)
    wait_until(lambda: any(job["phase"] == "testing" for job in developer.jobs()), 60)
    runner.stop("serve")
    runner.start_serve()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.count("2 passed") == 1
    assert out.count("test session starts") == 1


@pytest.mark.case(79, 81)
def test_a_finished_jobs_container_is_gone_and_its_log_stays(
    runner: Runner, developer: Developer, project: Project
) -> None:
    """Ours differs on purpose: the reference kept containers, because its logs were in them."""
    for name in ("dummy_project", "failing_project"):
        job = submitted(developer, project(name))
        first = developer.remote_ci("wait", job, "--all")
        wait_until(lambda: cleaned(runner), 30, what="container and folders removed")
        assert "test session starts" in first.out
        assert developer.remote_ci("wait", job, "--all").out == first.out
    assert data_contents(runner) == {"uploads": [], "work": []}


@pytest.mark.case(82)
def test_a_job_that_cannot_be_started_leaves_no_files(
    runner: Runner, developer: Developer, project: Project
) -> None:
    done = developer.pytest("--remote-ci-image=no.such.registry.invalid/x:1", cwd=project("dummy_project"))
    assert done.code == 70, done.text
    wait_until(lambda: cleaned(runner), 30, what="folders removed")
    assert data_contents(runner) == {"uploads": [], "work": []}


@pytest.mark.case(75)
def test_a_job_without_files_is_never_started(runner: Runner, developer: Developer) -> None:
    """Ours differs on purpose: it fails and says why, where the reference let it wait for ever."""
    job = Job(str(uuid.uuid4()), user_id=runner.user_id)
    with contextlib.closing(Store.open(runner.data_dir / "runner.db", migrate=False)) as store:
        store.jobs.create(job)
    wait_until(lambda: runner.get(f"/jobs/{job.id}")["end_time"], 30, what="the job to end")
    shown = runner.get(f"/jobs/{job.id}")
    assert (shown["status"], shown["reason"]) == ("failed", "the job has no workspace")
    assert runner.containers() == []


def engine_contents(runner: Runner) -> dict[str, set[str]]:
    """Everything of this runner at the engine, by kind, and images whose names or labels say that they are jobs'."""
    label = f"label=ci-runner.install={(runner.data_dir / 'install-id').read_text().strip()}"
    return {
        "containers": set(docker("container", "ls", "-aq", "--filter", label).split()),
        "volumes": set(docker("volume", "ls", "-q", "--filter", label).split()),
        "labelled images": set(docker("image", "ls", "-aq", "--filter", label).split()),
        "images": set(docker("image", "ls", "-q", "--filter", "reference=ci-job-*").split()),
    }


def data_contents(runner: Runner) -> dict[str, list[str]]:
    """What is in the folders that are only used while something goes on."""
    folders = {name: runner.data_dir / name for name in ("uploads", "work")}
    return {
        name: sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        for name, folder in folders.items()
    }


@pytest.mark.defect("A14")
@pytest.mark.case(96)
@pytest.mark.every(2)
def test_jobs_leave_no_files_images_or_containers(
    start_runner: Callable[..., Runner], project: Project, tmp_path: Path
) -> None:
    temporary, theirs = tmp_path / "tmp-runner", tmp_path / "tmp-client"
    temporary.mkdir()
    theirs.mkdir()
    runner = start_runner(env={"TMPDIR": str(temporary)})
    developer = make_developer(runner, tmp_path)
    before = engine_contents(runner), data_contents(runner)
    assert not any([*before[0].values(), *before[1].values()])
    for name, code in (("dummy_project", 0), ("failing_project", 1), ("invalid_project", 2)):
        done = developer.remote_ci("submit", cwd=project(name), TMPDIR=str(theirs))
        assert done.code == code, done.text
    cancelled = tmp_path / "cancelled"
    cancelled.mkdir()
    (cancelled / "test_slow.py").write_text("import time\ndef test_slow():\n    time.sleep(60)\n")
    job = submitted(developer, cancelled)
    wait_until(lambda: developer.jobs()[0]["phase"] == "testing", 60)
    assert engine_contents(runner)["containers"], "what is counted is there while a job runs"
    assert data_contents(runner)["work"]
    assert developer.remote_ci("cancel", job).code == 0
    wait_until(lambda: (engine_contents(runner), data_contents(runner)) == before, 60, what="all removed")
    assert list(temporary.iterdir()) == []
    assert list(theirs.iterdir()) == []


@pytest.mark.case(95)
def test_a_cancelled_job_ends_with_complete_that_says_so(developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text("import time\ndef test_slow():\n    time.sleep(60)\n")
    job = submitted(developer, tmp_path)
    wait_until(lambda: developer.jobs()[0]["phase"] == "testing", 60)
    assert developer.remote_ci("cancel", job).code == 0
    wait_until(lambda: developer.jobs()[0]["status"] == "cancelled", 60)
    events = developer.runner.get(f"/jobs/{job}/events?limit=1000", developer.key)
    end = events[-1]
    assert (end["type"], end["success"], end["status"], end["cancelled"]) == (
        "complete",
        False,
        "cancelled",
        True,
    )
    assert developer.jobs()[0]["success"] is None


@pytest.mark.defect("A15")
@pytest.mark.case(80, 85)
def test_containers_are_recognised_by_label_never_by_name(
    runner: Runner, developer: Developer, project: Project
) -> None:
    """Ours differs on purpose: somebody else's container may be named as ours are."""
    stranger = f"cir-{'0' * 8}-0000-4000-8000-{runner.user_id[-12:]}-1"
    subprocess.run(
        ["docker", "create", "--name", stranger, runner.image, "true"], check=True, capture_output=True
    )
    try:
        runner.stop("reconcile")
        runner.start_reconcile()
        assert developer.remote_ci("submit", cwd=project("dummy_project")).code == 0
        wait_until(lambda: cleaned(runner), 30, what="our own container removed")
        assert docker("container", "ls", "-aq", "--filter", f"name={stranger}").split()
    finally:
        docker("rm", "--force", stranger)
