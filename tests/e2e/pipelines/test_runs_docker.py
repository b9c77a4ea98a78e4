"""Runs of pipelines in containers: an image without Python, a service beside a job, and nothing left of either."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from support.pipelines import Api, by_name, plan_of, planned
from support.runner import Runner, docker
from support.waiting import wait_until

from ci_runner.pipelines.plan import Service

pytestmark = pytest.mark.docker

PROJECT = {"requirements.txt": "pytest\n", "test_it.py": "def test_it():\n    assert True\n"}
WEB = "exec python3 -m http.server 8123 --directory /tmp"


@pytest.fixture(scope="module")
def bare_image(docker_engine: str) -> Iterator[str]:
    """An image in which no Python is found."""
    name = "ci-runner-test-bare:latest"
    remove = "RUN find / -xdev -name 'python3*' -perm -u+x ! -type d -delete"
    text = f"FROM {docker_engine}\n{remove}\nLABEL ci-runner.pythons=''\n"
    subprocess.run(["docker", "build", "-q", "-t", name, "-"], input=text.encode(), check=True, timeout=300)
    yield name
    docker("image", "rm", "--force", name)


def test_a_script_needs_no_python_and_pytest_says_that_it_does(runner: Runner, bare_image: str) -> None:
    api = Api(runner)
    plan = plan_of(
        planned(
            "script",
            "echo in sh",
            "ls test_it.py",
            'test "$TOKEN" = "a b"',
            image=bare_image,
            secrets=("TOKEN",),
        ),
        planned("fails", "echo oh >&2", "exit 7", image=bare_image),
        planned("pytest", image=bare_image),
        planned("stopped", "sleep 300", image=bare_image, timeout=2),
        keep_going=True,
    )
    over = api.until_over(api.run(plan, PROJECT, secrets={"TOKEN": "a b"})["run_id"])
    jobs = by_name(over)
    assert jobs["script"]["success"] is True, api.log(jobs["script"]["job_id"])
    assert "$ ls test_it.py\ntest_it.py\n" in api.log(jobs["script"]["job_id"])
    assert (jobs["fails"]["status"], jobs["fails"]["exit_code"]) == ("completed", 7)
    assert "oh\n" in api.log(jobs["fails"]["job_id"])
    assert jobs["pytest"]["status"] == "failed"
    assert jobs["stopped"]["reason"] == "timed out after 2 s of testing"


def test_a_service_is_there_for_its_job_alone(runner: Runner, docker_engine: str) -> None:
    api = Api(runner)
    web = Service("web", docker_engine, ports=(8123,), command=("sh", "-c", WEB))
    reach = "python -c \"import urllib.request as r; print(r.urlopen('http://web:8123/').status)\""
    plan = plan_of(
        planned("with", reach, services=(web,)),
        planned("without", f"! {reach} 2>/dev/null"),
        keep_going=True,
    )
    over = api.until_over(api.run(plan, PROJECT)["run_id"])
    jobs = by_name(over)
    assert over["success"] is True, [api.log(job["job_id"]) for job in over["jobs"]]
    assert "200\n" in api.log(jobs["with"]["job_id"])
    wait_until(lambda: runner.containers() == [], 30, what="all containers to go")
