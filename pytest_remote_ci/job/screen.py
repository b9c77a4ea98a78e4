"""Record calls by which plugins write to pytest's terminal; width and colours are added in the replay.

Output of pytest's own reporter is not recorded: the developer's reporter writes it again from the reports. Standard
library only.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Collection

from ..wire.records import TerminalCall
from .pytest_internals import replace_terminal_file, terminal_writer

if TYPE_CHECKING:
    import pytest

    from .record_file import Records

#: Calls of the terminal reporter ("tr") and its writer ("tw") that are recorded when a plugin makes them, and modules
#: of pytest that count as plugins because the developer's pytest will not make these calls.
_CALLS = {
    "tr": ("write", "write_line", "write_sep", "line", "section", "rewrite", "ensure_newline", "write_raw"),
    "tw": ("write", "line", "sep", "write_raw"),
}
_LIKE_PLUGINS = {
    "tr": ("_pytest.logging",),
    "tw": ("_pytest.logging", "_pytest.setuponly", "_pytest.setupplan", "_pytest.runner"),
}


class Screen:
    """Watches one session's terminal reporter and its writer."""

    def __init__(self, records: Records, silent: Collection[str] = ()) -> None:
        """`silent`: packages with calls that are not recorded."""
        self._records = records
        self._silent = silent

    def watch(self, config: pytest.Config) -> None:
        """Start watching; from here on the terminal reporter is the final one."""
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        writer = terminal_writer(reporter)
        if writer is None:
            return
        replace_terminal_file(writer, self._records.in_place_of)
        for target, name in ((reporter, "tr"), (writer, "tw")):
            for method in _CALLS[name]:
                self._record_calls(target, name, method)

    def _record_calls(self, target: object, name: str, method: str) -> None:
        """Record plugins' calls of this method with their arguments: the replay adds width and colours."""
        original = getattr(target, method, None)
        if original is None:
            return
        records, frame, like_plugins = self._records, sys._getframe, _LIKE_PLUGINS[name]
        silent = self._silent

        def recorded(*args: object, **kwargs: object) -> object:
            caller = frame(1).f_globals.get("__name__", "")
            of_plugin = not caller.startswith("_pytest.") or caller in like_plugins
            if of_plugin and caller.partition(".")[0] not in silent:
                passed = {key: value for key, value in kwargs.items() if key != "flush"}
                unseen = records.is_captured or None  # part of a test's captured output
                records.add(
                    TerminalCall(target=name, method=method, args=list(args), kwargs=passed, unseen=unseen)
                )
            return original(*args, **kwargs)

        setattr(target, method, recorded)
