"""Where artifacts go on the developer's machine: reports to their places in the project, others to a folder.

A local session would leave coverage data and the files that options name, so those of a remote one are fetched. A
file is accepted only if it is of the report's kind (`pytest_remote_ci.artifacts.report_kinds`), and it replaces an
existing file in the project only if that is such a report, too. For reports outside of the project see
`pytest_remote_ci.artifacts.external_reports`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_remote_ci import options
from pytest_remote_ci.artifacts import external_reports as outside
from pytest_remote_ci.artifacts import report_kinds
from pytest_remote_ci.artifacts.external_reports import ExternalReport
from pytest_remote_ci.artifacts.report_kinds import FolderKind, Kind
from pytest_remote_ci.config.user_file import read_toml
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.session.argv import names, words
from pytest_remote_ci.wire import globs

#: Default files of coverage and pytest-cov.
_COVERAGE: Final[Mapping[str, Kind | FolderKind]] = {
    ".coverage": report_kinds.COVERAGE_DATA,
    ".coverage.*": report_kinds.COVERAGE_DATA,
    "coverage.xml": report_kinds.COVERAGE_XML,
    "coverage.json": report_kinds.COVERAGE_JSON,
    "coverage.lcov": report_kinds.COVERAGE_LCOV,
    "lcov.info": report_kinds.COVERAGE_LCOV,
    "htmlcov": report_kinds.COVERAGE_HTML,
}
COVERAGE: Final = tuple(_COVERAGE)
#: Options with a file or folder to write as value.
WRITING: Final = options.names(lambda option: option.writes_file and option.takes_value)
#: (section, key) of a coverage setting that names such a file → its kind.
_COVERAGE_SETTINGS: Final[Mapping[tuple[str, str], Kind | FolderKind]] = {
    ("run", "data_file"): report_kinds.COVERAGE_DATA,
    ("xml", "output"): report_kinds.COVERAGE_XML,
    ("json", "output"): report_kinds.COVERAGE_JSON,
    ("lcov", "output"): report_kinds.COVERAGE_LCOV,
    ("html", "directory"): report_kinds.COVERAGE_HTML,
}
_WILD: Final = re.compile(r"[*?\[\]]")


@dataclass(frozen=True)
class Expected:
    """A report that the job may write."""

    kind: Kind | FolderKind
    #: Whether the developer typed its name; otherwise a file of the project contains it.
    is_typed: bool = False
    #: For assets of an HTML report: that report, relative to the project.
    beside: str | None = None


@dataclass(frozen=True)
class Home:
    """The local place of an artifact that is a report."""

    place: Path
    #: The local folder below which no link is followed.
    base: Path
    #: Its name within the report, and the report's kind; the content is checked after the download.
    name: str
    kind: Kind | FolderKind

    def content_problem(self, file: Path) -> str | None:
        """Return why the downloaded `file` is rejected for this place, else None."""
        try:
            return self.kind.content_problem(self.name, file)
        except OSError as error:
            return f"cannot be read ({error.strerror})"


#: Reports that lack some tests if pytest died while it wrote them.
_OF_TESTS = (
    report_kinds.HTML,
    report_kinds.JSON_REPORT,
    report_kinds.REPORT_LOG,
    report_kinds.BENCHMARK,
    report_kinds.CTRF,
    report_kinds.CUCUMBER,
)


@dataclass(frozen=True)
class Reports:
    """The reports of one job."""

    root: Path
    #: Pattern, relative to `root` → the report expected there.
    expected: Mapping[str, Expected]
    #: Patterns of files that replace those that local reporters write at their end.
    last: tuple[str, ...] = ()
    #: Folder, relative to `root` → the report in it that belongs outside of the project.
    outside: Mapping[str, ExternalReport] = field(default_factory=dict)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns to request from the runner."""
        return tuple(dict.fromkeys((*self.expected, *self.outside)))

    def concerns(self, path: str) -> bool:
        """Return whether the artifact `path` was requested as a report."""
        return bool(globs.Globs(self.patterns).match(path))

    def home(self, path: str) -> Home | str:
        """Return the place of the artifact `path`, or a phrase, to follow its name, why it has none."""
        for folder, report in self.outside.items():
            if path.startswith(f"{folder}/"):
                return _outside_home(report, path[len(folder) + 1 :])
        patterns = tuple(self.expected)
        problem: str | None = None
        for hit in sorted(globs.Globs(patterns).match(path)):
            found = self._home(path, patterns[hit])
            if isinstance(found, Home):
                return found
            problem = found if problem is None else problem
        return problem or "was not requested"

    def _home(self, path: str, pattern: str) -> Home | str:
        expected = self.expected[pattern]
        kind = expected.kind
        if isinstance(kind, Kind):
            name = path
            problem = kind.name_problem(path, is_typed=expected.is_typed)
            # A pattern for a file also matches everything below a folder of that name.
            if path.count("/") != pattern.count("/"):
                problem = "is not part of such a report"
        elif path.startswith(f"{pattern}/"):
            name = path[len(pattern) + 1 :]
            problem = kind.name_problem(name) or _folder_problem(pattern, is_typed=expected.is_typed)
        else:
            return "is not a folder"
        if problem is not None:
            return problem
        place = self.root / path
        problem = _way_problem(self.root, path)
        if problem is None and os.path.lexists(place):
            problem = self._replacing_problem(place, kind, expected)
        return problem if problem is not None else Home(place, self.root, name, kind)

    def _replacing_problem(self, place: Path, kind: Kind | FolderKind, expected: Expected) -> str | None:
        """Return why the existing file at `place` must stay, else None."""
        beside = None if expected.beside is None else self.root / expected.beside
        return _replacing_problem(place, kind, beside)

    def is_last(self, path: str) -> bool:
        """Whether the artifact `path` is fetched only after local reporters have written."""
        return bool(self.last) and bool(globs.Globs(self.last).match(path))

    def lists_tests(self, path: str) -> bool:
        """Return whether the artifact `path` is a report with one entry for each test."""
        home = self.home(path)
        return isinstance(home, Home) and home.kind in _OF_TESTS

    def name_of(self, path: str, place: Path) -> str:
        """Return the name of a report for messages: its own, or that of the report's folder it is in."""
        for folder, report in self.outside.items():
            if path.startswith(f"{folder}/"):
                return str(place) if path == f"{folder}/{report.place.name}" else f"{place.parent}/"
        for pattern in self.expected:
            if path.startswith(f"{pattern}/"):
                return f"{pattern}/"
        return path


def _outside_home(report: ExternalReport, name: str) -> Home | str:
    place = report.home(name)
    if place is None:
        return "is not part of such a report"
    is_file = name == report.place.name
    kind: Kind | FolderKind = report.kind if is_file else report_kinds.HTML_ASSETS
    problem = report.kind.name_problem(name, is_typed=True) if is_file else None
    if not is_file:
        name = name.rpartition("/")[2]
        problem = report_kinds.HTML_ASSETS.name_problem(name)
    if problem is None and os.path.lexists(place):
        problem = _replacing_problem(place, kind, report.place)
    # A link at the exact place is followed, as reporters do; the assets lie next to the link.
    return (
        problem
        if problem is not None
        else Home(place, place.parent if is_file else report.place.parent, name, kind)
    )


def _replacing_problem(place: Path, kind: Kind | FolderKind, beside: Path | None) -> str | None:
    try:
        mode = place.lstat().st_mode
        if stat.S_ISLNK(mode):
            return "was not fetched: the path here is a link"
        if not stat.S_ISREG(mode):
            return "was not fetched: the path here is not a regular file"
        replaceable = kind.may_replace(place) if isinstance(kind, Kind) else kind.may_replace(place, beside)
    except OSError as error:
        return f"was not fetched: the file here cannot be read ({error.strerror})"
    return None if replaceable else "was not fetched: the file here is not such a report"


def _way_problem(root: Path, path: str) -> str | None:
    """Return why nothing is written at `path` below `root`: a parent is a link or not a folder; else None."""
    here = root
    for part in path.split("/")[:-1]:
        here = here / part
        try:
            mode = here.lstat().st_mode
        except OSError:  # does not exist yet; other errors show when it is made
            return None
        if not stat.S_ISDIR(mode):
            return (
                f"was not fetched: {part} in its path is {'a link' if stat.S_ISLNK(mode) else 'not a folder'}"
            )
    return None


def _folder_problem(folder: str, *, is_typed: bool) -> str | None:
    return (
        None
        if is_typed or report_kinds.is_plain(folder)
        else "is in a folder that such a report does not have"
    )


def find(
    argv: Sequence[str],
    place: Place,
    local_reporters: Collection[str] = (),
    twice: Iterable[tuple[str, str]] = (),
    outsiders: Iterable[ExternalReport] = (),
    typed: Sequence[str] | None = None,
) -> Reports:
    """Return the reports of a job with these arguments of pytest, without those of `local_reporters`, written locally.

    `twice` are files that are written both locally and in the job, each with its option; `outsiders` are the same,
    outside of the project. `typed` are the arguments that come from no file of the project (default: all); only these
    can name places outside of it, or unusual names.
    """
    typed = argv if typed is None else typed
    given = names(argv)
    written = set(WRITING) - set(local_reporters)
    by_hand = set(_named_by(typed, WRITING))
    first: dict[str, Expected] = {}
    last: dict[str, Expected] = {}

    def add(target: dict[str, Expected], name: str, expected: Expected) -> None:
        pattern = in_project(name, place) if name else None
        if pattern is not None and not (pattern in target and target[pattern].is_typed):
            target[pattern] = expected

    def add_option(target: dict[str, Expected], option: str, value: str) -> None:
        is_typed = (option, value) in by_hand
        kind = report_kinds.ALLURE if option == "--alluredir" else report_kinds.FILES[option]
        add(target, value, Expected(kind, is_typed))
        if option == "--html" and "--self-contained-html" not in given:
            report = in_project(value, place)
            add(target, _assets(value), Expected(report_kinds.HTML_ASSETS, is_typed, report))

    for name, kind in (*_COVERAGE.items(), *_coverage_settings(place.cwd if place.is_inside else place.root)):
        add(first, name, Expected(kind))
    for option, value in _named_by(argv, written):
        add_option(first, option, value)
    if "--json-report" in given and "--json-report-file" in written:
        add(first, ".report.json", Expected(report_kinds.JSON_REPORT))
    typed_coverage = set(_coverage_reports(typed))
    for kind, value in _coverage_reports(argv):
        add(first, value, Expected(kind, (kind, value) in typed_coverage))
    for option, value in twice:
        add_option(last, option, value)
    only_remote = {_below(item, place): item for item in outside.find(typed, place, local_reporters)}
    in_both = {_below(item, place): item for item in outsiders}
    return Reports(place.root, {**last, **first}, (*last, *in_both), only_remote | in_both)


def _named_by(argv: Sequence[str], wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    return ((option, value) for option, value in _values(argv) if option in wanted)


def _coverage_reports(argv: Sequence[str]) -> Iterator[tuple[Kind | FolderKind, str]]:
    """Yield kind and place of each ``--cov-report=KIND:PLACE``."""
    for option, value in _values(argv):
        word, colon, name = value.partition(":")
        kind = report_kinds.COVERAGE_REPORTS.get(word)
        if option == "--cov-report" and colon and kind is not None:
            yield kind, name.split(",")[0]


def _below(report: ExternalReport, place: Place) -> str:
    """Return the report's folder in the job, relative to the project."""
    return f"{place.subdirectory}/{report.folder}" if place.subdirectory else report.folder


def _assets(html: str) -> str:
    """Return the folder of assets next to a report of pytest-html that is not self-contained."""
    return str(Path(html).parent / "assets")


def staying(settings: Sequence[str], typed: Sequence[str], place: Place) -> set[str]:
    """Return options for files outside of the project that are not fetched; `settings` come from the project."""
    given = [*_values(settings), *_values(outside.redirected(typed, place))]
    return {option for option, value in given if option in WRITING and in_project(value, place) is None}


def in_project(name: str, place: Place) -> str | None:
    """Return `name`, relative to the job's working directory, as a pattern; None if it is outside of the project."""
    relative = place.relative(name)
    if relative is None:
        return None
    folder = place.cwd if place.is_inside else place.root
    below = os.path.relpath(os.path.normpath(folder / relative), place.root).replace(os.sep, "/")
    if below == "." or below.startswith("../") or globs.problem(below) is not None:
        return None
    # A name with wildcards is rejected: a setting must not request files that it does not name.
    return None if _WILD.search(below.removesuffix(".*")) else below


def _values(argv: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield option and value of all options with a value."""
    return ((word.option, word.value) for word in words(argv) if word.option and word.value is not None)


def _coverage_settings(folder: Path) -> Iterator[tuple[str, Kind | FolderKind]]:
    """Yield files that coverage's configuration names; skip unreadable files, which coverage reports itself."""
    import configparser

    for name in (".coveragerc", "setup.cfg", "tox.ini"):
        if (folder / name).is_file():
            parser = configparser.RawConfigParser()
            try:
                parser.read(folder / name, encoding="utf-8")
            except (configparser.Error, OSError, UnicodeDecodeError):
                continue
            prefix = "" if name == ".coveragerc" else "coverage:"
            for (section, key), kind in _COVERAGE_SETTINGS.items():
                yield from _named(parser.get(prefix + section, key, fallback=""), kind)
    try:
        content = read_toml(folder / "pyproject.toml")
    except ConfigError:
        return
    for (section, key), kind in _COVERAGE_SETTINGS.items():
        table = content
        for name in ("tool", "coverage", section):
            inner = table.get(name)
            table = inner if isinstance(inner, dict) else {}
        yield from _named(str(table.get(key, "")), kind)


def _named(value: str, kind: Kind | FolderKind) -> Iterator[tuple[str, Kind | FolderKind]]:
    name = value.strip()
    if name and not _WILD.search(name):
        yield name, kind
        if kind is report_kinds.COVERAGE_DATA:  # the suffix of parallel runs
            yield f"{name}.*", kind
