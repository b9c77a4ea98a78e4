"""Which files a run may leave in the project, by its arguments and coverage's settings."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pytest_remote_ci import config, reports
from pytest_remote_ci.arguments import Place
from pytest_remote_ci.coverage_files import relocate

INI = "[coverage:run]\ndata_file = d/cov\n[coverage:xml]\noutput = x.xml\n[coverage:html]\ndirectory = site\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    return folder


def named(argv: list[str], root: Path, cwd: Path | None = None, here: tuple[str, ...] = ()) -> set[str]:
    """Patterns beside coverage's usual ones."""
    found = reports.find(argv, Place(root, cwd or root), here).patterns
    return set(found) - set(reports.COVERAGE)


def test_coverage_is_always_expected(root: Path) -> None:
    assert reports.find([], Place(root, root)).patterns == reports.COVERAGE


def test_coverage_is_expected_where_pytest_is_started(root: Path) -> None:
    found = reports.find([], Place(root, root / "sub")).patterns
    assert found == tuple(f"sub/{name}" for name in reports.COVERAGE)


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
    assert found - {f"sub/{name}" for name in reports.COVERAGE} == {"sub/a.xml", "b.html", "assets"}


def test_what_is_written_here_is_not_brought_here(root: Path) -> None:
    assert named(["--junitxml=a.xml", "--alluredir=b"], root, here=("--junitxml",)) == {"b"}


def test_folders_outside_stay_there_and_are_named(root: Path) -> None:
    argv = ["--junitxml=../a.xml", "--html=b.html", "--report-log", "/tmp/x", "--alluredir=../allure"]
    place = Place(root, root)
    assert reports.staying([], argv, place) == {"--alluredir"}
    assert reports.staying(argv, [], place) == {"--junitxml", "--report-log", "--alluredir"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".coveragerc", "[run]\ndata_file = d/cov\n[xml]\noutput = x.xml\n[html]\ndirectory = site\n"),
        ("setup.cfg", INI),
        ("tox.ini", INI),
        ("pyproject.toml", "[tool.coverage]\nrun.data_file = 'd/cov'\nxml.output='x.xml'\nhtml.directory='site'\n"),
    ],
)  # fmt: skip
def test_coverages_settings_name_files(root: Path, file: str, text: str) -> None:
    (root / file).write_text(text)
    assert named([], root) == {"d/cov", "d/cov.*", "x.xml", "site"}


@pytest.mark.parametrize("file", [".coveragerc", "setup.cfg", "pyproject.toml"])
@pytest.mark.parametrize("text", ["[[[", "= x", "[tool]\ncoverage = 3\n", "\0"])
def test_settings_that_cannot_be_read_are_somebody_elses_business(root: Path, file: str, text: str) -> None:
    (root / file).write_text(text)
    assert named([], root) == set()


@pytest.mark.parametrize(
    ("path", "goes_home"),
    [
        (".coverage", True), ("coverage.xml", True), ("htmlcov/a/b.html", True), ("htmlcov/x.py", True),
        ("new.py", True), ("other.xml", False), ("sub", False),
    ],
)  # fmt: skip
def test_reports_have_a_place_of_their_own(root: Path, path: str, goes_home: bool) -> None:
    found = reports.Reports(root, (*reports.COVERAGE, "new.py", "sub"))
    assert (found.home(path) is not None) == goes_home


@pytest.mark.parametrize(
    ("path", "goes_home"),
    [
        (".coverage", True), ("coverage.xml", True), ("htmlcov/style.css", True), ("htmlcov/x.py", False),
        ("new.py", False),
    ],
)  # fmt: skip
def test_what_is_there_gives_way_to_reports_only(root: Path, path: str, goes_home: bool) -> None:
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text("there")
    found = reports.Reports(root, (*reports.COVERAGE, "new.py"))
    assert (found.home(path) is not None) == goes_home


def test_a_project_may_name_a_folder_of_its_own_only(root: Path, tmp_path: Path) -> None:
    pyproject = root / "pyproject.toml"
    pyproject.write_text('[tool.remote-ci]\nartifacts-dir = "out"\n')
    settings = config.load(root, environ={}, home=tmp_path)
    assert reports.folder_of(settings, "job", tmp_path, root) == root / "out"
    settings = config.load(root, environ={}, home=tmp_path, overrides={"artifacts-dir": "/else/where"})
    assert reports.folder_of(settings, "job", tmp_path, root) == Path("/else/where")
    settings = config.load(root, environ={}, home=tmp_path, overrides={"artifacts-dir": "x"})
    assert reports.folder_of(settings, "job", tmp_path, root) == tmp_path / "x"
    for folder in ("/else/where", "../x"):
        pyproject.write_text(f'[tool.remote-ci]\nartifacts-dir = "{folder}"\n')
        with pytest.raises(config.ConfigError, match="artifacts-dir must be a folder of the project"):
            config.load(root, environ={}, home=tmp_path)


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
    found = reports.find(
        ["--html=r.html"], Place(root, root / "sub"), ["--html"], ["r.html", "assets", "../../x"]
    )
    assert found.last == ("sub/r.html", "sub/assets")
    assert set(found.patterns) >= set(found.last)
    assert [path for path in ("sub/r.html", "sub/assets/a.css", "sub/.coverage") if found.is_last(path)] == [
        "sub/r.html", "sub/assets/a.css",
    ]  # fmt: skip


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
