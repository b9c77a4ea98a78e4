"""Who may do what: keys, users, ownership, over real HTTP."""

from __future__ import annotations

import datetime as dt
import functools
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
import requests
from support.http_server import Person, Runner, events, raw_exchange, running
from support.waiting import wait_until

from ci_runner.model import api_keys as credentials
from ci_runner.model.job import APIKey, Job, utcnow

BODIES = {
    "none": "Not authenticated",
    "invalid": "Invalid or revoked API key",
    "user": "User not found or inactive",
}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.mark.defect(16)
def test_a_new_runner_knows_nobody_and_no_key_but_those_that_are_made(tmp_path: Path) -> None:
    with running(tmp_path) as fresh:
        assert fresh.store.users.list() == []
        assert fresh.store.keys.list() == []
        for guess in ("admin", "password", "postgres", "guest", ""):
            headers = {"Authorization": f"Bearer {guess}"}
            assert requests.get(f"{fresh.url}/jobs", headers=headers, timeout=30).status_code == 401
            answer = requests.get(f"{fresh.url}/jobs", auth=("admin", guess), timeout=30)
            assert answer.status_code == 401


ROUTES = [
    ("POST", "/submit"),
    ("POST", "/submit-stream"),
    ("POST", "/submit-async"),
    ("POST", "/blobs/missing"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{id}"),
    ("DELETE", "/jobs/{id}"),
    ("GET", "/jobs/{id}/stream"),
    ("GET", "/jobs/{id}/events"),
    ("GET", "/jobs/{id}/artifacts"),
    ("GET", "/jobs/{id}/changes"),
    ("GET", "/jobs/{id}/artifacts/some/file"),
    ("GET", "/jobs/{id}/artifacts.tar"),
    ("GET", "/jobs/{id}/tests"),
    ("GET", "/reports/tests"),
    ("GET", "/kept"),
    ("DELETE", "/kept"),
    ("POST", "/pipelines/check"),
    ("POST", "/runs"),
    ("GET", "/runs"),
    ("GET", "/runs/{run}"),
    ("DELETE", "/runs/{run}"),
    ("GET", "/runs/{run}/stream"),
    ("GET", "/runs/{run}/events"),
    ("POST", "/runs/{run}/rerun"),
    ("GET", "/pipelines/ci/durations"),
    ("GET", "/pipelines/ci/runs/1"),
    ("GET", "/reports/pipelines"),
    ("GET", "/reports/pipelines/ci"),
    ("GET", "/reports/pipelines/ci/runs/1"),
    ("GET", "/reports/pipelines/ci/runs/1/stages/test"),
    ("GET", "/reports/pipelines/ci/runs/1/stages/test/jobs/unit"),
]

#: Places in the document's paths, as they are above.
PLACES = {
    "{job_id}": "{id}",
    "{run_id}": "{run}",
    "{path}": "some/file",
    "{name}": "ci",
    "{run_number}": "1",
    "{stage}": "test",
    "{job}": "unit",
}


@pytest.mark.case(45, 18)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_is_done_without_credentials(runner: Runner, method: str, path: str) -> None:
    response = runner.request(
        method, path.format(id=uuid.uuid4(), run=uuid.uuid4()), data=b"not even multipart"
    )
    assert response.status_code == 401
    assert response.json() == {"detail": BODIES["none"]}
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.case(54)
@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "{key}",
        "Basic {key}",
        "Token {key}",
        "Bearer {key} {key}",
        "Bearer {key}, x",
    ],
)
def test_what_is_no_bearer_credential_is_not_authenticated(runner: Runner, value: str) -> None:
    header = value.format(key=runner.person().key)
    response = runner.get("/jobs", headers={"Authorization": header})
    assert (response.status_code, response.json()) == (401, {"detail": BODIES["none"]})


def test_repeated_credentials_are_refused(runner: Runner) -> None:
    line = f"Authorization: Bearer {runner.person().key}\r\n"
    answer = raw_exchange(
        runner.server.port, f"GET /jobs HTTP/1.1\r\nHost: x\r\n{line}{line}Connection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'{"detail": "Not authenticated"}' in answer


@pytest.mark.case(46, 55)
@pytest.mark.parametrize(
    "key",
    ["not-a-valid-key", "ci_" + "A" * 40, credentials.generate().text],
    ids=["no key at all", "no checksum", "well formed"],
)
def test_an_unknown_key_is_refused(runner: Runner, key: str) -> None:
    response = runner.get("/jobs", headers={"Authorization": f"Bearer {key}"})
    assert (response.status_code, response.json()) == (401, {"detail": BODIES["invalid"]})


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_may_be_written_in_any_case(runner: Runner, scheme: str) -> None:
    key = runner.person().key
    assert runner.get("/jobs", headers={"Authorization": f"{scheme} {key}"}).status_code == 200


@pytest.mark.case(47, 19)
def test_a_revoked_key_fails_at_once(runner: Runner) -> None:
    person = runner.person()
    assert runner.get("/jobs", person).status_code == 200
    runner.store.keys.revoke(person.key[3:11])
    response = runner.get("/jobs", person)
    assert (response.status_code, response.json()) == (401, {"detail": BODIES["invalid"]})


def test_an_expired_key_fails(runner: Runner) -> None:
    person = runner.person()
    key = credentials.generate()
    past = utcnow() - dt.timedelta(seconds=1)
    runner.store.keys.create(APIKey(key.id, person.user.id, key.hash, None, utcnow(), expires_at=past))
    response = runner.get("/jobs", headers={"Authorization": f"Bearer {key.text}"})
    assert (response.status_code, response.json()) == (401, {"detail": BODIES["invalid"]})


@pytest.mark.case(48)
def test_an_inactive_user_is_refused_until_active_again(runner: Runner) -> None:
    person = runner.person()
    runner.store.users.set_active(person.user.id, False)
    response = runner.get("/jobs", person)
    assert (response.status_code, response.json()) == (401, {"detail": BODIES["user"]})
    runner.store.users.set_active(person.user.id, True)
    assert runner.get("/jobs", person).status_code == 200


@pytest.mark.case(49, 25)
def test_users_list_only_their_own_jobs(runner: Runner) -> None:
    ada, bob = runner.person("Ada"), runner.person("Bob")
    mine, other = runner.job(ada), runner.job(bob)
    assert [job["job_id"] for job in runner.get("/jobs", ada).json()] == [mine.id]
    assert [job["job_id"] for job in runner.get("/jobs", bob).json()] == [other.id]
    assert runner.get("/jobs", ada, params={"user_id": bob.user.id}).json()[0]["job_id"] == mine.id


@pytest.mark.case(50, 94)
def test_the_owner_sees_a_summary_and_nothing_internal(runner: Runner) -> None:
    person = runner.person()
    job = runner.job(person, options={"name": "nightly"})
    response = runner.get(f"/jobs/{job.id}", person)
    assert response.status_code == 200
    summary = response.json()
    assert summary["job_id"] == job.id
    assert (summary["status"], summary["success"], summary["start_time"]) == ("queued", None, None)
    assert (summary["name"], summary["end_time"]) == ("nightly", None)
    assert summary["queue_position"] >= 1
    assert person.user.id not in response.text
    assert not summary.keys() & {"user_id", "container_id", "zip_file_path", "events"}


@pytest.mark.case(51, 26)
@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{id}" in route[1]])
def test_another_users_job_is_denied_on_every_route(runner: Runner, method: str, path: str) -> None:
    owner, other = runner.person("Ada"), runner.person("Bob")
    job = runner.job(owner)
    response = runner.request(method, path.format(id=job.id), other, params={"user_id": owner.user.id})
    assert (response.status_code, response.json()) == (403, {"detail": "Access denied"})
    stored = runner.store.jobs.get(job.id)
    assert stored is not None
    assert stored.cancel_requested_at is None


def test_every_route_of_one_job_is_in_the_matrix() -> None:
    from ci_runner.server.openapi.document import document

    described = {
        (method.upper(), functools.reduce(lambda text, pair: text.replace(*pair), PLACES.items(), path))
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        if operation["security"]
    }
    assert described == set(ROUTES), "a new route needs its place in the tests of ownership"


def test_another_users_job_is_no_page_mark(runner: Runner) -> None:
    owner, other = runner.person("Ada"), runner.person("Bob")
    job = runner.job(owner)
    response = runner.get("/jobs", other, params={"before": job.id})
    assert (response.status_code, response.json()) == (404, {"detail": f"Job not found: {job.id}"})


@pytest.mark.case(52, 7)
@pytest.mark.parametrize("job_id", [str(uuid.UUID(int=0)), "x", "..%2f..%2fetc", "%00", "%ff", "a" * 3000])
@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{id}" in route[1]])
def test_an_unknown_job_is_not_found(runner: Runner, method: str, path: str, job_id: str) -> None:
    response = runner.request(method, path.format(id=job_id), runner.person())
    assert response.status_code == 404
    detail = response.json()["detail"]
    assert detail.startswith(("Job not found: ", "Not Found: /jobs/"))
    assert unquote(job_id)[:150] in detail, "each 404 names what was not found"
    assert len(detail) < 250


def test_an_unknown_route_and_a_wrong_method_are_errors_like_all_others(runner: Runner) -> None:
    response = runner.get("/nothing")
    assert (response.status_code, response.json()) == (404, {"detail": "Not Found: /nothing"})
    for method, path in (("PUT", "/jobs"), ("GET", "/submit"), ("POST", "/health"), ("HEAD", "/jobs")):
        response = runner.request(method, path)
        assert response.status_code == 405
        assert "Allow" in response.headers
        if method != "HEAD":
            assert response.json() == {"detail": "Method Not Allowed"}


@pytest.mark.case(92)
def test_the_last_use_of_a_key_is_written_soon_and_then_seldom(runner: Runner) -> None:
    person = runner.person()
    key_id = person.key[3:11]
    assert runner.get("/jobs", person).status_code == 200

    def last_used() -> dt.datetime | None:
        key = runner.store.keys.get(key_id)
        assert key is not None
        return key.last_used_at

    first = wait_until(last_used, what="the last use to be written")
    assert runner.get("/jobs", person).status_code == 200
    runner.app.authenticator.flush()
    assert last_used() == first


def test_open_streams_of_a_revoked_key_end_within_a_second(runner: Runner) -> None:
    person = runner.person()
    job = runner.job(person)
    with runner.get(
        f"/jobs/{job.id}/stream", person, params={"from_beginning": "true"}, stream=True
    ) as response:
        runner.log(job.id, "one\n")
        stream = events(response)
        assert next(stream)[1]["data"] == "one\n"
        runner.store.keys.revoke(person.key[3:11])
        revoked = utcnow()
        assert list(stream) == [], "it ends without `complete`, so a client with a good key would resume"
        assert utcnow() - revoked < dt.timedelta(seconds=1.5)


class TokenHooks:
    """A plugin that knows tokens of its own."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self.submitted: list[Job] = []

    def authenticate(self, *, credentials: str) -> str | None:
        if credentials == "boom":
            raise RuntimeError("a broken plugin knows nobody")
        return self.tokens.get(credentials)

    def job_submitted(self, *, job: Job) -> None:
        self.submitted.append(job)
        raise RuntimeError("a broken plugin harms nobody")


def test_a_plugin_may_know_other_credentials(tmp_path: Path) -> None:
    hooks = TokenHooks()
    with running(tmp_path, hooks=hooks) as runner:
        person = runner.person()
        hooks.tokens = {
            "a.b-c_d": person.user.email.upper(),
            "by-id": person.user.id,
            "stale": "nobody@example.org",
        }
        for token, status in (
            ("a.b-c_d", 200),
            ("by-id", 200),
            ("stale", 401),
            ("unknown", 401),
            ("boom", 401),
        ):
            other = replace(person, headers={"Authorization": f"Bearer {token}"})
            assert runner.get("/jobs", other).status_code == status, token
        assert runner.get("/jobs", person).status_code == 200, "keys go on working"
        job = runner.job(Person(person.user, "", {"Authorization": "Bearer by-id"}))
        assert [seen.id for seen in hooks.submitted] == [job.id]
        assert job.user_id == person.user.id
