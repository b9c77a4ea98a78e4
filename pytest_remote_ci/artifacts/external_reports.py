"""Reports whose places here are outside of the project: written inside over there, put where they belong on arrival.

A job writes into its copy of the project only, and nothing that it says has a part in where a file goes here: each
option has a folder of its own over there, and which place that stands for is known to this process alone. Nor has the
project: what counts is what the developer types, or has in the environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_remote_ci.artifacts.report_kinds import FILES, Kind
from pytest_remote_ci.job.boot import OUTSIDE
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.wire import globs

#: Options whose value is one file, maybe with a folder "assets" beside it.
_FILES: Final = frozenset(FILES)
#: Names in pytest-html's folder of assets.
_ASSET: Final = re.compile(r"assets/\w[\w.-]*")


@dataclass(frozen=True)
class Outside:
    """One of them."""

    #: Over there, relative to the directory of the run.
    folder: str
    #: The file here, as the developer's options name it.
    place: Path
    has_assets: bool = False

    @property
    def file(self) -> str:
        """The file over there, relative to the directory of the run."""
        return f"{self.folder}/{self.place.name}"

    @property
    def kind(self) -> Kind:
        """What the file is to be."""
        return FILES[f"--{self.folder.rpartition('/')[2]}"]

    def home(self, path: str) -> Path | None:
        """The place of what `path`, relative to the folder, is over there; None for what has none."""
        if path == self.place.name:
            place = Path(os.path.realpath(self.place))  # reporters write through links
            return place if _kind(place) in (None, stat.S_IFREG) else None
        if not (self.has_assets and _ASSET.fullmatch(path)):
            return None
        place = self.place.parent / path
        return place if _kind(place) in (None, stat.S_IFREG) else None


def leads_outside(option: str, value: str, place: Place) -> Path | None:
    """The file that this option names, if it is one outside of the project; None: it is not."""
    if option not in _FILES or not value:
        return None
    path = Path(os.path.normpath(place.cwd / expanded(option, value)))
    return None if place.relative(str(path)) is not None or not path.name else path


def made(option: str, file: Path, *, has_assets: bool = False) -> Outside | None:
    """Where the report of this option is written over there; None: its name is none for that."""
    found = Outside(f"{OUTSIDE}/{option.lstrip('-')}", file, has_assets)
    # Over there "$" and "~" mean something again.
    is_plain = globs.problem(found.file) is None and "$" not in file.name and file.name[0] != "~"
    return found if is_plain else None


def names(typed: Sequence[str], option: str, file: Path, place: Place) -> bool:
    """Whether these arguments say that the report of `option` is this file outside of the project."""
    return any(
        name == option and leads_outside(option, value, place) == file for _, name, value in values(typed)
    )


def led(argv: Sequence[str], place: Place, reports_here: Iterable[str] = ()) -> list[str]:
    """`argv`, in which reports that are written over there are written inside of the project."""
    result = list(argv)
    for index, option, report in _found(argv, place, reports_here):
        result[index] = f"{option}={report.file}" if argv[index].startswith("-") else report.file
    return result


def find(argv: Sequence[str], place: Place, reports_here: Iterable[str] = ()) -> list[Outside]:
    """Those reports; `reports_here` are the options of reporters that write here."""
    return [report for _, _, report in _found(argv, place, reports_here)]


def _found(
    argv: Sequence[str], place: Place, reports_here: Iterable[str]
) -> Iterator[tuple[int, str, Outside]]:
    """With the number of the argument that has the value, and the option."""
    here = set(reports_here)
    for index, option, value in values(argv):
        file = leads_outside(option, value, place) if option not in here else None
        has_assets = option == "--html" and "--self-contained-html" not in argv
        report = made(option, file, has_assets=has_assets) if file is not None else None
        if report is not None:
            yield index, option, report


def values(argv: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Long options with their values, in both spellings, and with the number of the argument that has the value."""
    for index, text in enumerate(argv):
        if text == "--":
            return
        option, equals, value = text.partition("=")
        if not option.startswith("--"):
            continue
        if equals:
            yield index, option, value
        elif index + 1 < len(argv) and not argv[index + 1].startswith("-"):
            yield index + 1, option, argv[index + 1]


def expanded(option: str, value: str) -> str:
    """As the reporter takes it: only pytest-html knows of a shell's variables."""
    if option != "--html":
        return value
    with contextlib.suppress(RuntimeError):  # nobody's home
        return str(Path(os.path.expandvars(value)).expanduser())
    return value


def _kind(place: Path) -> int | None:
    """What is there; None: nothing."""
    try:
        return stat.S_IFMT(place.lstat().st_mode)
    except FileNotFoundError:
        return None
    except OSError:  # a file in the way to it, and the like
        return stat.S_IFDIR
