"""Find a project's pipeline definitions and have them read; this module itself only handles their text.

They are read by `ci_runner.pipelines`, which needs a parser that the light client does not have: in a separate
process if the `runner` extra is installed, else by the configured runner. Both answer the same question with the same
JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.wire.answers import AnswerError, CheckedPipelines
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.workspace.project import PROJECT_FILES, git_toplevel, is_there

#: The folder of definitions in YAML, relative to the project.
FOLDER: Final = ".pipelines"
PROJECT_FILE: Final = "pyproject.toml"
YAML: Final = (".yaml", ".yml")
#: Longer files are rejected and not sent.
LONGEST_FILE: Final = 256 * 1024
#: Seconds for reading definitions in a separate process.
_READING_TIME: Final = 120.0

#: A question for `ci_runner.pipelines.check.answer`.
Question = Mapping[str, object]

Files = list[tuple[str, str]]


class Unreadable(ConfigError):
    """A file of definitions cannot be read; the message begins with its position."""


def find(project: Path, cwd: Path) -> Files:
    """Return (name for messages, text) of all files of the project that can define pipelines."""
    folder = project / FOLDER
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in YAML)
    except (FileNotFoundError, NotADirectoryError):
        found = []
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read ({error.strerror})") from error
    file = project / PROJECT_FILE
    mentioned = is_there(file) and "pipelines" in (text := read(file))
    files = [(shown(file, cwd), text)] if mentioned else []
    return files + [(shown(path, cwd), read(path)) for path in found]


def find_some(project: Path, cwd: Path) -> Files:
    """Return the same; raise `ConfigError` if there are none."""
    files = find(project, cwd)
    if not files:
        table, file = "[tool.remote-ci.pipelines.<name>] in pyproject.toml", f"{FOLDER}/<name>.yaml"
        raise ConfigError(f"no pipeline is defined: write {table}, or {file}")
    return files


def problems_in(answer: CheckedPipelines) -> list[str]:
    """Return errors and warnings, one line each."""
    lines = []
    for problem in answer.problems:
        path = f"{problem.path}: " if problem.path else ""
        warning = "warning: " if problem.is_warning else ""
        place = problem.file
        if problem.line is not None:
            place += f":{problem.line}:{problem.column}"
        lines.append(escaped(f"{place}: {warning}{path}{problem.message}"))
    return lines


def errors_in(answer: CheckedPipelines) -> int:
    """Return the number of errors."""
    return sum(problem.is_error for problem in answer.problems)


def shown(file: Path, cwd: Path) -> str:
    """Return a file's path for messages: relative to `cwd` if it is below that."""
    return file.relative_to(cwd).as_posix() if file.is_relative_to(cwd) else file.as_posix()


def read(file: Path) -> str:
    """Return the text of a file; raises `Unreadable`."""
    try:
        if file.stat().st_size > LONGEST_FILE:
            raise Unreadable(f"{file}:1:1: the file is longer than {LONGEST_FILE} bytes")
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise Unreadable(f"{file}:1:1: Pipeline configuration file not found: {file}") from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise Unreadable(f"{file}:{line}:{column}: is not UTF-8") from error
    except OSError as error:
        raise Unreadable(f"{file}:1:1: cannot be read ({error.strerror})") from error


def is_in_project(file: Path) -> bool:
    """Whether a file is in a git work tree or in a folder with a project file, so that a run could send it."""
    folder = file.absolute().parent
    if git_toplevel(folder) is not None:
        return True
    return any(is_there(above / name) for above in (folder, *folder.parents) for name in PROJECT_FILES)


def can_read_locally() -> bool:
    """Whether the modules of the `runner` extra that read pipelines are installed locally."""
    return all(find_spec(name) is not None for name in ("ci_runner", "msgspec", "yaml"))


def read_locally(question: Question) -> CheckedPipelines:
    """Return the answer of a separate process: reading needs modules that must not be loaded next to pytest."""
    done = subprocess.run(
        [sys.executable, "-m", "ci_runner.pipelines"],
        input=json.dumps(question).encode(),
        capture_output=True,
        cwd=Path(__file__).parents[
            2
        ],  # ``-m`` looks there first, so no module of the user's project is in the way
        timeout=_READING_TIME,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"])[-1]
        raise ConfigError(f"the pipelines could not be read: {last}")
    try:
        return CheckedPipelines(json.loads(done.stdout))
    except AnswerError as error:
        raise ConfigError(f"the pipelines could not be read: its answer makes no sense ({error})") from error


def ask(question: Question, ask_runner: Callable[[Question], CheckedPipelines]) -> CheckedPipelines:
    """Return the answer of a local process if possible, else of the runner."""
    return read_locally(question) if can_read_locally() else ask_runner(question)
