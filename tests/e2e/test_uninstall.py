"""`ci-runner uninstall`: everything of one runner is removed, and nothing of another one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runner import Runner, docker
from support.waiting import wait_until

pytestmark = pytest.mark.docker


def uninstall(runner: Runner, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [runner.python, "-m", "ci_runner", "uninstall", "--data-dir", str(runner.data_dir), *options],
        cwd=runner.data_dir.parent,
        env=runner.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def belongings(runner: Runner) -> list[str]:
    """Names of containers, volumes and networks with the runner's label, and its firewall rules."""
    install = (runner.data_dir / "install-id").read_text().strip()
    label = ["--filter", f"label=ci-runner.install={install}", "--quiet"]
    found = docker("container", "ls", "--all", *label) + docker("volume", "ls", *label)
    found += docker("network", "ls", *label)
    rules = subprocess.run(["iptables", "-S"], capture_output=True, text=True, check=False).stdout
    return [*found.split(), *(line for line in rules.splitlines() if f"ci-runner {install[:8]}" in line)]


def test_all_of_a_killed_runner_is_removed_and_nothing_of_another(
    start_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    killed, other = start_runner(), start_runner()
    for runner in (killed, other):
        project = tmp_path / f"project-{runner.data_dir.parent.name}"
        project.mkdir()
        (project / "test_it.py").write_text("import time\ndef test_it(): time.sleep(600)\n")
        options = ("--remote-ci-network=egress",)
        done = runner.run(
            [runner.python, "-m", "pytest", "--remote-ci", "--remote-ci-async", *options], project
        )
        assert done.returncode == 0, done.stderr
    both = (killed, other)
    wait_until(lambda: all(runner.get("/jobs")[0]["phase"] == "testing" for runner in both), 120)
    refused = uninstall(killed, "--yes")
    assert refused.returncode == 75
    killed.kill("reconcile")
    listed = uninstall(killed, "--dry-run")
    assert listed.returncode == 0, listed.stderr
    assert {"container", "network"} <= {line.split()[0] for line in listed.stdout.splitlines()[:-1]}
    assert "Nothing was removed" in listed.stdout
    found = json.loads(uninstall(killed, "--dry-run", "--json").stdout)
    assert found["found"]["container"]
    assert found["removed"] is False
    unasked = uninstall(killed)
    assert (unasked.returncode, "use --yes" in unasked.stderr) == (1, True)
    before = set(other.containers())
    assert belongings(killed)
    done = uninstall(killed, "--yes")
    assert (done.returncode, "✓ Removed" in done.stdout) == (0, True), done.stderr
    assert belongings(killed) == []
    assert before
    assert set(other.containers()) == before
    assert any("DOCKER-USER" in line for line in belongings(other))
    other.kill("reconcile")
    assert uninstall(other, "--yes").returncode == 0  # its rules would stay
    assert "nothing of this runner" in uninstall(killed, "--yes").stdout


def test_a_folder_without_a_runner_is_refused(tmp_path: Path) -> None:
    done = uninstall(Runner(tmp_path / "data", "docker", ""), "--yes")
    assert (done.returncode, "no runner was started here" in done.stderr) == (2, True)
    assert not (tmp_path / "data").exists()
