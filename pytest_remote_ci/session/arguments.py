"""Which of pytest's arguments stay here and how the others travel: pure text, no parsing of what they mean.

The raw command line is forwarded, never one rebuilt from parsed options, because the container's pytest has plugins
and conftests that this one has not. Paths below the project are rewritten relative to the directory of the run, so
that they hold wherever the runner puts the workspace; paths outside of it are refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_remote_ci.config.user_file import home_folder
from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace.project import PROJECT_FILES

#: Tells whether an option string (``-k``, ``--ignore``) takes a value; None when the option is unknown here.
TakesValue = Callable[[str], "bool | None"]

#: Short options of pytest with a value: what is known of its options where its parser cannot be asked.
SHORT_WITH_VALUE = frozenset({"-k", "-m", "-p", "-c", "-o", "-W", "-r"})
#: Options of this plugin that take a value.
OWN_WITH_VALUE = frozenset(
    f"--remote-ci-{name}"
    for name in (
        "attach", "replay", "pipeline", "url", "api-key", "image", "python", "timeout", "name", "priority", "network",
        "env", "artifact", "artifacts-dir",
    )
)  # fmt: skip
#: Options of this plugin that stand alone.
OWN_FLAGS = frozenset({"--remote-ci", "--remote-ci-async", "--remote-ci-dry-run", "--remote-ci-text"})

#: Options that hand the session over.
_TAKE_OVER = frozenset(
    {
        "--remote-ci", "--remote-ci-async", "--remote-ci-dry-run", "--remote-ci-attach", "--remote-ci-replay",
        "--remote-ci-pipeline",
    }
)  # fmt: skip
#: Questions about what is here, which the local pytest answers itself also beside ``--remote-ci``.
_LOCAL_QUESTIONS = frozenset({"-V", "-VV", "--version", "--cache-show"})
#: Questions about the project, its conftests and plugins: only the pytest that has them knows the answer.
_HELP = frozenset({"-h", "--help"})
_QUESTIONS = _HELP | {"--markers", "--fixtures", "--funcargs", "--fixtures-per-test"}
#: A session that was asked for by its job: what it says is settled.
_EARLIER = frozenset({"--remote-ci-attach", "--remote-ci-replay"})
#: Options by which a run leaves a file: reporters, where they act, and what only the tests' own process can write.
_FILE_WRITING = frozenset(
    {"--junitxml", "--junit-xml", "--html", "--report-log", "--json-report", "--json-report-file",
     "--log-file", "--benchmark-json", "--alluredir"}
)  # fmt: skip
#: pytest's own options that mean this machine only: the colour decision travels as a submission option.
_LOCAL_WITH_VALUE = frozenset({"--color", "--basetemp"})
#: Options of reporters, which write here when the session is replayed here, and need not be there in the container.
_REPORTERS = frozenset(
    {
        "--junitxml", "--junit-xml", "--junitprefix", "--junit-prefix", "--html", "--css", "--self-contained-html",
        "--json-report", "--json-report-file", "--json-report-summary", "--json-report-indent",
        "--json-report-verbosity", "--report-log", "--pastebin", "--rich", "--force-sugar", "--teamcity",
        "--no-teamcity", "--jb-swapdiff",
    }
)  # fmt: skip
#: Plugins that talk to a program here (an editor, this plugin): of no use in the container.
_LOCAL_PLUGINS = frozenset(
    {
        "remote_ci", "no:remote_ci", "pytest_remote_ci.plugin", "no:pytest_remote_ci.plugin",
        "vscode_pytest", "teamcity", "pytest_teamcity", "teamcity.pytest_plugin",
    }
)  # fmt: skip
#: Their value is a path that the run reads, so it must be part of the project.
_READS_PATH = frozenset({"-c", "--config-file", "--rootdir", "--confcutdir"})
#: Their value is an expression, however much it looks like a path.
_EXPRESSIONS = frozenset({"-k", "-m", "-r", "-p", "-W"})
#: What the cache of this project decides.
_NEXT_RUN = frozenset(
    {"--lf", "--last-failed", "--ff", "--failed-first", "--nf", "--new-first", "--sw", "--stepwise", "--sw-skip",
     "--stepwise-skip"}
)  # fmt: skip
#: What needs a terminal in the container.
_REFUSED = ("--pdb", "--trace", "--pdbcls")


@dataclass(frozen=True)
class Place:
    """Where the run happens on this machine."""

    #: Absolute path of the project: what is sent.
    root: Path
    #: Absolute path of the directory in which pytest was started.
    cwd: Path

    @property
    def is_inside(self) -> bool:
        """Whether pytest was started in the project; else the run happens in its root."""
        return _below(self.cwd, self.root)

    @property
    def subdirectory(self) -> str:
        """The directory of the run relative to `root` in POSIX form; "" for the root itself."""
        if not self.is_inside:
            return ""
        text = os.path.relpath(os.path.realpath(self.cwd), os.path.realpath(self.root)).replace(os.sep, "/")
        return "" if text == "." else text

    def relative(self, path: str) -> str | None:
        """`path` relative to the directory of the run in POSIX form; None when it lies outside `root`."""
        absolute = Path(os.path.normpath(self.cwd / path))
        if not _below(absolute, self.root):
            return None
        directory = self.cwd if self.is_inside else self.root
        if absolute.is_relative_to(self.root) and directory.is_relative_to(self.root):
            return os.path.relpath(absolute, directory).replace(os.sep, "/")
        return os.path.relpath(os.path.realpath(absolute), os.path.realpath(directory)).replace(os.sep, "/")


def find_place(root: Path, cwd: Path, home: Path | None = None) -> Place:
    """The place of a run in the project `root`; raises `WorkspaceError` for what is hardly meant to be sent."""
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
    """Whether these arguments hand the session over to a runner; `settings` are those that nobody typed just now.

    ``--help`` goes along only where that was typed, too: it must not need a runner because of ``addopts``.
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
    """Whether the question is for help."""
    return bool(_heads(argv) & _HELP)


def without_help(args: list[str]) -> None:
    """Take the question for help out of `args`, in place: pytest's parser stops at it, wherever it stands."""
    args[:] = [text for text in args if text not in _HELP]


def refuse_interactive(argv: Iterable[str]) -> None:
    """Raise `WorkspaceError` for options that need a terminal where the tests run."""
    heads = _heads(argv)
    for option in _REFUSED:
        if option in heads:
            raise WorkspaceError(
                f"{option} cannot be used with --remote-ci: there is no terminal where the tests run; run the failing "
                "test here, without --remote-ci (and PYTHONBREAKPOINT=0 switches breakpoint() off)"
            )


def refuse_next_run(argv: Iterable[str]) -> None:
    """Raise `WorkspaceError` for options that choose tests of the next run by the cache: a replay shows a past one."""
    for option in sorted(_heads(argv) & _NEXT_RUN):
        raise WorkspaceError(
            f"{option} chooses tests for a new run; a replay takes -k, -m, --deselect, paths and node ids"
        )


def forward(
    argv: Sequence[str], place: Place, takes_value: TakesValue, *, reports_here: Collection[str] = ()
) -> list[str]:
    """What the container's pytest is given of `argv`; `reports_here` are options of reporters that act here instead.

    Raises `WorkspaceError` for a path outside the project.
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
    """An option with its value, or what is none: a path, a node id, the "--" before such that begin with a dash."""

    text: str
    #: None: it is no option.
    option: str | None = None
    value: str | None = None
    #: The value is an argument of its own.
    is_apart: bool = False

    @property
    def texts(self) -> list[str]:
        """As it was given."""
        return [self.text, self.value] if self.is_apart and self.value is not None else [self.text]

    def with_value(self, value: str) -> list[str]:
        """The same with another value."""
        if self.is_apart:
            return [self.text, value]
        return [self.text[: len(self.text) - len(self.value or "")] + value]


def words(argv: Iterable[str], takes_value: TakesValue) -> Iterator[Word]:
    """Arguments, each option with its value."""
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
    """The options of reporters that this pytest, which replays the session, has: `is_known` asks its parser."""
    return frozenset(option for option in _REPORTERS if is_known(option))


def written_there(argv: Iterable[str], reports_here: Collection[str] = ()) -> list[str]:
    """The options among `argv` that make pytest, or a common plugin, write a file where the tests run."""
    return sorted((_heads(argv) & _FILE_WRITING).difference(reports_here))


def without_own(argv: Sequence[str]) -> list[str]:
    """`argv` without this plugin's options; nothing else is touched."""
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
    """Option, and its value when that is the tail of `text`."""
    if text.startswith("--"):
        option, equals, value = text.partition("=")
        return option, (value if equals else None)
    for index in range(1, len(text)):  # a cluster such as -xvk: the first that takes a value takes the rest
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
    """A file, directory or node id; what does not exist here is left to the container's pytest to judge."""
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
