"""Decide which of pytest's arguments stay local and how the others are sent, as text, without parsing values.

The raw command line is forwarded, never one rebuilt from parsed options, because the job's pytest has plugins and
conftests that the local one does not. Paths below the project are made relative to the job's working directory, so
that they are valid wherever the runner puts the workspace; paths outside of the project are refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_remote_ci import options
from pytest_remote_ci.config.user_file import home_folder
from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.session import argv
from pytest_remote_ci.session.argv import TakesValue
from pytest_remote_ci.workspace.project import PROJECT_FILES

#: Options that write a file.
_FILE_WRITING = options.names(lambda option: option.writes_file)
#: Options for this machine only. Those of reporters depend on what is installed: see `find_local_reporters`.
_LOCAL = options.names(
    lambda option: (
        option.obeyed_by == options.HERE and not option.is_reporter and not option.is_local_question
    )
)
_REPORTERS = options.names(lambda option: option.is_reporter)
_QUESTIONS = options.names(lambda option: option.is_question)
_LOCAL_QUESTIONS = options.names(lambda option: option.is_local_question)
_TAKE_OVER = options.names(lambda option: option.hands_over)
_EARLIER = options.names(lambda option: option.is_earlier)
_FOR_NEW_JOBS = options.names(lambda option: option.is_for_new_job)
_READS_PATH = options.names(lambda option: option.reads_path)
_EXPRESSIONS = options.names(lambda option: option.is_expression)
#: Plugins for a local program (an editor, this plugin), of no use in the job.
_LOCAL_PLUGINS = frozenset(
    {
        "remote_ci",
        "no:remote_ci",
        "pytest_remote_ci.plugin",
        "no:pytest_remote_ci.plugin",
        "vscode_pytest",
        "teamcity",
        "pytest_teamcity",
        "teamcity.pytest_plugin",
    }
)


@dataclass(frozen=True)
class Place:
    """The project and the start folder of a session on this machine."""

    #: Absolute path of the project, which is sent.
    root: Path
    #: Absolute path of the folder in which pytest was started.
    cwd: Path

    @property
    def is_inside(self) -> bool:
        """Whether pytest was started in the project; otherwise the job runs in the project's root."""
        return _below(self.cwd, self.root)

    @property
    def subdirectory(self) -> str:
        """The job's working directory relative to `root` in POSIX form; "" for the root itself."""
        if not self.is_inside:
            return ""
        text = os.path.relpath(os.path.realpath(self.cwd), os.path.realpath(self.root)).replace(os.sep, "/")
        return "" if text == "." else text

    def relative(self, path: str) -> str | None:
        """Return `path` relative to the job's working directory in POSIX form; None if it is outside of `root`."""
        absolute = Path(os.path.normpath(self.cwd / path))
        if not _below(absolute, self.root):
            return None
        directory = self.cwd if self.is_inside else self.root
        if absolute.is_relative_to(self.root) and directory.is_relative_to(self.root):
            return os.path.relpath(absolute, directory).replace(os.sep, "/")
        return os.path.relpath(os.path.realpath(absolute), os.path.realpath(directory)).replace(os.sep, "/")


def find_place(root: Path, cwd: Path, home: Path | None = None) -> Place:
    """Return the place for the project `root`. Raises `WorkspaceError` for folders hardly meant to be sent."""
    home = home_folder() if home is None else home
    if root in (Path(root.anchor), home) and not any((root / name).exists() for name in PROJECT_FILES):
        raise WorkspaceError(f"{root} is not a project: start pytest in the folder of a project")
    if not _below(cwd, root) and not _below(root, cwd):
        raise WorkspaceError(
            f"{root} is outside the project in {cwd}: start pytest in the project of the tests"
        )
    return Place(root, cwd)


def _below(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def wants_remote(typed: Sequence[str], settings: Sequence[str] = ()) -> bool:
    """Whether these arguments hand the session over to a runner; `settings` are those not typed just now."""
    found = argv.names(typed) | argv.names(settings)
    if not found & _TAKE_OVER or found & _LOCAL_QUESTIONS:
        return False
    return not (found & _EARLIER and found & _QUESTIONS)


def without_effect(typed: Sequence[str]) -> list[str]:
    """Return the typed options of ours that have no effect: in a session that stays local, or on an earlier job.

    None are returned if only a question is asked.
    """
    found = argv.names(typed)
    if found & _EARLIER:
        return sorted(found & _FOR_NEW_JOBS)
    if found & (_LOCAL_QUESTIONS | _QUESTIONS | _TAKE_OVER):
        return []
    return sorted(found & options.OWN_NAMES)


def is_question(args: Iterable[str]) -> bool:
    """Whether pytest is asked about the project, and runs no test."""
    return bool(argv.names(args) & _QUESTIONS)


def refuse_interactive(args: Iterable[str]) -> None:
    """Raise `WorkspaceError` for options that need a terminal in the job."""
    for option in sorted(argv.names(args)):
        found = options.BY_NAME.get(option)
        if found is not None and found.refused:
            raise WorkspaceError(f"{option} cannot be used with --remote-ci: {found.refused}")


def refuse_next_run(args: Iterable[str]) -> None:
    """Raise `WorkspaceError` for options that use the cache to select tests: a replay shows a past session."""
    for option in sorted(argv.names(args)):
        found = options.BY_NAME.get(option)
        if found is not None and found.refused_in_replay:
            raise WorkspaceError(f"{option} {found.refused_in_replay}")


def forward(
    args: Iterable[str],
    place: Place,
    takes_value: TakesValue = options.takes_value,
    *,
    local_reporters: Collection[str] = (),
) -> list[str]:
    """Return the part of `args` for the job's pytest; `local_reporters` are reporters' options applied locally.

    Raises `WorkspaceError` for a path outside of the project.
    """
    result: list[str] = []
    for word in argv.words(args, takes_value):
        option, value = word.option, word.value
        if option is None:
            result.append(word.text if word.text == "--" else _positional(word.text, place))
            continue
        if option in _LOCAL or option in local_reporters or (option == "-p" and value in _LOCAL_PLUGINS):
            continue
        result += word.texts if value is None else word.with_value(_option_value(option, value, place))
    return result


def find_local_reporters(is_known: Callable[[str], bool]) -> frozenset[str]:
    """Return the options of reporters that the local pytest has: `is_known` asks its parser."""
    return frozenset(option for option in _REPORTERS if is_known(option))


def file_writing_options(args: Iterable[str], local_reporters: Collection[str] = ()) -> list[str]:
    """Return the options in `args` by which pytest, or a common plugin, writes a file in the job."""
    return sorted((argv.names(args) & _FILE_WRITING).difference(local_reporters))


def without_own(args: Sequence[str]) -> list[str]:
    """Return `args` without this plugin's options, otherwise unchanged."""
    foreign = (word for word in argv.words(args) if word.option not in options.OWN_NAMES)
    return [text for word in foreign for text in word.texts]


def _positional(text: str, place: Place) -> str:
    """Return a file, directory or node id for the job; names that do not exist locally are not checked."""
    if text.startswith("@"):  # a file of arguments
        return "@" + _inside(text[1:], place, text)
    path, colons, rest = text.partition("::")
    if Path(path).is_absolute():
        relative = place.relative(path)
        if relative is not None:
            return relative + colons + rest
        if not os.path.lexists(path):
            return text
    elif not os.path.lexists(place.cwd / path) or (place.is_inside and ".." not in Path(path).parts):
        return path.replace(os.sep, "/") + colons + rest
    return _inside(path, place, text) + colons + rest


def _option_value(option: str, value: str, place: Place) -> str:
    if option in _EXPRESSIONS:
        return value
    if option in _READS_PATH:
        return _inside(value, place, f"{option} {value}")
    name, equals, setting = ("", "", value)
    if not Path(value).is_absolute() and "=" in value:  # -o cache_dir=/path
        name, equals, setting = value.partition("=")
    path, colons, rest = setting.partition("::")
    if not Path(path).is_absolute():
        return value
    relative = place.relative(path)
    return value if relative is None else name + equals + relative + colons + rest


def _inside(path: str, place: Place, shown: str) -> str:
    relative = place.relative(path)
    if relative is None:
        raise WorkspaceError(f"{shown} is outside the project {place.root}: only files below it are sent")
    return relative
