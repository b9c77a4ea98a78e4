"""The main process of a job's container: runs the user's command and reports it on the spool.

Run as ``<python> -I -S /ci/tools/worker.py /ci/spool``: standard library only, CPython 3.8 or newer; none of the
job's own modules are imported. The command gets an empty standard input, append-only files as standard output and
error, and its own session; `frames` records when it started, how its output interleaves and how it ended
(docs/internals/index.md, "The spool"). The code must survive a hostile command: a full disk, deleted files, stray
children, and attempts to forge frames; no process of the job can read this one. The exit code is the command's own
(128+n for a signal), even if frames are lost.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import ModuleType
    from typing import TypedDict

    from .ahead import Waiting
    from .restart import Recording

    class Job(TypedDict, total=False):
        """The content of `job.json`, which the controller writes."""

        protocol: int
        argv: list[str]
        cwd: str
        env: dict[str, str]
        #: Folders that precede the image's own in PATH.
        path: list[str]
        #: Name in the home → folder that keeps its content.
        kept: list[tuple[str, str]]
        #: Seconds from the request to stop to the end of the container.
        grace: float
        #: The key of the spool's seal.
        seal: str
        #: Whether the session is recorded; most restarts of its pytest, and limits as words.
        recorded: bool
        restarts: int
        memory: str
        file_size: str
        shm_size: str
        #: Whether the workspace has a git repository.
        git: bool
        #: This describes an earlier job: prepare for one like it, and wait for its file (see `ahead`).
        waits: bool
        #: Modules that the waiting process imports (see `preload`).
        preload: list[str]
        #: Path of the workspace, and what a job changes in that of the earlier one (see `ahead.bring_up_to_date`).
        workspace: str
        changes: list[tuple[str, str | None, int]]


VERSION = "1"
PROTOCOL = 1

#: Seconds between checks of the output's size, where the system cannot tell that it grows.
MARK_INTERVAL = 0.05
#: Seconds between two marks; the order of stdout and stderr is exact to this precision.
MARK_PAUSE = 0.01
_IN_MODIFY = 2
#: Bytes reserved on the spool, so that the final frame fits when the disk is full.
RESERVE = 16384
#: Seconds for git to read the project's files.
REFRESH_TIME = 60.0
#: The program that starts pytest, next to this file.
_BOOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot.py")
#: Our own exit code if the job cannot be read.
EXIT_BROKEN = 125

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Spool:
    """The files that report on the job; a failed write is dropped, never raised."""

    def __init__(self, folder: str) -> None:
        #: Files of a recorded session (see `record_file`); other commands do not have them.
        self._recorded = [(name, os.path.join(folder, name)) for name in ("records", "terminal")]
        #: The key of our seal.
        self.key: str | None = None
        self._reserve = os.path.join(folder, "reserve")
        self.stdout = os.open(os.path.join(folder, "stdout"), _APPEND, 0o644)
        self.stderr = os.open(os.path.join(folder, "stderr"), _APPEND, 0o644)
        self._frames = os.open(os.path.join(folder, "frames"), _APPEND, 0o644)
        self._torn = False
        self._marked: dict[str, int] = {}
        with contextlib.suppress(OSError):
            reserve = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(reserve, 0, RESERVE)
            finally:
                os.close(reserve)

    def frame(self, kind: str, key: str | None = None, **fields: object) -> bool:
        """Append one frame in one write, sealed with `key`; return False if it could not be written completely."""
        self._marked = self.sizes()
        record: dict[str, object] = {"t": kind, "at": round(time.time(), 6)}
        record.update(self._marked)
        record.update(fields)
        line = json.dumps(record).encode()
        if key is not None:
            line = line[:-1] + b', "seal": "' + _seal(line, key) + b'"}'
        line += b"\n"
        if self._torn:  # ends a partial line, so that only that one is lost
            line = b"\n" + line
        try:
            self._torn = os.write(self._frames, line) != len(line)
        except OSError:
            return False
        return not self._torn

    def last_frame(self, **fields: object) -> None:
        """Write the `exit` frame; if the disk is full, the reserve makes room for it."""
        written = self.frame("exit", self.key, **fields)
        with contextlib.suppress(OSError):
            os.unlink(self._reserve)
        if not written:
            self.frame("exit", self.key, **fields)

    def mark(self) -> None:
        """Write a `mark` frame if the output has grown since the last frame."""
        if self.sizes() != self._marked:
            self.frame("mark")

    def sizes(self) -> dict[str, int]:
        """Return the sizes of the output files in bytes.

        No record may be written in between: it would seem to precede the output that it follows.
        """
        for _ in range(5):
            recorded = self._recorded_sizes()
            sizes = {"stdout": os.fstat(self.stdout).st_size, "stderr": os.fstat(self.stderr).st_size}
            if not recorded or self._recorded_sizes() == recorded:
                break
        return {**sizes, **recorded}

    def _recorded_sizes(self) -> dict[str, int]:
        sizes = {}
        for name, path in self._recorded:
            with contextlib.suppress(OSError):
                sizes[name] = os.lstat(path).st_size
        return sizes


def _seal(text: bytes, key: str) -> bytes:
    """Return the keyed digest of a frame: a reader of `frames` can neither change that line nor forge another."""
    try:
        from _blake2 import blake2b  # importing `hashlib` takes milliseconds at each job's end
    except ImportError:
        from hashlib import blake2b
    return blake2b(text, key=bytes.fromhex(key), digest_size=32).hexdigest().encode()


def oom_kills() -> int:
    """Return how many processes of this control group the kernel killed for memory; 0 if unknown."""
    for path in _oom_counters():
        try:
            with open(path) as file:
                for line in file:
                    name, _, value = line.partition(" ")
                    if name == "oom_kill":
                        return int(value)
        except (OSError, ValueError):
            continue
    return 0


def _oom_counters() -> list[str]:
    """Return the paths of the kernel's counters: version 2 (namespaced, then not), version 1 (likewise)."""
    unified = legacy = ""
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers:
                unified = path
            elif "memory" in controllers.split(","):
                legacy = path
    return [
        "/sys/fs/cgroup/memory.events",
        "/sys/fs/cgroup" + unified + "/memory.events",
        "/sys/fs/cgroup/memory/memory.oom_control",
        "/sys/fs/cgroup/memory" + legacy + "/memory.oom_control",
    ]


def become_undumpable() -> None:
    """Close memory, descriptors and environment of this process to others with its uid (PR_SET_DUMPABLE).

    A fork inherits that, up to its `exec`. Does nothing if there is no `prctl`, or Python has no `ctypes`.
    """
    _prctl(4, 0)


def become_subreaper() -> None:
    """Adopt orphans of the command if the container has no init that does (PR_SET_CHILD_SUBREAPER)."""
    if os.getppid() != 1:
        _prctl(36, 1)


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, value, 0, 0, 0)


def _call(name: str, *arguments: int | bytes) -> int:
    """Return the result of a function of the C library; -1 if it fails or there is none."""
    with contextlib.suppress(Exception):
        try:
            import _ctypes  # importing `ctypes` takes milliseconds before each job

            # Without a name, the program itself is searched, which typeshed does not know.
            function = _ctypes.dlsym(_ctypes.dlopen(None, 0), name)  # type: ignore[arg-type]
            return int(_ctypes.call_function(function, arguments))
        except (ImportError, AttributeError):
            import ctypes

            return int(ctypes.CDLL(None)[name](*arguments))
    return -1


def watch(folder: str) -> int | None:
    """Return a descriptor that is readable when the command has written; None if the system cannot tell."""
    handle = _call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
    if handle < 0:
        return None
    for name in ("stdout", "stderr"):
        if _call("inotify_add_watch", handle, os.fsencode(os.path.join(folder, name)), _IN_MODIFY) < 0:
            os.close(handle)
            return None
    return handle


def link_kept_folders(job: Job) -> None:
    """Put links to the kept folders of the home into the home."""
    home = job["env"].get("HOME") or os.environ.get("HOME") or ""
    for name, target in job.get("kept", ()):
        link = os.path.join(home, name)
        with contextlib.suppress(OSError):  # of folders in each other, the outer one is linked
            os.makedirs(target, exist_ok=True)
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(target, link)


def refresh_index(folder: str) -> None:
    """Let git note the times of the files, as it has done here: some of its commands take others as changes.

    Does nothing in an image without git.
    """
    import subprocess  # takes milliseconds, and few jobs have a repository

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["git", "update-index", "-q", "--refresh"],  # the image's
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=REFRESH_TIME,
        )


def start(
    job: Job, spool: Spool, more: dict[str, str], passed_on: int | None = None, stdin: int | None = None
) -> int:
    """Fork and run the command; return its process id, which is also its group and session.

    `more`: environment variables in addition to the job's; `passed_on`: a descriptor that the command inherits;
    `stdin`: its standard input, else empty.
    """
    env = environment(job, more)
    pid = os.fork()
    if pid == 0:
        if passed_on is not None:
            os.set_inheritable(passed_on, True)
        _become(job["argv"], job["cwd"], env, spool, stdin)
    return pid


def environment(job: Job, more: dict[str, str]) -> dict[str, str]:
    """Return the environment of the command."""
    env = dict(os.environ)
    env.update(job["env"])
    env.update(more)
    if job.get("path"):  # folders that precede the image's own
        env["PATH"] = os.pathsep.join([*job["path"], env.get("PATH") or os.defpath])
    return env


def _become(
    argv: list[str], cwd: str, env: dict[str, str], spool: Spool, stdin: int | None = None
) -> NoReturn:
    """Replace the child by the command, with a shell's exit codes on failure (127 not found, 126 cannot run)."""
    code = 126
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        # All of them: what started the runner may ignore some (nohup, the background of a shell).
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        # `boot` lets interrupts in once it can end without the interpreter's traceback.
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGINT} if _BOOT in argv else ())
        os.dup2(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin, 0)
        os.dup2(spool.stdout, 1)
        os.dup2(spool.stderr, 2)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, env)  # noqa: S606  # the command is the job
    except OSError as error:
        code = 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126
        with contextlib.suppress(OSError):
            os.write(2, f"cannot run {argv[0]} in {cwd}: {error.strerror}\n".encode())
    finally:
        os._exit(code)


class Supervisor:
    """Waits for the command, writes frames, and forwards a request to stop."""

    def __init__(
        self,
        spool: Spool,
        pid: int,
        grace: float,
        wake: int,
        asked: list[int],
        recording: Recording | None = None,
        written: int | None = None,
    ) -> None:
        """`wake` is readable after a signal, `written` after output (see `watch`)."""
        self._spool = spool
        self._pid = pid
        self._recording = recording
        #: Shorter than `grace`, after which the whole container is killed: the final frame must be written before.
        self._patience = max(0.1, grace - min(1.0, grace * 0.2))
        self._wake = wake
        self._written = written
        self._kill_at: float | None = None
        self._killed = False
        #: Signal numbers, added by the handler of SIGTERM.
        self._asked = asked

    def run(self) -> int:
        """Wait until the command has ended; return its wait status."""
        sources = [self._wake] if self._written is None else [self._wake, self._written]
        while True:
            ready, _, _ = select.select(sources, [], [], MARK_INTERVAL)
            for handle in ready:
                with contextlib.suppress(OSError):
                    os.read(handle, 4096)
            status = self._reap()
            self._stop_if_asked()
            if status is not None:
                return status
            self._spool.mark()
            if self._written in ready:  # however much is written, marks take little time
                select.select([self._wake], [], [], MARK_PAUSE)

    def _reap(self) -> int | None:
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == self._pid:
                found = status

    def _stop_if_asked(self) -> None:
        """Forward a request to stop: SIGINT lets pytest report its results; SIGKILL follows after a while."""
        if not self._asked or self._killed:
            return
        now = time.monotonic()
        if self._kill_at is None:
            self._kill_at = now + self._patience
            if self._recording is not None:
                self._recording.record_stopped()
            self._signal(signal.SIGINT)
        elif now >= self._kill_at:
            self._killed = True
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._pid, number)


def end_leftovers(seconds: float = 2.0) -> None:
    """Kill and reap processes that the command left running, if they are our children."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        children = _children()
        for pid in children:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _children() -> list[int]:
    """Return the ids of our child processes; `/proc` is read because orphans are adopted without notice."""
    mine = []
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                if parent == os.getpid():
                    mine.append(int(name))
    return mine


def _recording(folder: str, spool: Spool, job: Job) -> Recording | None:
    """Return the state of a recorded session (see `restart`); None for any other command."""
    if not job.get("recorded"):
        return None
    recording: Recording = _load("restart").Recording(folder, spool.sizes, job)
    return recording


def _load(name: str) -> ModuleType:
    """Import a module next to this file: few jobs, or only those of pytest, need it."""
    here = os.path.dirname(os.path.abspath(__file__))
    if here not in sys.path:
        sys.dont_write_bytecode = True
        sys.path.insert(0, here)
    return __import__(name)


def _wait(folder: str, spool: Spool, template: Job, asked: list[int]) -> tuple[Job | None, Waiting | None]:
    """Prepare for a job like `template` and wait for it; return it (None: there is none) and what it may use."""
    ahead = _load("ahead")
    waiting: Waiting | None = None
    if ahead.prefix(template) and template.get("recorded"):
        recording = _recording(folder, spool, template)
        waiting = ahead.Waiting(template, folder, spool, recording, start, environment)
    else:
        ahead.mark_ready(folder)
    job: Job | None = ahead.await_job(folder, lambda: bool(asked))
    if job is not None:
        ahead.bring_up_to_date(folder, job["workspace"], job["changes"])
    return job, waiting


def main(argv: list[str]) -> int:
    """Run the job of the spool folder `argv[1]`; return the exit code."""
    folder = argv[1]
    become_undumpable()  # before the key is read and user code runs
    with open(os.path.join(folder, "job.json"), encoding="utf-8") as file:
        job: Job = json.load(file)
    if job.get("protocol") != PROTOCOL:
        sys.stderr.write(f"worker {VERSION}: job of protocol {job.get('protocol')!r}, not {PROTOCOL}\n")
        return EXIT_BROKEN
    spool = Spool(folder)
    if job.get("seal"):  # user code must not be able to forge frames
        spool.key = str(job.pop("seal"))
        os.unlink(file.name)
    wake, write_end = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    for number in (signal.SIGCHLD, signal.SIGINT):  # a handler, so that the wake-up pipe is written
        signal.signal(number, lambda *_: None)
    become_subreaper()
    waiting = None
    if job.get("waits"):
        found, waiting = _wait(folder, spool, job, asked)
        if found is None:
            return EXIT_BROKEN
        job = found
    spool.frame("hello", worker=VERSION, python="{}.{}.{}".format(*sys.version_info[:3]))
    link_kept_folders(job)
    if job.get("git"):
        refresh_index(job["cwd"])
    if waiting is not None and not waiting.suits(job):
        waiting.end()
        waiting = None
    recording = waiting.recording if waiting is not None else _recording(folder, spool, job)
    before = oom_kills()
    code, killed, died = _run(job, spool, recording, wake, watch(folder), asked, waiting)
    spool.last_frame(
        code=None if killed else code,
        signal=killed,
        oom=max(0, oom_kills() - before),
        stopped=bool(asked),
        **({"died": died} if died else {}),
    )
    return code


def _run(
    job: Job,
    spool: Spool,
    recording: Recording | None,
    wake: int,
    written: int | None,
    asked: list[int],
    waiting: Waiting | None,
) -> tuple[int, str | None, str]:
    """Run the command; restart a recorded pytest while that helps. Return exit code, signal, and cause of death.

    `waiting`: the process that is to become the command's first one.
    """
    more: dict[str, str] = {}
    while True:
        oom, passed_on = oom_kills(), None
        if waiting is not None:
            pid = waiting.run(job)
            waiting = None
        else:
            if recording is not None:
                passed_on = recording.connect()
                more["REMOTE_CI_CAPTURED"] = str(passed_on)
            pid = start(job, spool, more, passed_on)
        spool.frame("again" if "REMOTE_CI_CONTINUED" in more else "started", pid=pid)
        grace = float(job.get("grace", 10.0))
        status = Supervisor(spool, pid, grace, wake, asked, recording, written).run()
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        end_leftovers()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        killed = _signal_name(number) if number else None
        code = 128 + number if number else os.WEXITSTATUS(status)
        if recording is None:
            return code, killed, ""
        if not recording.should_restart(code, killed, oom=oom_kills() > oom, stopped=bool(asked)):
            return recording.code, None, recording.died
        more = {"REMOTE_CI_CONTINUED": "1"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
