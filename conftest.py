"""What all tests share.

Tests that need Docker are skipped without an engine, and failed where CI is set. `--docker` fails them anywhere,
`--no-docker` skips them where there is an engine, too. `--sample-cases` runs a part of the large matrices.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from support import docker, needs, sampling

import pytest_remote_ci
from ci_runner.storage.safe_fs import Trash

pytest_plugins = ["pytester"]

# A shell starts what runs in its background with Ctrl-C ignored, and programs that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this project's own tests."""
    group = parser.getgroup("tests of pytest-remote-ci")
    group.addoption(
        "--docker",
        action="store_true",
        default=None,
        help="fail tests that need Docker where there is no engine (the default where CI is set)",
    )
    group.addoption(
        "--no-docker",
        dest="docker",
        action="store_false",
        help="skip tests that need Docker",
    )
    group.addoption(
        "--sample-cases",
        action="store_true",
        help="run only some cases of tests marked `sampled`, other ones each day (scripts/test does)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Programs that tests start use the installed wheel: it is that of the sources as they are."""
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        # Its coverage is measured, but not that of the thousands of programs that tests start: that would take a
        # third of the suite's time.
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
        return
    if config.option.basetemp is None:
        config.option.basetemp = own_base_folder()
    if "MUTANT_UNDER_TEST" in os.environ:  # scripts/mutate: mutated sources are never installed
        return
    import install_wheel

    if install_wheel.install() and Path(sys.prefix) in Path(pytest_remote_ci.__file__).parents:
        pytest.exit("the wheel of the changed sources is installed now; run the tests again", returncode=4)


def own_base_folder() -> str:
    """A new base folder for what this session writes; those of sessions that have ended are removed first.

    Tests make folders 3,000 deep and of other users. pytest removes its own base folders with functions that recurse:
    a session that was broken off would end later ones of every project of this user with RecursionError.
    The path is short, for sockets are made below it. The last session's folder stays, for whoever looks into it.
    """
    bases = Path(tempfile.gettempdir()) / f"rci-tests-{os.geteuid()}"
    bases.mkdir(mode=0o700, exist_ok=True)
    if bases.is_symlink() or bases.stat().st_uid != os.geteuid():
        pytest.exit(f"{bases} belongs to somebody else; set TMPDIR to a folder of your own", returncode=4)
    trash = Trash(bases / "trash")
    for base in bases.iterdir():
        if base.name.isdigit() and not Path("/proc", base.name).exists():
            with contextlib.suppress(OSError):  # something is still mounted in it
                trash.remove(base)
    with contextlib.suppress(OSError):
        trash.empty()
    return str(bases / str(os.getpid()))


def require_docker(config: pytest.Config) -> None:
    """Skip or fail the test unless it may use Docker and can."""
    wanted: bool | None = config.getoption("docker")
    if wanted is False:
        pytest.skip("--no-docker is given")
    problem = docker.problem()
    if problem is None:
        return
    if wanted:
        pytest.fail(f"--docker is given: {problem}", pytrace=False)
    needs.skip(problem)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which cases are run, so that a run can be repeated."""
    if not config.getoption("sample_cases"):
        return None
    return f"cases: a sample of each matrix, chosen by the commit's day ({sampling.day()}); without --sample-cases, all"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a sampled run does not take."""
    if config.getoption("sample_cases"):
        items[:], left_out = sampling.split(items, sampling.day())
        config.hook.pytest_deselected(items=left_out)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a failed test at once where CI is set: a run that is cut off never comes to its summary."""
    if not report.failed or not os.environ.get("CI") or "PYTEST_XDIST_WORKER" in os.environ:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    message = str(crash.message if crash is not None else report.longrepr)[:500]
    print(
        f"\nfailed: {report.nodeid} ({report.when}, {report.duration:.0f} s): {message}", file=sys.__stderr__
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hold the rule for the marker `docker`."""
    if item.get_closest_marker("docker") is not None:
        require_docker(item.config)


@pytest.fixture(scope="session")
def docker_engine(pytestconfig: pytest.Config) -> str:
    """The name of a base image on an engine that answers; skips or fails as the marker `docker` does."""
    require_docker(pytestconfig)
    return docker.TEST_IMAGE


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tests see no runner, key or settings of whoever runs them."""
    for name in list(os.environ):
        keep = name in ("CI_RUNNER_CA_BUNDLE", "CI_RUNNER_INDEX_URL", "CI_RUNNER_TEST_IMAGE")
        if name.startswith(("CI_RUNNER_", "REMOTE_CI_", "CI_SERVER_", "CI_API_", "CI_DB_")) and not keep:
            monkeypatch.delenv(name)
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
