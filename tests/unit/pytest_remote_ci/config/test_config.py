"""The developer's configuration: which source wins, what is refused, what a submission says."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_remote_ci.config import config, user_file
from pytest_remote_ci.config.values import Retries
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.wire import keep, protocol

KEY = "ci_" + "a" * 46
OTHER_KEY = "ci_" + "b" * 46


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def load(
    project: Path,
    home: Path,
    *,
    toml: str = "",
    environ: Mapping[str, str] | None = None,
    **overrides: object,
) -> config.Config:
    if toml:
        (project / "pyproject.toml").write_text(f"[tool.remote-ci]\n{toml}\n")
    return config.load(project, overrides=overrides, environ=environ or {}, home=home, platform="linux")


def test_without_any_source_nothing_is_set(project: Path, home: Path) -> None:
    loaded = load(project, home)
    assert loaded == config.Config()
    assert loaded.origin("url") == "default"
    with pytest.raises(ConfigError, match="remote-ci login"):
        config.require_key(loaded)


def test_command_line_beats_environment_beats_project_beats_user_file(project: Path, home: Path) -> None:
    file = user_file.path({}, home, "linux")
    file.parent.mkdir(parents=True)
    file.write_text('url = "http://user"\nname = "user"\nimage = "user"\n')
    toml = 'url = "http://project"\nname = "project"'
    environ = {"REMOTE_CI_URL": "http://environment"}
    loaded = load(project, home, toml=toml, environ=environ, url="http://option")
    assert (loaded.url, loaded.name, loaded.image) == ("http://option", "project", "user")
    assert loaded.origin("url") == "command line"
    assert loaded.origin("name") == f"{project / 'pyproject.toml'} [tool.remote-ci]"
    assert loaded.origin("image") == str(file)
    assert load(project, home, environ=environ).url == "http://environment"
    assert load(project, home, environ=environ).origin("url") == "environment variable REMOTE_CI_URL"
    assert load(project, home).url == "http://project"


@pytest.mark.parametrize(
    ("environ", "url", "key"),
    [
        ({"REMOTE_CI_URL": "http://a", "CI_SERVER_URL": "http://b"}, "http://a", None),
        ({"REMOTE_CI_URL": "", "CI_SERVER_URL": "http://b"}, "http://b", None),
        ({"REMOTE_CI_URL": " ", "CI_SERVER_URL": ""}, None, None),
        ({"CI_SERVER_URL": "https://gitlab.example.com", "GITLAB_CI": "true"}, None, None),
        ({"REMOTE_CI_API_KEY": KEY, "CI_API_KEY": OTHER_KEY}, None, KEY),
        ({"REMOTE_CI_API_KEY": "", "CI_API_KEY": OTHER_KEY}, None, OTHER_KEY),
    ],
    ids=[
        "own name first",
        "empty falls through",
        "blank is empty",
        "an address of GitLab is none",
        "own key name first",
        "empty key falls through",
    ],
)
def test_environment_variables_are_asked_in_order(
    project: Path, home: Path, environ: dict[str, str], url: str | None, key: str | None
) -> None:
    loaded = load(project, home, environ=environ)
    assert (loaded.url, loaded.api_key) == (url, key)


@pytest.mark.case(20, 21, 22, 23)
def test_the_key_comes_from_option_then_environment_then_user_file_then_old_file(
    project: Path, home: Path
) -> None:
    (home / ".ci").mkdir()
    (home / ".ci" / "config").write_text(f"# comment\nurl=ignored\napi_key = {KEY}\napi_key={OTHER_KEY}\n")
    assert load(project, home).api_key == KEY
    user_file.write("http://runner", OTHER_KEY, file=user_file.path({}, home, "linux"))
    assert load(project, home).api_key == OTHER_KEY
    assert load(project, home, environ={"CI_API_KEY": "from-environment"}).api_key == "from-environment"
    assert load(project, home, environ={"CI_API_KEY": "bad"}, api_key=KEY).api_key == KEY


@pytest.mark.case(24)
def test_a_missing_key_is_named_with_the_ways_to_give_one(project: Path, home: Path) -> None:
    with pytest.raises(ConfigError, match=r"`remote-ci login`.*REMOTE_CI_API_KEY"):
        config.require_key(load(project, home))


@pytest.mark.parametrize("content", [b"api_key=\n", b"nothing here\n", b"\xff\xfe\n", b""])
def test_an_old_file_without_a_usable_key_is_ignored(project: Path, home: Path, content: bytes) -> None:
    (home / ".ci").mkdir()
    (home / ".ci" / "config").write_bytes(content)
    assert load(project, home).api_key is None


def test_an_old_file_that_cannot_be_read_is_ignored(project: Path, home: Path) -> None:
    (home / ".ci" / "config").mkdir(parents=True)  # a folder cannot be read, not even by root
    assert load(project, home).api_key is None


@pytest.mark.parametrize("key", ["api-key", "api_key", "key"])
def test_a_key_in_pyproject_is_refused_with_the_reason(project: Path, home: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(project, home, toml=f'{key} = "{KEY}"')
    assert "would be committed" in str(caught.value)
    assert "pyproject.toml" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("excludes = []", "unknown key 'excludes'; did you mean 'exclude'?"),
        ("install_project = true", "unknown key 'install_project'; did you mean 'install-project'?"),
        ("Timeout = 3", "unknown key 'Timeout'; did you mean 'timeout'?"),
        ("zzzzzz = 3", "unknown key 'zzzzzz'; valid keys are url, image,"),
        ("python = 3.10", "python must be a Python version in quotes"),
        ('python = "3"', "python must be a Python version"),
        ('python = "3.10,3.13"', "python must be a Python version in quotes"),
        ("python = []", "python must be a Python version in quotes"),
        ("python = [3.10]", "python must be a Python version in quotes"),
        ("retries = 11", "retries must be a number from 0 to 10"),
        ('retries = "1"', "retries must be a number from 0 to 10"),
        ("retries = { exit-codes = [0] }", "retries must be a number from 0 to 10"),
        ("retries = { counts = 1 }", "retries must be a number from 0 to 10"),
        ('include = "a"', "include must be a list of strings, not 'a'"),
        ('exclude = [""]', "exclude must be a list of non-empty patterns"),
        ('requirements = ["../x.txt"]', "requirements must be a list of paths below the project"),
        ('requirements = ["/etc/x.txt"]', "requirements must be a list of paths below the project"),
        ('install-project = "yes"', "install-project must be true or false, not 'yes'"),
        ('timeout = "3"', "timeout must be seconds above 0"),
        ("timeout = true", "timeout must be seconds above 0"),
        ("cpus = 0", "cpus must be a number above 0"),
        ('memory = "lots"', 'memory must be a size such as "2g"'),
        ("memory = 0", 'memory must be a size such as "2g"'),
        ('shm-size = "big"', "shm-size must be a size of at least 1 MiB, such as \"2g\", not 'big'"),
        ("tmp-size = 1000", 'tmp-size must be a size of at least 1 MiB, such as "2g", not 1000'),
        ("home-size = true", 'home-size must be a size of at least 1 MiB, such as "2g", not True'),
        ('file-size = "-1g"', 'file-size must be a size of at least 1 MiB, such as "2g"'),
        ('secrets = "TOKEN"', "secrets must be a list of strings"),
        ('secrets = ["a b"]', "secrets must be a list of names of environment variables"),
        ('secrets = ["CI_API_KEY"]', "secrets must not contain CI_API_KEY: tests could read the key"),
        ("open-files = 10", "open-files must be an integer from 64 to 1048576, not 10"),
        ('open-files = "1g"', "open-files must be an integer from 64 to 1048576, not '1g'"),
        ('keep = ["."]', "keep: '.' names everything"),
        ('keep = ["~/x*"]', "keep: '~/x*' has wildcards"),
        ('keep = ".hypothesis"', "keep must be a list of strings"),
        ('packages = "bash"', "packages must be a list of strings"),
        ('packages = ["-y"]', "packages: '-y' is not the name of a package"),
        ('packages = ["bash="]', "packages: 'bash=' is not the name of a package"),
        ("restarts = -1", "restarts must be a whole number from 0 to 100"),
        ("restarts = true", "restarts must be a whole number from 0 to 100"),
        ('network = "open"', 'network must be "egress" or "none"'),
        ('url = "runner:8000"', "url must be an address such as"),
        ('url = "http://"', "url must be an address such as"),
        ('url = "http://[bad"', "url must be an address such as"),
        ('env = ["A B"]', "env must be a list of names of environment variables"),
        ('env = ["CI_API_KEY"]', "env must not contain CI_API_KEY: tests could read the key"),
        ("image = 3", "image must be text, not 3"),
        ('name = ""', "name must be text"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_names_key_and_file(
    project: Path, home: Path, toml: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(project, home, toml=toml)
    text = str(caught.value)
    assert text.startswith(f"{project / 'pyproject.toml'} [tool.remote-ci]: ")
    assert expected in text
    assert "\n" not in text
    assert caught.value.exit_code == 4


def test_a_wrong_value_is_an_error_even_where_another_source_wins(project: Path, home: Path) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        load(project, home, toml='timeout = "soon"', timeout=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[tool", "not valid TOML"), ('[tool]\nremote-ci = "x"', "must be a table")],
    ids=["broken TOML", "no table"],
)
def test_a_broken_pyproject_is_named(project: Path, home: Path, text: str, expected: str) -> None:
    (project / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        load(project, home)


def test_a_mistake_in_the_user_file_names_that_file(project: Path, home: Path) -> None:
    file = user_file.path({}, home, "linux")
    file.parent.mkdir(parents=True)
    file.write_text('api_key = "x"')
    with pytest.raises(ConfigError) as caught:
        load(project, home)
    assert str(caught.value) == f"{file}: unknown key 'api_key'; did you mean 'api-key'?"


def test_values_of_the_command_line_may_be_text(project: Path, home: Path) -> None:
    loaded = load(
        project,
        home,
        timeout="90",
        cpus="1.5",
        memory="2g",
        install_project="false",
        include=["a"],
        image=None,
    )
    assert (loaded.timeout, loaded.cpus, loaded.memory) == (90.0, 1.5, 2 << 30)
    assert loaded.install_project is False
    assert loaded.include == ("a",)
    assert loaded.image is None
    with pytest.raises(
        ConfigError, match=r"command line: timeout must be seconds above 0, or a time .* not 'soon'"
    ):
        load(project, home, timeout="soon")


@pytest.mark.parametrize(
    ("typed", "seconds"), [("10m", 600.0), ("1h 30m", 5400.0), ("1.5", 1.5), (90, 90.0), ("90s", 90.0)]
)
def test_a_timeout_is_a_number_or_a_time(project: Path, home: Path, typed: object, seconds: float) -> None:
    assert load(project, home, timeout=typed).timeout == seconds
    assert (
        load(project, home, toml=f"timeout = {typed!r}" if typed != "1.5" else "timeout = 1.5").timeout
        == seconds
    )


@pytest.mark.parametrize("value", ["10x", "m", "0", "nan", "inf", "-1", "1e99", "١m", "", "9" * 200 + "s"])
def test_a_wrong_value_names_the_option_that_was_typed(project: Path, home: Path, value: str) -> None:
    spellings = {"timeout": "--remote-ci-timeout", "env": "--remote-ci-env"}
    with pytest.raises(ConfigError, match=r"^--remote-ci-timeout must be seconds .*10m"):
        config.load(project, overrides={"timeout": value}, spellings=spellings, environ={}, home=home)
    with pytest.raises(
        ConfigError, match=r"^--remote-ci-env must be a list of names of environment variables"
    ):
        config.load(project, additions={"env": ["1x"]}, spellings=spellings, environ={}, home=home)
    (project / "pyproject.toml").write_text("[tool.remote-ci]\ntimeout = 'x'\n")
    with pytest.raises(ConfigError, match=r"^/.*pyproject.toml \[tool.remote-ci\]: timeout must be"):
        config.load(project, spellings=spellings, environ={}, home=home)


@pytest.mark.parametrize(
    ("toml", "typed", "pythons"),
    [
        ('python = "3.12"', None, ("3.12",)),
        ('python = ["3.10", "3.13", "3.10"]', None, ("3.10", "3.13")),
        ('python = ["3.10", "3.13"]', "3.11", ("3.11",)),
        ("", "3.10, 3.13", ("3.10", "3.13")),
        ("", None, ()),
    ],
)
def test_one_python_or_several(
    project: Path, home: Path, toml: str, typed: str | None, pythons: tuple[str, ...]
) -> None:
    loaded = load(project, home, toml=toml, python=typed)
    assert loaded.python == pythons
    sent = loaded.submit_options(root=project, cwd=project, local_python="3.9")
    assert sent.python == (pythons[0] if pythons else "3.9")


@pytest.mark.parametrize(
    ("toml", "typed", "retries"),
    [
        ("retries = 2", None, Retries(2)),
        ("retries = { count = 2, exit-codes = [1, 137, 1] }", None, Retries(2, (1, 137))),
        ("retries = { exit-codes = [1] }", None, Retries(1, (1,))),
        ("retries = 2", "0", Retries(0)),
        ("", "1", Retries(1)),
        ("", "3:1,137", Retries(3, (1, 137))),
        ("", None, Retries()),
    ],
)
def test_retries_are_a_number_with_exit_codes(
    project: Path, home: Path, toml: str, typed: str | None, retries: Retries
) -> None:
    assert load(project, home, toml=toml, retries=typed).retries == retries


@pytest.mark.parametrize("typed", ["x", "-1", "11", "1:", "1:0", "1:256", "1:x", "", ":1", "1:2:3"])
def test_wrong_retries_name_the_option(project: Path, home: Path, typed: str) -> None:
    spellings = {"retries": "--remote-ci-retries"}
    with pytest.raises(ConfigError, match=r"^--remote-ci-retries must be a number from 0 to 10, .* 2:1,137"):
        config.load(project, overrides={"retries": typed}, spellings=spellings, environ={}, home=home)


def test_all_keys_of_the_project_table_are_read(project: Path, home: Path) -> None:
    loaded = load(
        project,
        home,
        toml="""
url = "https://runner.example.com/base/"
image = "python:3.12"
python = "3.12"
include = ["data/*.bin"]
exclude = ["docs/"]
requirements = ["requirements/test.txt"]
extras = ["test"]
groups = ["dev"]
install-project = true
env = ["DATABASE_URL"]
args = ["-p", "no:cacheprovider"]
timeout = 60
cpus = 2
memory = "512m"
network = "none"
restarts = 1
artifacts = ["*.xml"]
name = "unit"
""",
    )
    assert loaded.url == "https://runner.example.com/base"
    assert loaded.memory == 512 << 20
    assert set(loaded.origins.values()) == {f"{project / 'pyproject.toml'} [tool.remote-ci]"}
    assert len(loaded.origins) == 18


def test_describing_the_configuration_never_shows_the_key(project: Path, home: Path) -> None:
    loaded = load(project, home, environ={"REMOTE_CI_API_KEY": KEY}, toml='include = ["a"]')
    lines = list(loaded.describe())
    assert lines == [
        "api-key = ci_…  (environment variable REMOTE_CI_API_KEY)",
        f"include = ['a']  ({project / 'pyproject.toml'} [tool.remote-ci])",
    ]
    assert KEY not in repr(loaded)


def test_a_submission_says_what_is_configured_and_what_the_run_is(project: Path, home: Path) -> None:
    loaded = load(project, home, toml='args = ["-p", "x"]\nenv = ["A", "B"]\nmemory = "1g"\ngroups = ["dev"]')
    options = loaded.submit_options(
        root=project,
        cwd=project / "tests" / "unit",
        args=["-k", "name"],
        environ={"A": "1", "C": "2"},
        local_python="3.11",
        scm_version="1.2",
        columns=0,
    )
    assert options == protocol.SubmitOptions(
        args=("-p", "x", "-k", "name"),
        root=str(project),
        cwd="tests/unit",
        python="3.11",
        groups=("dev",),
        env={"A": "1"},
        memory=1 << 30,
        scm_version="1.2",
        columns=1,
    )
    assert protocol.SubmitOptions.from_dict(options.to_dict()) == options


def test_secrets_are_no_ordinary_variables(project: Path, home: Path) -> None:
    loaded = load(project, home, toml='env = ["A", "TOKEN"]\nsecrets = ["TOKEN", "OTHER"]')
    environ = {"A": "1", "TOKEN": "x", "OTHER": "y"}
    assert loaded.submit_options(root=project, cwd=project, environ=environ).env == {"A": "1"}
    assert loaded.secret_values(environ) == {"TOKEN": "x", "OTHER": "y"}
    with pytest.raises(ConfigError) as caught:
        loaded.secret_values({"A": "1"})
    words = (
        f"{project / 'pyproject.toml'} [tool.remote-ci]: secrets: not set in the environment: OTHER, TOKEN"
    )
    assert str(caught.value) == words


def test_a_configured_image_decides_the_python_unless_one_is_configured(project: Path, home: Path) -> None:
    image = load(project, home, image="own")
    assert image.submit_options(root=project, cwd=project).python is None
    both = load(project, home, image="own", python="3.12")
    assert both.submit_options(root=project, cwd=project).python == "3.12"


@pytest.mark.parametrize("below", ["", "..", "../elsewhere"])
def test_a_working_directory_at_or_outside_the_project_means_its_root(
    project: Path, home: Path, below: str
) -> None:
    cwd = (project / below).resolve()
    assert load(project, home).submit_options(root=project, cwd=cwd).cwd == ""


def test_writing_the_user_file_keeps_other_values_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "config" / "pytest-remote-ci" / "config.toml"
    assert user_file.write("http://one", KEY, file=file) == file
    file.write_text(file.read_text() + 'image = "kept"\n')
    file.chmod(0o644)
    config.write_user_file("http://two", OTHER_KEY, file=file)
    assert user_file.read(file) == {"url": "http://two", "api-key": OTHER_KEY, "image": "kept"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [item.name for item in file.parent.iterdir()] == ["config.toml"]


def test_a_user_file_that_is_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    target = tmp_path / "dotfiles" / "remote-ci.toml"
    target.write_text('name = "kept"\n')
    file = tmp_path / "pytest-remote-ci" / "config.toml"
    file.parent.mkdir()
    file.symlink_to(target)
    user_file.write("http://one", KEY, file=file)
    assert file.is_symlink()
    assert user_file.read(target)["name"] == "kept"


def test_a_user_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be"):
        user_file.write("http://one", KEY, file=tmp_path / "file" / "config.toml")


def test_a_user_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        user_file.read(tmp_path)  # a folder


@pytest.mark.parametrize(
    ("platform", "environ", "config_file", "cache"),
    [
        ("linux", {}, "/h/.config/pytest-remote-ci/config.toml", "/h/.cache/pytest-remote-ci"),
        (
            "linux",
            {"XDG_CONFIG_HOME": "/x", "XDG_CACHE_HOME": "/c"},
            "/x/pytest-remote-ci/config.toml",
            "/c/pytest-remote-ci",
        ),
        (
            "linux",
            {"XDG_CONFIG_HOME": "x"},
            "/h/.config/pytest-remote-ci/config.toml",
            "/h/.cache/pytest-remote-ci",
        ),
        (
            "darwin",
            {"XDG_CONFIG_HOME": "/x"},
            "/h/Library/Application Support/pytest-remote-ci/config.toml",
            "/h/Library/Caches/pytest-remote-ci",
        ),
        (
            "win32",
            {"APPDATA": "/a", "LOCALAPPDATA": "/l"},
            "/a/pytest-remote-ci/config.toml",
            "/l/pytest-remote-ci/cache",
        ),
        (
            "win32",
            {},
            "/h/AppData/Roaming/pytest-remote-ci/config.toml",
            "/h/AppData/Local/pytest-remote-ci/cache",
        ),
    ],
)
def test_each_platform_has_its_folders(
    platform: str, environ: dict[str, str], config_file: str, cache: str
) -> None:
    assert user_file.path(environ, Path("/h"), platform) == Path(config_file)
    assert user_file.cache_folder(environ, Path("/h"), platform) == Path(cache)


@pytest.mark.parametrize(
    ("toml", "environ", "allowed"),
    [
        pytest.param('url = "http://other"', {}, False, id="another runner named by the project gets no key"),
        pytest.param('url = "http://mine/"', {}, True, id="the same runner does"),
        pytest.param(
            'url = "http://other"', {"REMOTE_CI_API_KEY": KEY}, True, id="a key given now goes there"
        ),
        pytest.param(
            'url = "http://other"',
            {"REMOTE_CI_URL": "http://third"},
            True,
            id="an address given now is believed",
        ),
        pytest.param("", {}, True, id="without an address in the project there is nothing to doubt"),
    ],
)
def test_the_key_of_one_runner_is_not_sent_to_another_that_a_project_names(
    project: Path, home: Path, toml: str, environ: dict[str, str], allowed: bool
) -> None:
    config.write_user_file("http://mine", KEY, file=user_file.path({}, home, "linux"))
    if allowed:
        assert load(project, home, toml=toml, environ=environ).api_key == KEY
    else:
        with pytest.raises(ConfigError, match="remote-ci login --url http://other"):
            load(project, home, toml=toml, environ=environ)


def test_pipelines_of_the_project_are_no_settings(project: Path, home: Path) -> None:
    found = load(project, home, toml='name = "x"\n[tool.remote-ci.pipelines.ci]\nstages = ["s"]\n')
    assert dict(found.origins) == {"name": found.origin("name")}


PROFILES = """
url = "http://home"
api-key = "home-key"
name = "mine"
[profiles.work]
url = "http://work"
api-key = "work-key"
image = "of-work"
[profiles.keyless]
url = "http://keyless"
"""


@pytest.fixture
def profiles(home: Path) -> Path:
    file = user_file.path({}, home, "linux")
    file.parent.mkdir(parents=True)
    file.write_text(PROFILES)
    return file


def test_a_profile_chooses_a_runner(project: Path, home: Path, profiles: Path) -> None:
    assert (load(project, home).url, load(project, home).api_key) == ("http://home", "home-key")
    environ = {"REMOTE_CI_URL": "http://environment", "REMOTE_CI_PROFILE": "work"}
    (project / "pyproject.toml").write_text('[tool.remote-ci]\nurl = "http://project"\n')
    named = config.load(project, environ=environ, home=home, platform="linux")
    typed = config.load(project, profile="work", environ={}, home=home, platform="linux")
    for loaded in (named, typed):
        assert (loaded.url, loaded.api_key, loaded.image, loaded.name) == (
            "http://work",
            "work-key",
            "of-work",
            "mine",
        )
        assert loaded.origin("url") == f"{profiles} [profiles.work]"
    both = config.load(project, profile="work", overrides={"url": "http://typed"}, environ={}, home=home)
    assert both.url == "http://typed"


def test_a_profile_never_gets_the_key_of_another_runner(project: Path, home: Path, profiles: Path) -> None:
    loaded = config.load(project, profile="keyless", environ={}, home=home, platform="linux")
    assert (loaded.url, loaded.api_key) == ("http://keyless", None)


def test_a_profile_needs_an_address(project: Path, home: Path, profiles: Path) -> None:
    profiles.write_text('[profiles.work]\napi-key = "k"\n')
    with pytest.raises(ConfigError, match="the profile 'work' needs `url`"):
        config.load(project, profile="work", environ={}, home=home, platform="linux")


def test_an_unknown_profile_names_those_there_are(project: Path, home: Path, profiles: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no profile 'x' \(it has: work, keyless\); `remote-ci login --profile x`"
    ):
        config.load(project, profile="x", environ={}, home=home, platform="linux")
    profiles.write_text("profiles = 3\n")
    assert load(project, home).url is None
    with pytest.raises(ConfigError, match="it has: none"):
        config.load(project, environ={"REMOTE_CI_PROFILE": "x"}, home=home, platform="linux")


def test_login_stores_a_profile_beside_the_others(project: Path, home: Path, profiles: Path) -> None:
    user_file.write("http://new", "new-key", file=profiles, profile="new")
    new = config.load(project, profile="new", environ={}, home=home, platform="linux")
    assert (new.url, new.api_key) == ("http://new", "new-key")
    assert load(project, home).url == "http://home"
    assert config.load(project, profile="work", environ={}, home=home, platform="linux").url == "http://work"


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("", keep.DEFAULT),
        ("keep = []", ()),
        ('keep = [".mypy_cache", "~/.cache/x"]', (".mypy_cache", "~/.cache/x")),
    ],
)
def test_what_jobs_keep_has_defaults(project: Path, home: Path, toml: str, expected: tuple[str, ...]) -> None:
    options = load(project, home, toml=toml).submit_options(root=project, cwd=project, environ={})
    assert options.keep == expected
