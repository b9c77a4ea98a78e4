"""Every private name of pytest that the files in the job use, with the versions of pytest that have it.

All were seen in 7.0, 7.4, 8.0, 8.4, 9.0 and 9.2, except where another range is given. What is different without a name
is in the comment next to it. `tests/test_architecture.py` rejects private names in the other files. execnet can run
this file in a worker of pytest-xdist, so it imports nothing else of this project. Standard library only, until a
function needs pytest.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Callable, NoReturn, TextIO

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Protocol

    import pytest
    from _pytest._code.code import ReprFileLocation
    from _pytest._io import TerminalWriter
    from _pytest.junitxml import LogXML
    from _pytest.nodes import Node as Node
    from pluggy import HookCaller

    class Channel(Protocol):
        """execnet's connection to a program that runs elsewhere."""

        def send(self, item: str) -> None: ...

        def waitclose(self, timeout: float) -> None: ...

    class Gateway(Protocol):
        """execnet's connection to a process."""

        id: str

        def remote_exec(self, source: ModuleType) -> Channel: ...

    class WorkerController(Protocol):
        """A worker of pytest-xdist, in its controller."""

        config: pytest.Config
        gateway: Gateway

# -- its own plugins


def import_own_plugins() -> None:
    """Import pytest's own plugins, as every session does; without their list, the caller does not import ahead."""
    import importlib

    from _pytest.config import default_plugins

    for name in default_plugins:
        importlib.import_module(f"_pytest.{name}")


def restart_clocks() -> None:
    """Let records of `logging` count from now; without the private name, they count from its import."""
    import logging
    import time

    begun = getattr(logging, "_startTime", None)
    if begun is not None:
        now = time.time_ns() if isinstance(begun, int) else time.time()
        logging._startTime = now  # type: ignore[attr-defined]  # private


# -- who implements a hook

#: Prefix of the names of pytest's own modules. Without it, pytest's hooks count as a plugin's, and are slower.
PYTEST = "_pytest."


def all_are_of(hook: HookCaller, *owners: str) -> bool:
    """Whether the module names of all implementations, wrappers included, begin with one of `owners`."""
    return all(
        (getattr(implementation.function, "__module__", "") or "").startswith(owners)
        for implementation in hook.get_hookimpls()
    )


# -- byte code


def rewritten_byte_code(path: Path) -> tuple[str, Callable[[IO[bytes]], None]]:
    """Rewrite the assertions of a module as pytest does when it imports a plugin.

    Return the last part of the name under which pytest looks for the result, and a function that writes it to a file.
    Raises SyntaxError for a module that is none, ImportError and AttributeError without the names (seen since 6.2):
    each job rewrites plugins itself then.
    """
    from _pytest.assertion import rewrite

    status, code = rewrite._rewrite_test(path, None)  # type: ignore[arg-type]  # no configuration: no hook for passes
    return rewrite.PYC_TAIL, lambda file: rewrite._write_pyc_fp(file, status, code)


# -- the start of pytest


def set_terminal_width(columns: int) -> None:
    """Let pytest write lines of this width. Without the name, they have 80 columns."""
    with contextlib.suppress(ImportError, AttributeError):
        from _pytest._io import terminalwriter

        terminalwriter.get_terminal_width = lambda: columns


def main_function() -> Callable[..., int | pytest.ExitCode] | None:
    """Return a function like `pytest.main` with an argument `prog`, the command's name for usage errors.

    None without it (before 9.0): usage errors begin with the name of this file then.
    """
    from _pytest import config

    named = getattr(config, "_main", None)
    code = getattr(named, "__code__", None)
    has_argument = (
        code is not None and "prog" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    )
    return named if has_argument else None


def register_in_new_configs(plugins: Callable[[], list[object]]) -> None:
    """Register plugins in each pytest that this process starts. Raises AttributeError without the name.

    Workers of pytest-xdist then record no logs, and reject our options.
    """
    from _pytest import config

    original = config.get_config

    def get_config(*args: Any, **kwargs: Any) -> pytest.Config:
        made = original(*args, **kwargs)
        for plugin in plugins():
            made.pluginmanager.register(plugin)
        return made

    config.get_config = get_config


def captured_files(config: pytest.Config) -> list[int]:
    """Return the descriptors of the files with captured output. Raises an error without the names.

    Output of a test that takes pytest down is not in its report then.
    """
    manager: Any = config.pluginmanager.get_plugin("capturemanager")
    capture = manager._global_capturing
    return [capture.out.tmpfile.fileno(), capture.err.tmpfile.fileno()]


# -- tests and reports


def finalizers_of(item: pytest.Item) -> list[object]:
    """Return the finalizers of a test that is set up. Raises an error without the names: a result is sent later."""
    found: list[object] = [*item.session._setupstate.stack[item][0]]
    return found


def report_to_json(report: pytest.TestReport | pytest.CollectReport) -> dict[str, object]:
    """Return the report's fields, as pytest's own hook does. Raises AttributeError without the name."""
    data: dict[str, object] = report._to_json()
    return data


def crash_place(excinfo: pytest.ExceptionInfo[BaseException]) -> ReprFileLocation | None:
    """Return where an exception was raised, None if its traceback is hidden. Raises AttributeError without the name."""
    return excinfo._getreprcrash()


def worker_line(node: WorkerController) -> str:
    """Return the line that describes a worker of pytest-xdist. Raises an error without the name: there is none."""
    from _pytest import reports

    describe: Callable[[WorkerController], object] = reports.getworkerinfoline
    return str(describe(node))


# -- the JUnit report


def junit_xml(config: pytest.Config) -> LogXML | None:
    """Return what writes the JUnit report, None if nothing does. Raises ImportError without the name."""
    from _pytest.junitxml import xml_key

    return config.stash.get(xml_key, None)


def watch_attributes(note: Callable[[str, str, str], None]) -> None:
    """Call `note` with test, name and value for each ``record_xml_attribute``. Raises an error without the names."""
    from _pytest import junitxml

    original = junitxml._NodeReporter.add_attribute

    def add_attribute(self: junitxml._NodeReporter, name: str, value: object) -> None:
        original(self, name, value)
        note(str(self.id), str(name), str(value))

    junitxml._NodeReporter.add_attribute = add_attribute  # type: ignore[method-assign]  # a patch


# -- the terminal


def terminal_writer(reporter: object) -> TerminalWriter | None:
    """Return what the terminal reporter writes to; None without the names: what plugins write is not shown then."""
    writer = getattr(reporter, "_tw", None)
    return writer if hasattr(writer, "_file") else None


def replace_terminal_file(writer: TerminalWriter, replacement: Callable[[TextIO], Any]) -> None:
    """Let the writer that `terminal_writer` returned write to the file that `replacement` makes from the present one.

    Without the name there is no such writer.
    """
    writer._file = replacement(writer._file)


def new_terminal_writer(file: TextIO) -> TerminalWriter:
    """Return a writer with colours. Raises an error without the name: tracebacks have no colours then."""
    from _pytest._io import TerminalWriter

    writer = TerminalWriter(file)
    writer.hasmarkup = True
    return writer


# -- debuggers


def forbid_debuggers() -> None:
    """Fail a test that calls a debugger. Without the names, it gets the end of its input.

    `_init_pdb` is what both `breakpoint()` and `pdb.set_trace()` call.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from _pytest import debugging

        # This is a patch.
        debugging.pytestPDB._init_pdb = staticmethod(_fail_at_debugger)  # type: ignore[method-assign]


def _fail_at_debugger(method: str, *args: object, **kwargs: object) -> NoReturn:
    import pytest

    frame = sys._getframe(1).f_back
    place = f"{os.path.relpath(frame.f_code.co_filename)}:{frame.f_lineno}: " if frame else ""
    pytest.fail(
        f"{place}a debugger was called, but the job has no terminal: run this test without --remote-ci, "
        "or set PYTHONBREAKPOINT=0",
        pytrace=False,
    )


if __name__ == "__channelexec__":  # the name under which execnet runs a module remotely
    forbid_debuggers()
