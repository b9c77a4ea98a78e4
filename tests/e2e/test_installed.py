"""The wheel in bare environments: each Python of this machine, with each series of pytest, in odd circumstances."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from install_wheel import built_wheel
from support import client_environments
from support.developer import Developer, Done, run
from support.newcomer import Newcomer, install, with_runner
from support.parallel import Ahead, ahead, parameters
from support.runner import Runner

from ci_runner.base_image import pythons

#: The last of each series that is supported.
PYTESTS = ("7.4.4", "8.4.2", "9.2.0")
INSTALLED = {
    found.version: found.prefix / "bin" / f"python{found.version}"
    for found in pythons.installed()
    if int(found.version.partition(".")[2]) >= 10
}
COMBINATIONS = [(version, series) for version in INSTALLED for series in PYTESTS]

TEST = """
import warnings

def test_passes():
    assert True

def test_warns():
    warnings.warn("a warning of the project")
"""


@dataclass(frozen=True)
class Circumstance:
    """What is different from a usual session."""

    #: Arguments of pytest.
    args: tuple[str, ...] = ()
    #: Lines of the project's `pytest.ini`.
    settings: str = ""
    #: Options of Python.
    options: tuple[str, ...] = ()
    #: Variables of the environment; None: without it.
    env: tuple[tuple[str, str | None], ...] = ()
    #: Words instead of ``-m pytest --remote-ci``.
    program: tuple[str, ...] = ("-m", "pytest", "--remote-ci")
    #: Folder (`home` or `project`) → its mode; None: it is missing.
    modes: tuple[tuple[str, int | None], ...] = ()
    #: Whether the project's warning is an error where its test runs.
    is_strict: bool = True
    is_silent: bool = False
    #: Whether the user id has an account.
    has_account: bool = True


_ERRORS = "filterwarnings = error\n"
CIRCUMSTANCES = {
    "warnings are errors for the project": Circumstance(settings=_ERRORS),
    "warnings are errors for this session": Circumstance(args=("-W", "error")),
    "warnings are errors for Python": Circumstance(
        options=("-W", "error"), env=(("PYTHONWARNINGS", "error"),)
    ),
    "strict": Circumstance(args=("--strict-config", "--strict-markers"), settings=_ERRORS),
    "no cache": Circumstance(args=("-p", "no:cacheprovider"), settings=_ERRORS),
    "no terminal": Circumstance(args=("-p", "no:terminal"), settings=_ERRORS, is_silent=True),
    "no byte code": Circumstance(settings=_ERRORS, env=(("PYTHONDONTWRITEBYTECODE", "1"),)),
    # Where warnings are errors pytest itself does not start with assertions switched off.
    "optimized": Circumstance(env=(("PYTHONOPTIMIZE", "2"),), is_strict=False),
    "isolated": Circumstance(settings=_ERRORS, options=("-I",)),
    "our own command": Circumstance(settings=_ERRORS, program=("-m", "pytest_remote_ci.cli.main", "pytest")),
    "our own command, optimized": Circumstance(
        options=("-OO",), program=("-m", "pytest_remote_ci.cli.main", "pytest"), is_strict=False
    ),
    "for scripts": Circumstance(
        settings=_ERRORS,
        options=("-W", "error"),
        program=("-m", "pytest_remote_ci.cli.main", "submit", "--"),
    ),
    "an unreadable home": Circumstance(settings=_ERRORS, modes=(("home", 0),)),
    "a read-only home": Circumstance(settings=_ERRORS, modes=(("home", 0o500),)),
    "a missing home": Circumstance(settings=_ERRORS, modes=(("home", None),)),
    "a read-only project": Circumstance(settings=_ERRORS, modes=(("project", 0o500),)),
    "an unknown home": Circumstance(settings=_ERRORS, env=(("HOME", None),), has_account=os.geteuid() != 0),
}


def _cases() -> Iterator[tuple[str, str, str]]:
    """Every Python with every pytest once, and every circumstance with two Pythons and two pytests."""
    names = list(CIRCUMSTANCES)
    for number, (version, series) in enumerate(COMBINATIONS):
        yield version, series, names[number % 2]
    for number, name in enumerate(names[2:]):
        for place in (number * 5, number * 5 + len(PYTESTS) + 1):
            yield *COMBINATIONS[place % len(COMBINATIONS)], name


def as_user(*, has_account: bool) -> list[str]:
    """Words that start a program for which the modes of files count, also when root runs this.

    Without an account it is the other way round: they do not count, for the files are another user's.
    """
    if os.geteuid():
        return []
    setpriv = shutil.which("setpriv")
    assert setpriv, "setpriv is missing (it is part of util-linux)"
    if has_account:
        return [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
    return [
        setpriv,
        "--reuid=54321",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    ]


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, runner: Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ahead[Done]]:
    """Sessions by Python, pytest and circumstance."""
    folders = tmp_path_factory.mktemp("installed")

    def session(version: str, series: str, name: str) -> Done:
        case = CIRCUMSTANCES[name]
        folder = folders / f"{version}-{series}-{name.replace(' ', '-')}"
        places = {place: folder / place for place in ("home", "project")}
        for path in places.values():
            path.mkdir(parents=True)
        (places["project"] / "pytest.ini").write_text(f"[pytest]\n{case.settings}")
        (places["project"] / "test_it.py").write_text(TEST)
        # The engine without containers has the runner's own Python only.
        (places["project"] / "pyproject.toml").write_text(
            f'[tool.remote-ci]\npython = "{client_environments.TAG}"\n'
        )
        python = client_environments.client(series, python=str(INSTALLED[version]), tag=version)
        developer = Developer(runner, places["home"], runner.key)
        env: dict[str, str | None] = {
            **developer.environ(),
            "PYTHONDONTWRITEBYTECODE": None,
            **dict(case.env),
        }
        command = [
            *as_user(has_account=case.has_account),
            str(python),
            *case.options,
            *case.program,
            *case.args,
        ]
        with contextlib.ExitStack() as changed:
            for place, mode in case.modes:
                if mode is None:
                    places[place].rmdir()
                else:
                    places[place].chmod(mode)
                    changed.callback(places[place].chmod, 0o700)
            given = {variable: value for variable, value in env.items() if value is not None}
            return run(command, cwd=places["project"], env=given)

    with ahead(session, parameters(request, "version", "series", "name")) as found:
        yield found


@pytest.mark.sampled(10)
@pytest.mark.parametrize("runner", ["process"], indirect=True)
@pytest.mark.parametrize(("version", "series", "name"), list(_cases()))
def test_it_works_as_users_install_it(results: Ahead[Done], version: str, series: str, name: str) -> None:
    case, done = CIRCUMSTANCES[name], results(version, series, name)
    assert done.code == int(case.is_strict), done.text
    words = "1 failed, 1 passed" if case.is_strict else "2 passed"
    assert (words in done.out) is not case.is_silent, done.text
    assert "Traceback" not in done.err, done.err
    assert "Warning" not in done.err, done.err


@pytest.mark.sampled(2)
@pytest.mark.parametrize("version", INSTALLED)
def test_the_first_run_of_a_stranger_needs_nothing_but_the_wheel(version: str, tmp_path: Path) -> None:
    """The environment is not activated, and so this Python may not be on PATH."""
    home, project = tmp_path / "home", tmp_path / "project"
    for folder in (home, project):
        folder.mkdir()
    (project / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\naddopts = --strict-config\n")
    (project / "test_it.py").write_text(
        TEST + f"\ndef test_python(): assert '{version}.' in __import__('sys').version\n"
    )
    newcomer = Newcomer(home)
    wheel = with_runner(built_wheel())
    newcomer.python = install(tmp_path / "venv", wheel, base=str(INSTALLED[version]))
    try:
        done = newcomer.pytest("-W", "error", cwd=project, PYTHONWARNINGS="error")
        assert done.code == 1, done.text
        assert "1 failed, 2 passed" in done.out
        assert "Warning" not in newcomer.log()
        assert "Traceback" not in done.err + newcomer.log()
    finally:
        newcomer.close()
