"""What a job did to files of the project reaches their places here, and nothing that was not asked for."""

from __future__ import annotations

import datetime as dt
import os
import stat
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest
from support.http_server import Person, Runner, running

from ci_runner.model import job as models
from ci_runner.model.job import utcnow
from ci_runner.model.verdict import ran
from pytest_remote_ci.artifacts import updates
from pytest_remote_ci.artifacts.write_back import Step, WriteBack
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire.changes import Change, ChangeKind

#: Content that was sent; None for a created file.
SENT = b"as sent"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture(scope="module")
def person(runner: Runner) -> Person:
    return runner.person()


@pytest.fixture
def client(runner: Runner, person: Person) -> Iterator[Client]:
    with Client(runner.url, person.key) as client:
        yield client


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def left(
    runner: Runner, person: Person, *changes: tuple[str, str, bytes | None], requested: Sequence[str] = ()
) -> str:
    """Return the id of a finished job with these changes: kind, path, content (None: not stored)."""
    job = runner.job(person)
    until = utcnow() + dt.timedelta(days=1)
    rows = []
    for kind, path, content in changes:
        stored: dict[str, Any] = {"size": len(content or b""), "sha256": ""}
        if content is not None and kind != "deleted":
            stored["sha256"] = runner.blobs.put_bytes(content)
        before = None if kind == "created" else digest(SENT)
        rows.append(
            models.Artifact(
                path,
                0o755 if path.endswith("+x") else 0o644,
                kept_until=until,
                requested=path in requested,
                change=cast(ChangeKind, kind),
                before=before,
                **stored,
            )
        )
    assert runner.store.jobs.finish(job.id, runner.epoch, ran(0), artifacts=rows)
    return job.id


def put(folder: Path, path: str, content: bytes = SENT) -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def pulled(client: Client, job_id: str, here: Path, **more: Any) -> tuple[list[Step], list[str], list[str]]:
    """Pull everything: the steps, the applied paths, and the problems."""
    work = WriteBack(here, **more)
    steps = work.plan(client.changes(job_id)[1])
    applied, problems = work.apply(client, job_id, steps)
    return steps, [change.path for change in applied], problems


def problems_of(steps: list[Step]) -> dict[str, str]:
    return {step.change.path: step.problem for step in steps if step.problem is not None}


def test_changes_are_listed_apart_from_artifacts(runner: Runner, person: Person, client: Client) -> None:
    job_id = left(
        runner,
        person,
        ("changed", "a.txt", b"new"),
        ("created", "b.txt", b"created"),
        ("deleted", "c.txt", None),
        ("created", "large.bin", None),
        requested=["b.txt"],
    )
    assert [item.path for item in client.artifacts(job_id)] == ["b.txt"]
    assert client.changes(job_id)[1] == [
        Change("a.txt", "changed", 3, digest(b"new"), before=digest(SENT)),
        Change("b.txt", "created", 7, digest(b"created")),
        Change("c.txt", "deleted", before=digest(SENT)),
        Change("large.bin", "created", 0, None),
    ]
    for path in ("c.txt", "large.bin"):
        with pytest.raises(Exception, match="Artifact not found"):
            client.artifact(job_id, path)


def test_everything_is_applied_in_its_place(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    put(here, "a.txt").chmod(0o750)
    put(here, "sub/gone.txt")
    job_id = left(
        runner,
        person,
        ("changed", "a.txt", b"new"),
        ("created", "sub/deeper/b.txt", b"created"),
        ("deleted", "sub/gone.txt", None),
        ("created", "run+x", b"#!"),
        *(("created", f"many/{number}.csv", b"%d" % number) for number in range(20)),
    )
    steps, applied, problems = pulled(client, job_id, here)
    assert problems == []
    assert len(applied) == 24
    assert (here / "a.txt").read_bytes() == b"new"
    assert os.access(here / "a.txt", os.X_OK), "the executable bit stays as it was"
    assert not os.access(here / "run+x", os.X_OK), "and never comes unnamed"
    assert (here / "sub/deeper/b.txt").read_bytes() == b"created"
    assert not (here / "sub/gone.txt").exists()
    assert not list(here.rglob("*.part"))
    steps, applied, problems = pulled(client, job_id, here)
    assert (applied, problems) == ([], [])
    assert all(step.is_done for step in steps)


def test_what_changed_here_is_named_and_force_takes_the_jobs(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    for path in ("a.txt", "b.txt", "c.txt"):
        put(here, path, b"changed here")
    job_id = left(
        runner,
        person,
        ("changed", "a.txt", b"new"),
        ("deleted", "b.txt", None),
        ("created", "c.txt", b"created"),
        ("changed", "d.txt", b"new"),
    )
    steps, applied, _ = pulled(client, job_id, here)
    assert applied == []
    assert problems_of(steps) == {
        "a.txt": "changed here since it was sent",
        "b.txt": "changed here since it was sent",
        "c.txt": "exists here, too",
        "d.txt": "was deleted here since it was sent",
    }
    assert all(step.is_conflict for step in steps)
    _, applied, problems = pulled(client, job_id, here, force=True)
    assert (applied, problems) == (["a.txt", "b.txt", "c.txt", "d.txt"], [])
    assert not (here / "b.txt").exists()


def test_what_this_process_sent_counts_more_than_what_the_runner_says(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    put(here, "a.txt")
    job_id = left(runner, person, ("changed", "a.txt", b"new"))
    steps, applied, _ = pulled(client, job_id, here, sent={"a.txt": digest(b"something else")})
    assert (applied, problems_of(steps)) == ([], {"a.txt": "changed here since it was sent"})


@pytest.mark.parametrize(
    "path",
    [
        "conftest.py",
        "tests/conftest.py",
        "src/a.py",
        "a.pth",
        "Makefile",
        "sub/Dockerfile",
        "pyproject.toml",
        "tests/pytest.ini",
        "package.json",
        ".pre-commit-config.yaml",
        ".github/workflows/ci.yml",
        "mkdocs.yml",
        "requirements-dev.txt",
        "data/model.pkl",
        ".envrc",
        "uv.lock",
        "src/ext.c",
        "native/lib.dylib",
        "vendor/x.whl",
        "build.gradle",
        "templates/page.mako",
        "App.jsx",
    ],
)
def test_code_comes_only_by_its_name(
    runner: Runner, person: Person, client: Client, here: Path, path: str
) -> None:
    put(here, path)
    for change in (("changed", path, b"evil"), ("deleted", path, None)):
        job_id = left(runner, person, change)
        for patterns in ((), ("**",), ("*",), (path.split("/")[0],) if "/" in path else ("**/*",)):
            steps, applied, _ = pulled(client, job_id, here, force=True, patterns=patterns)
            assert (applied, problems_of(steps)) == ([], {path: "would be executed or obeyed here"})
        assert (here / path).read_bytes() == SENT
    job_id = left(runner, person, ("changed", path, b"wanted"))
    assert pulled(client, job_id, here, patterns=(path,))[1] == [path]
    assert (here / path).read_bytes() == b"wanted"


@pytest.mark.parametrize(
    "path",
    ["../out.txt", "/etc/x", "a/../../b", ".git/hooks/post-checkout", "sub/.GIT/config", "HEAD", "a\x1b[2J"],
)
def test_names_that_are_never_made_are_refused_whatever_is_typed(
    runner: Runner, person: Person, client: Client, here: Path, path: str
) -> None:
    job_id = left(runner, person, ("created", path, b"x"))
    steps, applied, _ = pulled(client, job_id, here, force=True, patterns=(path,))
    assert applied == []
    assert problems_of(steps)[path].startswith("is refused")
    assert [item for item in here.parent.rglob("*") if item.is_file()] == []


def test_links_here_are_not_followed(
    runner: Runner, person: Person, client: Client, here: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    put(outside, "a.txt")
    put(outside, "data/b.txt")
    (here / "a.txt").symlink_to(outside / "a.txt")
    (here / "data").symlink_to(outside / "data")
    (here / "folder.txt").mkdir()
    changes = [("changed", path, b"evil") for path in ("a.txt", "data/b.txt", "folder.txt")]
    job_id = left(
        runner, person, *changes, ("deleted", "data/c.txt", None), ("created", "data/new.txt", b"x")
    )
    steps, applied, _ = pulled(client, job_id, here, force=True)
    assert applied == []
    assert problems_of(steps) == {
        "a.txt": "is left alone: it is a link here",
        "data/b.txt": "is left alone: data in its path is a link here",
        "data/c.txt": "is left alone: data in its path is a link here",
        "data/new.txt": "is left alone: data in its path is a link here",
        "folder.txt": "is left alone: it is a folder here",
    }
    assert (outside / "a.txt").read_bytes() == SENT
    assert sorted(item.name for item in (outside / "data").iterdir()) == ["b.txt"]


def test_a_file_that_becomes_a_link_meanwhile_is_left_alone(
    runner: Runner, person: Person, client: Client, here: Path, tmp_path: Path
) -> None:
    put(here, "a.txt")
    put(here, "b.txt")
    job_id = left(runner, person, ("changed", "a.txt", b"new"), ("deleted", "b.txt", None))
    work = WriteBack(here)
    steps = work.plan(client.changes(job_id)[1])
    put(here, "a.txt", b"edited meanwhile")
    (here / "b.txt").unlink()
    (here / "b.txt").symlink_to(put(tmp_path, "outside.txt"))
    applied, problems = work.apply(client, job_id, steps)
    assert applied == []
    assert sorted(problems) == ["a.txt was changed here meanwhile", "b.txt was changed here meanwhile"]
    assert (here / "a.txt").read_bytes() == b"edited meanwhile"


def test_a_new_doctest_stays_away_unless_it_is_named(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    doctest = ("created", "docs/test_x.txt", b">>> import os\n")
    job_id = left(runner, person, doctest, ("created", "docs/y.txt", b"fine"))
    _, applied, problems = pulled(client, job_id, here)
    assert applied == ["docs/y.txt"]
    assert problems == ["docs/test_x.txt is a doctest, which pytest would run"]
    assert pulled(client, job_id, here, patterns=("docs/test_x.txt",))[1] == ["docs/test_x.txt"]


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"\x7fELF\x02", b"MZ\x90", b"\xcf\xfa\xed\xfe"])
@pytest.mark.parametrize("path", ["bin/run", "manage", "configure", "tool.data"])
def test_a_program_here_is_changed_only_by_its_name(
    runner: Runner, person: Person, client: Client, here: Path, path: str, content: bytes
) -> None:
    """Whatever its name and its mode: without a first line a shell runs it all the same."""
    put(here, path, content)
    for change in (("changed", path, b"evil"), ("deleted", path, None)):
        steps, applied, _ = pulled(client, left(runner, person, change), here, force=True)
        assert (applied, problems_of(steps)) == ([], {path: "would be executed or obeyed here"})
    job_id = left(runner, person, ("changed", path, b"wanted"))
    assert pulled(client, job_id, here, force=True, patterns=(path,))[1] == [path]


def test_a_changed_doctest_stays_away_unless_it_is_named(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    """Texts around it may change; what the runner says about the file before does not matter."""
    put(here, "texts/a.rst", b"Text.\n\n>>> 1 + 1\n2\n")
    job_id = left(runner, person, ("changed", "texts/a.rst", b"Text.\n\n>>> import evil\n"))
    _, applied, problems = pulled(client, job_id, here, force=True)
    assert (applied, problems) == ([], ["texts/a.rst is a doctest, which pytest would run"])
    assert pulled(client, job_id, here, force=True, patterns=("texts/a.rst",))[1] == ["texts/a.rst"]
    put(here, "texts/a.rst", b"Text.\n\n>>> 1 + 1\n2\n")
    job_id = left(runner, person, ("changed", "texts/a.rst", b"Better text.\n\n>>> 1 + 1\n2\n"))
    assert pulled(client, job_id, here, force=True)[1] == ["texts/a.rst"]
    job_id = left(runner, person, ("changed", "texts/new.md", b">>> import evil\n"))
    _, applied, problems = pulled(client, job_id, here, sent={})
    assert (applied, problems) == ([], ["texts/new.md is a doctest, which pytest would run"])


def test_a_named_file_gets_the_jobs_executable_bit(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    put(here, "tool+x")
    job_id = left(runner, person, ("changed", "tool+x", SENT))
    assert pulled(client, job_id, here)[1] == []
    assert pulled(client, job_id, here, patterns=("tool+x",))[1] == ["tool+x"]
    assert stat.S_IMODE((here / "tool+x").stat().st_mode) & 0o100


def brought(
    client: Client, job_id: str, here: Path, *args: str, typed: Sequence[str] | None = None, **more: Any
) -> list[str]:
    """End a session with these arguments of pytest; return what is said."""
    said: list[str] = []
    found = updates.find(args, args if typed is None else typed, Place(here, here), **more)
    sent = {
        path.relative_to(here).as_posix(): digest(path.read_bytes())
        for path in here.rglob("*")
        if path.is_file()
    }
    found.bring(client, job_id, sent, StatusLine(), said.append)
    return [line.replace(job_id, "JOB") for line in said]


def test_a_line_names_what_nothing_asked_for(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    put(here, "a.txt")
    put(here, ".gitignore", b"*.log\n")
    one = left(
        runner, person, ("changed", "a.txt", b"new"), ("created", "x.log", b""), ("created", "dist/x", b"")
    )
    assert brought(client, one, here) == [
        "remote-ci: 1 file of the project was changed by the tests: a.txt; bring it here with: remote-ci pull JOB"
    ]
    many = left(runner, person, *(("created", f"{name}.csv", b"") for name in "abcd"))
    [line] = brought(client, many, here, expected=("d.csv",))
    assert line.startswith(
        "remote-ci: 3 files of the project were changed by the tests: a.csv, b.csv, c.csv; "
    )
    assert line.endswith("bring them here with: remote-ci pull JOB")
    assert "a.csv, b.csv, c.csv, …; bring" in brought(client, many, here)[0]
    assert (here / "a.txt").read_bytes() == SENT
    assert brought(client, left(runner, person), here) == []


@pytest.mark.parametrize("args", [["--new-report=out/r.xyz"], ["--new-report", "out/r.xyz"]])
def test_an_ignored_file_that_an_argument_names_is_named(
    runner: Runner, person: Person, client: Client, here: Path, args: list[str]
) -> None:
    """It is the report of a plugin that nothing here knows."""
    put(here, ".gitignore", b"out/\n")
    job_id = left(runner, person, ("created", "out/r.xyz", b"new"), ("created", "out/other", b""))
    assert brought(client, job_id, here, *args) == [
        "remote-ci: written by the tests: out/r.xyz; bring it here with: remote-ci pull JOB out/r.xyz"
    ]


def test_failing_examples_of_hypothesis_come_without_a_word(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    """The next local run begins with them, as after a local one."""
    job_id = left(
        runner,
        person,
        ("created", ".hypothesis/examples/a0/f00d", b"\x01\x02"),
        ("created", "tests/.hypothesis/examples/b1/beef", b"\x03"),
        ("created", ".hypothesis/unicode_data/13/x.gz", b"x"),
        ("created", ".hypothesis/examples/a0/conftest.py", b"evil"),
    )
    assert brought(client, job_id, here, expected=(".hypothesis",)) == []
    assert (here / ".hypothesis/examples/a0/f00d").read_bytes() == b"\x01\x02"
    assert (here / "tests/.hypothesis/examples/b1/beef").read_bytes() == b"\x03"
    assert not (here / ".hypothesis/unicode_data").exists()
    assert not (here / ".hypothesis/examples/a0/conftest.py").exists()


@pytest.mark.parametrize(
    ("args", "path"),
    [
        (["--snapshot-update"], "tests/__snapshots__/test_a.ambr"),
        (["--snapshot-update"], "tests/snapshots/test_a/out"),
        (["--force-regen"], "tests/test_a/test_x.yml"),
        (["--regen-all"], "tests/test_a/test_x.csv"),
        (["--record-mode=once"], "tests/cassettes/test_a/test_x.yaml"),
        (["--record-mode", "new_episodes"], "tests/cassettes/test_x.yaml"),
        (["--vcr-record=all"], "tests/cassettes/test_x.yaml"),
        (["--benchmark-autosave"], ".benchmarks/Linux-CPython-3.12-64bit/0001_x.json"),
        (["--benchmark-save=x"], ".benchmarks/Linux-CPython-3.12-64bit/0001_x.json"),
        (["--benchmark-storage=file://./bench"], "bench/Linux/0001_x.json"),
        (["--inline-snapshot=create"], "tests/test_a.py"),
        (["--inline-snapshot=fix,update"], ".inline-snapshot/external/1234.txt"),
        (["--inline-snapshot=create"], ".inline-snapshot/files_using_external.txt"),
        (["--auto-approve"], "tests/test_a.py--test_x.approved.txt"),
        (["--overwrite-manifest"], "tests/manifests/test_a.test_x.yaml"),
        (["--update_goldens"], "tests/goldens/test_a.py-test_x"),
        (["--arraydiff-generate-path=tests/reference"], "tests/reference/test_x.txt"),
        (["--save-quarantine", "q.txt"], "q.txt"),
        (["--mpl-generate-path", "tests/baseline"], "tests/baseline/x.png"),
        (["--regtest-reset"], "tests/_regtest_outputs/test_a.out"),
        (["--store-durations"], ".test_durations"),
        (["--store-durations", "--durations-path", "tests/durations.json"], "tests/durations.json"),
    ],
)
def test_options_bring_the_files_that_they_are_for(
    runner: Runner, person: Person, client: Client, here: Path, args: list[str], path: str
) -> None:
    put(here, "tests/test_a.py")
    is_there = (here / path).exists()
    job_id = left(
        runner, person, ("changed" if is_there else "created", path, b"new"), ("created", "other.csv", b"")
    )
    assert brought(client, job_id, here, *args) == [
        f"remote-ci: updated here: {path}",
        "remote-ci: 1 file of the project was changed by the tests: other.csv; bring it here with: remote-ci pull JOB",
    ]
    assert (here / path).read_bytes() == b"new"


@pytest.mark.parametrize(
    ("args", "kind", "path"),
    [
        ([], "changed", "tests/__snapshots__/a.ambr"),
        (["--record-mode=none"], "created", "tests/cassettes/x.yaml"),
        (["--inline-snapshot=report"], "changed", "tests/test_a.py"),
        (["--force-regen"], "created", "tests/data/x.yml"),
        (["--inline-snapshot=create"], "created", "tests/test_new.py"),
        (["--inline-snapshot=create"], "changed", "tests/helper.py"),
        (["--inline-snapshot=create"], "deleted", "tests/test_a.py"),
        (["--inline-snapshot=create"], "changed", "tests/conftest.py"),
    ],
)
def test_other_files_are_not_brought(
    runner: Runner, person: Person, client: Client, here: Path, args: list[str], kind: str, path: str
) -> None:
    for name in ("tests/test_a.py", "tests/helper.py", "tests/conftest.py", "tests/__snapshots__/a.ambr"):
        put(here, name)
    before = {item: item.read_bytes() for item in here.rglob("*") if item.is_file()}
    job_id = left(runner, person, (kind, path, None if kind == "deleted" else b"new"))
    [line] = brought(client, job_id, here, *args)
    assert f"was changed by the tests: {path}; bring it here with: remote-ci pull JOB" in line
    assert {item: item.read_bytes() for item in here.rglob("*") if item.is_file()} == before


def test_only_a_typed_option_changes_test_files(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    put(here, "test_a.py")
    job_id = left(runner, person, ("changed", "test_a.py", b"new"))
    assert "changed by the tests" in brought(client, job_id, here, "--inline-snapshot=create", typed=[])[0]
    assert (here / "test_a.py").read_bytes() == SENT


def test_code_in_a_snapshot_folder_is_named_and_stays_away(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    put(here, "__snapshots__/a.ambr", b"changed here")
    job_id = left(
        runner, person, ("changed", "__snapshots__/a.ambr", b"new"), ("created", "__snapshots__/evil.py", b"")
    )
    said: list[str] = []
    found = updates.find(["--snapshot-update"], [], Place(here, here), write_back=["**"])
    found.bring(client, job_id, {"__snapshots__/a.ambr": digest(SENT)}, StatusLine(), said.append)
    changed, evil = said
    assert "not updated here: __snapshots__/a.ambr changed here since it was sent; take it with" in changed
    assert changed.endswith(f"remote-ci pull {job_id} --force __snapshots__/a.ambr")
    assert "not updated here: __snapshots__/evil.py would be executed or obeyed here; take it with" in evil
    assert evil.endswith(f"remote-ci pull {job_id} __snapshots__/evil.py")
    assert not (here / "__snapshots__/evil.py").exists()


def test_a_setting_brings_data(runner: Runner, person: Person, client: Client, here: Path) -> None:
    job_id = left(runner, person, ("created", "golden/a.yml", b"new"), ("created", "golden/.hidden", b""))
    said = brought(client, job_id, here, write_back=["golden"])
    assert said[0] == "remote-ci: updated here: golden/a.yml"
    assert "golden/.hidden would be executed or obeyed here" in said[1]
