"""The job's user and host have names in any image, with and without a network."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from support.developer import Developer

TEST = """
import getpass, grp, os, pathlib, pwd, socket

def test_the_user_has_a_name():
    user = pwd.getpwuid(os.getuid())
    assert getpass.getuser() == user.pw_name == "runner"
    assert os.path.expanduser("~") == os.path.expanduser("~runner") == user.pw_dir == os.environ["HOME"]
    assert grp.getgrgid(os.getgid()).gr_name == "runner"
    assert pathlib.Path("test_it.py").owner() == "runner"
    assert pwd.getpwnam("root").pw_uid == 0 and pwd.getpwnam("daemon").pw_shell

def test_the_host_has_a_name():
    assert socket.getaddrinfo(socket.gethostname(), 80)
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        socket.create_connection(server.getsockname()[:2]).close()

def test_the_list_of_users_cannot_be_changed():
    for name in ("/etc/passwd", "/etc/group"):
        try:
            open(name, "a")
        except OSError:
            continue
        raise AssertionError(name)
"""


@pytest.fixture
def nameless_image(docker_engine: str) -> Iterator[str]:
    """An image with Python that does not know the uid of jobs, and whose list of users has odd lines."""
    tag = f"ci-runner-test-{uuid.uuid4().hex[:12]}"
    program = (
        f"FROM {docker_engine}\n"
        "RUN sed -i /:65532:/d /etc/passwd /etc/group && printf '+::::::\\nno entry\\n' >>/etc/passwd\n"
    )
    client = docker.APIClient()
    try:
        list(client.build(fileobj=io.BytesIO(program.encode()), tag=tag, rm=True, decode=True))
        yield tag
        client.remove_image(tag, force=True)
    finally:
        client.close()


def test_user_and_host_have_names_in_a_foreign_image_without_a_network(
    developer: Developer, nameless_image: str, tmp_path: Path
) -> None:
    """Python and a script find them; files that the image lacks are not made up."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "test_it.py").write_text(TEST)
    (folder / "pyproject.toml").write_text(
        f'[tool.remote-ci]\nimage = "{nameless_image}"\nnetwork = "none"\n'
    )
    done = developer.pytest("-v", cwd=folder, timeout=400)
    assert done.code == 0, done.text
    assert "3 passed" in done.out
