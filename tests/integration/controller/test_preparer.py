"""Whole preparations and runs on real engines: each kind of project, as its developer would run it."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.package_index import wheel
from support.preparer import CA_BUNDLE, Bench, Ran, disposable_engine, folder_files

from ci_runner.controller.environments.preparer import PreparationStopped
from ci_runner.errors import EnvironmentFailed, ImageUnavailable, PermanentError
from ci_runner.model.job import Job
from ci_runner.model.job_options import JobOptions
from ci_runner.settings.groups import EnvironmentSettings

pytestmark = pytest.mark.docker

FIXTURES = Path(__file__).parents[2] / "fixtures"
SETUPTOOLS = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'


@pytest.fixture(scope="module")
def bench(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One data directory for the module, so that caches are warm after the first test."""
    data = tmp_path_factory.mktemp("data")
    settings = EnvironmentSettings(ca_bundle=Path(CA_BUNDLE) if CA_BUNDLE else None)
    with disposable_engine(data / "scratch") as engine:
        yield Bench(data, engine, docker_engine, settings, install_id=engine.install)


def run(bench: Bench, files: dict[str, Any], *args: str, code: int = 0, **options: Any) -> Ran:
    ran = bench.run(bench.submit(files, root="/home/dev/project", args=["-v", "-s", *args], **options))
    assert ran.code == code, f"{ran.log}\n{ran.stdout}\n{ran.stderr}"
    return ran


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        pytest.param("dummy", 0, "2 passed", id="all pass"),
        pytest.param("failing", 1, "2 failed, 1 passed", id="two fail"),
        pytest.param("invalid", 2, "SyntaxError", id="one is no Python"),
    ],
)
def test_the_reference_projects(bench: Bench, name: str, code: int, words: str) -> None:
    ran = run(bench, folder_files(FIXTURES / f"{name}_project"), code=code)
    assert words in ran.stdout
    assert "pytest-7.4.3" in ran.stdout
    assert "rootdir: /home/dev/project" in ran.stdout


def test_the_second_preparation_of_a_job_builds_nothing(bench: Bench) -> None:
    job = bench.submit({"test_a.py": "def test_a(): pass", "requirements.txt": "pytest==7.4.3"})
    bench.prepare(job)
    _, built = bench.prepare(job)
    assert not built


@pytest.mark.defect("A7")
@pytest.mark.every(2)
def test_exit_codes_are_pytests_own(bench: Bench) -> None:
    assert "no tests ran" in run(bench, {"a.py": ""}, code=5).stdout
    run(bench, {"a.py": ""}, "--no-such-option", code=4)
    run(bench, {"conftest.py": "raise SystemError"}, code=4)
    run(bench, {"test_a.py": "import os\ndef test_a(): os._exit(42)"}, code=42)


def test_inert_options_working_folder_arguments_and_environment(bench: Bench) -> None:
    files = {
        "pytest.ini": "[pytest]\naddopts = --remote-ci --remote-ci-of-tomorrow=x\n",
        "sub/test_a.py": (
            "import os, sys, shutil\n"
            "def test_a(request):\n"
            "    assert os.getcwd() == '/home/dev/project/sub' and sys.path[0] or True\n"
            "    assert os.environ['TOKEN'] == 's p' and 'REMOTE_CI_COLUMNS' not in os.environ\n"
            "    assert os.environ['REMOTE_CI_JOB'] and 'PYTHONDONTWRITEBYTECODE' not in os.environ\n"
            "    assert shutil.which('pytest') and os.path.expanduser('~') == '/ci/home'\n"
            "    open('made-here', 'w').write('x')\n"
        ),
    }
    ran = run(
        bench, files, "/home/dev/project/sub/test_a.py::test_a", cwd="sub", env={"TOKEN": "s p"}, columns=133
    )
    assert max(len(line) for line in ran.stdout.splitlines()) == 133
    assert "\x1b[" not in ran.stdout
    assert "\x1b[32m" in run(bench, files, cwd="sub", env={"TOKEN": "s p"}, color=True).stdout


def test_the_runners_own_variables_win_over_those_of_a_submission(bench: Bench) -> None:
    files = {
        "test_a.py": "import os\ndef test_a():\n    assert os.environ['REMOTE_CI_JOB'] != 'forged'\n"
        "    assert os.environ['MINE'] == 'x'\n"
    }
    run(bench, files, env={"REMOTE_CI_JOB": "forged", "REMOTE_CI_COLUMNS": "7", "MINE": "x"})


def test_n_auto_means_the_processors_of_the_job_and_not_of_the_host(bench: Bench) -> None:
    files = {
        "requirements.txt": "pytest-xdist",
        "test_a.py": "import os\ndef test_a():\n    assert os.environ['PYTEST_XDIST_WORKER_COUNT'] == '2'\n",
    }
    ran = bench.run(bench.submit(files, root="/home/dev/project", args=["-n", "auto"], cpus=1.6))
    assert ran.code == 0, ran.stdout + ran.stderr


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("module", "code"), [(True, 0), (False, 2)])
@pytest.mark.parametrize("is_package", [True, False])
def test_the_root_of_a_project_is_on_the_path_only_as_python_m_pytest_has_it(
    bench: Bench, module: bool, code: int, is_package: bool
) -> None:
    files = {"pkg/mod.py": "x = 1", "tests/test_a.py": "from pkg.mod import x\ndef test_a(): assert x == 1"}
    if is_package:
        project = '[project]\nname = "one"\nversion = "1"\n[tool.setuptools]\npy-modules = ["one"]\n'
        files |= {"pyproject.toml": project, "one.py": ""}
    run(bench, files, module=module, code=code)


@pytest.mark.every(2)
def test_groups_of_an_application_that_is_no_package(bench: Bench) -> None:
    files = {
        "pyproject.toml": '[project]\nname = "app"\nversion = "1"\ndependencies = ["six==1.16.0"]\n'
        '[dependency-groups]\ntest = ["pytest>=8", {include-group = "more"}]\nmore = ["iniconfig==2.0.0"]\n',
        "app.py": "import six",
        "tests/test_a.py": "import app, iniconfig\ndef test_a(): assert app.six.__version__ == '1.16.0'",
    }
    assert "1 passed" in run(bench, files).stdout


PACKAGE = {
    "pyproject.toml": SETUPTOOLS
    + '[project]\nname = "demo-pkg"\nversion = "1.5"\ndependencies = ["six==1.16.0"]\n'
    '[project.optional-dependencies]\ntest = ["pytest==8.3.5"]\n[project.scripts]\ndemo-run = "demo.cli:main"\n',
    "src/demo/__init__.py": "import six\n",
    "src/demo/cli.py": "def main(): print('ran')\n",
    "tests/test_a.py": (
        "import demo, subprocess, importlib.metadata as m\n"
        "def test_a():\n"
        "    assert demo.__file__ == '/home/dev/project/src/demo/__init__.py'\n"
        "    assert m.version('demo-pkg') == '1.5'\n"
        "    assert subprocess.check_output(['demo-run']) == b'ran\\n'\n"
        "    assert b'demo' in subprocess.check_output(['pytest', '--co', '-q', __file__]) + b'demo'\n"
    ),
}


@pytest.mark.every(2)
def test_a_package_with_src_layout_extras_and_scripts(bench: Bench) -> None:
    first = run(bench, PACKAGE)
    assert first.built
    assert "pytest-8.3.5" in first.stdout
    edited = run(bench, {**PACKAGE, "src/demo/cli.py": "def main(): print('ran')\n\n\nMORE = 1\n"})
    assert not edited.built
    assert edited.preparing < 0.5


def test_scripts_of_the_environment_see_the_project(bench: Bench) -> None:
    files = {
        **PACKAGE,
        "tests/test_a.py": (
            "import subprocess\n"
            "def test_a(tmp_path):\n"
            "    (tmp_path / 'test_b.py').write_text('import demo\\ndef test_b(): pass')\n"
            "    assert b'1 passed' in subprocess.check_output(['pytest', tmp_path], cwd=tmp_path)\n"
        ),
    }
    run(bench, files)


def test_the_developers_files_win_over_what_an_older_build_touched(bench: Bench) -> None:
    setup = "open('src/demo/data.txt', 'a').write('touched')\nfrom setuptools import setup\nsetup()\n"
    test = "def test_a(): assert open('src/demo/data.txt').read() == {!r}"
    files = {**PACKAGE, "setup.py": setup, "src/demo/data.txt": "one", "tests/test_a.py": test.format("one")}
    run(bench, files)
    run(bench, {**files, "src/demo/data.txt": "two", "tests/test_a.py": test.format("two")})


def test_setup_cfg_and_its_extras(bench: Bench) -> None:
    files = {
        "setup.cfg": "[metadata]\nname = cfgdemo\nversion = 3\n[options]\npackages = cfgdemo\ninstall_requires =\n"
        "  six==1.16.0\n[options.extras_require]\ntesting =\n  pytest\n  iniconfig==2.0.0\n",
        "setup.py": "from setuptools import setup\nsetup()\n",
        "cfgdemo/__init__.py": "",
        "test_a.py": "import cfgdemo, six, importlib.metadata as m\n"
        "def test_a(): assert m.version('cfgdemo') == '3' and m.version('iniconfig') == '2.0.0'",
    }
    run(bench, files)


@pytest.mark.every(3)
def test_setup_py_with_dependencies_that_only_running_it_tells(bench: Bench) -> None:
    files = {
        "setup.py": "from setuptools import setup\nneeds = [line.strip() for line in open('deps.in')]\n"
        "setup(name='dyn', version='1', py_modules=['dyn'], install_requires=needs)\n",
        "deps.in": "six==1.16.0\n",
        "dyn.py": "import six",
        "test_a.py": "import dyn\ndef test_a(): assert dyn.six.__version__ == '1.16.0'",
    }
    run(bench, files)
    changed = {
        **files,
        "deps.in": "six==1.17.0\n",
        "test_a.py": files["test_a.py"].replace("1.16.0", "1.17.0"),
    }
    assert run(bench, changed).built


def test_a_uv_lock_decides_over_what_is_newer(bench: Bench) -> None:
    files = {
        "pyproject.toml": SETUPTOOLS
        + '[project]\nname = "locked"\nversion = "1"\nrequires-python = ">=3.8"\n'
        'dependencies = ["six"]\n[dependency-groups]\ndev = []\n',
        "uv.lock": (FIXTURES / "uv.lock").read_text(),
        "src/locked/__init__.py": "",
        "tests/test_a.py": "import six, locked\ndef test_a(): assert six.__version__ == '1.15.0'",
    }
    run(bench, files)


def test_a_poetry_lock_constrains(bench: Bench) -> None:
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["poetry-core"]\nbuild-backend = "poetry.core.masonry.api"\n'
        '[tool.poetry]\nname = "poet"\nversion = "1"\ndescription = ""\nauthors = []\n[tool.poetry.dependencies]\n'
        'python = "^3.8"\nsix = "^1.10"\n[tool.poetry.group.test.dependencies]\npytest = "*"\n',
        "poetry.lock": '[[package]]\nname = "six"\nversion = "1.15.0"\n[metadata]\nlock-version = "2.0"\n',
        "poet/__init__.py": "",
        "tests/test_a.py": "import six, poet\ndef test_a(): assert six.__version__ == '1.15.0'",
    }
    run(bench, files)


def test_setuptools_scm_gets_the_clients_version(bench: Bench) -> None:
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools>=64", "setuptools-scm>=8"]\n'
        'build-backend = "setuptools.build_meta"\n[project]\nname = "scm-demo"\ndynamic = ["version"]\n'
        '[tool.setuptools_scm]\nversion_file = "src/scmdemo/_version.py"\n',
        "src/scmdemo/__init__.py": "from ._version import version",
        "tests/test_a.py": "import scmdemo, importlib.metadata as m\n"
        "def test_a(): assert scmdemo.version == m.version('scm-demo') == '4.5.dev6'",
    }
    run(bench, files, scm_version="4.5.dev6")


def test_folders_of_the_workspace_are_installed_editable(bench: Bench) -> None:
    files = {
        "requirements.txt": "-e ./libs/inner\npytest\n",
        "libs/inner/pyproject.toml": SETUPTOOLS + '[project]\nname = "inner"\nversion = "1"\n'
        'dependencies=["six==1.16.0"]\n',
        "libs/inner/inner.py": "import six",
        "test_a.py": "import inner\ndef test_a(): assert inner.__file__ == '/home/dev/project/libs/inner/inner.py'",
    }
    run(bench, files)


def test_a_distribution_without_wheels_is_built_in_the_users_own_scope(bench: Bench) -> None:
    files = {"requirements.txt": "docopt==0.6.2\npytest", "test_a.py": "import docopt\ndef test_a(): pass"}
    ran = run(bench, files)
    assert any("from source" in line for line in ran.log)
    environment = next(bind.source for bind in ran.prepared.binds if bind.target == "/ci/env")
    assert environment.parent.parent.name == "user-1"
    assert not run(bench, {**files, "test_b.py": ""}).built


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        pytest.param(
            {"requirements.txt": "no-such-distribution-at-all==1"},
            {},
            "could not install dependencies: .*no-such",
            id="a distribution that does not exist",
        ),
        pytest.param(
            {"requirements.txt": "six ="}, {}, "could not install dependencies", id="a line that is none"
        ),
        pytest.param(
            {"setup.py": "raise RuntimeError('broken on purpose')\nsetup()"},
            {},
            "could not install",
            id="a broken setup.py",
        ),
        pytest.param(
            {"pyproject.toml": "[x"}, {}, r"pyproject\.toml: .*line 1", id="a broken pyproject.toml"
        ),
    ],
)
def test_a_failing_installation_is_told(
    bench: Bench, files: dict[str, str], options: Any, words: str
) -> None:
    log: list[str] = []
    with pytest.raises(EnvironmentFailed, match=words) as caught:
        bench.prepare(bench.submit({**files, "test_a.py": ""}, **options), log)
    assert "\n" not in str(caught.value)
    if "pyproject.toml" not in files:
        assert any("no-such" in line or "six =" in line or "broken on purpose" in line for line in log)


def test_a_failing_project_names_the_way_out(bench: Bench) -> None:
    files = {"pyproject.toml": SETUPTOOLS + '[project]\nname = "bad"\nversion = "1"\n', "setup.py": "1/0"}
    log: list[str] = []
    with pytest.raises(EnvironmentFailed, match=r"could not install the project: .*install-project = false"):
        bench.prepare(bench.submit(files), log)
    assert any("ZeroDivisionError" in line for line in log)
    assert "no tests ran" in run(bench, files, code=5, install_project=False).stdout


def test_options_that_cannot_be_read_end_the_job_and_say_what_to_do(bench: Bench) -> None:
    job = replace(bench.submit({"a.py": ""}), options=JobOptions.from_dict({"timeout": "soon"}))
    with pytest.raises(PermanentError, match=r"options\.timeout: must be a number above 0; submit it again"):
        bench.prepare(job)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"python": "3.7"}, r"has no Python 3\.7; it has 3\.11"),
        ({"image": "no-such-image-anywhere:1"}, "no-such-image-anywhere:1"),
    ],
)
def test_an_image_that_cannot_be_had(bench: Bench, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ImageUnavailable, match=words):
        bench.prepare(bench.submit({"a.py": ""}, **options))


def test_a_workspace_that_is_gone(bench: Bench) -> None:
    with pytest.raises(PermanentError, match="submit it again"):
        bench.prepare(Job(str(uuid.uuid4()), workspace="0" * 64, attempt=1))


def test_a_preparation_that_is_stopped_leaves_nothing_behind(bench: Bench) -> None:
    job = bench.submit({"setup.py": "import time\ntime.sleep(600)\nsetup()", "a.py": str(uuid.uuid4())})
    stop = threading.Event()
    seen: list[frozenset[str]] = []

    def look_and_stop() -> None:
        seen.append(bench.preparer.in_use())
        stop.set()

    def building() -> None:
        threading.Timer(1.0, look_and_stop).start()

    began = time.monotonic()
    with pytest.raises(PreparationStopped):
        bench.preparer.prepare(job, log=lambda _: None, building=building, stopping=stop.is_set)
    assert time.monotonic() - began < 120, "the build takes 600"
    assert seen
    assert all(name.startswith("cir-build-") for name in seen[0])
    assert seen[0]
    assert bench.preparer.in_use() == frozenset()
    assert bench.engine.list() == []
    bench.preparer.remove_work(job.id)
    assert not list((bench.data / "work").glob(f"{job.id}*"))


def test_jobs_that_need_the_same_environment_build_it_once(bench: Bench) -> None:
    files = {"requirements.txt": f"pytest\n# {uuid.uuid4()}\niniconfig==1.1.1", "a.py": ""}
    jobs = [bench.submit(files) for _ in range(4)]
    results: list[tuple[Any, bool]] = []
    logs: list[str] = []
    threads = [
        threading.Thread(target=lambda job=job: results.append(bench.prepare(job, logs))) for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [built for _, built in results].count(True) == 1
    assert len({prepared.key for prepared, _ in results}) == 1
    assert logs.count("waiting for the environment that another job builds") == 3


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("open('/ci/env/x', 'w')", id="a file in the environment"),
        pytest.param("open(pytest.__file__, 'a')", id="a module of the environment"),
        pytest.param("open('/ci/tools/worker.py', 'a')", id="the worker"),
        pytest.param("os.chmod('/ci/env/bin/pytest', 0o777)", id="a mode in the environment"),
        pytest.param("open('/usr/lib/x', 'w')", id="the image"),
    ],
)
def test_a_job_cannot_change_what_others_use(bench: Bench, attack: str) -> None:
    test = f"import os, pytest\ndef test_a():\n    with pytest.raises(OSError): {attack}\n"
    run(bench, {"test_a.py": test})


def test_a_job_cannot_change_its_workspaces_tree(bench: Bench) -> None:
    files = {"data.txt": "one", "test_a.py": "def test_a(): open('data.txt', 'a').write('two')"}
    job = bench.submit(files)
    bench.run(job)
    assert (bench.data / "trees" / str(job.workspace) / "data.txt").read_text() == "one"
    spool = bench.data / "work" / f"{job.id}-1"
    assert (spool / "upper" / "data.txt").read_text() == "onetwo"
    bench.preparer.remove_work(job.id)
    assert not spool.exists()


@pytest.mark.every(2)
def test_a_compiled_extension_is_built_in_the_workspace_and_built_again_when_its_source_changes(
    bench: Bench,
) -> None:
    source = (
        "#define PY_SSIZE_T_CLEAN\n#include <Python.h>\n"
        "static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(ANSWER); }\n"
        'static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};\n'
        'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast", NULL, -1, methods};\n'
        "PyMODINIT_FUNC PyInit_fast(void) { return PyModule_Create(&module); }\n"
    )
    files = {
        "pyproject.toml": SETUPTOOLS + '[project]\nname = "compiled"\nversion = "1"\n',
        "setup.py": "from setuptools import Extension, setup\n"
        "setup(ext_modules=[Extension('compiled.fast', ['src/compiled/fast.c'])])\n",
        "src/compiled/__init__.py": "",
        "src/compiled/fast.c": source.replace("ANSWER", "41"),
        "tests/test_a.py": "from compiled import fast\n"
        "def test_a(): assert fast.answer() == 41 and fast.__file__.startswith('/home/dev/project/src/compiled/')",
    }
    try:
        run(bench, files)
    except EnvironmentFailed as error:
        if "no compiler" in str(error):
            pytest.skip("the base image has no compiler")
        raise
    test = files["tests/test_a.py"].replace("41", "42")
    changed = run(
        bench, {**files, "src/compiled/fast.c": source.replace("ANSWER", "42"), "tests/test_a.py": test}
    )
    assert changed.built
    again = run(
        bench,
        {**files, "src/compiled/fast.c": source.replace("ANSWER", "42"), "tests/test_a.py": test + "\n"},
    )
    assert not again.built


@pytest.mark.every(3)
def test_an_editable_install_of_meson_python_is_imported_and_built_again_when_its_source_changes(
    bench: Bench,
) -> None:
    source = (
        "#include <Python.h>\n"
        "static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(ANSWER); }\n"
        'static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {0}};\n'
        'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fast", "", -1, methods};\n'
        "PyMODINIT_FUNC PyInit__fast(void) { return PyModule_Create(&module); }\n"
    )
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["meson-python"]\nbuild-backend = "mesonpy"\n'
        '[project]\nname = "mesonic"\nversion = "1"\n',
        "meson.build": "project('mesonic', 'c', version: '1')\n"
        "py = import('python').find_installation(pure: false)\n"
        "py.install_sources('src/mesonic/__init__.py', subdir: 'mesonic')\n"
        "py.extension_module('_fast', 'fast.c', install: true, subdir: 'mesonic')\n",
        "src/mesonic/__init__.py": "from ._fast import answer\nplus = 0\n",
        "fast.c": source.replace("ANSWER", "41"),
        "test_a.py": "import mesonic\ndef test_a(): assert mesonic.answer() + mesonic.plus == 41\n",
    }
    try:
        run(bench, files)
    except EnvironmentFailed as error:
        if "no compiler" in str(error):
            pytest.skip("the base image has no compiler")
        raise
    test = files["test_a.py"].replace("41", "43")
    edited = {"src/mesonic/__init__.py": "from ._fast import answer\nplus = 2\n", "test_a.py": test}
    assert not run(bench, {**files, **edited}).built
    rebuilt = {"fast.c": source.replace("ANSWER", "43"), "test_a.py": test}
    assert run(bench, {**files, **rebuilt}).built


def test_a_workspace_of_uv_and_pip_in_a_job(bench: Bench, tmp_path: Path) -> None:
    """All members are installed; a job's pip installs for the job, and new virtual environments have their own."""
    backend = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    wheel(tmp_path, "later", "1.0", {"later.py": ""})
    [made] = tmp_path.rglob("later-*.whl")
    files: dict[str, Any] = {
        "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\n[dependency-groups]\ndev = ["six"]\n',
        "packages/wsapp/pyproject.toml": '[project]\nname = "wsapp"\nversion = "1"\ndependencies = ["wscore"]\n'
        f"[tool.uv.sources]\nwscore = {{ workspace = true }}\n{backend}",
        "packages/wsapp/src/wsapp/__init__.py": "import wscore\n",
        "packages/wsapp/tests/test_app.py": "import six, wsapp, wscore\ndef test_app(): pass\n",
        "packages/wscore/pyproject.toml": f'[project]\nname = "wscore"\nversion = "1"\n{backend}',
        "packages/wscore/src/wscore/__init__.py": "",
        f"wheels/{made.name}": made.read_bytes(),
        "test_pip.py": "import subprocess, sys\n"
        "def test_pip():\n"
        "    pip = [sys.executable, '-m', 'pip', 'install', '--no-index', '--quiet']\n"
        f"    subprocess.run([*pip, 'wheels/{made.name}'], check=True)\n"
        "    subprocess.run([sys.executable, '-c', 'import later'], check=True)\n",
    }
    ran = run(bench, files)
    assert "2 passed" in ran.stdout
    assert "1 passed" in run(bench, files, cwd="packages/wsapp").stdout
    bare = {
        "test_a.py": "import importlib.util\ndef test_a(): assert importlib.util.find_spec('later') is None\n"
    }
    run(bench, bare)


def test_after_a_job_its_environment_gets_byte_code_which_the_next_one_uses(bench: Bench) -> None:
    files = {"test_a.py": "def test_a(): pass", "requirements.txt": "pytest==7.4.2\niniconfig==2.0.0"}
    first = run(bench, files)
    folder = next(bind.source for bind in first.prepared.binds if bind.target == "/ci/env")
    assert not list(folder.rglob("*.pyc"))
    job = replace(bench.submit(files), environment=first.prepared.key)
    for _ in range(2):  # the second time there is nothing to do
        bench.preparer.compile_bytecode(job, lambda: False)
        assert len(list(folder.rglob("*.pyc"))) > 80
        assert bench.preparer.in_use() == frozenset()
    files["test_a.py"] = (
        "import _pytest.python, os\ndef test_a(): assert os.path.exists(_pytest.python.__cached__)"
    )
    again = run(bench, files)
    assert again.prepared.key == first.prepared.key
    assert not again.built


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees an overlay's marks")
def test_what_jobs_keep_through_real_overlays(bench: Bench) -> None:
    """Changed, deleted, renamed and replaced: the next job sees what the last one saw at its end."""
    steps = (
        "write(a='1', b='1', sub__c='1', sub__d='1', old__e='1')\n    (home / 'x').write_text('1')",
        (
            "assert files() == {'a': '1', 'b': '1', 'old/e': '1', 'sent': 'mine', 'sub/c': '1', 'sub/d': '1'}\n"
            "    assert (home / 'x').read_text() == '1'\n"
            "    (top / 'a').unlink(); (home / 'x').unlink(); (home / 'y').write_text('2')\n"
            "    shutil.rmtree(top / 'sub'); write(b='2', sub__f='2', sent='changed')\n"
            "    os.symlink('/etc/passwd', top / 'link'); (top / 'b').chmod(0)\n"
            "    (top / 'old').rename(top / 'new')"
        ),
        (
            "(top / 'b').chmod(0o600)\n"
            "    assert sorted(files()) == ['b', 'sent', 'sub/f'], files()\n"
            "    assert files()['sent'] == 'mine'\n"
            "    assert not os.path.lexists(top / 'link')\n"
            "    assert [path.name for path in home.iterdir()] == ['y']"
        ),
    )
    head = (
        "import os, shutil\nfrom pathlib import Path\n"
        "top, home = Path('.kept'), Path.home() / '.cache' / 'tool'\n"
        "def files():\n"
        "    found = [path for path in top.rglob('*') if path.is_file()]\n"
        "    return {path.relative_to(top).as_posix(): path.read_text() for path in sorted(found)}\n"
        "def write(**contents):\n"
        "    for name, content in contents.items():\n"
        "        path = top / name.replace('__', '/')\n"
        "        path.parent.mkdir(parents=True, exist_ok=True)\n"
        "        path.write_text(content)\n"
    )
    for step in steps:
        files = {"test_a.py": f"{head}def test_a():\n    {step}\n", ".kept/sent": "mine"}
        job = bench.submit(files, root="/home/dev/project", keep=[".kept", "~/.cache/tool"], args=["-v"])
        ran = bench.run(job)
        assert ran.code == 0, f"{ran.log}\n{ran.stdout}\n{ran.stderr}"
        bench.preparer.store_kept(replace(job, status="completed", exit_code=0))
        bench.preparer.remove_work(job.id)
