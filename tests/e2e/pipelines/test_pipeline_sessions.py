"""`pytest --remote-ci-pipeline NAME`: a run of a pipeline as the local pytest's session."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.developer import Developer, Done, interrupt, rest
from support.waiting import wait_until

RUNNER_OPTIONS = ("--concurrency", "3")
pytestmark = pytest.mark.parametrize("runner", ["process"], indirect=True)

PIPELINES = """
[tool.remote-ci.pipelines.ci]
stages = ["check", "test", "late"]
keep-going = true

[tool.remote-ci.pipelines.ci.jobs.lint]
stage = "check"
script = ["echo linting"]

[tool.remote-ci.pipelines.ci.jobs.flaky]
stage = "check"
script = ["echo it is flaky", "exit 3"]
allow-failure = true

[tool.remote-ci.pipelines.ci.jobs.tests]
stage = "test"
env = { FLAVOUR = "{flavour}" }
artifacts = ["out/**"]
matrix = { flavour = ["mint", "lime"] }

[tool.remote-ci.pipelines.ci.jobs.last]
stage = "late"
args = ["late"]
"""
TEST = """
import os, pathlib, pytest

FLAVOUR = os.environ["FLAVOUR"]

def test_one():
    pathlib.Path("out").mkdir()
    pathlib.Path("out/left.txt").write_text(FLAVOUR)

@pytest.mark.parametrize("number", [1, 2])
def test_two(number):
    assert (FLAVOUR, number) != (os.environ.get("BAD", "none"), 2)

@pytest.mark.skip(reason="not today")
def test_three(): pass
"""


@pytest.fixture(autouse=True)
def no_ci_system(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a pipeline."""
    folder = tmp_path / "project"
    (folder / "late").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        PIPELINES + "\n[tool.remote-ci]\nenv = ['BAD']\n[tool.pytest.ini_options]\ntestpaths = ['early']\n"
    )
    (folder / "requirements.txt").write_text("pytest\n")
    (folder / "early").mkdir()
    (folder / "early" / "test_it.py").write_text(TEST)
    (folder / "late" / "test_late.py").write_text("def test_late(): pass\n")
    return folder


def run(developer: Developer, folder: Path, *args: str, **env: str) -> Done:
    return developer.pytest("--remote-ci-pipeline=ci", *args, cwd=folder, COLUMNS="100", env=env)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def newest(developer: Developer) -> dict[str, Any]:
    """The developer's last run."""
    found: list[dict[str, Any]] = developer.runner.get("/runs?limit=1", developer.key)
    return found[0]


def read_until(process: subprocess.Popen[str], *words: str) -> str:
    """What it wrote up to the last of these; the line may not have ended."""
    assert process.stdout is not None
    seen, deadline = "", threading.Timer(60, process.kill)
    deadline.start()
    try:
        while not all(word in seen for word in words):
            letter = process.stdout.read(1)
            assert letter, seen
            seen += letter
    finally:
        deadline.cancel()
    return seen


def verdicts(done: Done) -> dict[str, str]:
    """What ``-v`` says of each test."""
    return dict(
        re.findall(r"^(\S.*?\.py::\S+) ([A-Z]+(?: \(allowed\))?) .*\[ *\d+%\]$", done.out, re.MULTILINE)
    )


def cases(file: Path) -> dict[tuple[str, str], list[str]]:
    """Class and name of each case of a JUnit report → what it has in it."""
    return {
        (case.attrib["classname"], case.attrib["name"]): [child.tag for child in case]
        for case in ElementTree.parse(file).getroot().iter("testcase")
    }


def test_all_of_a_run_is_this_session(developer: Developer, folder: Path) -> None:
    done = run(developer, folder, "-v", "--junitxml=here.xml")
    assert done.code == 0, done.text
    assert verdicts(done) == {
        **{
            f"tests (flavour={flavour})/early/test_it.py::{name}": "SKIPPED"
            if name == "test_three"
            else "PASSED"
            for flavour in ("mint", "lime")
            for name in ("test_one", "test_two[1]", "test_two[2]", "test_three")
        },
        "last/late/test_late.py::test_late": "PASSED",
    }
    run_id = re.search(r"^Run ci#1: (\S+)$", done.err, re.MULTILINE)
    assert run_id, done.text
    assert done.out.splitlines()[1:6] == [
        f"pipeline: ci #1 (run {run_id[1]})",
        f"rootdir: {folder}",
        "stage check: lint, flaky",
        "stage test: tests (flavour=mint), tests (flavour=lime)",
        "stage late: last",
    ]
    assert re.search(r"^check / lint: passed  [\d.]+ s$", done.out, re.MULTILINE), done.out
    assert re.search(r"^check / flaky: failed, allowed  [\d.]+ s  exit code 3$", done.out, re.MULTILINE)
    assert "last: collected 1 item\n" in done.out
    order = [
        done.out.index(words)
        for words in ("/ lint: passed", "test_one PASSED", "/ last: running", "test_late P")
    ]
    assert order == sorted(order)
    progress = [int(percent) for percent in re.findall(r"\[ *(\d+)%\]$", done.out, re.MULTILINE)]
    assert (progress.count(100), progress[-1]) == (1, 100), "jobs that have not collected yet count, too"
    summary = done.out.partition("= remote-ci =")[2]
    assert "✓ tests (flavour=lime)  passed" in summary
    assert "check / flaky: the end of its log" in summary
    assert "\nit is flaky\n" in summary
    assert "\nci #1 passed\n" in summary
    assert re.search(r"= 7 passed, 2 skipped in [\d.]+s =", summary), summary
    reports = cases(folder / "here.xml")
    assert len(reports) == 9
    assert ("tests (flavour=mint).early.test_it", "test_two[1]") in reports
    assert ("tests (flavour=lime).early.test_it", "test_two[1]") in reports
    left = folder / ".remote-ci-artifacts" / "ci-1"
    assert {file.read_text() for file in left.glob("tests*/out/left.txt")} == {"mint", "lime"}


@pytest.mark.every(2)
def test_a_failure_names_its_job_and_the_next_run_knows_it(developer: Developer, folder: Path) -> None:
    done = run(developer, folder, "--tb=short", BAD="lime")
    assert done.code == 1, done.text
    letters = re.findall(r"^(?:\S.*/test_it\.py )?([.sF]+) +\[ *\d+%\]$", done.out, re.MULTILINE)
    assert sorted("".join(letters)) == sorted(".....Fss"), done.out
    assert re.search(r"^_+ tests \(flavour=lime\): test_two\[2\] _+$", done.out, re.MULTILINE)
    assert "\nearly/test_it.py:12: in test_two\n" in done.out
    assert "\nFAILED tests (flavour=lime)/early/test_it.py::test_two[2] - " in done.out
    assert "last                  cancelled  needs 'tests (flavour=lime)', which failed" in done.out
    assert "\nci #" in done.out
    assert "FAILED: job 'tests (flavour=lime)' failed: exit code 1\n" in done.out
    assert not re.search(r"^ *\[ *\d+%\]$", done.out, re.MULTILINE), "no progress without results before it"
    cache = folder / ".pytest_cache" / "v" / "cache"
    assert json.loads((cache / "lastfailed").read_text()) == {"early/test_it.py::test_two[2]": True}
    assert "early/test_it.py::test_one" in json.loads((cache / "nodeids").read_text())

    again = run(developer, folder, "--lf", "-v", BAD="none")
    assert again.code == 0, again.text
    assert list(verdicts(again).values()) == ["PASSED", "PASSED", "PASSED"]
    assert json.loads((cache / "lastfailed").read_text()) == {}


def test_tests_are_chosen_among_those_of_each_job(developer: Developer, folder: Path) -> None:
    text = (folder / "pyproject.toml").read_text()
    own = text.replace("matrix = { flavour", 'args = ["-k", "not 2"]\nmatrix = { flavour')
    (folder / "pyproject.toml").write_text(own)
    done = run(developer, folder, "-v", "-k", "two")
    assert done.code == 0, done.text
    assert sorted(verdicts(done)) == [
        f"tests (flavour={flavour})/early/test_it.py::test_two[1]" for flavour in ("lime", "mint")
    ]
    assert "✓ last                  passed" in done.out
    (folder / "pyproject.toml").write_text(text.replace('\nargs = ["late"]', ""))
    one = run(developer, folder / "early", "-v", "test_it.py::test_two", BAD="mint")
    assert one.code == 1, one.text
    assert len(verdicts(one)) >= 4
    assert "../tests (flavour=mint)/early/test_it.py::test_two[2] FAILED" in one.out
    assert "\ntest_it.py:12: AssertionError\n" in one.out, "seen from where pytest was started"


OTHERS = """
[tool.remote-ci.pipelines.ci]
stages = ["one"]
keep-going = true
[tool.remote-ci.pipelines.ci.jobs.crashing]
stage = "one"
args = ["crashing"]
[tool.remote-ci.pipelines.ci.jobs.allowed]
stage = "one"
args = ["allowed"]
allow-failure = true
[tool.remote-ci.pipelines.ci.jobs.sub]
stage = "one"
working-dir = "sub"
[tool.remote-ci.pipelines.ci.jobs.usage]
stage = "one"
args = ["--nonsense"]
allow-failure = true
[tool.remote-ci.pipelines.ci.jobs.script]
stage = "one"
script = ["echo close to the end", "exit 3"]
"""
FILES = {
    "crashing/test_it.py": "import os\ndef test_a(): pass\ndef test_b():\n    print('close to it')\n    os._exit(7)\n"
    "def test_c(): pass\n",
    "allowed/test_it.py": "def test_bad(): assert 0\ndef test_good(): pass\n",
    "sub/pytest.ini": "[pytest]\n",
    "sub/conftest.py": "def pytest_terminal_summary(terminalreporter):\n    terminalreporter.line('said by sub')\n",
    "sub/test_it.py": "import warnings\ndef test_sub():\n    warnings.warn('look here')\n    assert 0\n",
}


def test_each_kind_of_failure_is_told_as_for_a_single_job(developer: Developer, folder: Path) -> None:
    write(folder, {"pyproject.toml": OTHERS, **FILES})
    done = run(developer, folder, "-v", "--junitxml=here.xml")
    assert done.code == 1, done.text
    assert verdicts(done) == {
        "crashing/crashing/test_it.py::test_a": "PASSED",
        "crashing/crashing/test_it.py::test_b": "FAILED",
        "crashing/crashing/test_it.py::test_c": "PASSED",
        "allowed/allowed/test_it.py::test_bad": "FAILED (allowed)",
        "allowed/allowed/test_it.py::test_good": "PASSED",
        "sub/sub/test_it.py::test_sub": "FAILED",
    }
    assert (
        "\npytest ended with code 7 in the middle of its session while running crashing/test_it.py::test_b"
        in done.out
    )
    assert "\nclose to it\n" in done.out
    assert "it was started again for the rest\n" in done.out
    assert "\nsub/test_it.py:4: AssertionError\n" in done.out, "from the root, where pytest was started"
    assert f"{folder}/sub/test_it.py:3: UserWarning: look here" in done.out
    assert re.search(r"^-+ sub -+\nsaid by sub$", done.out, re.MULTILINE)
    assert "FAILED (allowed) allowed/allowed/test_it.py::test_bad - assert 0" in done.out
    assert "unrecognized arguments: --nonsense" in done.out, "the log of a job without results"
    assert re.search(r"! usage +failed, allowed .* exit code 4", done.out)
    reports = cases(folder / "here.xml")
    assert len(reports) == 7
    assert reports["ci.one", "script"] == ["error"]
    assert "close to the end" in (folder / "here.xml").read_text()
    assert reports["crashing.crashing.test_it", "test_b"] == ["failure"]
    assert reports["sub.sub.test_it", "test_sub"] == ["failure"]


def test_enough_failures_end_the_run(developer: Developer, folder: Path) -> None:
    slow = "import time\ndef test_slow(): time.sleep(300)\n"
    write(folder, {"pyproject.toml": OTHERS, **FILES, "crashing/test_it.py": slow})
    done = run(developer, folder, "-x", "-v")
    assert done.code == 1, done.text
    assert "! stopping after 1 failures !" in done.out
    assert verdicts(done)["sub/sub/test_it.py::test_sub"] == "FAILED"
    assert "crashing/crashing/test_it.py::test_slow" not in verdicts(done)
    assert newest(developer)["status"] == "cancelled"


@pytest.fixture
def at_a_slow_test(developer: Developer, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A session of the pipeline "late" that waits for a test."""
    at = folder.parent / "at"
    slow = f"import time\ndef test_slow():\n    open({str(at)!r}, 'w').close()\n    time.sleep(300)\n"
    write(folder, {"late/test_late.py": f"def test_first(): pass\n{slow}"})
    (folder / "pyproject.toml").write_text(PIPELINES + LATE_ONLY)
    command = (sys.executable, "-m", "pytest", "--remote-ci-pipeline=late", "-v")
    with developer.popen(*command, cwd=folder, COLUMNS="100", PYTHONUNBUFFERED="1") as process:
        try:
            wait_until(at.exists, 60, what="the slow test")
            yield process
        finally:
            process.kill()


def seen_of(process: subprocess.Popen[str], words: str) -> str:
    """Its output up to these words, past the buffer of `process.stdout`, so that `communicate` reads on from there."""
    assert process.stdout is not None
    seen, deadline = b"", time.monotonic() + 60
    while words.encode() not in seen:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(process.stdout.fileno(), 4096)
    return seen.decode()


def test_ctrl_c_cancels_the_run(developer: Developer, at_a_slow_test: subprocess.Popen[str]) -> None:
    seen_of(at_a_slow_test, "last/late/test_late.py::test_first PASSED")
    done = interrupt(at_a_slow_test)
    assert done.code == 2, done.text
    assert "KeyboardInterrupt" in done.out
    assert "FAILED" not in done.out
    assert "Traceback" not in done.text
    assert re.search(r"- last +cancelled ", done.out)
    assert newest(developer)["status"] == "cancelled"


def test_a_run_that_is_cancelled_elsewhere_has_no_verdict(
    developer: Developer, at_a_slow_test: subprocess.Popen[str]
) -> None:
    developer.remote_ci("pipeline", "cancel", newest(developer)["run_id"], cwd=developer.home)
    out, err = at_a_slow_test.communicate(timeout=60)
    assert at_a_slow_test.returncode == 70, out + err
    assert "last/late/test_late.py::test_slow FAILED" in out
    assert re.search(
        r"^cancelled by \S+ while running last/late/test_late.py::test_slow$", out, re.MULTILINE
    ), out
    assert "was cancelled: cancelled by " in out
    assert "Traceback" not in out + err


LATE_ONLY = """
[tool.remote-ci.pipelines.late]
stages = ["late"]
[tool.remote-ci.pipelines.late.jobs.last]
stage = "late"
args = ["late"]
[tool.remote-ci.pipelines.late.jobs.other]
stage = "late"
args = ["early"]
env = { FLAVOUR = "mint" }
"""


def test_results_of_several_jobs_are_shown_when_they_happen(developer: Developer, folder: Path) -> None:
    go = folder.parent / "go"
    waiting = (
        "import pathlib, time\ndef test_first(): pass\n"
        f"def test_late():\n    while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)\n"
    )
    write(folder, {"late/test_late.py": waiting})
    (folder / "pyproject.toml").write_text(PIPELINES + LATE_ONLY)
    command = (sys.executable, "-m", "pytest", "--remote-ci-pipeline=late", "-v")
    with developer.popen(*command, cwd=folder, PYTHONUNBUFFERED="1", COLUMNS="100") as process:
        try:
            seen = read_until(process, "last/late/test_late.py::test_first PASSED", "test_three SKIPPED")
        finally:
            go.touch()
        done = rest(process, seen)
    assert done.code == 0, done.text
    assert verdicts(done)["last/late/test_late.py::test_late"] == "PASSED"
    assert done.out.count("::test_late") == 1, "a test is told as a whole"


TIMED = """
[tool.remote-ci.pipelines.ci]
stages = ["only"]
[tool.remote-ci.pipelines.ci.jobs.slow]
stage = "only"
args = ["late"]
timeout = 12
"""


def test_a_job_without_a_verdict_fails_its_running_test_and_ends_with_70(
    developer: Developer, folder: Path
) -> None:
    slow = "import time\ndef test_first(): pass\ndef test_slow(): time.sleep(300)\ndef test_never(): pass\n"
    write(folder, {"pyproject.toml": TIMED, "late/test_late.py": slow})
    done = run(developer, folder, "-v")
    assert done.code == 70, done.text
    assert verdicts(done) == {
        "slow/late/test_late.py::test_first": "PASSED",
        "slow/late/test_late.py::test_slow": "FAILED",
    }
    assert "slow: 1 test(s) were not run" in done.out
    assert "while running slow/late/test_late.py::test_slow" in done.out
    assert done.out.count("test_slow while running") == 0


RETRIED = """
[tool.remote-ci.pipelines.ci]
stages = ["only"]
[tool.remote-ci.pipelines.ci.jobs.retried]
stage = "only"
args = ["late"]
retries = { count = 1, exit-codes = [1] }
"""


def test_a_job_that_is_tried_again_is_told_twice_and_the_last_time_counts(
    developer: Developer, folder: Path
) -> None:
    tried = folder.parent / "tried"
    once = f"import pathlib\ndef test_it():\n    tried = pathlib.Path({str(tried)!r})\n"
    once += "    if not tried.exists():\n        tried.touch()\n        assert 0\n"
    write(folder, {"pyproject.toml": RETRIED, "late/test_late.py": once})
    done = run(developer, folder, "-v")
    assert done.code == 0, done.text
    assert verdicts(done) == {
        "retried/late/test_late.py::test_it": "FAILED",
        "retried (try 2)/late/test_late.py::test_it": "PASSED",
    }
    assert "✓ retried  passed  try 2" in done.out


REFUSED = [
    (["--remote-ci-pipeline=cii"], "no pipeline 'cii'; did you mean 'ci'?"),
    (
        ["late"],
        "late: job 'last' has its own tests (late), and a path would add to them; select with -k or -m",
    ),
    (["--co"], "--co cannot be used with --remote-ci-pipeline: it would run the scripts"),
    (["--sw"], "--sw cannot be used with --remote-ci-pipeline: it works for a single job only"),
    (
        ["--remote-ci-text"],
        "--remote-ci-text cannot be used with --remote-ci-pipeline: use `remote-ci pipeline run`",
    ),
    (["--remote-ci-attach=x"], "--remote-ci-attach cannot be used with --remote-ci-pipeline"),
    (
        ["--remote-ci-pipeline=scripts", "-k", "x"],
        "pipeline 'scripts' has no pytest job, so -k selects nothing",
    ),
    (["--remote-ci-pipeline=secret"], "secrets of the pipeline are not set in the environment: LICENCE_KEY"),
]
MORE = """
[tool.remote-ci.pipelines.scripts]
stages = ["only"]
[tool.remote-ci.pipelines.scripts.jobs.one]
stage = "only"
script = ["echo one"]
[tool.remote-ci.pipelines.secret]
stages = ["only"]
[tool.remote-ci.pipelines.secret.jobs.one]
stage = "only"
secrets = ["LICENCE_KEY"]
"""


@pytest.mark.parametrize(
    ("args", "words"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_cannot_work_is_refused_in_one_line(
    developer: Developer, folder: Path, args: list[str], words: str
) -> None:
    (folder / "pyproject.toml").write_text(PIPELINES + MORE)
    before = developer.runner.get("/runs", developer.key)
    done = run(developer, folder, *args)
    assert done.code == 4, done.text
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    assert done.out == ""
    assert developer.runner.get("/runs", developer.key) == before


def test_definitions_that_are_missing_or_wrong_say_what_to_do(developer: Developer, folder: Path) -> None:
    (folder / "pyproject.toml").write_text("")
    none = run(developer, folder)
    assert none.code == 4
    assert none.err == (
        "remote-ci: no pipeline is defined: write [tool.remote-ci.pipelines.<name>] in pyproject.toml, "
        "or .pipelines/<name>.yaml\n"
    )
    write(folder, {".pipelines/ci.yaml": "name: ci\nstages: 3\n"})
    wrong = run(developer, folder)
    assert wrong.code == 4
    assert ".pipelines/ci.yaml:2:9: stages: " in wrong.err
    assert "remote-ci: pipeline 'ci' has errors" in wrong.err


def test_a_run_is_left_alone_and_looked_at_by_other_commands(developer: Developer, folder: Path) -> None:
    (folder / "pyproject.toml").write_text(PIPELINES + MORE)
    sent = developer.pytest("--remote-ci-pipeline=scripts", "--remote-ci-async", cwd=folder)
    found = re.fullmatch(r"Run submitted: ([0-9a-f-]{36}) \((scripts#\d+)\)\n", sent.out)
    assert (sent.code, bool(found)) == (0, True), sent.text
    assert found is not None
    for way in ("attach", "replay"):
        joined = developer.pytest(f"--remote-ci-{way}={found[1]}", cwd=folder)
        assert joined.code == 4, joined.text
        assert f"is the run of a pipeline, not a job: use `remote-ci pipeline status {found[2]}" in (
            joined.err
        )
    shown = developer.pytest("--remote-ci-pipeline=scripts", cwd=folder)
    assert shown.code == 0, "a run without tests is no failure"
    assert "only / one: passed" in shown.out
    quiet = developer.pytest("--remote-ci-pipeline=scripts", "-q", cwd=folder)
    assert (quiet.code, "remote-ci" in quiet.out) == (0, False), quiet.text


WATCHER = """
import pytest
SEEN = []
@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    SEEN.append(item.nodeid)
    return (yield)
def pytest_sessionfinish(session):
    assert sorted(SEEN) == sorted(item.nodeid for item in session.items), SEEN
    assert len(set(SEEN)) == session.testscollected == 9
    assert all(item.path.is_file() for item in session.items)
    print("\\nWATCHED", len(SEEN))
"""


def test_editors_see_each_test_of_each_job_with_its_file(developer: Developer, folder: Path) -> None:
    plugins = folder.parent / "plugins"
    write(plugins, {"watcher.py": WATCHER})
    done = run(developer, folder, "-v", PYTHONPATH=str(plugins), PYTEST_PLUGINS="watcher")
    assert "WATCHED 9" in done.out, done.text
    assert len(verdicts(done)) == 9
