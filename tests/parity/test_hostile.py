"""Tests that do what no test should: the session goes on, and what is shown is what happened, in its order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from developers import Developer, Done

#: Name → (body of the test, whether it passes). All of them run in one session, one after the other.
DEEDS: dict[str, tuple[str, bool]] = {
    "forks_and_goes_on_to_the_end": ("if os.fork() == 0: time.sleep(0.2); return\n    os.wait()", True),
    "forks_and_its_child_fails": (
        "pid = os.fork()\n    assert pid, 'the child of a fork'\n    os.waitpid(pid, 0)", True,
    ),
    "leaves_for_a_folder_that_goes": (
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n    request.addfinalizer(lambda: os.chdir(HERE))", True,
    ),
    "patches_the_system": (
        "for name in ('write', 'fstat', 'open', 'getpid'): monkeypatch.setattr(os, name, None)", True,
    ),
    "patches_json": ("monkeypatch.setattr(json, 'dumps', None); monkeypatch.setattr(json.JSONEncoder, 'encode', None)", True),
    "patches_the_built_in_open": ("monkeypatch.setattr('builtins.open', None)", True),
    "stops_the_clock": (
        "for name in ('time', 'monotonic', 'perf_counter'): monkeypatch.setattr(time, name, lambda: 0.0)", True,
    ),
    "lowers_the_limit_of_descriptors": (
        "import resource\n    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (30, hard))\n"
        "    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))", True,
    ),
    "waits_for_input": ("input()", False),
    "prints_lone_surrogates": ("print('\\ud800 text')", False),
    "fails_with_escapes": ("assert 0, '\\x1b]0;title\\x07\\x1b[2J\\x1b[31mred'", False),
    "fails_with_nuls_and_surrogates": ("assert 0, 'a\\x00b\\udc80c'", False),
    "has_a_message_of_ten_megabytes": ("raise ValueError('z' * 10_000_000)", False),
    "prints_ten_megabytes_in_a_line": ("print('y' * 10_000_000)", True),
    "records_what_cannot_be_said": ("record_property('k', object())", True),
}  # fmt: skip
#: The same; pytest itself survives these only when it captures nothing.
DESCRIPTORS: dict[str, tuple[str, bool]] = {
    "closes_every_descriptor": ("os.closerange(3, 4096)", True),
    "takes_every_descriptor": (
        "os.closerange(3, 4096)\n    kept = []\n    try:\n        while True: kept.append(os.open('/dev/null', os.O_WRONLY))\n"
        "    except OSError: pass\n    for handle in kept: os.close(handle)", True,
    ),
    "puts_its_file_in_place_of_descriptors": (
        "for number in range(600, 800):\n        try: os.dup2(os.open('mine.txt', os.O_WRONLY | os.O_CREAT), number)\n"
        "        except OSError: pass", True,
    ),
}  # fmt: skip
#: What they write past pytest, and what of it is seen here.
WRITTEN: dict[str, tuple[str, str]] = {
    "by_os_write": ("os.write(1, b'raw <os> \\xff\\x00 end\\n')", "raw <os> \ufffd\x00 end\n"),
    "by_a_child": ("subprocess.run(['echo', 'raw <child>'])", "raw <child>\n"),
    "by_c": ("libc = ctypes.CDLL(None); libc.puts(b'raw <c>'); libc.fflush(None)", "raw <c>\n"),
    "by_print": ("print('raw <print>')", "raw <print>\n"),
}
HEAD = "import ctypes, json, os, subprocess, sys, time\nHERE = os.getcwd()\n"


def tests_of(deeds: dict[str, tuple[str, bool]]) -> str:
    """A file that does each of them, and a good test after each."""
    parts = [HEAD]
    for name, (body, _) in deeds.items():
        fixtures = [word for word in ("request", "monkeypatch", "record_property") if word in body]
        parts.append(f"def test_{name}({', '.join(fixtures)}):\n    {body}\n")
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
    (folder / "test_it.py").write_text(tests_of(DEEDS) + "".join(more))
    return developer.pytest("-v", "-rA", cwd=folder, timeout=300)


def outcomes(done: Done) -> dict[str, str]:
    found = re.findall(
        r"^(?:test_it\.py::test_(\S+) )?(?:.*)(PASSED|FAILED|ERROR) +\[", done.out, re.MULTILINE
    )
    return {name: word for name, word in found if name}


@pytest.mark.parametrize("name", DEEDS)
def test_a_hostile_test_ends_as_it_should_and_the_next_is_as_ever(hostile: Done, name: str) -> None:
    words = outcomes(hostile)
    assert words[name] == ("PASSED" if DEEDS[name][1] else "FAILED"), hostile.text[-5000:]
    assert words[f"after_{name}"] == "PASSED"
    assert f"after {name}\n" in hostile.out


def test_nothing_is_lost_or_told_twice(hostile: Done) -> None:
    bad = sum(not passes for _, passes in DEEDS.values())
    good = 2 * len(DEEDS) - bad + len(WRITTEN)
    assert f"{bad} failed, {good} passed in" in hostile.out, hostile.text[-5000:]
    assert hostile.code == 1
    assert "were not run" not in hostile.out
    assert "restart" not in hostile.out


@pytest.mark.parametrize("name", WRITTEN)
def test_what_goes_past_pytest_is_shown_where_it_was_written(hostile: Done, name: str) -> None:
    before, _, after = hostile.out.partition(WRITTEN[name][1])
    assert after, hostile.out[-5000:]
    assert f"test_writes_{name} " in before.splitlines()[-1] or before.endswith("\n")
    assert f"::test_writes_{name}" in before
    assert "PASSED" in after.partition("\n")[0] or after.startswith("PASSED") or "PASSED" in after[:40]


def test_input_fails_with_pytests_own_words(hostile: Done) -> None:
    assert "reading from stdin while output is captured" in hostile.out


@pytest.fixture(scope="module")
def without_descriptors(developer: Developer, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One session of tests that deal with descriptors that are not theirs."""
    folder = tmp_path_factory.mktemp("descriptors") / "p"
    folder.mkdir()
    (folder / "test_it.py").write_text(tests_of(DESCRIPTORS))
    return developer.pytest("-v", "-s", cwd=folder, timeout=300)


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_a_test_that_takes_descriptors_takes_no_results_with_them(
    without_descriptors: Done, name: str
) -> None:
    done = without_descriptors
    assert re.search(rf"::test_{name} PASSED", done.out), done.text
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


def test_a_test_may_delete_what_the_runner_reads(developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os\n"
        "def spool():\n"
        "    found = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) >= 700]\n"
        "    return os.path.dirname([path for path in found if path.endswith('records')][0])\n"
        "def test_deletes():\n"
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
