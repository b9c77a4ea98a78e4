"""The end of a run on this machine: reports take the places that a local run would have given them, artifacts a folder.

What goes wrong here is said and changes no exit code: the job is over, and its files stay on the runner for a while.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_remote_ci import coverage_files, globs
from pytest_remote_ci.artifacts import Artifact, Errand, Fetched
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.progress import Bar, StatusLine, readable_size
from pytest_remote_ci.reports import FOLDER
from pytest_remote_ci.terminal import ColourFilter

if TYPE_CHECKING:
    from pytest_remote_ci.client import Client
    from pytest_remote_ci.reports import Reports

#: Names in one line.
_MOST: Final = 5


@dataclass
class Homecoming:
    """Brings what one job left behind, once."""

    client: Client
    job_id: str
    #: Where artifacts go that have no place of their own.
    folder: Path
    line: StatusLine
    say: Callable[[str], None]
    #: None: nothing has a place of its own here.
    reports: Reports | None = None
    #: Said to whom asks: artifact's path → where it is.
    places: dict[str, Path] = field(default_factory=dict)
    _is_done: bool = False

    def bring(self, complete: Mapping[str, Any] | None, *, is_early: bool = False) -> None:
        """Fetch what the job's `complete` event says there is, and say in one line what came where.

        `is_early`: reporters here have not yet written, so what replaces their files waits for the next time. Nothing
        comes twice, and when there is nothing, nothing happens.
        """
        left = (complete or {}).get("artifacts")
        if self._is_done or not isinstance(left, dict):
            return
        self._is_done = True
        try:
            found = self.client.artifacts(self.job_id)
            early = [
                item for item in found if not (is_early and self.reports and self.reports.is_last(item.path))
            ]
            self._bring([item for item in early if item.path not in self.places], str(left.get("root") or ""))
            self._is_done = len(early) == len(found)
        except (ClientError, OSError) as error:
            why = error if isinstance(error, ClientError) else f"{error.filename}: {error.strerror}"
            self.say(
                f"remote-ci: artifacts were not fetched: {why}; try again: remote-ci artifacts {self.job_id}"
            )
        finally:
            self.line.clear()

    def bring_all(self) -> bool:
        """Fetch all that the runner lists into the folder; whether there was something and all of it came. Raises
        `ClientError`, OSError.
        """
        try:
            artifacts = self.client.artifacts(self.job_id)
            if not artifacts:
                self.say(f"Job {self.job_id} has no artifacts (they are kept for some days only).")
                return False
            return not self._bring(artifacts, "").problems
        finally:
            self.line.clear()

    def _bring(self, artifacts: Iterable[Artifact], root: str) -> Fetched:
        found = list(artifacts)
        homes = {item.path: self._home(item) for item in found}
        at_home = [item for item in found if homes[item.path] is not None]
        others = [item for item in found if homes[item.path] is None]
        errand = Errand(self.client, self.job_id, Bar(self.line, "fetching artifacts"))
        places: dict[str, Path] = {}
        if others:
            _make_folder(self.folder)
            wanted = [(item, self.folder / item.path) for item in others]
            places.update(errand.fetch(wanted, self.folder).places)
        if at_home and self.reports is not None:
            here = self.reports.root

            def relocate(item: Artifact, file: Path) -> None:
                coverage_files.relocate(file, item.path.rpartition("/")[2], root, str(here))

            errand.finish = relocate
            bases: dict[Path, list[tuple[Artifact, Path]]] = {}
            for item in at_home:
                place = homes[item.path]
                if place is not None:
                    bases.setdefault(self.reports.base(item.path), []).append((item, place))
            for base, wanted in bases.items():
                places.update(errand.fetch(wanted, base).places)
        self.places.update(places)
        self.line.clear()
        self._tell(
            [item for item in others if item.path in places],
            [item for item in at_home if item.path in places],
        )
        for problem in errand.problems:
            self.say(ColourFilter().feed(f"remote-ci: artifact {problem}"))
        return Fetched(places, tuple(errand.problems))

    def _home(self, item: Artifact) -> Path | None:
        return self.reports.home(item.path) if self.reports is not None else None

    def _tell(self, others: list[Artifact], at_home: list[Artifact]) -> None:
        parts = []
        if others:
            files = "1 artifact" if len(others) == 1 else f"{len(others)} artifacts"
            size = readable_size(sum(item.size for item in others))
            parts.append(f"{files} ({size}) in {_from_here(self.folder)}")
        if at_home and self.reports is not None:
            parts.append(f"brought home: {_names(at_home, self.reports, self.places)}")
        if parts:
            self.say(ColourFilter().feed(f"remote-ci: {'; '.join(parts)}"))


def _names(items: list[Artifact], reports: Reports, places: Mapping[str, Path]) -> str:
    """Files by their names, folders with the number of what is in them."""
    counts: dict[str, int] = {}
    matcher = globs.Globs(reports.patterns)
    for item in items:
        patterns = {reports.patterns[hit] for hit in matcher.match(item.path)}.difference(reports.outside)
        above = [pattern for pattern in patterns if item.path.startswith(f"{pattern}/")]
        name = f"{above[0]}/" if above else item.path
        base = reports.base(item.path)
        if base != reports.root:
            place = places[item.path]
            name = str(place) if place.parent == base else f"{place.parent}/"
        counts[name] = counts.get(name, 0) + 1
    names = [f"{name} ({count} files)" if count > 1 else name for name, count in counts.items()]
    more = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {more} more" if more > 0 else "")


def _make_folder(folder: Path) -> None:
    """The folder that is ours by its name is nothing that git or the next submission should see."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = next((above for above in folder.parents if above.name == FOLDER), None)
    if ours is not None:
        with contextlib.suppress(FileExistsError), (ours / ".gitignore").open("x") as file:
            file.write("*\n")


def _from_here(folder: Path) -> str:
    with contextlib.suppress(ValueError):
        return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
    return str(folder)
