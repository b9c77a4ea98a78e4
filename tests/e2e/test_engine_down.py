"""An engine that hangs, refuses, and comes back: who is told, and what still works meanwhile."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.runner import Runner
from support.socket_proxy import SocketProxy
from support.waiting import wait_until

from pytest_remote_ci.client.client import Client, create_project_zip
from pytest_remote_ci.wire.protocol import SubmitOptions

pytestmark = pytest.mark.docker
DOCKER = Path("/var/run/docker.sock")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[SocketProxy]:
    with SocketProxy(tmp_path / "engine.sock", DOCKER) as proxy:
        yield proxy


@pytest.fixture
def runner(proxy: SocketProxy, start_runner: Callable[..., Runner]) -> Iterator[Runner]:
    runner = start_runner(env={"DOCKER_HOST": f"unix://{proxy.path}"})
    yield runner
    proxy.resume()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "test_it.py").write_text("def test_it(): pass\n")
    return folder


@pytest.mark.parametrize("how", ["hang", "refuse"])
def test_an_engine_that_is_down_is_named_and_waiting_jobs_are_cancelled_in_time(
    runner: Runner, proxy: SocketProxy, project: Path, how: str
) -> None:
    wait_until(lambda: ready(runner) == "ready", 30)
    getattr(proxy, how)()
    wait_until(lambda: "engine: does not answer since" in ready(runner), 30)
    job_id, second = (submit(runner, project) for _ in range(2))
    detail = runner.get(f"/jobs/{job_id}")["detail"]
    assert detail.startswith("the container engine does not answer since ")
    began = time.monotonic()
    with Client(runner.url, runner.key) as client:
        client.cancel(job_id)
    wait_until(lambda: runner.get(f"/jobs/{job_id}")["status"] == "cancelled", 15)
    assert time.monotonic() - began < 15
    proxy.resume()
    wait_until(lambda: ready(runner) == "ready", 30)
    wait_until(lambda: runner.get(f"/jobs/{second}")["status"] == "completed", 120)
    log = runner.log("reconcile")
    assert (log.count("the engine does not answer"), log.count("the engine answers again")) == (1, 1)
    assert "Traceback" not in log


def ready(runner: Runner) -> str:
    try:
        with urllib.request.urlopen(f"{runner.url}/ready", timeout=10) as answer:
            return str(json.load(answer)["status"])
    except urllib.error.HTTPError as error:
        with error:
            return str(json.load(error)["detail"])


def submit(runner: Runner, project: Path) -> str:
    with Client(runner.url, runner.key) as client:
        return client.submit(io.BytesIO(create_project_zip(project)), SubmitOptions())
