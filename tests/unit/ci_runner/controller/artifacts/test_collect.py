"""What is kept of a job's files: limits, conditions, and what is said about the rest."""

from __future__ import annotations

import datetime as dt
import errno
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ci_runner.controller.artifacts.collect import (
    ArtifactCollector,
    CollectedArtifacts,
    JobOutput,
    KeepingStopped,
    Limits,
)
from ci_runner.controller.artifacts.quota import Quota
from ci_runner.errors import PermanentError
from ci_runner.model.job import Job, utcnow
from ci_runner.model.job_options import JobOptions
from ci_runner.model.verdict import Verdict, cancelled, failed, ran
from ci_runner.storage.blobs import Batch, BlobStore


class Bench:
    """A folder of a run's files and a keeper."""

    def __init__(self, data: Path) -> None:
        self.folder = data / "upper"
        self.folder.mkdir()
        self.blobs = BlobStore(data, None)
        self.keeper = ArtifactCollector(self.blobs)
        self.calls: list[str] = []
        self.sent: Mapping[str, str] = {}

    def put(self, path: str, content: bytes = b"x") -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def keep(
        self, verdict: Verdict | None = None, *, user: str | None = None, **options: Any
    ) -> CollectedArtifacts:
        options.setdefault("artifacts", ["**"])
        job = Job("job", user_id=user, options=JobOptions.from_dict(options))
        written = JobOutput(self.folder, "/workspace", lambda: self.sent)
        return self.keeper.keep(job, verdict or ran(0), written, lambda: self.calls.append("read"))

    def names(self, kept: CollectedArtifacts) -> list[str]:
        return [item.path for item in kept.artifacts]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_contents_are_blobs_when_keep_returns(bench: Bench) -> None:
    bench.put("dist/a.whl", b"wheel")
    bench.put("tool", b"#!").chmod(0o755)
    kept = bench.keep()
    assert [(item.path, item.mode, item.size) for item in kept.artifacts] == [
        ("dist/a.whl", 0o644, 5),
        ("tool", 0o755, 2),
    ]
    with bench.blobs.open(kept.artifacts[0].sha256) as file:
        assert file.read() == b"wheel"
    assert kept.notes == ()
    assert kept.fields() == {"artifacts": {"files": 2, "bytes": 7, "root": "/workspace"}}
    assert bench.calls == ["read"]


def test_with_nothing_to_keep_nothing_is_waited_for(bench: Bench) -> None:
    bench.put("src/x.py")
    kept = bench.keep(artifacts=["dist"], reports=["coverage.xml"])
    assert (kept.artifacts, kept.fields(), bench.calls) == ((), {}, [])
    assert kept.notes == ("nothing matches 'dist'",)
    [event] = kept.events()
    assert (event.data, event.fields) == ("artifacts: nothing matches 'dist'\n", {"stream": "runner"})


def test_what_was_sent_is_no_artifact_unless_it_changed(bench: Bench) -> None:
    bench.put("data/same.csv", b"same")
    bench.put("data/changed.csv", b"new")
    bench.sent = {
        path: sha256(content).hexdigest()
        for path, content in (("data/same.csv", b"same"), ("data/changed.csv", b"old"))
    }
    assert bench.names(bench.keep(artifacts=["data"])) == ["data/changed.csv"]


@pytest.mark.parametrize(
    ("when", "verdict", "is_kept"),
    [
        ("always", ran(1), True),
        ("always", cancelled("x"), True),
        ("success", ran(0), True),
        ("success", ran(1), False),
        ("success", failed("timed out", timed_out=True), False),
        ("success", cancelled("x"), False),
        ("failure", ran(0), False),
        ("failure", ran(5), True),
        ("failure", failed("container lost"), True),
    ],
)
def test_artifacts_are_kept_when_that_is_asked_for(
    bench: Bench, when: str, verdict: Verdict, is_kept: bool
) -> None:
    bench.put("a.txt")
    bench.put("coverage.xml")
    kept = bench.keep(verdict, artifacts=["a.txt"], artifacts_when=when, reports=["coverage.xml"])
    assert bench.names(kept) == (["a.txt"] if is_kept else []) + ["coverage.xml"], "reports always"


def test_without_its_workspace_all_that_matches_is_kept(bench: Bench) -> None:
    def gone() -> Mapping[str, str]:
        raise PermanentError("the job's workspace is no longer on the runner")

    bench.put("a")
    written = JobOutput(bench.folder, "/workspace", gone)
    kept = bench.keeper.keep(
        Job("job", options=JobOptions.from_dict({"artifacts": ["a"]})), ran(0), written, lambda: None
    )
    assert bench.names(kept) == ["a"]


def test_a_file_that_is_too_large_is_left_out_unread(bench: Bench) -> None:
    bench.keeper.limits = Limits(file=1 << 20)
    with bench.put("huge").open("wb") as file:
        file.truncate(50 << 30)  # sparse
    bench.put("fine")
    kept = bench.keep()
    assert bench.names(kept) == ["fine"]
    assert kept.notes == ("not stored: 'huge' is larger than 1 MiB",)


def test_a_job_leaves_no_more_bytes_and_files_than_it_may(bench: Bench) -> None:
    for number in range(5):
        bench.put(f"{number}", b"x" * 100)
    bench.keeper.limits = Limits(total=250)
    kept = bench.keep()
    assert bench.names(kept) == ["0", "1"]
    assert kept.notes == ("not stored: '2' exceeds the limit of 250 B per job (2 more like it)",)
    bench.keeper.limits = Limits(files=3)
    kept = bench.keep()
    assert bench.names(kept) == ["0", "1", "2"]
    assert kept.notes == ("not stored: '3' exceeds the limit of 3 files per job (1 more like it)",)


def test_hard_links_count_each_time(bench: Bench) -> None:
    first = bench.put("0", b"x" * 100)
    for number in range(1, 5):
        os.link(first, bench.folder / str(number))
    bench.keeper.limits = Limits(total=300)
    assert bench.names(bench.keep()) == ["0", "1", "2"]


def test_all_jobs_of_a_user_leave_no_more_than_the_quota(bench: Bench) -> None:
    stored = {"ann": 150}
    bench.keeper.quota = Quota(400, lambda user_id: stored.get(user_id, 0))
    for number in range(4):
        bench.put(f"{number}", b"x" * 100)
    bench.put("small", b"x" * 50)
    kept = bench.keep(user="ann")
    assert bench.names(kept) == ["0", "1", "small"], "what still fits is kept"
    assert kept.notes == (
        "not stored: '2' exceeds the limit of 400 B for all jobs of a user (1 more like it)",
    )
    assert len(bench.keep(user="bob").artifacts) == 4, "others have their own"
    assert bench.keep(user="ann").artifacts == (), "what is being kept counts before it has rows"
    bench.keeper.quota.release("job")
    stored["ann"] = 300  # older ones went
    assert bench.names(bench.keep(user="ann")) == ["0"]


def test_what_was_sent_takes_nothing_of_the_quota(bench: Bench) -> None:
    bench.keeper.quota = Quota(100)
    bench.put("a-sent", b"y" * 100)
    bench.put("new", b"x" * 100)
    bench.sent = {"a-sent": sha256(b"y" * 100).hexdigest()}
    assert bench.names(bench.keep(user="ann")) == ["new"]


def test_two_jobs_that_end_together_share_the_quota() -> None:
    stored = 0
    quota = Quota(100, lambda user_id: stored)
    one, two = Job("one", user_id="ann"), Job("two", user_id="ann")
    assert quota.claim(one, 60)
    assert quota.has_room(two, 40)
    assert not quota.claim(two, 50)
    assert quota.claim(two, 40)
    stored = 60  # the first one's rows are written
    quota.release("one")
    assert not quota.has_room(Job("three", user_id="ann"), 1)
    quota.release("two")  # which kept nothing after all
    quota.release("three")
    assert quota.has_room(Job("four", user_id="ann"), 40)
    assert not quota.has_room(Job("four", user_id="ann"), 41)


def test_the_disks_reserve_stays_free(bench: Bench) -> None:
    bench.put("a")
    bench.keeper.limits = Limits(reserve=1 << 60)
    kept = bench.keep()
    assert kept.artifacts == ()
    assert kept.notes == ("not stored: 'a' found the runner's disk full",)


def test_a_disk_that_fills_up_meanwhile_costs_the_artifacts_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.put("a")
    monkeypatch.setattr(Batch, "commit", full)
    assert bench.keep().notes == ("none is stored: the runner's disk is full",)
    monkeypatch.setattr(Batch, "put", full)
    assert bench.keep().notes == ("none is stored: the runner's disk is full",)


def test_an_error_nobody_foresaw_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put("a")
    monkeypatch.setattr(Batch, "commit", lambda self: 1 / 0)
    assert bench.keep().notes == ("none is stored: internal error of the runner (ZeroDivisionError)",)


def test_a_file_that_still_grows_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    grows = bench.put("grows", b"1")
    read = os.read

    def reading(handle: int, size: int) -> bytes:
        with grows.open("ab") as file:
            file.write(b"more")
        return read(handle, size)

    monkeypatch.setattr(os, "read", reading)
    assert bench.keep().notes == ("not stored: 'grows' grew while it was read",)


def test_a_file_that_vanishes_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put("a")
    bench.put("b")
    taking = ArtifactCollector._store_file

    def take(self: ArtifactCollector, file: Any, folder: Path, batch: Batch) -> Any:
        if file.path == "a":
            (folder / "a").unlink()
        return taking(self, file, folder, batch)

    monkeypatch.setattr(ArtifactCollector, "_store_file", take)
    kept = bench.keep()
    assert bench.names(kept) == ["b"]
    assert kept.notes == ("not stored: 'a' cannot be read (No such file or directory)",)


def test_a_controller_that_ends_gives_up_and_keeps_nothing(bench: Bench) -> None:
    bench.put("a")
    bench.keeper.stopping = lambda: True
    with pytest.raises(KeepingStopped):
        bench.keep()
    assert list((bench.blobs.uploads.parent / "blobs").glob("*/*")) == []


@pytest.mark.parametrize(("asked", "days"), [(None, 7.0), (1.0, 1.0), (400.0, 7.0)])
def test_a_job_may_shorten_how_long_its_artifacts_are_kept(
    bench: Bench, asked: float | None, days: float
) -> None:
    bench.put("a")
    [item] = bench.keep(artifacts_days=asked).artifacts
    assert item.kept_until is not None
    assert abs(item.kept_until - utcnow() - dt.timedelta(days=days)) < dt.timedelta(minutes=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mark a file as an overlay does")
def test_a_file_whose_mode_alone_changed_is_no_artifact(bench: Bench) -> None:
    file = bench.put("a", b"\0" * 10)
    try:
        os.setxattr(file, "trusted.overlay.metacopy", b"")
    except OSError:
        pytest.skip("no such attributes on this file system")
    assert bench.keep().artifacts == ()
