"""A pytest plugin for benchmarks: writes when each step of a remote run happened, by the client's clock.

Loaded by ``PYTEST_PLUGINS`` (which stays on this side); `CLIENT_CLOCK` names the file. Lines are JSON, a name and
seconds since the epoch; those of events have the event's type, phase, stream and own timestamp, too.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

_marks: list[dict[str, Any]] = []


def _mark(name: str, **more: Any) -> None:
    _marks.append({"name": name, "at": time.time(), **more})


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The hand-over begins; only now is it known that this is a remote run."""
    _mark("handover")
    from pytest_remote_ci.client.client import Client

    send = Client.submit

    def submit(self: Client, *args: Any, **kwargs: Any) -> str:
        _mark("upload")
        try:
            return send(self, *args, **kwargs)
        finally:
            _mark("submitted")

    Client.submit = submit  # type: ignore[method-assign]  # a patch


def pytest_remote_ci_choose_files(files: list[str]) -> None:
    """The files are known and hashed."""
    _mark("collected", files=len(files))


def pytest_remote_ci_event(event: dict[str, Any]) -> None:
    """An event of the job arrived."""
    kept = ("type", "phase", "stream", "timestamp", "status", "reason")
    _mark("event", **{key: event[key] for key in kept if key in event})
    if event.get("type") == "complete" and "CLIENT_CLOCK" in os.environ:
        with Path(os.environ["CLIENT_CLOCK"]).open("w") as file:
            file.writelines(json.dumps(mark) + "\n" for mark in _marks)
