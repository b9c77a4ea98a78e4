"""With what the plugins that people use are compared, and the part of docs/reference/parity.md that says so.

`test_plugins` and `test_coverage` run these lines. ``python tests/parity/plugin_table.py`` renews the page.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "parity.md"

#: Distributions that a project of the tests asks for: name of the set → their requirements.
THERE: dict[str, tuple[str, ...]] = {
    "none": (),
    "reporters": (
        "pytest-cov==7.1.0",
        "pytest-html==4.2.0",
        "pytest-json-report==1.5.0",
        "pytest-reportlog==1.0.0",
        "pytest-sugar==1.1.1",
    ),
    "tools": (
        "pytest-asyncio==1.5.0",
        "pytest-benchmark==5.3.1",
        "pytest-cov==7.1.0",
        "pytest-mock==3.17.0",
        "pytest-rerunfailures==16.7",
        "pytest-timeout==2.4.0",
        "pytest-xdist==3.8.0",
    ),
    "both": ("pytest-json-report==1.5.0", "pytest-xdist==3.8.0"),
    "more": (
        "pytest-django==4.14.0",
        "django<6",
        "pytest-mock==3.17.0",
        "pytest-randomly==5.1.0",
        "pytest-xdist==3.8.0",
        "teamcity-messages==1.33",
    ),
    "older": ("pytest<9", "pytest-subtests==0.15.0"),
}

#: What the developer has who has all plugins.
EVERYTHING = tuple(sorted({*THERE["reporters"], *THERE["tools"], *THERE["more"]} - {"django<6"}))

#: Plugin → (suite, set of requirements, command line). The plugin is over there only.
LINES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "pytest-rerunfailures": (("plugins", "tools", "test_reruns.py -rA"),),
    "pytest-timeout": (("plugins", "tools", "test_timeouts.py"),),
    "pytest-asyncio": (("plugins", "tools", "test_asynchronous.py -v"),),
    "pytest-benchmark": (("plugins", "tools", "test_benchmarks.py -v"),),
    "pytest-mock": (("plugins", "tools", "test_mocks.py"),),
    "pytest's subtests": (("plugins", "tools", "test_subtests.py -v -rA"),),
    "pytest-xdist": (
        ("plugins", "tools", "test_groups.py -n 1 -v"),
        ("plugins", "tools", "test_groups.py test_subtests.py -n 2 -q"),
        ("plugins", "tools", "test_groups.py test_mocks.py -n auto --dist loadfile"),
        ("plugins", "tools", "test_groups.py -n 2 --dist loadgroup -v"),
    ),
    "pytest-randomly": (("plugins", "more", "test_mocks.py test_groups.py --randomly-seed=7 -v"),),
    "pytest-django": (("django_site", "more", "-v -p no:randomly"),),
}

#: Command lines of pytest-cov that are run in the suite `covered`.
COVERAGE = (
    "--cov=shop",
    "--cov=shop --cov-report=term-missing --cov-branch",
    "--cov=shop --cov-report=term-missing -n 2",
    "--cov=shop --cov-fail-under=90",
    "--cov=src --cov-report=xml --cov-report=html --cov-report=json -q",
)

#: What is compared by a test of its own: (plugin, where it is, what is equal, test).
TESTS = (
    (
        "pytest's own `--junitxml`",
        "here",
        "the file: cases, properties, attributes, xunit1 and xunit2",
        "test_plugins.py::test_a_junit_file_has_what_fixtures_record",
    ),
    (
        "pytest-reportlog, pytest-html, pytest-json-report, `--junitxml`",
        "in both places",
        "terminal and files",
        "test_plugins.py::test_reporters_in_both_places_write_the_same",
    ),
    (
        "pytest-reportlog, pytest-html, pytest-json-report",
        "here",
        "the files",
        "test_plugins.py::test_reporters_that_are_only_here_write_the_same",
    ),
    (
        "pytest-json-report, also over pytest-xdist",
        "here or in both places",
        "log records as objects, all of them",
        "test_log_records.py::test_log_records_are_objects_wherever_the_tests_run",
    ),
    (
        "pytest-reportlog, pytest-html, pytest-json-report",
        "there",
        "terminal; their files, which come home",
        "test_plugins.py::test_files_of_reporters_that_are_only_there_come_home",
    ),
    (
        "pytest-html, pytest-json-report, pytest-metadata, with hooks in conftest.py",
        "in both places",
        "terminal and files",
        "test_plugins.py::test_reports_that_the_project_shapes_by_hooks_are_those_of_a_direct_run",
    ),
    (
        "the same, written outside of the project",
        "in both places",
        "terminal and files",
        "test_shaped.py::test_a_shaped_report_outside_of_the_project_is_that_of_a_direct_run",
    ),
    (
        "the same, and pytest-reportlog",
        "there",
        "files, which come to where options place them",
        "test_shaped.py::test_a_report_outside_of_a_reporter_that_is_only_there_comes_home",
    ),
    (
        "a reporter that warns of each report",
        "here or in both places",
        "test and place of all warnings",
        "test_warnings.py::test_warnings_of_a_reporter_that_is_only_here_are_those_of_a_direct_run",
    ),
    ("pytest-sugar", "in both places", "terminal", "test_plugins.py::test_sugar_shows_the_same"),
    (
        "pytest-reportlog and `--junitxml` over pytest-xdist",
        "in both places",
        "the files",
        "test_plugins.py::test_reports_of_a_distributed_session_are_the_same",
    ),
    (
        "pytest-subtests, with pytest 8",
        "in both places",
        "terminal",
        "test_plugins.py::test_subtests_of_an_older_pytest_show_the_same",
    ),
    (
        "all of the above that run tests, together",
        "in both places",
        "terminal",
        "test_plugins.py::test_plugins_in_both_places_show_the_same",
    ),
    (
        "pytest-cov's files: `.coverage`, XML, HTML, JSON, lcov",
        "there",
        "local `coverage report` and `html` work",
        "test_coverage.py::test_data_comes_home_and_speaks_of_the_files_here",
    ),
    (
        "pytest-cov's `.coverage`",
        "there",
        "there when plugins here hear of the session's end",
        "test_coverage.py::test_data_is_there_when_a_plugin_here_looks_for_it_at_the_end",
    ),
    (
        "teamcity-messages (PyCharm)",
        "in both places",
        "all messages",
        "test_editors.py::test_pycharm_is_told_the_same",
    ),
    (
        "teamcity-messages (PyCharm)",
        "here",
        'operands of "click to see difference"',
        "test_editors.py::test_pycharm_can_show_what_differs",
    ),
    (
        "a plugin that watches as editors' do",
        "here",
        "tree, lines of tests, results, errors",
        "test_editors.py::test_a_plugin_that_watches_sees_the_same",
    ),
)


def section() -> str:
    """In Markdown."""
    versions = sorted({name for names in THERE.values() for name in names if "==" in name})
    parts = [f"Versions: {', '.join(name.replace('==', ' ') for name in versions)}.", ""]
    parts += ["| plugin | is | equal are | shown by `tests/parity/` |", "|---|---|---|---|"]
    for plugin, lines in LINES.items():
        listed = "; ".join(f"`{line}`" for _, _, line in lines)
        test = "test_plugins.py::test_a_plugin_that_is_only_there_shows_the_same"
        parts.append(f"| {plugin} | there | terminal and exit code of {listed} | `{test}` |")
    listed = "; ".join(f"`{line}`" for line in COVERAGE)
    test = "test_coverage.py::test_a_coverage_report_and_its_verdict_are_the_same"
    parts.append(f"| pytest-cov | there | terminal, exit code and files of {listed} | `{test}` |")
    parts += [f"| {plugin} | {place} | {what} | `{test}` |" for plugin, place, what, test in TESTS]
    return "\n".join(parts)


def page(text: str) -> str:
    """`text` with the present section."""
    return re.sub(
        r"(?<=plugin_table\.py -->\n).*?(?=<!-- end of plugins -->)",
        lambda _: f"\n{section()}\n\n",
        text,
        count=1,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
