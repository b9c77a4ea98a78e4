"""Recognize failures whose cause the error does not name: a server is missing in the job, or a test reached a limit.

A job has a network of its own: nothing listens on its loopback but what its tests start.
"""

from __future__ import annotations

import re
from typing import Final

#: Longest part of a failure's message that is looked at.
_LONGEST: Final = 4000
_UNREACHABLE = (
    r"(?:refused|failed|could not translate|name resolution|not known|No such file|timed? ?out|111|-2\b|-3\b)"
)
#: Name of a server -> pattern of messages.
_SERVERS: Final = {
    "PostgreSQL": re.compile(
        rf"connection to server (?:at|on socket) .{{0,200}}{_UNREACHABLE}"
        rf"|could not connect to server: .{{0,80}}{_UNREACHABLE}"
        rf"|(?:psycopg|asyncpg|postgres).{{0,200}}{_UNREACHABLE}|Connect call failed .{{0,60}}\b5432\b",
        re.DOTALL | re.IGNORECASE,
    ),
    "Redis": re.compile(
        r"Error -?\d+ connecting to |redis\.exceptions\.ConnectionError|Connect call failed .{0,60}\b6379\b",
        re.DOTALL,
    ),
    "MySQL": re.compile(
        r"Can't connect to (?:local )?(?:MySQL|MariaDB) server|Connect call failed .{0,60}\b3306\b"
    ),
    "MongoDB": re.compile(
        rf"ServerSelectionTimeoutError.{{0,200}}{_UNREACHABLE}|localhost:27017: ", re.DOTALL
    ),
    "RabbitMQ": re.compile(r"(?:AMQPConnectionError|Connect call failed .{0,60}\b5672\b)"),
}
_DOCKER: Final = re.compile(
    r"Error while fetching server API version|Cannot connect to the Docker daemon|docker\.sock\b.{0,100}No such file"
    r"|FileNotFoundError: .{0,80}'docker'",
    re.DOTALL,
)

#: Pattern of messages -> what to set.
_LIMITS: Final = (
    (
        re.compile(r"\[Errno 28\] No space left on device|\bENOSPC\b"),
        (
            "a folder in memory is full: `tmp-size` is for /tmp and /var/tmp, `shm-size` for /dev/shm, `home-size` for "
            "the home folder"
        ),
    ),
    (
        re.compile(r"\[Errno 24\] Too many open files|\bEMFILE\b"),
        "a process may not open more files: `open-files` is the limit",
    ),
    (re.compile(r"\[Errno 27\] File too large|\bEFBIG\b"), "a file grew too large: `file-size` is the limit"),
    (
        re.compile(r"RuntimeError: can't start new thread|BlockingIOError: \[Errno 11\] Resource temp"),
        "a job may have no more processes and threads: the runner's setting `pids` is the limit",
    ),
)


def hint(longrepr: object) -> str | None:
    """Return a line about a failure that looks like a missing server or the work of a limit, else None."""
    crash = getattr(longrepr, "reprcrash", None)
    message = str(getattr(crash, "message", None) or longrepr)[:_LONGEST]
    if _DOCKER.search(message):
        return (
            "the tests need Docker, which jobs do not have: run what they start as `services` "
            "(docs/guide/projects.md, Services)"
        )
    for server, pattern in _SERVERS.items():
        if pattern.search(message):
            return (
                f"the tests cannot reach {server}: a job does not see servers of this machine; "
                "declare it in `services` (docs/guide/projects.md, Services)"
            )
    for pattern, words in _LIMITS:
        if pattern.search(message):
            return f"{words} (docs/guide/projects.md, Limits)"
    return None
