"""The command lines that are compared."""

from __future__ import annotations

import os

C = "--continue-on-collection-errors"
_MORE, _BASIC = "tests/unit/test_more.py", "tests/unit/test_basic.py"

#: Suite of `tests/fixtures/parity` → command lines that are run in it.
LINES: dict[str, tuple[str, ...]] = {
    "basic": (
        "",
        C,
        f"{C} -v",
        f"{C} -vv",
        f"{C} -q",
        f"{C} -qq",
        f"{C} -rA",
        f"{C} --tb=short",
        f"{C} --tb=long",
        f"{C} --tb=line",
        f"{C} --tb=native",
        f"{C} --tb=no",
        f"{C} -x",
        f"{C} --maxfail=3",
        f"{C} --color=yes",
        f"{C} --show-capture=no",
        "tests/unit --show-capture=stderr",
        "tests/unit -k 'param or pass'",
        "tests/unit -m slow --runslow",
        "tests/unit -k zzz",
        f"{_BASIC}::TestClass::TestInner::test_inner",
        f"{_BASIC}::test_nope",
        "tests/no_such_file.py",
        "tests/unit --collect-only",
        "tests/unit --collect-only -q",
        f"{_MORE} --collect-only -v",
        f"{_MORE} -s",
        "tests/unit --setup-show -k 'setup_error or tmp or two'",
        "tests/unit -o log_cli=true --log-cli-level=INFO -k output",
        "tests/unit -o console_output_style=count",
        "tests/unit -o console_output_style=classic",
        "tests/unit -W error::DeprecationWarning -k warn",
        "tests/unit --no-header --no-summary",
        "tests/unit --flavour mint",
        "--bogus-option",
        f"tests/unit --deselect {_BASIC}::test_fail",
        "tests/unit --runxfail",
        "tests/unit --showlocals -k fail",
        "tests/unit -p no:cacheprovider",
        "tests/unit -p no:terminal",
        "--markers",
        "--fixtures",
        "tests/unit --fixtures -v",
        "tests/unit --fixtures-per-test",
    ),
    "extra": (
        "--durations=2 --durations-min=0.15",
        "--durations=3 -vv -k quick",
        "-ra",
        "-rfE",
        "-rN",
        "-rP",
        "-rxs --tb=auto",
        "--no-fold-skipped -rs",
        "--fold-skipped -rs -v",
        "--verbosity=2 --no-header",
        "-qq -x",
        "-xvs",
        "-qrA --tb=line",
        "--show-capture=stdout",
        "--show-capture=log",
        "--show-capture=all -k slow",
        "--capture=no -k slow",
        "--capture=sys -k slow",
        "--capture=fd -k slow",
        "--capture=tee-sys -k slow",
        "-s -q -k 'slow or names'",
        "--log-cli-level=INFO",
        "--log-level=INFO --log-format=%(message)s",
        "--log-file=out.log -k slow",
        "--junitxml=out.xml -o junit_family=xunit1",
        "--setup-plan",
        "--setup-only -k 'quick or names'",
        "--strict-markers -m quick",
        "-m 'not quick' --co -q",
        "-m 'a b ='",
        "-k 'a or'",
        "--co -qq",
        "--co -k nothing",
        "--doctest-modules",
        "--doctest-glob=*.txt",
        "--doctest-glob=*.txt --doctest-report=ndiff",
        "--pyargs pkg.tests",
        "--pyargs json.tool",
        "--import-mode=importlib",
        "--import-mode=append pkg",
        "--rootdir=pkg pkg",
        "-c other.ini",
        "-o python_functions=check_*",
        "-o xfail_strict=true -o addopts=-ra",
        "-W ignore -p no:warnings",
        "--ignore=pkg",
        "--ignore-glob=*times*",
        "--full-trace -k slow",
        "-l --full-trace -k slow",
        "--assert=plain -k slow",
        "-p no:doctest -p no:logging",
        "--exitfirst --tb=no -v",
        "--maxfail",
        "--tb=nope",
        "--xfail-tb -rx",
        "'test_times.py::test_names[[x]]' 'test_times.py::test_names[a::b]'",
        "'test_times.py::test_names[a/b]' -v",
        "'test_times.py::test_names[with space]' pkg/tests/test_pkg.py::test_number",
        "test_times.py::test_names[nope]",
        "test_times.py::test_quick test_times.py::test_quick",
        "pkg pkg/tests --keep-duplicates",
        "--force-short-summary -qq",
        "--disable-warnings --cache-clear",
        "--confcutdir=pkg",
        "--noconftest --color=yes",
        "-o console_output_style=times",
        "-o console_output_style=progress -v",
        "-o truncation_limit_lines=1 -k slow",
    ),
    "ends": ("ki", "exit", "badconf", "ierr", "shouldfail", "stop", "yielding", "empty"),
}

#: Width of a terminal and a command line, of suite `basic`.
TERMINALS = (
    (40, f"{_BASIC} -v --color=auto"),
    (80, "tests/unit --color=yes -o console_output_style=times"),
    (80, "tests/unit"),
    (200, "tests/unit --color=no -o console_output_style=count -ra"),
)

#: What a suite of the table is.
SUITES = {
    "basic": "every kind of outcome, parameters, subtests, warnings, fixtures, plugins in conftest.py, output",
    "extra": "what is typed daily: reasons, durations, capturing, logs, markers, doctests, packages, ids, settings",
    "ends": "Ctrl-C in a test, pytest.exit, a broken conftest.py, internal error, changed exit status, "
    "session.shouldstop, broken teardowns, no tests",
}

#: Set for all of the suite `extra`; else every third, so that the tests stay quick. `scripts/parity-page` sets it.
ALL = "PARITY_ALL"


def lines(suite: str) -> tuple[str, ...]:
    """What this run of the tests compares."""
    return LINES[suite] if suite != "extra" or os.environ.get(ALL) else LINES[suite][::3]
