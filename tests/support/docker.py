"""The Docker engine that tests use, if there is one."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

#: The image that tests run containers from; made by scripts/base-image.
TEST_IMAGE = os.environ.get("CI_RUNNER_TEST_IMAGE", "ci-runner-base:bookworm")


@functools.cache
def problem() -> str | None:
    """Return why tests that need Docker cannot run, or None."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    try:
        for what, command in (
            ("no Docker engine answers", ["docker", "version", "--format", "{{.Server.Version}}"]),
            (
                f"the image {TEST_IMAGE} is missing",
                ["docker", "image", "inspect", "--format", "{{.Id}}", TEST_IMAGE],
            ),
        ):
            if subprocess.run(command, capture_output=True, timeout=30, check=False).returncode:
                return f"{what}: run scripts/start-docker and scripts/base-image"
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer in time"
    return None
