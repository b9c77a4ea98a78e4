"""What of a workspace travels: the client against a real server, contents on a real disk."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from support.fake_runner import KEY, Request, fake_runner
from support.http_server import Person, Runner, running

from pytest_remote_ci.client import delta
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.client.delta import WorkspaceUpload
from pytest_remote_ci.errors import SubmissionRefused
from pytest_remote_ci.workspace.collect import Workspace, WorkspaceChanged, collect

#: Bytes of each file; they do not compress.
SIZE = 20_000


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with running(tmp_path / "data") as runner:
        yield runner


@pytest.fixture
def person(runner: Runner) -> Person:
    return runner.person()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "tests").mkdir(parents=True)
    for number in range(10):
        write(folder / "tests" / f"data{number}.bin", number)
    (folder / "tests" / "test_a.py").write_text("def test_a(): pass\n")
    return folder


def write(path: Path, seed: int) -> None:
    path.write_bytes(random.Random(seed).randbytes(SIZE))


def look(project: Path) -> Workspace:
    return collect(project, use_cache=False)


class Sender:
    """Delivers a project again and again; knows what each delivery cost."""

    def __init__(self, runner: Runner, client: Client, person: Person) -> None:
        self.runner = runner
        self.client = client
        self.person = person
        #: Bytes of contents in the last parcel; whether it had a manifest.
        self.contents = 0
        self.by_manifest = False
        self.parcels = 0

    def send(self, parcel: WorkspaceUpload) -> str:
        self.parcels += 1
        self.by_manifest = parcel.manifest is not None
        self.contents = 0 if parcel.archive is None else parcel.archive.seek(0, 2)
        return self.client.submit(parcel.archive, manifest=parcel.manifest)

    def __call__(self, project: Path, again: Callable[[], Workspace] | None = None) -> str:
        """Deliver; the digest of the job's workspace."""
        job_id = delta.deliver(self.client, look(project), self.send, again=again or (lambda: look(project)))
        job = self.runner.store.jobs.get(job_id)
        assert job is not None
        assert job.workspace == hashlib.sha256(look(project).manifest().canonical()).hexdigest()
        return job.workspace

    def whole(self, project: Path) -> str | None:
        """The digest of the workspace when the project is sent whole."""
        archive = project.parent / "whole.zip"
        look(project).write_zip(archive)
        job = self.runner.store.jobs.get(self.client.submit(archive))
        assert job is not None
        return job.workspace

    def files(self, digest: str) -> dict[str, tuple[int, bytes]]:
        """What the runner has: path → mode and content."""
        found = {}
        with self.runner.blobs.open(digest) as manifest:
            for path, mode, _, sha256 in json.load(manifest):
                with self.runner.blobs.open(sha256) as blob:
                    found[path] = (mode, blob.read())
        return found


@pytest.fixture
def deliver(runner: Runner, person: Person) -> Iterator[Sender]:
    with Client(runner.url, person.key, sleep=lambda seconds: None) as client:
        yield Sender(runner, client, person)


def test_the_first_delivery_brings_everything_and_the_next_one_nothing(
    deliver: Sender, project: Path
) -> None:
    first = deliver(project)
    assert deliver.by_manifest
    assert 10 * SIZE < deliver.contents < 11 * SIZE
    assert deliver(project) == first
    assert deliver.by_manifest
    assert deliver.contents == 0


def test_a_delivery_in_parts_makes_the_same_workspace_as_the_whole_zip(
    deliver: Sender, project: Path
) -> None:
    (project / "tests" / "data1.bin").chmod(0o755)
    deliver(project)
    write(project / "tests" / "data3.bin", 77)
    assert deliver(project) == deliver.whole(project)


def test_only_what_changed_is_sent(deliver: Sender, project: Path) -> None:
    deliver(project)
    write(project / "tests" / "data3.bin", 77)
    digest = deliver(project)
    assert SIZE < deliver.contents < SIZE + 1000
    assert deliver.files(digest)["tests/data3.bin"][1] == (project / "tests" / "data3.bin").read_bytes()


def test_deleted_and_renamed_files_cost_nothing(deliver: Sender, project: Path) -> None:
    deliver(project)
    (project / "tests" / "data1.bin").unlink()
    (project / "tests" / "data2.bin").rename(project / "moved.bin")
    files = deliver.files(deliver(project))
    assert deliver.contents == 0
    assert "tests/data1.bin" not in files
    assert "tests/data2.bin" not in files
    assert files["moved.bin"][1] == (project / "moved.bin").read_bytes()


def test_an_executable_bit_makes_another_workspace_and_costs_nothing(deliver: Sender, project: Path) -> None:
    before = deliver(project)
    (project / "tests" / "data1.bin").chmod(0o755)
    after = deliver(project)
    assert deliver.contents == 0
    assert before != after
    assert deliver.files(after)["tests/data1.bin"][0] == 0o755
    assert deliver.files(after)["tests/data2.bin"][0] == 0o644


def test_equal_contents_travel_once(deliver: Sender, project: Path) -> None:
    for number in range(5):
        write(project / f"copy{number}.bin", 1)
    assert len(deliver.files(deliver(project))) == 16
    assert deliver.contents < 11 * SIZE


def test_a_small_project_is_sent_whole(deliver: Sender, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    (small / "test_a.py").write_text("def test_a(): pass\n")
    deliver(small)
    assert not deliver.by_manifest


def test_nothing_that_others_sent_is_taken_for_sent(runner: Runner, deliver: Sender, project: Path) -> None:
    deliver(project)
    other = runner.person("Bob")
    with Client(runner.url, other.key) as client:
        theirs = Sender(runner, client, other)
        theirs(project)
    assert theirs.contents > 10 * SIZE


def test_a_file_that_changes_while_it_is_packed_is_looked_at_again(deliver: Sender, project: Path) -> None:
    stale = look(project)
    write(project / "tests" / "data5.bin", 99)
    job_id = delta.deliver(deliver.client, stale, deliver.send, again=lambda: look(project))
    job = deliver.runner.store.jobs.get(job_id)
    assert job is not None
    assert job.workspace == deliver.whole(project)
    assert deliver.parcels == 1


def test_a_file_that_never_rests_is_named(deliver: Sender, project: Path) -> None:
    stale = look(project)
    write(project / "tests" / "data5.bin", 99)
    with pytest.raises(WorkspaceChanged, match=r"data5\.bin: changed while it was packed"):
        delta.deliver(deliver.client, stale, deliver.send, again=lambda: stale)


class Forgetful(Client):
    """The runner forgets a content right after it said that it has it, so many times."""

    forgets: Callable[[], None]
    times = 1

    def __enter__(self) -> Forgetful:
        return self

    def missing(self, digests: Collection[str]) -> list[str] | None:
        answer = super().missing(digests)
        if self.times:
            self.times -= 1
            self.forgets()
        return answer


@pytest.mark.parametrize("times", [1, 2])
def test_what_the_runner_lost_meanwhile_is_sent_after_all_once(
    runner: Runner, person: Person, deliver: Sender, project: Path, times: int
) -> None:
    deliver(project)
    digests = [hashlib.sha256((project / "tests" / f"data{n}.bin").read_bytes()).hexdigest() for n in (7, 8)]
    with Forgetful(runner.url, person.key) as client:
        client.times = times
        client.forgets = lambda: runner.blobs.remove(digests.pop())
        sender = Sender(runner, client, person)
        if times == 2:
            with pytest.raises(SubmissionRefused, match="1 contents are missing"):
                sender(project)
        else:
            sender(project)
            assert SIZE < sender.contents < 2 * SIZE
    assert sender.parcels == 2


@pytest.mark.parametrize("status", [404, 405])
def test_a_runner_that_knows_no_manifests_gets_the_whole_project(project: Path, status: int) -> None:
    def old(request: Request) -> tuple[int, dict[str, str], dict[str, str]] | None:
        return (status, {"detail": "Not Found"}, {}) if request.path == "/blobs/missing" else None

    parcels: list[WorkspaceUpload] = []
    with fake_runner() as fake, Client(fake.url, KEY) as client:
        fake.intercept = old

        def send(parcel: WorkspaceUpload) -> str:
            parcels.append(parcel)
            return client.submit(parcel.archive, manifest=parcel.manifest)

        job_id = delta.deliver(client, look(project), send, again=lambda: look(project))
        assert len(fake.jobs[job_id].archive) > 10 * SIZE
    assert [parcel.manifest for parcel in parcels] == [None]
