"""Worker and recorder run under the oldest Pythons that jobs may have, which are older than the developer's."""

from __future__ import annotations

import collections
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import client_environments
from support.developer import FIXTURES

import pytest_remote_ci
from ci_runner.base_image import pythons
from ci_runner.errors import SettingsError

JOB = Path(pytest_remote_ci.__file__).parent / "job"


def records_of(python: Path, place: Path, spool: Path) -> tuple[int, list[dict[str, Any]]]:
    """Run pytest as a job is run; (exit code, records)."""
    spool.mkdir()
    argv = [str(python), str(JOB / "boot.py"), "module", "-v", "-p", "no:cacheprovider"]
    job = {
        "protocol": 1,
        "argv": argv,
        "cwd": str(place),
        "env": {"REMOTE_CI_RECORDS": str(spool)},
        "path": [],
    }
    (spool / "job.json").write_text(json.dumps({**job, "grace": 10}))
    done = subprocess.run(
        [str(python), "-I", "-S", str(JOB / "worker.py"), str(spool)],
        timeout=120,
        check=False,
        capture_output=True,
    )
    assert done.stderr == b""
    records: list[dict[str, Any]] = []
    for line in (spool / "records").read_text().splitlines():
        record = json.loads(line)
        records += record["of"] if record["t"] == "several" else [record]
    return done.returncode, records


@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_a_session_is_recorded_under_an_older_python(version: str, tmp_path: Path) -> None:
    try:
        base = pythons.find(version).prefix / "bin" / f"python{version}"
    except SettingsError as error:
        pytest.skip(str(error))
    folder = client_environments.ROOT / ".cache" / "clients" / f"older-{version}"
    python = client_environments.environment(folder, "pytest", "pytest-subtests", python=str(base))
    place = tmp_path / "outcomes"
    shutil.copytree(FIXTURES / "parity" / "outcomes", place)
    tests = place / "test_outcomes.py"
    tests.write_text(tests.read_text().replace("ExceptionGroup(", "print("))  # there is none before 3.11
    code, records = records_of(python, place, tmp_path / "spool")
    assert code == 1
    kinds = collections.Counter(record["t"] for record in records)
    assert kinds["unavailable"] == 0
    assert next(item for item in records if item["t"] == "session")["python"].startswith(f"{version}.")
    outcomes = collections.Counter(item["d"]["outcome"] for item in records if item["t"] == "report")
    assert outcomes["failed"] > 10
    assert outcomes["passed"] > 40
    assert outcomes["skipped"] > 5
    assert next(item for item in records if item["t"] == "end")["exitstatus"] == 1
