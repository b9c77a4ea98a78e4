"""Failures that look like a limit of the job."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_remote_ci.replay.failure_hints import hint


@pytest.mark.parametrize(
    ("message", "setting"),
    [
        ("OSError: [Errno 28] No space left on device: '/tmp/x'", "`tmp-size`"),
        ("OSError: [Errno 28] No space left on device", "`shm-size`"),
        ("OSError: [Errno 24] Too many open files: 'a'", "`open-files`"),
        ("OSError: [Errno 27] File too large", "`file-size`"),
        ("RuntimeError: can't start new thread", "`pids`"),
        ("BlockingIOError: [Errno 11] Resource temporarily unavailable", "`pids`"),
    ],
)
def test_a_failure_by_a_limit_names_the_setting(message: str, setting: str) -> None:
    for longrepr in (message, SimpleNamespace(reprcrash=SimpleNamespace(message=message))):
        line = hint(longrepr)
        assert line is not None
        assert setting in line
        assert "\n" not in line


@pytest.mark.parametrize(
    "message", ["assert 1 == 2", "", None, "OSError: [Errno 2] No such file", "x" * 100_000]
)
def test_other_failures_say_nothing(message: object) -> None:
    assert hint(message) is None
