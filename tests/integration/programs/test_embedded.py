"""The embedded runner's own part: what it takes over from its user, and what it keeps out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import wait_until

from ci_runner import embedded, programs
from ci_runner.controller.engine import Probe
from ci_runner.controller.engines.memory import MemoryEngine
from ci_runner.errors import SettingsError
from ci_runner.model import api_keys
from ci_runner.model.job import Job
from ci_runner.settings.groups import ReconcileSettings, Settings
from ci_runner.store import Store

HERE = Path(__file__)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SSL_CERT_FILE": str(HERE)}, {"environments.ca_bundle": str(HERE)}),
        ({"SSL_CERT_FILE": "/none", "PIP_CERT": str(HERE)}, {"environments.ca_bundle": str(HERE)}),
        ({"PIP_INDEX_URL": "https://i/simple"}, {"environments.index_url": "https://i/simple"}),
        ({"PIP_INDEX_URL": "file:///opt/simple"}, {}),
        (
            {"UV_INDEX_URL": "https://u", "PIP_INDEX_URL": "https://p"},
            {"environments.index_url": "https://u"},
        ),
        (
            {"PIP_EXTRA_INDEX_URL": "https://a file:///b https://c"},
            {"environments.extra_index_urls": "https://a,https://c"},
        ),
        ({"https_proxy": "http://p:1"}, {"environments.https_proxy": "http://p:1"}),
        ({"NO_PROXY": "x"}, {"environments.no_proxy": "x"}),
        ({}, {}),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_what_works_for_the_user_s_pip_works_for_the_user_s_runner(
    variables: dict[str, str], expected: dict[str, str]
) -> None:
    found = embedded.host_package_settings(variables)
    assert {name: value for name, (value, _) in found.items()} == expected


def test_address_and_database_are_its_own_unless_its_own_command_line_says_otherwise() -> None:
    forced, defaults = embedded.layers({"storage.data_dir": "/d", "serve.port": "5"}, {})
    assert forced == {
        "serve.host": "127.0.0.1",
        "serve.reconcile": "true",
        "storage.database": "/d/runner.db",
    }
    assert defaults["reconcile.engine"] == ("auto", "embedded")
    with pytest.raises(SettingsError, match="needs --data-dir"):
        embedded.layers({}, {})


def test_a_job_may_have_what_the_machine_has() -> None:
    limits = embedded.machine_limits()
    _, defaults = embedded.layers({"storage.data_dir": "/d"}, {})
    assert {name: defaults[name][0] for name in limits} == limits
    assert int(limits["reconcile.cpus"]) == len(os.sched_getaffinity(0))
    memory = embedded.total_memory()
    assert memory is not None
    assert int(limits["reconcile.max_memory"]) == memory
    assert memory // 2 < int(limits["reconcile.memory"]) <= memory


@pytest.mark.parametrize(
    ("engine", "cpus", "memory"),
    [("auto", 2.0, 3 << 30), ("docker", 16.0, 64 << 30)],
    ids=["chosen", "named"],
)
def test_an_engine_s_own_machine_may_have_less(tmp_path: Path, engine: str, cpus: float, memory: int) -> None:
    class InSmallMachine(MemoryEngine):
        def probe(self) -> Probe:
            return Probe("1", isolates=True, facts={"cpus": "2", "memory": str(3 << 30), "url": "unix://x"})

    wanted = ReconcileSettings(engine=engine, cpus=16.0, max_cpus=16.0, memory=64 << 30, max_memory=64 << 30)
    settings = Settings(reconcile=wanted)
    with contextlib.closing(InSmallMachine()) as small:
        found = programs.within_engine(settings, small).reconcile
    assert (found.cpus, found.max_cpus) == (cpus, cpus)
    assert (found.memory, found.max_memory) == (memory, memory)
    with contextlib.closing(MemoryEngine()) as unknown:
        assert programs.within_engine(settings, unknown) == settings


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "runner.db")
    yield opened
    opened.close()


def test_each_start_makes_a_key_and_ends_the_one_before(store: Store) -> None:
    first, second = embedded.make_key(store), embedded.make_key(store)
    (user,) = store.users.list()
    assert (user.name, user.email) == ("local", "local@localhost")
    active = [key.key_hash for key in store.keys.list(user.id) if key.is_active]
    assert active == [api_keys.hash_key(second)]
    assert first != second


def test_it_ends_when_idle_but_never_with_a_job_unfinished(store: Store) -> None:
    idle = 0.0
    stop = threading.Event()
    store.jobs.create(Job("0b5b8d3c-0000-4000-8000-000000000001"))
    embedded.Idleness(0.1).watch(store, lambda: idle, stop)
    assert not stop.wait(0.3), "requests keep it alive"
    idle = 100.0
    assert not stop.wait(0.3), "so does a job that waits"
    store.complete_job("0b5b8d3c-0000-4000-8000-000000000001", True)
    wait_until(stop.is_set, 5, what="the end")


def test_an_announcement_is_private_complete_and_removed_only_by_its_author(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "runner.json"
    with programs.announced(path, {"url": "u", "key": "k"}):
        assert path.stat().st_mode & 0o777 == 0o600
        assert json.loads(path.read_text()) == {"url": "u", "key": "k"}
        with programs.announced(path, {"url": "another"}):
            pass
        assert not path.exists()
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"


class Embedded:
    """An embedded runner as the plugin starts it."""

    def __init__(self, folder: Path) -> None:
        self.announce = folder / "runner.json"
        self.log = folder / "runner.log"
        self.command = [
            sys.executable,
            "-m",
            "ci_runner",
            "serve",
            "--embedded",
            "--announce",
            str(self.announce),
            "--data-dir",
            str(folder / "data"),
        ]

    def start(self, *words: str, **env: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.command, *words], env={**os.environ, **env}, stdout=log, stderr=log
            )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    runner = Embedded(tmp_path)
    processes: list[subprocess.Popen[bytes]] = []

    def go(*words: str, **env: str) -> subprocess.Popen[bytes]:
        processes.append(runner.start(*words, **env))
        return processes[-1]

    yield go
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


NO_DOCKER = {"DOCKER_HOST": "unix:///none/docker.sock"}


def announced(folder: Path) -> dict[str, object]:
    wait_until((folder / "runner.json").exists, 30, what=(folder / "runner.log").read_text())
    document: dict[str, object] = json.loads((folder / "runner.json").read_text())
    return document


def test_it_announces_itself_warns_without_docker_and_ends_cleanly_on_sigterm(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(**NO_DOCKER, CI_RUNNER_PORT="1", CI_DB_PATH="/none/x.db")
    said = announced(tmp_path)
    assert (said["pid"], said["engine"]) == (process.pid, "process")
    assert "not isolated" in str(said["warning"])
    assert api_keys.parse(str(said["key"])) is not None
    assert str(said["url"]).startswith("http://127.0.0.1:")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "runner.db").exists()

    second = start(**NO_DOCKER)
    assert second.wait(30) == 75
    assert "already uses" in (tmp_path / "runner.log").read_text()
    assert announced(tmp_path)["pid"] == process.pid

    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not (tmp_path / "runner.json").exists()
    assert str(said["key"]) not in (tmp_path / "runner.log").read_text()


def test_it_ends_by_itself_when_nobody_asks(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start("--idle-exit", "0.5", **NO_DOCKER)
    started = time.monotonic()
    assert process.wait(30) == 0
    assert time.monotonic() - started > 0.5
    assert not (tmp_path / "runner.json").exists()
