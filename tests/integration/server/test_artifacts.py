"""Artifacts over real HTTP: whose they are, parts of them, and that no browser takes them for pages."""

from __future__ import annotations

import datetime as dt
import io
import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pytest
from support.http_server import Person, Runner, running

from ci_runner.model.job import Artifact, utcnow
from ci_runner.model.verdict import ran

HTML = b"<script>alert(1)</script>"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture
def person(runner: Runner) -> Person:
    return runner.person()


def job_with(runner: Runner, person: Person, files: Mapping[str, bytes], mode: int = 0o644) -> str:
    """Id of a finished job that left these files."""
    job = runner.job(person)
    until = utcnow() + dt.timedelta(days=1)
    artifacts = [
        Artifact(path, mode, len(content), runner.blobs.put_bytes(content), until)
        for path, content in files.items()
    ]
    assert runner.store.jobs.finish(job.id, runner.epoch, ran(0), artifacts=artifacts)
    return job.id


def test_the_list_says_what_there_is(runner: Runner, person: Person) -> None:
    job_id = job_with(runner, person, {"b/x": b"12", "a": b""}, mode=0o755)
    found = runner.get(f"/jobs/{job_id}/artifacts", person).json()
    assert [(item["path"], item["size"], item["executable"]) for item in found] == [
        ("a", 0, True),
        ("b/x", 2, True),
    ]
    assert found[1]["sha256"] == sha256(b"12").hexdigest()
    assert found[0]["kept_until"].endswith("Z")


def test_a_job_that_is_not_over_has_none(runner: Runner, person: Person) -> None:
    assert runner.get(f"/jobs/{runner.job(person).id}/artifacts", person).json() == []


def test_a_file_is_a_download_and_nothing_else(runner: Runner, person: Person) -> None:
    name = 'sub/ü "x".html'
    job_id = job_with(runner, person, {name: HTML})
    response = runner.get(f"/jobs/{job_id}/artifacts/{quote(name)}", person)
    assert (response.status_code, response.content) == (200, HTML)
    headers = response.headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == (
        "attachment; filename=\"___x_.html\"; filename*=UTF-8''%C3%BC%20%22x%22.html"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    assert headers["ETag"] == f'"{sha256(HTML).hexdigest()}"'
    assert headers["Content-Length"] == str(len(HTML))


@pytest.mark.parametrize(
    ("asked", "status", "content", "described"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=5-500", 206, b"56789", "bytes 5-9/10"),
        ("bytes=0-9", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=3-2", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=" + "9" * 30 + "-", 200, b"0123456789", None),
    ],
)
def test_a_part_can_be_had(
    runner: Runner, person: Person, asked: str, status: int, content: bytes | None, described: str | None
) -> None:
    job_id = job_with(runner, person, {"x": b"0123456789"})
    response = runner.get(f"/jobs/{job_id}/artifacts/x", person, headers={"Range": asked})
    assert response.status_code == status
    assert response.headers.get("Content-Range") == described
    if content is None:
        assert response.json() == {"detail": "Range: the artifact has 10 bytes"}
    else:
        assert response.content == content


def test_an_empty_file_is_whole_and_has_no_parts(runner: Runner, person: Person) -> None:
    job_id = job_with(runner, person, {"x": b""})
    path = f"/jobs/{job_id}/artifacts/x"
    assert runner.get(path, person).content == b""
    assert runner.get(path, person, headers={"Range": "bytes=0-"}).status_code == 416


def test_a_client_that_has_it_is_told_so(runner: Runner, person: Person) -> None:
    job_id = job_with(runner, person, {"x": b"0123456789"})
    path, tag = f"/jobs/{job_id}/artifacts/x", f'"{sha256(b"0123456789").hexdigest()}"'
    response = runner.get(path, person, headers={"If-None-Match": f'"a", {tag}'})
    assert (response.status_code, response.content) == (304, b"")
    part = runner.get(path, person, headers={"Range": "bytes=5-", "If-Range": tag})
    assert (part.status_code, part.content) == (206, b"56789")
    other = runner.get(path, person, headers={"Range": "bytes=5-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, b"0123456789")


@pytest.mark.parametrize(
    "path", ["X", "x/", "../x", "%2e%2e/x", "/etc/passwd", "%00", "%ff", "x%00", "a" * 2000]
)
def test_only_the_very_path_is_one(runner: Runner, person: Person, path: str) -> None:
    job_id = job_with(runner, person, {"x": b"1"})
    assert runner.get(f"/jobs/{job_id}/artifacts/x", person).content == b"1"
    response = runner.get(f"/jobs/{job_id}/artifacts/{path}", person)
    assert response.status_code == 404
    assert response.json()["detail"].startswith(("Artifact not found: ", "Not Found: /"))


def test_artifacts_of_others_are_refused(runner: Runner, person: Person) -> None:
    job_id = job_with(runner, runner.person("Eve"), {"x": b"1"})
    for path in ("artifacts", "artifacts/x", "artifacts.tar"):
        assert runner.get(f"/jobs/{job_id}/{path}", person).status_code == 403
        assert runner.get(f"/jobs/{job_id}/{path}").status_code == 401


def test_a_content_that_is_gone_is_not_found(runner: Runner, person: Person) -> None:
    job_id = job_with(runner, person, {"x": b"gone soon"})
    runner.blobs.remove(sha256(b"gone soon").hexdigest())
    response = runner.get(f"/jobs/{job_id}/artifacts/x", person)
    assert response.status_code == 404
    assert response.json() == {"detail": "The runner no longer has the content of the artifact: x"}


def content_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def test_all_of_them_are_an_archive(runner: Runner, person: Person) -> None:
    files = {f"deep/{'é' * 60}/{number}": os.urandom(number * 700) for number in range(20)}
    job_id = job_with(runner, person, {**files, "tool": b"#!"}, mode=0o755)
    response = runner.get(f"/jobs/{job_id}/artifacts.tar", person)
    assert response.headers["Content-Type"] == "application/x-tar"
    assert response.headers["Content-Disposition"].startswith(f'attachment; filename="{job_id}.tar"')
    assert int(response.headers["Content-Length"]) == len(response.content)
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        members = archive.getmembers()
        assert {member.name: content_of(archive, member) for member in members} == {
            **files,
            "tool": b"#!",
        }
        assert all(member.isreg() and member.mode == 0o755 and member.uid == 0 for member in members)


def test_an_archive_of_nothing_is_one(runner: Runner, person: Person) -> None:
    response = runner.get(f"/jobs/{runner.job(person).id}/artifacts.tar", person)
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        assert archive.getmembers() == []


def test_a_large_file_comes_whole_and_holds_no_thread(runner: Runner, person: Person, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 24
    job_id = job_with(runner, person, {"x": content})
    slow = [
        runner.session.get(
            f"{runner.url}/jobs/{job_id}/artifacts/x", headers=person.headers, stream=True, timeout=30
        )
        for _ in range(12)  # more than there are threads for ordinary requests
    ]
    try:
        assert runner.get("/health").status_code == 200
        assert slow[0].raw.read() == content
    finally:
        for response in slow:
            response.close()


def test_archives_take_the_places_of_streams(runner: Runner, person: Person) -> None:
    job_id = job_with(runner, person, {"x": os.urandom(1 << 20) * 24})
    url = f"{runner.url}/jobs/{job_id}/artifacts.tar"
    limit = runner.settings.max_streams_per_user
    started = [runner.session.get(url, headers=person.headers, stream=True, timeout=30) for _ in range(limit)]
    try:
        refused = runner.get(f"/jobs/{job_id}/artifacts.tar", person)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    finally:
        for response in started:
            response.close()
    free = threading.Event()
    for _ in range(100):
        if runner.get(f"/jobs/{job_id}/artifacts.tar", person).status_code == 200:
            free.set()
            break
        threading.Event().wait(0.1)
    assert free.is_set(), "places come back"
