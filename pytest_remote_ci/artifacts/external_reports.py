"""Reports outside of the project: the job writes them inside of it, and the client moves them to their places.

A job writes only into its copy of the project, and nothing it sends determines where a file goes on the developer's
machine: each option has its own folder in the job, and only this process knows which local path that stands for. The
project cannot determine it either: only the command line and the environment count.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_remote_ci.artifacts.report_kinds import FILES, Kind
from pytest_remote_ci.job.boot import OUTSIDE
from pytest_remote_ci.session import argv
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.wire import globs

#: Options with a file as value; a folder "assets" can lie next to it.
_FILES: Final = frozenset(FILES)
#: Options whose plugins expand variables of a shell in the value.
_EXPANDING: Final = frozenset({"--html", "--cucumberjson", "--cucumber-json"})
#: Names in pytest-html's folder of assets.
_ASSET: Final = re.compile(r"assets/\w[\w.-]*")


@dataclass(frozen=True)
class ExternalReport:
    """A report file outside of the project."""

    #: Folder in the job, relative to the job's working directory.
    folder: str
    #: The local file, as the developer's options name it.
    place: Path
    has_assets: bool = False

    @property
    def file(self) -> str:
        """The file in the job, relative to the job's working directory."""
        return f"{self.folder}/{self.place.name}"

    @property
    def kind(self) -> Kind:
        """The kind of report."""
        return FILES[f"--{self.folder.rpartition('/')[2]}"]

    def home(self, path: str) -> Path | None:
        """Return the local path for `path`, which is relative to the folder in the job; None if it has none."""
        if path == self.place.name:
            place = Path(os.path.realpath(self.place))  # reporters follow links
            return place if _kind(place) in (None, stat.S_IFREG) else None
        if not (self.has_assets and _ASSET.fullmatch(path)):
            return None
        place = self.place.parent / path
        return place if _kind(place) in (None, stat.S_IFREG) else None


def leads_outside(option: str, value: str, place: Place) -> Path | None:
    """Return the file that this option names if it is outside of the project, else None."""
    if option not in _FILES or not value:
        return None
    path = Path(os.path.normpath(place.cwd / expanded(option, value)))
    return None if place.relative(str(path)) is not None or not path.name else path


def made(option: str, file: Path, *, has_assets: bool = False) -> ExternalReport | None:
    """Return where the job writes the report of this option; None if its name is unsafe in the job."""
    found = ExternalReport(f"{OUTSIDE}/{option.lstrip('-')}", file, has_assets)
    # "$" and "~" would be expanded again in the job.
    is_plain = globs.problem(found.file) is None and "$" not in file.name and file.name[0] != "~"
    return found if is_plain else None


def names(typed: Iterable[str], option: str, file: Path, place: Place) -> bool:
    """Whether these arguments name this file outside of the project for the report of `option`."""
    return any(
        word.option == option and leads_outside(option, word.value or "", place) == file
        for word in argv.words(typed)
    )


def redirected(args: Sequence[str], place: Place, local_reporters: Collection[str] = ()) -> list[str]:
    """Return `args` with reports outside of the project redirected into it, for the job."""
    result: list[str] = []
    for word, report in _found(args, place, local_reporters):
        result += word.texts if report is None else word.with_value(report.file)
    return result


def find(args: Sequence[str], place: Place, local_reporters: Collection[str] = ()) -> list[ExternalReport]:
    """Return the redirected reports; `local_reporters` are options of reporters that write locally."""
    return [report for _, report in _found(args, place, local_reporters) if report is not None]


def _found(
    args: Sequence[str], place: Place, local_reporters: Collection[str]
) -> Iterator[tuple[argv.Word, ExternalReport | None]]:
    """Yield all words, each with the report that it names, if any."""
    has_assets = "--self-contained-html" not in argv.names(args)
    for word in argv.words(args):
        option, report = word.option, None
        if option is not None and option not in local_reporters:
            file = leads_outside(option, word.value or "", place)
            if file is not None:
                report = made(option, file, has_assets=has_assets and option == "--html")
        yield word, report


def expanded(option: str, value: str) -> str:
    """Expand the value as the reporter does: some expand variables of a shell."""
    if option not in _EXPANDING:
        return value
    with contextlib.suppress(RuntimeError):  # no home directory
        return str(Path(os.path.expandvars(value)).expanduser())
    return value


def _kind(place: Path) -> int | None:
    """Return the file type at this path; None if nothing exists."""
    try:
        return stat.S_IFMT(place.lstat().st_mode)
    except FileNotFoundError:
        return None
    except OSError:  # such as a file in place of a parent folder
        return stat.S_IFDIR
