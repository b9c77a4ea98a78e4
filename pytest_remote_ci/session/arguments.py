"""Decide which of pytest's arguments stay local and how the others are sent, as text, without parsing values.

The raw command line is forwarded, never one rebuilt from parsed options, because the job's pytest has plugins and
conftests that the local one does not. Paths below the project are made relative to the job's working directory, so
that they are valid wherever the runner puts the workspace; paths outside of the project are refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_remote_ci.config.user_file import home_folder
from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace.project import PROJECT_FILES

#: Returns whether an option (``-k``, ``--ignore``) takes a value; None if it is not known locally.
TakesValue = Callable[[str], "bool | None"]

#: pytest's short options with a value, used if its parser cannot be asked.
SHORT_WITH_VALUE = frozenset({"-k", "-m", "-p", "-c", "-o", "-W", "-r"})
#: Options of this plugin that take a value.
OWN_WITH_VALUE = frozenset(
    f"--remote-ci-{name}"
    for name in (
        "attach",
        "replay",
        "pipeline",
        "url",
        "api-key",
        "image",
        "python",
        "timeout",
        "name",
        "priority",
        "network",
        "env",
        "artifact",
        "artifacts-dir",
    )
)
#: Options of this plugin without a value.
OWN_FLAGS = frozenset({"--remote-ci", "--remote-ci-async", "--remote-ci-dry-run", "--remote-ci-text"})

#: Options that hand the session over to a runner.
_TAKE_OVER = frozenset(
    {
        "--remote-ci",
        "--remote-ci-async",
        "--remote-ci-dry-run",
        "--remote-ci-attach",
        "--remote-ci-replay",
        "--remote-ci-pipeline",
    }
)
#: Local questions, which the local pytest answers itself even with ``--remote-ci``.
_LOCAL_QUESTIONS = frozenset({"-V", "-VV", "--version", "--cache-show"})
#: Questions about the project, its conftests and plugins: only a pytest that has them can answer.
_HELP = frozenset({"-h", "--help"})
_QUESTIONS = _HELP | {"--markers", "--fixtures", "--funcargs", "--fixtures-per-test"}
#: Options that show an earlier job: its options are settled.
_EARLIER = frozenset({"--remote-ci-attach", "--remote-ci-replay"})
#: Options that write a file: those of reporters, and those that need the tests' own process.
_FILE_WRITING = frozenset(
    {
        "--junitxml",
        "--junit-xml",
        "--html",
        "--report-log",
        "--json-report",
        "--json-report-file",
        "--log-file",
        "--benchmark-json",
        "--alluredir",
    }
)
#: pytest's own options for this machine only; the colour decision is sent as a submission option.
_LOCAL_WITH_VALUE = frozenset({"--color", "--basetemp"})
#: Options of reporters: applied locally in a replay, and not required in the job.
_REPORTERS = frozenset(
    {
        "--junitxml",
        "--junit-xml",
        "--junitprefix",
        "--junit-prefix",
        "--html",
        "--css",
        "--self-contained-html",
        "--json-report",
        "--json-report-file",
        "--json-report-summary",
        "--json-report-indent",
        "--json-report-verbosity",
        "--report-log",
        "--pastebin",
        "--rich",
        "--force-sugar",
        "--teamcity",
        "--no-teamcity",
        "--jb-swapdiff",
    }
)
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
#: Options with a path that the job reads, which must therefore be part of the project.
_READS_PATH = frozenset({"-c", "--config-file", "--rootdir", "--confcutdir"})
#: Options with an expression as value, even if it looks like a path.
_EXPRESSIONS = frozenset({"-k", "-m", "-r", "-p", "-W"})
#: Options decided by the project's cache.
_NEXT_RUN = frozenset(
    {
        "--lf",
        "--last-failed",
        "--ff",
        "--failed-first",
        "--nf",
        "--new-first",
        "--sw",
        "--stepwise",
        "--sw-skip",
        "--stepwise-skip",
    }
)
#: Options that need a terminal in the job.
_REFUSED = ("--pdb", "--trace", "--pdbcls")


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
        raise WorkspaceError(f"{root} is no project: start pytest in the folder of a project")
    if not _below(cwd, root) and not _below(root, cwd):
        raise WorkspaceError(
            f"{root} is outside the project in {cwd}: start pytest in the project of the tests"
        )
    return Place(root, cwd)


def _below(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def wants_remote(typed: Sequence[str], settings: Sequence[str] = ()) -> bool:
    """Whether these arguments hand the session over to a runner; `settings` are those not typed just now.

    ``--help`` is handed over only if the option for that was typed, too: ``addopts`` alone must not make it need a
    runner.
    """
    here = _heads(typed)
    heads = here | _heads(settings)
    if not heads & _TAKE_OVER or heads & _LOCAL_QUESTIONS:
        return False
    if heads & _HELP and (not here & _TAKE_OVER or "--remote-ci-pipeline" in heads):
        return False
    return not (heads & _EARLIER and heads & _QUESTIONS)


def is_question(argv: Iterable[str]) -> bool:
    """Whether pytest is asked about the project, and runs no test."""
    return bool(_heads(argv) & _QUESTIONS)


def is_for_help(argv: Iterable[str]) -> bool:
    """Whether help is requested."""
    return bool(_heads(argv) & _HELP)


def without_help(args: list[str]) -> None:
    """Remove options for help from `args`, in place: pytest's parser stops at them, wherever they are."""
    args[:] = [text for text in args if text not in _HELP]


def refuse_interactive(argv: Iterable[str]) -> None:
    """Raise `WorkspaceError` for options that need a terminal in the job."""
    heads = _heads(argv)
    for option in _REFUSED:
        if option in heads:
            raise WorkspaceError(
                f"{option} cannot be used with --remote-ci: there is no terminal where the tests run; run the failing "
                "test here, without --remote-ci (and PYTHONBREAKPOINT=0 switches breakpoint() off)"
            )


def refuse_next_run(argv: Iterable[str]) -> None:
    """Raise `WorkspaceError` for options that use the cache to select tests: a replay shows a past session."""
    for option in sorted(_heads(argv) & _NEXT_RUN):
        raise WorkspaceError(
            f"{option} chooses tests for a new run; a replay takes -k, -m, --deselect, paths and node ids"
        )


def forward(
    argv: Sequence[str], place: Place, takes_value: TakesValue, *, reports_here: Collection[str] = ()
) -> list[str]:
    """Return the part of `argv` for the job's pytest; `reports_here` are reporters' options applied locally.

    Raises `WorkspaceError` for a path outside of the project.
    """
    result: list[str] = []
    for word in words(argv, takes_value):
        option, value = word.option, word.value
        if option is None:
            result.append(word.text if word.text == "--" else _positional(word.text, place))
            continue
        stays = option in OWN_FLAGS or option in OWN_WITH_VALUE or option in _LOCAL_WITH_VALUE
        if stays or option in reports_here or (option == "-p" and value in _LOCAL_PLUGINS):
            continue
        result += word.texts if value is None else word.with_value(_option_value(option, value, place))
    return result


@dataclass(frozen=True)
class Word:
    """An option with its value, or another argument: a path, a node id, or "--" before names with a dash."""

    text: str
    #: None for an argument that is not an option.
    option: str | None = None
    value: str | None = None
    #: Whether the value is a separate argument.
    is_apart: bool = False

    @property
    def texts(self) -> list[str]:
        """The arguments as given."""
        return [self.text, self.value] if self.is_apart and self.value is not None else [self.text]

    def with_value(self, value: str) -> list[str]:
        """Return the arguments with another value."""
        if self.is_apart:
            return [self.text, value]
        return [self.text[: len(self.text) - len(self.value or "")] + value]


def words(argv: Iterable[str], takes_value: TakesValue) -> Iterator[Word]:
    """Yield the arguments, each option with its value."""
    rest = iter(argv)
    for text in rest:
        if text == "--":
            yield Word(text)
            yield from (Word(item) for item in rest)
        elif not text.startswith("-") or text == "-":
            yield Word(text)
        else:
            option, value = _split(text, takes_value)
            waits = value is None and option not in OWN_FLAGS and _waits_for_value(option, takes_value)
            yield Word(text, option, next(rest, None) if waits else value, is_apart=waits)


def reporting_here(is_known: Callable[[str], bool]) -> frozenset[str]:
    """Return the options of reporters that the local pytest has: `is_known` asks its parser."""
    return frozenset(option for option in _REPORTERS if is_known(option))


def written_there(argv: Iterable[str], reports_here: Collection[str] = ()) -> list[str]:
    """Return the options in `argv` by which pytest, or a common plugin, writes a file in the job."""
    return sorted((_heads(argv) & _FILE_WRITING).difference(reports_here))


def without_own(argv: Sequence[str]) -> list[str]:
    """Return `argv` without this plugin's options, otherwise unchanged."""
    result: list[str] = []
    rest = iter(argv)
    for text in rest:
        head = text.partition("=")[0]
        if head in OWN_WITH_VALUE:
            if "=" not in text:
                next(rest, None)
        elif head not in OWN_FLAGS:
            result.append(text)
    return result


def _heads(argv: Iterable[str]) -> set[str]:
    heads = set()
    for text in argv:
        if text == "--":
            break
        heads.add(text.partition("=")[0])
    return heads


def _split(text: str, takes_value: TakesValue) -> tuple[str, str | None]:
    """Return the option, and its value if that is the end of `text`."""
    if text.startswith("--"):
        option, equals, value = text.partition("=")
        return option, (value if equals else None)
    for index in range(1, len(text)):  # a cluster such as -xvk: the first option with a value takes the rest
        option = "-" + text[index]
        if _waits_for_value(option, takes_value):
            value = text[index + 1 :]
            return option, (value or None)
    return text, None


def _waits_for_value(option: str, takes_value: TakesValue) -> bool:
    if option in OWN_WITH_VALUE or option in _LOCAL_WITH_VALUE:
        return True
    return bool(takes_value(option))


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
        raise WorkspaceError(f"{shown} is outside the project {place.root}: only what lies below it is sent")
    return relative
