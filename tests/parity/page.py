"""Makes docs/reference/parity.md of what the tests compare and of what the longer runs have found.

``scripts/parity-page`` runs the tests and writes the page when all of them pass; `test_page` holds that the page is the
present one. What takes long (every combination of versions, real projects) is kept in `found.json`, which
`scripts/versions` and `scripts/parity` renew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import plugin_table, table, test_caches, test_projects, test_versions, versions

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "parity.md"
FOUND = Path(__file__).with_name("found.json")

HEAD = """\
# Parity of the native session

<!-- Made by scripts/parity-page: change tests/parity/page.py instead. -->

`pytest --remote-ci` shows a remote run as the local pytest's own session, so that reporters, report files,
`.pytest_cache` and exit codes here are what they would be after a local run. With `--remote-ci-text` the remote
pytest's text is shown instead.

`tests/parity` runs suites directly and remotely, with the same pytest over there, and compares exit code, standard
output and standard error to the character. What may differ is replaced before: times, addresses (`0x7f…`), the path of
the environment and the project's own folder, which has another name over there; lines of `remote-ci` and of the
runner's installation on standard error are left out. Nothing else. What no suite prints and what differs on purpose:
escape sequences other than colours, and C1 characters, are left out everywhere, other control and bidirectional
characters on terminals ([Security](../guide/security.md#what-reaches-the-terminal)). The engine is `process`; Python
3.11.

Every line below is equal, or what differs is named. `scripts/parity-page` runs all of it and writes this page only if
every test passes.
"""

PLUGINS = """\
## Plugins, coverage, editors

"There" is the job's environment, "here" is the developer's. What a benchmark measures, which worker of pytest-xdist
runs a test and in which order two of them report is not compared.

<!-- made by tests/parity/plugin_table.py -->

{section}

<!-- end of plugins -->

VS Code's own adapter, the module `vscode_pytest` of its Python extension, is on no package index and is **not covered**
by a test. What it asks of nodes (kinds, paths, lines, parameters, marks that skip, errors of collectors, coverage data
at the session's end) is compared by a plugin of the tests instead, which is no copy of it.
"""

TAIL = """\
## Different

By chance, in pytest itself: which of two tests with nearly the same duration comes first in `--durations`, which of
xdist's workers runs which test and the order of results under `-n`, the number of frames before a recursion ends.

Paths outside of the project:

- Where the project has another path over there, what tests print is left as they printed it; what pytest says is
  translated (`tests/parity/test_paths.py`, also for Windows, whose clients were not run).
- A report of pytest-html or pytest-json-report that the project shapes by their hooks is that of the job's pytest, as
  is one of a reporter that is not installed here. With a `--css` from outside of the project, or where `addopts` in the
  project's own file name a place outside of it, it is without what these hooks do: only who types the command, or sets
  PYTEST_ADDOPTS, names such places. Where such a report belongs outside of the project and its reporter is not
  installed here, the reporter's own line names the place that it had over there.

Where pytest is taken down, so that a direct run has no result:

- A test that does it is a failed test here, and the rest runs in a pytest that is started again
  (`tests/parity/test_crashes.py`).
- A report of pytest-html or pytest-json-report that is written here has all tests, but nothing that hooks of the
  project add to it, and a line says so; one of a reporter that is not installed here is not complete, and a line
  says so (`tests/parity/test_shaped.py`).

What is here or elsewhere by its nature:

- `--version`, `--cache-show` and `--help` tell of the pytest, the cache and the project here
  (`tests/parity/test_questions.py`).
- Test files are not imported here, so `inspect` finds no source for the object of a collected class: an editor shows it
  without a line (`tests/unit/pytest_remote_ci/replay/test_nodes.py`).
- Warnings that a reporter here emits while a test is reported come before the test's own; in a direct run both are in
  the order in which they were emitted, and the same warning from the same line is repeated after a test has used
  `pytest.warns` (`tests/parity/test_warnings.py`).
- pytest-xdist's ids with `@group` are kept as a direct run has them, also in `.pytest_cache`.
"""


def build() -> str:
    """The whole page."""
    found = json.loads(FOUND.read_text())
    parts = [HEAD, _lines(), _terminals(), _rows(), _plugins(), _versions(found["versions"])]
    return "\n".join([*parts, _projects(found["projects"]), TAIL])


def _block(lines: Any) -> str:
    return "```\n" + "\n".join(f"pytest {line}".rstrip() for line in lines) + "\n```\n"


def _lines() -> str:
    tests = {
        "basic": "test_a_command_line_shows_the_same",
        "extra": "test_what_is_typed_daily_shows_the_same",
        "ends": "test_a_session_that_ends_early_shows_the_same",
    }
    parts = ["## Command lines\n\n`tests/parity/test_command_lines.py`; all are equal.\n"]
    for suite, lines in table.LINES.items():
        some = " Every third is compared in each run of the tests." if suite == "extra" else ""
        parts.append(f"`{tests[suite]}`, suite `{suite}`: {table.SUITES[suite]}.{some}\n\n{_block(lines)}")
    return "\n".join(parts)


def _terminals() -> str:
    rows = "".join(f"| {columns} | `pytest {line}` | equal |\n" for columns, line in table.TERMINALS)
    return (
        "## Terminals\n\n`tests/parity/test_terminals.py::test_a_terminal_shows_the_same`, colours and progress"
        " included; that a result is on the screen while the next test runs, with that test's name where nothing was"
        " printed for a while, is shown by `test_a_result_is_on_the_screen_while_the_next_test_runs`.\n\n"
        f"| columns | command line | |\n|---|---|---|\n{rows}"
    )


def _rows() -> str:
    return (
        "## Rows of runs\n\nEach shows the same and leaves the same `.pytest_cache`"
        " (`tests/parity/test_caches.py::test_a_row_of_runs_leaves_the_same_cache_each_time`):\n\n"
        f"{_block(test_caches.ROW)}\nThe same, with every other run a local one in the same folder"
        " (`test_local_and_remote_runs_in_turn_in_one_folder_are_one_history`):\n\n"
        f"{_block(test_caches.MIXED)}"
    )


def _plugins() -> str:
    return PLUGINS.format(section=plugin_table.section())


def _versions(found: dict[str, dict[str, str]]) -> str:
    head = (
        "| here ↓ there → | "
        + " | ".join(versions.VERSIONS)
        + " |\n"
        + "|---" * (len(versions.VERSIONS) + 1)
        + "|\n"
    )
    rows = ""
    notes: list[str] = []
    for here in versions.VERSIONS:
        cells = []
        for there in versions.VERSIONS:
            problem = found.get(here, {}).get(there)
            cells.append("not run" if problem is None else "equal" if not problem else f"[{len(notes) + 1}]")
            if problem:
                notes.append(f"[{len(notes) + 1}] {here} here, {there} there: `{problem}`\n")
        rows += f"| **{here}** | " + " | ".join(cells) + " |\n"
    pairs = ", ".join(f"{here} here and {there} there" for here, there in test_versions.PAIRS)
    return (
        "## Versions of pytest\n\nOne suite with every kind of outcome (`tests/fixtures/parity/outcomes`): the same"
        " counts, the same word for each test, exit code and reasons as a direct run of the version over there; with"
        " one version the same text, else each line that differs is one that the version here prints by itself. All of"
        f" it: `scripts/versions`; in every run of the tests ({pairs}):"
        f" `tests/parity/test_versions.py`. Python 3.8 and 3.9"
        f" over there: `tests/parity/test_older_pythons.py`.\n\n{head}{rows}\n" + "\n".join(notes)
    )


def _projects(found: dict[str, dict[str, Any]]) -> str:
    rows = "".join(
        f"| {name.replace('-', ' ')} | `{item['args']}` | {item['counts']} | {item['code']} | {item['lines']} |"
        f" {item['pytest']} | {'**different**' if item['difference'] else 'equal'} |\n"
        for name, item in sorted(found.items())
    )
    small = ", ".join(test_projects.PROJECTS)
    return (
        "## Real projects\n\nSource distributions from PyPI as they are, with `scripts/parity`: the whole output,"
        f" line by line. In every run of the tests ({small}): `tests/parity/test_projects.py`.\n\n"
        "| project | options | outcome | exit code | lines | pytest | |\n|---|---|---|---|---|---|---|\n"
        + rows
    )
