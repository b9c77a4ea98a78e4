"""Reports that reporters here write, and that the job's pytest is to write once more if the project shapes them.

No conftest.py is read here, so what one does with a report by the reporter's own hooks happens only over there
(`pytest_remote_ci.job.second_reports`); such a report comes home and takes the place of the one that was written here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from pytest_remote_ci import outside
from pytest_remote_ci.arguments import Place
from pytest_remote_ci.outside import Outside

#: Understood by `pytest_remote_ci.job.boot`, and ignored by older ones: the name, then words for pytest.
OPTION = "--remote-ci-second-report="


@dataclass(frozen=True)
class SecondReport:
    """One of them."""

    name: str
    #: For the pytest over there; the first says where the report is to lie.
    words: tuple[str, ...]
    #: The file that it leaves in the project, relative to where the run happens.
    file: str | None = None
    #: The place here, where that is outside of the project.
    outside: Outside | None = None

    @property
    def option(self) -> str:
        """The option of the reporter that names its file."""
        return self.words[0].partition("=")[0]

    @property
    def argument(self) -> str:
        """For `boot`."""
        return OPTION + shlex.join((self.name, *self.words))


def find(config: pytest.Config, place: Place, typed: Sequence[str]) -> list[SecondReport]:
    """Those of this session; only what the developer has `typed` names places outside of the project."""
    found = [report for kind in (_html, _json) for report in kind(config, place)]
    return [
        report
        for report in found
        if report.outside is None or outside.names(typed, report.option, report.outside.place, place)
    ]


def _html(config: pytest.Config, place: Place) -> Iterator[SecondReport]:
    styles = [_inside("--html", style, place) for style in config.getoption("css", None) or ()]
    if None in styles:  # the job cannot read it
        return
    is_one_file = bool(config.getoption("self_contained_html", False))
    more = [f"--css={style}" for style in styles]
    if is_one_file:
        more.append("--self-contained-html")
    yield from _second(
        "html", "--html", config.getoption("htmlpath", None), place, more, has_assets=not is_one_file
    )


def _json(config: pytest.Config, place: Place) -> Iterator[SecondReport]:
    if not config.getoption("json_report", False):
        return
    more = []
    if config.getoption("json_report_summary", False):
        more.append("--json-report-summary")
    indent = config.getoption("json_report_indent", None)
    if indent is not None:
        more.append(f"--json-report-indent={indent}")
    yield from _second("json", "--json-report-file", config.getoption("json_report_file", None), place, more)


def _second(
    name: str, option: str, value: object, place: Place, more: list[str], *, has_assets: bool = False
) -> Iterator[SecondReport]:
    if not isinstance(value, str | os.PathLike) or not str(value):
        return
    elsewhere = outside.leads_outside(option, str(value), place)
    if elsewhere is not None:
        report = outside.made(option, elsewhere, has_assets=has_assets)
        if report is not None:
            yield SecondReport(name, (f"{option}={report.file}", *more), outside=report)
        return
    path = _inside(option, value, place)
    if path is not None:
        yield SecondReport(name, (f"{option}={path}", *more), path)


def _inside(option: str, value: object, place: Place) -> str | None:
    """A path, relative to where the run happens; None for one outside of the project, or that is none over there."""
    path = place.relative(outside.expanded(option, str(value)))
    # Over there "$" and "~" mean something again.
    return None if path is None or "$" in path or path[0] == "~" else path
