"""The plugins that people use: a remote session shows and writes what a direct run does, with them here or not."""

from __future__ import annotations

import difflib
import html
import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.developer import Done
from support.parallel import Ahead, ahead, parameters

from .comparison import Pair, normalised
from .environments import Equipped
from .plugin_table import LINES, PAGE, TESTS, page

C = "--continue-on-collection-errors"
QUIET = ("-p", "no:sugar", "-p", "no:randomly")

#: What is random in what plugins show.
_RANDOM = (
    (r"\(\d{12,}\)", "(thread)"),
    (r"\b[\d,]+\.\d{4}\b(?: \(\d+\.\d+\))?", "N"),  # of a benchmark
    (r" +N\b", " N"),
    (r" (Min|Max|Mean|StdDev|Median|IQR|Outliers|OPS|Rounds|Iterations)\b", r" \1"),
    (r"time in [nu]s|[MK]ops/s", "unit"),
    (r"\d+;\d+", "outliers"),
    (r"-{20,}( benchmark.*?)?-*", r"---\1"),
    (r"  +", " "),
    (r"\bgw\d", "gwN"),
    (r"created: \d/\d workers?", "created: N workers"),
    (r"\d workers? \[", "N workers ["),
    (r"[~_+=-]{10,}", "---"),
)


def tamed(done: Done, root: Path, *, is_ordered: bool = True) -> Done:
    """Without what a plugin makes random; two workers also make the order of lines and dots random."""
    text = normalised(done.out, root)
    for pattern, words in _RANDOM:
        text = re.sub(pattern, words, text)
    if not is_ordered:
        lines = (re.sub(r"\[ *\d+%\]", "[N%]", line) for line in text.splitlines())
        text = "\n".join(
            sorted("".join(sorted(line)) if re.match(r"\S+ +\[N%\]$", line) else line for line in lines)
        )
    return Done(done.code, text, done.err)


@pytest.fixture
def make(equipped: Equipped, tmp_path: Path) -> Callable[[str, str, Path], Pair]:
    """A pair: suite, requirements over there, interpreter here."""
    return lambda suite, there, here: equipped.pair(suite, there, here, tmp_path)


@pytest.fixture(scope="module")
def compared(
    request: pytest.FixtureRequest, equipped: Equipped, bare: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ahead[tuple[int, str]]]:
    """Exit code of a direct run, and what differs: of a suite, requirements over there and a line."""

    def compare(suite: str, there: str, line: str) -> tuple[int, str]:
        both = equipped.pair(suite, there, bare, tmp_path_factory.mktemp(suite))
        args = [*shlex.split(line), "-p", "no:sugar", *(() if "randomly" in line else ("-p", "no:randomly"))]
        direct, remote = both.run(*args)
        is_ordered = not any(words in line for words in ("-n 2", "-n auto"))
        return direct.code, both.difference(
            tamed(direct, both.direct, is_ordered=is_ordered),
            tamed(remote, both.local, is_ordered=is_ordered),
        )

    with ahead(compare, parameters(request, "suite", "there", "line"), workers=2) as results:
        yield results


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("suite", "there", "line"),
    [pytest.param(*line, id=f"{plugin}: {line[2]}") for plugin, lines in LINES.items() for line in lines],
)
def test_a_plugin_that_is_only_there_shows_the_same(
    compared: Ahead[tuple[int, str]], suite: str, there: str, line: str
) -> None:
    code, difference = compared(suite, there, line)
    assert not difference, difference
    assert code in (0, 1)


def test_plugins_in_both_places_show_the_same(make: Callable[[str, str, Path], Pair], full: Path) -> None:
    both = make("plugins", "tools", full)
    direct, remote = both.run("-v", "-rA", *QUIET)
    difference = both.difference(tamed(direct, both.direct), tamed(remote, both.local))
    assert not difference, difference
    assert direct.code == 1, direct.text


def test_a_random_order_is_the_same_where_the_plugin_is_here_too(
    make: Callable[[str, str, Path], Pair], full: Path
) -> None:
    both = make("plugins", "more", full)
    args = ("test_mocks.py", "test_groups.py", "-p", "randomly", "--randomly-seed=7", "-v", "-p", "no:sugar")
    difference = both.compare(*args)
    assert not difference, difference


def test_subtests_of_an_older_pytest_show_the_same(
    make: Callable[[str, str, Path], Pair], older: Path
) -> None:
    both = make("plugins", "older", older)
    difference = both.compare("test_subtests.py", "-v", "-rA")
    assert not difference, difference


def test_the_documented_plugins_are_those_that_are_compared() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "renew it: python tests/parity/plugin_table.py"
    for *_, test in TESTS:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(), test


def test_a_debugger_that_is_called_in_a_worker_of_xdist_fails_its_test(
    make: Callable[[str, str, Path], Pair], bare: Path
) -> None:
    both = make("plugins", "tools", bare)
    (both.local / "product.py").write_text(
        "import pdb\ndef run():\n    breakpoint()\ndef trace():\n    pdb.set_trace()\n"
    )
    (both.local / "test_calls.py").write_text(
        "import product\ndef test_run(): product.run()\ndef test_trace(): product.trace()\ndef test_after(): pass\n"
    )
    done = both.remotely("test_calls.py", "-n", "1", *QUIET)
    assert done.code == 1, done.text
    assert "2 failed, 1 passed" in done.out
    for line in (3, 5):
        words = (
            f"product.py:{line}: a debugger was called, but the job has no terminal: run this test without"
        )
        assert sum(text.startswith(words) for text in done.out.splitlines()) == 1, done.out


# -- reporters: files


def test_reporters_in_both_places_write_the_same(make: Callable[[str, str, Path], Pair], full: Path) -> None:
    both = make("reporters", "reporters", full)
    args = (
        C,
        *QUIET,
        "-k",
        "not xpasses",
        "--junitxml=r.xml",
        "--report-log=out/r.jsonl",
        "--json-report",
        "--json-report-file=r.json",
        "--html=r.html",
        "--self-contained-html",
    )
    direct, remote = both.run(*args)
    difference = both.difference(direct, remote)
    assert not difference, difference
    assert "fetched: r.json, r.html" in remote.err or "fetched: r.html, r.json" in remote.err
    compare(both, "r.xml", xml_text)
    compare(both, "out/r.jsonl", json_lines)
    compare(both, "r.json", json_lines)
    compare(both, "r.html", html_text)
    check_xunit2(both.local / "r.xml")


def test_reporters_that_are_only_here_write_the_same(
    equipped: Equipped, make: Callable[[str, str, Path], Pair], full: Path, tmp_path: Path
) -> None:
    both = make("reporters", "none", full)
    directly = equipped.pair("reporters", "reporters", full, tmp_path / "with")
    args = (
        C,
        *QUIET,
        "--ignore=tests/test_extras.py",
        "--report-log=r.jsonl",
        "--json-report",
        "--html=r.html",
        "--self-contained-html",
    )
    direct, remote = directly.directly(*args), both.remotely(*args)
    assert remote.code == direct.code, remote.text
    paired = Pair(directly.direct, both.local, both.python, both.developer)
    # What cannot be known here: what a plugin over there adds to reports; which fixtures and plugins there would be.
    without = {"_json_report_extra", "extras", "Plugins"}
    compare(paired, "r.jsonl", lambda path: json_lines(path, without))
    compare(paired, ".report.json", lambda path: json_lines(path, without))
    compare(paired, "r.html", lambda path: html_text(path, without))


def test_reports_that_the_project_shapes_by_hooks_are_those_of_a_direct_run(
    make: Callable[[str, str, Path], Pair], full: Path
) -> None:
    both = make("shaped", "reporters", full)
    files = ("--json-report", "--json-report-file=out/r.json", "--html=out/r.html")
    args = (*QUIET, "--cov=tests", *files)
    difference = both.compare(*args)
    assert not difference, difference
    compare(both, "out/r.json", json_lines)
    compare(both, "out/r.html", html_text)
    text = (both.local / "out" / "r.html").read_text()
    assert "Shaped by the project" in text
    assert "Owner" in text
    assert "Finished" in text
    for name in ("r.html", "r.json"):  # of the place of the run nothing is left
        assert str(both.developer.runner.data_dir) not in (both.local / "out" / name).read_text()


def test_files_of_reporters_that_are_only_there_come_home(
    make: Callable[[str, str, Path], Pair], bare: Path
) -> None:
    both = make("reporters", "reporters", bare)
    args = (
        C,
        *QUIET,
        "-k",
        "passes or attaches",
        "--report-log=out/r.jsonl",
        "--json-report",
        "--html=out/r.html",
        "--self-contained-html",
    )
    difference = both.compare(*args)
    assert not difference, difference
    compare(both, "out/r.jsonl", json_lines)
    compare(both, ".report.json", json_lines)
    compare(both, "out/r.html", html_text)
    assert json.loads((both.local / ".report.json").read_text())["summary"]["passed"] == 2


def test_reports_of_a_distributed_session_are_the_same(
    make: Callable[[str, str, Path], Pair], full: Path
) -> None:
    both = make("plugins", "tools", full)
    args = (
        "test_groups.py",
        "test_subtests.py",
        *QUIET,
        "-n",
        "1",
        "--junitxml=r.xml",
        "--report-log=r.jsonl",
    )
    direct, remote = both.directly("-p", "no:reportlog", *args[:-1]), both.remotely(*args)
    assert remote.code == direct.code == 1, remote.text
    compare(both, "r.xml", xml_text)
    reports = [json.loads(line) for line in (both.local / "r.jsonl").read_text().splitlines()]
    assert {report["node"] for report in reports if "when" in report and "nodeid" in report} == {
        "<WorkerController gw0>"
    }


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_a_junit_file_has_what_fixtures_record(pair: Callable[[str], Pair], family: str) -> None:
    both = pair("reporters")
    args = (
        C,
        "--junitxml=r.xml",
        "-o",
        f"junit_family={family}",
        "-o",
        "junit_logging=all",
        "--junit-prefix=p",
    )
    difference = both.compare(*args)
    assert not difference, difference
    compare(both, "r.xml", xml_text)
    text = (both.local / "r.xml").read_text()
    assert 'name="architecture" value="of the suite"' in text
    assert "{'a': {1}}" in text
    assert 'classname="renamed"' in text


@pytest.mark.parametrize("line", ["--force-sugar", "--force-sugar -v --color=yes"])
def test_sugar_shows_the_same(make: Callable[[str, str, Path], Pair], full: Path, line: str) -> None:
    both = make("reporters", "reporters", full)
    args = (C, "-p", "no:randomly", *shlex.split(line))
    direct, remote = both.run(*args)
    assert "Test session starts" in direct.out
    difference = both.difference(direct, remote)
    assert not difference, difference


# -- what files hold


def compare(both: Pair, name: str, read: Callable[[Path], str]) -> None:
    """A file that both runs have written."""
    texts = [normalised(read(place / name), both.direct, both.local) for place in (both.direct, both.local)]
    difference = difflib.unified_diff(
        texts[0].splitlines(), texts[1].splitlines(), f"{name} directly", f"{name} remotely", lineterm="", n=2
    )
    assert texts[0] == texts[1], "\n".join(difference)


def xml_text(path: Path) -> str:
    """A JUnit file, an element or line of text per line."""
    text = re.sub(r' time="[\d.]+"| timestamp="[^"]*"', "", path.read_text())
    return text.replace("><", ">\n<")


#: What is another number each time.
_TIMES = {
    "duration",
    "start",
    "stop",
    "created",
    "time",
    "msecs",
    "process",
    "thread",
    "relativeCreated",
    "pathname",
}


def json_lines(path: Path, without: set[str] | None = None) -> str:
    """A file with one JSON value, or with one per line."""
    text = path.read_text()
    try:
        values = [json.loads(text)]
    except ValueError:
        values = [json.loads(line) for line in text.splitlines()]
    return "\n".join(json.dumps(plain(value, without or set()), indent=1, sort_keys=True) for value in values)


def html_text(path: Path, without: set[str] | None = None) -> str:
    """pytest-html's file, with the data in it as lines."""

    def data(found: re.Match[str]) -> str:
        return json.dumps(plain(json.loads(html.unescape(found[1])), without or set()), indent=1)

    text = re.sub(r'data-jsonblob="([^"]*)"', data, path.read_text())
    return re.sub(r"\d\d:\d\d:\d\d|\d+ ms|\d\d-\w+-\d{4}", "N", text)


def plain(value: Any, without: set[str]) -> Any:
    """A value out of JSON without these keys, and without what is another number each time."""
    if isinstance(value, dict):
        return {
            key: "N" if key in _TIMES else plain(item, without)
            for key, item in value.items()
            if key not in without
        }
    if isinstance(value, list):
        return [plain(item, without) for item in value]
    if isinstance(value, str) and without:
        return re.sub(r"available fixtures: .*", "available fixtures", value)
    return value


def check_xunit2(path: Path) -> None:
    """The shape of the schema that pytest's own tests hold its files against."""
    root = ElementTree.parse(path).getroot()
    assert root.tag == "testsuites"
    (suite,) = root
    assert set(suite.keys()) == {
        "name",
        "errors",
        "failures",
        "skipped",
        "tests",
        "time",
        "timestamp",
        "hostname",
    }
    assert {child.tag for child in suite} == {"properties", "testcase"}
    for case in suite.iter("testcase"):
        assert {"classname", "name", "time"} <= set(case.keys())
        assert {child.tag for child in case} <= {
            "properties",
            "skipped",
            "failure",
            "error",
            "system-out",
            "system-err",
        }
    counts = {name: int(suite.get(name, "0")) for name in ("errors", "failures", "skipped")}
    assert counts["errors"] == len(list(suite.iter("error")))
    assert counts["failures"] == len(list(suite.iter("failure")))
    assert counts["skipped"] == len(list(suite.iter("skipped")))
