"""Uploads that are no project: refused with a clear message by the real programs, which go on working.

Every detail of refusing is shown in tests/unit/ci_runner/storage/test_zip_reader.py and
tests/integration/server/test_submit.py.
"""

from __future__ import annotations

import io
import json
import socket
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from support.archives import many_empty_files
from support.developer import Developer

pytestmark = pytest.mark.docker


def zip_of(*members: tuple[str, bytes]) -> bytes:
    """An archive, whatever its names."""
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # duplicates are meant
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


GOOD = zip_of(("test_good.py", b"def test_good():\n    pass\n"))

Archive = Callable[[], bytes]
BAD = [
    pytest.param(lambda: b"just some text", "file: not a zip archive", id="not a zip"),
    pytest.param(lambda: b"", "file: not a zip archive", id="nothing at all"),
    pytest.param(
        lambda: zip_of(("../evil.py", b"")), "'../evil.py' is outside the project", id="a parent folder"
    ),
    pytest.param(
        lambda: zip_of(("/etc/evil", b"")), "'/etc/evil' has an absolute path", id="an absolute path"
    ),
    pytest.param(lambda: zip_of(("a", b"1"), ("a", b"2")), "'a' occurs twice", id="a name twice"),
    pytest.param(
        lambda: many_empty_files(200_000),
        "has 200000 entries; this runner accepts at most 50000",
        id="200,000 entries",
    ),
    pytest.param(
        lambda: zip_of(("zeros", b"\0" * (80 << 20))), "unpacks to more than 200 times its size", id="a bomb"
    ),
]


@pytest.fixture(autouse=True)
def the_runner_goes_on(developer: Developer) -> Iterator[None]:
    """After each bad upload there is no job of it, nothing is left of it, and a good one passes."""
    yield
    assert developer.jobs() == []
    assert list((developer.runner.data_dir / "uploads").iterdir()) == []
    answer = post(developer, {"file": ("p.zip", GOOD)}, "/submit")
    assert '"success": true' in answer.text.splitlines()[-2], answer.text[-2000:]


def post(developer: Developer, files: dict[str, Any], path: str = "/submit-async") -> requests.Response:
    """A multipart request as any program sends it."""
    headers = {"Authorization": f"Bearer {developer.key}"}
    return requests.post(developer.runner.public_url + path, files=files, headers=headers, timeout=120)


def refused(answer: requests.Response, status: int, words: str) -> None:
    """The right status, and a message that says what is wrong, in one line and without secrets of the host."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["detail"]
    assert words in answer.json()["detail"]
    for unwanted in ("Traceback", "\n", "/work", "/tmp"):
        assert unwanted not in answer.json()["detail"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("archive", "words"), BAD)
def test_a_bad_archive(developer: Developer, archive: Archive, words: str) -> None:
    refused(post(developer, {"file": ("p.zip", archive())}), 422, words)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("path", ["/submit", "/submit-stream", "/submit-async"])
def test_a_wrong_field_name(developer: Developer, path: str) -> None:
    refused(post(developer, {"archive": ("p.zip", GOOD)}, path), 422, "the multipart part 'file'")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param("{", "options: not valid JSON", id="no JSON"),
        pytest.param("[]", "options: must be a JSON object", id="no object"),
        pytest.param('{"timeout": "soon"}', "options.timeout", id="a wrong type"),
        pytest.param('{"priority": "urgent"}', "must be one of high, normal, low", id="a wrong value"),
    ],
)
def test_bad_options(developer: Developer, options: str, words: str) -> None:
    files = {"file": ("p.zip", GOOD), "options": (None, options, "application/json")}
    refused(post(developer, files), 422, words)


def test_two_gigabytes_over_the_limit_are_refused_before_they_are_sent(developer: Developer) -> None:
    place = urlsplit(developer.runner.public_url)
    head = (
        f"POST /submit-async HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {developer.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {(512 << 20) + (2 << 30)}\r\n\r\n"
    )
    with socket.create_connection((str(place.hostname), place.port or 80), timeout=30) as connection:
        connection.sendall(head.encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    status, _, body = answer.partition(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 413 "), answer
    assert "536870912" in json.loads(body)["detail"]
