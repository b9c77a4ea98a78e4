"""The part of docs/parity.md that says which command lines are compared. ``python tests/parity/table.py`` renews it."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"

C = "--continue-on-collection-errors"
_MORE, _BASIC = "tests/unit/test_more.py", "tests/unit/test_basic.py"

#: Suite of `tests/fixtures/parity` → command lines that are run in it.
LINES: dict[str, tuple[str, ...]] = {
    "basic": (
        "", C, f"{C} -v", f"{C} -vv", f"{C} -q", f"{C} -qq", f"{C} -rA",
        f"{C} --tb=short", f"{C} --tb=long", f"{C} --tb=line", f"{C} --tb=native", f"{C} --tb=no",
        f"{C} -x", f"{C} --maxfail=3", f"{C} --color=yes", f"{C} --show-capture=no", "tests/unit --show-capture=stderr",
        "tests/unit -k 'param or pass'", "tests/unit -m slow --runslow", "tests/unit -k zzz",
        f"{_BASIC}::TestClass::TestInner::test_inner", f"{_BASIC}::test_nope", "tests/no_such_file.py",
        "tests/unit --collect-only", "tests/unit --collect-only -q", f"{_MORE} --collect-only -v",
        f"{_MORE} -s", "tests/unit --setup-show -k 'setup_error or tmp or two'",
        "tests/unit -o log_cli=true --log-cli-level=INFO -k output", "tests/unit -o console_output_style=count",
        "tests/unit -o console_output_style=classic", "tests/unit -W error::DeprecationWarning -k warn",
        "tests/unit --no-header --no-summary", "tests/unit --flavour mint", "--bogus-option",
        f"tests/unit --deselect {_BASIC}::test_fail", "tests/unit --runxfail", "tests/unit --showlocals -k fail",
        "tests/unit -p no:cacheprovider", "tests/unit -p no:terminal",
    ),
    "ends": ("ki", "exit", "badconf", "ierr", "shouldfail", "stop", "yielding", "empty"),
}  # fmt: skip

#: What a suite of the table is.
_SUITES = {
    "basic": "every kind of outcome, parameters, subtests, warnings, fixtures, plugins in conftest.py, output",
    "ends": "Ctrl-C in a test, pytest.exit, a broken conftest.py, internal error, changed exit status, "
    "session.shouldstop, broken teardowns, no tests",
}


def table() -> str:
    """In Markdown."""
    parts = []
    for suite, lines in LINES.items():
        listed = "\n".join(f"pytest {line}".rstrip() for line in lines)
        parts.append(f"Suite `{suite}` ({_SUITES[suite]}):\n\n```\n{listed}\n```\n")
    return "\n".join(parts)


def page(text: str) -> str:
    """`text` with the present table."""
    return re.sub(
        r"(?<=table\.py -->\n).*?(?=<!-- end -->)", lambda _: f"\n{table()}\n", text, count=1, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
