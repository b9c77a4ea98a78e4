"""Recognize failures because a test reached a limit of its job, which the error does not name."""

from __future__ import annotations

import re
from typing import Any, Final

#: Longest part of a failure's message that is looked at.
_LONGEST: Final = 4000
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


def hint(longrepr: Any) -> str | None:
    """Return a line about a failure that looks like the work of a limit, else None."""
    crash = getattr(longrepr, "reprcrash", None)
    message = str(getattr(crash, "message", None) or longrepr)[:_LONGEST]
    for pattern, words in _LIMITS:
        if pattern.search(message):
            return f"{words} (docs/guide/projects.md, Limits)"
    return None
