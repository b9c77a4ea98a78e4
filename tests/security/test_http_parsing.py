"""Requests that two servers could read in two ways, or that cost more than they should: each is refused or harmless."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from support.http_server import PROJECT, Person, Runner, raw_exchange, running
from waitress.buffers import OverflowableBuffer

from ci_runner.server.http.heads import LONGEST_CHUNK_LINE, MOST_HEADERS, ChunkedBody
from ci_runner.settings.groups import ServeSettings

LIMIT = 1 << 20
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="p.zip"\r\n\r\n'
    + PROJECT
    + b"\r\n--x--\r\n"
)
#: What must never be answered: it stands where the body of the request before it is.
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    settings = ServeSettings(threads=4, max_streams=4, max_upload=LIMIT, wrong_keys=1000)
    with running(tmp_path_factory.mktemp("data"), settings) as started:
        yield started


@pytest.fixture(scope="module")
def person(runner: Runner) -> Person:
    return runner.person()


def request(*lines: bytes, first: bytes = b"GET /health HTTP/1.1", host: bytes = b"Host: x") -> bytes:
    return b"\r\n".join([first, *([host] if host else []), *lines, b"", b""])


def length(value: bytes) -> bytes:
    return request(b"Content-Length:" + value, first=b"POST /submit-async HTTP/1.1")


def chunked(*lines: bytes, coding: bytes = b"Transfer-Encoding: chunked") -> bytes:
    return request(coding, *lines, first=b"POST /submit-async HTTP/1.1")


REFUSED = {
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 400),
    "no target": (b"GET\r\n\r\n", 400),
    "HTTP/2": (request(first=b"GET /health HTTP/2.0"), 505),
    "an unknown minor version": (request(first=b"GET /health HTTP/1.2"), 505),
    "no version": (request(first=b"GET /health http/1.1"), 400),
    "two blanks": (request(first=b"GET  /health HTTP/1.1"), 400),
    "a tab for a blank": (request(first=b"GET\t/health HTTP/1.1"), 400),
    "a small method": (request(first=b"get /health HTTP/1.1"), 400),
    "a relative target": (request(first=b"GET health HTTP/1.1"), 400),
    "an authority": (request(first=b"CONNECT example.org:443 HTTP/1.1"), 400),
    "another scheme": (request(first=b"GET ftp://example.org/health HTTP/1.1"), 400),
    "a broken address": (request(first=b"GET http://[::1/health HTTP/1.1"), 400),
    "a star": (request(first=b"GET * HTTP/1.1"), 400),
    "a target of bytes": (request(first=b"GET /\xff HTTP/1.1"), 400),
    "no host": (request(host=b""), 400),
    "two hosts": (request(b"Host: y"), 400),
    "the same host twice": (request(b"Host: x"), 400),
    "a host that is none": (request(host=b"Host: x/y"), 400),
    "a bare line feed": (request(b"A: b\nC: d"), 400),
    "only bare line feeds": (b"GET /health HTTP/1.1\nHost: x\n\n", 400),
    "a bare carriage return": (request(b"A: b\rC: d"), 400),
    "a NUL": (request(b"A: b\0c"), 400),
    "a blank before the colon": (request(b"A : b"), 400),
    "a blank before the name": (request(b"X: y", b" A: b"), 400),
    "a folded header": (request(b"A: b", b"\tc"), 400),
    "a folded first header": (request(b" A: b", host=b""), 400),
    "a folded coding": (request(b"Transfer-Encoding:", b" chunked", first=b"POST /submit HTTP/1.1"), 400),
    "no colon": (request(b"A"), 400),
    "no name": (request(b": b"), 400),
    "a negative length": (length(b" -1"), 400),
    "a signed length": (length(b" +5"), 400),
    "an empty length": (length(b""), 400),
    "a length in words": (length(b" five"), 400),
    "a hexadecimal length": (length(b" 0x5"), 400),
    "a length with a blank": (length(b" 1 0"), 400),
    "a list of lengths": (length(b" 5, 5"), 400),
    "digits of another script": (length(b" \xd9\xa5"), 400),
    "a length with too many digits": (length(b" " + b"9" * 5000), 400),
    "two lengths": (request(b"Content-Length: 1", b"Content-Length: 2", first=b"POST /jobs HTTP/1.1"), 400),
    "the same length twice": (request(b"Content-Length: 1", b"Content-Length: 1"), 400),
    "length and coding": (chunked(b"Content-Length: 5") + b"0\r\n\r\n", 400),
    "coding and length": (request(b"Content-Length: 0", b"Transfer-Encoding: chunked"), 400),
    "length and an unknown coding": (chunked(b"Content-Length: 5", coding=b"Transfer-Encoding: x"), 400),
    "a coding in HTTP/1.0": (
        request(b"Transfer-Encoding: chunked", first=b"POST /submit HTTP/1.0") + b"0\r\n\r\n",
        400,
    ),
    "an unknown coding": (chunked(coding=b"Transfer-Encoding: gzip"), 501),
    "a coding more": (chunked(coding=b"Transfer-Encoding: gzip, chunked"), 501),
    "identity": (chunked(coding=b"Transfer-Encoding: identity"), 501),
    "chunked twice": (chunked(coding=b"Transfer-Encoding: chunked, chunked"), 400),
    "two codings": (chunked(b"Transfer-Encoding: chunked"), 400),
    "an empty coding": (chunked(coding=b"Transfer-Encoding:"), 400),
    "a coding in disguise": (chunked(coding=b"Transfer-Encoding: \x0bchunked"), 400),
    "a coding in quotes": (chunked(coding=b'Transfer-Encoding: "chunked"'), 501),
    "a long head": (request(b"A: " + b"x" * 300_000), 431),
    "many headers": (request(*[b"A: b"] * MOST_HEADERS), 431),
}


def parsed(answer: bytes) -> tuple[int, dict[str, str], dict[str, str]]:
    """Status, headers and JSON of one raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, json.loads(body)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_proper_http_gets_a_plain_error_and_the_end(runner: Runner, name: str) -> None:
    text, wanted = REFUSED[name]
    answer = raw_exchange(runner.server.port, text + SMUGGLED)
    status, headers, body = parsed(answer)
    assert status == wanted
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert "server" not in headers
    assert list(body) == ["detail"]
    assert "Traceback" not in body["detail"]
    assert runner.get("/health").status_code == 200


@pytest.mark.parametrize("name", REFUSED)
def test_the_same_byte_by_byte(runner: Runner, name: str) -> None:
    text, wanted = REFUSED[name]
    if len(text) > 1000:
        text = text[:1000] + text[-4:]
        wanted = 0
    with socket.create_connection(("127.0.0.1", runner.server.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for byte in text:
                connection.send(bytes([byte]))
            connection.sendall(SMUGGLED)
        except OSError:
            assert wanted, "refused after a part already"
        answer = b""
        while wanted and (piece := connection.recv(65536)):
            answer += piece
    if wanted:
        assert parsed(answer)[0] == wanted


CHUNKS = {
    "no size": b"zz\r\nx",
    "an empty line": b"\r\n0\r\n\r\n",
    "a negative size": b"-1\r\nx",
    "a signed size": b"+1\r\nx\r\n0\r\n\r\n",
    "a size with 0x": b"0x1\r\nx\r\n0\r\n\r\n",
    "a size with a separator": b"1_0\r\nx\r\n0\r\n\r\n",
    "a blank before the size": b" 1\r\nx\r\n0\r\n\r\n",
    "too many digits": b"0" * 50 + b"1\r\nx\r\n0\r\n\r\n",
    "a huge size": b"f" * 5000 + b"\r\nx",
    "a bare line feed": b"1\nx\r\n0\r\n\r\n",
    "a bare line feed before CR LF": b"1\n\r\nx\r\n0\r\n\r\n",
    "a bare carriage return": b"1\rx\r\n0\r\n\r\n",
    "a chunk that is longer": b"1\r\nxy\r\n0\r\n\r\n",
    "a NUL in an extension": b"1;a=\0\r\nx\r\n0\r\n\r\n",
    "a long extension": b"1;" + b"a" * 2 * LONGEST_CHUNK_LINE + b"\r\nx\r\n0\r\n\r\n",
    "an extension without end": b"1;" + b"a" * 200_000,
    "a flood of extensions": b"".join(b"1;%s\r\nx\r\n" % (b"a" * 200) for _ in range(1000)),
    "a flood of small chunks": b"1\r\nx\r\n" * 50_000,
    "a trailer without end": b"0\r\n" + b"a: b\r\n" * 10_000,
    "a long trailer": b"0\r\nA: " + b"b" * 10_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
def test_broken_chunks_get_a_plain_error_and_the_end(runner: Runner, person: Person, name: str) -> None:
    key = b"Authorization: Bearer " + person.key.encode()
    head = chunked(key, b"Content-Type: multipart/form-data; boundary=x")
    status, headers, _ = parsed(raw_exchange(runner.server.port, head + CHUNKS[name] + SMUGGLED))
    assert (status, headers["connection"]) == (400, "close")
    assert runner.get("/health").status_code == 200


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_proper_chunks_are_one_body_however_they_arrive(runner: Runner, person: Person, step: int) -> None:
    key = b"Authorization: Bearer " + person.key.encode()
    head = chunked(key, b"Content-Type: multipart/form-data; boundary=x")
    pieces = [FORM[place : place + 50] for place in range(0, len(FORM), 50)]
    body = b"".join(b'%x ;a="b;c"\r\n%s\r\n' % (len(piece), piece) for piece in pieces)
    text = head + body + b"000\r\nA: b\r\n\r\n"
    with socket.create_connection(("127.0.0.1", runner.server.port), timeout=30) as connection:
        for place in range(0, len(text), step):
            connection.sendall(text[place : place + step])
        connection.sendall(request(b"Connection: close"))
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert b'"job_id"' in answer
    assert answer.endswith(b'{"status": "ok"}')


def test_chunks_are_read_in_any_portions() -> None:
    text = b"5\r\nhello\r\nA;x\r\n, world...\r\n0\r\n\r\nNEXT"
    for step in range(1, len(text)):
        buffer = OverflowableBuffer(1 << 16)
        body = ChunkedBody(buffer)
        taken = 0
        while not body.completed:
            used = body.received(text[taken : taken + step])
            assert used
            taken += used
        assert (buffer.get(), text[taken:], body.error) == (b"hello, world...", b"NEXT", None)


HARMLESS = {
    "a path of bytes": (request(b"Connection: close", first=b"GET /%ff%00 HTTP/1.1"), 404),
    "a long path": (request(b"Connection: close", first=b"GET /" + b"x" * 20_000 + b" HTTP/1.1"), 404),
    "a strange method": (request(b"Connection: close", first=b"BREW /jobs HTTP/1.1"), None),
    "many slashes": (request(b"Connection: close", first=b"GET //evil.example/health HTTP/1.1"), 404),
    "dots": (request(b"Connection: close", first=b"GET /jobs/../health HTTP/1.1"), None),
    "an absolute target": (
        request(b"Connection: close", first=b"GET http://evil.example:99/health HTTP/1.1"),
        200,
    ),
    "a star": (request(b"Connection: close", first=b"OPTIONS * HTTP/1.1"), None),
    "HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", 200),
    "HTTP/1.0 that stays": (b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + SMUGGLED, None),
    "blank lines first": (b"\r\n\r\n\r\n" + request(b"Connection: close"), 200),
    "an unknown expectation": (request(b"Expect: the-unexpected", b"Connection: close"), None),
    "underscores": (
        request(b"Content_Length: 5", b"Transfer_Encoding: chunked", b"Connection: close"),
        200,
    ),
    "an upgrade": (request(b"Connection: upgrade, close", b"Upgrade: h2c", b"HTTP2-Settings: x"), None),
    "a body where none belongs": (request(b"Content-Length: 5", b"Connection: close") + b"hello", 200),
    "a large body without a key": (request(b"Content-Length: 500000", b"Connection: close"), 401),
    "a key of bytes": (
        request(b"Authorization: Bearer \xff\xfe", b"Connection: close", first=b"GET /jobs HTTP/1.1"),
        401,
    ),
    "many blanks": (request(b"A:" + b" " * 60_000 + b"b", b"Connection: close"), 200),
    "a query of bytes": (request(b"Connection: close", first=b"GET /jobs?q=%ff&q=%00&=%zz HTTP/1.1"), 401),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_odd_is_harmless(runner: Runner, name: str) -> None:
    text, wanted = HARMLESS[name]
    with socket.create_connection(("127.0.0.1", runner.server.port), timeout=10) as connection:
        connection.sendall(text)
        answer = connection.recv(65536)
    status = int(answer.split()[1])
    assert status < 500
    assert wanted in (None, status)
    assert runner.get("/health").status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        b"GET http://" + b"1" * 60_000 + b" X\r\n\r\n",
        request(b"A:" + b" " * 60_000 + b"b\0"),
        b"\r\n" * 100_000,
    ],
    ids=["a first line", "blanks", "blank lines"],
)
def test_no_head_keeps_the_server_from_others(runner: Runner, text: bytes) -> None:
    """Waitress' regular expressions need minutes for some of these, on the thread that serves everybody."""
    with socket.create_connection(("127.0.0.1", runner.server.port), timeout=10) as connection:
        connection.sendall(text)
        assert runner.get("/health", timeout=20).status_code == 200


def test_a_refused_body_is_never_the_next_request(runner: Runner, person: Person) -> None:
    key = b"Authorization: Bearer " + person.key.encode()
    for lines in (
        (key, b"Content-Length: %d" % (LIMIT + 1)),
        (b"Authorization: Bearer garbage", b"Content-Length: 500000"),
        (b"Content-Length: 500000",),
    ):
        head = request(*lines, first=b"POST /submit-async HTTP/1.1")
        answer = raw_exchange(runner.server.port, head + SMUGGLED * 20)
        assert answer.count(b"HTTP/1.1 ") == 1, answer


def test_a_request_that_does_not_end_is_answered_408(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci_runner.server.http.upload_gate.HEAD_SECONDS", 0.5)
    status, _, body = parsed(raw_exchange(runner.server.port, b"GET /health HTTP/1.1\r\nHost: x\r\n"))
    assert (status, body) == (408, {"detail": "The request did not arrive in time; send it again"})
