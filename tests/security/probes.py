# ruff: noqa
"""Runs inside a container (Python 3.8 on, no packages): tries what it must not be able to do and writes what it could.

``python3 -c <this> RESULT``. Every list names what succeeded.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from typing import Any, Callable

said: dict[str, Any] = {}
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
said["uid"] = list(os.getresuid())
said["groups"] = sorted(set([os.getgid(), *os.getgroups()]))
said["capabilities"] = [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
said["no_new_privileges"] = int(status["NoNewPrivs"])
said["seccomp"] = int(status["Seccomp"])
said["hostname"] = socket.gethostname()
said["sockets"] = [
    path
    for path in (
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman/podman.sock",
    )
    if os.path.exists(path)
]


def can_write(folder: str) -> bool:
    path = os.path.join(folder, "probe-%d" % os.getpid())
    try:
        with open(path, "w") as file:
            file.write("x")
        os.unlink(path)
        return True
    except OSError:
        return False


folders = [
    "/",
    "/bin",
    "/boot",
    "/ci",
    "/ci/tools",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
]
folders += [
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/sys/fs/cgroup",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/var",
    "/var/lib",
]
folders += ["/var/log", "/usr/local/lib", "/run/lock", "/dev/mqueue/.."] + glob.glob("/sys/fs/cgroup/*/")
said["writable"] = [folder for folder in folders if can_write(folder)]

kernel = []
for path in (
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/drop_caches",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
    *glob.glob("/sys/fs/cgroup/*/release_agent"),
    *glob.glob("/sys/fs/cgroup/*/cgroup.procs"),
    *glob.glob("/sys/fs/cgroup/*/tasks"),
    *glob.glob("/sys/fs/cgroup/*/memory.limit_in_bytes"),
):
    try:
        os.close(os.open(path, os.O_WRONLY))
        kernel.append("write " + path)
    except OSError:
        pass
for path in (
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/kmsg",
    "/dev/mem",
    "/dev/kmsg",
    "/etc/shadow",
):
    try:
        with open(path, "rb") as file:
            if file.read(1):
                kernel.append("read " + path)
    except OSError:
        pass
for path in ("/sys/firmware", "/proc/scsi", "/proc/acpi", "/sys/kernel/debug", "/sys/kernel/tracing"):
    try:
        if os.listdir(path):
            kernel.append("list " + path)
    except OSError:
        pass
said["kernel_files"] = kernel

ordinary = {"full", "null", "ptmx", "random", "tty", "urandom", "zero", "console"}
said["devices"] = [
    name
    for name in os.listdir("/dev")
    if name not in ordinary
    and not stat.S_ISLNK(os.lstat("/dev/" + name).st_mode)
    and (stat.S_ISBLK(os.lstat("/dev/" + name).st_mode) or stat.S_ISCHR(os.lstat("/dev/" + name).st_mode))
]

libc = ctypes.CDLL(None, use_errno=True)
calls: list[str] = []


def attempt(name: str, call: Callable[[], int | None]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(1 if call() == -1 else 0)
        except BaseException:
            os._exit(1)
    if os.waitpid(pid, 0)[1] == 0:
        calls.append(name)


def suid() -> int:
    for program in glob.glob("/usr/bin/*") + glob.glob("/bin/*"):
        try:
            if os.stat(program).st_mode & stat.S_ISUID and os.path.basename(program) in (
                "su",
                "mount",
                "newgrp",
            ):
                done = subprocess.run(
                    [program, "-c", "id -u"], capture_output=True, timeout=5, stdin=subprocess.DEVNULL
                )
                if done.stdout.strip() == b"0":
                    return 1
        except (OSError, subprocess.SubprocessError):
            continue
    return -1


def kill_init() -> int:
    os.kill(1, signal.SIGKILL)
    return -1  # the container would be gone


NEW_NS, NEW_USER, NEW_PID, NEW_NET = 0x20000, 0x10000000, 0x20000000, 0x40000000
attempt("unshare user", lambda: libc.unshare(NEW_USER))
attempt("unshare mount", lambda: libc.unshare(NEW_NS))
attempt("unshare pid", lambda: libc.unshare(NEW_PID))
attempt("unshare net", lambda: libc.unshare(NEW_NET))
attempt("mount tmpfs", lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, None))
attempt("mount proc", lambda: libc.mount(b"proc", b"/tmp", b"proc", 0, None))
attempt("remount root", lambda: libc.mount(None, b"/", None, 32, None))
attempt("umount", lambda: libc.umount(b"/ci/spool"))
attempt("setuid", lambda: libc.setuid(0))
attempt("setgid", lambda: libc.setgid(0))
attempt("chroot", lambda: libc.chroot(b"/tmp"))
attempt("mknod", lambda: os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0)))
attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno())
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).fileno())
attempt("sethostname", lambda: socket.sethostname("x"))
attempt("nice", lambda: os.nice(-5))
attempt("init_module", lambda: libc.syscall(175, None, 0, b""))
attempt("kexec_load", lambda: libc.syscall(246, 0, 0, None, 0))
attempt("bpf", lambda: libc.syscall(321, 0, ctypes.create_string_buffer(128), 128))
attempt("perf_event_open", lambda: libc.syscall(298, ctypes.create_string_buffer(128), 0, -1, -1, 0))
attempt("keyctl", lambda: libc.syscall(250, 0, -3, 0))
attempt("add_key", lambda: libc.syscall(248, b"user", b"x", b"y", 1, -3))
attempt("open_by_handle_at", lambda: libc.syscall(304, -100, ctypes.create_string_buffer(64), 0))
attempt("pivot_root", lambda: libc.syscall(155, b"/tmp", b"/tmp"))
attempt("userfaultfd", lambda: libc.syscall(323, 0))
attempt("quotactl", lambda: libc.syscall(179, 0, None, 0, None))
attempt("settimeofday", lambda: libc.settimeofday(ctypes.create_string_buffer(16), None))
attempt("reboot", lambda: libc.reboot(0))
attempt("swapon", lambda: libc.swapon(b"/tmp/x", 0))
attempt("acct", lambda: libc.acct(b"/tmp/x"))
attempt("setns", lambda: libc.setns(os.open("/proc/1/ns/net", os.O_RDONLY), 0))
attempt("kill init", kill_init)
attempt("suid shell", suid)


said["system_calls"] = calls

mine = {1, os.getpid(), os.getppid()}
said["foreign_processes"] = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in mine]

allowed = {"/ci/spool", "/workspace", "/tmp", "/var/tmp", "/ci/home", "/dev/shm"}
foreign = []
for line in open("/proc/self/mountinfo"):
    fields = line.split()
    place, options, kind = fields[4], fields[5].split(","), fields[fields.index("-") + 1]
    if (
        "rw" in options
        and place not in allowed
        and kind in ("ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs")
    ):
        if can_write(place):
            foreign.append(place)
said["foreign_mounts"] = foreign

leaked = []
for name in os.listdir("/proc/self/fd"):
    try:
        if (
            stat.S_ISDIR(os.fstat(int(name)).st_mode)
            and os.readlink("/proc/self/fd/" + name) != "/proc/%d/fd" % os.getpid()
        ):
            leaked.append(os.readlink("/proc/self/fd/" + name))
    except OSError:
        pass
try:
    os.chdir("/proc/self/fd/7/../../..")
    leaked.append("fd 7")
except OSError:
    pass
os.chdir("/workspace")
said["leaked_descriptors"] = leaked

said["interfaces"] = sorted(
    name
    for _, name in socket.if_nameindex()
    if open("/sys/class/net/%s/operstate" % name).read().strip() != "down"
)
reached = []
for target in (
    ("1.1.1.1", 53),
    ("172.17.0.1", 22),
    ("169.254.169.254", 80),
    ("10.0.0.1", 80),
    ("192.168.0.1", 80),
):
    try:
        socket.create_connection(target, 2).close()
        reached.append("%s:%d" % target)
    except OSError:
        pass
try:
    socket.getaddrinfo("pypi.org", 443)
    reached.append("name server")
except OSError:
    pass
said["connections"] = reached

said["core_limit"] = list(resource.getrlimit(resource.RLIMIT_CORE))
with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    server.listen()
    socket.create_connection(server.getsockname(), 2).close()
    said["loopback"] = True
with open("/tmp/program", "w") as program:
    program.write("#!/bin/sh\nexit 0\n")
os.chmod("/tmp/program", 0o755)
said["executable_tmp"] = subprocess.call(["/tmp/program"]) == 0
said["workspace"] = can_write("/workspace")
said["home"] = can_write(os.environ["HOME"])

children: list[int] = []
try:
    while len(children) < 1000:
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        children.append(pid)
except OSError:
    pass
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
said["forks"] = len(children)

with open(sys.argv[1], "w") as result:
    json.dump(said, result)
