"""Where on this machine what a run left behind goes: reports to their places in the project, all else to a folder.

A local run would have left coverage data and the files that options name; so a remote one brings them home. In the
project a file that is there already is replaced only when its name says that it is a report; of what lies outside
`pytest_remote_ci.outside` knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from pytest_remote_ci import globs, outside
from pytest_remote_ci.arguments import Place
from pytest_remote_ci.config import COMMAND_LINE, Config
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.outside import Outside
from pytest_remote_ci.userfile import read_toml

#: Where artifacts go unless somebody says otherwise: a folder per job in this one.
FOLDER: Final = "remote-ci-artifacts"
#: What coverage and pytest-cov write when nobody says otherwise.
COVERAGE: Final = (
    ".coverage", ".coverage.*", "coverage.xml", "coverage.json", "coverage.lcov", "lcov.info", "htmlcov",
)  # fmt: skip
#: Options whose value is a file, or a folder, that the run writes.
WRITING: Final = frozenset(
    {
        "--junitxml", "--junit-xml", "--html", "--report-log", "--json-report-file", "--benchmark-json",
        "--alluredir", "--log-file",
    }
)  # fmt: skip
#: (section, key) of coverage's settings that name such a file.
_COVERAGE_SETTINGS: Final = (
    ("run", "data_file"), ("xml", "output"), ("json", "output"), ("lcov", "output"), ("html", "directory"),
)  # fmt: skip
#: Ends of the names of reports, and of what lies in a folder of one.
_SUFFIXES: Final = frozenset({".xml", ".json", ".jsonl", ".lcov", ".info", ".html", ".htm", ".log"})
_IN_FOLDERS: Final = frozenset({".css", ".js", ".png", ".svg", ".ico", ".txt", ".gitignore", ""})


@dataclass(frozen=True)
class Reports:
    """The reports of one run."""

    root: Path
    #: Relative to `root`.
    patterns: tuple[str, ...]
    #: Of these: what takes the place of a file that a reporter here writes at its end.
    last: tuple[str, ...] = ()
    #: Folder, relative to `root` → the report in it, whose place is outside of the project.
    outside: Mapping[str, Outside] = field(default_factory=dict)

    def base(self, path: str) -> Path:
        """The folder in which the artifact `path` finds its place."""
        report, rest = self._outsider(path)
        return self.root if report is None else report.base(rest)

    def _outsider(self, path: str) -> tuple[Outside | None, str]:
        """The report, and what `path` is in its folder."""
        for folder, report in self.outside.items():
            if path.startswith(f"{folder}/"):
                return report, path[len(folder) + 1 :]
        return None, path

    def home(self, path: str) -> Path | None:
        """The place of the artifact `path`, when it is a report that may lie there."""
        report, rest = self._outsider(path)
        if report is not None:
            return report.home(rest)
        hits = globs.Globs(self.patterns).match(path)
        if not hits:
            return None
        place = self.root / path
        if not _is_inside(place.parent, self.root) or place.is_dir():
            return None
        if os.path.lexists(place) and not self._is_report(path, {self.patterns[hit] for hit in hits}):
            return None
        return place

    def is_last(self, path: str) -> bool:
        """Whether the artifact `path` is to come home after reporters here have written."""
        return bool(self.last) and bool(globs.Globs(self.last).match(path))

    @staticmethod
    def _is_report(path: str, patterns: set[str]) -> bool:
        name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix
        if name == ".coverage" or name.startswith(".coverage.") or suffix in _SUFFIXES:
            return True
        return path not in patterns and (suffix in _IN_FOLDERS or name == ".gitignore")


def find(
    argv: Sequence[str], place: Place, reports_here: Iterable[str] = (), seconds: Iterable[str] = (),
    outsiders: Iterable[Outside] = (), typed: Sequence[str] | None = None,
) -> Reports:  # fmt: skip
    """The reports of a run with these arguments of pytest; without those of `reports_here`, which are written here.

    `seconds` are files that are written here and maybe over there, too, `outsiders` likewise, outside of the project.
    `typed` are the arguments that no file of the project has (default: all); only these name places outside of it.
    """
    written = set(WRITING) - set(reports_here)
    named = [*COVERAGE, *_coverage_settings(place.cwd if place.is_inside else place.root)]
    named += [value for option, value in _values(argv) if option in written]
    if "--json-report" in argv and "--json-report-file" in written:
        named.append(".report.json")
    if "--html" in written and "--self-contained-html" not in argv:
        named += [_assets(value) for option, value in _values(argv) if option == "--html"]
    named += [
        value.partition(":")[2].split(",")[0]
        for option, value in _values(argv)
        if option == "--cov-report" and ":" in value
    ]
    typed = argv if typed is None else typed
    only_there = {_below(item, place): item for item in outside.find(typed, place, reports_here)}
    in_both = {_below(item, place): item for item in outsiders}
    first, last = (*_patterns(named, place), *only_there), (*_patterns(seconds, place), *in_both)
    return Reports(place.root, tuple(dict.fromkeys(first + last)), last, only_there | in_both)


def _below(report: Outside, place: Place) -> str:
    """Its folder over there, relative to the project."""
    return f"{place.subdirectory}/{report.folder}" if place.subdirectory else report.folder


def _patterns(names: Iterable[str], place: Place) -> tuple[str, ...]:
    found = (_in_project(name, place) for name in names if name)
    return tuple(dict.fromkeys(pattern for pattern in found if pattern is not None))


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
    return below


def _is_inside(folder: Path, root: Path) -> bool:
    """Whether `folder`, of which not all need be there, lies in `root` once links are followed."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))


def _values(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Long options with their values, in both spellings."""
    for _, option, value in outside.values(argv):
        yield option, value


def _coverage_settings(folder: Path) -> Iterator[str]:
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
            for section, key in _COVERAGE_SETTINGS:
                yield from _named(key, parser.get(prefix + section, key, fallback=""))
    try:
        table = read_toml(folder / "pyproject.toml").get("tool", {}).get("coverage", {})
        for section, key in _COVERAGE_SETTINGS:
            yield from _named(key, str(table.get(section, {}).get(key, "")))
    except (AttributeError, ConfigError):
        return


def _named(key: str, value: str) -> Iterator[str]:
    name = value.strip()
    if name:
        yield name
        if key == "data_file":  # what parallel runs append
            yield f"{name}.*"


def default_folder(job_id: str, base: Path) -> Path:
    """The folder of a job's artifacts below `base`."""
    return base / FOLDER / "".join(char for char in job_id if char.isalnum() or char in "-_")[:64]


def folder_of(settings: Config, job_id: str, cwd: Path, root: Path) -> Path:
    """The folder of a job's artifacts: as configured (by a file: relative to the project `root`), else the default's
    below `cwd`.
    """
    if settings.artifacts_dir is None:
        return default_folder(job_id, cwd)
    is_given = settings.origin("artifacts-dir") == COMMAND_LINE
    return (cwd if is_given else root) / Path(settings.artifacts_dir).expanduser()
