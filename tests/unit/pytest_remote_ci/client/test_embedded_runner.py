"""The runner that a run brings along: found, started once, reused, replaced; with a stand-in for `ci_runner`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_runner import KEY, fake_runner
from support.waiting import wait_until

from pytest_remote_ci import __version__
from pytest_remote_ci.client import embedded_runner
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.config.config import Config
from pytest_remote_ci.errors import ConfigError, RunnerUnreachable

STAND_IN = f"""
import json, os, pathlib, sys, threading
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from support.fake_runner import KEY, FakeRunner
words = sys.argv[1:]
assert words[:2] == ["serve", "--embedded"], words
file, data = pathlib.Path(words[words.index("--announce") + 1]), pathlib.Path(words[words.index("--data-dir") + 1])
with open(data.parent / "starts", "a") as starts:
    start = {{"pid": os.getpid(), "key": os.environ.get("REMOTE_CI_API_KEY"), "sid": os.getsid(0)}}
    starts.write(json.dumps(start) + "\\n")
if os.environ.get("STAND_IN_FAILS"):
    sys.exit("first line\\nthe port is taken")
if os.environ.get("STAND_IN_HANGS"):
    threading.Event().wait(60)
runner = FakeRunner()
said = {{"url": runner.url, "key": KEY, "pid": os.getpid(), "version": {__version__!r}, "engine": "process",
        "warning": os.environ.get("STAND_IN_WARNING")}}
temporary = file.with_suffix(".new")
temporary.touch(0o600)
temporary.write_text(json.dumps(said))
temporary.rename(file)
threading.Event().wait(120)
"""


class Home:
    """The folder of an embedded runner, and the processes that were started in it."""

    def __init__(self, place: Path, script: Path) -> None:
        self.place = place
        self.command = (sys.executable, str(script))

    def ensure(self, **more: Any) -> embedded_runner.Runner:
        return embedded_runner.ensure(self.place, command=self.command, **more)

    def starts(self) -> list[dict[str, object]]:
        file = self.place / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def stop(self) -> None:
        for start in self.starts():
            try:
                os.kill(int(str(start["pid"])), signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    home = Home(tmp_path / "runner", script)
    try:
        yield home
    finally:
        home.stop()


def test_a_configured_runner_is_the_one() -> None:
    config = Config(url="https://runner.example", api_key=None)
    assert embedded_runner.find(config) == embedded_runner.Runner("https://runner.example", None)


def test_the_usual_port_is_used_when_a_runner_answers_there_and_a_key_is_known(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    with fake_runner() as runner:
        monkeypatch.setattr(embedded_runner, "DEFAULT_URL", runner.url)
        assert embedded_runner.find(Config(api_key="k")) == embedded_runner.Runner(runner.url, "k")
        assert [request.headers.get("authorization") for request in runner.requests] == [None]


def test_without_a_runner_and_the_extra_both_ways_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_runner, "_EXTRA", ("pytest", "a_module_of_the_extra"))
    with pytest.raises(ConfigError, match=r"`remote-ci login`.*pip install 'pytest-remote-ci\[runner\]'"):
        embedded_runner.find(Config())


def test_nothing_of_the_extra_is_imported_to_find_out(home: Home) -> None:
    code = (
        "import sys\n"
        "from pytest_remote_ci.client import embedded_runner\n"
        "from pytest_remote_ci.config.config import Config\n"
        "embedded_runner.ensure = lambda *a, **k: None\n"
        "embedded_runner.find(Config())\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('ci_runner', 'falcon', 'peewee', 'docker')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_runner_is_started_detached_and_found_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_CI_API_KEY", "of another runner")
    told: list[str] = []
    first = embedded_runner.ensure(home.place, command=home.command, notify=told.append)
    assert first.key == KEY
    assert first.warning is None
    assert told == ["starting a runner on this machine"]
    assert embedded_runner.ensure(home.place, command=home.command, notify=told.append) == first
    assert len(told) == 1
    (start,) = home.starts()
    assert start["key"] is None, "keys of other runners stay here"
    assert start["sid"] == start["pid"], "Ctrl-C in this terminal does not reach it"
    assert stat.S_IMODE(home.place.stat().st_mode) == 0o700


def test_many_at_once_start_one(home: Home) -> None:
    found: list[embedded_runner.Runner] = []
    threads = [threading.Thread(target=lambda: found.append(home.ensure())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 6
    assert len(set(found)) == 1
    assert len(home.starts()) == 1


def test_a_dead_runner_is_replaced(home: Home) -> None:
    first = home.ensure()
    home.stop()
    (start,) = home.starts()
    wait_until(lambda: not embedded_runner._is_alive(int(str(start["pid"]))), what="the runner's end")
    second = home.ensure()
    assert second.url != first.url
    assert len(home.starts()) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 1}', '{"url": "x", "key": "k", "pid": "p"}'])
def test_an_announcement_that_makes_no_sense_is_replaced(home: Home, content: str) -> None:
    home.place.mkdir()
    (home.place / "runner.json").write_text(content)
    assert home.ensure().key == KEY


def test_a_runner_of_another_version_is_not_used(home: Home) -> None:
    with fake_runner() as other:
        home.place.mkdir()
        said = {"url": other.url, "key": "k", "pid": os.getpid(), "version": "0.0.0"}
        (home.place / "runner.json").write_text(json.dumps(said))
        assert home.ensure().url != other.url


def test_a_runner_that_does_not_answer_is_replaced(home: Home) -> None:
    home.place.mkdir()
    said = {"url": "http://127.0.0.1:9", "key": "k", "pid": os.getpid(), "version": __version__}
    (home.place / "runner.json").write_text(json.dumps(said))
    assert home.ensure().url != "http://127.0.0.1:9"


def test_a_runner_that_ends_at_once_is_explained_by_its_last_line(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "1")
    with pytest.raises(RunnerUnreachable, match="did not start: the port is taken") as caught:
        home.ensure()
    assert caught.value.exit_code == 69


def test_a_runner_that_does_not_come_up_is_given_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_HANGS", "1")
    with pytest.raises(RunnerUnreachable, match="did not start: it printed nothing"):
        home.ensure(start_time=0.5)


def test_a_weaker_engine_is_passed_on_as_a_warning(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_WARNING", "no Docker engine answers: tests run without isolation")
    assert home.ensure().warning == "no Docker engine answers: tests run without isolation"


@pytest.mark.parametrize(
    ("environ", "folder"),
    [({}, "/h/.local/share"), ({"XDG_DATA_HOME": "/d"}, "/d"), ({"XDG_DATA_HOME": "d"}, "/h/.local/share")],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="has a folder of its own")
def test_the_folder_belongs_to_the_user_and_the_version(environ: dict[str, str], folder: str) -> None:
    expected = Path(folder) / "pytest-remote-ci" / f"runner-{__version__}"
    assert embedded_runner.folder(environ, Path("/h")) == expected


def test_a_session_uses_it_and_says_what_it_lacks(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run without any configuration, with the stand-in in place of the real program."""
    packages = tmp_path / "packages" / "ci_runner"
    packages.mkdir(parents=True)
    (packages / "__init__.py").write_text("")
    (packages / "__main__.py").write_text(STAND_IN)
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text("")
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_CORE_"))
    }
    environ |= {
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "PYTHONPATH": str(packages.parent),
        "HOME": str(tmp_path),
    }
    environ |= {"STAND_IN_WARNING": "no isolation here"}
    home.place = embedded_runner.folder(environ, tmp_path)
    for _ in range(2):
        answer = subprocess.run(
            [sys.executable, "-m", "pytest", "--remote-ci"],
            cwd=project,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout == "2 passed\n"
        assert answer.stderr.startswith("remote-ci: no isolation here\n")
    assert len(home.starts()) == 1


def test_a_runner_with_old_settings_is_replaced_once_it_is_idle(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_RUNNER_CONCURRENCY", "1")
    first = home.ensure()
    assert home.ensure() == first
    monkeypatch.setenv("CI_RUNNER_CONCURRENCY", "2")
    second = home.ensure()
    assert second.url != first.url
    assert second.warning is None
    assert home.ensure() == second
    assert len(home.starts()) == 2


def test_a_busy_runner_keeps_its_settings_and_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first = home.ensure()
    with Client(first.url, first.key) as client:
        client.submit(io.BytesIO(b"PK"))
    monkeypatch.setenv("CI_RUNNER_CONCURRENCY", "2")
    again = home.ensure()
    assert again.url == first.url
    assert "has unfinished jobs and keeps its settings" in str(again.warning)
    assert len(home.starts()) == 1


def test_a_listing_starts_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_runner, "folder", lambda: home.place)
    with pytest.raises(RunnerUnreachable, match="`pytest --remote-ci` starts it"):
        embedded_runner.find(Config(), starts=False)
    assert home.starts() == []
    running = home.ensure()
    assert embedded_runner.find(Config(), starts=False) == running


def test_a_full_home_is_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "home"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with contextlib.suppress(OSError), (disk / "full").open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("REMOTE_CI", "XDG"))
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest_remote_ci.cli.main", "show", "x"],
            cwd=tmp_path,
            env={**environ, "HOME": str(disk)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode in (69, 70, 4)
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert "No space left on device" in line or "is full" in line
        assert str(disk) in line
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_lock_that_cannot_be_written_is_one_line(home: Home) -> None:
    (home.place / "start.lock").mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"start\.lock: cannot be written \(Is a directory\); the embedded runner"
    ):
        home.ensure()
