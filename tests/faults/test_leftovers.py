"""Twenty jobs of all kinds leave no file, container, volume or image behind, and one row each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.crash_project import Crashing
from support.runner import docker

pytestmark = pytest.mark.docker

#: Suites by how their jobs end: (status, exit code).
SUITES = {
    ("completed", 0): "def test_it(tmp_path):\n    (tmp_path / 'file').write_bytes(bytes(1 << 20))\n",
    ("completed", 1): "def test_it():\n    open('left', 'w').close()\n    assert False\n",
    ("completed", 5): "",
    ("cancelled", None): "import time\ndef test_it():\n    time.sleep(100)\n",
    # The worker, so that nobody is left to say how it ended.
    ("failed", None): "import os, signal\ndef test_it():\n    os.kill(os.getppid(), signal.SIGKILL)\n",
}
EACH = 4


@pytest.fixture
def crashing(docker_engine: str, tmp_path: Path) -> Iterator[Crashing]:
    made = Crashing(tmp_path, docker_engine)
    try:
        made.runner.start()
        yield made
    finally:
        made.runner.close()


def images(crashing: Crashing) -> set[str]:
    """Images that carry our labels or look like a job's."""
    install = (crashing.runner.data_dir / "install-id").read_text().strip()
    labelled = docker("image", "ls", "--quiet", "--all", "--filter", f"label=ci-runner.install={install}")
    return {*labelled.split(), *docker("image", "ls", "--quiet", "--filter", "reference=ci-job-*").split()}


@pytest.mark.every(2)
def test_many_jobs_leave_nothing(crashing: Crashing, pytestconfig: pytest.Config) -> None:
    each = 2 if pytestconfig.getoption("sample_cases") else EACH
    before = images(crashing)
    jobs = {
        crashing.submit(crashing.project(suite=suite or "# no tests\n")): end
        for end, suite in SUITES.items()
        for _ in range(each)
    }
    for number, (job_id, (status, _)) in enumerate(jobs.items()):
        if status == "cancelled":
            if number % 2:  # the others while they wait
                crashing.wait(lambda: crashing.job(job_id)["phase"] == "testing", "the tests")  # noqa: B023
            with crashing.client() as client:
                client.cancel(job_id)
    ends = {job_id: crashing.until_over(job_id) for job_id in jobs}
    assert {job_id: (end["status"], end["exit_code"]) for job_id, end in ends.items()} == jobs
    for job_id in jobs:
        crashing.check_events(job_id)
    crashing.check_nothing_left()
    assert images(crashing) == before
    assert Counter(job["status"] for job in crashing.jobs()) == Counter(status for status, _ in jobs.values())
    crashing.restart("serve")
    crashing.restart("reconcile")
    crashing.check_nothing_left()
