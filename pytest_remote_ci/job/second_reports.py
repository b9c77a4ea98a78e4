"""Reports that the developer's pytest writes, too: written once more where the project's own hooks for them are.

A conftest or plugin that is only here may add columns to a report, or change it, by hooks of the reporter. Then the
report that is made here is the one that a local run would have left, and takes its place in the project; where nobody
implements such a hook it is dropped, because it would only say the same again. Until then it lies in a folder of its
own. Where a pytest before this one died, `retold` tells the reporters what it had reported. Standard library and pytest
only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import Any

import pytest

#: Name under which the plugin is registered.
NAME = "remote-ci-second-reports"
#: In the folder of records: somebody shapes a report, so a session that ends without one is worth another start.
SHAPED = "shaped"
#: Report → (its option's name, beginning of the names of the hooks that count, package of the reporter). What
#: pytest-json-report's other hook adds to a test is part of the test's reports.
_KINDS = {
    "html": ("htmlpath", ("pytest_html_",), "pytest_html"),
    "json": (
        "json_report_file",
        ("pytest_json_modifyreport", "pytest_json_runtest_stage"),
        "pytest_jsonreport",
    ),
}


class SecondReports:
    """A pytest plugin of one session; `add` is called before options are parsed."""

    def __init__(self, folder: str = "") -> None:
        """`folder`: where records are kept, if they are."""
        self._folder = folder
        #: Name → where it belongs, relative to the directory of the run.
        self._names: dict[str, str] = {}
        #: Name → (where the reporter writes it, the folder in which it belongs).
        self._places: dict[str, tuple[str, str]] = {}
        self._dropped: set[str] = set()
        self._copy, self._remove = shutil.copytree, shutil.rmtree  # tests patch them

    def add(self, name: str, path: str) -> None:
        """This report is a second one; it belongs to `path`, whatever options of the project's own say."""
        if name in _KINDS and path:
            self._names[name] = path

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that say where they are written."""
        return tuple(_KINDS[name][0] for name in self._names)

    @property
    def silent(self) -> tuple[str, ...]:
        """Packages whose lines about their report are those of the developer's pytest."""
        return tuple(_KINDS[name][2] for name in self._names)

    def shaped(self, config: Any) -> list[tuple[str, str]]:
        """Names of the reports that somebody shapes, with their reporters' packages; known after the collection."""
        names = [name for name in self._places if name not in self._dropped]
        return [(name, _KINDS[name][2]) for name in names if _is_shaped(config, name)]

    def drop(self, name: str) -> None:
        """This report cannot be had: the one that the developer's pytest writes has to do."""
        self._dropped.add(name)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: Any) -> None:
        """Lead the reporters to a folder of ours, before they look for theirs."""
        for name, path in self._names.items():
            option = _KINDS[name][0]
            if getattr(config.option, option, None):
                folder = tempfile.mkdtemp(prefix="report-")
                self._places[name] = (folder, os.path.dirname(os.path.abspath(path)))
                setattr(config.option, option, os.path.join(folder, os.path.basename(path)))

    def pytest_collection_finish(self, session: Any) -> None:
        """All conftests are there."""
        if self._folder and self.shaped(session.config):
            with contextlib.suppress(OSError), open(os.path.join(self._folder, SHAPED), "a"):
                pass

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: Any) -> Any:
        """After the reporters."""
        yield
        shaped = [name for name, _ in self.shaped(session.config)]
        for name, (folder, place) in self._places.items():
            with contextlib.suppress(OSError, shutil.Error):
                if name in shaped:
                    self._copy(folder, place, dirs_exist_ok=True)
            self._remove(folder, ignore_errors=True)


def _is_shaped(config: Any, name: str) -> bool:
    """Whether somebody but the reporter implements one of its hooks."""
    _, beginnings, package = _KINDS[name]
    for hook in dir(config.hook):
        if hook.startswith(beginnings):
            for implementation in getattr(config.hook, hook).get_hookimpls():
                module = getattr(implementation.function, "__module__", None) or ""
                if module.partition(".")[0] != package:
                    return True
    return False
