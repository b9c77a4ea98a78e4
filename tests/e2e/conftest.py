"""End-to-end tests talk to real programs: `serve` and `reconcile` on a temporary data directory.

Clients reach them through a proxy that holds every answer and every event against the OpenAPI document.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.developer import FIXTURES, Developer, make_developer
from support.runner import Runner
from support.validating_proxy import ValidatingProxy, open_proxies, start_proxy


@pytest.fixture(autouse=True)
def every_answer_is_as_described() -> Iterator[None]:
    """What passed the proxies is as the API describes it; connections still open are judged at the proxy's end."""
    yield
    for proxy in open_proxies:
        proxy.check()


@pytest.fixture
def start_runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Runner]]:
    """Start runners: ``start_runner(engine="docker", options=("--concurrency", "1"), env={…})``."""
    started: list[tuple[Runner, ValidatingProxy]] = []

    def start(engine: str = "docker", **more: Any) -> Runner:
        image = request.getfixturevalue("docker_engine") if engine == "docker" else "python:{python}-slim"
        folder = tmp_path / f"runner-{len(started)}" / "data"
        folder.mkdir(parents=True, mode=0o700)
        runner = Runner(folder, engine, image, **more)
        started.append((runner, start_proxy(runner)))
        return runner.start()

    yield start
    failures = []
    for runner, proxy in started:
        for close in (runner.close, proxy.close):
            try:
                close()
            except AssertionError as error:
                failures.append(str(error))
    assert not failures, "\n".join(failures)


@pytest.fixture(scope="module", params=["docker"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A runner that a module's tests share.

    Another engine: ``parametrize("runner", ["process"], indirect=True)``. A module's `RUNNER_OPTIONS` and `RUNNER_ENV`
    are options and environment of its programs.
    """
    engine = request.param
    image = request.getfixturevalue("docker_engine") if engine == "docker" else "python:{python}-slim"
    folder = tmp_path_factory.mktemp("runner") / "data"
    folder.mkdir(mode=0o700)
    options, env = getattr(request.module, "RUNNER_OPTIONS", ()), getattr(request.module, "RUNNER_ENV", {})
    started = Runner(folder, engine, image, options, env)
    proxy = start_proxy(started)
    try:
        yield started.start()
    finally:
        try:
            started.close()
        finally:
            proxy.close()


@pytest.fixture(scope="session")
def postgres_image(docker_engine: str) -> str:
    """The name of an image with a PostgreSQL server; made when it is missing, which takes a minute."""
    script = Path(__file__).parents[2] / "scripts" / "postgres-image"
    done = subprocess.run([script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return "ci-runner-postgres:15"


@pytest.fixture
def developer(runner: Runner, tmp_path: Path) -> Developer:
    """A new user with a key of their own; the only user of a runner that cannot isolate two."""
    if runner.engine != "process":
        return make_developer(runner, tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    return Developer(runner, home, runner.key)


@pytest.fixture
def another(runner: Runner, tmp_path: Path) -> Developer:
    """A second user."""
    return make_developer(runner, tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the fixture projects, as a developer's folder."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(FIXTURES / name, tmp_path / name))

    return copy
