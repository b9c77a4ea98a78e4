"""Submissions over real HTTP: what is accepted is durable, what is refused is named and leaves nothing."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.archives import many_empty_files
from support.http_server import PROJECT, Person, Runner, events, running, zip_of
from support.waiting import wait_until

from ci_runner.server.resources.submit import Submission
from ci_runner.settings.groups import ServeSettings
from ci_runner.store import Store
from pytest_remote_ci.wire.protocol import Manifest, ManifestEntry, SubmitOptions


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture
def person(runner: Runner) -> Person:
    return runner.person()


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest_of(files: dict[str, bytes], **more: Any) -> dict[str, Any]:
    rows = tuple(ManifestEntry(path, 0o644, len(data), digest_of(data)) for path, data in files.items())
    return Manifest(rows, **more).to_dict()


@pytest.mark.case(53, 4)
def test_an_accepted_project_is_a_queued_job_of_its_owner(runner: Runner, person: Person) -> None:
    response = runner.submit(person, options={"args": ["-x"], "priority": "low", "name": "n"})
    assert response.status_code == 200
    assert response.json().keys() == {"job_id"}
    assert uuid.UUID(response.json()["job_id"]).version == 4
    job = runner.store.jobs.get(response.json()["job_id"])
    assert job is not None
    assert (job.status, job.phase, job.user_id, job.name) == ("queued", "queued", person.user.id, "n")
    assert job.options.submitted == SubmitOptions(args=("-x",), priority="low", name="n")
    assert job.workspace is not None
    content = b"def test_add():\n    assert 1 + 1 == 2\n"
    with runner.blobs.open(job.workspace) as file:
        assert json.load(file) == [["test_one.py", 0o644, len(content), digest_of(content)]]
    assert runner.blobs.path(digest_of(content)).read_bytes() == content
    assert runner.leftovers() == []


def test_without_options_pytest_runs_as_the_reference_ran_it(runner: Runner, person: Person) -> None:
    assert runner.job(person).options.submitted == SubmitOptions(args=("-v",))
    assert runner.job(person, options={}).options.submitted == SubmitOptions()


def test_what_was_accepted_is_there_for_another_process(runner: Runner, person: Person) -> None:
    job_id = runner.submit(person).json()["job_id"]
    with_other_eyes = Store.open(runner.store.path, migrate=False)
    try:
        assert with_other_eyes.jobs.get(job_id, person.user.id) is not None
    finally:
        with_other_eyes.close()


def test_a_full_zip_and_a_manifest_name_the_same_workspace(runner: Runner, person: Person) -> None:
    files = {"b.py": b"b", "a/a.py": b"a", "empty": b""}
    whole = runner.job(person, content=zip_of(files))
    manifest = manifest_of(files, root="/home/ada/project")
    delta = runner.job(person, content=None, manifest=manifest)
    assert delta.workspace == whole.workspace
    assert delta.options.submitted.root == "/home/ada/project"


@pytest.mark.case(67)
def test_an_empty_zip_is_an_empty_project(runner: Runner, person: Person) -> None:
    job = runner.job(person, content=zip_of({}))
    assert job.workspace is not None
    with runner.blobs.open(job.workspace) as file:
        assert file.read() == b"[]"


BAD_ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "not a zip": (lambda: b"just some text", "file: not a zip archive"),
    "empty": (lambda: b"", "file: not a zip archive"),
    "parent": (lambda: zip_of({"../evil": b""}), "file: entry '../evil' is outside the project ('..')"),
    "absolute": (lambda: zip_of({"/etc/x": b""}), "file: entry '/etc/x' has an absolute path"),
    "a line break": (
        lambda: zip_of({"a\nb": b""}),
        "file: entry 'a\\nb' has a control character in its name",
    ),
    "an escape": (
        lambda: zip_of({"\x1b[2J": b""}),
        "file: entry '\\x1b[2J' has a control character in its name",
    ),
    "turned around": (
        lambda: zip_of({"\u202eyp": b""}),
        "file: entry '\\u202eyp' has a character in its name that",
    ),
    "twice": (lambda: zip_of({"aa": b"", "ab": b""}).replace(b"ab", b"aa"), "'aa' occurs twice"),
    "below a file": (lambda: zip_of({"a/b": b"", "a": b""}), "is below 'a', which is a file"),
    "bomb": (lambda: zip_of({"a": b"\0" * (80 << 20)}), "file: unpacks to more than 200 times its size"),
    "200,000 entries": (
        lambda: many_empty_files(200_000),
        "file: has 200000 entries; this runner accepts at most 50000",
    ),
}


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_a_bad_archive_is_refused_by_name_and_the_runner_goes_on(
    runner: Runner, person: Person, name: str
) -> None:
    make, reason = BAD_ZIPS[name]
    response = runner.submit(person, make())
    assert response.status_code == 422
    assert reason in response.json()["detail"]
    assert runner.store.jobs.list(person.user.id) == []
    assert runner.leftovers() == []
    assert runner.submit(person).status_code == 200


@pytest.mark.parametrize("path", ["/submit", "/submit-stream", "/submit-async"])
def test_a_wrong_field_name_is_refused(runner: Runner, person: Person, path: str) -> None:
    response = runner.request("POST", path, person, files={"archive": ("p.zip", PROJECT)})
    assert response.status_code == 422
    assert response.json() == {"detail": "file: the multipart part 'file' with the project's zip is missing"}


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (PROJECT, "application/zip", 422),
        (b"", "multipart/form-data; boundary=x", 400),
        (b"--x\r\nrubbish", "multipart/form-data; boundary=x", 400),
        (b"--y\r\n\r\n--y--", "multipart/form-data", 400),
        (b"{}", "application/json", 422),
    ],
)
def test_a_body_of_another_kind_is_refused(
    runner: Runner, person: Person, body: bytes, content_type: str, status: int
) -> None:
    response = runner.request(
        "POST", "/submit-async", person, data=body, headers={"Content-Type": content_type}
    )
    assert response.status_code == status, response.text
    assert isinstance(response.json()["detail"], str)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("{", "options: not valid JSON"),
        ("[]", "options: must be a JSON object"),
        ('{"timeout": NaN}', "options: not valid JSON"),
        ('{"python": "snake"}', "options.python"),
        ('{"module": "yes"}', "options.module: must be true or false"),
        ('{"priority": "urgent"}', "options.priority: must be one of high, normal, low"),
        ('{"cwd": "../.."}', "options.cwd"),
        ('{"protocol": 99}', "options.protocol: this runner speaks version 2, the client 99"),
        ('{"env": {"LD_PRELOAD": "x"}}', "options.env: LD_PRELOAD cannot be passed to a job"),
        ('{"env": {"PYTHONPATH": "x"}}', "options.env: PYTHONPATH cannot be passed to a job"),
        (
            '{"env": {"REMOTE_CI_RECORDS": "/tmp"}}',
            "options.env: REMOTE_CI_RECORDS cannot be passed to a job",
        ),
        ('{"env": {"A": "\\ud800"}}', "options.env.A: must be text"),
        ('{"args": ["\\ud800"]}', "options.args[0]: must be text"),
        ("[" * 100_000, "options: not valid JSON"),
        ('{"timeout": ' + "9" * 6000 + "}", "options"),
        ('{"memory": -1}', "options.memory: must be more than 0 bytes"),
        ('{"memory": "' + "9" * 400 + '"}', "options.memory: this size is out of range"),
        ('{"memory": "much"}', "options.memory: 'much' is not a size"),
        ('{"shm_size": 4096}', 'options.shm_size: must be a size of at least 1 MiB, such as "2g"'),
        ('{"open_files": 1e3}', "options.open_files: must be an integer from 64 to 1048576"),
        ('{"secrets": ["TOKEN"]}', "options.secrets: must be an object of texts"),
        ('{"secrets": {"TOKEN": 1}}', "options.secrets.TOKEN: must be text"),
        (
            '{"secrets": {"a b": "x"}}',
            "options.secrets: 'a b' is not a valid name of an environment variable",
        ),
        ('{"secrets": {"LD_PRELOAD": "x"}}', "options.secrets: LD_PRELOAD cannot be passed to a job"),
        ('{"secrets": {"A": "' + "x" * 70_000 + '"}}', "options.secrets.A: must be at most 65536 characters"),
        ('{"memory": ' + "9" * 400 + "}", "options.memory: must be more than 0 bytes and less than 1 EiB"),
        ('{"name": "\\ud800"}', None),
    ],
)
def test_bad_options_are_refused_by_field(
    runner: Runner, person: Person, options: str, reason: str | None
) -> None:
    files = {"file": ("p.zip", PROJECT), "options": (None, options, "application/json")}
    response = runner.request("POST", "/submit-async", person, files=files)
    if reason is None:
        assert response.status_code in (200, 422)
    else:
        assert response.status_code == 422
        assert response.json()["detail"].startswith(reason)
    assert runner.get("/jobs", person).status_code == 200


def test_a_row_has_only_the_names_of_secrets(runner: Runner, person: Person) -> None:
    value = "s3cr3t-value"
    response = runner.submit(person, options={"protocol": 2, "secrets": {"TOKEN": value}, "env": {"A": "1"}})
    job = runner.store.jobs.get(response.json()["job_id"])
    assert job is not None
    assert job.options.secrets == ("TOKEN",)
    assert value not in json.dumps(dict(job.options.stored))
    assert runner.store.secrets_of(job) == {"TOKEN": value}
    assert value not in runner.get(f"/jobs/{job.id}", person).text


def test_a_part_may_not_come_twice(runner: Runner, person: Person) -> None:
    files = [("file", ("p.zip", PROJECT)), ("file", ("q.zip", PROJECT))]
    response = runner.request("POST", "/submit-async", person, files=files)
    assert (response.status_code, response.json()) == (422, {"detail": "file: the part occurs twice"})


@pytest.mark.parametrize(
    ("cap", "asked", "given"),
    [
        ("normal", "high", "normal"),
        ("high", "high", "high"),
        ("low", "normal", "low"),
        ("high", None, "normal"),
    ],
)
def test_priority_is_capped_by_what_the_user_may(
    runner: Runner, cap: str, asked: str | None, given: str
) -> None:
    person = runner.person(priority_cap=cap)
    job = runner.job(person, options={"priority": asked} if asked else {})
    assert job.priority == given


# -- repeating a submission


def test_the_same_idempotency_key_gives_the_same_job(runner: Runner, person: Person) -> None:
    key = {"Idempotency-Key": "try-1"}
    first = runner.submit(person, headers=key).json()
    assert runner.submit(person, headers=key).json() == first
    assert runner.submit(runner.person(), headers=key).json() != first, "keys are each user's own"
    other = runner.submit(person, zip_of({"other.py": b""}), headers=key)
    assert other.status_code == 409
    assert "Idempotency-Key" in other.json()["detail"]
    assert len(runner.store.jobs.list(person.user.id)) == 1


def test_racing_repetitions_make_one_job(runner: Runner, person: Person) -> None:
    key = {"Idempotency-Key": "race"}
    start = threading.Barrier(4)

    def submit(_: int) -> str:
        start.wait(10)
        answer = runner.submit(person, headers=key)
        return str(answer.json()["job_id"])

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(submit, range(4)))) == 1


def test_a_stream_that_is_repeated_follows_the_first_job(runner: Runner, person: Person) -> None:
    key = {"Idempotency-Key": "stream"}
    job_id = runner.submit(person, headers=key).json()["job_id"]
    with runner.submit(person, path="/submit-stream", headers=key, stream=True) as response:
        assert next(events(response)) == (None, {"type": "job_id", "job_id": job_id})


@pytest.mark.parametrize("key", ["x" * 256, "\u00ad"])
def test_a_strange_idempotency_key_is_refused(runner: Runner, person: Person, key: str) -> None:
    response = runner.submit(person, headers={"Idempotency-Key": key.encode("latin-1")})
    assert response.status_code == 422
    assert response.json()["detail"].startswith("Idempotency-Key: ")


# -- delta submissions


def test_only_missing_contents_travel(runner: Runner, person: Person) -> None:
    files = {"a.py": b"unchanged", "b.py": b"before"}
    runner.job(person, content=zip_of(files))
    files["b.py"] = b"after"
    manifest = manifest_of(files)
    missing = runner.request(
        "POST", "/blobs/missing", person, json=[row[3] for row in manifest["files"]]
    ).json()
    assert missing == [digest_of(b"after")]
    job = runner.job(person, content=zip_of({missing[0]: b"after"}), manifest=manifest)
    again = runner.job(person, content=None, manifest=manifest)
    assert job.workspace == again.workspace
    assert runner.request("POST", "/blobs/missing", person, json=missing).json() == []


def test_a_digest_that_the_user_never_sent_is_missing(runner: Runner, person: Person) -> None:
    secret = b"the other user's content"
    runner.job(runner.person("Bob"), content=zip_of({"secret": secret}))
    digest = digest_of(secret)
    assert runner.request("POST", "/blobs/missing", person, json=[digest]).json() == [digest]
    response = runner.submit(person, None, manifest=manifest_of({"stolen": secret}))
    assert response.status_code == 422
    assert response.json()["detail"].startswith("manifest: 1 contents are missing")
    assert runner.store.jobs.list(person.user.id) == []
    assert runner.store.blobs.granted(person.user.id, [digest]) == set()


def test_modification_times_and_executable_bits_travel(runner: Runner, person: Person) -> None:
    row = ManifestEntry("run", 0o755, 2, digest_of(b"#!"))
    manifest = Manifest((row,), mtimes={"run": 1_700_000_000_000_000_001}).to_dict()
    job = runner.job(person, content=zip_of({row.sha256: b"#!"}), manifest=manifest)
    assert job.options.mtimes is not None
    with runner.blobs.open(job.options.mtimes) as file:
        assert json.load(file) == {"run": 1_700_000_000_000_000_001}
    assert stat.S_IMODE(runner.blobs.path(row.sha256, mode=0o755).stat().st_mode) == 0o755


A, B = digest_of(b"a"), digest_of(b"b")


@pytest.mark.parametrize(
    ("manifest", "blobs", "reason"),
    [
        ({"files": [["../a", 420, 1, A]]}, {A: b"a"}, "manifest: entry '../a' is outside the project"),
        (
            {"files": [["a\x1b]52;c;eA==\x07", 420, 1, A]]},
            {A: b"a"},
            "manifest: entry 'a\\x1b]52;c;eA==\\x07' has a control character in its name (\\x1b)",
        ),
        ({"files": [["a\n", 420, 1, A]]}, {A: b"a"}, "manifest: entry 'a\\n' has a control character"),
        ({"files": [["\u202eb", 420, 1, A]]}, {A: b"a"}, "manifest: entry '\\u202eb' has a character in its"),
        ({"files": [["a", 420, 1, A], ["a", 420, 1, A]]}, {A: b"a"}, "manifest: entry 'a' occurs twice"),
        (
            {"files": [["a/b", 420, 1, A]], "links": {"a": "c"}},
            {A: b"a"},
            "manifest: entry 'a/b' is below 'a', which is a link",
        ),
        ({"files": [], "links": {"a": "b", "a/b": "c"}}, {}, "manifest: entry 'a/b' is below 'a'"),
        ({"files": [], "links": {"a": "b"}, "folders": ["a/b"]}, {}, "manifest: entry 'a/b' is below 'a'"),
        ({"files": [["a", 420, 1, A]], "links": {"a": "b"}}, {A: b"a"}, "manifest: entry 'a' occurs twice"),
        ({"files": [["a", 420, 1, A]], "folders": ["a"]}, {A: b"a"}, "manifest: entry 'a' is below 'a'"),
        ({"files": [["a/b", 420, 1, A]], "folders": ["a"]}, {A: b"a"}, "manifest: entry 'a' is not an empty"),
        ({"files": [], "folders": ["a", "a"]}, {}, "manifest: entry 'a' occurs twice"),
        ({"files": [], "folders": ["../a"]}, {}, "manifest: entry '../a' is outside the project"),
        ({"files": [], "links": {"../a": "b"}}, {}, "manifest: entry '../a' is outside the project"),
        ({"files": [], "links": {"a": "/etc"}}, {}, "manifest: entry 'a' is a link to '/etc', which is not"),
        ({"files": [], "links": {"a": ""}}, {}, "manifest: entry 'a' is a link to '', which is not"),
        ({"files": [], "links": {"a": ".."}}, {}, "manifest: entry 'a' is a link to '..', outside of"),
        ({"files": [], "links": {"a/b": "../../c"}}, {}, "manifest: entry 'a/b' is a link to '../../c', out"),
        ({"files": [], "links": {"a": "b/../../c"}}, {}, "manifest: entry 'a' is a link to 'b/../../c', out"),
        (
            {"files": [], "links": {"a": "b\x1b"}},
            {},
            "manifest: entry 'a' is a link whose target has control",
        ),
        ({"files": [], "links": {"a": "\ud800"}}, {}, "manifest: entry 'a' is a link whose target "),
        ({"files": [], "links": {"a": "b" * 1025}}, {}, "manifest: entry 'a' is a link whose target is long"),
        ({"files": [], "links": {"a": 1}}, {}, "manifest.links: must be an object of texts"),
        ({"files": [], "folders": "a"}, {}, "manifest.folders: must be a list of texts"),
        (
            {"files": [["a", 420, 1, A], ["a/b", 420, 1, A]]},
            {A: b"a"},
            "manifest: entry 'a/b' is below 'a'",
        ),
        ({"files": [["a", 420, 2, A]]}, {A: b"a"}, "manifest: 'a' has another size than its content"),
        (
            {"files": [["a", 420, 1, A], ["b", 420, 2, A]]},
            {A: b"a"},
            "manifest: 'b' gives one digest two sizes",
        ),
        ({"files": [["a", 420, 1, A]]}, {A: b"b"}, "has contents of another digest"),
        ({"files": [["a", 420, 1, A]]}, {B: b"b"}, "is not a digest of the manifest"),
        ({"files": [["a", 420, 1, A]]}, {"a": b"a"}, "is not a digest of the manifest"),
        ({"files": [["a", 420, 1, "x"]]}, None, "manifest.files[0]: 'x' is not a SHA-256 digest"),
        ({"files": {}}, None, "manifest: must be a JSON object with a list 'files'"),
        ({"files": [["a", 420, 1 << 40, B]]}, None, "manifest: the project is larger than"),
        ({"files": [], "mtimes": {"x": 1}}, None, "manifest.mtimes: has files"),
        ({"files": [["\ud800", 420, 1, A]]}, {A: b"a"}, "manifest: entry '\\ud800' is not valid Unicode"),
    ],
)
def test_a_bad_manifest_is_refused(
    runner: Runner, person: Person, manifest: dict[str, Any], blobs: dict[str, bytes] | None, reason: str
) -> None:
    response = runner.submit(person, zip_of(blobs) if blobs is not None else None, manifest=manifest)
    assert response.status_code == 422
    assert reason in response.json()["detail"]
    assert runner.store.jobs.list(person.user.id) == []
    assert runner.leftovers() == []


@pytest.mark.parametrize("body", ["{}", '["x"]', "[1]", "nonsense", '[["' + A + '"]]'])
def test_a_bad_list_of_digests_is_refused(runner: Runner, person: Person, body: str) -> None:
    response = runner.request("POST", "/blobs/missing", person, data=body)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("body: ")


# -- limits


def test_a_user_may_have_so_many_jobs_waiting(tmp_path: Path) -> None:
    with running(tmp_path, ServeSettings(threads=4, max_streams=4, max_queued_per_user=2)) as runner:
        ada, bob = runner.person("Ada"), runner.person("Bob")
        first = runner.job(ada)
        runner.job(ada)
        for path in ("/submit-async", "/submit-stream", "/submit"):
            refused = runner.submit(ada, path=path)
            assert refused.status_code == 429
            assert refused.headers["Retry-After"] == "30"
        assert runner.submit(bob).status_code == 200
        runner.finish(first.id)
        assert runner.submit(ada).status_code == 200


def test_a_full_disk_refuses_before_anything_is_kept(tmp_path: Path) -> None:
    with running(tmp_path, reserve=1 << 60) as runner:
        person = runner.person()
        response = runner.submit(person)
        assert response.status_code == 507
        assert response.json() == {"detail": "The runner's disk is full; nothing was stored"}
        assert runner.leftovers() == []
        assert runner.store.jobs.list() == []
        assert runner.get("/health").status_code == 200
        ready = runner.get("/ready")
        assert ready.status_code == 503
        assert "disk: " in ready.json()["detail"]


def test_a_project_that_would_fill_the_disk_once_unpacked_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        person = runner.person()
        services = runner.app.services
        # Other programs write and remove files of this disk meanwhile: a wide margin on both sides.
        spare = runner.blobs.free_bytes() - (200 << 20)
        object.__setattr__(services, "storage", replace(services.storage, disk_reserve=spare))
        response = runner.submit(person, zip_of({"a": (os.urandom(1 << 10) + bytes(63 << 10)) * (400 << 4)}))
        assert response.status_code == 507
        assert runner.store.jobs.list() == []


def test_many_projects_at_once_wait_or_are_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, submissions = threading.Event(), set()
    read = Submission._read

    def slow(submission: Submission, *arguments: Any) -> Any:
        submissions.add(submission)
        assert gate.wait(20)
        return read(submission, *arguments)

    def taken() -> bool:
        """Two are being read and one waits."""
        places = [(one._receiving._value, one._waiting._value) for one in submissions]
        return places == [(0, 0)]

    monkeypatch.setattr(Submission, "_read", slow)
    with running(tmp_path, ServeSettings(threads=4, max_streams=2)) as runner, ThreadPoolExecutor(3) as pool:
        person = runner.person()
        answers = [pool.submit(runner.submit, person) for _ in range(3)]
        wait_until(taken, what="all places to be taken")
        assert runner.submit(person).status_code == 503
        assert runner.get("/health", timeout=5).status_code == 200
        gate.set()
        assert [answer.result(20).status_code for answer in answers] == [200, 200, 200]
