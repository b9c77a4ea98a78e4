"""A runner without containers, which all parity tests share: what is compared here needs none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.developer import Developer
from support.runner import Runner

from .comparison import Pair, job_python, make_pair
from .environments import Equipped, make_environment
from .plugin_table import EVERYTHING, THERE


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("parity") / "data"
    folder.mkdir(mode=0o700)
    started = Runner(folder, "process", "python:{python}-slim")
    try:
        yield started.start()
    finally:
        started.close()


@pytest.fixture(scope="session")
def developer(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Developer:
    # The runner's only user: more than one is refused where nothing isolates them.
    return Developer(runner, tmp_path_factory.mktemp("home"), runner.key)


@pytest.fixture(scope="session")
def python(runner: Runner, developer: Developer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job_python(runner, developer, tmp_path_factory.mktemp("where"))


@pytest.fixture(scope="session")
def equipped(
    request: pytest.FixtureRequest,
    developer: Developer,
    python: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Equipped]:
    # Where many tests are run they need all of these, and whoever comes first should not wait for each.
    many = sum("equipped" in getattr(item, "fixturenames", ()) for item in request.session.items) > 10
    soon = [name for name in THERE if THERE[name]] if many else []
    folder = tmp_path_factory.mktemp("equipped")
    with Equipped.started(developer, folder, python, soon=soon) as started:
        yield started


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A developer's interpreter whose pytest has none of the plugins that are compared."""
    return make_environment(tmp_path_factory.mktemp("here") / "bare")


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A developer's interpreter whose pytest has all of them."""
    return make_environment(tmp_path_factory.mktemp("here") / "full", *EVERYTHING)


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A developer's interpreter with the last pytest 8."""
    return make_environment(tmp_path_factory.mktemp("here") / "older", *THERE["older"])


@pytest.fixture
def pair(tmp_path: Path, developer: Developer, python: Path) -> Callable[[str], Pair]:
    return lambda name: make_pair(name, tmp_path, developer, python)
