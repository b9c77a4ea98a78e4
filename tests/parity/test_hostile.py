"""Tests that do what no test should: the session goes on, and what is shown is what happened, in its order."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from support.developer import Developer, Done

#: Name → body of the test. All of them run in one session, one after the other.
DEEDS: dict[str, str] = {
    "leaves_for_a_folder_that_goes": """
        request.addfinalizer(lambda: os.chdir(HERE))
        os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')""",
    "patches_the_system": "for name in ('write', 'getpid'): monkeypatch.setattr(os, name, None)",
    "patches_json": """
        monkeypatch.setattr(json, 'dumps', None)
        monkeypatch.setattr(json.JSONEncoder, 'encode', None)""",
    "patches_the_built_in_open": "monkeypatch.setattr('builtins.open', None)",
    "stops_the_clock": """
        for name in ('time', 'monotonic', 'perf_counter'): monkeypatch.setattr(time, name, lambda: 0.0)""",
    "lowers_the_limit_of_descriptors": """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, hard))""",
    "waits_for_input": "input()",
    "prints_lone_surrogates": "print('\\ud800 text')",
    "fails_with_escapes": "assert 0, '\\x1b]0;title\\x07\\x1b[2J\\x1b[31mred'",
    "fails_with_nuls_and_surrogates": "assert 0, 'a\\x00b\\udc80c'",
    "has_a_message_of_ten_megabytes": "raise ValueError('z' * 10_000_000)",
    "prints_ten_megabytes_in_a_line": "print('y' * 10_000_000)",
    "records_what_cannot_be_said": "record_property('k', object())",
}
#: Of those, the ones that fail, as they do without us.
FAILING = {
    "waits_for_input",
    "fails_with_escapes",
    "fails_with_nuls_and_surrogates",
    "has_a_message_of_ten_megabytes",
}
#: The same; pytest itself survives these only when it captures nothing.
DESCRIPTORS = {
    "closes_every_descriptor": "os.closerange(3, 4096)",
    "takes_every_descriptor": """
        os.closerange(3, 4096)
        kept = []
        try:
            while True: kept.append(os.open('/dev/null', os.O_WRONLY))
        except OSError: pass
        for handle in kept: os.close(handle)""",
    "puts_its_file_in_place_of_descriptors": """
        for number in range(600, 800):
            os.dup2(os.open('mine.txt', os.O_WRONLY | os.O_CREAT), number)""",
}
#: What they write past pytest, and what of it is seen here.
WRITTEN: dict[str, tuple[str, str]] = {
    "by_os_write": ("os.write(1, b'raw <os> \\xff\\x00 end\\n')", "raw <os> \ufffd0 end\n"),
    "by_a_child": ("subprocess.run(['echo', 'raw <child>'])", "raw <child>\n"),
    "by_c": ("libc = ctypes.CDLL(None); libc.puts(b'raw <c>'); libc.fflush(None)", "raw <c>\n"),
    "by_print": ("print('raw <print>')", "raw <print>\n"),
}
HEAD = "import ctypes, json, os, resource, subprocess, sys, time\nHERE = os.getcwd()\n"


def file_of(deeds: dict[str, str]) -> str:
    """A file with a test for each of them, and a good test after each."""
    parts = [HEAD]
    for name, body in deeds.items():
        fixtures = [word for word in ("request", "monkeypatch", "record_property") if word in body]
        lines = textwrap.indent(textwrap.dedent(body), "    ")
        parts.append(f"def test_{name}({', '.join(fixtures)}):\n{lines}\n")
        parts.append(f"def test_after_{name}(): print('after', '{name}')\n")
    return "".join(parts)


@pytest.fixture(scope="module")
def hostile(developer: Developer, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One session of all of them."""
    folder = tmp_path_factory.mktemp("hostile") / "p"
    folder.mkdir()
    more = [
        f"def test_writes_{name}(capfd):\n    with capfd.disabled():\n        {body}\n"
        for name, (body, _) in WRITTEN.items()
    ]
    (folder / "test_it.py").write_text(file_of(DEEDS) + "".join(more))
    return developer.pytest("-v", "-rA", cwd=folder, timeout=300)


def outcomes(done: Done) -> dict[str, str]:
    found = re.findall(
        r"^(?:test_it\.py::test_(\S+) )?(?:.*)(PASSED|FAILED|ERROR) +\[", done.out, re.MULTILINE
    )
    return {name: word for name, word in found if name}


@pytest.mark.parametrize("name", DEEDS)
def test_a_hostile_test_ends_as_it_should_and_the_next_is_as_ever(hostile: Done, name: str) -> None:
    words = outcomes(hostile)
    assert words[name] == ("FAILED" if name in FAILING else "PASSED"), hostile.text[-5000:]
    assert words[f"after_{name}"] == "PASSED"
    assert f"after {name}\n" in hostile.out


def test_nothing_is_lost_or_told_twice(hostile: Done) -> None:
    good = 2 * len(DEEDS) - len(FAILING) + len(WRITTEN)
    assert f"{len(FAILING)} failed, {good} passed in" in hostile.out, hostile.text[-5000:]
    assert hostile.code == 1
    assert "were not run" not in hostile.out
    assert "restart" not in hostile.out


@pytest.mark.parametrize("name", WRITTEN)
def test_what_goes_past_pytest_is_shown_where_it_was_written(hostile: Done, name: str) -> None:
    shown = hostile.out.replace("\x00", "0")
    assert f"::test_writes_{name} {WRITTEN[name][1]}PASSED" in shown, shown[-5000:]


def test_input_fails_with_pytests_own_words(hostile: Done) -> None:
    assert "reading from stdin while output is captured" in hostile.out


@pytest.fixture(scope="module")
def without_descriptors(developer: Developer, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One session of tests that deal with descriptors that are not theirs."""
    folder = tmp_path_factory.mktemp("descriptors") / "p"
    folder.mkdir()
    (folder / "test_it.py").write_text(file_of(DESCRIPTORS))
    return developer.pytest("-v", "-s", cwd=folder, timeout=300)


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_a_test_that_takes_descriptors_takes_no_results_with_them(
    without_descriptors: Done, name: str
) -> None:
    done = without_descriptors
    assert f"::test_{name} PASSED" in done.out, done.text
    assert f"test_after_{name} after {name}\nPASSED" in done.out
    assert f"{2 * len(DESCRIPTORS)} passed in" in done.out
    assert done.code == 0


def test_where_pytest_itself_cannot_go_on_without_its_descriptors_that_is_said(
    developer: Developer, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os\ndef test_first(): pass\ndef test_closes(): os.closerange(3, 4096)\ndef test_last(): pass\n"
    )
    done = developer.pytest("-v", cwd=tmp_path)
    assert "test_it.py::test_first PASSED" in done.out
    assert re.search(r"(FAILED|ERROR) test_it.py::test_closes - OSError: \[Errno 9\]", done.out), done.text
    assert done.code == 1


#: Finds the folder of what the runner reads, as a test could.
SPOOL = """
import json, os
def spool():
    found = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) >= 700]
    return os.path.dirname([path for path in found if path.endswith('records')][0])
"""


def test_a_test_may_delete_what_the_runner_reads(developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        SPOOL + "def test_deletes():\n"
        "    folder = spool()\n"
        "    for name in os.listdir(folder): os.unlink(os.path.join(folder, name))\n"
        "def test_fails(): assert 0\n"
    )
    done = developer.pytest("-v", cwd=tmp_path)
    assert re.findall(r"::test_(\w+) (PASSED|FAILED)", done.out) == [
        ("deletes", "PASSED"),
        ("fails", "FAILED"),
    ]
    assert done.code == 1, done.text


def test_a_test_that_writes_the_workers_last_word_ends_nothing(developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        SPOOL + "def test_forges():\n"
        "    with open(os.path.join(spool(), 'frames'), 'a') as file:\n"
        "        file.write(json.dumps({'t': 'exit', 'code': 0, 'signal': None, 'seal': 'x'}) + '\\n')\n"
        "def test_waits():\n    import time; time.sleep(1)\n"
        "def test_fails(): assert 0\n"
    )
    done = developer.pytest("-v", cwd=tmp_path)
    assert "1 failed, 2 passed in" in done.out, done.text
    assert done.code == 1
    assert developer.jobs()[0]["exit_code"] == 1


def test_a_fork_that_runs_to_the_end_of_pytest_reports_nothing(developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os\ndef test_forks():\n    if os.fork(): os.wait()\n"
        "def test_forks_and_fails_over_there():\n    child = os.fork()\n    assert child, 'the child'\n    os.wait()\n"
        "def test_last(): pass\n"
    )
    done = developer.pytest("-v", cwd=tmp_path)
    assert done.out.count("PASSED") == 3, done.text
    assert "3 passed in" in done.out
    assert done.code == 0
