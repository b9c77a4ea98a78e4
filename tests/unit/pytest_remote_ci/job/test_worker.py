"""The worker as a real process with a real spool: frames, signals, hostile commands."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_until

from ci_runner.model import seals
from pytest_remote_ci.job import worker

WORKER = Path(worker.__file__)
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def write_job(spool: Path, code: str, *, grace: float = 5.0, **more: Any) -> None:
    argv = [sys.executable, "-I", "-S", "-c", code]
    job = {"protocol": 1, "argv": argv, "cwd": str(spool), "env": {}, "grace": grace, **more}
    (spool / "job.json").write_text(json.dumps(job))


def command(spool: Path) -> list[str]:
    return [sys.executable, "-I", "-S", str(WORKER), str(spool)]


def run(spool: Path, code: str, **more: Any) -> int:
    write_job(spool, code, **more)
    return subprocess.run(command(spool), timeout=30, check=False, capture_output=True).returncode


def frames(spool: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (spool / "frames").read_text().splitlines()]


def test_frames_say_hello_started_and_exit_with_the_commands_own_code(spool: Path) -> None:
    assert run(spool, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)") == 3
    hello, started, *_, last = frames(spool)
    assert (hello["t"], hello["python"], hello["worker"]) == ("hello", sys.version.split()[0], worker.VERSION)
    assert started["t"] == "started"
    assert started["pid"] > 0
    assert {key: last[key] for key in ("t", "code", "signal", "oom", "stopped", "stdout", "stderr")} == {
        "t": "exit",
        "code": 3,
        "signal": None,
        "oom": 0,
        "stopped": False,
        "stdout": 4,
        "stderr": 4,
    }
    assert (spool / "stdout").read_text() == "out\n"
    assert (spool / "stderr").read_text() == "err\n"


def test_no_signal_is_ignored_or_blocked_because_the_worker_was_started_so(spool: Path) -> None:
    inherited = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])\n"
    inherited += "for number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):\n"
    inherited += "    signal.signal(number, signal.SIG_IGN)\n"
    inherited += "os.execv(sys.argv[1], sys.argv[1:])"
    write_job(spool, "print(open('/proc/self/status').read())")
    subprocess.run([sys.executable, "-c", inherited, *command(spool)], timeout=30, check=True)
    status = dict(line.split(":\t") for line in (spool / "stdout").read_text().splitlines() if ":\t" in line)
    pythons_own = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))
    assert (int(status["SigIgn"], 16), int(status["SigBlk"], 16)) == (pythons_own, 0)


def test_an_interrupt_waits_until_pytest_can_end_in_order(spool: Path) -> None:
    """Not in what the interpreter and `boot` import first: its traceback would be all that the developer sees."""
    boot = str(WORKER.with_name("boot.py"))
    asleep = "import os, signal, sys, time; print('there', flush=True); time.sleep(0.5); "
    start = "os.execv(sys.executable, [sys.executable, '-X', 'importtime', *sys.argv[1:]])"
    argv = [sys.executable, "-I", "-S", "-c", asleep + start, boot, "module"]
    write_job(spool, "", argv=argv)
    with subprocess.Popen(command(spool)) as process:
        wait_until(lambda: (spool / "stdout").exists() and (spool / "stdout").read_text() == "there\n", 10)
        process.terminate()
        assert process.wait(10) == 2
    assert "Traceback" not in (spool / "stderr").read_text()


def test_a_command_killed_by_a_signal_exits_as_a_shell_says_it(spool: Path) -> None:
    assert run(spool, "import os; os.kill(os.getpid(), 11)") == 128 + signal.SIGSEGV
    last = frames(spool)[-1]
    assert (last["code"], last["signal"]) == (None, "SIGSEGV")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        pytest.param(["/nowhere/at-all"], 127, id="a missing command is 127"),
        pytest.param(["/etc/passwd"], 126, id="a file that cannot run is 126"),
    ],
)
def test_a_command_that_cannot_run_says_so_on_stderr(spool: Path, argv: list[str], code: int) -> None:
    assert run(spool, "", argv=argv) == code
    assert frames(spool)[-1]["code"] == code
    assert argv[0] in (spool / "stderr").read_text()


def test_a_job_of_another_protocol_is_refused(spool: Path) -> None:
    assert run(spool, "", protocol=99) == worker.EXIT_BROKEN


def test_marks_interleave_stdout_and_stderr(spool: Path) -> None:
    code = (
        "import sys, time\n"
        "for i in range(3):\n"
        "  print(i, flush=True); time.sleep(0.12)\n"
        "  sys.stderr.write('e'); sys.stderr.flush(); time.sleep(0.12)"
    )
    assert run(spool, code) == 0
    marks = [(frame["stdout"], frame["stderr"]) for frame in frames(spool) if frame["t"] == "mark"]
    assert (2, 0) in marks
    assert (4, 1) in marks
    assert (6, 2) in marks
    times = [frame["at"] for frame in frames(spool)]
    assert times == sorted(times)


def test_standard_input_is_empty_and_the_session_is_its_own(spool: Path) -> None:
    assert run(spool, "import os, sys; print(repr(sys.stdin.read()), os.getsid(0) == os.getpid())") == 0
    assert (spool / "stdout").read_text() == "'' True\n"


def test_the_jobs_environment_is_added_to_the_containers(spool: Path) -> None:
    code = "import os; print(os.environ['A'], os.environ['PATH'] != '')"
    assert run(spool, code, env={"A": "ä=1"}) == 0
    assert (spool / "stdout").read_text() == "ä=1 True\n"


def test_folders_of_the_job_come_first_on_the_path(spool: Path) -> None:
    assert run(spool, "import os; print(os.environ['PATH'].split(':')[:2])", path=["/a", "/b"]) == 0
    assert (spool / "stdout").read_text() == "['/a', '/b']\n"


def test_no_descriptor_of_the_worker_reaches_the_command(spool: Path) -> None:
    assert run(spool, "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))") == 0
    assert (spool / "stdout").read_text() == "[0, 1, 2, 3]\n"  # 3 is the listing's own


def test_term_becomes_sigint_and_partial_results_arrive(spool: Path) -> None:
    write_job(
        spool,
        "import time\nprint('go', flush=True)\ntry: time.sleep(60)\n"
        "except KeyboardInterrupt: print('bye'); raise SystemExit(2)",
    )
    with subprocess.Popen(command(spool)) as process:
        wait_until(lambda: (spool / "stdout").exists() and (spool / "stdout").read_text() == "go\n")
        process.terminate()
        assert process.wait(10) == 2
    assert frames(spool)[-1]["stopped"] is True
    assert (spool / "stdout").read_text() == "go\nbye\n"


def test_a_command_that_ignores_sigint_is_killed_before_the_grace_is_over(spool: Path) -> None:
    write_job(
        spool,
        "import signal, time\nsignal.signal(2, signal.SIG_IGN)\nprint('go', flush=True)\ntime.sleep(60)",
        grace=5.0,
    )
    with subprocess.Popen(command(spool)) as process:
        wait_until(lambda: (spool / "stdout").exists() and (spool / "stdout").read_text() == "go\n")
        began = time.monotonic()
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGKILL
    assert time.monotonic() - began < 5.0
    last = frames(spool)[-1]
    assert (last["signal"], last["stopped"]) == ("SIGKILL", True)


def test_daemons_that_the_command_leaves_are_ended_and_reaped(spool: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import os,time; os.setsid(); time.sleep(60)'])\n"
        "print(p.pid, flush=True); os._exit(0)"
    )
    assert run(spool, code) == 0
    left = int((spool / "stdout").read_text())
    wait_until(lambda: not Path(f"/proc/{left}").exists())


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import os; os.closerange(0, 4096)", id="closes every descriptor"),
        pytest.param("import os; [os.unlink(n) for n in os.listdir('.')]", id="deletes the spool's files"),
        pytest.param("import os, signal; os.kill(os.getppid(), 2)", id="interrupts the worker"),
        pytest.param("open('frames', 'ab').write(b'\\xff' * 100000)", id="writes rubbish into frames"),
    ],
)
def test_a_hostile_command_does_not_change_the_exit_code(spool: Path, code: str) -> None:
    assert run(spool, code + "; import os; os._exit(7)") == 7


def test_frames_that_no_longer_fit_do_not_change_the_exit_code(spool: Path) -> None:
    write_job(spool, "import sys; sys.exit(5)")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))

    done = subprocess.run(command(spool), timeout=30, check=False, preexec_fn=limit)
    assert done.returncode == 5


def test_the_final_frame_fits_on_a_full_disk(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        code = (
            "import sys\ntry:\n  while True: sys.stdout.buffer.raw.write(b'x' * 4096)\n"
            "except OSError: sys.exit(9)"
        )
        assert run(disk, code) == 9
        lines = (disk / "frames").read_bytes().splitlines()
        assert json.loads(lines[-1])["code"] == 9
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_exit_frame_stands_on_a_line_of_its_own_after_a_torn_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "torn"
    folder.mkdir()
    spool = worker.Spool(str(folder))
    real = os.write
    calls: list[bytes] = []

    def short(fd: int, data: bytes) -> int:
        calls.append(data)
        return real(fd, data[:5]) if len(calls) == 1 else real(fd, data)

    try:
        with monkeypatch.context() as torn:
            torn.setattr(os, "write", short)
            assert spool.frame("mark") is False
            spool.last_frame(code=0)
    finally:
        os.close(spool.stdout)
        os.close(spool.stderr)
        os.close(spool._frames)
    assert json.loads((folder / "frames").read_text().splitlines()[-1])["t"] == "exit"


def test_kills_for_memory_are_counted_where_the_kernel_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unified, legacy, broken = (tmp_path / name for name in ("memory.events", "memory.oom_control", "broken"))
    unified.write_text("low 0\nhigh 4\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n")
    legacy.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    broken.write_text("oom_kill many\n")
    for files, count in (
        ([unified, legacy], 2),
        ([tmp_path / "none", broken, legacy], 5),
        ([broken], 0),
        ([], 0),
    ):
        monkeypatch.setattr(worker, "_oom_counters", lambda files=files: [str(file) for file in files])
        assert worker.oom_kills() == count


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_the_oldest_and_newest_python_run_it(spool: Path, version: str) -> None:
    found = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    found += [Path(path) for path in [shutil.which(f"python{version}")] if path]
    if not found:
        pytest.skip(f"no CPython {version} here")
    write_job(spool, "print('hi')")
    done = subprocess.run([str(found[0]), "-I", "-S", str(WORKER), str(spool)], timeout=30, check=False)
    assert done.returncode == 0
    assert frames(spool)[-1]["code"] == 0
    write_job(spool, "print('hi')", recorded=True)
    done = subprocess.run([str(found[0]), "-I", "-S", str(WORKER), str(spool)], timeout=30, check=False)
    assert done.returncode == 2, "no session was recorded, so nothing has passed"


QUICK_WAYS = {
    "there": "",
    "another _ctypes": "import _ctypes; del _ctypes.call_function",
    "no _blake2": "sys.modules['_blake2'] = None",
}


@pytest.mark.skipif(sys.platform != "linux", reason="there is no prctl")
@pytest.mark.parametrize("quick", QUICK_WAYS.values(), ids=QUICK_WAYS)
def test_the_worker_hides_itself_and_seals_with_or_without_the_quick_way(quick: str) -> None:
    """In a process of its own, because that cannot be undone."""
    program = (
        f"import ctypes, hashlib, sys\n{quick}\n"
        f"sys.path.insert(0, {str(WORKER.parent)!r})\n"
        "import worker\n"
        "prctl = ctypes.CDLL(None).prctl\n"
        "before = prctl(3, 0, 0, 0, 0)\n"
        "worker.become_undumpable()\n"
        "print(before, prctl(3, 0, 0, 0, 0), worker._seal(b'{}', '01' * 32).decode())\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "0", seals.seal_of(b"{}", "01" * 32)], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="there is no inotify")
def test_output_wakes_the_worker(spool: Path) -> None:
    for name in ("stdout", "stderr"):
        (spool / name).touch()
    handle = worker.watch(str(spool))
    assert handle is not None
    try:
        assert select.select([handle], [], [], 0)[0] == []
        for name in ("stdout", "stderr"):
            with (spool / name).open("a") as file:
                file.write("x")
            assert select.select([handle], [], [], 10)[0] == [handle]
            os.read(handle, 4096)
    finally:
        os.close(handle)


def test_a_system_that_cannot_tell_of_output_is_asked(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.watch(str(spool / "missing")) is None
    monkeypatch.setattr(worker, "_call", lambda name, *arguments: -1)
    assert worker.watch(str(spool)) is None


# -- started before its job (see `ahead`)
def test_a_worker_that_waits_changes_the_files_and_runs_the_job_that_comes(
    spool: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "changed.txt").write_text("old")
    (project / "gone.txt").touch()
    key = seals.new_key()
    write_job(spool, "raise SystemExit(9)", waits=True, seal=key)
    with subprocess.Popen(command(spool)) as process:
        wait_until(lambda: (spool / "ready").exists(), 20, what="the worker to wait")
        assert not (spool / "job.json").exists()
        assert (spool / "frames").read_text() == ""
        (spool / "changes").mkdir()
        (spool / "changes" / "0").write_text("new")
        os.utime(spool / "changes" / "0", (5, 5))
        changes = [("gone.txt", None, 0), ("changed.txt", "0", 0o755)]
        job = {
            "protocol": 1,
            "argv": [sys.executable, "-c", "print(open('changed.txt').read())"],
            "cwd": str(project),
            "env": {},
            "workspace": str(project),
            "changes": changes,
        }
        (spool / "job.tmp").write_text(json.dumps(job))
        (spool / "job.tmp").rename(spool / "job.json")
        assert process.wait(20) == 0
    assert (spool / "stdout").read_text() == "new\n"
    assert [path.name for path in project.iterdir()] == ["changed.txt"]
    status = (project / "changed.txt").stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o755, 5)
    hello, *_, last = frames(spool)
    assert (hello["t"], last["t"], last["code"]) == ("hello", "exit", 0)
    assert "seal" in last


def test_a_worker_that_waits_ends_when_it_is_told_to(spool: Path) -> None:
    write_job(spool, "pass", waits=True, seal=seals.new_key())
    with subprocess.Popen(command(spool)) as process:
        wait_until(lambda: (spool / "ready").exists(), 20, what="the worker to wait")
        process.terminate()
        assert process.wait(20) == worker.EXIT_BROKEN
