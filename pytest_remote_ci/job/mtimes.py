"""A pytest plugin that gives test files the modification times they have on the developer's machine.

Workspaces consist of shared contents with meaningless times, but `--nf` sorts by them. Only files in which tests were
found are touched, because an overlay copies each touched file. Standard library and pytest only.
"""

from __future__ import annotations

import contextlib
import json
import os

import pytest


class ModificationTimes:
    """The modification times of one workspace."""

    def __init__(self, path: str) -> None:
        """Read a JSON file, `{"cwd": ..., "times": {path in the workspace: nanoseconds}}`; we are in its `cwd`."""
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        up = [os.pardir for part in found["cwd"].split("/") if part]
        self._root = os.path.abspath(os.path.join(os.getcwd(), *up))
        self._times: dict[str, int] = found["times"]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Set the times before items are sorted."""
        for path in {str(item.path) for item in items}:
            time = self._times.get(os.path.relpath(path, self._root).replace(os.sep, "/"))
            if time is not None:
                with contextlib.suppress(OSError):
                    os.utime(path, ns=(time, time))
