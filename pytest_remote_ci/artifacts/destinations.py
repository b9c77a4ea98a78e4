"""Where on this machine what a run left behind goes: reports to their places in the project, all else to a folder.

A local run would have left coverage data and the files that options name; so a remote one brings them home. What
comes is of the report's kind (`pytest_remote_ci.artifacts.report_kinds`), and a file in the project that is there
already is replaced only when it is such a report. Of what lies outside `pytest_remote_ci.artifacts.external_reports`
knows.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_remote_ci.artifacts import external_reports as outside
from pytest_remote_ci.artifacts import report_kinds
from pytest_remote_ci.artifacts.external_reports import Outside
from pytest_remote_ci.artifacts.report_kinds import FolderKind, Kind
from pytest_remote_ci.config.user_file import read_toml
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.wire import globs

#: What coverage and pytest-cov write when nobody says otherwise.
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
#: Options whose value is a file, or a folder, that the run writes.
WRITING: Final[frozenset[str]] = frozenset({*report_kinds.FILES, "--alluredir"})
#: (section, key) of coverage's settings that name such a file → its kind.
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
    """A report that the run may leave."""

    kind: Kind | FolderKind
    #: Whether it is named where the developer types, and not only in a file of the project.
    is_typed: bool = False
    #: Of the assets of an HTML report: that report, relative to the project.
    beside: str | None = None


@dataclass(frozen=True)
class Home:
    """The place of an artifact that is a report."""

    place: Path
    #: The folder here from which on no link is followed.
    base: Path
    #: What it is in its report, and the report's kind: its content is judged when it has come.
    name: str
    kind: Kind | FolderKind

    def content_problem(self, file: Path) -> str | None:
        """Say why `file`, which has arrived, is not to have this place; None when it may."""
        try:
            return self.kind.content_problem(self.name, file)
        except OSError as error:
            return f"cannot be read ({error.strerror})"


#: Reports that lack a part of the tests if pytest died while it wrote them.
_OF_TESTS = (report_kinds.HTML, report_kinds.JSON_REPORT, report_kinds.REPORT_LOG, report_kinds.BENCHMARK)


@dataclass(frozen=True)
class Reports:
    """The reports of one run."""

    root: Path
    #: Pattern, relative to `root` → what is expected there.
    expected: Mapping[str, Expected]
    #: Of these: what takes the place of a file that a reporter here writes at its end.
    last: tuple[str, ...] = ()
    #: Folder, relative to `root` → the report in it, whose place is outside of the project.
    outside: Mapping[str, Outside] = field(default_factory=dict)

    @property
    def patterns(self) -> tuple[str, ...]:
        """What the runner is asked for."""
        return tuple(dict.fromkeys((*self.expected, *self.outside)))

    def concerns(self, path: str) -> bool:
        """Return whether the artifact `path` was asked for as a report."""
        return bool(globs.Globs(self.patterns).match(path))

    def home(self, path: str) -> Home | str:
        """Return the place of the artifact `path`; or, in words that follow its name, why it has none."""
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
        return problem or "was not asked for"

    def _home(self, path: str, pattern: str) -> Home | str:
        expected = self.expected[pattern]
        kind = expected.kind
        if isinstance(kind, Kind):
            name = path
            problem = kind.name_problem(path, is_typed=expected.is_typed)
            # A pattern that names a file matches what lies below a folder of that name, too.
            if path.count("/") != pattern.count("/"):
                problem = "is no file of such a report"
        elif path.startswith(f"{pattern}/"):
            name = path[len(pattern) + 1 :]
            problem = kind.name_problem(name) or _folder_problem(pattern, is_typed=expected.is_typed)
        else:
            return "is no folder"
        if problem is not None:
            return problem
        place = self.root / path
        problem = _way_problem(self.root, path)
        if problem is None and os.path.lexists(place):
            problem = self._replacing_problem(place, kind, expected)
        return problem if problem is not None else Home(place, self.root, name, kind)

    def _replacing_problem(self, place: Path, kind: Kind | FolderKind, expected: Expected) -> str | None:
        """Say why what is at `place` now must stay there; None when it may be replaced."""
        beside = None if expected.beside is None else self.root / expected.beside
        return _replacing_problem(place, kind, beside)

    def is_last(self, path: str) -> bool:
        """Whether the artifact `path` is to come home after reporters here have written."""
        return bool(self.last) and bool(globs.Globs(self.last).match(path))

    def lists_tests(self, path: str) -> bool:
        """Return whether the artifact `path` is a report with one entry for each test."""
        home = self.home(path)
        return isinstance(home, Home) and home.kind in _OF_TESTS

    def name_of(self, path: str, place: Path) -> str:
        """Return what a report is called in one line for people: a file by its name, a folder by its own."""
        for folder, report in self.outside.items():
            if path.startswith(f"{folder}/"):
                return str(place) if path == f"{folder}/{report.place.name}" else f"{place.parent}/"
        for pattern in self.expected:
            if path.startswith(f"{pattern}/"):
                return f"{pattern}/"
        return path


def _outside_home(report: Outside, name: str) -> Home | str:
    place = report.home(name)
    if place is None:
        return "is no file of such a report"
    is_file = name == report.place.name
    kind: Kind | FolderKind = report.kind if is_file else report_kinds.HTML_ASSETS
    problem = report.kind.name_problem(name, is_typed=True) if is_file else None
    if not is_file:
        name = name.rpartition("/")[2]
        problem = report_kinds.HTML_ASSETS.name_problem(name)
    if problem is None and os.path.lexists(place):
        problem = _replacing_problem(place, kind, report.place)
    # A link of the developer's at the very place is followed, as reporters do; the assets lie beside the link.
    return (
        problem
        if problem is not None
        else Home(place, place.parent if is_file else report.place.parent, name, kind)
    )


def _replacing_problem(place: Path, kind: Kind | FolderKind, beside: Path | None) -> str | None:
    try:
        mode = place.lstat().st_mode
        if stat.S_ISLNK(mode):
            return "is not brought: there is a link in its place"
        if not stat.S_ISREG(mode):
            return "is not brought: there is no regular file in its place"
        replaceable = kind.may_replace(place) if isinstance(kind, Kind) else kind.may_replace(place, beside)
    except OSError as error:
        return f"is not brought: what is in its place cannot be read ({error.strerror})"
    return None if replaceable else "is not brought: in its place is a file that is no such report"


def _way_problem(root: Path, path: str) -> str | None:
    """Say why nothing is put at `path` below `root`: a folder on the way is a link; None where all is well."""
    here = root
    for part in path.split("/")[:-1]:
        here = here / part
        try:
            mode = here.lstat().st_mode
        except OSError:  # not there yet; what else it is shows when it is to be made
            return None
        if not stat.S_ISDIR(mode):
            return f"is not brought: {part} on its way is {'a link' if stat.S_ISLNK(mode) else 'no folder'}"
    return None


def _folder_problem(folder: str, *, is_typed: bool) -> str | None:
    return None if is_typed or report_kinds.is_plain(folder) else "lies in a folder that no report has"


def find(
    argv: Sequence[str], place: Place, reports_here: Iterable[str] = (), twice: Iterable[tuple[str, str]] = (),
    outsiders: Iterable[Outside] = (), typed: Sequence[str] | None = None,
) -> Reports:  # fmt: skip
    """The reports of a run with these arguments of pytest; without those of `reports_here`, which are written here.

    `twice` are files that are written here and in the job, each with its option; `outsiders` likewise, outside of the
    project. `typed` are the arguments that no file of the project has (default: all); only these name
    places outside of it, or with unusual names.
    """
    typed = argv if typed is None else typed
    written = set(WRITING) - set(reports_here)
    by_hand = set(_named_by(typed, WRITING))
    first: dict[str, Expected] = {}
    last: dict[str, Expected] = {}

    def add(target: dict[str, Expected], name: str, expected: Expected) -> None:
        pattern = _in_project(name, place) if name else None
        if pattern is not None and not (pattern in target and target[pattern].is_typed):
            target[pattern] = expected

    def add_option(target: dict[str, Expected], option: str, value: str) -> None:
        is_typed = (option, value) in by_hand
        kind = report_kinds.ALLURE if option == "--alluredir" else report_kinds.FILES[option]
        add(target, value, Expected(kind, is_typed))
        if option == "--html" and "--self-contained-html" not in argv:
            report = _in_project(value, place)
            add(target, _assets(value), Expected(report_kinds.HTML_ASSETS, is_typed, report))

    for name, kind in (*_COVERAGE.items(), *_coverage_settings(place.cwd if place.is_inside else place.root)):
        add(first, name, Expected(kind))
    for option, value in _named_by(argv, written):
        add_option(first, option, value)
    if "--json-report" in argv and "--json-report-file" in written:
        add(first, ".report.json", Expected(report_kinds.JSON_REPORT))
    typed_coverage = set(_coverage_reports(typed))
    for kind, value in _coverage_reports(argv):
        add(first, value, Expected(kind, (kind, value) in typed_coverage))
    for option, value in twice:
        add_option(last, option, value)
    only_there = {_below(item, place): item for item in outside.find(typed, place, reports_here)}
    in_both = {_below(item, place): item for item in outsiders}
    return Reports(place.root, {**last, **first}, (*last, *in_both), only_there | in_both)


def _named_by(argv: Sequence[str], options: Iterable[str]) -> Iterator[tuple[str, str]]:
    wanted = frozenset(options)
    return ((option, value) for option, value in _values(argv) if option in wanted)


def _coverage_reports(argv: Sequence[str]) -> Iterator[tuple[Kind | FolderKind, str]]:
    """What ``--cov-report=KIND:PLACE`` names."""
    for option, value in _values(argv):
        word, colon, name = value.partition(":")
        kind = report_kinds.COVERAGE_REPORTS.get(word)
        if option == "--cov-report" and colon and kind is not None:
            yield kind, name.split(",")[0]


def _below(report: Outside, place: Place) -> str:
    """Its folder over there, relative to the project."""
    return f"{place.subdirectory}/{report.folder}" if place.subdirectory else report.folder


def _assets(html: str) -> str:
    """The folder beside a report of pytest-html's that is not self-contained."""
    return str(Path(html).parent / "assets")


def staying(settings: Sequence[str], typed: Sequence[str], place: Place) -> set[str]:
    """Options whose file lies outside of the project, and which nothing brings home; `settings` are of the project."""
    given = [*_values(settings), *_values(outside.led(typed, place))]
    return {option for option, value in given if option in WRITING and _in_project(value, place) is None}


def _in_project(name: str, place: Place) -> str | None:
    """`name`, relative to where the run happens, as a pattern; None when it lies outside of the project."""
    relative = place.relative(name)
    if relative is None:
        return None
    folder = place.cwd if place.is_inside else place.root
    below = os.path.relpath(os.path.normpath(folder / relative), place.root).replace(os.sep, "/")
    if below == "." or below.startswith("../") or globs.problem(below) is not None:
        return None
    # A name is no pattern: one of a setting must not ask for files that it does not name.
    return None if _WILD.search(below.removesuffix(".*")) else below


def _values(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Long options with their values, in both spellings."""
    for _, option, value in outside.values(argv):
        yield option, value


def _coverage_settings(folder: Path) -> Iterator[tuple[str, Kind | FolderKind]]:
    """Files that coverage's own configuration names; one that cannot be read is coverage's to complain about."""
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
        table = read_toml(folder / "pyproject.toml").get("tool", {}).get("coverage", {})
        for (section, key), kind in _COVERAGE_SETTINGS.items():
            yield from _named(str(table.get(section, {}).get(key, "")), kind)
    except (AttributeError, ConfigError):
        return


def _named(value: str, kind: Kind | FolderKind) -> Iterator[tuple[str, Kind | FolderKind]]:
    name = value.strip()
    if name and not _WILD.search(name):
        yield name, kind
        if kind is report_kinds.COVERAGE_DATA:  # what parallel runs append
            yield f"{name}.*", kind
