"""What a job leaves behind: rows that come with its end, contents that stay as long as the rows."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.controller import OTHER, USER, Runner, check_invariants, runner

from ci_runner.controller.artifacts.collect import JobOutput
from ci_runner.controller.cleanup.blob_gc import Collector
from ci_runner.controller.cleanup.retention import Reaper
from ci_runner.controller.engine import ContainerSpec
from ci_runner.controller.engines.memory import MemoryEngine, Script
from ci_runner.controller.snapshot import Policy
from ci_runner.errors import EngineUnavailable, PermanentError
from ci_runner.model import seals
from ci_runner.model.job import Artifact, Job, JobEvent, utcnow
from ci_runner.model.verdict import cancelled, ran
from ci_runner.storage.blobs import BlobStore

DIGEST = "0" * 64


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Runner]:
    engine = MemoryEngine()
    with runner(tmp_path, engine, Policy(concurrency=2, test_timeout=60, grace=0.3)) as made:
        yield made
    engine.close()


def memory(found: Runner) -> MemoryEngine:
    assert isinstance(found.engine, MemoryEngine)
    return found.engine


def upper(spec: ContainerSpec) -> Path:
    assert spec.overlay is not None
    return spec.overlay.upper


def leaving(code: int = 0, **files: str) -> Script:
    """A container that leaves these files."""

    def run(spec: ContainerSpec) -> int:
        for name, text in files.items():
            (upper(spec) / f"{name}.txt").write_text(text)
        return code

    return Script(run=run)


def blobs(found: Runner) -> BlobStore:
    return BlobStore(found.data_dir, None)


def contents(found: Runner, job_id: str) -> dict[str, bytes]:
    result = {}
    for item in found.store.artifacts.list(job_id):
        with blobs(found).open(item.sha256) as file:
            result[item.path] = file.read()
    return result


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_leaves_the_files_that_were_asked_for(found: Runner, code: int) -> None:
    memory(found)._script = lambda spec: leaving(code, a="one", b="two")
    with found.controller():
        job_id = found.submit(artifacts=["a.txt"], reports=["b.txt", "coverage.xml"])
        [job] = found.until_over(job_id)
    assert job.exit_code == code
    assert contents(found, job_id) == {"a.txt": b"one", "b.txt": b"two"}
    *_, collecting, complete = found.events(job_id)
    assert (collecting.type, collecting.fields) == ("state", {"phase": "finishing", "detail": "collecting"})
    assert complete.fields["artifacts"] == {"files": 2, "bytes": 6, "root": "/workspace"}
    check_invariants(found, [job_id])


def test_a_job_that_leaves_nothing_ends_as_ever(found: Runner) -> None:
    memory(found)._script = lambda spec: leaving()
    with found.controller():
        job_id = found.submit(artifacts=["a.txt"])
        found.until_over(job_id)
    assert "artifacts" not in found.events(job_id)[-1].fields
    assert not [event for event in found.events(job_id) if event.fields.get("detail") == "collecting"]
    assert found.text(job_id, "runner") == "artifacts: nothing matches 'a.txt'\n"


def test_a_cancelled_job_leaves_its_files(found: Runner) -> None:
    def run(spec: ContainerSpec) -> int:
        (upper(spec) / "a.txt").write_text("partial")
        found.store.jobs.request_cancel(spec.job_id, "its user")
        return 130

    memory(found)._script = lambda spec: Script(run=run)
    with found.controller():
        job_id = found.submit(artifacts=["*"])
        [job] = found.until_over(job_id)
    assert job.status == "cancelled"
    assert contents(found, job_id) == {"a.txt": b"partial"}


def test_a_job_that_timed_out_leaves_its_files(found: Runner) -> None:
    def script(spec: ContainerSpec) -> Script:
        (upper(spec) / "a.txt").write_text("partial")
        return Script(exit_after=None)

    memory(found)._script = script
    with found.controller():
        job_id = found.submit(artifacts=["*"], timeout=0.2)
        [job] = found.until_over(job_id)
    assert job.reason == "timed out after 0.2 s of testing"
    assert contents(found, job_id) == {"a.txt": b"partial"}


def test_a_container_that_goes_on_after_its_last_word_is_gone_before_files_are_read(found: Runner) -> None:
    engine = memory(found)
    job_ids = []

    def say_last_word(spec: ContainerSpec) -> Script:
        (upper(spec) / "a.txt").write_text("done")
        (upper(spec).parent / "seal").write_text(seals.new_key())
        return Script(exit_after=None)

    engine._script = say_last_word
    with found.controller():
        job_ids.append(found.submit(artifacts=["*"]))
        found.until(job_ids[0], lambda job: job.phase == "testing")
        # Its frame says that the command ended; the engine still shows it running.
        engine._frame(engine._find(job_ids[0]).spec, "exit", code=0, signal=None, oom=0, stopped=False)
        [job] = found.until_over(*job_ids)
    assert (job.status, job.exit_code) == ("completed", 0)
    assert contents(found, job_ids[0]) == {"a.txt": b"done"}
    assert [name for name, _ in engine.calls].count("signal") == 0


def test_a_job_whose_wishes_make_no_sense_ends_all_the_same(found: Runner) -> None:
    """Submissions are checked; a row that another version wrote may be anything."""
    memory(found)._script = lambda spec: leaving(a="one")
    with found.controller():
        job_id = found.submit(artifacts=["../x"])
        [job] = found.until_over(job_id)
    assert job.exit_code == 0
    assert found.text(job_id, "runner").startswith(
        "artifacts: none is stored: this runner cannot read the job's options: options.artifacts[0]: '../x' must "
        "match paths inside the project"
    )


def test_a_job_whose_files_cannot_be_found_ends_all_the_same(
    found: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(job: Job) -> JobOutput:
        raise PermanentError("the job has no workspace")

    monkeypatch.setattr(found.preparer, "written", written)
    with found.controller():
        job_id = found.submit(artifacts=["*"])
        [job] = found.until_over(job_id)
    assert job.exit_code == 0
    assert found.text(job_id, "runner") == "artifacts: none is stored: the job has no workspace\n"


def test_an_engine_that_is_away_delays_the_end_and_loses_nothing(found: Runner) -> None:
    engine = memory(found)

    def say_last_word(spec: ContainerSpec) -> Script:
        (upper(spec) / "a.txt").write_text("done")
        (upper(spec).parent / "seal").write_text(seals.new_key())
        return Script(exit_after=None)

    engine._script = say_last_word
    with found.controller():
        job_id = found.submit(artifacts=["*"])
        found.until(job_id, lambda job: job.phase == "testing")
        engine.fail_next("remove", EngineUnavailable("away"))
        engine._frame(engine._find(job_id).spec, "exit", code=0, signal=None, oom=0, stopped=False)
        [job] = found.until_over(job_id)
    assert job.exit_code == 0
    assert contents(found, job_id) == {"a.txt": b"done"}
    details = [event.fields.get("detail") for event in found.events(job_id) if event.type == "state"]
    assert details.count("collecting") == 1


def test_rows_come_with_the_end_and_only_once(found: Runner) -> None:
    job_id = found.submit()
    item = Artifact("a", 0o644, 1, DIGEST, utcnow() + dt.timedelta(days=1))
    assert found.store.artifacts.list(job_id) == []
    assert found.store.jobs.finish(job_id, None, ran(0), artifacts=[item])
    assert not found.store.jobs.finish(job_id, None, cancelled("x"), artifacts=[item, item])
    assert found.store.artifacts.list(job_id) == [item]
    assert found.store.artifacts.get(job_id, "a") == item
    assert found.store.artifacts.get(job_id, "A") is None
    assert found.store.artifacts.get("other", "a") is None


def test_many_rows_are_one_end(found: Runner) -> None:
    job_id = found.submit()
    until = utcnow() + dt.timedelta(days=1)
    items = [Artifact(f"{number:05}", 0o644, 1, DIGEST, until) for number in range(2000)]
    assert found.store.jobs.finish(job_id, None, ran(0), artifacts=items)
    assert found.store.artifacts.list(job_id) == items


def test_a_user_s_artifacts_stay_within_the_quota_and_none_goes_for_a_new_one(found: Runner) -> None:
    memory(found)._script = lambda spec: leaving(a="12345", b="67890")
    found.settings = replace(found.settings, artifact_quota=15)
    with found.controller():
        first, second, third = (found.submit(artifacts=["*.txt"]) for _ in range(3))
        jobs = found.until_over(first, second, third)
        other = found.submit(OTHER, artifacts=["*.txt"])
        found.until_over(other)
    assert all(job.success for job in jobs)
    kept = [len(found.store.artifacts.list(job.id)) for job in jobs]
    assert (sum(kept), found.store.artifacts.bytes_of(USER)) == (3, 15)
    notes = [found.text(job.id, "runner") for job in jobs]
    words = "exceeds the limit of 15 B for all jobs of a user"
    assert sorted(notes) == sorted(
        {
            2: "",
            1: f"artifacts: not stored: 'b.txt' {words}\n",
            0: f"artifacts: not stored: 'a.txt' {words} (1 more like it)\n",
        }[count]
        for count in kept
    )
    assert found.store.artifacts.bytes_of(OTHER) == 10
    found.store.artifacts.prune(utcnow() + dt.timedelta(days=30))
    assert found.store.artifacts.bytes_of(USER) == 0


def test_artifacts_go_with_their_user(found: Runner) -> None:
    job_id = found.submit()
    item = Artifact("a", 0o644, 1, DIGEST, utcnow())
    found.store.jobs.finish(job_id, None, ran(0), artifacts=[item])
    found.store.jobs.delete_of_user(USER)
    assert found.store.artifacts.list(job_id) == []


def test_contents_are_not_collected_before_their_artifacts_went(found: Runner) -> None:
    """One kept for a day, one for an hour, and a content that nobody names."""
    now = utcnow()
    digests = {name: blobs(found).put_bytes(name.encode()) for name in ("day", "hour", "nobody")}
    for path in (found.data_dir / "blobs").glob("??/*"):
        os.utime(path, (0, 0))
    job_id = found.submit()
    items = [
        Artifact("day", 0o644, 3, digests["day"], now + dt.timedelta(days=1)),
        Artifact("hour", 0o644, 4, digests["hour"], now + dt.timedelta(hours=1)),
    ]
    found.store.jobs.finish(job_id, None, ran(0), artifacts=items)
    collector = Collector(found.store, found.data_dir, interval=0)
    collector.collect()
    assert {name for name, digest in digests.items() if blobs(found).has(digest)} == {"day", "hour"}
    assert found.store.artifacts.prune(now + dt.timedelta(hours=2)) == 1
    collector.collect()
    assert {name for name, digest in digests.items() if blobs(found).has(digest)} == {"day"}
    assert [item.path for item in found.store.artifacts.list(job_id)] == ["day"]


def test_a_content_that_was_submitted_once_stays_for_its_artifact(found: Runner) -> None:
    """The grant is old and taken back; the artifact still has the content."""
    digest = blobs(found).put_bytes(b"both")
    for path in (found.data_dir / "blobs").glob("??/*"):
        os.utime(path, (0, 0))
    found.store.blobs.grant(USER, [digest], utcnow() - dt.timedelta(days=9))
    job_id = found.submit()
    until = utcnow() + dt.timedelta(days=1)
    found.store.jobs.finish(job_id, None, ran(0), artifacts=[Artifact("a", 0o644, 4, digest, until)])
    Collector(found.store, found.data_dir, interval=0).collect()
    assert found.store.blobs.granted(USER, [digest]) == set()
    assert blobs(found).has(digest)


def test_the_reaper_forgets_what_was_kept_long_enough(found: Runner) -> None:
    job_id = found.submit()
    old = Artifact("a", 0o644, 1, DIGEST, utcnow() - dt.timedelta(minutes=1))
    found.store.jobs.finish(job_id, None, ran(0), artifacts=[old], events=[JobEvent("log", "x")])
    epoch = found.store.lease.acquire("test")
    reaper = Reaper(found.store, found.preparer, epoch, found.data_dir, 30, lambda error: None)
    reaper._round()
    assert found.store.artifacts.list(job_id) == []
