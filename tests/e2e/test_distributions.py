"""Wheel and sdist: what is in them, and that programs of end-to-end tests are those of the wheel."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import install_wheel
import pytest
import uv
from support.developer import Developer, make_developer, run
from support.runner import Runner

from pytest_remote_ci import __version__

ROOT = install_wheel.ROOT
PACKAGES = ("pytest_remote_ci", "ci_runner")
PROJECT_URL = "https://github.com/pytest-remote-ci/pytest-remote-ci"


@pytest.fixture(scope="module")
def wheel() -> Path:
    return install_wheel.built_wheel()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    install_wheel.copy_sources(folder / "source")
    build("--sdist", folder / "source", folder / "out")
    (found,) = (folder / "out").glob("*.tar.gz")
    return found


def build(kind: str, source: Path, out: Path) -> None:
    """Build a distribution."""
    command = [uv.find_uv_bin(), "build", "-q", kind, "--no-build-isolation", "-p", sys.executable]
    done = subprocess.run(
        [*command, "-o", str(out), str(source)], cwd=out.parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def contents(wheel: Path) -> dict[str, bytes]:
    """Name → content."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    build("--wheel", sdist, tmp_path / "out")
    (again,) = (tmp_path / "out").glob("*.whl")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert names == files
    assert not [name for name in names if name.endswith(".pth")], "runs at every start of Python"


def test_distributions_are_fit_for_the_index(wheel: Path, sdist: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_version_is_that_of_the_package(wheel: Path, sdist: Path) -> None:
    assert wheel.name.startswith(f"pytest_remote_ci-{__version__}-")
    assert sdist.name == f"pytest_remote_ci-{__version__}.tar.gz"


def test_the_project_says_where_it_lives() -> None:
    urls = dict(
        line.split(", ", 1) for line in distribution("pytest-remote-ci").metadata.get_all("Project-URL", [])
    )
    assert urls["Homepage"] == PROJECT_URL
    assert all(url.startswith(PROJECT_URL) for url in urls.values())


WHERE = """
import importlib.metadata, json, sys
import pytest_remote_ci, ci_runner
origin = json.loads(importlib.metadata.distribution("pytest-remote-ci").read_text("direct_url.json") or "{}")
def pytest_configure(config):
    own = [name for name, plugin in config.pluginmanager.list_name_plugin() if plugin is not None
           and getattr(plugin, "__name__", "") == "pytest_remote_ci.plugin"]
    print(repr((pytest_remote_ci.__file__, ci_runner.__file__, origin["url"], origin.get("dir_info"), own)))
"""


def test_clients_of_end_to_end_tests_are_those_of_the_wheel(tmp_path: Path) -> None:
    """And the plugin is loaded once."""
    developer = Developer(Runner(tmp_path, "process", ""), tmp_path, None)
    (tmp_path / "where.py").write_text(WHERE)
    command = [developer.python, "-m", "pytest", "-p", "where", "--collect-only"]
    done = run(command, cwd=tmp_path, env=developer.environ(PYTHONPATH=str(tmp_path)))
    client, runner, url, folder, own = ast.literal_eval(done.out.splitlines()[0])
    packages = sysconfig.get_path("purelib")
    assert (Path(client).parents[1], Path(runner).parents[1]) == (Path(packages), Path(packages))
    assert url == install_wheel.built_wheel().as_uri()
    assert folder is None, "no editable installation"
    assert own == ["remote_ci"]


def test_runners_of_end_to_end_tests_are_those_of_the_wheel(
    start_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    """And so is what they put beside tests: their own file says where it is."""
    runner = start_runner("process", env={"PYTHONVERBOSE": "1"})
    developer = make_developer(runner, tmp_path)
    assert developer.home.exists()
    packages = re.escape(sysconfig.get_path("purelib"))
    for program in ("serve", "reconcile"):
        log = runner.log(program)
        assert re.search(rf"{packages}/ci_runner/\S*programs", log), program
        assert f"{ROOT}/ci_runner" not in log
        assert f"{ROOT}/pytest_remote_ci" not in log


def test_nothing_here_installs_the_checkout() -> None:
    files = [*(ROOT / "scripts").iterdir(), *(ROOT / ".ci").iterdir(), *(ROOT / "tests").rglob("*.py")]
    pattern = re.compile(r"install[^\n]*(?:--editable|\s-e\b|[\"']-e[\"'])")
    allowed = {"compare-outcomes"}  # installs projects that are compared as their jobs do
    found = [
        path.name
        for path in files
        if path.is_file() and path != Path(__file__) and pattern.search(path.read_text(errors="replace"))
    ]
    assert set(found) <= allowed
    assert os.environ.get("PYTHONPATH", "").find(str(ROOT)) < 0
