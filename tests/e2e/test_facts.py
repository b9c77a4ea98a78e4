"""What a test finds out about its place, directly and in a job: each difference is a line of docs/guide/projects.md."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.developer import FIXTURES, Developer, run
from support.needs import skip
from support.runner import Runner

pytestmark = pytest.mark.parametrize("runner", ["docker", "process"], indirect=True)

DOCUMENT = Path(__file__).parents[2] / "docs" / "guide" / "projects.md"
#: Set in jobs where this machine reaches package indexes through authorities of its own.
_CERTIFICATES = re.compile(r"env\.(SSL_CERT_\w+|\w+_CA_BUNDLE|PIP_CERT|GIT_SSL_CAINFO)")
#: Seconds that a run may take, the environment's making included.
_PATIENCE = 240.0
#: The developer's `pytest`, as it is typed.
_PYTEST = str(Path(sys.executable).with_name("pytest"))
#: Of a developer: a language and a time zone of their own, a terminal, a variable and a program.
_DEVELOPER = {
    "LANG": "C.utf8",
    "TZ": "XYZ-5",
    "TERM": "xterm-256color",
    "USER": "dev",
    "LOGNAME": "dev",
    "SHELL": "/bin/sh",
    "DEVELOPERS_OWN": "1",
    "PYTHONWARNINGS": "ignore:facts of a variable",
    "PYTHONHASHSEED": "7",
    "BUILD_NUMBER": "1",
}
#: The same developer's `python`, whose options travel.
_PYTHON = [sys.executable, "-bb", "-W", "error:facts", "-X", "int_max_str_digits=5000"]


def ordinary_user() -> list[str]:
    """A command before another one, which root runs as somebody else by it, who has the same files."""
    if os.geteuid():
        return []
    command = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        skip("root needs user namespaces to run tests as an ordinary user")
    return command


def environment(developer: Developer) -> dict[str, str]:
    """The developer's, of an activated virtual environment."""
    found = {
        name: value for name, value in developer.environ().items() if name.startswith(("REMOTE_CI_", "SSL_"))
    }
    scripts = Path(sys.executable).parent
    path = [str(scripts), str(developer.home / "bin"), os.environ["PATH"]]
    return {
        **found,
        **_DEVELOPER,
        "HOME": str(developer.home),
        "PATH": os.pathsep.join(path),
        "VIRTUAL_ENV": str(scripts.parent),
    }


def prepare_home(home: Path) -> None:
    """A file and a program of the developer's own."""
    (home / ".gitconfig").touch()
    (home / "bin").mkdir()
    (home / "bin" / "developers-own").write_text("#!/bin/sh\n")
    (home / "bin" / "developers-own").chmod(0o755)


def prepare(project: Path) -> Path:
    """A copy of the fixture with what git cannot store."""
    shutil.copytree(FIXTURES / "facts", project, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (project, project / "folder", project / "first"):
        folder.chmod(0o755)
    (project / "folder" / "one.txt").chmod(0o644)
    (project / "run.sh").chmod(0o755)
    (project / "link.txt").symlink_to("run.sh")
    (project / "broken.txt").symlink_to("nowhere")
    (project / "empty").mkdir()
    (project / "private").mkdir(0o700)
    (project / "private" / "file.txt").touch()
    (project / "private.txt").write_text("private\n")
    (project / "private.txt").chmod(0o600)
    os.utime(project / "private.txt", (1_000_000_000, 1_000_000_000))
    (project / ".gitignore").write_text("ignored.txt\n")
    (project / "ignored.txt").touch()
    outside = {
        "project": str(project),
        "host": socket.gethostname(),
        "processors": os.cpu_count(),
        "pid": os.getpid(),
        "command": Path("/proc/self/cmdline").read_text(),
    }
    (project / "outside.json").write_text(json.dumps(outside))
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    return project


def on_a_terminal(command: list[str], cwd: Path, env: Mapping[str, str]) -> str:
    """What a command prints that a developer types."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))

    def become_a_developers() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.umask(0o022)
        for kind, soft in ((resource.RLIMIT_NOFILE, 1024), (resource.RLIMIT_CORE, 0)):
            resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))
        for ignored in (
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGHUP,
        ):  # by `nohup`, or in the background of a shell
            signal.signal(ignored, signal.SIG_DFL)

    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=become_a_developers,
    )
    os.close(theirs)
    text, deadline = b"", time.monotonic() + _PATIENCE
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            try:
                text += os.read(ours, 65536)
            except OSError:  # nobody has the other end any more
                break
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return text.decode(errors="replace")


def facts(text: str) -> dict[str, Any]:
    """What the fixture printed."""
    match = re.search(r"^FACTS (\{.*\})\r?$", text, re.MULTILINE)
    assert match is not None, text
    found: dict[str, Any] = json.loads(match[1])
    return found


def differences(direct: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fact → (directly, in a job), where they differ; of abilities, only those that a job lacks."""
    return {
        name: (direct.get(name), job.get(name))
        for name in sorted(direct.keys() | job.keys())
        if not _CERTIFICATES.fullmatch(name)
        and (
            direct.get(name) and not job.get(name)
            if name.startswith("can.")
            else direct.get(name) != job.get(name)
        )
    }


def documented(engine: str) -> list[str]:
    """Facts in the table of differences that hold for an engine."""
    section = DOCUMENT.read_text().partition("\n## Differences\n")[2].partition("\n## ")[0]
    found = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and cells[1] in (engine, "both"):
            found += re.findall(r"`([^`]+)`", cells[0])
    return found


def test_all_differences_between_a_direct_run_and_a_job_are_documented(
    runner: Runner, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    engine = request.node.callspec.params["runner"]
    home = tmp_path / "home"
    home.mkdir()
    prepare_home(home)
    developer = Developer(runner, home, runner.key)
    env, words = environment(developer), ["-q", "-rP", "-p", "no:cacheprovider"]
    remote = facts(
        on_a_terminal([*_PYTHON, _PYTEST, "--remote-ci", *words], prepare(tmp_path / "remote" / "facts"), env)
    )
    # Jobs in containers are an ordinary user's, the others are of whoever runs the runner.
    command = [*(ordinary_user() if engine == "docker" else []), *_PYTHON, _PYTEST, *words]
    direct = facts(on_a_terminal(command, prepare(tmp_path / "direct" / "facts"), env))
    assert len([name for name in direct if not name.startswith("env.")]) >= 60
    assert not [
        f"{name}: {value}" for name, value in direct.items() if "Error: " in str(value) and name[0] != "t"
    ]
    if os.nice(0):  # of whoever started these tests; only the direct run inherits it from them
        direct["processes.nice"] = 0
    found, lines = differences(direct, remote), documented(engine)
    assert sorted(lines) == sorted(set(lines)), "a fact stands there twice"
    new = [f"{name}: {found[name][0]!r}, in a job {found[name][1]!r}" for name in found if name not in lines]
    assert not new, "not in docs/guide/projects.md:\n" + "\n".join(new)
    # What this machine itself cannot do tells nothing about jobs.
    vanished = {
        name for name in set(lines) - found.keys() if not (name.startswith("can.") and not direct.get(name))
    }
    assert vanished == set(), "in docs/guide/projects.md, and no difference any more"


#: A project of which pytest can collect nothing: what is written where.
_FAILING = {
    # Two test files of one name and content.
    "a/test_x.py": "def test_x(): pass\n",
    "b/test_x.py": "def test_x(): pass\n",
    # Only `python -m pytest` finds this module.
    "module_of_the_root.py": "",
    "tests/test_p.py": "import module_of_the_root\ndef test_p(): pass\n",
    # An error only by an option of the interpreter.
    "warned/test_w.py": "import warnings\nwarnings.warn('an old thing', DeprecationWarning)\ndef test_w(): pass\n",
}
_WORDS = (
    "import file mismatch",
    "No module named 'module_of_the_root'",
    "DeprecationWarning: an old thing",
)


def test_what_fails_directly_fails_in_a_job(runner: Runner, tmp_path: Path) -> None:
    for path, text in _FAILING.items():
        place = tmp_path / "project" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    developer = Developer(runner, tmp_path, runner.key)
    python = [sys.executable, "-W", "error:an old thing", "-X", "dev"]
    for options in ([], ["--remote-ci"]):
        done = run(
            [*python, _PYTEST, "-q", "-p", "no:cacheprovider", *options],
            cwd=tmp_path / "project",
            env=developer.environ(),
        )
        assert [words for words in _WORDS if words not in done.out] == [], done.text
        assert (done.code, "3 errors" in done.out) == (2, True), done.text
