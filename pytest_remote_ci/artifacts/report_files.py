"""Report files that pytest-html and pytest-json-report write both locally and in the job.

No conftest.py is loaded locally, so hooks by which a project changes such a report run only in the job. The job's
file replaces the local one, unless the recorded session is incomplete.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from pytest_remote_ci.artifacts import external_reports as outside
from pytest_remote_ci.artifacts.external_reports import ExternalReport
from pytest_remote_ci.job.boot import ONLY_IF_KNOWN
from pytest_remote_ci.session.arguments import Place


@dataclass(frozen=True)
class ReportFile:
    """A report file that the job writes."""

    #: Arguments for the job's pytest; the first names the file.
    words: tuple[str, ...]
    #: Path of the file, relative to the job's working directory; None if it is outside of the project.
    file: str | None = None
    outside: ExternalReport | None = None

    @property
    def option(self) -> str:
        """The reporter's option that names the file."""
        return self.words[0].partition("=")[0]

    @property
    def argument(self) -> str:
        """The argument that `pytest_remote_ci.job.boot` replaces by `words`."""
        return ONLY_IF_KNOWN + shlex.join(self.words)


def find(config: pytest.Config, place: Place, typed: Sequence[str]) -> list[ReportFile]:
    """Return this session's report files; a path outside of the project counts only if the developer `typed` it."""
    found = [report for kind in (_html, _json) for report in kind(config, place)]
    return [
        report
        for report in found
        if report.outside is None or outside.names(typed, report.option, report.outside.place, place)
    ]


def _html(config: pytest.Config, place: Place) -> Iterator[ReportFile]:
    styles = [_inside("--html", style, place) for style in config.getoption("css", None) or ()]
    if None in styles:  # the job cannot read the style sheet
        return
    is_one_file = bool(config.getoption("self_contained_html", False))
    more = [f"--css={style}" for style in styles]
    if is_one_file:
        more.append("--self-contained-html")
    yield from _files("--html", config.getoption("htmlpath", None), place, more, has_assets=not is_one_file)


def _json(config: pytest.Config, place: Place) -> Iterator[ReportFile]:
    if not config.getoption("json_report", False):
        return
    more = []
    if config.getoption("json_report_summary", False):
        more.append("--json-report-summary")
    indent = config.getoption("json_report_indent", None)
    if indent is not None:
        more.append(f"--json-report-indent={indent}")
    yield from _files("--json-report-file", config.getoption("json_report_file", None), place, more)


def _files(
    option: str, value: object, place: Place, more: list[str], *, has_assets: bool = False
) -> Iterator[ReportFile]:
    if not isinstance(value, str | os.PathLike) or not str(value):
        return
    elsewhere = outside.leads_outside(option, str(value), place)
    if elsewhere is not None:
        report = outside.made(option, elsewhere, has_assets=has_assets)
        if report is not None:
            yield ReportFile((f"{option}={report.file}", *more), outside=report)
        return
    path = _inside(option, value, place)
    if path is not None:
        yield ReportFile((f"{option}={path}", *more), path)


def _inside(option: str, value: object, place: Place) -> str | None:
    """Return the path relative to the job's working directory; None if it is outside or unsafe in the job."""
    path = place.relative(outside.expanded(option, str(value)))
    # "$" and "~" would be expanded again in the job.
    return None if path is None or "$" in path or path[0] == "~" else path
