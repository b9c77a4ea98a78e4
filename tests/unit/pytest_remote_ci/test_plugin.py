"""``pytest --remote-ci`` as a process, against a runner on a real socket, whose jobs are not recorded."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_runner import KEY, FakeRunner, complete, fake_runner, log

from pytest_remote_ci import plugin
from pytest_remote_ci.replay.pytest_internals import switch_off

needs_argument_files = pytest.mark.skipif(
    pytest.version_tuple < (8, 2), reason="this pytest does not read arguments from @FILE"
)


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    with fake_runner() as runner:
        yield runner


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "tests" / "unit").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (root / "tests" / "test_a.py").write_text("import library_that_is_missing_here\n")
    (root / "conftest.py").write_text("raise SystemExit('the conftest was imported')\n")
    return root


def environment(runner: FakeRunner | None, **more: str) -> dict[str, str]:
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "COV_CORE_", "PYTHON")) and name not in ("BUILD_NUMBER", "CI")
    }
    if runner is not None:
        environ |= {"REMOTE_CI_URL": runner.url, "REMOTE_CI_API_KEY": KEY}
    return {**environ, **more}


def run_pytest(
    runner: FakeRunner | None, folder: Path, *args: str, module: bool = False, **environ: str
) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "pytest"] if module else [str(Path(sys.executable).with_name("pytest"))]
    return subprocess.run(
        [*start, *args],
        cwd=folder,
        env=environment(runner, **environ),
        capture_output=True,
        text=True,
        timeout=60,
    )


def options_of(runner: FakeRunner) -> dict[str, Any]:
    (job,) = runner.jobs.values()
    assert job.options is not None
    return job.options


def test_the_plugin_imports_nothing_that_pytest_has_not_imported() -> None:
    code = "import sys, pytest; old = set(sys.modules); import pytest_remote_ci.plugin; print(set(sys.modules) - old)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert eval(answer.stdout) == {
        "pytest_remote_ci",
        "pytest_remote_ci.options",
        "pytest_remote_ci.plugin",
    }


def test_a_session_that_stays_here_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "import sys\n"
        "def test_a():\n"
        "    heavy = ['requests', 'urllib3', 'sseclient', 'tomli_w', 'http.client', 'ssl', 'ci_runner']\n"
        "    assert [name for name in heavy if name in sys.modules] == []\n"
        "    ours = {name for name in sys.modules if name.startswith('pytest_remote_ci')}\n"
        "    own = {f'pytest_remote_ci.{name}' for name in ('plugin', 'options', 'hookspecs')}\n"
        "    assert ours == {'pytest_remote_ci', *own}\n"
    )
    # Plugins of the test environment may load what they like.
    args = ["-p", "pytest_remote_ci.plugin", "-p", "no:cacheprovider", "-q"]
    answer = run_pytest(None, tmp_path, *args, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert answer.returncode == 0, answer.stdout


def test_the_output_and_the_exit_code_are_the_remote_pytests(runner: FakeRunner, project: Path) -> None:
    runner.script = [
        log("collected 2 items\n"),
        log("1 failed, 1 passed ä\n"),
        log("warned\n", "stderr"),
        complete(1),
    ]
    answer = run_pytest(runner, project, "--remote-ci")
    assert answer.stdout == "collected 2 items\n1 failed, 1 passed ä\n"
    assert "warned\n" in answer.stderr
    assert answer.returncode == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("code", [0, 2, 3, 4, 5])
def test_every_exit_code_of_pytest_comes_back(runner: FakeRunner, project: Path, code: int) -> None:
    runner.script = [complete(code)]
    assert run_pytest(runner, project, "--remote-ci").returncode == code


def test_the_whole_project_travels_and_the_run_happens_in_the_subdirectory(
    runner: FakeRunner, project: Path
) -> None:
    args = ["--remote-ci", "-x", "-k", "a and b", f"{project}/tests/test_a.py::t", "--color=yes", "--runslow"]
    answer = run_pytest(runner, project / "tests", *args, COLUMNS="99")
    assert answer.returncode == 0, answer.stderr
    (job,) = runner.jobs.values()
    assert sorted(zipfile.ZipFile(io.BytesIO(job.archive)).namelist()) == [
        "conftest.py",
        "pyproject.toml",
        "tests/test_a.py",
    ]
    options = options_of(runner)
    assert options["args"] == ["-x", "-k", "a and b", "test_a.py::t", "--runslow"]
    assert options["cwd"] == "tests"
    assert options["root"] == str(project)
    assert options["color"] is True
    assert options["columns"] == 99
    assert options["python"] == f"3.{sys.version_info[1]}"
    assert options["pytest_version"] == pytest.__version__
    assert options["module"] is False


def test_being_started_as_a_module_is_told(runner: FakeRunner, project: Path) -> None:
    assert run_pytest(runner, project, "--remote-ci", module=True).returncode == 0
    assert "module" not in options_of(runner), "true is the default"


def test_options_and_configuration_reach_the_submission(runner: FakeRunner, project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[tool.remote-ci]\nargs = ["-ra"]\nenv = ["A"]\nimage = "from-file"\ntimeout = 60\n'
    )
    args = [
        "--remote-ci-image=mine",
        "--remote-ci-timeout=5",
        "--remote-ci-name",
        "n",
        "--remote-ci-priority=low",
    ]
    args += ["--remote-ci-network=none", "--remote-ci-env=B", "--remote-ci-python=3.12", "--remote-ci"]
    answer = run_pytest(
        runner, project, *args, "tests", PYTEST_ADDOPTS="-q -p no:cacheprovider", A="1", B="2", C="3"
    )
    assert answer.returncode == 0, answer.stderr
    options = options_of(runner)
    assert options["args"] == ["-ra", "-q", "-p", "no:cacheprovider", "tests"]
    expected = {
        "image": "mine",
        "timeout": 5.0,
        "name": "n",
        "priority": "low",
        "network": "none",
        "python": "3.12",
    }
    assert {name: options[name] for name in expected} == expected
    assert options["env"] == {"A": "1", "B": "2"}


def test_what_only_the_container_knows_is_no_mistake_here(runner: FakeRunner, project: Path) -> None:
    """Plugins, settings, warning classes and options that exist only where the dependencies are installed."""
    (project / "pytest.ini").write_text(
        "[pytest]\n"
        "addopts = --cov=x -n 4 --strict-config --strict-markers --remote-ci-name=fixed\n"
        "required_plugins = pytest-that-is-missing>=3\n"
        "filterwarnings = error::missing_library.MissingWarning\n"
        "asyncio_mode_of_a_missing_plugin = auto\n"
        "log_file = /nonexistent/x.log\n"
    )
    answer = run_pytest(runner, project, "--remote-ci", "--remote-ci-text", "--html=x.html", "tests")
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("\n") == 1, "only the job's id"
    assert options_of(runner)["reports"][-2:] == ["x.html", "assets"]
    arguments = options_of(runner)["args"]
    assert arguments == [
        "-o",
        "addopts=--cov=x -n 4 --strict-config --strict-markers",
        "--html=x.html",
        "tests",
    ]
    assert options_of(runner)["name"] == "fixed"


def test_a_configuration_file_given_by_option_travels_as_a_path_of_the_run(
    runner: FakeRunner, project: Path
) -> None:
    (project / "tests" / "other.ini").write_text("[pytest]\n")
    answer = run_pytest(runner, project, "--remote-ci", "-c", str(project / "tests" / "other.ini"))
    assert answer.returncode == 0, answer.stderr
    assert options_of(runner)["args"] == ["-c", "tests/other.ini"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--pdb"], "--pdb cannot be used with --remote-ci"),
        (["--trace"], "--trace cannot be used with --remote-ci"),
        (["--pdbcls=pdb:Pdb"], "--pdbcls cannot be used with --remote-ci"),
        (["/etc/passwd"], "/etc/passwd is outside the project"),
        (["tests/test_a.py", "/etc/passwd"], "/etc/passwd is outside the project"),
        (["--rootdir=/etc"], "/etc is outside the project"),
        (
            ["--remote-ci-timeout=soon"],
            '--remote-ci-timeout must be seconds above 0, or a time such as "10m"',
        ),
        (["--remote-ci-url=nonsense"], "--remote-ci-url must be"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    runner: FakeRunner, project: Path, args: list[str], words: str
) -> None:
    answer = run_pytest(runner, project, "--remote-ci", *args)
    assert answer.returncode == 4
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert runner.jobs == {}


def in_files(folder: Path) -> None:
    """Write an argument file that names another one."""
    (folder / "more.txt").write_text("-k\na and b\n--runslow\n")
    (folder / "ci.txt").write_text("--remote-ci\n@more.txt\ntests/test_a.py\n")


@needs_argument_files
@pytest.mark.parametrize("place", ["typed", "PYTEST_ADDOPTS", "addopts"])
def test_arguments_in_a_file_count_as_typed(runner: FakeRunner, project: Path, place: str) -> None:
    in_files(project)
    typed, environment_words = ["@ci.txt"], ""
    if place == "PYTEST_ADDOPTS":
        typed, environment_words = [], "@ci.txt"
    elif place == "addopts":
        typed = []
        (project / "pytest.ini").write_text("[pytest]\naddopts = @ci.txt\n")
    runner.script = [complete(0)]
    answer = run_pytest(runner, project, *typed, PYTEST_ADDOPTS=environment_words)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    sent = options_of(runner)["args"]
    assert "@ci.txt" not in sent
    assert not [word for word in sent if word.startswith("--remote-ci")]
    if place == "addopts":
        (override,) = [word for word in sent if word.startswith("addopts=")]
        sent = shlex.split(override.removeprefix("addopts="))
    assert sent[-4:] == ["-k", "a and b", "--runslow", "tests/test_a.py"]


@needs_argument_files
def test_an_option_in_a_file_is_refused_as_a_typed_one(runner: FakeRunner, project: Path) -> None:
    (project / "more.txt").write_text("--pdb\n")
    answer = run_pytest(runner, project, "--remote-ci", "@more.txt")
    assert answer.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--pdb cannot be used with --remote-ci" in answer.stderr
    assert not runner.jobs


def test_coverage_that_would_measure_nothing_is_refused(runner: FakeRunner, project: Path) -> None:
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "--remote-ci"]
    done = subprocess.run(
        command, cwd=project, env=environment(runner), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 4
    assert "remote-ci: coverage run measures only this process" in done.stderr
    assert runner.jobs == {}


#: As VS Code's adapter does it.
_ADAPTER = """
import atexit, sys
INCLUDE_BRANCHES = False

def pytest_load_initial_conftests(early_config, parser, args):
    if any("--cov" in arg for arg in args) and not early_config.pluginmanager.hasplugin("pytest_cov"):
        raise RuntimeError("pytest-cov is not installed")
    if "--cov-branch" in args:
        globals()["INCLUDE_BRANCHES"] = True

@atexit.register
def say():
    sys.stderr.write(f"branches: {INCLUDE_BRANCHES}\\n")
"""


def test_allure_is_off_here_because_it_writes_in_the_job() -> None:
    config: Any = SimpleNamespace(
        hook=SimpleNamespace(pytest_warning_recorded=None), option=SimpleNamespace(allure_report_dir="res")
    )
    switch_off(config)
    assert config.option.allure_report_dir is None


@pytest.mark.parametrize("typed", [["--cov"], ["--cov", "--cov-branch"]])
def test_the_adapter_of_an_editor_knows_that_branches_are_measured(
    runner: FakeRunner, project: Path, tmp_path: Path, typed: list[str]
) -> None:
    (tmp_path / "vscode_pytest.py").write_text(_ADAPTER)
    answer = run_pytest(
        runner, project, "--remote-ci", "-p", "vscode_pytest", *typed, PYTHONPATH=str(tmp_path)
    )
    assert answer.returncode == 0, answer.stderr
    assert f"branches: {'--cov-branch' in typed}" in answer.stderr


def test_an_asynchronous_submission_prints_the_id(runner: FakeRunner, project: Path) -> None:
    answer = run_pytest(runner, project, "--remote-ci-async")
    assert answer.stdout == f"Job submitted: {next(iter(runner.jobs))}\n"
    assert answer.returncode == 0
    assert runner.paths("GET") == []


def test_a_job_can_be_attached_to(runner: FakeRunner, project: Path) -> None:
    job = runner.add_job(log("all of it\n"), complete(5))
    answer = run_pytest(runner, project, "--remote-ci-attach", job.id)
    assert (answer.stdout, answer.returncode) == ("all of it\n", 5)
    assert runner.paths("POST") == []
    answer = run_pytest(runner, project, "--remote-ci-attach=unknown")
    assert answer.returncode == 4
    assert "Job not found" in answer.stderr


def test_a_job_can_be_attached_to_from_outside_of_any_project(runner: FakeRunner, tmp_path: Path) -> None:
    job = runner.add_job(log("all of it\n"), complete(0))
    for folder in (tmp_path, Path("/")):
        answer = run_pytest(runner, folder, "--remote-ci-attach", job.id, HOME=str(tmp_path))
        assert (answer.stdout, answer.returncode) == ("all of it\n", 0), answer.stderr
    refused = run_pytest(runner, tmp_path, "--remote-ci", HOME=str(tmp_path))
    assert refused.returncode == 4
    assert "is not a project" in refused.stderr


def test_a_dry_run_lists_the_largest_file_first_and_sends_nothing(runner: FakeRunner, project: Path) -> None:
    (project / "large.bin").write_bytes(b"x" * 5000)
    answer = run_pytest(runner, project, "--remote-ci-dry-run")
    assert answer.returncode == 0
    assert [line.split()[-1] for line in answer.stdout.splitlines()] == [
        "large.bin",
        "conftest.py",
        "tests/test_a.py",
        "pyproject.toml",
        "files",
    ]
    assert runner.requests == []


def test_nobody_there_ends_with_69(project: Path) -> None:
    answer = run_pytest(
        None, project, "--remote-ci", REMOTE_CI_URL="http://127.0.0.1:9", REMOTE_CI_API_KEY="k"
    )
    assert answer.returncode == 69
    assert answer.stderr == "remote-ci: No runner answers at http://127.0.0.1:9: connection refused\n"


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_refused_key_ends_with_77(runner: FakeRunner, project: Path, key: str) -> None:
    answer = run_pytest(runner, project, "--remote-ci", REMOTE_CI_API_KEY=key)
    assert answer.returncode == 77
    assert answer.stderr.startswith("remote-ci: Authentication failed: 401 Unauthorized")


def test_no_verdict_ends_with_70_and_the_reason(runner: FakeRunner, project: Path) -> None:
    runner.script = [log("pip says no\n", "runner"), complete(None, "failed", reason="no such package: nump")]
    answer = run_pytest(runner, project, "--remote-ci")
    assert answer.returncode == 70
    assert "pip says no\n" in answer.stderr
    assert answer.stderr.endswith("remote-ci: the runner could give no verdict: no such package: nump\n")


def test_a_remark_about_the_verdict_is_shown(runner: FakeRunner, project: Path) -> None:
    runner.script = [complete(1, reason="a test took pytest down: SIGKILL")]
    answer = run_pytest(runner, project, "--remote-ci")
    assert answer.returncode == 1
    assert answer.stderr.endswith("remote-ci: a test took pytest down: SIGKILL\n")


def test_a_refused_submission_says_why(runner: FakeRunner, project: Path) -> None:
    runner.intercept = lambda request: (413, {"detail": "the project is larger than 1 MB"}, {})
    answer = run_pytest(runner, project, "--remote-ci")
    assert answer.returncode == 70
    assert answer.stderr == "remote-ci: The runner refused: the project is larger than 1 MB\n"


@pytest.mark.parametrize(
    ("question", "words"), [("--version", f"pytest {pytest.__version__}"), ("--cache-show", "cachedir: ")]
)
def test_questions_about_what_is_here_are_answered_here(
    runner: FakeRunner, tmp_path: Path, question: str, words: str
) -> None:
    answer = run_pytest(runner, tmp_path, "--remote-ci", question)
    assert answer.returncode == 0
    assert words in answer.stdout + answer.stderr
    assert runner.requests == []


def test_a_question_about_the_project_goes_to_the_runner_as_it_was_typed(
    runner: FakeRunner, project: Path
) -> None:
    runner.script = [log("@pytest.mark.theirs\n"), complete(0)]
    answer = run_pytest(runner, project, "--remote-ci", "--markers", "-v")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "@pytest.mark.theirs\n"
    assert options_of(runner)["args"] == ["--markers", "-v"]


@pytest.mark.parametrize("typed", [["--remote-ci", "--help"], ["-vh", "--remote-ci"]])
def test_help_is_answered_here(runner: FakeRunner, project: Path, typed: list[str]) -> None:
    (project / "conftest.py").write_text(
        "def pytest_addoption(parser): parser.addoption('--theirs', help='yes')\n"
    )
    answer = run_pytest(runner, project, *typed)
    assert answer.returncode == 0, answer.stderr
    assert "--remote-ci-attach=JOB" in answer.stdout
    assert "--theirs" in answer.stdout
    assert runner.requests == []


def test_our_modules_are_not_rewritten_in_each_session(runner: FakeRunner, project: Path) -> None:
    (project / "loaders.py").write_text(
        "import atexit, sys\n"
        "def show():\n"
        "    ours = [module for name, module in sys.modules.items() if name.startswith('pytest_remote_ci.client')]\n"
        "    print('loaders', {type(module.__loader__).__name__ for module in ours}, file=sys.stderr)\n"
        "atexit.register(show)\n"
    )
    answer = run_pytest(runner, project, "--remote-ci", "-p", "loaders", PYTHONPATH=str(project))
    assert "loaders {'SourceFileLoader'}" in answer.stderr


def test_help_names_the_options(tmp_path: Path) -> None:
    answer = run_pytest(None, tmp_path, "--help")
    assert "--remote-ci-attach=JOB" in answer.stdout


def test_in_the_container_the_plugin_does_nothing(runner: FakeRunner, tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_a(): pass\n")
    assert plugin.JOB_VARIABLE == "REMOTE_CI_JOB"
    answer = run_pytest(runner, tmp_path, "--remote-ci", REMOTE_CI_JOB="1")
    assert "1 passed" in answer.stdout
    assert runner.requests == []


def test_other_plugins_take_part_through_the_hooks(runner: FakeRunner, project: Path) -> None:
    (project / "secret_notes.txt").write_text("not for others")
    (project / "tests" / "taking_part.py").write_text(
        "def pytest_remote_ci_choose_files(config, root, files):\n"
        "    assert (root / 'pyproject.toml').exists() and config.getoption('remote_ci')\n"
        "    files.remove('secret_notes.txt')\n"
        "def pytest_remote_ci_submission(config, options):\n"
        "    options['env']['FROM_PLUGIN'] = str(options['args'])\n"
        "    options['extra']['taking-part'] = {'x': 1}\n"
        "def pytest_remote_ci_event(config, event):\n"
        "    print('seen', event['type'])\n"
    )
    args = ["-p", "tests.taking_part", "--remote-ci", "-x"]
    answer = run_pytest(runner, project, *args, PYTHONPATH=str(project))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == ["seen log", "2 passed", "seen complete"]
    (job,) = runner.jobs.values()
    assert "secret_notes.txt" not in zipfile.ZipFile(io.BytesIO(job.archive)).namelist()
    assert options_of(runner)["env"] == {"FROM_PLUGIN": "['-p', 'tests.taking_part', '-x']"}
    assert options_of(runner)["extra"] == {"taking-part": {"x": 1}}


def test_a_plugin_that_asks_for_nonsense_is_a_usage_error(runner: FakeRunner, project: Path) -> None:
    (project / "bad.py").write_text(
        "def pytest_remote_ci_submission(options):\n    options['timeout'] = 'x'\n"
    )
    answer = run_pytest(runner, project, "-p", "bad", "--remote-ci", PYTHONPATH=str(project))
    assert answer.returncode == 4
    assert "options.timeout: must be a number above 0" in answer.stderr


def test_a_plugin_that_fails_while_events_arrive_leaves_no_job_behind(
    runner: FakeRunner, project: Path
) -> None:
    (project / "bad.py").write_text("def pytest_remote_ci_event(event):\n    raise ValueError('mine')\n")
    runner.script = [log("x\n")]
    answer = run_pytest(runner, project, "-p", "bad", "--remote-ci", PYTHONPATH=str(project))
    assert answer.returncode != 0
    assert "ValueError: mine" in answer.stderr
    assert next(iter(runner.jobs.values())).cancelled


def test_a_call_of_a_debugger_in_a_chosen_test_file_is_refused_before_anything_is_sent(
    runner: FakeRunner, project: Path
) -> None:
    (project / "tests" / "test_b.py").write_text("def test_b():\n    breakpoint()\n")
    (project / "product.py").write_text("def run():\n    breakpoint()\n")
    refused = run_pytest(runner, project, "--remote-ci")
    assert refused.returncode == 4
    assert refused.stderr == (
        "remote-ci: tests/test_b.py:2 calls a debugger, but the job has no terminal: "
        "run this test without --remote-ci, or set PYTHONBREAKPOINT=0\n"
    )
    assert runner.requests == []
    assert run_pytest(runner, project, "--remote-ci", "tests/test_a.py").returncode == 0
    (first,) = runner.jobs.values()
    assert run_pytest(runner, project, "--remote-ci", PYTHONBREAKPOINT="0").returncode == 0
    (job,) = (job for job in runner.jobs.values() if job is not first)
    assert job.options is not None
    assert job.options["env"] == {"PYTHONBREAKPOINT": "0"}


@pytest.mark.parametrize(
    "typed",
    [
        ["--remote-ci-python", "3.12"],
        ["--remote-ci-url=http://127.0.0.1:9"],
        ["-x", "--remote-ci-name=x", "--remote-ci-env", "A"],
        ["--remote-ci-text"],
    ],
)
def test_our_options_without_remote_ci_are_wrong_usage(tmp_path: Path, typed: list[str]) -> None:
    (tmp_path / "test_a.py").write_text("def test_a(): pass\n")
    answer = run_pytest(None, tmp_path, *typed)
    own = sorted(word.partition("=")[0] for word in typed if word.startswith("--remote-ci"))
    assert answer.returncode == 4
    assert answer.stderr.strip() == f"ERROR: {', '.join(own)}: no effect without --remote-ci; add that, too"
    assert "passed" not in answer.stdout


@pytest.mark.parametrize(
    "typed", [[], ["--version", "--remote-ci-python=3.12"], ["--remote-ci-name=x", "-h"]]
)
def test_our_options_are_harmless_where_they_are_not_typed(tmp_path: Path, typed: list[str]) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --remote-ci-python 3.12 --remote-ci-text\n")
    (tmp_path / "test_a.py").write_text("def test_a(): pass\n")
    answer = run_pytest(None, tmp_path, *typed, PYTEST_ADDOPTS="--remote-ci-url=http://127.0.0.1:9")
    assert answer.returncode == 0, answer.stderr
    assert run_pytest(None, tmp_path, "--remote-ci-name=x", REMOTE_CI_JOB="1").returncode == 0


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--remote-ci-timeot=10m"], "--remote-ci-timeot; did you mean --remote-ci-timeout?"),
        (["--remote-ci-pyton", "3.12"], "--remote-ci-pyton; did you mean --remote-ci-python?"),
        (["--remote-ci-zzz"], "--remote-ci-zzz; `pytest --help` lists the options"),
    ],
)
def test_a_mistyped_option_of_ours_is_wrong_usage(
    runner: FakeRunner, project: Path, typed: list[str], words: str
) -> None:
    answer = run_pytest(runner, project, "--remote-ci", *typed)
    assert answer.returncode == 4
    assert answer.stderr.strip() == f"ERROR: unknown option {words}"
    assert runner.requests == []


@pytest.mark.parametrize("earlier", ["--remote-ci-attach", "--remote-ci-replay"])
def test_options_for_a_new_job_are_refused_for_an_earlier_one(
    runner: FakeRunner, project: Path, earlier: str
) -> None:
    job = runner.add_job(log("all of it\n"), complete(0))
    answer = run_pytest(
        runner, project, f"{earlier}={job.id}", "--remote-ci-python=3.12", "--remote-ci-env=A"
    )
    assert (answer.returncode, answer.stdout) == (4, "")
    assert answer.stderr == (
        f"remote-ci: --remote-ci-env, --remote-ci-python: no effect on job {job.id}, which was submitted before\n"
    )


def test_a_variable_that_is_not_set_is_named(runner: FakeRunner, project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.remote-ci]\nenv = ['OPTIONAL_HERE']\n")
    typed = ["--remote-ci-env=MISSING", "--remote-ci-env", "SET", "--remote-ci-env=MISSING"]
    answer = run_pytest(runner, project, "--remote-ci", *typed, SET="x")
    assert "remote-ci: --remote-ci-env MISSING: not set here, so the job does not get it\n" in answer.stderr
    assert "OPTIONAL_HERE" not in answer.stderr
    sent = options_of(runner)["env"]
    assert sent["SET"] == "x"
    assert "MISSING" not in sent


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_refused_key_names_the_command_that_stores_one(runner: FakeRunner, project: Path, key: str) -> None:
    answer = run_pytest(runner, project, "--remote-ci", REMOTE_CI_API_KEY=key)
    assert answer.stderr.endswith(f"; give a valid key with `remote-ci login --url {runner.url}`\n")
    assert answer.stderr.count("\n") == 1


def test_wrong_usage_in_the_job_names_the_plugins_that_are_only_here(
    runner: FakeRunner, project: Path
) -> None:
    runner.script = [
        {"type": "session", "t": "recorder", "protocol": 2, "cwd": "/w"},
        log("ERROR: usage: pytest\npytest: error: unrecognized arguments: --mine --cov=x --cov-branch\n"),
        {"type": "session", "t": "refused", "plugins": ["pytest-remote-ci", "pytest-other"]},
        complete(4),
    ]
    site = project.parent / "site"
    (site / "pytest_mine-1.0.dist-info").mkdir(parents=True)
    (site / "pytest_mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest_mine\n")
    (site / "pytest_mine-1.0.dist-info" / "entry_points.txt").write_text("[pytest11]\nmine = pytest_mine\n")
    (site / "pytest_mine.py").write_text("")
    answer = run_pytest(runner, project, "--remote-ci", "--mine", PYTHONPATH=str(site))
    assert answer.returncode == 4
    assert answer.stdout.startswith("ERROR: usage: pytest\n")
    assert "remote-ci: the job's environment lacks pytest-cov: name it in a dependency group" in answer.stderr
    (line,) = [line for line in answer.stderr.splitlines() if "only here" in line]
    assert line.startswith("remote-ci: pytest plugins only here: ")
    assert "pytest-mine" in line
    assert line.endswith(" (the job installs the project's dependencies)")
