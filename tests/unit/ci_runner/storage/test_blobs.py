"""Blobs: complete, durable, of the right mode, and nothing left behind when something goes wrong."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci_runner.errors import InvalidSubmission, NotFound
from ci_runner.storage.blobs import UNPRIVILEGED_UID, BlobStore, job_owner


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "data", job_owner())


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 65536, (1 << 20) - 1, (1 << 20) + 1, 3 << 20])
def test_a_content_comes_back_under_its_digest(blobs: BlobStore, size: int) -> None:
    content = os.urandom(size)
    assert blobs.put_stream(io.BytesIO(content)) == (digest_of(content), size)
    with blobs.open(digest_of(content)) as file:
        assert file.read() == content
    assert blobs.size(digest_of(content)) == size
    assert list(blobs.uploads.iterdir()) == []


def test_modes_and_owner_are_those_of_jobs(blobs: BlobStore) -> None:
    digest = blobs.put_bytes(b"#!/bin/sh\n")
    plain, twin = blobs.path(digest), blobs.path(digest, mode=0o755)
    assert stat.S_IMODE(plain.stat().st_mode) == 0o644
    assert stat.S_IMODE(twin.stat().st_mode) == 0o755
    assert plain.stat().st_ino != twin.stat().st_ino
    assert twin.read_bytes() == plain.read_bytes()
    assert blobs.path(digest, mode=0o755) == twin
    expected = UNPRIVILEGED_UID if os.geteuid() == 0 else os.geteuid()
    assert {plain.stat().st_uid, twin.stat().st_uid} == {expected}


def test_a_known_content_is_not_written_again(blobs: BlobStore) -> None:
    digest = blobs.put_bytes(b"same")
    before = blobs.path(digest).stat()
    os.utime(blobs.path(digest), (1, 1))
    blobs.put_bytes(b"same")
    after = blobs.path(digest).stat()
    assert after.st_ino == before.st_ino
    assert digest not in [old for folder in blobs.aged(2) for old in folder], "it is in use again"


def test_a_wrong_digest_keeps_nothing(blobs: BlobStore) -> None:
    with pytest.raises(InvalidSubmission, match="another digest"):
        blobs.put_stream([b"x" * (2 << 20)], expected=digest_of(b"y"))
    assert list(blobs.uploads.iterdir()) == []
    assert not blobs.has(digest_of(b"x" * (2 << 20)))


def test_a_batch_that_is_not_committed_keeps_nothing(blobs: BlobStore) -> None:
    with blobs.batch() as batch:
        digest, _ = batch.put([b"one"])
        batch.put([b"two" * 1_000_000])
    assert not blobs.has(digest)
    assert list(blobs.uploads.iterdir()) == []


def test_a_batch_of_many_is_kept_whole(blobs: BlobStore) -> None:
    contents = [str(number % 40).encode() for number in range(100)]
    with blobs.batch() as batch:
        digests = [batch.put([content])[0] for content in contents]
        batch.commit()
    assert blobs.missing(digests) == []
    assert list(blobs.uploads.iterdir()) == []


def test_missing_names_each_unknown_digest_once(blobs: BlobStore) -> None:
    known, unknown = blobs.put_bytes(b"known"), digest_of(b"unknown")
    assert blobs.missing([unknown, known, unknown]) == [unknown]


def test_removing_takes_both_twins_and_may_be_repeated(blobs: BlobStore) -> None:
    digest = blobs.put_bytes(b"gone")
    twin = blobs.path(digest, mode=0o755)
    blobs.remove(digest)
    blobs.remove(digest)
    assert not twin.exists()
    assert not blobs.has(digest)
    assert blobs.size(digest) is None
    with pytest.raises(NotFound):
        blobs.path(digest)
    with pytest.raises(NotFound):
        blobs.open(digest)


@pytest.mark.parametrize("text", ["", "..", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65])
def test_what_is_no_digest_never_becomes_a_path(blobs: BlobStore, text: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        blobs.has(text)


def test_what_a_dead_writer_left_is_swept_and_what_is_being_written_stays(blobs: BlobStore) -> None:
    script = (
        "import os, sys; from pathlib import Path; from ci_runner.storage.blobs import BlobStore\n"
        "batch = BlobStore(Path(sys.argv[1]), None).batch(); batch.put([b'left']); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(blobs.uploads.parent)], check=False)
    assert len(list(blobs.uploads.iterdir())) == 1
    with blobs.batch() as batch:
        digest, _ = batch.put([b"written"])
        assert len(list(blobs.uploads.iterdir())) == 2
        assert blobs.sweep_uploads() == 1
        batch.commit()
    assert blobs.has(digest)
    assert list(blobs.uploads.iterdir()) == []


def test_a_file_that_is_about_to_lose_its_name_is_not_swept(blobs: BlobStore) -> None:
    old, young = blobs.uploads / "tmp-old", blobs.uploads / "tmp-young"
    old.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    assert blobs.sweep_uploads() == 1
    assert [path.name for path in blobs.uploads.iterdir()] == ["tmp-young"]
