"""A client that knows only the seed contract, written as the reference system's: requests, a zip, `data: ` lines."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support.developer import Developer

pytestmark = pytest.mark.docker

Project = Callable[[str], Path]
SUMMARY = ("job_id", "status", "success", "start_time", "end_time")


def project_zip(folder: Path) -> bytes:
    """As the reference client packs: every file that is in no hidden folder."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in parts):
                archive.write(path, "/".join(parts))
    return target.getvalue()


class SeedClient:
    """What the reference client did, and nothing else."""

    def __init__(self, developer: Developer) -> None:
        self.url = developer.runner.public_url
        self.headers = {"Authorization": f"Bearer {developer.key}"}

    def post(self, path: str, archive: bytes, *, stream: bool = False) -> requests.Response:
        files = {"file": ("project.zip", archive, "application/zip")}
        response = requests.post(
            f"{self.url}{path}", files=files, headers=self.headers, stream=stream, timeout=120
        )
        response.raise_for_status()
        return response

    def get(self, path: str, **more: Any) -> requests.Response:
        response = requests.get(f"{self.url}{path}", headers=self.headers, timeout=120, **more)
        response.raise_for_status()
        return response

    @staticmethod
    def events(response: requests.Response) -> Iterator[dict[str, Any]]:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"].startswith("no-cache")
        with response:
            for line in response.iter_lines(decode_unicode=True):
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    def submit(self, archive: bytes, path: str = "/submit") -> list[dict[str, Any]]:
        return list(self.events(self.post(path, archive, stream=True)))

    def follow(self, job_id: str, *, from_beginning: bool) -> list[dict[str, Any]]:
        params = {"from_beginning": "true"} if from_beginning else {}
        return list(self.events(self.get(f"/jobs/{job_id}/stream", params=params, stream=True)))


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["data"] for event in events if event["type"] == "log")


@pytest.fixture
def client(developer: Developer) -> SeedClient:
    return SeedClient(developer)


@pytest.mark.case(1, 70)
def test_submit_gives_the_log_and_the_verdict(client: SeedClient, project: Project) -> None:
    events = client.submit(project_zip(project("dummy_project")))
    assert {event["type"] for event in events[:-1]} == {"log"}
    assert (events[-1]["type"], events[-1]["success"]) == ("complete", True)
    for words in ("test_add", "test_subtract", "2 passed"):
        assert words in text_of(events)


@pytest.mark.case(2, 3)
@pytest.mark.parametrize(
    ("name", "words"), [("failing_project", "test_divide_by_zero"), ("invalid_project", "SyntaxError")]
)
def test_submit_stream_begins_with_the_id(
    client: SeedClient, project: Project, name: str, words: str
) -> None:
    events = client.submit(project_zip(project(name)), "/submit-stream")
    assert events[0]["type"] == "job_id"
    assert re.fullmatch(r"[0-9a-f-]{36}", events[0]["job_id"])
    assert {event["type"] for event in events[1:-1]} == {"log"}
    assert (events[-1]["type"], events[-1]["success"]) == ("complete", False)
    assert words in text_of(events)


@pytest.mark.case(4, 5, 10, 11)
def test_submit_async_then_stream_then_look_at_it(client: SeedClient, project: Project) -> None:
    answer = client.post("/submit-async", project_zip(project("dummy_project"))).json()
    assert list(answer) == ["job_id"]
    job_id = answer["job_id"]
    events = client.follow(job_id, from_beginning=True)
    assert (events[-1]["type"], events[-1]["success"]) == ("complete", True)
    assert "2 passed" in text_of(events)
    again = client.follow(job_id, from_beginning=False)
    assert [(event["type"], event.get("data")) for event in again] == [
        ("log", "Job already completed.\n"),
        ("complete", None),
    ]
    job = client.get(f"/jobs/{job_id}").json()
    assert [job[name] for name in SUMMARY[:3]] == [job_id, "completed", True]
    assert job["start_time"].endswith("Z")
    assert job["start_time"] < job["end_time"]
    for secret in ("user_id", "container_id", "zip_file_path", "events"):
        assert secret not in job
    assert "container" in job.pop("timing")["phases"]  # lists are without it
    assert client.get("/jobs").json() == [job]
    assert client.get("/health").json() == {"status": "ok"}


def test_a_stream_that_is_followed_from_its_middle_loses_nothing(
    client: SeedClient, project: Project
) -> None:
    """The reference client knew no resuming; whoever does gets exactly the rest."""
    job_id = client.post("/submit-async", project_zip(project("dummy_project"))).json()["job_id"]
    whole = client.follow(job_id, from_beginning=True)
    after = client.get(f"/jobs/{job_id}/stream", params={"after": 3, "from_beginning": "true"}, stream=True)
    rest = list(client.events(after))
    assert rest == whole[-len(rest) :]
    assert 0 < len(rest) < len(whole)
