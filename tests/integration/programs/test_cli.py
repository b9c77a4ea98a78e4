"""`ci-runner` as a real process: options in every place, exit codes, one-line errors, lazy imports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import wait_until

EMAIL = "ann@example.org"


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "ci_runner", *words],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_command_the_usage_is_shown() -> None:
    done = run()
    assert done.returncode == 2
    assert "usage: ci-runner" in done.stderr


def test_the_version_is_shown() -> None:
    assert run("--version").stdout.startswith("ci-runner 0.")


@pytest.mark.parametrize(
    "words",
    [
        ("--data-dir", "{dir}", "--log-level", "DEBUG", "admin", "user", "list"),
        ("admin", "--data-dir", "{dir}", "--log-format", "json", "user", "list"),
        ("admin", "user", "list", "--data-dir", "{dir}", "--log-level", "ERROR", "--config", "{file}"),
    ],
    ids=lambda words: " ".join(words),
)
def test_common_options_are_taken_before_and_after_any_command(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "x.toml"
    file.touch()
    done = run(*(word.format(dir=tmp_path / "data", file=file) for word in words))
    assert (done.returncode, done.stdout, done.stderr) == (0, "No users found.\n", "")
    assert (tmp_path / "data" / "runner.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_all_programs_agree_on_the_place_of_the_database(tmp_path: Path) -> None:
    env = {"XDG_DATA_HOME": str(tmp_path)}
    assert run("admin", "user", "create", "--name", "Ann", "--email", EMAIL, env=env).returncode == 0
    assert (tmp_path / "ci-runner" / "runner.db").exists()
    elsewhere = {"CI_DB_PATH": str(tmp_path / "other.db"), **env}
    assert run("admin", "user", "list", env=elsewhere).stdout == "No users found.\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("serve", "--port", "x"), "ci-runner: --port: must be a whole number, not 'x'"),
        (("serve", "--memory", "1q"), "ci-runner: --memory: must be a size such as 512m or 2g, not '1q'"),
        (("reconcile", "--config", "/none.toml"), "ci-runner: /none.toml: no such configuration file"),
        (("reconcile", "--log-level", "loud"), "ci-runner: --log-level: must be one of DEBUG"),
        (("serve", "--embedded"), "ci-runner: --embedded needs --announce FILE"),
        (("serve", "--embedded", "--announce", "/none/x"), "ci-runner: --embedded needs --data-dir"),
        (("image", "build", "--python", "banana"), "ci-runner: --python banana: give a version such as 3.12"),
        (("image", "build", "--python", "/none/x"), "ci-runner: --python /none/x: no CPython installation"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_settings_end_with_2_and_one_line(tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    done = run(*words, env={"XDG_DATA_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.startswith(text)
    assert done.stderr.count("\n") == 1


def test_an_unknown_option_ends_with_2() -> None:
    assert run("serve", "--prot", "1").returncode == 2


@pytest.mark.parametrize(
    "program",
    [("reconcile", "--engine", "process"), ("serve",), ("admin", "user", "list")],
    ids=lambda program: program[0],
)
def test_a_damaged_database_ends_with_78_and_names_the_backups(
    tmp_path: Path, program: tuple[str, ...]
) -> None:
    (tmp_path / "runner.db").write_bytes(b"this is no database at all" * 100)
    done = run(*program, "--data-dir", str(tmp_path))
    assert done.returncode == 78, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "is damaged" in last
    assert "backup" in last


def test_a_data_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    done = run("admin", "user", "list", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "chmod 700" in done.stderr


def test_admin_loads_neither_the_http_plane_nor_an_engine(tmp_path: Path) -> None:
    code = (
        "import sys, ci_runner.cli as cli;"
        f"code = cli.main(['admin', 'user', 'list', '--data-dir', {str(tmp_path / 'd')!r}]);"
        "print(code, sorted({'falcon', 'waitress', 'docker', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start programs on one data directory with the process engine; they are ended afterwards."""
    processes: list[subprocess.Popen[str]] = []

    def go(program: str, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ci_runner", program, "--data-dir", str(tmp_path / "data"), *words]
        log = tmp_path / f"{program}-{len(processes)}.log"
        with log.open("w") as file:
            processes.append(
                subprocess.Popen([*command, "--engine", "process"], stdout=file, stderr=file, text=True)
            )
        return processes[-1]

    yield go
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("program", ["serve", "reconcile", "serve --reconcile"])
def test_a_program_ends_with_0_on_a_signal_and_logs_its_settings(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], program: str, number: signal.Signals
) -> None:
    name, *more = program.split()
    process = start(
        name, *more, *(("--port", "0", "--announce", str(tmp_path / "a.json")) if name == "serve" else ())
    )
    log = tmp_path / f"{name}-0.log"
    ready = (tmp_path / "a.json").exists if name == "serve" else lambda: "epoch" in log.read_text()
    wait_until(ready, 30, what=f"{program} to get ready: {log.read_text()}")
    process.send_signal(number)
    assert process.wait(30) == 0, log.read_text()
    text = log.read_text()
    assert f"{name} 0." in text
    assert "setting reconcile.engine = process (--engine)" in text
    assert f"{name} ended" in text
    assert "Traceback" not in text
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("second", [("reconcile",), ("serve", "--reconcile", "--port", "0")], ids=" ".join)
def test_a_second_controller_ends_with_75_and_one_line(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], second: tuple[str, ...]
) -> None:
    start("reconcile")
    wait_until(lambda: "epoch" in (tmp_path / "reconcile-0.log").read_text(), 30, what="the first controller")
    process = start(*second)
    assert process.wait(30) == 75
    last = (tmp_path / f"{second[0]}-1.log").read_text().splitlines()[-1]
    assert last.startswith("ci-runner: ")
    assert "already" in last


def test_a_port_in_use_ends_with_2_and_one_line(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("serve", "--port", str(taken.getsockname()[1]))
        assert process.wait(30) == 2
    assert "choose another with --port" in (tmp_path / "serve-0.log").read_text().splitlines()[-1]


def test_the_process_engine_refuses_to_serve_two_users(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    for email in (EMAIL, "bob@example.org"):
        done = run(
            "admin", "--data-dir", str(tmp_path / "data"), "user", "create", "--name", "x", "--email", email
        )
        assert done.returncode == 0
    assert start("reconcile").wait(30) == 2
    last = (tmp_path / "reconcile-0.log").read_text().splitlines()[-1]
    assert "does not isolate users from each other" in last
