"""Waiting with a deadline: the only way in which tests let time pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

T = TypeVar("T")
#: How many times longer than they expect tests wait before they fail. It costs time only when a test fails, and a
#: machine that runs other things, too, makes programs several times slower.
PATIENCE = 4.0


def wait_until(
    predicate: Callable[[], T | Literal[False] | None],
    timeout: float = 10.0,
    *,
    what: str = "",
    interval: float = 0.02,
) -> T:
    """The first true value of `predicate`; fails the test if it does not come, saying what was waited for.

    `timeout` is in seconds on a machine that does nothing else; `PATIENCE` times as many are waited.
    """
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(
                f"waited {timeout:g} s for {what or predicate.__name__}, last seen: {value!r}"
            )
        time.sleep(interval)


def files_named(name: str, folder: Path) -> list[Path]:
    """The files of this name below `folder`, in which programs make and remove folders meanwhile.

    `Path.rglob` raises FileNotFoundError when a folder goes away between being listed and being read.
    """
    return [Path(path, name) for path, _, files in os.walk(folder) if name in files]
