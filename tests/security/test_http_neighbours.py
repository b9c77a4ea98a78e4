"""What hostile neighbours cannot take from others: connections, threads, room for uploads, and a right key."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from support.http_server import PROJECT, Person, Runner, raw_exchange, running
from support.waiting import wait_until

from ci_runner.model import api_keys as credentials
from ci_runner.model.job import Job
from ci_runner.server.http.addresses import WINDOW, TrustedProxies, WrongKeys, network_of
from ci_runner.server.http.uploads import UploadSpace
from ci_runner.settings.groups import ServeSettings

#: Addresses of this machine; Linux takes all of 127.0.0.0/8 for it.
HERE, NEIGHBOUR, PROXY = "127.0.0.1", "127.0.0.2", "127.0.0.3"
FORM = "multipart/form-data; boundary=x"
BODY = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="p.zip"\r\n\r\n'
    + PROJECT
    + b"\r\n--x--\r\n"
)


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Both ends of all connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(runner: Runner, source: str = NEIGHBOUR) -> socket.socket:
    return socket.create_connection((HERE, runner.server.port), timeout=10, source_address=(source, 0))


def head(method: str = "GET", path: str = "/health", key: str | None = None, *lines: str) -> bytes:
    wanted = [f"{method} {path} HTTP/1.1", "Host: runner", *lines]
    if key is not None:
        wanted.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*wanted, "", ""]).encode()


def announced(key: str, length: int, *lines: str) -> bytes:
    """Head of a submission of so many bytes."""
    return head("POST", "/submit-async", key, f"Content-Type: {FORM}", f"Content-Length: {length}", *lines)


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer; the body must have a length."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(1)
        assert piece, f"the connection ended in {received!r}"
        received += piece
    lines = received.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
    body = b""
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        piece = connection.recv(length - len(body))
        assert piece
        body += piece
    return int(lines[0].split()[1]), headers, body


def asked(runner: Runner, request: bytes, source: str = NEIGHBOUR) -> tuple[int, dict[str, str], bytes]:
    """The answer to one request from an address."""
    with connect(runner, source) as connection:
        connection.sendall(request)
        return answer(connection)


@contextlib.contextmanager
def held(connections: list[socket.socket]) -> Iterator[None]:
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


# -- bodies and the disk


def test_what_strangers_announce_takes_no_room(tmp_path: Path) -> None:
    with running(tmp_path, ServeSettings(threads=4, max_streams=4)) as runner:
        person = runner.person()
        crowd = [connect(runner) for _ in range(89)]
        with held(crowd):
            for connection in crowd:
                connection.sendall(announced("garbage", runner.settings.max_upload))
            assert runner.submit(person).status_code == 200
            assert {answer(connection)[0] for connection in crowd} == {401, 429}
            assert runner.submit(person).status_code == 200


def space_of(runner: Runner) -> UploadSpace:
    gate = runner.server._gate
    assert gate is not None
    return gate.space


def test_what_a_user_announces_takes_no_room_from_others(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    settings = ServeSettings(threads=4, max_streams=4, max_upload=4 << 30)
    with running(tmp_path, settings, reserve=free - (10 << 30)) as runner:
        greedy, other = runner.person(), runner.person()
        crowd = [connect(runner) for _ in range(settings.max_uploads_per_user)]
        with held(crowd):
            for connection in crowd:
                connection.sendall(announced(greedy.key, 4 << 30) + bytes(1000))
            space = space_of(runner)
            wait_until(lambda: space._bodies[greedy.user.id] == len(crowd), what="the bodies to be taken")
            assert runner.submit(other).status_code == 200
            status, headers, body = asked(runner, announced(greedy.key, 1 << 20))
            assert status == 429
            assert int(headers["retry-after"]) > 0
            assert "bodies at once" in json.loads(body)["detail"]
        wait_until(lambda: not space._bodies, what="the bodies to be forgotten")
        assert runner.submit(greedy).status_code == 200


def test_a_user_s_bodies_together_get_no_more_than_half_of_the_room(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    settings = ServeSettings(threads=4, max_streams=4, max_upload=1 << 30)
    # The room is far more than the disk's changes by others, and far less than what is sent.
    with running(tmp_path, settings, reserve=max(0, free - (3 << 30))) as runner:
        greedy, other = runner.person(), runner.person()
        space = space_of(runner)
        assert space.begin(greedy.user.id, 1 << 30) is None
        assert space.arrived(greedy.user.id, 1 << 30) is None  # a single body may use what there is
        assert space.begin(greedy.user.id, 1 << 20) is None
        refusal = space.arrived(greedy.user.id, 1 << 20)
        assert refusal is not None
        assert refusal.code == 429
        assert runner.submit(other).status_code == 200
        space.end(greedy.user.id, (1 << 30) + (1 << 20))
        space.end(greedy.user.id, 0)
        assert runner.submit(greedy).status_code == 200


def test_a_disk_that_fills_while_a_body_arrives_is_507(tmp_path: Path) -> None:
    with running(tmp_path, ServeSettings(threads=4, max_streams=4)) as runner:
        person = runner.person()
        with connect(runner) as connection:
            connection.sendall(announced(person.key, 100 << 20) + bytes(1 << 20))
            space = space_of(runner)
            wait_until(lambda: space._arrived[person.user.id] >= 1 << 20, what="the first bytes")
            space._reserve = 1 << 60  # as if others had filled the disk
            connection.sendall(bytes(1 << 10))
            status, headers, body = answer(connection)
            assert (status, json.loads(body)) == (
                507,
                {"detail": "The runner's disk is full; nothing was stored"},
            )
            assert int(headers["retry-after"]) > 0
        wait_until(lambda: not space._arrived, what="the body to be forgotten")
        assert runner.leftovers() == []


class SlowHooks:
    """A plugin whose look at credentials takes as long as the test wants."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.go_on = threading.Event()

    def authenticate(self, *, credentials: str) -> str | None:
        self.asked.release()
        self.go_on.wait(60)
        return None

    def job_submitted(self, *, job: Job) -> None:
        """Nothing."""


def test_nothing_of_a_body_is_read_before_its_key_is_known(tmp_path: Path) -> None:
    hooks = SlowHooks()
    with running(tmp_path, ServeSettings(threads=4, max_streams=4), hooks=hooks) as runner:
        with connect(runner) as connection:
            connection.sendall(announced("garbage", 64 << 20))
            connection.setblocking(False)
            hooks.asked.acquire()
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 64 << 20:
                    sent += connection.send(bytes(1 << 20))
            assert sent < 64 << 20, "all was taken"
            assert runner.get("/health").status_code == 200
            (request,) = [
                channel.request
                for channel in runner.server._server.active_channels.values()
                if channel.request is not None
            ]
            assert request.body_bytes_received == 0
            assert len(request.backlog) <= 1 << 16
            hooks.go_on.set()
            connection.setblocking(True)
            connection.settimeout(10)
            assert answer(connection)[0] == 401
        assert runner.leftovers() == []


@pytest.mark.parametrize("length", [100_000, 100])
def test_a_client_that_waits_to_be_asked_is_asked_only_with_a_right_key(tmp_path: Path, length: int) -> None:
    with running(tmp_path) as runner:
        person = runner.person()
        wrong = raw_exchange(
            runner.server.port,
            announced(credentials.generate().text, 100_000, "Expect: 100-continue", "Connection: close"),
        )
        assert wrong.startswith(b"HTTP/1.1 401 ")
        for _ in range(2):  # looked up, and remembered
            with connect(runner) as connection:
                body = BODY[:-8] + b"\r\n--x--\r\n" + bytes(max(0, length - len(BODY)))
                connection.sendall(announced(person.key, len(body), "Expect: 100-continue"))
                assert answer(connection)[0] == 100
                connection.sendall(body)
                assert answer(connection)[0] in (200, 422)


def test_a_body_that_comes_with_its_head_is_read_once_the_key_is_known(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        person = runner.person()
        epilogue = bytes(100_000)
        request = announced(person.key, len(BODY + epilogue), "Expect: 100-continue") + BODY + epilogue
        with connect(runner) as connection:
            connection.sendall(request + head(path="/health") + request)
            statuses: list[int] = []
            while len(statuses) < 3:
                status = answer(connection)[0]
                statuses += [] if status == 100 else [status]
            assert statuses == [200, 200, 200]


# -- wrong keys


def wrong_key_from(runner: Runner, source: str, *lines: str) -> tuple[int, dict[str, str]]:
    status, headers, body = asked(runner, head("GET", "/jobs", credentials.generate().text, *lines), source)
    assert list(json.loads(body)) == ["detail"]
    return status, headers


def test_wrong_keys_of_one_address_are_limited_and_right_ones_are_not(tmp_path: Path) -> None:
    with running(tmp_path, ServeSettings(threads=4, max_streams=4)) as runner:
        person = runner.person()
        assert [wrong_key_from(runner, HERE)[0] for _ in range(10)] == [401] * 10
        for _ in range(3):
            status, headers = wrong_key_from(runner, HERE)
            assert status == 429
            assert 0 < int(headers["retry-after"]) <= WINDOW
            assert headers["www-authenticate"] == 'Bearer error="invalid_token"'
        large = asked(runner, announced(credentials.generate().text, 1 << 20), HERE)
        assert (large[0], large[1]["www-authenticate"]) == (429, 'Bearer error="invalid_token"')
        assert asked(runner, head("GET", "/jobs", None), HERE)[0] == 401  # no key is no wrong key
        assert runner.get("/jobs", person).status_code == 200
        assert runner.get("/jobs", runner.person()).status_code == 200  # one that was never seen before
        assert runner.submit(person).status_code == 200
        assert wrong_key_from(runner, NEIGHBOUR)[0] == 401


def test_only_a_trusted_proxy_says_whose_request_it_is(tmp_path: Path) -> None:
    settings = ServeSettings(threads=4, max_streams=4, wrong_keys=2, trusted_proxies=(PROXY, "10.0.0.0/8"))
    with running(tmp_path, settings) as runner:
        first, second = "X-Forwarded-For: 203.0.113.5", "X-Forwarded-For: 203.0.113.6"
        assert [wrong_key_from(runner, PROXY, first)[0] for _ in range(3)] == [401, 401, 429]
        assert [wrong_key_from(runner, PROXY, second)[0] for _ in range(3)] == [401, 401, 429]
        assert wrong_key_from(runner, PROXY, "X-Forwarded-For: 1.2.3.4, 203.0.113.6, 10.1.1.1")[0] == 429
        assert [wrong_key_from(runner, NEIGHBOUR, f"X-Forwarded-For: 1.1.1.{n}")[0] for n in range(3)] == [
            401,
            401,
            429,
        ]


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (None, PROXY),
        ("", PROXY),
        ("203.0.113.5", "203.0.113.5"),
        ("203.0.113.5:4711", "203.0.113.5"),
        ("evil, 203.0.113.5", "203.0.113.5"),
        ("203.0.113.5, evil", PROXY),
        ("1.1.1.1, 203.0.113.5, 10.0.0.9", "203.0.113.5"),
        ('"[2001:db8::1]:80"', "2001:db8::1"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("x," * 50_000 + "10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_client_behind_a_proxy(forwarded: str | None, client: str) -> None:
    proxies = TrustedProxies([PROXY, "10.0.0.0/8"])
    assert proxies.client(PROXY, forwarded) == client
    assert proxies.client(NEIGHBOUR, forwarded) == NEIGHBOUR


def test_addresses_of_one_ipv6_network_are_one_client() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1%eth0") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("no address") == "no address"


def test_the_count_of_wrong_keys_is_bounded_and_forgets() -> None:
    now = 0.0
    wrong = WrongKeys(2, most=100, clock=lambda: now)
    assert [wrong.note("a"), wrong.note("a")] == [0.0, 0.0]
    now = 20.0
    assert wrong.note("a") == WINDOW - 20
    now = WINDOW
    assert wrong.note("a") == 0.0
    for number in range(1000):
        wrong.note(str(number))
    assert len(wrong) == 100


# -- connections, threads and streams


def nothing(connection: socket.socket) -> None:
    """Only the connection."""


def half_a_head(connection: socket.socket) -> None:
    connection.sendall(b"GET /jobs HTTP/1.1\r\nHost: x\r\nX-")


def half_a_body(connection: socket.socket) -> None:
    connection.sendall(head("POST", "/pipelines/check", "garbage", "Content-Length: 60000") + bytes(100))


def keep_alive(connection: socket.socket) -> None:
    connection.sendall(head())


HALF_OPEN: list[Callable[[socket.socket], None]] = [nothing, half_a_head, half_a_body, keep_alive]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", HALF_OPEN)
@pytest.mark.parametrize("flooders", [1, 3])
def test_half_open_requests_leave_others_alone(
    tmp_path: Path, kind: Callable[[socket.socket], None], flooders: int
) -> None:
    with running(tmp_path, ServeSettings()) as runner:
        person = runner.person()
        job = runner.job(person)
        watching = requests.get(
            f"{runner.url}/jobs/{job.id}/stream?from_beginning=true",
            headers=person.headers,
            stream=True,
            timeout=30,
        )
        crowd: list[socket.socket] = []
        with held(crowd):
            for number in range(1100):
                connection = connect(runner, f"127.0.0.{2 + number % flooders}")
                crowd.append(connection)
                with contextlib.suppress(OSError):  # closed for a newer one
                    kind(connection)
            assert runner.get("/health").status_code == 200
            assert asked(runner, head(), NEIGHBOUR)[0] == 200
            with requests.Session() as fresh:
                assert fresh.get(f"{runner.url}/jobs", headers=person.headers, timeout=30).status_code == 200
            assert runner.submit(person).status_code == 200
            assert len(runner.server._server.active_channels) <= runner.settings.max_connections + 32
            runner.log(job.id, "still here")
            runner.finish(job.id)
            with watching:
                assert b"still here" in watching.content


def test_an_address_with_too_many_busy_connections_is_told_so(tmp_path: Path) -> None:
    settings = ServeSettings(threads=4, max_streams=16, max_connections_per_address=4)
    with running(tmp_path, settings) as runner:
        person = runner.person()
        path = f"/jobs/{runner.job(person).id}/stream"
        streams = [connect(runner) for _ in range(4)]
        with held(streams):
            for connection in streams:
                connection.sendall(head("GET", path, person.key))
                assert answer(connection)[0] == 200
            status, headers, body = asked(runner, head("GET", "/jobs", person.key))
            assert (status, int(headers["retry-after"]) > 0) == (429, True)
            assert "connections open" in json.loads(body)["detail"]
            assert asked(runner, head())[0] == 200
            assert asked(runner, head("GET", "/jobs", person.key), HERE)[0] == 200


def test_streams_of_one_address_are_bounded(tmp_path: Path) -> None:
    settings = ServeSettings(threads=4, max_streams=8, max_streams_per_address=2)
    with running(tmp_path, settings) as runner:
        people = [runner.person() for _ in range(3)]
        paths = [f"/jobs/{runner.job(person).id}/stream" for person in people]
        streams = [connect(runner), connect(runner)]
        with held(streams):
            for connection, person, path in zip(streams, people, paths, strict=False):
                connection.sendall(head("GET", path, person.key))
                assert answer(connection)[0] == 200
            status, headers, body = asked(runner, head("GET", paths[2], people[2].key))
            assert (status, int(headers["retry-after"]) > 0) == (429, True)
            assert "for one address" in json.loads(body)["detail"]
            with connect(runner, HERE) as connection:
                connection.sendall(head("GET", paths[2], people[2].key))
                assert answer(connection)[0] == 200


def test_who_keeps_threads_busy_leaves_some_to_others(tmp_path: Path) -> None:
    hooks = SlowHooks()
    settings = ServeSettings(threads=4, max_streams=1, max_requests_per_user=2)
    with running(tmp_path, settings, hooks=hooks) as runner:
        person = runner.person()
        crowd = [connect(runner) for _ in range(40)]
        with held(crowd):
            for connection in crowd:
                connection.sendall(head("GET", "/jobs", "garbage"))
            hooks.asked.acquire()
            hooks.asked.acquire()
            assert runner.get("/jobs", person).status_code == 200
            assert runner.submit(person).status_code == 200
            # Others fill the rest of the threads, and still the process answers.
            for number in range(3, 9):
                connection = connect(runner, f"127.0.0.{number}")
                crowd.append(connection)
                connection.sendall(head("GET", "/jobs", "garbage"))
            for _ in range(3):
                hooks.asked.acquire()
            assert asked(runner, head())[0] == 200
            assert asked(runner, b"GET /health HTTP/1.1\r\n\r\n")[0] == 400
            hooks.go_on.set()
            assert {answer(connection)[0] for connection in crowd} == {401, 429}


def test_pipelined_requests_are_answered_in_order_and_in_turn(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        person = runner.person()
        with connect(runner) as connection:
            for _ in range(5):
                connection.sendall(head() * 40 + head("GET", "/jobs", person.key))
            assert runner.get("/jobs", person).status_code == 200
            bodies = [answer(connection)[2] for _ in range(5 * 41)]
            assert bodies == ([b'{"status": "ok"}'] * 40 + [b"[]"]) * 5


SERVE = """
import resource, sys, threading
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
from ci_runner.storage.blobs import BlobStore, job_owner
from ci_runner.settings.groups import ServeSettings, StorageSettings
from ci_runner.server.app import create_app
from ci_runner.server.context import Services
from ci_runner.server.http.server import HttpServer
from ci_runner.store import Store

root = Path(sys.argv[1])
storage = StorageSettings(data_dir=root, disk_reserve=0)
settings = ServeSettings(port=0, max_connections_per_address=int(sys.argv[2]))
app = create_app(Services(Store.open(root / "runner.db"), BlobStore(root, job_owner()), settings, storage))
server = HttpServer(app, settings, root)
server.start()
if sys.argv[2] == "9999":  # as if the limit of connections were wrong
    server._gate.connections.most = 9999
print(server.port, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("limit", ["500", "9999"])
def test_a_process_without_files_left_still_answers(tmp_path: Path, limit: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path), limit], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        crowd: list[socket.socket] = []
        with held(crowd):
            for _ in range(400):
                with contextlib.suppress(ConnectionResetError):
                    crowd.append(
                        socket.create_connection((HERE, port), timeout=10, source_address=(NEIGHBOUR, 0))
                    )
            for _ in range(3):
                answered = requests.get(f"http://{HERE}:{port}/health", timeout=30)
                assert answered.status_code == 200
                assert requests.get(f"http://{HERE}:{port}/jobs", timeout=30).status_code == 401
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_key_is_remembered_until_it_is_revoked(tmp_path: Path) -> None:
    """What is remembered decides whose turn a request is, and nothing else."""
    with running(tmp_path) as runner:
        person: Person = runner.person()
        authenticator = runner.app.authenticator
        assert authenticator.recent_user(f"Bearer {person.key}") is None
        assert runner.get("/jobs", person).status_code == 200
        assert authenticator.recent_user(f"Bearer {person.key}") == person.user.id
        runner.store.keys.revoke(runner.store.keys.list(person.user.id)[0].id)
        assert runner.get("/jobs", person).status_code == 401
        assert authenticator.recent_user(f"Bearer {person.key}") is None
