"""Which arguments of pytest stay here, and how the others travel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.session import arguments
from pytest_remote_ci.session.argv import Word, words


@pytest.fixture
def place(tmp_path: Path) -> arguments.Place:
    root = tmp_path / "project"
    (root / "tests" / "unit").mkdir(parents=True)
    (root / "tests" / "test_a.py").write_text("")
    (root / "tests" / "unit" / "test_b.py").write_text("")
    (tmp_path / "elsewhere.py").write_text("")
    return arguments.Place(root, root / "tests")


def arity(option: str) -> bool | None:
    return True if option == "--tb" else None


@pytest.mark.parametrize(
    ("given", "forwarded"),
    [
        pytest.param([], [], id="nothing stays nothing"),
        pytest.param(["--remote-ci", "-x", "-q"], ["-x", "-q"], id="own flags stay here"),
        pytest.param(
            ["--remote-ci-url", "http://h", "-x"], ["-x"], id="own options stay with their separate values"
        ),
        pytest.param(
            ["--remote-ci-url=http://h", "-x"], ["-x"], id="own options stay with their attached values"
        ),
        pytest.param(["--remote-ci-env", "A", "--remote-ci-env=B"], [], id="repeated own options stay"),
        pytest.param(["--color", "yes", "--basetemp=/t", "-v"], ["-v"], id="options for this machine stay"),
        pytest.param(
            ["-k", "a and b", "-m", "slow"], ["-k", "a and b", "-m", "slow"], id="expressions are verbatim"
        ),
        pytest.param(
            ["-k", "/ROOT/tests"], ["-k", "/ROOT/tests"], id="an expression that looks like a path is none"
        ),
        pytest.param(["-xvk", "/ROOT/tests"], ["-xvk", "/ROOT/tests"], id="also at the end of a cluster"),
        pytest.param(["-p", "teamcity", "-p", "x"], ["-p", "x"], id="plugins of editors stay"),
        pytest.param(["-pteamcity", "-pno:randomly"], ["-pno:randomly"], id="also when attached"),
        pytest.param(["test_a.py::T::test[a/b]"], ["test_a.py::T::test[a/b]"], id="node ids travel verbatim"),
        pytest.param(
            ["/ROOT/tests/test_a.py::t"], ["test_a.py::t"], id="absolute node ids become relative to the run"
        ),
        pytest.param(["/ROOT"], [".."], id="the project itself"),
        pytest.param(["../tests/unit"], ["unit"], id="a detour inside the project"),
        pytest.param(
            ["missing.py", "/missing/x.py"], ["missing.py", "/missing/x.py"], id="what is missing passes"
        ),
        pytest.param(["--ignore=/ROOT/tests/unit"], ["--ignore=unit"], id="values of options are rewritten"),
        pytest.param(["--ignore", "/ROOT/tests/unit"], ["--ignore", "unit"], id="separate values, too"),
        pytest.param(
            ["--unknown", "/ROOT/tests"], ["--unknown", "."], id="values of options that nobody here knows"
        ),
        pytest.param(["--base-url=/api", "--x", "/y"], ["--base-url=/api", "--x", "/y"], id="other values"),
        pytest.param(
            ["-o", "cache_dir=/ROOT/c"], ["-o", "cache_dir=../c"], id="settings on the command line"
        ),
        pytest.param(["-o", "a=b=/ROOT/c"], ["-o", "a=b=/ROOT/c"], id="a value that only ends like a path"),
        pytest.param(["--ignore=/ROOT/tests/a=b"], ["--ignore=a=b"], id="a path with an equals sign"),
        pytest.param(
            ["--deselect=/ROOT/tests/test_a.py::T::t"], ["--deselect=test_a.py::T::t"], id="a node id given"
        ),
        pytest.param(
            ["--deselect=/ROOT/tests/test_a.py::t[a//b]"],
            ["--deselect=test_a.py::t[a//b]"],
            id="its name is no path",
        ),
        pytest.param(["/ROOT/tests/none.py"], ["none.py"], id="what is missing in the project"),
        pytest.param(["unit/none.py::t[a/b]"], ["unit/none.py::t[a/b]"], id="what is missing in a folder"),
        pytest.param(["-", "--remote-ci", "-x"], ["-", "-x"], id="a dash alone"),
        pytest.param(["-x", "--remote-ci-env"], ["-x"], id="an own option without its value"),
        pytest.param(["-x", "-k"], ["-x", "-k"], id="an option without its value"),
        pytest.param(["-c", "/ROOT/tests/p.ini"], ["-c", "p.ini"], id="the configuration file"),
        pytest.param(["-c/ROOT/tests/p.ini"], ["-cp.ini"], id="the configuration file, attached"),
        pytest.param(["--rootdir=/ROOT"], ["--rootdir=.."], id="the root directory"),
        pytest.param(["@/ROOT/tests/args"], ["@args"], id="a file of arguments"),
        pytest.param(
            ["--", "--remote-ci", "test_a.py"], ["--", "--remote-ci", "test_a.py"], id="after two dashes"
        ),
        pytest.param(["--maxfail", "2", "-n", "4"], ["--maxfail", "2", "-n", "4"], id="numbers travel"),
    ],
)
def test_arguments_are_forwarded(place: arguments.Place, given: list[str], forwarded: list[str]) -> None:
    root = str(place.root)
    result = arguments.forward([text.replace("/ROOT", root) for text in given], place, arity)
    assert result == [text.replace("/ROOT", root) for text in forwarded]


@pytest.mark.parametrize(
    "given",
    [
        ["../../elsewhere.py"],
        ["/ABOVE/elsewhere.py::t"],
        ["-c", "/ABOVE/p.ini"],
        ["--rootdir=/ABOVE"],
        ["@/ABOVE/args"],
    ],
    ids=["relative", "absolute", "configuration", "root directory", "file of arguments"],
)
def test_a_path_outside_the_project_is_refused_by_name(place: arguments.Place, given: list[str]) -> None:
    given = [text.replace("/ABOVE", str(place.root.parent)) for text in given]
    named = " ".join(given).replace("--rootdir=", "--rootdir ")
    with pytest.raises(
        WorkspaceError, match=f"^{re.escape(named)} is outside the project {place.root}: only files"
    ):
        arguments.forward(given, place, arity)


def test_a_run_started_outside_the_project_happens_in_its_root(place: arguments.Place) -> None:
    outside = arguments.Place(place.root, place.root.parent)
    assert outside.subdirectory == ""
    assert arguments.forward(["project/tests/test_a.py::t", "-x"], outside, arity) == [
        "tests/test_a.py::t",
        "-x",
    ]


def test_what_is_missing_is_left_to_the_run_wherever_it_was_started(place: arguments.Place) -> None:
    outside = arguments.Place(place.root, place.root.parent)
    assert arguments.forward(["missing.py::t"], outside, arity) == ["missing.py::t"]


def test_two_dashes_are_no_path_even_where_a_file_is_named_so(place: arguments.Place) -> None:
    outside = arguments.Place(place.root, place.root.parent)
    (outside.cwd / "--").touch()
    assert arguments.forward(["-x", "--", "missing.py"], outside, arity) == ["-x", "--", "missing.py"]


def test_a_dash_alone_is_no_option() -> None:
    assert list(words(["-", "-x"], arity)) == [Word("-"), Word("-x", "-x")]


def test_a_place_is_in_the_project_or_around_it(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for cwd in (root, root / "sub", tmp_path):
        cwd.mkdir(parents=True, exist_ok=True)
        assert arguments.find_place(root, cwd, home=tmp_path / "home") == arguments.Place(root, cwd)
    (tmp_path / "other").mkdir()
    with pytest.raises(
        WorkspaceError, match=f"^{root} is outside the project in {tmp_path / 'other'}: start pytest in"
    ):
        arguments.find_place(root, tmp_path / "other", home=tmp_path / "home")


def test_the_home_folder_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WorkspaceError, match=f"^{tmp_path} is not a project"):
        arguments.find_place(tmp_path, tmp_path)


def test_folders_that_hold_everything_are_no_projects(tmp_path: Path) -> None:
    for folder in (Path("/"), tmp_path):
        with pytest.raises(WorkspaceError, match="is not a project"):
            arguments.find_place(folder, tmp_path, home=tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    assert arguments.find_place(tmp_path, tmp_path, home=tmp_path).root == tmp_path


def test_a_linked_path_to_the_project_is_inside_of_it(place: arguments.Place, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(place.root)
    assert arguments.forward([f"{link}/tests/unit"], place, arity) == ["unit"]
    assert arguments.Place(place.root, link / "tests").subdirectory == "tests"
    assert arguments.Place(place.root, link / "tests" / "unit").subdirectory == "tests/unit"
    above = arguments.Place(place.root, place.root)
    assert arguments.forward([f"{link}/tests/unit/test_b.py::t"], above, arity) == ["tests/unit/test_b.py::t"]


@pytest.mark.parametrize(
    ("argv", "remote"),
    [
        (["--remote-ci"], True),
        (["-x", "--remote-ci-attach=1"], True),
        (["--remote-ci-attach", "1"], True),
        (["--remote-ci-async"], True),
        (["--remote-ci-dry-run"], True),
        (["--remote-ci-url=http://x"], False),
        (["--", "--remote-ci"], False),
        (["--remote-ci", "--version"], False),
        (["--remote-ci", "--cache-show"], False),
        (["--remote-ci", "--fixtures"], True),
        (["--remote-ci", "--help"], False),
        (["--remote-ci-attach=1", "--markers"], False),
        (["--remote-ci", "--remote-ci-pipeline=ci", "--help"], False),
        (["--remote-ci-pipeline", "--help"], False),
    ],
)
def test_the_session_is_handed_over_only_when_asked(argv: list[str], remote: bool) -> None:
    assert arguments.wants_remote(argv) is remote


@pytest.mark.parametrize(
    ("typed", "remote"),
    [([], True), (["--markers"], True), (["--help"], False), (["-h", "--remote-ci"], False)],
)
def test_a_setting_hands_all_over_but_the_question_for_help(typed: list[str], remote: bool) -> None:
    assert arguments.wants_remote(typed, ["--remote-ci"]) is remote


def test_own_options_can_be_taken_out() -> None:
    given = ["-ra", "--remote-ci", "--remote-ci-python", "3.12", "--remote-ci-name=x", "--cov"]
    assert arguments.without_own(given) == ["-ra", "--cov"]
    assert arguments.without_own(["-ra", "--remote-ci-name"]) == ["-ra"], "its value is missing"
    assert arguments.without_own(["-k", "--remote-ci a"]) == ["-k", "--remote-ci a"], "another option's value"
    assert arguments.without_own(["--", "--remote-ci"]) == ["--", "--remote-ci"], "the name of a file"


@pytest.mark.parametrize(
    ("argv", "is_question"),
    [
        (["-k", "--markers or a"], False),
        (["-nmarkers"], False),
        (["--markers"], True),
        (["--fixtures", "-v"], True),
        (["--fixtures-per-test"], True),
        (["-x", "test_a.py"], False),
        ([], False),
        (["--", "--markers"], False),
    ],
)
def test_questions_about_the_project_are_known(argv: list[str], is_question: bool) -> None:
    assert arguments.is_question(argv) is is_question


@pytest.mark.parametrize(
    "option",
    ["--lf", "--last-failed", "--ff", "--failed-first", "--nf", "--new-first", "--sw", "--stepwise-skip"],
)
def test_a_replay_refuses_options_that_choose_tests_of_the_next_run(option: str) -> None:
    words = (
        f"{option} selects tests for a new run; filter a replay with -k, -m, --deselect, paths or node ids"
    )
    with pytest.raises(WorkspaceError, match=f"^{re.escape(words)}$"):
        arguments.refuse_next_run(["-x", option])
    arguments.refuse_next_run(["-x", "-k", "a", "--", option])


@pytest.mark.parametrize("option", ["--pdb", "--trace"])
def test_options_that_need_a_terminal_are_refused(option: str) -> None:
    words = (
        f"{option} cannot be used with --remote-ci: the job has no terminal. Run the failing "
        "test without --remote-ci (PYTHONBREAKPOINT=0 disables breakpoint())"
    )
    with pytest.raises(WorkspaceError, match=f"^{re.escape(words)}$"):
        arguments.refuse_interactive(["--remote-ci", option])


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        pytest.param(
            ["--junitxml=a.xml", "-q", "--html", "b.html"], ["--html", "--junitxml"], id="both spellings"
        ),
        pytest.param(["-q", "--tb=no"], [], id="none"),
        pytest.param(["--", "--junitxml"], [], id="after -- there are no options"),
    ],
)
def test_options_that_write_files_on_the_runner_are_known(argv: list[str], expected: list[str]) -> None:
    assert arguments.file_writing_options(argv) == expected


def test_options_of_reporters_stay_where_the_session_is_replayed(place: arguments.Place) -> None:
    here = arguments.find_local_reporters({"--junitxml", "--report-log", "--log-file", "-x"}.__contains__)
    assert here == {"--junitxml", "--report-log"}
    given = ["--junitxml=a.xml", "--report-log", "b.json", "--html=c.html", "--log-file=d.log", "-x"]

    def takes_value(option: str) -> bool | None:
        return True if option == "--report-log" else arity(option)

    forwarded = arguments.forward(given, place, takes_value, local_reporters=here)
    assert forwarded == ["--html=c.html", "--log-file=d.log", "-x"]
    assert arguments.file_writing_options(given, here) == ["--html", "--log-file"]


def test_the_value_of_an_option_that_only_pytest_knows_is_no_path_to_run(place: arguments.Place) -> None:
    outside = str(place.root.parent / "elsewhere.py")
    with pytest.raises(WorkspaceError):
        arguments.forward(["--mine", outside], place, lambda option: None)
    given = ["--mine", outside, "-x"]
    assert arguments.forward(given, place, lambda option: option == "--mine") == given


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["-x", "--remote-ci-name=a", "--remote-ci-env", "B"], ["--remote-ci-env", "--remote-ci-name"]),
        (["--remote-ci", "--remote-ci-name=a"], []),
        (["--remote-ci-dry-run", "--remote-ci-name=a"], []),
        (["--version", "--remote-ci-name=a"], []),
        (["--markers", "--remote-ci-name=a"], []),
        (
            ["--remote-ci-attach=1", "--remote-ci-name=a", "--remote-ci-url=x", "--remote-ci-retries=1"],
            ["--remote-ci-name", "--remote-ci-retries"],
        ),
        (["--remote-ci-replay", "1", "-x"], []),
        (["-x"], []),
    ],
)
def test_options_without_effect_are_named(typed: list[str], expected: list[str]) -> None:
    assert arguments.without_effect(typed) == expected
