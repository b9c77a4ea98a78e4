"""Fetch a job's artifacts: reports go where a local session would write them, others into a folder.

Only requested files are accepted, regardless of what else a job or a runner lists. Errors are reported but do not
change the exit code: the job is over, and the runner stores its files for some days.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_remote_ci.artifacts import coverage
from pytest_remote_ci.artifacts.artifact_folder import ArtifactFolder
from pytest_remote_ci.artifacts.destinations import Home
from pytest_remote_ci.artifacts.download import Artifact, Downloader, Fetched, shown
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.terminal.status_line import Bar, StatusLine
from pytest_remote_ci.wire import formats, globs
from pytest_remote_ci.wire.control_characters import escaped

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.destinations import Reports
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.wire.events import Event

#: Limit for names in one line, and for lines about files that were not fetched.
_MOST: Final = 5


@dataclass
class ArtifactFetcher:
    """Fetches the artifacts of one job, each once."""

    client: Client
    job_id: str
    #: The folder for artifacts that are not reports.
    folder: ArtifactFolder
    line: StatusLine
    print_message: Callable[[str], None]
    #: The reports with local places; None: there are none.
    reports: Reports | None = None
    #: Patterns of artifacts for the folder; None: all.
    asked: tuple[str, ...] | None = None
    #: Artifact path → local path.
    places: dict[str, Path] = field(default_factory=dict)
    _is_done: bool = False

    def fetch(
        self,
        complete: Event | None,
        *,
        is_early: bool = False,
        is_whole: bool = True,
        has_died: bool = False,
    ) -> None:
        """Fetch the artifacts of the job's `complete` event, and report in one line where they are.

        `is_early`: local reporters have not written yet, so replacements of their files wait for the next call.
        Nothing is fetched twice, and without artifacts nothing happens. Unless `is_whole`, no locally written report
        is replaced. `has_died`: pytest died in the job, so its reports are incomplete: print a line about it.
        """
        folder = None if complete is None else complete.artifacts_folder
        if self._is_done or folder is None:
            return
        self._is_done = True
        try:
            found = self.client.artifacts(self.job_id)
            last = self.reports if is_early or not is_whole else None
            early = [item for item in found if last is None or not last.is_last(item.path)]
            self._fetch([item for item in early if item.path not in self.places], folder)
            self._is_done = not is_early or len(early) == len(found)
            if has_died:
                self._name_incomplete_reports(early)
        except (ClientError, OSError) as error:
            self.print_message(
                f"remote-ci: artifacts were not fetched: {reason(error)}; try again: remote-ci artifacts {self.job_id}"
            )
        finally:
            self.line.clear()

    def _name_incomplete_reports(self, items: Iterable[Artifact]) -> None:
        reports = self.reports
        if reports is None:
            return
        found = [item for item in items if item.path in self.places and reports.lists_tests(item.path)]
        if found:
            names = _names(found, reports, self.places)
            self.print_message(f"remote-ci: {names}: incomplete, because pytest died in the job")

    def fetch_all(self) -> bool:
        """Fetch all artifacts into the folder; return whether there were any and all arrived.

        Raises `ClientError`, OSError.
        """
        try:
            artifacts = self.client.artifacts(self.job_id)
            if not artifacts:
                self.print_message(f"Job {self.job_id} has no artifacts; they may have expired.")
                return False
            self.asked = None
            return not self._fetch(artifacts, "").problems
        finally:
            self.line.clear()

    def _fetch(self, artifacts: Iterable[Artifact], root: str) -> Fetched:
        others: list[Artifact] = []
        at_home: list[tuple[Artifact, Home]] = []
        problems: list[str] = []
        for item in artifacts:
            home = self.reports.home(item.path) if self.reports is not None else "has no place here"
            if isinstance(home, Home):
                at_home.append((item, home))
            elif self._is_asked(item.path):
                problem = self.folder.name_problem(item.path)
                if problem is None:
                    others.append(item)
                else:
                    problems.append(f"{shown(item.path)} {problem}")
            else:
                problems.append(f"{shown(item.path)} {home}")
        places = self._fetch_into_folder(others, problems) | self._fetch_into_project(at_home, problems, root)
        self.places.update(places)
        self.line.clear()
        self._print_summary(
            [item for item in others if item.path in places],
            [item for item, _ in at_home if item.path in places],
        )
        if problems:
            more = f"; and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
            self.print_message(f"remote-ci: left out: {'; '.join(problems[:_MOST])}{more}")
        return Fetched(places, tuple(problems))

    def _is_asked(self, path: str) -> bool:
        return self.asked is None or bool(globs.Globs(self.asked).match(path))

    def _fetch_into_folder(self, items: list[Artifact], problems: list[str]) -> dict[str, Path]:
        if not items:
            return {}
        downloader = Downloader(
            self.client, self.job_id, Bar(self.line, "fetching artifacts"), problems=problems
        )
        downloader.replaces = self.folder.make()
        wanted = [(item, self.folder.path / item.path) for item in items]
        return dict(downloader.fetch(wanted, self.folder.trusted).places)

    def _fetch_into_project(
        self, items: list[tuple[Artifact, Home]], problems: list[str], root: str
    ) -> dict[str, Path]:
        if not items or self.reports is None:
            return {}
        here = str(self.reports.root)
        homes = {item.path: home for item, home in items}

        def finish(item: Artifact, file: Path) -> str | None:
            problem = homes[item.path].content_problem(file)
            if problem is None:
                coverage.relocate(file, item.path.rpartition("/")[2], root, here)
            return problem

        downloader = Downloader(
            self.client,
            self.job_id,
            Bar(self.line, "fetching artifacts"),
            finish,
            executables=False,
            problems=problems,
        )
        places: dict[str, Path] = {}
        bases: dict[Path, list[tuple[Artifact, Path]]] = {}
        for item, home in items:
            bases.setdefault(home.base, []).append((item, home.place))
        for base, wanted in bases.items():
            places.update(downloader.fetch(wanted, base).places)
        return places

    def _print_summary(self, others: list[Artifact], at_home: list[Artifact]) -> None:
        parts = []
        if others:
            files = "1 artifact" if len(others) == 1 else f"{len(others)} artifacts"
            size = formats.size(sum(item.size for item in others))
            parts.append(f"{files} ({size}) in {relative_path(self.folder.path)}")
        if at_home and self.reports is not None:
            parts.append(f"fetched: {_names(at_home, self.reports, self.places)}")
        if parts:
            self.print_message(f"remote-ci: {'; '.join(parts)}")


def reason(error: ClientError | OSError) -> str:
    """Return why something was not fetched, in one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return escaped(f"{error.filename}: {error.strerror}")
    return escaped(error)


def _names(items: list[Artifact], reports: Reports, places: Mapping[str, Path]) -> str:
    """Return names of files, and names of folders with the number of files in them."""
    counts: dict[str, int] = {}
    for item in items:
        name = reports.name_of(item.path, places[item.path])
        counts[name] = counts.get(name, 0) + 1
    names = [f"{name} ({count} files)" if count > 1 else name for name, count in counts.items()]
    more = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {more} more" if more > 0 else "")


def relative_path(folder: Path) -> str:
    """Return a folder's path for messages: relative to the current folder if it is below that."""
    with contextlib.suppress(ValueError):
        return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
    return str(folder)
