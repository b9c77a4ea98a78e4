"""The example plugin of docs/guide/hooks.md, installed as anybody would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "runner-plugin"

PROGRAM = """
import sys
from ci_runner.controller.engine import ContainerSpec
from ci_runner.model.job import Job
from ci_runner.plugins.manager import Plugins
plugins = Plugins.load()
assert any(name.startswith("quiet-hours ") for name in plugins.names()), plugins.names()
spec = ContainerSpec("n", "i", ("x",), "test", "j", 1)
print(plugins.container_options(Job("1", name="nightly-7"), spec).network)
print(plugins.container_options(Job("2", name="other"), spec).network)
plugins.job_finished(Job("1", status="completed", exit_code=0))
plugins.close()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed plugin, to be put on the path."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, folder / "source")
    uv = Path(sys.executable).with_name("uv")
    command = [
        str(uv) if uv.exists() else "uv",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--python",
        sys.executable,
        "--target",
        str(folder / "site"),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"the example cannot be built here: {done.stderr}")
    return folder / "site"


def run(installed: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(installed), **variables}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, env=env, check=False
    )


def test_it_is_found_narrows_and_hears(installed: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    done = run(installed, CI_RUNNER_PLUGIN_OFFLINE="nightly-*", CI_RUNNER_PLUGIN_JOURNAL=str(journal))
    assert (done.stdout.split(), done.stderr) == (["none", "egress"], "")
    assert journal.read_text() == "1 completed 0\n"


def test_its_wrong_setting_keeps_the_runner_from_starting(installed: Path, tmp_path: Path) -> None:
    done = run(installed, CI_RUNNER_PLUGIN_JOURNAL=str(tmp_path / "no" / "journal"))
    assert done.returncode == 1
    assert "plugin quiet-hours (quiet_hours:QuietHours): CI_RUNNER_PLUGIN_JOURNAL" in done.stderr
