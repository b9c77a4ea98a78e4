"""One runner on the Docker engine for a module's end-to-end tests, and developers who use it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from running import FIXTURES, Developer, Runner, running

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def runner(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Both programs, on Docker, shared by every test that does not hurt them."""
    with running(tmp_path_factory.mktemp("runner"), image=docker_engine) as started:
        yield started


@pytest.fixture
def developer(runner: Runner, tmp_path: Path) -> Developer:
    """A new user with a key of their own."""
    return make_developer(runner, tmp_path)


@pytest.fixture
def another(runner: Runner, tmp_path: Path) -> Developer:
    """A second user."""
    return make_developer(runner, tmp_path)


def make_developer(runner: Runner, folder: Path) -> Developer:
    """A user nobody else has, with a home below `folder`."""
    name = f"dev{next(_numbers)}"
    home = folder / f"home-{name}"
    home.mkdir()
    return Developer(runner, home, runner.new_user(f"{name}@example.org"))


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the fixture projects, as a developer's folder."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(FIXTURES / name, tmp_path / name))

    return copy
