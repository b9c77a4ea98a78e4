"""Native sessions without containers: shown again, joined, killed and joined again, with nothing needed here."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.developer import FIXTURES, Developer, Done
from support.runner import Runner
from support.waiting import wait_until

pytestmark = pytest.mark.parametrize("runner", ["process"], indirect=True)

C = "--continue-on-collection-errors"


@dataclass(frozen=True)
class Stored:
    """A session that is over."""

    folder: Path
    job: str
    first: Done
    developer: Developer

    def again(self, *args: str, cwd: Path | None = None, **env: str) -> Done:
        """Replay it."""
        return run(self.developer, cwd or self.folder, f"--remote-ci-replay={self.job}", *args, **env)


def run(developer: Developer, cwd: Path, *args: str, **env: str) -> Done:
    return developer.pytest(*args, cwd=cwd, COLUMNS="100", env=env)


def id_of(done: Done) -> str:
    found = re.search(r"Job (?:ID|submitted): ([0-9a-f-]{36})", done.text)
    assert found, done.text
    return found[1]


def shown(text: str) -> str:
    """Without times."""
    text = re.sub(r"0x[0-9a-f]+", "0xX", text)
    text = re.sub("-+ generated xml file: .* -+\n", "", text)
    return re.sub(r"=+ (.*) in [\d.]+s.*=+", r"\1", re.sub(r"[\d.]+s (call|setup|teardown)", r"\1", text))


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What it wrote up to the end of a line with these words."""
    assert process.stdout is not None
    seen, deadline = "", threading.Timer(60, process.kill)
    deadline.start()
    try:
        while words not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
    finally:
        deadline.cancel()
    return seen


@pytest.fixture(scope="module")
def developer(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Developer:
    return Developer(runner, tmp_path_factory.mktemp("home"), runner.key)


@pytest.fixture(scope="module")
def stored(developer: Developer, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A suite with every kind of outcome, run once."""
    folder = tmp_path_factory.mktemp("stored") / "basic"
    shutil.copytree(FIXTURES / "parity" / "basic", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CI", raising=False)
        done = run(developer, folder, C, f"--junitxml={folder.parent}/first.xml")
    return Stored(folder, id_of(done), done, developer)


def test_a_replay_shows_what_the_run_showed_and_says_nothing_else(stored: Stored) -> None:
    done = stored.again()
    assert shown(done.out) == shown(stored.first.out)
    assert (done.code, done.err) == (stored.first.code, "")


def test_a_replay_takes_as_long_in_its_summary_as_the_run(developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import time\ndef test_slow(): time.sleep(1.5)\n")
    job = id_of(run(developer, tmp_path))
    done = run(developer, tmp_path, f"--remote-ci-replay={job}", "--durations=1", "--junitxml=r.xml")
    assert re.search(r"1 passed in (1\.[5-9]|[2-9])", done.out), done.text
    suite = ElementTree.parse(tmp_path / "r.xml").getroot().find("testsuite")
    assert suite is not None
    assert float(suite.attrib["time"]) >= 1.5


def cases(path: Path) -> list[tuple[str, ...]]:
    return [
        (case.get("classname", ""), case.get("name", ""), *[child.tag for child in case], *case.itertext())
        for case in ElementTree.fromstring(re.sub("0x[0-9a-f]+", "", path.read_text())).iter("testcase")
    ]


@pytest.mark.parametrize("args", [["-rA", "--tb=short", "--no-header"]])
def test_another_way_of_telling_needs_no_other_run(stored: Stored, args: list[str]) -> None:
    live = run(stored.developer, stored.folder, C, "--junitxml=first.xml", *args)
    again = stored.again("--junitxml=later.xml", *args)
    assert cases(stored.folder / "later.xml") == cases(stored.folder / "first.xml")
    assert shown(again.out) == shown(live.out)
    assert again.code == live.code


def test_an_html_report_is_made_later_by_a_plugin_that_was_not_there_at_the_time(
    stored: Stored, tmp_path: Path
) -> None:
    installed = tmp_path / "plugins"
    command = [sys.executable, "-m", "uv", "pip", "install", "-q", "--target", str(installed), "--no-deps"]
    subprocess.run(
        [*command, "pytest-html", "pytest-metadata", "jinja2", "markupsafe"], check=True, timeout=120
    )
    report = tmp_path / "report.html"
    done = stored.again(f"--html={report}", "--self-contained-html", PYTHONPATH=str(installed))
    assert done.code == stored.first.code, done.text
    text = html.unescape(report.read_text())
    assert "test_basic.py::test_fail" in text
    assert text.count('"result": "Failed"') >= 10


def test_an_older_run_does_not_overwrite_the_cache(stored: Stored) -> None:
    def cache() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in (stored.folder / ".pytest_cache").rglob("*")
            if path.is_file()
        }

    run(stored.developer, stored.folder, "tests/unit/test_more.py")
    before = cache()
    assert before
    stored.again()
    assert cache() == before


FILTERS = [
    (["tests/unit/test_more.py"], 0, "2 passed"),
    (["tests/unit", "-k", "test_fail or test_pass"], 1, "1 failed, 1 passed, 32 deselected"),
    (["tests/unit", "-m", "slow"], 0, "1 skipped, 33 deselected"),
    (
        ["tests/unit/test_more.py", "--deselect", "tests/unit/test_more.py::test_one"],
        0,
        "1 passed, 1 deselected",
    ),
    (["tests/unit", "-k", "zzz"], 5, "34 deselected"),
    (["tests/unit/test_basic.py", "--maxfail=2"], 1, "stopping after 2 failures"),
    (["tests/nope.py"], 4, "not in this job: tests/nope.py"),
    (["-k", "a or"], 4, "Wrong expression passed to '-k'"),
    (["--lf"], 4, "--lf selects tests for a new run"),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("args", "code", "words"), FILTERS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_part_of_a_stored_session(stored: Stored, args: list[str], code: int, words: str) -> None:
    done = stored.again(*args)
    assert done.code == code, done.text
    assert words in done.text


def test_a_replay_lists_what_was_collected(stored: Stored) -> None:
    done = stored.again("--collect-only", "-q", "tests/unit/test_more.py")
    assert done.out.splitlines()[:2] == [
        "tests/unit/test_more.py::test_one",
        "tests/unit/test_more.py::test_two",
    ]
    assert done.code == 0


def test_a_session_can_be_joined_from_anywhere(stored: Stored, tmp_path: Path) -> None:
    for way in ("attach", "replay"):
        done = run(stored.developer, tmp_path, f"--remote-ci-{way}={stored.job}")
        assert done.code == stored.first.code, done.text
        assert "11 failed, 16 passed" in done.out
        assert f"rootdir: {tmp_path}" not in done.out
        assert str(tmp_path) not in done.out
        assert list(tmp_path.iterdir()) == [], "no cache of another project"


@pytest.fixture
def waiting(developer: Developer, tmp_path: Path) -> Iterator[tuple[Path, str, Callable[[], None]]]:
    """A job whose second test waits: its folder, its id, and what lets it go on."""
    folder = tmp_path / "project"
    folder.mkdir()
    go = tmp_path / "go"
    (folder / "test_it.py").write_text(
        "import pathlib, time\n"
        "def test_first(): pass\n"
        f"def test_second():\n    while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)\n"
        "def test_third(): assert 0\n"
    )
    job = id_of(run(developer, folder, "--remote-ci-async"))
    yield folder, job, go.touch
    go.touch()
    wait_until(lambda: developer.runner.get(f"/jobs/{job}")["end_time"], 60, what="the job's end")


def test_a_running_job_is_not_replayed_but_joined(
    developer: Developer, waiting: tuple[Path, str, Callable[[], None]]
) -> None:
    folder, job, go_on = waiting
    refused = run(developer, folder, f"--remote-ci-replay={job}")
    assert refused.code == 4
    assert refused.err.splitlines() == [
        f"remote-ci: job {job} is running: show it with: pytest --remote-ci-attach {job}"
    ]
    command = (sys.executable, "-m", "pytest", f"--remote-ci-attach={job}", "-v", "--junitxml=joined.xml")
    with developer.popen(*command, cwd=folder, PYTHONUNBUFFERED="1", COLUMNS="100") as joined:
        seen = read_until(joined, "test_first PASSED")
        go_on()
        assert joined.stdout is not None
        seen += joined.stdout.read()
        assert joined.wait(60) == 1, seen
    assert "1 failed, 2 passed" in seen
    assert [name for _, name, *_ in cases(folder / "joined.xml")] == [
        "test_first",
        "test_second",
        "test_third",
    ]
    again = run(developer, folder, f"--remote-ci-replay={job}", "-v")
    assert shown(again.out).splitlines()[3:] == shown(seen).splitlines()[3:]


def test_a_job_of_remote_ci_submit_looks_as_ever_and_can_be_replayed(stored: Stored) -> None:
    done = stored.developer.remote_ci("submit", "--", C, cwd=stored.folder, COLUMNS="100")
    text = run(stored.developer, stored.folder, "--remote-ci-text", C)
    place = r"/\S*?[0-9a-f-]{36}-own/copy/[^/\s]+"
    assert re.sub(place, "", shown(done.out)) == re.sub(place, "", shown(text.out))
    again = run(stored.developer, stored.folder, f"--remote-ci-replay={id_of(done)}")
    assert shown(again.out).splitlines()[-20:-1] == shown(stored.first.out).splitlines()[-20:-1]


GATES = """
import pathlib, time
GATES = pathlib.Path({gates!r})

def pass_gate(name):
    (GATES / f"at-{{name}}").touch()
    while not (GATES / f"go-{{name}}").exists():
        time.sleep(0.02)

def pytest_collection_modifyitems():
    pass_gate("collection")

def pytest_runtest_logfinish(nodeid):
    if "second" in nodeid:
        pass_gate("between")

def pytest_terminal_summary(terminalreporter):
    pass_gate("summary")
    terminalreporter.line("the project's own summary")
"""
GATED = """
from conftest import pass_gate

def test_first():
    print("printed by the first")
def test_second():
    pass_gate("test")
def test_third(record_property):
    record_property("colour", "blue")
    assert {"a": 1} == {"a": 2}
"""
#: Where a client is killed → what it has shown by then.
KILLED = {
    "collection": "rootdir: ",
    "test": "test_first PASSED",
    "between": "test_first PASSED",
    "summary": "FAILURES",
}


def test_a_client_that_is_killed_anywhere_and_comes_back_loses_and_repeats_nothing(
    developer: Developer, tmp_path: Path
) -> None:
    folder, gates = tmp_path / "project", tmp_path / "gates"
    folder.mkdir()
    gates.mkdir()
    (folder / "conftest.py").write_text(GATES.format(gates=str(gates)))
    (folder / "test_it.py").write_text(GATED)
    pytest_ = (sys.executable, "-m", "pytest", "-v", "--junitxml=killed.xml")
    before = len(developer.jobs())
    with developer.popen(*pytest_, "--remote-ci", cwd=folder, COLUMNS="100") as client:
        wait_until(lambda: len(developer.jobs()) > before, 60, what="the submission")
        client.kill()  # it may have read the answer, or not
    job = developer.jobs()[0]["job_id"]
    for gate, words in KILLED.items():
        with developer.popen(
            *pytest_, f"--remote-ci-attach={job}", cwd=folder, PYTHONUNBUFFERED="1"
        ) as client:
            read_until(client, words)
            wait_until((gates / f"at-{gate}").exists, 60, what=gate)
            client.kill()
        (gates / f"go-{gate}").touch()
    last = run(developer, folder, "-v", "--junitxml=killed.xml", f"--remote-ci-attach={job}")
    undisturbed = run(developer, folder, "-v", "--junitxml=undisturbed.xml")
    assert shown(last.out) == shown(undisturbed.out)
    assert "the project's own summary" in last.out
    assert last.code == undisturbed.code == 1
    assert cases(folder / "killed.xml") == cases(folder / "undisturbed.xml")
    assert len(cases(folder / "killed.xml")) == 3


NEEDY = """[pytest]
addopts = -p pytest_mock --strict-config --strict-markers
minversion = 7.0
required_plugins = pytest-mock>=3
filterwarnings = error::library_of_the_project.OurWarning
mock_traceback_monkeypatch = true
markers = known: a mark
"""


def test_plugins_settings_and_imports_of_the_project_may_all_be_missing_here(
    developer: Developer, tmp_path: Path
) -> None:
    (tmp_path / "pytest.ini").write_text(NEEDY)
    (tmp_path / "requirements.txt").write_text("pytest\npytest-mock\n")
    (tmp_path / "library_of_the_project.py").write_text(
        "import pytest_mock\nclass OurWarning(UserWarning): pass\n"
    )
    (tmp_path / "conftest.py").write_text("import library_of_the_project\n")
    (tmp_path / "test_it.py").write_text(
        "import warnings, pytest, library_of_the_project as library\n"
        "@pytest.mark.known\ndef test_mocked(mocker): assert mocker.Mock()\n"
        "def test_warns():\n    warnings.warn('x', library.OurWarning)\n"
    )
    done = developer.remote_ci("pytest", "-v", "--junitxml=here.xml", cwd=tmp_path, COLUMNS="80")
    assert done.code == 1, done.text
    assert "test_it.py::test_mocked PASSED" in done.out
    assert "OurWarning: x" in done.out
    assert "only in the job: pytest-mock" in done.err
    assert len(cases(tmp_path / "here.xml")) == 2
