"""Reports that reporters here write, and that the job's pytest is to write once more if the project shapes them.

No conftest.py is read here, so what one does with a report by the reporter's own hooks happens only over there
(`pytest_remote_ci.job.second_reports`); such a report comes home and takes the place of the one that was written here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

#: Understood by `pytest_remote_ci.job.boot`, and ignored by older ones: the name, then words for pytest.
OPTION = "--remote-ci-second-report="


@dataclass(frozen=True)
class SecondReport:
    """One of them."""

    name: str
    #: For the pytest over there.
    words: tuple[str, ...]
    #: What it leaves, relative to where the run happens.
    files: tuple[str, ...]

    @property
    def argument(self) -> str:
        """For `boot`."""
        return OPTION + shlex.join((self.name, *self.words))


def find(config: pytest.Config, relative: Callable[[str], str | None]) -> list[SecondReport]:
    """Those of this session; `relative` gives a path relative to where the run happens, None for one elsewhere."""
    return [report for kind in (_html, _json) for report in kind(config, relative)]


def _html(config: pytest.Config, relative: Callable[[str], str | None]) -> Iterator[SecondReport]:
    path = _plain_path(config.getoption("htmlpath", None), relative)
    styles = [_plain_path(style, relative) for style in config.getoption("css", None) or ()]
    if path is None or None in styles:
        return
    words = [f"--html={path}", *(f"--css={style}" for style in styles)]
    if config.getoption("self_contained_html", False):
        yield SecondReport("html", (*words, "--self-contained-html"), (path,))
    else:
        yield SecondReport("html", tuple(words), (path, _beside(path, "assets")))


def _json(config: pytest.Config, relative: Callable[[str], str | None]) -> Iterator[SecondReport]:
    if not config.getoption("json_report", False):
        return
    path = _plain_path(config.getoption("json_report_file", None), relative)
    if path is None:
        return
    words = [f"--json-report-file={path}"]
    if config.getoption("json_report_summary", False):
        words.append("--json-report-summary")
    indent = config.getoption("json_report_indent", None)
    if indent is not None:
        words.append(f"--json-report-indent={indent}")
    yield SecondReport("json", tuple(words), (path,))


def _plain_path(value: object, relative: Callable[[str], str | None]) -> str | None:
    """None for what a shell's variables are in: they are others over there."""
    if (
        not isinstance(value, str | os.PathLike)
        or not str(value)
        or "$" in str(value)
        or str(value)[0] == "~"
    ):
        return None
    return relative(str(value))


def _beside(path: str, name: str) -> str:
    folder = path.rpartition("/")[0]
    return f"{folder}/{name}" if folder else name
