"""Kept folders: what one job leaves, the next one of the same user and project gets; the files are hostile."""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_until

from ci_runner import failpoints
from ci_runner.controller.environments import keep as keeping
from ci_runner.controller.environments.keep import Given, Keeper, Written
from ci_runner.model.job import Job
from ci_runner.model.job_options import JobOptions
from ci_runner.storage.kept_folders import KeptFolders
from ci_runner.storage.safe_fs import Trash

ROOT = "/home/dev/project"
Files = Mapping[str, str]


@dataclass
class Bench:
    """A data directory; jobs are folders that are written to."""

    data: Path
    limit: int = 1 << 20
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keeper = self.new_keeper()
        self.folders = KeptFolders(self.data)

    def new_keeper(self, reserve: int = 0) -> Keeper:
        return Keeper(self.data, Trash(self.data / "trash"), None, self.limit, reserve)

    def job(self, user: str = "user-1", planned: str | None = None, **options: Any) -> Job:
        options = {"root": ROOT, "keep": [".hypothesis", ".testmondata*"], **options}
        fields: dict[str, Any] = {"status": "completed", "exit_code": 0, "planned": planned}
        return Job(str(uuid.uuid4()), user_id=user, options=JobOptions.from_dict(options), **fields)

    def give(self, job: Job, sent: Files | None = None) -> Given:
        given = self.keeper.give(job, sent or {}, log=self.log.append, stopping=lambda: False)
        assert given is not None
        return given

    def written(self, job: Job, *, only_changes: bool = True) -> Written:
        work = self.data / "work" / f"{job.id}-1"
        for part in ("upper", "kept-upper"):
            (work / part).mkdir(parents=True, exist_ok=True)
        return Written(work / "upper", work / "kept-upper", only_changes)

    def take(self, job: Job, sent: Files | None = None, *, only_changes: bool = True) -> None:
        self.keeper.store(job, self.written(job, only_changes=only_changes), lambda: sent or {})

    def run(self, write: Callable[[Path], object] | None = None, job: Job | None = None) -> Files:
        """Run a job that does `write` in its project; return what it was given."""
        job = job or self.job()
        given = contents(self.give(job).project)
        if write is not None:
            write(self.written(job).project)
        self.take(job)
        return given

    def kept(self) -> dict[str, int]:
        return {item.pattern: item.files for item in self.folders.find("user-1")}


def contents(folder: Path | None) -> Files:
    if folder is None:
        return {}
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def writes(**files: str) -> Callable[[Path], None]:
    """Write files; `__` in a name stands for a slash, and each name begins with a dot."""

    def write(folder: Path) -> None:
        for name, content in files.items():
            path = folder / f".{name.replace('__', '/')}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "work").mkdir()
    return Bench(tmp_path)


def test_the_next_job_gets_what_the_last_one_left(bench: Bench) -> None:
    assert bench.run(writes(hypothesis__a__b="1", testmondata="db", other="x")) == {}
    assert bench.run() == {".hypothesis/a/b": "1", ".testmondata": "db"}
    assert bench.kept() == {".hypothesis": 1, ".testmondata*": 1}


def test_what_a_job_does_not_touch_stays(bench: Bench) -> None:
    bench.run(writes(hypothesis__a="1", hypothesis__b="1"))
    bench.run(writes(hypothesis__b="2", hypothesis__c="2"))
    bench.run()
    assert bench.run() == {".hypothesis/a": "1", ".hypothesis/b": "2", ".hypothesis/c": "2"}


def test_each_job_has_folders_of_its_own(bench: Bench) -> None:
    bench.run(writes(hypothesis__a="1"))
    first = bench.give(bench.job()).project
    bench.run(writes(hypothesis__a="2"))
    second = bench.give(bench.job()).project
    assert (contents(first), contents(second)) == ({".hypothesis/a": "1"}, {".hypothesis/a": "2"})


@pytest.mark.parametrize(
    "other",
    [{"user": "user-2"}, {"root": "/home/dev/other"}, {"planned": "tests"}],
    ids=["user", "project", "job of a pipeline"],
)
def test_nothing_is_shared_with_others(bench: Bench, other: dict[str, Any]) -> None:
    bench.run(writes(hypothesis__a="1"))
    assert bench.run(job=bench.job(**other)) == {}
    assert bench.run() == {".hypothesis/a": "1"}


@pytest.mark.parametrize(
    "end",
    [
        {"status": "failed", "exit_code": None, "reason": "container lost"},
        {"status": "cancelled", "exit_code": None},
        {"exit_code": 1, "reason": "a test took pytest down: it was ended by SIGSEGV"},
        {"exit_code": 2},
        {"exit_code": 3},
        {"exit_code": 4},
    ],
)
def test_only_a_job_that_ended_in_order_replaces_what_is_kept(bench: Bench, end: dict[str, Any]) -> None:
    bench.run(writes(hypothesis__a="1"))
    bench.run(writes(hypothesis__a="2"), job=replace(bench.job(), **end))
    assert bench.run() == {".hypothesis/a": "1"}


@pytest.mark.parametrize("code", [1, 5])
def test_failed_tests_end_in_order(bench: Bench, code: int) -> None:
    bench.run(writes(hypothesis__a="1"), job=replace(bench.job(), exit_code=code))
    assert bench.run() == {".hypothesis/a": "1"}


def test_files_of_the_client_are_neither_kept_nor_replaced(bench: Bench) -> None:
    job = bench.job(keep=[".benchmarks", ".testmondata*"])
    bench.give(job)
    writes(benchmarks__a="job's", benchmarks__b="job's", testmondata="x")(bench.written(job).project)
    bench.take(job, {".benchmarks/a": "digest"})
    second = bench.give(bench.job(keep=[".benchmarks", ".testmondata*"]))
    assert contents(second.project) == {".benchmarks/b": "job's", ".testmondata": "x"}


def test_a_database_does_not_meet_the_log_of_the_clients_one(bench: Bench) -> None:
    bench.run(writes(testmondata="db", **{"testmondata-wal": "log"}, hypothesis__a="1"))
    given = bench.give(bench.job(), {".testmondata": "digest"})
    assert contents(given.project) == {".hypothesis/a": "1"}


def test_deleted_files_are_gone(bench: Bench) -> None:
    def delete(folder: Path) -> None:
        (folder / ".hypothesis").mkdir()
        whiteout(folder / ".hypothesis" / "a")
        whiteout(folder / ".testmondata")

    bench.run(writes(hypothesis__a="1", hypothesis__b="1", testmondata="db"))
    bench.run(delete)
    assert bench.run() == {".hypothesis/b": "1"}
    bench.run(lambda folder: whiteout(folder / ".hypothesis"))
    assert bench.run() == {}
    assert bench.kept() == {}


def test_a_file_in_the_place_of_a_folder_and_the_reverse(bench: Bench) -> None:
    bench.run(writes(hypothesis__a__b="1", hypothesis__c="1"))
    bench.run(writes(hypothesis__a="2", hypothesis__c__d="2"))
    assert bench.run() == {".hypothesis/a": "2", ".hypothesis/c/d": "2"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("trusted.overlay.opaque", b"y", {".hypothesis/b": "2"}),
        ("trusted.overlay.redirect", b"/elsewhere", {}),
    ],
)
def test_folders_that_were_made_again_or_renamed(
    bench: Bench, name: str, value: bytes, expected: Files
) -> None:
    def write(folder: Path) -> None:
        writes(hypothesis__b="2")(folder)
        mark(folder / ".hypothesis", name, value)

    bench.run(writes(hypothesis__a="1"))
    bench.run(write)
    assert bench.run() == expected


def test_names_without_a_slash_count_down_to_the_folder_of_pytest(bench: Bench) -> None:
    job = bench.job(cwd="a/b[1]", keep=[".hypothesis", "build/.cache"])
    bench.give(job)
    folder = bench.written(job).project
    for place in (".hypothesis", "a/.hypothesis", "a/b[1]/.hypothesis", "c/.hypothesis", "build/.cache"):
        (folder / place).mkdir(parents=True)
        (folder / place / "x").write_text(place)
    (folder / "a" / "build" / ".cache").mkdir(parents=True)
    (folder / "a" / "build" / ".cache" / "x").write_text("not at the top")
    bench.take(job)
    given = bench.give(bench.job(cwd="a/b[1]", keep=[".hypothesis", "build/.cache"]))
    assert sorted(contents(given.project)) == [
        ".hypothesis/x",
        "a/.hypothesis/x",
        "a/b[1]/.hypothesis/x",
        "build/.cache/x",
    ]


def test_folders_of_the_home(bench: Bench) -> None:
    patterns = ["~/.cache/tool", ".hypothesis"]
    nested = bench.job(keep=["~/a/b", "~/a"])
    assert bench.give(nested).links == ("a", "a/b")  # links are made in this order
    job = bench.job(keep=patterns)
    assert bench.give(job).links == (".cache/tool",)
    cache = bench.written(job).home / ".cache"
    (cache / "tool").mkdir(parents=True)
    (cache / "tool" / "x").write_text("1")
    (cache / "other").write_text("2")
    bench.take(job)
    given = bench.give(bench.job(keep=patterns))
    assert (given.project, contents(given.home)) == (None, {".cache/tool/x": "1"})


def test_without_overlays_what_is_there_replaces_everything(bench: Bench) -> None:
    for files in ({"a": "1", "b": "1"}, {"b": "2"}):
        job = bench.job()
        bench.give(job)
        writes(**{f"hypothesis__{name}": text for name, text in files.items()})(bench.written(job).project)
        bench.take(job, only_changes=False)
    assert contents(bench.give(bench.job()).project) == {".hypothesis/b": "2"}
    job = bench.job()
    bench.give(job)
    bench.take(job, only_changes=False)
    assert bench.kept() == {}


# -- hostile files


def test_only_regular_files_are_kept_and_no_link_is_followed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").write_text("the runner's")

    def write(folder: Path) -> None:
        place = folder / ".hypothesis"
        place.mkdir()
        (place / "file-link").symlink_to(tmp_path / "secret" / "x")
        (place / "folder-link").symlink_to(tmp_path / "secret")
        os.mkfifo(place / "pipe")
        (place / "good").write_text("1")
        (place / "good").chmod(0o6777)
        (place / "closed").mkdir(0o000)
        (folder / ".testmondata").symlink_to(tmp_path / "secret" / "x")

    bench.run(write)
    assert bench.run() == {".hypothesis/good": "1"}
    given = bench.give(bench.job()).project
    assert given is not None
    good = given / ".hypothesis" / "good"
    assert stat.S_IMODE(good.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "secret" / "x").stat().st_mode) == 0o644
    assert all(not path.is_symlink() for path in given.rglob("*"))


def test_a_link_in_the_place_of_the_folder_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").write_text("the runner's")
    bench.run(lambda folder: (folder / ".hypothesis").symlink_to(tmp_path / "secret"))
    assert bench.run() == {}


def test_given_files_that_a_link_hides_are_gone(bench: Bench, tmp_path: Path) -> None:
    bench.run(writes(hypothesis__a__b="1", hypothesis__c="1"))

    def link(folder: Path) -> None:
        (folder / ".hypothesis").mkdir()
        (folder / ".hypothesis" / "a").symlink_to(tmp_path)

    bench.run(link)
    assert bench.run() == {".hypothesis/c": "1"}


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda folder: huge(folder / ".hypothesis"), "it exceeds what a project may keep, 1 MiB"),
        (lambda folder: many(folder / ".hypothesis"), "it has more than 200 files and folders"),
        (lambda folder: deep(folder / ".hypothesis"), "it has folders more than 64 levels deep"),
    ],
    ids=["bytes", "files", "depth"],
)
def test_too_much_is_not_kept_and_the_next_job_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], problem: str
) -> None:
    monkeypatch.setattr(keeping, "MAX_ENTRIES", 200)
    bench.run(writes(hypothesis__a="1"))
    bench.run(write)
    assert bench.log == []
    assert bench.run() == {".hypothesis/a": "1"}
    assert bench.log == [f"kept folders: .hypothesis of an earlier job was not kept: {problem}"]
    assert [item.problem for item in bench.folders.find("user-1")] == [f"was not kept: {problem}"]
    bench.run(writes(hypothesis__a="2"))
    assert bench.run() == {".hypothesis/a": "2"}
    assert [item.problem for item in bench.folders.find("user-1")] == [None]


def test_a_deep_folder_is_opened_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a job could make the runner open millions: the thread in which it does so serves all users."""
    count, really_open = 0, os.open

    def counting(*args: Any, **named: Any) -> int:
        nonlocal count
        count += 1
        return really_open(*args, **named)

    def write(folder: Path) -> None:
        for number in range(100):
            (folder / ".hypothesis" / "/".join("d" * 30) / str(number)).mkdir(parents=True)

    monkeypatch.setattr(os, "open", counting)
    bench.run(write)
    assert count < 2000


def test_many_patterns_cost_no_more_than_a_few(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MAX_ENTRIES", 100)
    job = bench.job(keep=[f"**/x/**/{number}" for number in range(10)])
    written = bench.written(job).project
    bench.give(job)
    for number in range(90):
        (written / f"file-{number}").touch()
    bench.keeper.expect(job, bench.written(job))
    assert list(bench.keeper._expected) == [job.id], "what cannot be looked through may be there"
    bench.take(job)
    problems = [item.problem or "" for item in bench.folders.find("user-1")]
    assert len(problems) == 6
    assert all("comes after patterns with too many" in problem for problem in problems)


def test_too_much_at_first_is_said_too(bench: Bench) -> None:
    bench.run(lambda folder: huge(folder / ".hypothesis"))
    assert [(item.files, item.size) for item in bench.folders.find("user-1")] == [(0, 0)]
    assert bench.run() == {}
    assert len(bench.log) == 1


def test_the_limit_is_for_all_patterns_of_a_project(bench: Bench) -> None:
    bench.run(writes(testmondata="x" * 900_000))
    bench.run(writes(hypothesis__a="x" * 900_000))
    assert bench.kept() == {".testmondata*": 1, ".hypothesis": 0}


def test_nothing_is_kept_on_a_full_disk(bench: Bench) -> None:
    bench.keeper = bench.new_keeper(reserve=1 << 60)
    bench.run(writes(hypothesis__a="1"))
    assert bench.run() == {}
    assert "the runner's disk nearly full" in bench.log[0]


def test_an_operator_can_turn_it_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit=0)
    job = bench.job()
    assert bench.keeper.give(job, {}, log=bench.log.append, stopping=lambda: False) is None
    bench.take(job)
    assert bench.kept() == {}


# -- crashes and moments


def test_a_crash_while_files_are_taken_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.job()
    bench.give(job)
    writes(hypothesis__a="1", hypothesis__b="1")(bench.written(job).project)

    def crash(name: str) -> None:
        raise failpoints.FailpointError(name)

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hit", crash)
        with pytest.raises(failpoints.FailpointError):
            bench.take(job)
    assert bench.kept() == {}
    bench.keeper = bench.new_keeper()
    bench.take(job)
    assert bench.run() == {".hypothesis/a": "1", ".hypothesis/b": "1"}


def test_a_prepared_job_keeps_its_files_when_the_controller_starts_again(bench: Bench) -> None:
    bench.run(writes(hypothesis__a="1"))
    job = bench.job()
    first = bench.give(job)
    bench.run(writes(hypothesis__a="2"))
    bench.keeper = bench.new_keeper()
    assert bench.give(job) == first
    assert contents(first.project) == {".hypothesis/a": "1"}


def test_the_next_job_waits_until_the_files_are_taken(bench: Bench) -> None:
    last, following = bench.job(), bench.job()
    bench.give(last)
    writes(hypothesis__a="1")(bench.written(last).project)
    bench.keeper.expect(last, bench.written(last))
    found: list[Files] = []
    thread = threading.Thread(target=lambda: found.append(contents(bench.give(following).project)))
    thread.start()
    assert bench.give(bench.job(root="/home/dev/other")).project is None  # others do not wait
    bench.take(last)
    wait_until(lambda: found, 10, what="the next job")
    thread.join()
    assert found == [{".hypothesis/a": "1"}]


def test_a_job_that_leaves_nothing_is_not_waited_for(bench: Bench) -> None:
    job = bench.job()
    bench.give(job)
    bench.keeper.expect(job, bench.written(job))
    assert bench.give(bench.job()).project is None


# -- clearing


def test_what_was_cleared_does_not_come_back(bench: Bench) -> None:
    bench.run(writes(hypothesis__a="1"))
    running = bench.job()
    bench.give(running)
    writes(hypothesis__b="2")(bench.written(running).project)
    assert bench.folders.clear("user-1", ROOT) == 1
    bench.take(running)
    assert bench.run() == {}
    bench.run(writes(hypothesis__c="3"))
    assert bench.run() == {".hypothesis/c": "3"}


def test_clearing_one_project_leaves_the_others(bench: Bench) -> None:
    for options in ({}, {"root": "/home/dev/other"}, {"user": "user-2"}):
        bench.run(writes(hypothesis__a="1"), job=bench.job(**options))
    assert bench.folders.clear("user-1", ROOT) == 1
    assert [item.root for item in bench.folders.find("user-1")] == ["/home/dev/other"]
    assert bench.folders.clear("user-1") == 1
    assert bench.folders.clear("user-1") == 0
    assert len(bench.folders.find("user-2")) == 1


def whiteout(path: Path) -> None:
    """Mark a file as deleted, as an overlay does."""
    try:
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("whiteouts need a newer kernel, or root")


def mark(folder: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(folder, name, value)
    except OSError:
        pytest.skip("only root sets this attribute, and not on every file system")


def huge(folder: Path) -> None:
    folder.mkdir()
    with (folder / "sparse").open("wb") as file:
        file.truncate(2 << 20)


def many(folder: Path) -> None:
    folder.mkdir()
    for number in range(210):
        (folder / str(number)).touch()


def deep(folder: Path) -> None:
    folder.joinpath(*["d"] * 70).mkdir(parents=True)
