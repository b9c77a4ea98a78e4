"""Which files a run may leave in the project, by its arguments and coverage's settings."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pytest_remote_ci.artifacts import artifact_folder, destinations
from pytest_remote_ci.artifacts.coverage import relocate
from pytest_remote_ci.config import config
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session.arguments import Place

INI = "[coverage:run]\ndata_file = d/cov\n[coverage:xml]\noutput = x.xml\n[coverage:html]\ndirectory = site\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    return folder


def named(argv: list[str], root: Path, cwd: Path | None = None, here: tuple[str, ...] = ()) -> set[str]:
    """Patterns beside coverage's usual ones."""
    found = destinations.find(argv, Place(root, cwd or root), here).patterns
    return set(found) - set(destinations.COVERAGE)


def test_coverage_is_always_expected(root: Path) -> None:
    assert destinations.find([], Place(root, root)).patterns == destinations.COVERAGE
    assert destinations.find([], Place(root, root)).expected.keys() == set(destinations.COVERAGE)


def test_coverage_is_expected_where_pytest_is_started(root: Path) -> None:
    found = destinations.find([], Place(root, root / "sub")).patterns
    assert found == tuple(f"sub/{name}" for name in destinations.COVERAGE)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--junitxml=a.xml"], {"a.xml"}),
        (["--junit-xml", "out/a.xml", "tests"], {"out/a.xml"}),
        (["--html=d/r.html", "--report-log=l.jsonl"], {"d/r.html", "d/assets", "l.jsonl"}),
        (["--html=r.html", "--self-contained-html"], {"r.html"}),
        (["--json-report"], {".report.json"}),
        (["--cov-report=xml:cov/c.xml"], {"cov/c.xml"}),
        (["--cov-report", "html:site"], {"site"}),
        (["--cov-report=term", "--cov-report=xml"], set()),
        (["--alluredir=allure"], {"allure"}),
        (["--ctrf", "out/ctrf.json", "--cucumberjson=c.json"], {"out/ctrf.json", "c.json"}),
        (["--md-report", "--md-report-output", "out/report.md"], {"out/report.md"}),
        (["--cucumber-json=/elsewhere/c.json"], {".remote-ci-reports/cucumber-json"}),
        (["--junitxml=../a.xml"], {".remote-ci-reports/junitxml"}),
        (["--junitxml=/elsewhere/a.xml"], {".remote-ci-reports/junitxml"}),
        (["--junitxml=."], set()),
        (["--", "--junitxml=a.xml"], set()),
    ],
)
def test_options_name_reports(root: Path, argv: list[str], expected: set[str]) -> None:
    assert named(argv, root) == expected


def test_absolute_paths_in_the_project_are_in_it(root: Path) -> None:
    assert named([f"--junitxml={root}/a.xml"], root) == {"a.xml"}


def test_paths_are_relative_to_where_pytest_is_started(root: Path) -> None:
    found = named(["--junitxml=a.xml", "--html=../b.html"], root, root / "sub")
    assert found - {f"sub/{name}" for name in destinations.COVERAGE} == {"sub/a.xml", "b.html", "assets"}


def test_what_is_written_here_is_not_brought_here(root: Path) -> None:
    assert named(["--junitxml=a.xml", "--alluredir=b"], root, here=("--junitxml",)) == {"b"}


def test_folders_outside_stay_there_and_are_named(root: Path) -> None:
    argv = ["--junitxml=../a.xml", "--html=b.html", "--report-log", "/tmp/x", "--alluredir=../allure"]
    place = Place(root, root)
    assert destinations.staying([], argv, place) == {"--alluredir"}
    assert destinations.staying(argv, [], place) == {"--junitxml", "--report-log", "--alluredir"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".coveragerc", "[run]\ndata_file = d/cov\n[xml]\noutput = x.xml\n[html]\ndirectory = site\n"),
        ("setup.cfg", INI),
        ("tox.ini", INI),
        (
            "pyproject.toml",
            "[tool.coverage]\nrun.data_file = 'd/cov'\nxml.output='x.xml'\nhtml.directory='site'\n",
        ),
    ],
)
def test_coverages_settings_name_files(root: Path, file: str, text: str) -> None:
    (root / file).write_text(text)
    assert named([], root) == {"d/cov", "d/cov.*", "x.xml", "site"}


@pytest.mark.parametrize("file", [".coveragerc", "setup.cfg", "pyproject.toml"])
@pytest.mark.parametrize("text", ["[[[", "= x", "[tool]\ncoverage = 3\n", "\0"])
def test_settings_that_cannot_be_read_are_somebody_elses_business(root: Path, file: str, text: str) -> None:
    (root / file).write_text(text)
    assert named([], root) == set()


def has_home(found: destinations.Reports, path: str) -> bool:
    return isinstance(found.home(path), destinations.Home)


#: Names that pytest, Python, git, direnv, make or an editor would execute or obey, or that no report has.
HOSTILE = (
    "conftest.py",
    "test_evil.py",
    "evil.pth",
    "sitecustomize.py",
    "__init__.py",
    ".envrc",
    ".gitattributes",
    ".gitmodules",
    ".git/config",
    ".git/hooks/post-checkout",
    ".vscode/settings.json",
    ".idea/workspace.xml",
    ".editorconfig",
    ".pre-commit-config.yaml",
    ".coveragerc",
    ".pylintrc",
    ".flake8",
    "Makefile",
    "GNUmakefile",
    "makefile",
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "tox.ini",
    "pytest.ini",
    "package.json",
    "tsconfig.json",
    "pyrightconfig.json",
    "settings.json",
    "jest.config.js",
    "evil.test.js",
    "evil.spec.js",
    "coverage_html.test.js",
    "jquery.config.js",
    "evil.js",
    "evil.sh",
    "evil",
    "Dockerfile",
    "compose.yaml",
    "evil.txt",
    "test_evil.txt",
    "evil.so",
    "evil.ipynb",
    "HEAD",
    "config",
    "sub/index.html",
    "a\nb.html",
    "\u202elmth.html",
    "-rf.html",
    "$HOME.html",
    "~.html",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_that_is_executed_or_obeyed_has_a_place(root: Path, name: str) -> None:
    argv = [
        "--cov-report=html:site",
        "--html=out/r.html",
        "--alluredir=allure",
        "--junitxml=j.xml",
        "--cov-report=annotate:a",
    ]
    found = destinations.find(argv, Place(root, root))
    for folder in (
        "",
        "htmlcov/",
        "site/",
        "out/",
        "out/assets/",
        "allure/",
        "a/",
        "j.xml/",
        ".coverage/",
        ".coverage.x/",
    ):
        if (folder, name) != ("out/assets/", "sub/index.html") and not (
            folder == "out/assets/" and name.endswith(".txt")
        ):
            assert not has_home(found, folder + name), folder


@pytest.mark.parametrize(
    "path",
    [
        ".coverage",
        ".coverage.host-1.pid77.XabcdeX",
        "coverage.xml",
        "coverage.json",
        "coverage.lcov",
        "lcov.info",
        "htmlcov/index.html",
        "htmlcov/z_145eef247bfb46b6_half_py.html",
        "htmlcov/style_cb_8e611ae1.css",
        "htmlcov/coverage_html_cb_6fb7b396.js",
        "htmlcov/jquery.ba-throttle-debounce.min.js",
        "htmlcov/favicon_32_cb_58284776.png",
        "htmlcov/status.json",
        "htmlcov/.gitignore",
        "r.html",
        "assets/style.css",
        "assets/test_a_py__test_b_0_0.png",
        "j.xml",
        "l.jsonl",
        "b.json",
        ".report.json",
        "allure/04b2c3d4-aaaa-result.json",
        "allure/04b2c3d4-bbbb-attachment.txt",
        "allure/15c2d3d4-cccc-attachment.attach",
        "a/z_half.py,cover",
    ],
)
def test_reports_have_a_place_of_their_own(root: Path, path: str) -> None:
    argv = [
        "--html=r.html",
        "--junitxml=j.xml",
        "--report-log=l.jsonl",
        "--benchmark-json=b.json",
        "--json-report",
        "--alluredir=allure",
        "--cov-report=annotate:a",
    ]
    home = destinations.find(argv, Place(root, root)).home(path)
    assert isinstance(home, destinations.Home), home
    assert (home.place, home.base) == (root / path, root)


@pytest.mark.parametrize(
    ("argument", "path", "only_typed"),
    [
        ("--junitxml=x.xml", "x.xml", False),
        ("--junitxml=.hidden/x.xml", ".hidden/x.xml", True),
        ("--junitxml=x.junit", "x.junit", True),
        ("--report-log=.vscode/tasks.jsonl", ".vscode/tasks.jsonl", True),
        ("--cov-report=json:.github/x.json", ".github/x.json", True),
        ("--cov-report=html:.site", ".site/index.html", True),
        ("--html=Makefile", "Makefile", True),
    ],
)
def test_only_the_command_line_names_unusual_places(
    root: Path, argument: str, path: str, only_typed: bool
) -> None:
    place = Place(root, root)
    assert has_home(destinations.find([argument], place), path)
    assert has_home(destinations.find([argument], place, typed=[]), path) != only_typed


@pytest.mark.parametrize(
    "argument",
    [
        "--junitxml=conftest.py",
        "--report-log=.vscode/settings.json",
        "--html=x.py",
        "--log-file=pytest.ini",
        "--cov-report=json:package.json",
        "--benchmark-json=.envrc.toml",
        "--ctrf=package.json",
    ],
)
def test_not_even_the_command_line_names_what_would_be_executed(root: Path, argument: str) -> None:
    path = argument.partition("=")[2].removeprefix("json:")
    assert destinations.find([argument], Place(root, root)).home(path) == (
        "has a name that some program would execute or load"
    )


@pytest.mark.parametrize("name", ["*", "**", "d/*", "[ab]", "?"])
def test_a_setting_is_a_name_and_no_pattern(root: Path, name: str) -> None:
    (root / ".coveragerc").write_text(
        f"[run]\ndata_file = {name}\n[html]\ndirectory = {name}\n[xml]\noutput = {name}\n"
    )
    assert named([f"--junitxml={name}"], root) == set()


#: Path → a file of the developer's, and one of a run before.
THERE = {
    ".coverage": (b"SQLite format 3\0 my own", b"SQLite format 3\0 CREATE TABLE coverage_schema"),
    "coverage.xml": (b"<project/>", b'<?xml version="1.0" ?>\n<coverage version="7"/>'),
    "coverage.json": (b'{"mine": 1}', b'{"meta": {"format": 3}}'),
    "lcov.info": (b"my notes", b"SF:a.py\n"),
    "htmlcov/index.html": (b"<html>mine</html>", b"<!DOCTYPE html><html>coverage.py v7</html>"),
    "htmlcov/style.css": (b"mine", None),
    "j.xml": (b"<build/>", b"<testsuites/>"),
    "r.html": (b"<html>mine</html>", b"<!doctype html><html>pytest-html</html>"),
    "l.jsonl": (b'{"mine": 1}', b'{"pytest_version": "8.0.0", "$report_type": "SessionStart"}'),
    "b.json": (b'{"mine": 1}', b'{\n    "machine_info": {}}'),
    "table.md": (
        b"| filepath | mine |\n",
        b"| filepath | passed | SUBTOTAL |\n| -------- | -----: | -------: |\n",
    ),
    "ctrf.json": (b'{"results": 1}', b'{\n "reportFormat": "CTRF", "results": {}}'),
    "old-ctrf.json": (b'{"mine": 1}', b'{"results": {"tool": {"name": "pytest"}}}'),
    "cucumber.json": (b"[1]", b'[{"keyword": "Feature", "uri": "a.feature"}]'),
    "c.md": (b"# mine", b"| Name | Stmts |"),
}
ARGV = [
    "--junitxml=j.xml",
    "--html=r.html",
    "--report-log=l.jsonl",
    "--benchmark-json=b.json",
    "--md-report-output=table.md",
    "--ctrf=ctrf.json",
    "--ctrf=old-ctrf.json",
    "--cucumberjson=cucumber.json",
    "--cov-report=markdown:c.md",
]


@pytest.mark.parametrize("path", THERE)
def test_what_is_there_gives_way_only_when_it_is_such_a_report(root: Path, path: str) -> None:
    found = destinations.find(ARGV, Place(root, root))
    mine, earlier = THERE[path]
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_bytes(mine)
    assert found.home(path) == "was not fetched: the file here is not such a report"
    if earlier is None:
        (root / "htmlcov/index.html").write_bytes(b"<!DOCTYPE html><html>created by coverage.py</html>")
    else:
        (root / path).write_bytes(earlier)
    assert has_home(found, path)
    (root / path).write_bytes(b"")
    assert has_home(found, path), "an empty file is nobody's"


@pytest.mark.parametrize("path", THERE)
def test_links_and_folders_do_not_give_way(root: Path, path: str) -> None:
    found = destinations.find(ARGV, Place(root, root))
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).symlink_to(root / "anything")
    assert found.home(path) == "was not fetched: the path here is a link"
    (root / path).unlink()
    (root / path).mkdir()
    assert found.home(path) == "was not fetched: the path here is not a regular file"


def test_no_link_is_followed_on_the_way(root: Path, tmp_path: Path) -> None:
    (tmp_path / "ssh").mkdir()
    (root / "inside").mkdir()
    (root / "htmlcov").symlink_to(tmp_path / "ssh")
    (root / "out").symlink_to(root / "inside")
    found = destinations.find(["--junitxml=out/j.xml"], Place(root, root))
    assert found.home("htmlcov/index.html") == "was not fetched: htmlcov in its path is a link"
    assert found.home("out/j.xml") == "was not fetched: out in its path is a link"


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        (".coverage", b"SQLite format 3\0", b"import os"),
        ("coverage.xml", b'<?xml version="1.0"?><!-- x --><coverage/>', b"<project><target/></project>"),
        ("coverage.json", b' {"meta": {}}', b"import os"),
        ("lcov.info", b"TN:\nSF:a.py", b"import os"),
        ("htmlcov/index.html", b"<!DOCTYPE html>\n<html>", b"import os"),
        ("htmlcov/a.png", b"\x89PNG\r\n\x1a\n", b"import os"),
        ("htmlcov/status.json", b"{}", b"import os"),
        ("htmlcov/.gitignore", b"# Created by coverage.py\n*\n", b"*\n!conftest.py\n"),
        ("j.xml", b"<testsuite name='x'>", b"<!-- <testsuite> --><project/>"),
        ("r.html", b"<html>", b"#!/bin/sh\n<html>"),
        ("assets/test_a.txt", b"as it was\n", b"x\n  >>> import os\n"),
        ("o.txt", b"a log >>> b\n", b">>> import os\n"),
    ],
)
def test_the_content_is_judged_when_it_has_come(
    root: Path, tmp_path: Path, path: str, good: bytes, bad: bytes
) -> None:
    home = destinations.find(
        ["--html=r.html", "--junitxml=j.xml", "--log-file=o.txt"], Place(root, root)
    ).home(path)
    assert isinstance(home, destinations.Home)
    file = tmp_path / "part"
    file.write_bytes(good)
    assert home.content_problem(file) is None
    file.write_bytes(bad)
    assert home.content_problem(file) is not None


@pytest.mark.parametrize("part", [b"<!-- x -->", b"<!---->", b"<!--->-->", b"\n", b"<!--", b" <?xml"])
def test_hostile_beginnings_cost_no_time(root: Path, tmp_path: Path, part: bytes) -> None:
    """They would take years if a comment could end in several places."""
    file = tmp_path / "part"
    file.write_bytes(part * 20_000 + b"x")
    found = destinations.find(["--html=r.html", "--junitxml=j.xml"], Place(root, root))
    for path in ("j.xml", "r.html", "coverage.xml", "htmlcov/index.html", "htmlcov/.gitignore", "lcov.info"):
        home = found.home(path)
        assert isinstance(home, destinations.Home)
        assert home.content_problem(file) is not None or path == "htmlcov/.gitignore"


def test_a_project_may_name_a_folder_of_its_own_only(root: Path, tmp_path: Path) -> None:
    pyproject = root / "pyproject.toml"
    pyproject.write_text('[tool.remote-ci]\nartifacts-dir = "out"\n')
    settings = config.load(root, environ={}, home=tmp_path)
    assert artifact_folder.of(settings, "job", tmp_path, root).path == root / "out"
    settings = config.load(root, environ={}, home=tmp_path, overrides={"artifacts-dir": "/else/where"})
    assert artifact_folder.of(settings, "job", tmp_path, root).path == Path("/else/where")
    settings = config.load(root, environ={}, home=tmp_path, overrides={"artifacts-dir": "x"})
    assert artifact_folder.of(settings, "job", tmp_path, root).path == tmp_path / "x"
    for folder in ("/else/where", "../x", "~", "~root/x", "~/.ssh"):
        pyproject.write_text(f'[tool.remote-ci]\nartifacts-dir = "{folder}"\n')
        with pytest.raises(ConfigError, match="artifacts-dir must be a folder of the project"):
            config.load(root, environ={}, home=tmp_path)
    pyproject.write_text("")
    with pytest.raises(ConfigError, match="artifacts-dir must be a folder"):
        config.load(root, environ={}, home=tmp_path, overrides={"artifacts-dir": "~no-such-user/x"})


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (
            "coverage.xml",
            b"<source>/w</source><source>/w/src</source>",
            b"<source>/h</source><source>/h/src</source>",
        ),
        ("coverage.json", b'{"/w/a.py": "/w2/b", "x": "/w"}', b'{"/h/a.py": "/w2/b", "x": "/h"}'),
        ("lcov.info", b"SF:/w/a.py\nSF:rel.py\n", b"SF:/h/a.py\nSF:rel.py\n"),
        ("x.html", b"&#34;/w/a.py&#34; /w2 /v/w/a.py /w-x", b"&#34;/h/a.py&#34; /w2 /v/w/a.py /w-x"),
        ("x.jsonl", b'"one\\n/w/a.py:3 in /w, x\\n"', b'"one\\n/h/a.py:3 in /h, x\\n"'),
        ("x.txt", b'"/w/a.py"', b'"/w/a.py"'),
        (".coverage", b"no database /w/a.py", b"no database /w/a.py"),
    ],
)
def test_texts_speak_of_files_here(tmp_path: Path, name: str, before: bytes, after: bytes) -> None:
    file = tmp_path / "part"
    file.write_bytes(before)
    relocate(file, name, "/w", "/h")
    assert file.read_bytes() == after


def test_what_replaces_a_file_that_is_written_here_comes_last(root: Path) -> None:
    found = destinations.find(
        ["--html=r.html"],
        Place(root, root / "sub"),
        ["--html"],
        [("--html", "r.html"), ("--json-report-file", "../../x.json")],
    )
    assert found.last == ("sub/r.html", "sub/assets")
    assert set(found.patterns) >= set(found.last)
    assert [path for path in ("sub/r.html", "sub/assets/a.css", "sub/.coverage") if found.is_last(path)] == [
        "sub/r.html",
        "sub/assets/a.css",
    ]


@pytest.mark.parametrize("root", ["", "/", "relative", "/h"])
def test_roots_that_mean_nothing_change_nothing(tmp_path: Path, root: str) -> None:
    file = tmp_path / "part"
    file.write_bytes(b'"/a" "/" "relative/x" "/h/x"')
    relocate(file, "x.json", root, "/h")
    assert file.read_bytes() == b'"/a" "/" "relative/x" "/h/x"'


def test_a_database_that_is_damaged_or_anothers_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "part"
    file.write_bytes(b"SQLite format 3\x00" + b"garbage" * 100)
    relocate(file, ".coverage", "/w", "/h")
    assert file.read_bytes().endswith(b"garbage")
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    content = file.read_bytes()
    relocate(file, ".coverage", "/w", "/h")
    assert file.read_bytes() == content
