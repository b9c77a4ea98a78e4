"""Several clients behind Debian's nginx with the documented settings, and what clients say about a careless one."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.http_server import Runner, running
from support.waiting import wait_until

from ci_runner.settings.groups import ServeSettings
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.errors import RunnerUnreachable, SubmissionRefused

NGINX = shutil.which(
    "nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
)
ADMIN = Path(__file__).parents[3] / "docs" / "guide" / "admin.md"
CARELESS = "location / { proxy_pass http://127.0.0.1:8000; }"

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def documented() -> str:
    """The inside of the documented `server { … }` without TLS and names."""
    (block,) = re.findall(r"```nginx\n(.*?)```", ADMIN.read_text("utf-8"), re.DOTALL)
    inside = re.search(r"server \{\n(.*)\}", block, re.DOTALL)
    assert inside is not None
    lines = inside[1].splitlines()
    return "\n".join(line for line in lines if not re.match(r"\s*(listen|server_name|ssl_)", line))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def nginx(folder: Path, inside: str, upstream: str) -> Iterator[str]:
    """An nginx of our own in front of `upstream`; its address."""
    port = free_port()
    for name in ("body", "proxy"):
        (folder / name).mkdir(parents=True)
    inside = inside.replace("http://127.0.0.1:8000", upstream)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events {}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"server {{ listen 127.0.0.1:{port};\n{inside}\n}} }}\n"
    )
    command = [str(NGINX), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command)

    def answers() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, what="nginx")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    (tmp_path / "data").mkdir()
    with running(tmp_path / "data", settings=ServeSettings(trusted_proxies=("127.0.0.1",))) as runner:
        yield runner


def test_several_clients_send_and_follow_at_once(runner: Runner, tmp_path: Path) -> None:
    archive = tmp_path / "large.zip"
    archive.write_bytes(os.urandom(3 << 20))  # more than nginx takes by default
    people = {name: runner.person(name) for name in ("Ada", "Bob", "Eve")}
    assert runner.epoch
    seen: dict[str, list[str]] = {}

    def follow(url: str, name: str) -> None:
        with Client(url, people[name].key) as client:
            with pytest.raises(
                SubmissionRefused, match="The runner refused"
            ):  # no zip: all of it has arrived
                client.submit(archive)
            job = runner.job(people[name])
            runner.log(job.id, f"of {name}\n")
            events = iter(client.stream(job.id))
            seen[name] = [next(events).text]  # it arrives although the job goes on
            runner.finish(job.id)
            seen[name] += [event.type for event in events]

    with nginx(tmp_path / "nginx", documented(), runner.url) as url:
        threads = [threading.Thread(target=follow, args=(url, name)) for name in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {name: [f"of {name}\n", "complete"] for name in people}


def test_a_careless_nginx_is_named_with_what_to_set(runner: Runner, tmp_path: Path) -> None:
    archive = tmp_path / "large.zip"
    archive.write_bytes(os.urandom(8 << 20))
    key = runner.person().key
    with (
        nginx(tmp_path / "nginx", CARELESS, runner.url) as url,
        Client(url, key, sleep=lambda seconds: None) as client,
    ):
        with pytest.raises(SubmissionRefused, match=r"\(nginx/.*413 .*`client_max_body_size 0;`"):
            client.submit(archive)
        runner.server.stop(seconds=5)
        with pytest.raises(RunnerUnreachable, match=r"\(nginx/.*502 Bad Gateway; it cannot reach the runner"):
            client.jobs()
