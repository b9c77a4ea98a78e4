"""Answers of proxies and other servers, in place of the runner's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_remote_ci.client.client import Client
from pytest_remote_ci.errors import ClientError, RunnerRefused, RunnerUnreachable, SubmissionRefused


@contextmanager
def server(
    status: str, headers: str = "Server: nginx/1.22.1\r\n", body: bytes = b"<html>x</html>"
) -> Iterator[str]:
    """A server that answers everything in the same way, before it has read a body."""
    answer = (
        f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind", "advice"),
    [
        ("413 Request Entity Too Large", SubmissionRefused, "`client_max_body_size 0;` (nginx)"),
        ("502 Bad Gateway", RunnerUnreachable, "it cannot reach the runner: start the runner"),
        ("503 Service Unavailable", RunnerUnreachable, "it cannot reach the runner"),
        ("504 Gateway Time-out", RunnerUnreachable, "raise `proxy_read_timeout`"),
        ("403 Forbidden", RunnerRefused, "it blocks these requests"),
        ("401 Unauthorized", RunnerRefused, "it asks for a login of its own"),
        ("407 Proxy Authentication Required", RunnerUnreachable, "set HTTPS_PROXY"),
        ("400 Bad Request", SubmissionRefused, "write the address with https://"),
        ("418 I'm a teapot", RunnerUnreachable, "check the address of the runner"),
    ],
)
def test_an_answer_that_is_not_the_runner_s_names_who_answered_and_what_to_set(
    tmp_path: Path, status: str, kind: type[ClientError], advice: str
) -> None:
    archive = tmp_path / "project.zip"
    archive.write_bytes(b"x" * 100_000)
    with server(status) as url, Client(url, "key", sleep=lambda seconds: None) as client:
        for ask in (client.jobs, lambda: client.submit(archive)):
            if status[:3] in ("502", "503", "504") and ask is not client.jobs:
                continue  # a submission is repeated for a minute
            with pytest.raises(kind) as caught:
                ask()
            expected = (
                f"A proxy or another server (nginx/1.22.1) answered for the runner at {url}: {status}; "
            )
            assert str(caught.value).startswith(expected)
            assert advice in str(caught.value)


def test_a_server_s_name_is_bounded_and_harmless() -> None:
    headers = "Server: \x1b[2J" + "x" * 5000 + "\r\n"
    with server("502 Bad Gateway", headers) as url, Client(url, "key", sleep=lambda seconds: None) as client:
        with pytest.raises(RunnerUnreachable) as caught:
            client.jobs()
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 500


def test_a_server_without_a_name_is_a_proxy_or_another_server() -> None:
    words = r"^A proxy or another server answered for the runner"
    with (
        server("502 Bad Gateway", "") as url,
        Client(url, "key", sleep=lambda seconds: None) as client,
        pytest.raises(RunnerUnreachable, match=words),
    ):
        client.jobs()


def test_https_to_a_port_that_never_answers_is_told_after_the_connection_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, "key", connect_timeout=0.2) as client, pytest.raises(RunnerUnreachable) as caught:
            client.jobs()
    assert str(caught.value).endswith(
        ": no TLS handshake in time; if it speaks http, write the address with http://"
    )


def test_http_to_a_port_for_https_is_told() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"\x15\x03\x01\x00\x02\x02\x46")  # a TLS alert

    thread = threading.Thread(target=answer)
    thread.start()
    words = r"if it expects https, write the address with https://$"
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with listener, Client(url, "key") as client, pytest.raises(RunnerUnreachable, match=words):
        client.jobs()
    thread.join()
