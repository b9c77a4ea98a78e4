"""What a workspace needs, decided from its files alone."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ci_runner.dependencies import poetry
from ci_runner.dependencies.install_plan import Plan, make_plan, map_arguments, mount_point
from ci_runner.dependencies.project import Tree
from ci_runner.dependencies.project_layer import is_product, layer_digest, version_env
from ci_runner.dependencies.requirements import requirement_name
from ci_runner.errors import EnvironmentFailed
from pytest_remote_ci.wire.protocol import SubmitOptions

BUILD = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
PROJECT = '[project]\nname = "demo"\nversion = "1"\n'
POETRY = '[tool.poetry]\nname = "demo"\nversion = "1"\n[tool.poetry.dependencies]\npython = "^3.8"\n'


def tree(files: Mapping[str, str]) -> Tree:
    contents = {path: text.encode() for path, text in files.items()}
    return Tree(
        {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}, contents.__getitem__
    )


def plan(files: Mapping[str, str], **options: Any) -> Plan:
    return make_plan(tree(files), SubmitOptions(**options))


REQUIREMENTS: dict[str, tuple[dict[str, str], dict[str, Any], tuple[str, ...]]] = {
    "nothing at all gets pytest": ({"test_a.py": ""}, {}, ("pytest",)),
    "the client's pytest when nothing names one": (
        {"a.py": ""},
        {"pytest_version": "8.3.1"},
        ("pytest==8.3.1",),
    ),
    "a named pytest is left alone": (
        {"requirements.txt": "pytest==7.4.3"},
        {"pytest_version": "9.0.0"},
        ("pytest==7.4.3",),
    ),
    "all usual requirements files are found, in order": (
        {
            "requirements/test-more.txt": "d",
            "requirements.txt": "a",
            "tests/requirements.txt": "e",
            "requirements-dev.txt": "b",
            "requirements/test.txt": "c",
            "requirements/docs.txt": "x",
            "other.txt": "y",
            "sub/requirements.txt": "z",
        },
        {},
        ("a", "b", "d", "c", "e", "pytest"),
    ),
    "other usual names are found, too": (
        {
            "test-requirements.txt": "c",
            "requirements_dev.txt": "a",
            "requirements-tests.txt": "b",
            "test.txt": "x",
        },
        {},
        ("a", "b", "c", "pytest"),
    ),
    "configured files replace the found ones": (
        {"requirements.txt": "a", "ci/all.txt": "b"},
        {"requirements": ("ci/all.txt",)},
        ("b", "pytest"),
    ),
    "nested files are relative to the one that names them": (
        {
            "requirements.txt": "-r ci/more.txt\na",
            "ci/more.txt": "--requirement=../last.txt\nb",
            "last.txt": "pytest",
        },
        {},
        ("pytest", "b", "a"),
    ),
    "files that include each other end": (
        {"requirements.txt": "-r a.txt\nx", "a.txt": "-r requirements.txt\ny"},
        {},
        ("y", "x", "pytest"),
    ),
    "the project itself is left out": (
        {"requirements.txt": "-e .\n.\n-e .[test]\n--editable=./\n./\nfile:.\nsix"},
        {},
        ("six", "pytest"),
    ),
    "comments, continuations and markers": (
        {
            "requirements.txt": "# no\nsix \\\n  >=1 # why\nurl @ https://x/y#egg=z\npytest; python_version<'3.9'\n"
        },
        {},
        ("six    >=1", "url @ https://x/y#egg=z", "pytest; python_version<'3.9'"),
    ),
    "other folders of the workspace stay": (
        {"requirements.txt": "-e ./lib\n./wheels/x.whl\n"},
        {},
        ("-e ./lib", "./wheels/x.whl", "pytest"),
    ),
    "poetry's tables and a guessed group": (
        {
            "pyproject.toml": POETRY + 'six = "^1.2"\nopt = {version = "*", optional = true}\n'
            '[tool.poetry.group.dev.dependencies]\npytest = "^8"\n[tool.poetry.group.docs.dependencies]\nsphinx="*"\n'
        },
        {},
        ("six>=1.2,<2", "pytest>=8,<9"),
    ),
    "poetry's old dev-dependencies": (
        {"pyproject.toml": POETRY + '[tool.poetry.dev-dependencies]\npytest = "~7.1"\n'},
        {},
        ("pytest>=7.1,<7.2",),
    ),
    "an extra of poetry brings its optional dependencies": (
        {
            "pyproject.toml": POETRY + 'opt = {version = "1.*", optional = true}\n'
            '[tool.poetry.extras]\nmore = ["opt"]\n'
        },
        {"extras": ("more",)},
        ("opt==1.*", "pytest"),
    ),
}


@pytest.mark.parametrize(("files", "options", "expected"), REQUIREMENTS.values(), ids=REQUIREMENTS.keys())
def test_requirement_lines(files: dict[str, str], options: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert plan(files, **options).requirements == expected


def test_constraints_and_indexes_are_kept_apart() -> None:
    found = plan(
        {
            "requirements.txt": "-i https://index/simple\n--extra-index-url=https://b/\n-c pins.txt\n"
            "--no-binary :all:\nsix",
            "pins.txt": "six==1.0\n-c deeper.txt",
            "deeper.txt": "idna==3",
        }
    )
    assert found.constraints == ("six==1.0", "idna==3")
    assert found.index_options == ("-i https://index/simple", "--extra-index-url=https://b/")
    assert found.requirements == ("six", "pytest")


def test_a_missing_requirements_file_is_a_note_and_no_error() -> None:
    found = plan({"a.py": ""}, requirements=("ci/none.txt",))
    assert found.requirements == ("pytest",)
    assert found.notes == ("requirements file ci/none.txt is not in the project: ignored",)


def test_poetrys_lock_becomes_constraints_where_it_is_unambiguous() -> None:
    lock = (
        '[[package]]\nname = "Six_X"\nversion = "1.16.0"\n[[package]]\nname = "np"\nversion = "1"\n'
        '[[package]]\nname = "np"\nversion = "2"\n[[package]]\nname = "g"\nversion = "1"\n'
        '[package.source]\ntype = "git"\n'
    )
    assert plan({"pyproject.toml": POETRY, "poetry.lock": lock}).constraints == ("six-x==1.16.0",)


LONG = "9" * 5_000


@pytest.mark.parametrize(
    "text",
    [
        f'six = "^{LONG}"',
        f'six = "{" " * 200_000}x"',
        f'six = "{", " * 100_000}"',
        f'six = {{version = "~{LONG}"}}',
        f'six = {{version = "1", python = "^{LONG}"}}',
        f"six = {LONG}",
        "six = 7",
        "six = {version = 7, python = 3.8, extras = 7}",
        "six = {version = [], markers = 7, extras = [7]}",
        "six = {git = 7, rev = {}}",
        "six = {url = []}",
        "six = [7, [], {}]",
        "[tool.poetry.extras]\ntest = 7",
        "[tool.poetry.extras]\ntest = [7]",
        "[tool.poetry.group]\ntest = 7",
        "[tool.poetry.group.test]\ndependencies = []",
        "[tool.poetry.dev-dependencies]\nsix = []",
    ],
    ids=lambda text: text[:40],
)
def test_any_table_of_poetry_is_planned_or_refused(text: str) -> None:
    with contextlib.suppress(EnvironmentFailed):
        assert plan({"pyproject.toml": f"{POETRY}{text}\n"}, extras=("test",)).requirements


def test_a_constraint_without_end_is_refused_in_one_line() -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        plan({"pyproject.toml": f'{POETRY}six = "^{LONG}"'})
    assert str(caught.value) == "pyproject.toml: the version of 'six' must be text of at most 1000 characters"


@pytest.mark.parametrize(
    "text",
    [
        "package = 7",
        "package = [7]",
        "[[package]]\nname = 7\nversion = 7",
        "[[package]]\nname = 'a'",
        "[[package]]\nname = 'a'\nversion = '1'\nsource = 7",
        "[[package]]\nname = 'a'\nversion = '1'\nsource = {type = []}",
        f"[[package]]\nname = 'a'\nversion = {LONG}",
    ],
)
def test_any_lock_of_poetry_is_planned_or_refused(text: str) -> None:
    with contextlib.suppress(EnvironmentFailed):
        plan({"pyproject.toml": POETRY, "poetry.lock": text})


GROUPS = '[dependency-groups]\ntest = ["pytest>=8"]\ndev = [{include-group = "test"}]\ndocs = ["sphinx"]\n'
EXTRAS = '[project.optional-dependencies]\ntesting = ["pytest"]\ndev = ["tox"]\ndocs = ["sphinx"]\n'
CHOICES: dict[str, tuple[dict[str, str], dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "all usual groups that exist": ({"pyproject.toml": PROJECT + GROUPS}, {}, ("test", "dev"), ()),
    "configured groups only": ({"pyproject.toml": PROJECT + GROUPS}, {"groups": ("docs",)}, ("docs",), ()),
    "groups that do not exist are left out": ({"pyproject.toml": PROJECT}, {"groups": ("docs",)}, (), ()),
    "usual extras where no test group is": ({"pyproject.toml": PROJECT + EXTRAS}, {}, (), ("testing",)),
    "no extras where a test group is": (
        {"pyproject.toml": PROJECT + GROUPS + EXTRAS},
        {},
        ("test", "dev"),
        (),
    ),
    "configured extras only": ({"pyproject.toml": PROJECT + EXTRAS}, {"extras": ("docs",)}, (), ("docs",)),
    "usual groups beside configured requirements": (
        {"pyproject.toml": PROJECT + GROUPS + EXTRAS, "r.txt": ""},
        {"requirements": ("r.txt",)},
        ("test", "dev"),
        (),
    ),
    "usual extras beside configured groups": (
        {"pyproject.toml": PROJECT + GROUPS + EXTRAS},
        {"groups": ("docs",)},
        ("docs",),
        ("testing",),
    ),
    "usual groups beside configured extras": (
        {"pyproject.toml": PROJECT + GROUPS + EXTRAS},
        {"extras": ("docs",)},
        ("test", "dev"),
        ("docs",),
    ),
    "the extra dev only as a last resort": (
        {"pyproject.toml": PROJECT + '[project.optional-dependencies]\ndev = ["pytest"]'},
        {},
        (),
        ("dev",),
    ),
    "extras that a requirements file names": (
        {"pyproject.toml": PROJECT + EXTRAS, "requirements-dev.txt": "-e .[docs]"},
        {},
        (),
        ("docs",),
    ),
    "extras of setup.cfg": (
        {"setup.cfg": "[metadata]\nname = demo\n[options.extras_require]\ntests =\n  pytest\n"},
        {},
        (),
        ("tests",),
    ),
    "extras of setup.py": (
        {
            "setup.py": "E = {'test': ['pytest'], 'x': []}\nfrom setuptools import setup\nsetup(extras_require=E)"
        },
        {},
        (),
        ("test",),
    ),
    "extras of setup.py in place": (
        {"setup.py": "setup(extras_require={'testing': []})"},
        {},
        (),
        ("testing",),
    ),
    "a setup.py that is no Python": ({"setup.py": "setup(extras_require={'test': []"}, {}, (), ()),
    "dynamic extras of setuptools": (
        {
            "pyproject.toml": BUILD
            + '[project]\nname = "d"\ndynamic = ["version", "optional-dependencies"]\n'
            '[tool.setuptools.dynamic]\noptional-dependencies.test = {file = ["t.txt"]}\n'
        },
        {},
        (),
        ("test",),
    ),
}


@pytest.mark.parametrize(("files", "options", "groups", "extras"), CHOICES.values(), ids=CHOICES.keys())
def test_groups_and_extras(
    files: dict[str, str], options: dict[str, Any], groups: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    found = plan(files, **options)
    assert (found.groups, found.extras) == (groups, extras)


def test_a_test_group_names_pytest_so_that_none_is_added() -> None:
    assert plan({"pyproject.toml": PROJECT + GROUPS}, pytest_version="9.1").requirements == ()


SOURCES: dict[str, tuple[dict[str, str], dict[str, Any], str, str | None, bool]] = {
    "a plain folder": ({"src/a.py": "", "tests/test_a.py": ""}, {}, "lines", None, False),
    "a uv lock": ({"pyproject.toml": BUILD + PROJECT, "uv.lock": ""}, {}, "uv.lock", "pyproject.toml", True),
    "a project with a build system": (
        {"pyproject.toml": BUILD + PROJECT},
        {},
        "project",
        "pyproject.toml",
        True,
    ),
    "a project without one, src layout": (
        {"pyproject.toml": PROJECT, "src/demo/a.py": ""},
        {},
        "project",
        "pyproject.toml",
        True,
    ),
    "a project without one, flat layout": (
        {"pyproject.toml": PROJECT, "demo/__init__.py": ""},
        {},
        "project",
        "pyproject.toml",
        True,
    ),
    "an application with a project table": (
        {"pyproject.toml": PROJECT, "app/main.py": ""},
        {},
        "project",
        "pyproject.toml",
        False,
    ),
    "uv says it is no package": (
        {"pyproject.toml": BUILD + PROJECT + "[tool.uv]\npackage = false"},
        {},
        "project",
        "pyproject.toml",
        False,
    ),
    "only tools are configured": ({"pyproject.toml": "[tool.black]\n"}, {}, "lines", None, False),
    "a setup.py": ({"setup.py": "from setuptools import setup\nsetup()"}, {}, "project", "setup.py", True),
    "a setup.py beside a build system": (
        {"pyproject.toml": BUILD, "setup.py": "import setuptools\nsetuptools.setup()"},
        {},
        "project",
        "setup.py",
        True,
    ),
    "a setup.py that sets nothing up": ({"setup.py": "print()"}, {}, "lines", None, False),
    "a setup.cfg with metadata": ({"setup.cfg": "[metadata]\nname = d"}, {}, "project", "setup.cfg", True),
    "a setup.cfg of tools": ({"setup.cfg": "[flake8]\nx = 1"}, {}, "lines", None, False),
    "poetry": ({"pyproject.toml": BUILD + POETRY}, {}, "lines", None, True),
    "poetry without a package": (
        {
            "pyproject.toml": BUILD
            + POETRY.replace("[tool.poetry.dep", "package-mode = false\n[tool.poetry.dep")
        },
        {},
        "lines",
        None,
        False,
    ),
    "installation switched off": (
        {"pyproject.toml": BUILD + PROJECT},
        {"install_project": False},
        "project",
        "pyproject.toml",
        False,
    ),
    "installation insisted on": (
        {"pyproject.toml": PROJECT},
        {"install_project": True},
        "project",
        "pyproject.toml",
        True,
    ),
}


@pytest.mark.parametrize(
    ("files", "options", "source", "file", "install"), SOURCES.values(), ids=SOURCES.keys()
)
def test_where_dependencies_come_from_and_whether_the_project_is_installed(
    files: dict[str, str], options: dict[str, Any], source: str, file: str | None, install: bool
) -> None:
    found = plan(files, **options)
    assert (found.source, found.project_file, found.install) == (source, file, install)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param({"pyproject.toml": "[project\n"}, r"pyproject\.toml: .*line 1", id="pyproject.toml"),
        pytest.param(
            {"pyproject.toml": POETRY, "poetry.lock": "a=\n"}, r"poetry\.lock: .*line 1", id="poetry.lock"
        ),
        pytest.param(
            {"pyproject.toml": "\n" + "a." * 100_000 + "a = 1"},
            r"pyproject\.toml: a key of more than 60 parts in line 2",
            id="a key without end",
        ),
        pytest.param({"setup.cfg": "no section"}, r"setup\.cfg: .*line", id="setup.cfg"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(files: dict[str, str], words: str) -> None:
    with pytest.raises(EnvironmentFailed, match=words):
        plan(files)


def test_the_digest_knows_what_decides_and_nothing_else() -> None:
    base = {"requirements.txt": "six", "a.py": "1"}
    same = plan({**base, "a.py": "2"}).digest()
    assert plan(base).digest() == same
    assert plan({**base, "requirements.txt": "six>1"}).digest() != same
    assert plan(base, pytest_version="8.0").digest() != same


@pytest.mark.parametrize(
    ("line", "name"),
    [("Foo_Bar>=1", "foo-bar"), ("a[b,c] ; x", "a"), ("x @ https://y", "x"), ("-e ./a", None), ("./a", None)],
)
def test_requirement_names(line: str, name: str | None) -> None:
    assert requirement_name(line) == name


@pytest.mark.parametrize(
    ("constraint", "specifier"),
    [
        ("*", ""),
        ("1.2", "==1.2"),
        ("1.2.*", "==1.2.*"),
        ("=1.2", "==1.2"),
        (">=1,<2", ">=1,<2"),
        (">=1 <2", ">=1,<2"),
        ("^1.2.3", ">=1.2.3,<2"),
        ("^0.2.3", ">=0.2.3,<0.3"),
        ("^0.0.3", ">=0.0.3,<0.0.4"),
        ("^0", ">=0,<1"),
        ("~1.2.3", ">=1.2.3,<1.3"),
        ("~1", ">=1,<2"),
        ("~=1.2", "~=1.2"),
        ("^1 || ^2", ""),
        ("!=1.5", "!=1.5"),
    ],
)
def test_poetrys_constraints(constraint: str, specifier: str) -> None:
    assert poetry.specifier(constraint) == specifier


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"version": "^1", "extras": ["x", "y"]}, "n[x,y]>=1,<2"),
        ({"git": "https://g/n.git", "tag": "v1"}, "n @ git+https://g/n.git@v1"),
        ({"path": "../n", "develop": True}, "-e ../n"),
        ({"path": "lib/n"}, "./lib/n"),
        ({"url": "https://x/n.whl"}, "n @ https://x/n.whl"),
        (
            {"version": "*", "python": ">=3.8,<3.9", "markers": "os_name == 'nt'"},
            "n ; (os_name == 'nt') and python_version >= '3.8' and python_version < '3.9'",
        ),
    ],
)
def test_poetrys_dependencies(value: dict[str, Any], line: str) -> None:
    assert poetry.requirement("n", value) == line


LAYER = {
    "pyproject.toml": BUILD + PROJECT + 'readme = "README.md"\n',
    "src/demo/__init__.py": '__version__ = "1"\nx = 1\n',
    "src/demo/a.py": "a",
    "src/demo/fast.pyx": "p",
    "README.md": "r",
    "notes.md": "n",
    "tests/test_a.py": "t",
}


@pytest.mark.parametrize(
    ("change", "rebuilds"),
    [
        pytest.param({"src/demo/a.py": "b"}, False, id="an edited module"),
        pytest.param({"tests/test_b.py": "b"}, False, id="a new test"),
        pytest.param({"src/demo/new.py": ""}, False, id="a new module in a package"),
        pytest.param({"notes.md": "b"}, False, id="an edited note"),
        pytest.param({"src/demo/__init__.py": '__version__ = "1"\nx = 2\n'}, False, id="an edited __init__"),
        pytest.param({"src/demo/__init__.py": '__version__ = "2"\nx = 1\n'}, True, id="another version"),
        pytest.param({"pyproject.toml": BUILD + PROJECT}, True, id="build configuration"),
        pytest.param({"src/demo/fast.pyx": "q"}, True, id="a compiled source"),
        pytest.param({"README.md": "s"}, True, id="a file that the configuration mentions"),
        pytest.param({"src/other/__init__.py": ""}, True, id="a new package"),
        pytest.param({"single.py": ""}, True, id="a new top-level module"),
    ],
)
def test_the_layer_is_built_again_only_for_what_it_depends_on(change: dict[str, str], rebuilds: bool) -> None:
    some = Plan("project")
    assert (layer_digest(tree(LAYER), some) != layer_digest(tree({**LAYER, **change}), some)) is rebuilds


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("src/demo/fast.so", True),
        ("src/demo.egg-info/PKG-INFO", True),
        ("src/demo/a.py", False),
        ("src/demo/fast.pyx", True),
        ("src/demo/_version.py", True),
    ],
)
def test_products_of_a_build(path: str, kept: bool) -> None:
    assert is_product(path, tree(LAYER)) is kept


def test_the_version_reaches_the_project_and_nothing_else() -> None:
    named = Plan("project", name="My.Demo", scm_version="1.2")
    assert version_env(named, alone=False) == {"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_MY_DEMO": "1.2"}
    assert version_env(named, alone=True)["PBR_VERSION"] == "1.2"
    assert version_env(Plan("project", scm_version="1"), alone=False)["SETUPTOOLS_SCM_PRETEND_VERSION"] == "1"
    assert version_env(Plan("project"), alone=True) == {}


@pytest.mark.parametrize(
    ("root", "mount"),
    [
        ("/home/me/project", "/home/me/project"),
        ("/tmp/x", "/tmp/x"),
        ("/root/p", "/root/p"),
        ("/srv/a/", "/srv/a"),
        ("/data/deep/p", "/data/deep/p"),
        ("/libra/x", "/workspace"),
        ("/", "/workspace"),
        ("/tmp", "/workspace"),
        ("/home", "/workspace"),
        ("/root", "/workspace"),
        ("/usr/src/app", "/workspace"),
        ("/etc/x", "/workspace"),
        ("/lib64/x", "/workspace"),
        ("/ci/x", "/workspace"),
        ("/proc/1", "/workspace"),
        ("C:\\work\\p", "/workspace"),
        ("//server/share", "/workspace"),
        ("rel", "/workspace"),
        ("/a/../etc", "/workspace"),
        ("/a\nb", "/workspace"),
        (None, "/workspace"),
    ],
)
def test_the_workspace_lies_at_the_clients_own_path_where_it_can(root: str | None, mount: str) -> None:
    assert mount_point(root) == mount


@pytest.mark.parametrize(
    ("root", "folder", "mount"),
    [
        ("/home/dev/all/apps/proj", "apps/proj", "/home/dev/all"),
        ("/srv/proj", "proj", "/workspace"),
        ("/etc/x/proj", "proj", "/workspace"),
        ("/proj", "proj", "/workspace"),
        ("/home/dev/proj", "other", "/workspace"),
        ("C:\\all\\proj", "proj", "/workspace"),
        (None, "proj", "/workspace"),
    ],
)
def test_a_workspace_around_the_project_lies_there_too(root: str | None, folder: str, mount: str) -> None:
    assert mount_point(root, folder) == mount


def test_build_files_beside_the_project_decide_about_its_lock() -> None:
    """Files beside it are no members of a uv workspace, whatever its patterns match."""
    pyproject = '[project]\nname = "proj"\ndependencies = ["lib"]\n[tool.uv.workspace]\nmembers = ["*/*"]\n'
    contents = {
        "all/proj/pyproject.toml": pyproject,
        "all/lib/pyproject.toml": "x",
        "all/lib/x.py": "",
        "y": "",
    }

    def plan(**changed: str) -> Plan:
        files = {**contents, **{f"all/lib/{name}.toml": text for name, text in changed.items()}}
        digests = {path: f"{path} {text}" for path, text in files.items()}
        tree = Tree(digests, lambda path: files[path].encode()).seen_from("all/proj")
        assert tree.read("../lib/x.py") == b""
        assert set(tree.digests) >= {"pyproject.toml", "../lib/pyproject.toml", "../../y"}
        return make_plan(tree, SubmitOptions())

    assert [path for path, _ in plan().files] == ["pyproject.toml", "../lib/pyproject.toml"]
    assert not any("../" in line for line in plan().requirements)
    assert plan(pyproject="other").digest() != plan().digest() == plan(unrelated="x").digest()


@pytest.mark.parametrize(
    ("args", "root", "mapped"),
    [
        (["-v", "tests/a.py::t"], "/usr/p", ["-v", "tests/a.py::t"]),
        (["/usr/p/tests/a.py::t[/usr/p]"], "/usr/p", ["/workspace/tests/a.py::t[/usr/p]"]),
        (
            ["--ignore=/usr/p/x", "/usr/pq/x", "/usr/p"],
            "/usr/p",
            ["--ignore=/workspace/x", "/usr/pq/x", "/workspace"],
        ),
        (["C:\\p\\tests\\a.py::T::b"], "C:\\p", ["/workspace/tests/a.py::T::b"]),
    ],
)
def test_arguments_follow_the_workspace(args: list[str], root: str, mapped: list[str]) -> None:
    assert list(map_arguments(args, root, "/workspace")) == mapped


def test_a_layer_is_another_for_another_version_or_name() -> None:
    found = [plan(LAYER, scm_version=version) for version in (None, "1.0.dev1", "1.0.dev2")]
    found.append(replace(found[0], name="another"))
    assert len({layer_digest(tree(LAYER), each) for each in found}) == 4
    assert layer_digest(tree(LAYER), found[1]) == layer_digest(
        tree(LAYER), plan(LAYER, scm_version="1.0.dev1")
    )


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_plan_has_all_that_decides() -> None:
    files = {
        "pyproject.toml": BUILD
        + '[project]\nname = "demo"\ndynamic = ["version"]\n[project.optional-dependencies]\ntest = ["six"]\n',
        "requirements.txt": "--extra-index-url https://example.org/simple\n-c limits.txt\nattrs",
        "limits.txt": "attrs<99",
        "uv.toml": "",
        "poetry.lock": '[[package]]\nname = "attrs"\nversion = "1"\n',
        "demo.py": "",
    }
    found = plan(files, scm_version="1.2", pytest_version="8.3.1", groups=("nope",), extras=("test",))
    assert found == Plan(
        source="project",
        project_file="pyproject.toml",
        requirements=("attrs", "pytest==8.3.1"),
        constraints=("attrs<99", "attrs==1"),
        index_options=("--extra-index-url https://example.org/simple",),
        extras=("test",),
        pytest="pytest==8.3.1",
        adds_pytest=True,
        install=True,
        is_dynamic=True,
        name="demo",
        scm_version="1.2",
        files=tuple(
            (path, digest_of(files[path]))
            for path in ("requirements.txt", "limits.txt", "pyproject.toml", "poetry.lock", "uv.toml")
        ),
    )
    assert found.notes == ("dependency group 'nope' does not exist",)
    unconfigured = plan(files)
    assert unconfigured == Plan(
        source="project",
        project_file="pyproject.toml",
        requirements=("attrs", "pytest"),
        constraints=("attrs<99", "attrs==1"),
        index_options=("--extra-index-url https://example.org/simple",),
        extras=("test",),
        guessed_extras=("test",),
        adds_pytest=True,
        install=True,
        is_dynamic=True,
        name="demo",
        files=tuple(
            (path, digest_of(files[path]))
            for path in ("requirements.txt", "limits.txt", "pyproject.toml", "poetry.lock", "uv.toml")
        ),
    )
    assert unconfigured.notes == ()


def test_the_digest_of_a_plan_is_of_what_decides() -> None:
    found = plan({"requirements.txt": "six"})
    assert found.to_dict().keys() == {*Plan.__dataclass_fields__, "version"} - {"notes", "chosen"}
    assert replace(found, notes=("said",), chosen=("r.txt",)).digest() == found.digest()
    for other in ({"name": "x"}, {"groups": ("x",)}, {"requirements": ("six", "pytest", "x")}):
        assert replace(found, **other).digest() != found.digest()


@pytest.mark.parametrize(
    ("option", "replaced"), [("requirements", True), ("extras", False), ("groups", False)]
)
def test_configured_requirements_replace_what_is_found(option: str, replaced: bool) -> None:
    files = {
        "pyproject.toml": PROJECT
        + '[project.optional-dependencies]\nx = ["six"]\n[dependency-groups]\nx = ["attrs"]\n',
        "requirements.txt": "found",
        "x": "named",
    }
    assert "found" in plan(files).requirements
    assert ("found" not in plan(files, **{option: ("x",)}).requirements) is replaced


def test_a_lock_of_uv_replaces_what_is_found() -> None:
    files = {"pyproject.toml": PROJECT, "uv.lock": "version = 1\n", "requirements.txt": "found"}
    found = plan(files)
    assert (found.source, found.requirements) == ("uv.lock", ())
    assert [path for path, _ in found.files] == ["pyproject.toml", "uv.lock"]


def test_extras_for_tests_are_guessed_beside_a_group_for_development() -> None:
    text = PROJECT + '[project.optional-dependencies]\ntest = ["six"]\n[dependency-groups]\ndev = ["attrs"]\n'
    found = plan({"pyproject.toml": text})
    assert (found.extras, found.guessed_extras, found.groups) == (("test",), ("test",), ("dev",))


@pytest.mark.parametrize(
    ("root", "mount"),
    [
        ("//server/share", "/workspace"),
        ("///home/me/p", "/workspace"),
        ("/home/a/../b", "/workspace"),
        ("/home/a b/c", "/home/a b/c"),
        ("/home/a\x1fb", "/workspace"),
        ("/home/" + "x" * 994, "/home/" + "x" * 994),
        ("/home/" + "x" * 995, "/workspace"),
    ],
)
def test_odd_places_of_a_project(root: str, mount: str) -> None:
    assert mount_point(root) == mount


@pytest.mark.parametrize(
    ("root", "argument", "mapped"),
    [
        ("/r/p", "/r/p/t.py::A::b", "/w/t.py::A::b"),
        ("/r/p/", "/r/p/t.py", "/w/t.py"),
        ("/r/X", "/r/X/t.py", "/w/t.py"),
        ("C:\\p", "C:\\p\\t.py::a\\b::c", "/w/t.py::a\\b::c"),
        ("C:\\p\\", "C:\\p\\a\\t.py::x\\y", "/w/a/t.py::x\\y"),
        ("/r/p", "--opt=/r/p/a=b", "--opt=/w/a=b"),
        ("/r/p", "/r/p:/r/p/x", "/w:/r/p/x"),
        ("/r/p", "/r/pq", "/r/pq"),
        (None, "/w/t.py", "/w/t.py"),
    ],
)
def test_one_argument_is_mapped(root: str | None, argument: str, mapped: str) -> None:
    assert map_arguments(iter([argument]), root, "/w") == (mapped,)
    assert map_arguments(iter([argument]), "/w", "/w") == (argument,)
