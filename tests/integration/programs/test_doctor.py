"""`ci-runner doctor`: each check's findings, on real folders, files, ports and engines."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ci_runner import doctor
from ci_runner.controller.engines.memory import MemoryEngine
from ci_runner.doctor import Finding
from ci_runner.settings.groups import (
    EnvironmentSettings,
    ReconcileSettings,
    ServeSettings,
    Settings,
    StorageSettings,
)
from ci_runner.storage.data_dir import locked
from ci_runner.store import Store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Everything below an existing, private folder."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return Settings(storage=StorageSettings(data_dir=folder, disk_reserve=1))


def levels(findings: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.level) for finding in findings]


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 10, 18), "warn"),
        ((3, 10, 19), "ok"),
        ((3, 11, 13), "warn"),
        ((3, 11, 14), "ok"),
        ((3, 14, 0), "ok"),
    ],
)
def test_pythons_with_flaws_in_reading_archives_are_named(version: tuple[int, ...], level: str) -> None:
    (finding,) = doctor.python(version)
    assert finding.level == level
    assert (finding.advice != "") == (level == "warn")


@pytest.mark.parametrize(
    ("version", "level"), [((3, 40, 1), "warn"), ((3, 51, 2), "warn"), ((3, 51, 3), "ok")]
)
def test_sqlite_before_the_mended_checkpoint_is_named(version: tuple[int, ...], level: str) -> None:
    assert levels(doctor.sqlite(version)) == [("sqlite", level)]


@pytest.mark.parametrize(
    ("mode", "level"),
    [(0o700, "ok"), (0o755, "warn"), (0o770, "fail"), (0o707, "fail")],
    ids=lambda x: str(x),
)
def test_permissions_of_the_data_directory(settings: Settings, mode: int, level: str) -> None:
    settings.storage.data_dir.chmod(mode)
    assert levels(doctor.data_dir(settings))[0] == ("data directory", level)
    assert settings.storage.data_dir.stat().st_mode & 0o777 == mode, "the doctor changes nothing"


def test_a_missing_data_directory_is_fine_and_not_made(tmp_path: Path) -> None:
    settings = Settings(storage=StorageSettings(data_dir=tmp_path / "none"))
    assert levels(doctor.data_dir(settings))[0] == ("data directory", "ok")
    assert levels(doctor.database(settings)) == [("database", "ok")]
    assert not (tmp_path / "none").exists()


def test_too_little_free_disk_fails(settings: Settings) -> None:
    full = replace(settings, storage=replace(settings.storage, disk_reserve=1 << 60))
    assert levels(doctor.data_dir(full))[1] == ("disk", "fail")
    assert levels(doctor.data_dir(settings))[1] == ("disk", "ok")


def test_a_database_without_a_controller_warns(settings: Settings) -> None:
    Store.open(settings.storage.database_path).close()
    assert levels(doctor.database(settings)) == [("database", "ok"), ("controller", "warn")]


def test_a_controller_that_lives_is_named_and_one_that_is_silent_warns(settings: Settings) -> None:
    store = Store.open(settings.storage.database_path)
    with locked(settings.storage.data_dir / "reconcile.lock", "a controller"):
        assert levels(doctor.database(settings))[1] == ("controller", "warn")
        store.lease.acquire("host, process 1")
        controller = list(doctor.database(settings))[1]
    store.close()
    assert controller.level == "ok"
    assert "host, process 1" in controller.text


def test_a_damaged_database_fails(settings: Settings) -> None:
    settings.storage.database_path.write_bytes(b"no database" * 1000)
    (finding,) = doctor.database(settings)
    assert (finding.level, "damaged" in finding.text) == ("fail", True)


def test_a_port_that_something_else_has_fails(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        busy = replace(settings, serve=ServeSettings(port=number))
        taken.settimeout(0.01)
        (finding,) = doctor.port(busy)
    assert finding.level == "fail"
    (finding,) = doctor.port(busy)
    assert finding.level == "ok"


def test_the_default_image_is_looked_for_and_its_pythons_compared(settings: Settings) -> None:
    engine = MemoryEngine()
    findings = list(doctor.engine(settings, lambda: engine))
    assert findings[0].check == "engine"
    assert findings[-1].check == "image"


def test_a_check_that_breaks_is_a_finding_and_the_others_are_shown(settings: Settings) -> None:
    from ci_runner.settings.loader import Loaded

    def breaks() -> MemoryEngine:
        raise ZeroDivisionError("oh")

    findings = doctor.collect(Loaded(settings), breaks, lambda: [("tag:1", "3.11,3.12")])
    broken = [
        finding for finding in findings if "the check itself failed: ZeroDivisionError: oh" in finding.text
    ]
    assert [finding.check for finding in broken] == ["engine"]
    assert Finding("image", "ok", "tag:1 (Python 3.11, 3.12)") in findings
    assert findings[-1].check == "limits"


def test_the_table_has_one_line_per_finding_and_one_per_advice() -> None:
    out = io.StringIO()
    code = doctor.show([doctor.ok("a", "fine"), doctor.fail("longer", "broken", "mend it")], out)
    assert code == 1
    assert out.getvalue() == "ok    a       fine\nfail  longer  broken\n              → mend it\n"


def run_doctor(tmp_path: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "ci_runner",
            "doctor",
            "--data-dir",
            str(tmp_path / "data"),
            "--port",
            "0",
            *words,
        ],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_an_engine_the_doctor_fails_and_says_what_to_do(tmp_path: Path) -> None:
    done = run_doctor(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 1, done.stderr
    assert "fail  engine" in done.stdout
    assert "scripts/start-docker" in done.stdout
    assert not (tmp_path / "data").exists()


def test_with_the_process_engine_the_doctor_warns_about_isolation(tmp_path: Path) -> None:
    done = run_doctor(tmp_path, "--engine", "process", "--json")
    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == 0, findings
    assert "isolation" in [finding["check"] for finding in findings if finding["level"] == "warn"]


@pytest.mark.docker
def test_with_docker_the_doctor_names_engine_and_image(tmp_path: Path, docker_engine: str) -> None:
    done = run_doctor(tmp_path, "--base-image", docker_engine, "--default-python", "3.11")
    assert done.returncode == 0, done.stdout
    assert "ok    engine" in done.stdout
    assert docker_engine in done.stdout


@pytest.mark.parametrize(
    ("engine", "index", "expected"),
    [
        ("docker", None, []),
        ("docker", "https://index.example/simple", [("packages", "ok")]),
        ("docker", "http://localhost:3141/simple", [("packages", "warn"), ("packages", "ok")]),
        ("docker", "http://127.0.0.1:3141/simple", [("packages", "warn"), ("packages", "ok")]),
        ("process", "http://127.0.0.1:3141/simple", [("packages", "ok")]),
    ],
)
def test_an_index_that_containers_cannot_ask_is_named(
    settings: Settings, engine: str, index: str | None, expected: list[tuple[str, str]]
) -> None:
    changed = replace(
        settings,
        reconcile=ReconcileSettings(engine=engine),
        environments=EnvironmentSettings(index_url=index),
    )
    assert levels(doctor.packages(changed)) == expected
