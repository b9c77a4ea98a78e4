"""What the answers of a Docker engine mean, and what is said where none can be reached."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci_runner.controller.engines.docker.api import DockerAPI, has_just_ended
from ci_runner.errors import EngineUnavailable

RUNC = "could not run a command in the container: OCI runtime exec failed: exec failed: "


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Path]:
    """A socket on which a program listens; only root and this user may use it."""
    path = Path("/tmp") / f"rci-{os.getpid()}.sock"  # short, and in a folder that anybody can enter
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        try:
            path.chmod(0o600)
            listening.listen()
            yield path
        finally:
            path.unlink()


def message_as(uid: int, url: str) -> str:
    """Return the error that a user gets at this address."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setuid(uid)
            with pytest.raises(EngineUnavailable) as caught:
                DockerAPI(url).open()
            os.write(writing, str(caught.value).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as text:
        message = text.read()
    os.waitpid(child, 0)
    return message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_socket_that_the_user_may_not_use_names_the_group(address: Path) -> None:
    assert message_as(65531, f"unix://{address}") == (
        f"this user may not use Docker's socket at unix://{address}; add the user to its group (usually `docker`) "
        "and log in again, or set DOCKER_HOST"
    )


def test_where_nobody_listens_the_address_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        EngineUnavailable, match=f"no Docker engine answers at unix://{tmp_path}/docker.sock: "
    ):
        DockerAPI(f"unix://{tmp_path}/docker.sock").open()


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        (
            RUNC
            + "unable to create new parent process: namespace path: lstat /proc/6194/ns/ipc: no such file or "
            "directory: unknown",
            True,
        ),
        (RUNC + 'unable to start container process: exec: "sh": executable file not found in $PATH', False),
    ],
)
def test_a_container_that_has_just_ended_is_recognized(text: str, ended: bool) -> None:
    assert has_just_ended(text) is ended
