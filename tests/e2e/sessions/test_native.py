"""The native session in containers: results of the remote pytest as the local pytest's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.developer import Developer, interrupt, outcomes

pytestmark = pytest.mark.docker

TESTS = """
import pytest
import only_over_there

def test_passes(): pass
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="not now")
def test_skipped(): pass
"""


@pytest.mark.every(2)
def test_a_local_report_is_written_of_tests_whose_imports_are_missing_here(
    developer: Developer, tmp_path: Path
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = lib\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "only_over_there.py").write_text("import os\nassert 'REMOTE_CI_JOB' in os.environ\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    done = developer.pytest("-rs", "--junitxml=report.xml", cwd=tmp_path)
    assert done.code == 1, done.text
    assert f"rootdir: {tmp_path}" in done.out
    assert "test_it.py:6: AssertionError" in done.out
    assert "SKIPPED [1] test_it.py:7: not now" in done.out
    assert "1 failed, 1 passed, 1 skipped" in done.out
    assert (tmp_path / "report.xml").read_text().count("<testcase") == 3
    again = developer.pytest("--lf", cwd=tmp_path)
    assert "run-last-failure: rerun previous 1 failure" in again.out, again.text
    assert "1 failed" in again.out


def test_a_debugger_that_is_called_in_a_module_of_the_project_fails_its_test(
    developer: Developer, tmp_path: Path
) -> None:
    (tmp_path / "product.py").write_text("def run():\n    breakpoint()\n")
    (tmp_path / "test_it.py").write_text(
        "import product\ndef test_calls(): product.run()\ndef test_after(): pass\n"
    )
    done = developer.pytest("-v", cwd=tmp_path, timeout=120)
    assert outcomes(done) == {"test_calls": "FAILED", "test_after": "PASSED"}, done.text
    assert done.code == 1
    line = (
        "product.py:2: a debugger was called, but the job has no terminal: "
        "run this test without --remote-ci, or set PYTHONBREAKPOINT=0"
    )
    assert done.out.splitlines().count(line) == 1, done.out


def test_interrupting_cancels_the_job_and_shows_what_there_is(developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text(
        "import time\ndef test_quick(): pass\ndef test_slow():\n    print('sleeping', flush=True)\n    time.sleep(60)\n"
    )
    command = (sys.executable, "-m", "pytest", "--remote-ci", "-v", "-s")
    process = developer.popen(*command, cwd=tmp_path, PYTHONUNBUFFERED="1")
    assert process.stdout is not None
    seen = ""
    while "sleeping" not in seen:  # the runner's own time limits end this
        line = process.stdout.readline()
        assert line, seen
        seen += line
    done = interrupt(process)
    text = seen + done.out
    assert done.code == 2, text + done.err
    assert "test_slow.py::test_quick PASSED" in text
    assert "KeyboardInterrupt" in text
    assert "1 passed" in text
    assert developer.jobs()[0]["status"] == "cancelled"
