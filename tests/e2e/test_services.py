"""Services beside a job: started before its tests, ready when they begin, gone without a trace."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import requests
from support.developer import Developer
from support.http_server import zip_of
from support.waiting import wait_until

pytestmark = pytest.mark.docker

#: Listens only after a while, so that a job that does not wait finds nothing.
WEB = "sleep 1; exec python3 -m http.server 8123"
ASKS = """
import os
import urllib.request
def test_it_is_there():
    answer = urllib.request.urlopen("http://web:8123/")
    assert answer.status == 200
def test_so_is_the_other():
    assert urllib.request.urlopen("http://second:8124/").status == 200
"""


#: Its own service answers; at no other address of the network does anybody.
LOOKS_AROUND = MappingProxyType(
    {
        "test_it.py": b"""
import ipaddress, os, socket, struct, time, urllib.request
def answer(host):
    try:
        with urllib.request.urlopen(f"http://{host}:8123/name", timeout=0.3) as found:
            return found.read().decode().strip()
    except OSError:
        return None
def test_only_its_own_service_is_there(capsys):
    with capsys.disabled():
        print(f"\\nbegan {time.time()}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        own = ipaddress.ip_address(probe.getsockname()[0])
    assert answer("web") == answer(own) == os.environ["NAME"]
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        for near in range(-4, 5):
            assert answer(own + near) == (os.environ["NAME"] if near == 0 else None)
    with capsys.disabled():
        print(f"\\nended {time.time()}")
"""
    }
)
#: What most jobs consist of.
ASKING = MappingProxyType({"test_it.py": ASKS.encode()})
#: What the job gets with the database.
USES_POSTGRES = {
    "requirements.txt": b"pytest\npg8000\n",
    "test_it.py": b"""
import pg8000.native
def test_the_database_answers():
    with pg8000.native.Connection("ada", host="db", database="notes", password="secret") as connection:
        connection.run("CREATE TABLE note (text TEXT)")
        connection.run("INSERT INTO note VALUES (:text)", text="hello")
        assert connection.run("SELECT text FROM note") == [["hello"]]
""",
}


def submit(
    developer: Developer,
    image: str,
    services: list[dict[str, Any]],
    files: Mapping[str, bytes] = ASKING,
    **options: Any,
) -> str:
    """A job of these files with these services; its id."""
    response = requests.post(
        f"{developer.runner.public_url}/submit-async",
        headers={"Authorization": f"Bearer {developer.key}"},
        files={"file": ("project.zip", zip_of(files))},
        data={
            "options": json.dumps({"services": [{"image": image, **each} for each in services], **options})
        },
        timeout=60,
    )
    assert response.status_code == 200, response.text
    return str(response.json()["job_id"])


def over(developer: Developer, job_id: str) -> dict[str, Any]:
    """The job once it is over."""

    def look() -> dict[str, Any] | None:
        (job,) = [job for job in developer.jobs() if job["job_id"] == job_id]
        return job if job["status"] in ("completed", "failed", "cancelled") else None

    return wait_until(look, 120, what="the end of a job")


def running(job_id: str) -> list[str]:
    """Those of the job that run."""
    return containers(job_id, "status=running")


def containers(job_id: str, *filters: str) -> list[str]:
    """Those of the job that are there in any state, or as the filters say."""
    command = ["docker", "ps", "-a", "--format", "{{.Names}}"]
    for each in (f"label=ci-runner.job={job_id}", *filters):
        command += ["--filter", each]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def log(developer: Developer, job_id: str) -> str:
    """All that the job's user sees."""
    return developer.remote_ci("wait", job_id, "--all").text


@pytest.mark.parametrize("network", ["egress", "none"])
def test_tests_reach_their_services_by_name(developer: Developer, docker_engine: str, network: str) -> None:
    services: list[dict[str, Any]] = [
        {"name": "web", "command": ["sh", "-c", WEB], "ports": [8123]},
        {
            "name": "second",
            "command": ["python3", "-m", "http.server", "8124"],
            "health": "test -e /etc/passwd",
            "ports": [8124],
            "env": {"MODE": "test"},
        },
    ]
    job_id = submit(developer, docker_engine, services, network=network)
    job = over(developer, job_id)
    assert (job["status"], job["exit_code"]) == ("completed", 0), log(developer, job_id)
    wait_until(lambda: not containers(job_id), 60, what="the removal of what is left of a job")


def test_a_postgresql_is_ready_when_the_tests_begin(developer: Developer, postgres_image: str) -> None:
    database = {
        "name": "db",
        "ports": [5432],
        "health": "pg_isready --username ada --dbname notes",
        "env": {"POSTGRES_USER": "ada", "POSTGRES_PASSWORD": "secret", "POSTGRES_DB": "notes"},
    }
    job_id = submit(developer, postgres_image, [database], USES_POSTGRES)
    job = over(developer, job_id)
    assert (job["status"], job["exit_code"]) == ("completed", 0), log(developer, job_id)
    assert "1 passed" in log(developer, job_id)


def test_a_service_that_ends_fails_the_job_and_shows_its_last_words(
    developer: Developer, docker_engine: str
) -> None:
    services = [{"name": "db", "command": ["sh", "-c", "echo cannot find my data; exit 3"], "ports": [5432]}]
    job_id = submit(developer, docker_engine, services)
    job = over(developer, job_id)
    assert (job["status"], job["reason"]) == ("failed", "service db ended with code 3 before the tests began")
    assert "cannot find my data" in log(developer, job_id)
    wait_until(lambda: not containers(job_id), 60, what="the removal of what is left of a job")


def test_jobs_that_run_at_once_have_their_services_to_themselves(
    developer: Developer, docker_engine: str
) -> None:
    """Both have a service `web` on one port; each job looks for others at all addresses of its network."""
    ids = []
    for name in ("one", "two"):
        serve = f"mkdir /srv/www && cd /srv/www && echo {name} >name && exec python3 -m http.server 8123"
        service = {"name": "web", "command": ["sh", "-c", serve], "ports": [8123]}
        ids.append(submit(developer, docker_engine, [service], LOOKS_AROUND, env={"NAME": name}))
    jobs = [over(developer, job_id) for job_id in ids]
    for job in jobs:
        assert (job["status"], job["exit_code"]) == ("completed", 0), log(developer, job["job_id"])
    logs = [log(developer, job_id) for job_id in ids]
    spans = [re.findall(r"^(?:began|ended) ([\d.]+)$", text, re.MULTILINE) for text in logs]
    (began, ended), (other_began, other_ended) = (map(float, span) for span in spans)
    assert max(began, other_began) < min(ended, other_ended), "they ran at the same time"


def test_a_service_does_not_outlive_its_job_though_the_controller_is_killed(
    developer: Developer, docker_engine: str
) -> None:
    service = {"name": "web", "command": ["sh", "-c", WEB], "ports": [8123]}
    waits = {"test_it.py": b"import time\ndef test_lasts():\n    time.sleep(4)\n"}
    job_id = submit(developer, docker_engine, [service], waits)
    wait_until(lambda: len(running(job_id)) == 2, 120, what="a job beside its service")
    runner = developer.runner
    runner.kill("reconcile")
    try:
        assert len(running(job_id)) == 2, "nothing ends with the controller"
        wait_until(lambda: len(running(job_id)) == 1, 60, what="the end of the job's own container")
        assert running(job_id) == [name for name in containers(job_id) if name.endswith("-s-web")]
    finally:
        runner.start_reconcile()
    job = over(developer, job_id)
    assert (job["status"], job["exit_code"]) == ("completed", 0), log(developer, job_id)
    wait_until(lambda: not containers(job_id), 60, what="the removal of what is left of a job")


def test_a_job_that_waits_for_its_services_can_be_cancelled(developer: Developer, docker_engine: str) -> None:
    services = [{"name": "db", "command": ["sleep", "600"], "health": "false"}]
    job_id = submit(developer, docker_engine, services)
    wait_until(lambda: containers(job_id), 60, what="the service's container")
    assert developer.remote_ci("cancel", job_id).code == 0
    assert over(developer, job_id)["status"] == "cancelled"
    wait_until(lambda: not containers(job_id), 60, what="the removal of what is left of a job")


def test_a_service_has_as_much_shared_memory_as_it_asks_for(developer: Developer, docker_engine: str) -> None:
    """And by default as much as a job."""
    show = "df -B1M --output=size /dev/shm | tail -1 > size; exec python3 -m http.server 812{0}"
    services = [
        {"name": "web", "command": ["sh", "-c", f"cd $(mktemp -d); {show.format(3)}"], "ports": [8123]},
        {
            "name": "second",
            "command": ["sh", "-c", f"cd $(mktemp -d); {show.format(4)}"],
            "ports": [8124],
            "shm_size": "700m",
        },
    ]
    test = b"""
import urllib.request
def test_sizes():
    sizes = [urllib.request.urlopen(f"http://127.0.0.1:{port}/size").read().split() for port in (8123, 8124)]
    assert sizes == [[b"512"], [b"700"]]
"""
    job_id = submit(developer, docker_engine, services, {"test_it.py": test})
    job = over(developer, job_id)
    assert (job["status"], job["exit_code"]) == ("completed", 0), log(developer, job_id)


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ({"name": "My DB"}, "services[0].name: 'My DB' cannot be a host name: use a-z, 0-9 and '-'"),
        (
            {"name": "db", "port": [1]},
            "services[0]: unknown key 'port'; valid keys are name, image, env, health, ports",
        ),
        ({"name": "db", "ports": ["5432"]}, "services[0].ports: must be a list of numbers from 1 to 65535"),
        ({"name": "db", "image": ""}, "services[0].image: must name an image"),
    ],
)
def test_a_service_that_makes_no_sense_is_refused(
    developer: Developer, service: dict[str, Any], words: str
) -> None:
    response = requests.post(
        f"{developer.runner.public_url}/submit-async",
        headers={"Authorization": f"Bearer {developer.key}"},
        files={"file": ("project.zip", zip_of({"test_it.py": b""}))},
        data={"options": json.dumps({"services": [{"image": "x", **service}]})},
        timeout=60,
    )
    assert response.status_code == 422
    assert words in response.json()["detail"]
