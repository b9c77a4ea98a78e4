"""What a job left behind reaches the developer's disk: whole, in its place, and nothing outside of it."""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from support.http_server import Person, Runner, running

from ci_runner.model import job as models
from ci_runner.model.job import utcnow
from ci_runner.model.verdict import ran
from pytest_remote_ci.artifacts import artifact_folder, destinations
from pytest_remote_ci.artifacts.artifact_folder import ArtifactFolder
from pytest_remote_ci.artifacts.download import MANY, Artifact, Downloader, name_problem, parse_list
from pytest_remote_ci.artifacts.fetch import ArtifactFetcher
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.client.transport import AuthenticationFailed, Content, Interrupted
from pytest_remote_ci.errors import ConfigError, JobNotFound, RunnerUnreachable
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire import control_characters
from pytest_remote_ci.wire.events import Event


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
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def left(runner: Runner, person: Person, files: Mapping[str, bytes], mode: int = 0o644) -> str:
    """Id of a finished job that left these files."""
    job = runner.job(person)
    until = utcnow() + dt.timedelta(days=1)
    artifacts = [
        models.Artifact(path, mode, len(content), runner.blobs.put_bytes(content), until)
        for path, content in files.items()
    ]
    assert runner.store.jobs.finish(job.id, runner.epoch, ran(0), artifacts=artifacts)
    return job.id


def one(path: str, content: bytes = b"content") -> Artifact:
    return Artifact(path, len(content), sha256(content).hexdigest())


def disk(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


class Breaking(Client):
    """A client whose connections break after so many bytes, one entry per connection; then they hold."""

    def __init__(self, runner: Runner, person: Person, *cuts: int) -> None:
        super().__init__(runner.url, person.key)
        self.cuts = list(cuts)
        self.starts: list[int] = []

    def __enter__(self) -> Breaking:
        return self

    def artifact(self, job_id: str, path: str, start: int = 0) -> Content:
        self.starts.append(start)
        return self._breaking(super().artifact(job_id, path, start))

    def artifact_archive(self, job_id: str) -> Content:
        return self._breaking(super().artifact_archive(job_id))

    def _breaking(self, content: Content) -> Content:
        if not self.cuts:
            return content
        left, read = self.cuts.pop(0), content.readinto

        def readinto(buffer: Any) -> int:
            nonlocal left
            if left <= 0:
                raise Interrupted("the wire was cut")
            count = read(memoryview(buffer)[:left])
            left -= count
            return count

        content.readinto = readinto  # type: ignore[method-assign]
        return content


def fetch(client: Client, job_id: str, folder: Path, **more: Any) -> tuple[set[str], list[str]]:
    """Everything into `folder`: what came, and what is said about the rest."""
    errand = Downloader(client, job_id, sleep=lambda seconds: None, **more)
    found = errand.fetch([(item, folder / item.path) for item in client.artifacts(job_id)], folder)
    return set(found.places), list(found.problems)


# -- fetching


@pytest.mark.parametrize("count", [2, MANY + 3])
def test_files_come_whole_with_their_mode(
    runner: Runner, person: Person, client: Client, here: Path, count: int
) -> None:
    files = {f"a/ü {number}/x#?.bin": os.urandom(number * 5000) for number in range(count)}
    job_id = left(runner, person, files, mode=0o755)
    assert fetch(client, job_id, here) == (set(files), [])
    assert disk(here) == files
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE((here / path).stat().st_mode) for path in files} == {0o777 & ~umask}


def test_what_is_there_already_is_not_fetched_again(runner: Runner, person: Person, here: Path) -> None:
    job_id = left(runner, person, {"a": b"one", "b": b"two"})
    (here / "a").write_bytes(b"one")
    (here / "b").write_bytes(b"TWO")
    with Breaking(runner, person) as client:
        assert fetch(client, job_id, here) == ({"a", "b"}, [])
        assert len(client.starts) == 1
    assert disk(here) == {"a": b"one", "b": b"two"}


def test_a_broken_connection_is_resumed_where_it_broke(runner: Runner, person: Person, here: Path) -> None:
    content = os.urandom(300_000)
    job_id = left(runner, person, {"x": content})
    with Breaking(runner, person, 1000, 0, 200_000) as client:
        assert fetch(client, job_id, here) == ({"x"}, [])
        assert client.starts == [0, 1000, 1000, 201_000]
    assert disk(here) == {"x": content}


def test_a_later_run_goes_on_where_an_earlier_one_ended(runner: Runner, person: Person, here: Path) -> None:
    content = os.urandom(300_000)
    job_id = left(runner, person, {"x": content})
    with (
        Breaking(runner, person, 100_000, *[0] * 50) as client,
        pytest.raises(RunnerUnreachable, match="cut"),
    ):
        fetch(client, job_id, here, patience=-1)
    assert "x" not in disk(here), "no half files under their names"
    with Breaking(runner, person) as client:
        assert fetch(client, job_id, here) == ({"x"}, [])
        assert client.starts == [100_000]
    assert disk(here) == {"x": content}


@pytest.mark.parametrize("beginning", [b"another file", b"y" * 400_000])
def test_a_wrong_beginning_is_thrown_away(
    runner: Runner, person: Person, here: Path, beginning: bytes
) -> None:
    content = os.urandom(300_000)
    job_id = left(runner, person, {"x": content})
    part = here / f".remote-ci-{sha256(content).hexdigest()[:16]}-1.part"
    part.write_bytes(beginning)
    with Breaking(runner, person) as client:
        assert fetch(client, job_id, here) == ({"x"}, [])
    assert disk(here) == {"x": content}


def test_an_archive_that_breaks_is_completed_file_by_file(runner: Runner, person: Person, here: Path) -> None:
    files = {f"{number:02}": os.urandom(10_000) for number in range(20)}
    job_id = left(runner, person, files)
    with Breaking(runner, person, 95_000) as client:
        assert fetch(client, job_id, here) == (set(files), [])
        assert 8 <= len(client.starts) <= 12
    assert disk(here) == files


def test_a_content_that_is_not_what_the_list_says_never_gets_its_name(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    job_id = left(runner, person, {"x": b"evil!!!"})
    errand = Downloader(client, job_id)
    found = errand.fetch([(one("x"), here / "x")], here)
    assert found.problems == ("x was not fetched: its content does not match the runner's digest",)
    assert disk(here) == {}


def test_a_content_of_an_archive_that_is_not_what_the_list_says_never_gets_its_name(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    """Of the same size as what the list says; the others of the archive arrive."""
    files = {f"good-{number}": os.urandom(100) for number in range(MANY)}
    job_id = left(runner, person, {**files, "x": b"evil!!!"})
    wanted = [one(path, content) for path, content in files.items()]
    wanted.insert(3, one("x"))
    arrived: list[str] = []
    errand = Downloader(client, job_id, finish=lambda artifact, file: arrived.append(artifact.path))
    found = errand.fetch([(item, here / item.path) for item in wanted], here)
    assert found.problems == ("x was not fetched: its content does not match the runner's digest",)
    assert set(found.places) == set(files)
    assert sorted(arrived) == sorted(files), "nothing else was ever finished"
    assert disk(here) == files


def test_one_that_is_gone_does_not_keep_the_others(
    runner: Runner, person: Person, client: Client, here: Path
) -> None:
    job_id = left(runner, person, {"a": b"1", "gone": b"only here"})
    listed = client.artifacts(job_id)
    runner.blobs.remove(sha256(b"only here").hexdigest())
    found = Downloader(client, job_id).fetch([(item, here / item.path) for item in listed], here)
    assert set(found.places) == {"a"}
    (problem,) = found.problems
    assert problem.endswith("The runner no longer has the content of the artifact: gone")


def test_a_key_that_is_refused_ends_it(runner: Runner, person: Person, here: Path) -> None:
    job_id = left(runner, person, {"a": b"1"})
    with Client(runner.url, "ci_" + "x" * 46) as client, pytest.raises(AuthenticationFailed):
        Downloader(client, job_id).fetch([(one("a"), here / "a")], here)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc/x",
        "C:/x",
        "a\\..\\x",
        "",
        "a//b",
        "./a",
        "a\nb",
        "a\x1b[2Jb",
        "\u202ex",
        ".git/hooks/pre-commit",
        "sub/.GIT/config",
        "x" * 1025,
        ".g\u200cit/config",
        "GIT~1/config",
        ".git./config",
        ".git::$INDEX_ALLOCATION/config",
        "sub/HEAD",
        "head",
        "a\x9b2Jb",
        "a\u2028b",
        "a\x7f",
    ],
)
def test_names_that_lead_elsewhere_are_refused(client: Client, here: Path, path: str) -> None:
    assert name_problem(path) is not None
    found = Downloader(client, "job").fetch([(one(path), here / "x")], here)
    assert (found.places, len(found.problems)) == ({}, 1)
    assert not control_characters.holds_any(found.problems[0])
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["narrow\u202fspace.txt", "\U0001f468\u200d\U0001f469.png", "a b.txt", ".gitignore"]
)
def test_unusual_names_are_taken(path: str) -> None:
    assert name_problem(path) is None


def test_a_link_in_the_way_is_not_followed(client: Client, here: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (here / "sub").symlink_to(outside)
    (here / "file").write_text("mine")
    (here / "folder").mkdir()
    wanted = [(one(path), here / path) for path in ("sub/x", "file/x", "folder")]
    found = Downloader(client, "job").fetch(wanted, here)
    assert [problem.partition(": ")[2] for problem in found.problems] == [
        f"{here}/sub is a link",
        f"{here}/file is not a folder",
        f"{here}/folder is a folder",
    ]
    assert list(outside.iterdir()) == []


def test_a_link_in_the_place_is_replaced_not_written_through(
    runner: Runner, person: Person, client: Client, here: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("mine")
    (here / "x").symlink_to(tmp_path / "mine")
    job_id = left(runner, person, {"x": b"new"})
    part = here / f".remote-ci-{sha256(b'new').hexdigest()[:16]}-1.part"
    part.symlink_to(tmp_path / "mine")
    assert fetch(client, job_id, here) == ({"x"}, [])
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (here / "x").is_symlink()
    assert (here / "x").read_bytes() == b"new"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        ["x"],
        [{"path": "x"}],
        [{"path": "x", "size": -1, "sha256": "0" * 64}],
        [{"path": "x", "size": 1, "sha256": "z"}],
        [{"path": 1, "size": 1, "sha256": "0" * 64}],
    ],
)
def test_what_is_no_list_of_artifacts_is_none(answer: object) -> None:
    assert parse_list(answer) is None


def test_an_unknown_job_is_said(client: Client) -> None:
    with pytest.raises(JobNotFound):
        client.artifacts("nobody")


# -- places


def home(
    client: Client, job_id: str, here: Path, root: Path | None = None, asked: tuple[str, ...] | None = ()
) -> tuple[ArtifactFetcher, list[str]]:
    said: list[str] = []
    found = None
    if root is not None:
        found = destinations.find(
            ["--junitxml=out/junit.xml", "--cov-report", "html:site"], Place(root, root)
        )
    folder = artifact_folder.named(here)
    return ArtifactFetcher(client, job_id, folder, StatusLine(), said.append, found, asked), said


#: What a folder for artifacts holds beside them.
GUARDS = {
    ".gitignore": b"*\n",
    "conftest.py": b"# Made by pytest-remote-ci: jobs left these files behind, and pytest is to collect none of them.\n"
    b'collect_ignore_glob = ["*"]\n',
}
HTML = b"<!DOCTYPE html><html>coverage.py</html>"
COVERAGE_XML = b"<coverage><source>/workspace</source></coverage>"


def complete(root: str = "/workspace") -> Event:
    return Event({"type": "complete", "artifacts": {"files": 1, "bytes": 1, "root": root}})


def test_reports_go_home_and_all_else_into_the_folder(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    files = {
        "coverage.xml": COVERAGE_XML,
        "out/junit.xml": b"<testsuites/>",
        "site/index.html": HTML,
        "site/style.css": b"s",
        "dist/a.whl": b"w",
    }
    job_id = left(runner, person, files)
    bringing, said = home(client, job_id, tmp_path / "kept", root, ("dist",))
    bringing.fetch(complete())
    assert disk(root) == {
        "coverage.xml": COVERAGE_XML.replace(b"/workspace", str(root).encode()),
        "out/junit.xml": b"<testsuites/>",
        "site/index.html": HTML,
        "site/style.css": b"s",
    }
    assert disk(tmp_path / "kept") == {**GUARDS, "dist/a.whl": b"w"}
    home_again = "fetched: coverage.xml, out/junit.xml, site/ (2 files)"
    assert said == [f"remote-ci: 1 artifact (1 B) in {tmp_path}/kept; {home_again}"]
    assert bringing.places["dist/a.whl"] == tmp_path / "kept/dist/a.whl"
    bringing.fetch(complete())
    assert len(said) == 1, "once"


def test_what_belongs_outside_of_the_project_goes_there_and_nothing_else(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    folder = ".remote-ci-reports/html"
    files = {
        f"{folder}/r.html": b"<html>/workspace/a",
        f"{folder}/assets/style.css": b"s",
        f"{folder}/assets/.ssh": b"evil",
        f"{folder}/assets/sub/x": b"evil",
        f"{folder}/other": b"evil",
        "r.html": b"evil",
    }
    job_id = left(runner, person, files)
    found = destinations.find([f"--html={tmp_path}/out/r.html"], Place(root, root))
    said: list[str] = []
    kept = artifact_folder.named(tmp_path / "kept")
    bringing = ArtifactFetcher(client, job_id, kept, StatusLine(), said.append, found, ())
    bringing.fetch(complete())
    assert disk(tmp_path / "out") == {"r.html": f"<html>{root}/a".encode(), "assets/style.css": b"s"}
    assert disk(root) == {}
    assert not (tmp_path / "kept").exists()
    assert said[1].startswith("remote-ci: left out: ")
    assert said[1].count("is not part of such a report") == 3
    assert "r.html was not requested" in said[1]
    assert f"fetched: {tmp_path}/out/assets/, {tmp_path}/out/r.html" in said[0]


@pytest.mark.parametrize("has_died", [False, True])
def test_a_report_that_is_written_here_stays_if_pytest_died_in_the_job(
    runner: Runner, person: Person, client: Client, tmp_path: Path, has_died: bool
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    here, there, log = b"<html>pytest-html here", b"<html>pytest-html there", b'{"pytest_version": "9"}'
    job_id = left(runner, person, {"r.html": there, "r.jsonl": log})
    argv = ["--html=r.html", "--self-contained-html", "--report-log=r.jsonl"]
    found = destinations.find(argv, Place(root, root), ["--html"], [("--html", "r.html")])
    said: list[str] = []
    kept = artifact_folder.named(tmp_path / "kept")
    bringing = ArtifactFetcher(client, job_id, kept, StatusLine(), said.append, found, ())
    bringing.fetch(complete(), is_early=True)
    assert disk(root) == {"r.jsonl": log}
    (root / "r.html").write_bytes(here)
    bringing.fetch(complete(), is_whole=not has_died, has_died=has_died)
    assert disk(root) == {"r.html": here if has_died else there, "r.jsonl": log}
    incomplete = "remote-ci: r.jsonl: incomplete, because pytest died in the job"
    assert (incomplete in said) is has_died


def test_nothing_left_is_nothing_said(client: Client, tmp_path: Path) -> None:
    bringing, said = home(client, "job", tmp_path / "kept")
    bringing.fetch(Event({"type": "complete"}))
    bringing.fetch(None)
    assert said == []
    assert not (tmp_path / "kept").exists()


def test_what_cannot_be_fetched_is_said_with_the_way_to_have_it_later(client: Client, tmp_path: Path) -> None:
    bringing, said = home(client, "nobody", tmp_path / "kept")
    bringing.fetch(complete())
    assert said == [
        "remote-ci: artifacts were not fetched: Job not found: nobody; try again: remote-ci artifacts nobody"
    ]


def test_a_disk_that_takes_nothing_is_said(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("a file")
    job_id = left(runner, person, {"a": b"1"})
    bringing, said = home(client, job_id, tmp_path / "kept" / "deeper", asked=None)
    bringing.fetch(complete())
    assert said[0].startswith(f"remote-ci: artifacts were not fetched: {tmp_path}/kept")
    assert said[0].endswith(f"remote-ci artifacts {job_id}")


def test_the_default_folder_hides_itself_from_git(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    job_id = left(runner, person, {"a": b"1"})
    folder = artifact_folder.default(job_id, tmp_path)
    assert ArtifactFetcher(client, job_id, folder, StatusLine(), print).fetch_all()
    assert disk(tmp_path / ".remote-ci-artifacts") == {**GUARDS, f"{job_id}/a": b"1"}


def test_a_job_without_artifacts_is_said(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    job_id = left(runner, person, {})
    bringing, said = home(client, job_id, tmp_path / "kept")
    assert not bringing.fetch_all()
    assert said == [f"Job {job_id} has no artifacts; they may have expired."]


def test_a_source_file_is_never_replaced(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    """`--junitxml=setup.py` and a folder of a report that is a folder of sources: such files stay where they are."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "setup.py").write_text("mine")
    (root / "src/x.py").write_text("mine")
    files = {"setup.py": b"<testsuites/>", "src/x.py": b"evil", "src/index.html": HTML}
    job_id = left(runner, person, files)
    said: list[str] = []
    found = destinations.find(["--junitxml=setup.py", "--cov-report=html:src"], Place(root, root))
    kept = artifact_folder.named(tmp_path / "kept")
    ArtifactFetcher(client, job_id, kept, StatusLine(), said.append, found, ()).fetch(complete())
    assert disk(root) == {"setup.py": b"mine", "src/x.py": b"mine", "src/index.html": HTML}
    assert not (tmp_path / "kept").exists()
    assert said[1] == (
        "remote-ci: left out: setup.py has a name that some program would execute or load; "
        "src/x.py is not part of such a report"
    )


def test_a_linked_folder_leads_no_report_out_of_the_project(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / "htmlcov").symlink_to(tmp_path / "elsewhere")
    job_id = left(runner, person, {"htmlcov/index.html": HTML})
    bringing, said = home(client, job_id, tmp_path / "kept", root)
    bringing.fetch(complete())
    assert disk(tmp_path / "elsewhere") == {}
    assert said == ["remote-ci: left out: htmlcov/index.html was not fetched: htmlcov in its path is a link"]


def test_what_pytest_would_run_stays_where_it_is(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    """The next local pytest must not run what a job wrote beside its reports."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "test_mine.py").write_text("def test_mine(): pass\n")
    evil = f"open({str(tmp_path / 'pwned')!r}, 'w')\ndef test_evil(): pass\n".encode()
    doctest = b">>> " + evil.splitlines()[0] + b"\n"
    names = [
        "htmlcov/conftest.py",
        "htmlcov/test_evil.py",
        "site/conftest.py",
        "site/test_evil.py",
        "conftest.py",
        "test_evil.py",
        "htmlcov/__init__.py",
        "out/conftest.py",
        "htmlcov/evil.pth",
        "htmlcov/.envrc",
        ".coverage.py",
        "coverage.xml/conftest.py",
    ]
    files = {
        **dict.fromkeys(names, evil),
        "htmlcov/index.html": HTML,
        "htmlcov/coverage_html.js": b"fine()",
        "htmlcov/test_evil.txt": doctest,
        "coverage.json": evil,
    }
    job_id = left(runner, person, files, mode=0o6755)
    bringing, said = home(client, job_id, tmp_path / "kept", root)
    bringing.fetch(complete())
    assert disk(root) == {
        "test_mine.py": b"def test_mine(): pass\n",
        "htmlcov/index.html": HTML,
        "htmlcov/coverage_html.js": b"fine()",
    }
    assert not (root / "htmlcov/index.html").stat().st_mode & 0o7111, "neither executable nor set-uid"
    assert said[1].startswith("remote-ci: left out: ")
    assert said[1].endswith(f"; and {len(names) + 2 - 5} more")
    assert "\n" not in said[1]
    done = run_pytest(root)
    assert "1 passed" in done.stdout
    assert not (tmp_path / "pwned").exists()


def run_pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:remote_ci", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("named", [None, "kept", "tests/kept", "dist"])
def test_nothing_runs_the_artifacts_that_were_asked_for(
    runner: Runner, person: Person, client: Client, tmp_path: Path, named: str | None
) -> None:
    """pytest with its defaults and without them, unittest, git: they pass over the folder."""
    root = tmp_path / "project"
    (root / "tests").mkdir(parents=True)
    (root / "tests/test_mine.py").write_text("def test_mine(): pass\n")
    evil = f"open({str(tmp_path / 'pwned')!r}, 'w')\ndef test_evil(): pass\n".encode()
    doctest = b">>> " + evil.splitlines()[0] + b"\n"
    files = dict.fromkeys(
        ["sub/conftest.py", "sub/test_evil.py", "test_evil.py", "sub/__init__.py", "test/conftest.py"], evil
    )
    files["test_evil.txt"] = doctest
    job_id = left(runner, person, files)
    folder = (
        ArtifactFolder(root / named, root, root / named, is_configured=True)
        if named
        else (artifact_folder.default(job_id, root))
    )
    said: list[str] = []
    assert ArtifactFetcher(client, job_id, folder, StatusLine(), said.append).fetch_all(), said
    assert disk(folder.path).keys() >= files.keys()
    for arguments in ([], ["-o", "norecursedirs=nothing"], ["--doctest-modules"]):
        if named == "dist" and "norecursedirs=nothing" in arguments:
            continue  # others build there: nothing of ours is put into it
        done = run_pytest(root, *arguments)
        assert "1 passed" in done.stdout, done.stdout
        assert not (tmp_path / "pwned").exists(), arguments
    subprocess.run([sys.executable, "-m", "unittest", "discover"], cwd=root, capture_output=True, check=False)
    assert not (tmp_path / "pwned").exists()
    if named != "dist":
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "-uall"], cwd=root, capture_output=True, text=True, check=True
        )
        assert status.stdout == "?? tests/test_mine.py\n"


@pytest.mark.parametrize("name", ["conftest.py", "CONFTEST.PY", "__init__.py", ".gitignore"])
def test_no_artifact_takes_the_guards_away(
    runner: Runner, person: Person, client: Client, tmp_path: Path, name: str
) -> None:
    job_id = left(runner, person, {name: b"evil", "a": b"1"})
    bringing, said = home(client, job_id, tmp_path / "kept")
    assert not bringing.fetch_all()
    assert disk(tmp_path / "kept") == {**GUARDS, "a": b"1"}
    assert (
        said[1]
        == f"remote-ci: left out: {name} is refused: a file of this name keeps git and pytest out of the folder"
    )


def test_a_folder_with_files_of_the_developers_own_is_no_folder_for_artifacts(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    job_id = left(runner, person, {"setup.py": b"evil", "new.txt": b"new", "same.txt": b"same"})
    (tmp_path / "own").mkdir()
    for name in ("setup.py", "same.txt"):
        (tmp_path / "own" / name).write_text(name.partition(".")[0])
    bringing, said = home(client, job_id, tmp_path / "own")
    assert not bringing.fetch_all()
    assert disk(tmp_path / "own") == {"setup.py": b"setup", "new.txt": b"new", "same.txt": b"same"}
    assert said[1].endswith(f"setup.py is refused: another file exists at {tmp_path}/own/setup.py")
    configured = ArtifactFolder(tmp_path / "own", tmp_path, tmp_path / "own", is_configured=True)
    bringing.folder = configured
    with pytest.raises(
        ConfigError, match=r"artifacts-dir: .*/own holds other files, .*; choose an empty folder"
    ):
        bringing.fetch_all()


def test_a_link_to_the_folder_is_not_followed(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    """A project may come with links; only the command line is believed."""
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    job_id = left(runner, person, {"a": b"1"})
    for name in (".remote-ci-artifacts", "kept"):
        (root / name).symlink_to(elsewhere)
    own = artifact_folder.default(job_id, root)
    configured = ArtifactFolder(root / "kept/sub", root, root / "kept/sub", is_configured=True)
    for folder in (own, configured):
        said: list[str] = []
        bringing = ArtifactFetcher(client, job_id, folder, StatusLine(), said.append)
        bringing.fetch(complete())
        assert "is a link" in said[0], said
    assert list(elsewhere.iterdir()) == []
    bringing.folder = artifact_folder.named(root / "kept/sub")
    assert bringing.fetch_all()
    assert disk(elsewhere / "sub") == {**GUARDS, "a": b"1"}


@pytest.mark.parametrize("name", ["..", ".", "", ".git", "a/../../b", "../x", "\x1b[2J", "/etc"])
def test_names_of_jobs_and_runs_lead_nowhere(tmp_path: Path, name: str) -> None:
    base = artifact_folder.default(name, tmp_path)
    for folder in (base, base.below(name)):
        assert folder.path.parent.is_relative_to(tmp_path / ".remote-ci-artifacts")
        assert folder.path.name.strip(".") not in ("", "git")
        assert folder.path.name.isprintable()
        assert "/" not in folder.path.name


def test_coverage_data_speaks_of_the_files_here(
    runner: Runner, person: Person, client: Client, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    data = tmp_path / "data"
    with sqlite3.connect(data) as connection:
        connection.execute("CREATE TABLE file (id INTEGER PRIMARY KEY, path TEXT UNIQUE)")
        connection.executemany(
            "INSERT INTO file (path) VALUES (?)",
            [("/workspace/src/a.py",), ("/workspace2/b.py",), ("/usr/lib/c.py",)],
        )
    connection.close()
    job_id = left(runner, person, {".coverage": data.read_bytes()})
    bringing, _ = home(client, job_id, tmp_path / "kept", root)
    bringing.fetch(complete())
    assert [path.name for path in root.iterdir()] == [".coverage"]
    connection = sqlite3.connect(root / ".coverage")
    paths = [path for (path,) in connection.execute("SELECT path FROM file ORDER BY id")]
    connection.close()
    assert paths == [f"{root}/src/a.py", "/workspace2/b.py", "/usr/lib/c.py"]
