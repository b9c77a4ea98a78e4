"""System packages as a developer asks for them; and `kill -9` of the controller while it installs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.crash_project import PATIENCE, Crashing
from support.apt_repository import apt_image
from support.runner import docker
from support.waiting import wait_until

pytestmark = pytest.mark.docker

SUITE = """
import subprocess
def test_the_tool_is_there():
    assert subprocess.check_output("remoteci-tool") == b"remoteci-tool\\n"
"""


@pytest.fixture(scope="module")
def crashing(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    with apt_image() as image:
        folder = tmp_path_factory.mktemp("packages")
        made = Crashing(folder, image, CI_RUNNER_ALLOWED_PACKAGES="remoteci-*")
        try:
            made.runner.start()
            yield made
        finally:
            made.runner.close()


def project(crashing: Crashing, *packages: str) -> Path:
    """A project that asks for these packages in its configuration."""
    folder = crashing.project(suite=SUITE)
    names = ", ".join(f'"{name}"' for name in packages)
    (folder / "pyproject.toml").write_text(f"[tool.remote-ci]\npackages = [{names}]\n")
    return folder


def derived(crashing: Crashing) -> list[str]:
    """Ids of the runner's images with packages."""
    install = (crashing.runner.data_dir / "install-id").read_text().strip()
    listed = docker("image", "ls", "--quiet", "--no-trunc", "--filter", f"label=ci-runner.derived={install}")
    return listed.split()


def finished(crashing: Crashing, folder: Path) -> tuple[int, str]:
    """Exit code and output of a session of that project."""
    session = crashing.popen(folder)
    output, _ = session.communicate(timeout=3 * PATIENCE)
    return session.returncode, output


def test_a_package_that_is_not_allowed_is_one_line_that_names_the_setting(crashing: Crashing) -> None:
    code, output = finished(crashing, project(crashing, "remoteci-tool", "gcc"))
    assert code != 0
    (line,) = [line for line in output.splitlines() if "allowed-packages" in line]
    assert "package 'gcc' may not be installed on this runner (allowed: remoteci-*)" in line


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("point", "packages"),
    [
        ("controller.build.packages_started", ("remoteci-tool",)),
        ("controller.build.packages_committed", ("remoteci-tool", "remoteci-lib")),
    ],
)
def test_a_controller_killed_while_it_installs(
    crashing: Crashing, point: str, packages: tuple[str, ...]
) -> None:
    before = set(derived(crashing))
    crashing.restart("reconcile", f"{point}=kill")
    session = crashing.popen(project(crashing, *packages))
    crashing.until_dead("reconcile")
    begun = crashing.runner.containers()
    assert begun
    crashing.restart("reconcile")
    output, _ = session.communicate(timeout=3 * PATIENCE)
    assert session.returncode == 0, f"{output}\n{crashing.log()}"
    assert "1 passed" in output
    assert output.count("installing system packages") == 2, output
    wait_until(lambda: not set(begun) & set(crashing.runner.containers()), PATIENCE, what="no old container")
    # Of the one that was made twice only the one that is recorded stays.
    wait_until(lambda: len(set(derived(crashing)) - before) == 1, 2 * PATIENCE, what="one image")
