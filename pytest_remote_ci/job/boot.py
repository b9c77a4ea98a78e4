"""Start pytest inside a job as the developer's command line would: ``python boot.py module|script ARGS...``.

``module`` is ``python -m pytest`` (the working directory comes first on ``sys.path``), ``script`` is the ``pytest``
script. Standard library and pytest (6 or newer) only. Our own plugin's options are known but have no effect, because
``addopts = --remote-ci`` in a project must neither fail nor submit again. The exit code is pytest's own. If records
are requested, the plugin that writes them (`recorder`) is added.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    import pytest

    from .record_file import Records

#: The folder of this file. `__file__` becomes that of the command we stand for.
_HERE = os.path.dirname(os.path.abspath(__file__))
#: Columns of the developer's terminal; removed from the environment before any user code runs.
COLUMNS = "REMOTE_CI_COLUMNS"
#: Folder for the session's records, if they are requested; also removed from the environment.
RECORDS = "REMOTE_CI_RECORDS"
#: File of modification times (see `mtimes`), if an option needs them.
AGES = "REMOTE_CI_AGES"
#: Set if an earlier pytest of this job died: only the tests that never began are to run.
CONTINUED = "REMOTE_CI_CONTINUED"
#: Descriptor by which the worker receives the files of captured output.
CAPTURED = "REMOTE_CI_CAPTURED"
#: Folder, in the job's working directory, for reports that belong outside of the project on the developer's machine.
OUTSIDE = ".remote-ci-reports"
#: The package names of the files next to this one inside a job, and of the package above them.
_PACKAGE, _ROOT = "_remote_ci.job", "_remote_ci"
#: Name of our own plugin's entry point.
PLUGIN = "remote_ci"
#: pytest's exit code for wrong arguments or settings.
_USAGE_ERROR = 4
_FLAGS = (
    "--remote-ci",
    "--remote-ci-async",
    "--remote-ci-dry-run",
    "--remote-ci-text",
    "--remote-ci-cold",
    "--remote-ci-comparisons",
    "--remote-ci-logs",
)
#: Option for tests selected for several jobs: a job without any of them has not failed.
NONE_IS_FINE = "--remote-ci-none-is-fine"
#: Options with a value: all of our plugin's (`pytest_remote_ci.options`, which does not exist in a job), and ours here.
_VALUES = (
    "--remote-ci-attach",
    "--remote-ci-replay",
    "--remote-ci-pipeline",
    "--remote-ci-profile",
    "--remote-ci-url",
    "--remote-ci-api-key",
    "--remote-ci-image",
    "--remote-ci-python",
    "--remote-ci-retries",
    "--remote-ci-timeout",
    "--remote-ci-name",
    "--remote-ci-priority",
    "--remote-ci-network",
    "--remote-ci-env",
    "--remote-ci-artifact",
    "--remote-ci-artifacts-dir",
    "--remote-ci-here",
)
#: Option with words for pytest as value, used only if a plugin knows the first of them.
ONLY_IF_KNOWN = "--remote-ci-only-if-known="


class InertOptions:
    """A pytest plugin that keeps our own plugin out of this process and makes its options have no effect."""

    def pytest_addoption(self, parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
        """Block our plugin and declare its options, before any entry point is loaded."""
        pluginmanager.set_blocked(PLUGIN)
        group = parser.getgroup("remote-ci")
        for flag in (*_FLAGS, NONE_IS_FINE):
            group.addoption(flag, action="store_true", default=False, help=argparse.SUPPRESS)
        for option in _VALUES:
            group.addoption(option, default=None, help=argparse.SUPPRESS)

    def pytest_load_initial_conftests(
        self, early_config: pytest.Config, parser: pytest.Parser, args: list[str]
    ) -> None:
        """Drop options of a newer plugin from `args`, which pytest parses next, with ``addopts``."""
        known = (*_FLAGS, NONE_IS_FINE, *_VALUES)
        given, args[:] = list(args), []
        for item in given:
            if item.startswith(ONLY_IF_KNOWN):  # moved behind the project's own options
                words = shlex.split(item[len(ONLY_IF_KNOWN) :])
                if not parser.parse_known_and_unknown_args(words[:1])[1]:
                    args += words
            elif not item.startswith("--remote-ci-") or item.partition("=")[0] in known:
                args.append(item)


class AllowNoTests:
    """A pytest plugin that makes a session without tests succeed, if that was requested."""

    def pytest_configure(self, config: pytest.Config) -> None:
        """Store whether it was requested."""
        self._is_asked = getattr(config.option, "remote_ci_none_is_fine", False)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Replace 5, pytest's exit code for no tests, by 0."""
        if self._is_asked and session.exitstatus == 5:
            session.exitstatus = 0


def fix_path(mode: str) -> str:
    """Make ``sys.path`` and ``sys.argv[0]`` those of the command we stand for; return the new argv[0]."""
    if sys.path and os.path.abspath(sys.path[0]) == _HERE:
        del sys.path[0]
    is_safe = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
    if mode == "module":
        if not is_safe:
            sys.path.insert(0, os.getcwd())
        import pytest

        return os.path.join(os.path.dirname(os.path.abspath(pytest.__file__)), "__main__.py")
    scripts = os.path.dirname(sys.executable)
    if not is_safe:
        sys.path.insert(0, scripts)  # a script's folder comes first on its path
    return os.path.join(scripts, "pytest")


def fix_main_module(mode: str, program: str) -> None:
    """Make ``__main__`` and ``sys.orig_argv`` those of the command whose ``sys.argv[0]`` is `program`.

    Libraries ask them how the process was started: hypothesis, reloaders, and `multiprocessing`, whose children import
    the main module again.
    """
    if not os.path.isfile(program):
        return
    if hasattr(sys, "orig_argv"):
        command = ["-m", "pytest"] if mode == "module" else [program]
        sys.orig_argv[len(sys.orig_argv) - len(sys.argv) - 1 :] = [*command, *sys.argv[1:]]
    main = sys.modules["__main__"]
    main.__file__ = program
    if mode == "module":
        from importlib.util import find_spec

        main.__spec__ = find_spec("pytest.__main__")
        main.__package__ = "pytest"


def make_folders(args: list[str]) -> None:
    """Make folders for reports that belong outside of the project, because not all reporters do."""
    for word in args:
        path = word.partition("=")[2] if word.startswith("-") else word
        if path.startswith(f"{OUTSIDE}/"):
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(path), exist_ok=True)


def like_a_terminal() -> None:
    """Write output line by line, and make pytest's lines as wide as the developer's terminal."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # AttributeError is caught
    columns = os.environ.pop(COLUMNS, "")
    if columns.isdigit() and int(columns) >= 20:
        load("pytest_internals").set_terminal_width(int(columns))
        _publish_width(int(columns))


def _publish_width(columns: int) -> None:
    """Give the width to plugins that ask `shutil`; tests still find no terminal, as their output is captured."""
    import shutil

    original, output = shutil.get_terminal_size, _identity(1)

    def get_terminal_size(fallback: tuple[int, int] = (80, 24)) -> os.terminal_size:
        found = original(fallback)
        if "COLUMNS" in os.environ or output is None or _identity(1) != output:
            return found
        return os.terminal_size((columns, found.lines))

    shutil.get_terminal_size = get_terminal_size


def _identity(handle: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(handle)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def recording_plugins(records: Records, *, continued: bool) -> list[object]:
    """Return the plugins that record this session; if recording is impossible, none: a record has the reason.

    `continued`: an earlier pytest of this job died.
    """
    wire = _load_wire()
    records.add(wire.Recorder(protocol=wire.VERSION, cwd=os.getcwd()))
    try:
        import pytest

        if tuple(int(part) for part in pytest.__version__.split(".")[:1]) < (7,):
            raise RuntimeError(f"pytest {pytest.__version__} is older than 7.0")
        if not continued:
            return [load("recorder").Recorder(records)]
        with open(records.path, "rb") as file:
            earlier = load("crash").read(file)
        continuing = load("resume").ResumedRecords(records, earlier)
        return [load("recorder").Recorder(continuing), load("resume").OnlyUnstarted(continuing, earlier)]
    except Exception as error:
        records.add(wire.Unavailable(reason=f"{error}"))
        return []


class ShareCaptureFiles:
    """A pytest plugin that sends the files of captured output to the worker, which outlives this process."""

    def __init__(self, descriptor: int) -> None:
        import _socket

        os.set_inheritable(descriptor, False)
        self._worker = _socket.socket(fileno=descriptor)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Send the files, which stay the same from now on. They are private to pytest, so errors are ignored."""
        import _socket
        import array

        with contextlib.suppress(Exception):
            files = array.array("i", load("pytest_internals").captured_files(session.config))
            self._worker.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
        self._worker.close()


def make_package(here: str) -> None:
    """Make packages with unique names for the files in the folder `here`, and for those that the wire shares.

    In a job the folder `wire` lies in `here`, in the source tree next to it.
    """
    import types

    for name, folders in ((_ROOT, [here, os.path.dirname(here)]), (_PACKAGE, [here])):
        if name not in sys.modules:
            package = sys.modules[name] = types.ModuleType(name)
            package.__path__ = folders


def load(name: str, package: str = _PACKAGE) -> ModuleType:
    """Import a module next to this file, or another one of the same package."""
    import importlib

    make_package(_HERE)
    return importlib.import_module(f"{package}.{name}")


def _load_wire() -> ModuleType:
    """Import the records' module."""
    return load("wire.records", _ROOT)


def run_pytest(mode: str, args: list[str], plugins: list[object]) -> int:
    """Run `pytest.main` with the command's name for usage errors, which since pytest 9 is an argument."""
    import pytest

    times = os.environ.pop(AGES, "")
    if times:
        plugins = [*plugins, load("mtimes").ModificationTimes(times)]
    named = load("pytest_internals").main_function()
    if named is not None:
        return int(
            named(args=args, plugins=plugins, prog="pytest" if mode == "script" else "python -m pytest")
        )
    return int(pytest.main(args, plugins=plugins))


def _installed_plugins() -> list[str]:
    """Return the names of the distributions with pytest plugins; none if they cannot be read."""
    from importlib import metadata

    found: set[str] = set()
    with contextlib.suppress(Exception):
        for dist in metadata.distributions():
            if any(entry.group == "pytest11" for entry in dist.entry_points):
                found.add(str(dist.metadata["Name"]))
    return sorted(found)


def _guards() -> list[object]:
    return [load("debuggers").NoDebugger(), load("xdist_workers").Workers()]


def main(mode: str, args: list[str]) -> int:
    """Run pytest; return its exit code. A closed output is code 1, as in pytest."""
    sys.argv = [fix_path(mode), *args]
    if __name__ == "__main__":
        fix_main_module(mode, sys.argv[0])
    like_a_terminal()
    make_folders(args)
    folder, continued = os.environ.pop(RECORDS, ""), bool(os.environ.pop(CONTINUED, ""))
    records = load("record_file").Records(folder) if folder else None
    plugins = recording_plugins(records, continued=continued) if records is not None else []
    captured = os.environ.pop(CAPTURED, "")
    if captured:
        plugins.append(ShareCaptureFiles(int(captured)))
    try:
        code = run_pytest(
            mode,
            list(args),
            [InertOptions(), AllowNoTests(), *_guards(), *plugins],
        )
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if records is not None and code == _USAGE_ERROR:
        records.add(_load_wire().Refused(plugins=_installed_plugins()))
    if folder:
        load("preload").note(folder)
    if records is not None:  # any other end of the process does not end the session, whatever its code
        records.add(_load_wire().Returned(exitstatus=code))
        load("ending").shorten()
    return code


def _preload() -> None:
    """Import what every session imports."""
    import pytest  # noqa: F401  # for its import

    load("pytest_internals").import_own_plugins()


if __name__ == "__main__":
    if sys.argv[1] == "wait":
        load("zygote").wait(
            _preload, load("preload").load, load("pytest_internals").restart_clocks, sys.argv[2]
        )
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the worker held it back until here
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except KeyboardInterrupt:  # before pytest, which has its own message, has begun
        sys.exit(2)
