"""What is read of the files of each packaging tool, and what is said of those that are not read."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest

from ci_runner.dependencies import requirements_files
from ci_runner.dependencies.install_plan import Plan, make_plan
from ci_runner.dependencies.project import Tree
from ci_runner.errors import EnvironmentFailed
from pytest_remote_ci.wire.protocol import SubmitOptions

PROJECT = '[project]\nname = "demo"\nversion = "1"\n'
PIPFILE = """\
[[source]]
url = "https://pypi.org/simple"
verify_ssl = true
name = "pypi"

[[source]]
url = "https://index.example.org/simple"
verify_ssl = true
name = "own"

[packages]
requests = {version = "~=2.31", extras = ["socks"]}
demo = {path = ".", editable = true, extras = ["fast"]}
lib = {path = "./lib", editable = true}
tool = {git = "https://example.org/tool.git", ref = "v1"}
colorama = {version = "*", sys_platform = "== 'win32'"}

[dev-packages]
pytest-mock = "*"
six = "==1.16.0"

[requires]
python_version = "3.12"
"""
PIPFILE_LOCK = {
    "_meta": {
        "hash": {"sha256": "0" * 64},
        "pipfile-spec": 6,
        "requires": {"python_version": "3.12"},
        "sources": [{"name": "pypi", "url": "https://pypi.org/simple", "verify_ssl": True}],
    },
    "default": {
        "six": {"hashes": ["sha256:" + "a" * 64], "index": "pypi", "version": "==1.16.0"},
        "demo": {"editable": True, "path": "."},
    },
    "develop": {
        "pytest-mock": {
            "hashes": ["sha256:" + "b" * 64],
            "markers": "python_version >= '3.8'",
            "version": "==3.14.0",
        },
    },
}
PYLOCK = """\
lock-version = "1.0"
created-by = "pip"

[[packages]]
name = "pytest-mock"
version = "3.14.0"
[[packages.wheels]]
name = "pytest_mock-3.14.0-py3-none-any.whl"
url = "https://example.org/pytest_mock-3.14.0-py3-none-any.whl"
[packages.wheels.hashes]
sha256 = "c6"

[[packages]]
name = "colorama"
version = "0.4.6"
marker = "sys_platform == 'win32'"

[[packages]]
name = "sphinx"
version = "8.1.0"
marker = "'docs' in dependency_groups"

[[packages]]
name = "tool"
[packages.vcs]
type = "git"
url = "https://example.org/tool.git"
commit-id = "abc"

[[packages]]
name = "demo"
[packages.directory]
path = "."
editable = true

[[packages]]
name = "lib"
[packages.directory]
path = "lib"
"""
PDM_LOCK = """\
[metadata]
groups = ["default", "test"]
lock_version = "4.5.0"

[[package]]
name = "coverage"
version = "7.6.1"
groups = ["test"]

[[package]]
name = "coverage"
version = "7.6.1"
extras = ["toml"]
groups = ["test"]

[[package]]
name = "tool"
version = "1.0"
git = "https://example.org/tool.git"
"""
HATCH = """\
[tool.hatch.envs.default]
dependencies = ["pytest", "pytest-mock"]
features = ["cli"]
[tool.hatch.envs.docs]
dependencies = ["sphinx"]
"""


def tree(files: Mapping[str, str]) -> Tree:
    contents = {path: text.encode() for path, text in files.items()}
    return Tree(
        {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}, contents.__getitem__
    )


def plan(files: Mapping[str, str], python: str = "3.12", **options: Any) -> Plan:
    return make_plan(tree(files), SubmitOptions(**options), python)


def pyproject(text: str, **others: str) -> dict[str, str]:
    return {"pyproject.toml": text, **others}


LINES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "uv's old group for development": (
        pyproject(PROJECT + '[tool.uv]\ndev-dependencies = ["pytest", "pytest-mock"]\n'),
        ("pytest", "pytest-mock"),
    ),
    "Rye's": (
        pyproject(PROJECT + '[tool.rye]\ndev-dependencies = ["pytest>=8"]\n'),
        ("pytest>=8",),
    ),
    "PDM's groups, without the documentation's": (
        pyproject(
            PROJECT
            + '[tool.pdm.dev-dependencies]\nunit = ["pytest"]\ndoc = ["sphinx"]\n'
            + 'own = ["-e file:///${PROJECT_ROOT}/lib#egg=lib"]\n'
        ),
        ("pytest", "-e ./lib"),
    ),
    "Poetry's groups, without optional ones": (
        pyproject(
            '[tool.poetry]\nname = "demo"\n[tool.poetry.group.unit.dependencies]\npytest = "*"\n'
            '[tool.poetry.group.docs.dependencies]\nsphinx = "*"\n'
            '[tool.poetry.group.more]\noptional = true\n[tool.poetry.group.more.dependencies]\nsix = "*"\n'
        ),
        ("pytest",),
    ),
    "a Pipfile": (
        {"Pipfile": PIPFILE},
        (
            "requests[socks]~=2.31",
            "-e ./lib",
            "tool @ git+https://example.org/tool.git@v1",
            "colorama ; (sys_platform == 'win32')",
            "pytest-mock",
            "six==1.16.0",
            "pytest",
        ),
    ),
    "the lock of a Pipfile": (
        {"Pipfile": PIPFILE, "Pipfile.lock": json.dumps(PIPFILE_LOCK)},
        ("six==1.16.0", "pytest-mock==3.14.0 ; (python_version >= '3.8')", "pytest"),
    ),
    "a standard lock": (
        {"pylock.toml": PYLOCK},
        (
            "pytest-mock==3.14.0",
            "colorama==0.4.6 ; sys_platform == 'win32'",
            "tool @ git+https://example.org/tool.git@abc",
            "./lib",
            "pytest",
        ),
    ),
    "Hatch's default environment": (pyproject(PROJECT + HATCH), ("pytest", "pytest-mock")),
    "Hatch's environment for tests has its own dependencies": (
        pyproject(PROJECT + HATCH + '[tool.hatch.envs.test]\ndependencies = ["pytest", "six"]\n'),
        ("pytest", "six"),
    ),
    "Hatch's environment for tests adds to the default one": (
        pyproject(PROJECT + HATCH + '[tool.hatch.envs.test]\nextra-dependencies = ["six"]\n'),
        ("pytest", "pytest-mock", "six"),
    ),
    "what `hatch test` has": (
        pyproject(PROJECT, **{"hatch.toml": '[envs.hatch-test]\nextra-dependencies = ["six"]\n'}),
        ("coverage[toml]", "pytest", "pytest-mock", "pytest-rerunfailures", "pytest-xdist[psutil]", "six"),
    ),
}


@pytest.mark.parametrize(("files", "lines"), LINES.values(), ids=LINES.keys())
def test_the_requirement_lines_of_tools(files: dict[str, str], lines: tuple[str, ...]) -> None:
    found = plan(files)
    assert found.requirements == lines
    assert found.notes == ()


def test_files_that_decide_are_part_of_the_plan() -> None:
    files = {
        "Pipfile": PIPFILE,
        "pylock.toml": PYLOCK,
        **pyproject(PROJECT, **{"pdm.lock": PDM_LOCK, "hatch.toml": ""}),
    }
    assert {path for path, _ in plan(files).files} == set(files)


def test_a_pipfile_chooses_extras_of_the_project_and_indexes() -> None:
    found = plan({"Pipfile": PIPFILE, **pyproject(PROJECT)})
    assert found.extras == ("fast",)
    assert found.index_options == ("--extra-index-url https://index.example.org/simple",)


def test_a_package_of_a_group_is_pinned_by_a_standard_lock() -> None:
    assert plan({"pylock.toml": PYLOCK}).constraints == ("sphinx==8.1.0",)


def test_the_lock_of_pdm_pins_versions() -> None:
    text = PROJECT + '[tool.pdm.dev-dependencies]\ntest = ["coverage[toml]"]\n'
    assert plan(pyproject(text, **{"pdm.lock": PDM_LOCK})).constraints == ("coverage==7.6.1",)


def test_hatch_chooses_extras_and_groups() -> None:
    text = (
        PROJECT
        + '[project.optional-dependencies]\ncli = ["six"]\n[dependency-groups]\nunit = ["pytest"]\n'
        + '[tool.hatch.envs.test]\nfeatures = ["cli"]\ndependency-groups = ["unit", "absent"]\n'
    )
    found = plan(pyproject(text))
    assert (found.extras, found.groups) == (("cli",), ("unit",))


GROUPS = '[dependency-groups]\nqa = ["pytest", "six"]\nslow = ["attrs"]\ndev = ["ruff"]\n'


@pytest.mark.parametrize(
    ("uv", "groups"),
    [
        ('default-groups = ["qa"]', ("dev", "qa")),
        ('default-groups = "all"', ("dev", "qa", "slow")),
        ('default-groups = ["qa"]\nconflicts = [[{group = "qa"}, {group = "dev"}]]', ("qa",)),
        ('conflicts = [[{group = "qa"}, {group = "dev"}]]', ("dev",)),
        ("", ("dev",)),
    ],
)
@pytest.mark.parametrize("lock", [{}, {"uv.lock": "version = 1\n"}])
def test_the_groups_that_uv_installs(uv: str, groups: tuple[str, ...], lock: dict[str, str]) -> None:
    assert plan(pyproject(f"{PROJECT}{GROUPS}[tool.uv]\n{uv}\n", **lock)).groups == groups


def test_uvs_old_group_is_exported_from_its_lock() -> None:
    text = PROJECT + '[tool.uv]\ndev-dependencies = ["pytest", "pytest-mock"]\n'
    found = plan(pyproject(text, **{"uv.lock": "version = 1\n"}))
    assert (found.source, found.groups, found.requirements) == ("uv.lock", ("dev",), ())


def test_extras_of_an_old_flit_project_are_known() -> None:
    text = (
        '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
        '[tool.flit.metadata]\nmodule = "demo"\n[tool.flit.metadata.requires-extra]\ntest = ["pytest-mock"]\n'
    )
    assert plan(pyproject(text)).extras == ("test",)


FILES: dict[str, tuple[list[str], list[str]]] = {
    "for developers if there are none for tests": (
        ["requirements/dev.txt", "requirements/docs.txt"],
        ["requirements/dev.txt"],
    ),
    "for tests rather than for developers": (
        ["requirements/dev.txt", "requirements/tests.txt"],
        ["requirements/tests.txt"],
    ),
    "named after pytest": (
        ["requirements/dev.txt", "requirements/lint.txt", "requirements/pytest.txt"],
        ["requirements/pytest.txt"],
    ),
    "sources that were not compiled": (
        ["requirements/test.in", "requirements/dev.in", "requirements.in"],
        ["requirements.in", "requirements/test.in"],
    ),
    "what was compiled, not its source": (
        ["requirements/test.in", "requirements/test.txt", "requirements.in", "requirements.txt"],
        ["requirements.txt", "requirements/test.txt"],
    ),
    "the project's own beside those for tests": (
        ["requirements/base.txt", "requirements/test.txt"],
        ["requirements/base.txt", "requirements/test.txt"],
    ),
    "the root's own rather than a folder's": (
        ["requirements/base.txt", "requirements.txt"],
        ["requirements.txt"],
    ),
    "not for another Python": (
        ["requirements/tests.txt", "requirements/tests37.txt", "requirements/tests-py3.8.txt"],
        ["requirements/tests.txt"],
    ),
    "for this Python": (
        ["requirements/tests.txt", "requirements/tests312.txt", "requirements/tests37.txt"],
        ["requirements/tests312.txt"],
    ),
    "for this Python in another notation": (
        ["requirements-dev-py3.12.txt", "requirements-dev.txt", "test-requirements-3.7.txt"],
        ["requirements-dev-py3.12.txt"],
    ),
    "a number that is no Python": (
        ["requirements/test-django42.txt", "requirements/test.txt"],
        ["requirements/test-django42.txt", "requirements/test.txt"],
    ),
    "sources of what was compiled for some Pythons": (
        ["requirements/test.in", "requirements/test-py39.txt"],
        [],
    ),
}


@pytest.mark.parametrize(("paths", "found"), FILES.values(), ids=FILES.keys())
def test_the_requirements_files_that_are_found(paths: list[str], found: list[str]) -> None:
    assert list(requirements_files.find(paths, "3.12")) == found


def test_files_for_developers_are_not_read_beside_a_group_for_tests() -> None:
    files = {"requirements/dev.txt": "tox"}
    group = pyproject(PROJECT + '[dependency-groups]\ntest = ["pytest"]\n')
    extra = pyproject(PROJECT + '[project.optional-dependencies]\ntest = ["pytest"]\n')
    assert plan(files).requirements == ("tox", "pytest")
    assert plan({**files, **group}).requirements == ()
    assert plan({**files, **extra}).requirements == ()


TOX = "[testenv]\ndeps =\n  pytest\n  py39: importlib-metadata\n  pytest-mock\ncommands = pytest\n"
UNREAD: dict[str, tuple[dict[str, str], str]] = {
    "tox.ini": ({"tox.ini": TOX}, "tox.ini"),
    "setup.cfg": ({"setup.cfg": TOX}, "setup.cfg"),
    "tox.toml": ({"tox.toml": '[env_run_base]\ndeps = ["pytest", "six"]\n'}, "tox.toml"),
    "tox in pyproject.toml": (
        pyproject('[tool.tox.env.py]\ndeps = ["pytest", "six"]\n'),
        "[tool.tox] in pyproject.toml",
    ),
    "an old tox in pyproject.toml": (
        pyproject(f'[tool.tox]\nlegacy_tox_ini = """\n{TOX}"""\n'),
        "[tool.tox] in pyproject.toml",
    ),
    "noxfile.py": ({"noxfile.py": 'def t(session):\n    session.install("six")\n'}, "noxfile.py"),
    "environment.yml": ({"environment.yml": "dependencies: [six]"}, "environment.yml"),
    "pixi.toml": ({"pixi.toml": ""}, "pixi.toml"),
    "tests_require": (
        {"setup.py": "from setuptools import setup\nsetup(name='demo', tests_require=['six'])\n"},
        "setup.py (tests_require)",
    ),
    "a lock leaves out files for tests": (
        pyproject(PROJECT, **{"uv.lock": "version = 1\n", "requirements-dev.txt": "six"}),
        "requirements-dev.txt",
    ),
    "a group for other things": (
        pyproject(PROJECT + '[dependency-groups]\ndev = ["ruff"]\n', **{"tox.ini": TOX}),
        "tox.ini",
    ),
}


@pytest.mark.parametrize(("files", "named"), UNREAD.values(), ids=UNREAD.keys())
def test_files_that_are_found_and_not_read_are_named(files: dict[str, str], named: str) -> None:
    [note] = plan(files).notes
    assert note == (
        f"{named} lists test dependencies, which are not read; copy them to a dependency group, or set "
        "requirements = [...] in [tool.remote-ci]"
    )


def test_several_of_them_are_named_in_one_line() -> None:
    [note] = plan({"tox.ini": TOX, "pixi.toml": ""}).notes
    assert note.startswith("tox.ini and pixi.toml list test dependencies, which are not read; ")


SILENT: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "tox names only pytest": ({"tox.ini": "[testenv]\ndeps = pytest>=8\n"}, {}),
    "tox has no dependencies": ({"tox.ini": "[pytest]\naddopts = -q\n"}, {}),
    "tox cannot be read": ({"tox.ini": "no section"}, {}),
    "a group for tests": (
        pyproject(PROJECT + '[dependency-groups]\ntest = ["six"]\n', **{"tox.ini": TOX}),
        {},
    ),
    "a group with pytest": (
        pyproject(
            PROJECT
            + '[dependency-groups]\ndev = [{include-group = "unit"}]\nunit = ["pytest", {include-group = "dev"}]\n',
            **{"tox.ini": TOX},
        ),
        {},
    ),
    "an extra for tests": (
        pyproject(PROJECT + '[project.optional-dependencies]\ntests = ["six"]\n', **{"tox.ini": TOX}),
        {},
    ),
    "a file for tests": ({"requirements-dev.txt": "six", "tox.ini": TOX}, {}),
    "a file with pytest": ({"requirements.txt": "pytest", "tox.ini": TOX}, {}),
    "a Pipfile": ({"Pipfile": "", "tox.ini": TOX}, {}),
    "something is configured": ({"r.txt": "six", "tox.ini": TOX}, {"requirements": ("r.txt",)}),
}


@pytest.mark.parametrize(("files", "options"), SILENT.values(), ids=SILENT.keys())
def test_nothing_is_said_where_tests_have_their_dependencies(
    files: dict[str, str], options: dict[str, Any]
) -> None:
    assert plan(files, **options).notes == ()


DEEP = "[" * 100_000
LONG = "9" * 5_000
HOSTILE = [
    {"Pipfile": f"[packages]\nsix = {LONG}"},
    {"Pipfile": f'[packages]\nsix = "{LONG}"'},
    {"Pipfile": '[packages]\n"--index-url https://x" = "*"'},
    {"Pipfile": "[packages]\nsix = {version = 7, extras = 7, git = {}}"},
    {"Pipfile": "[packages]\nsix = {path = 7, editable = []}"},
    {"Pipfile": "[packages]\nsix = {file = 7, ref = 7, sys_platform = 7}"},
    {"Pipfile": "packages = 7\nsource = 7"},
    {"Pipfile": "source = [7, {url = 7}]"},
    {"Pipfile": '[[source]]\nurl = "https://x/\\n--no-index"'},
    {"Pipfile.lock": ""},
    {"Pipfile.lock": "7"},
    {"Pipfile.lock": DEEP},
    {"Pipfile.lock": f'{{"default": {{"six": {LONG}}}}}'},
    {"Pipfile.lock": '{"default": {"six": {"version": "==1\\n--index-url https://x"}}}'},
    {"Pipfile.lock": '{"default": {"a": {"path": ".", "extras": [7]}}, "_meta": {"sources": [[]]}}'},
    {"pylock.toml": "packages = 7"},
    {"pylock.toml": "packages = [7]"},
    {"pylock.toml": "[[packages]]\nname = 7"},
    {"pylock.toml": "[[packages]]\nname = 'a b'"},
    {"pylock.toml": "[[packages]]\nname = 'a'\nversion = '1 --hash=x'"},
    {"pylock.toml": "[[packages]]\nname = 'a'\nversion = 7\nmarker = 7"},
    {"pylock.toml": "[[packages]]\nname = 'a'\nmarker = 'x\\n--no-index'"},
    {"pylock.toml": "[[packages]]\nname = 'a'\n[packages.vcs]\nurl = 'x y'"},
    {"pylock.toml": "[[packages]]\nname = 'a'\n[packages.archive]\nurl = 7"},
    {"pylock.toml": "[[packages]]\nname = 'a'\n[packages.directory]\npath = 7"},
    {"pylock.toml": "a." * 100_000},
    pyproject("[tool.uv]\ndev-dependencies = 7"),
    pyproject('[tool.uv]\ndev-dependencies = ["six\\n--no-index"]'),
    pyproject('[tool.uv]\ndev-dependencies = ["--no-index"]'),
    pyproject("[tool.uv]\ndefault-groups = 7"),
    pyproject("[tool.uv]\ndefault-groups = [7]"),
    pyproject("[tool.pdm]\ndev-dependencies = 7"),
    pyproject("[tool.pdm.dev-dependencies]\ntest = 7"),
    pyproject('[tool.pdm.dev-dependencies]\ntest = ["-e file:///${PROJECT_ROOT}//etc", "-r x"]'),
    pyproject("[tool.hatch.envs]\ntest = 7"),
    pyproject("[tool.hatch.envs.test]\ndependencies = 7"),
    pyproject("[tool.hatch.envs.test]\nfeatures = [7]"),
    pyproject('[tool.hatch.envs.test]\ndependencies = ["-e ."]'),
    pyproject("tool = 7"),
    pyproject("", **{"hatch.toml": "envs = 7"}),
    pyproject("", **{"hatch.toml": "a." * 100_000}),
    pyproject(PROJECT, **{"pdm.lock": "package = 7"}),
    pyproject(PROJECT, **{"pdm.lock": "[[package]]\nname = 'a'\nversion = '1\\n-r x'"}),
    pyproject("[tool.tox]\nenv = 7\nlegacy_tox_ini = 7"),
    {"tox.toml": "a." * 100_000},
    {"tox.ini": "[testenv]\ndeps = " + "a" * 2_000_000},
    {"tox.ini": "\0"},
]


@pytest.mark.parametrize(
    "files", HOSTILE, ids=lambda files: " ".join(f"{k}:{v[:50]}" for k, v in files.items())
)
def test_any_file_of_a_tool_is_planned_or_refused_in_one_line(files: dict[str, str]) -> None:
    with contextlib.suppress(EnvironmentFailed):
        found = plan(files)
        assert found.requirements
        assert not any("\n" in line for line in (*found.requirements, *found.constraints))
        assert not any(line.startswith("--") for line in (*found.requirements, *found.constraints))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"Pipfile": "[packages"}, r"Pipfile: .*line 1"),
        ({"Pipfile.lock": "{"}, r"Pipfile\.lock: .*line 1"),
        ({"pylock.toml": "a ="}, r"pylock\.toml: .*line 1"),
        (
            {"Pipfile": f'[packages]\nsix = "{LONG}"'},
            r"Pipfile: the version of 'six' must be text of at most 1000 characters",
        ),
        (
            pyproject('[tool.uv]\ndev-dependencies = ["--no-index"]'),
            r"pyproject\.toml: tool\.uv\.dev-dependencies: '--no-index' is not a requirement",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named(files: dict[str, str], words: str) -> None:
    with pytest.raises(EnvironmentFailed, match=words):
        plan(files)


VIRTUAL = {
    "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\nexclude = ["packages/old"]\n'
    '[dependency-groups]\ndev = ["pytest", "pytest-mock"]\n',
    "packages/app/pyproject.toml": '[project]\nname = "app"\ndependencies = ["core"]\n'
    '[tool.uv.sources]\ncore = {workspace = true}\n[build-system]\nrequires = ["hatchling"]\n'
    '[project.optional-dependencies]\ntest = ["six"]\n',
    "packages/core/pyproject.toml": '[project]\nname = "core"\ndependencies = ["six"]\n'
    '[dependency-groups]\ntest = ["attrs"]\n',
    "packages/old/pyproject.toml": "[broken",
    "other/pyproject.toml": "[broken",
}


def test_a_workspace_is_exported_with_all_its_members() -> None:
    found = plan({**VIRTUAL, "uv.lock": "version = 1\n"})
    assert (found.source, found.all_packages, found.install) == ("uv.lock", True, False)
    assert (found.groups, found.extras) == (("test", "dev"), ())
    assert {path for path, _ in found.files} == {*VIRTUAL, "uv.lock"} - {
        "packages/old/pyproject.toml",
        "other/pyproject.toml",
    }


def test_a_workspace_without_a_lock_installs_its_packages_and_what_the_others_need() -> None:
    found = plan(VIRTUAL)
    assert found.source == "lines"
    assert found.requirements == ("-e ./packages/app", "six")
    assert found.groups == ("dev", "packages/core/pyproject.toml:test")


@pytest.mark.parametrize(
    "text",
    [
        "workspace = 7",
        "[tool.uv.workspace]\nmembers = 7",
        '[tool.uv.workspace]\nmembers = ["**/**/**/*", "/../..", ""]',
        "[tool.uv.workspace]\nexclude = [7]",
    ],
)
def test_any_workspace_is_planned_or_refused(text: str) -> None:
    with contextlib.suppress(EnvironmentFailed):
        assert plan({**VIRTUAL, "pyproject.toml": text})


def test_a_member_that_cannot_be_read_is_named() -> None:
    with pytest.raises(EnvironmentFailed, match=r"^packages/app/pyproject\.toml: .*line 1"):
        plan({**VIRTUAL, "packages/app/pyproject.toml": "[broken"})
