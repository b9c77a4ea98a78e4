"""The loader: precedence, parsing, refusals that name the place, and the documentation made from the metadata."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from ci_runner.errors import SettingsError
from ci_runner.settings import loader
from ci_runner.settings.groups import Settings
from ci_runner.settings.loader import Loaded, Option, load, options

DOCS = Path(__file__).parents[4] / "docs"


def read(
    tmp_path: Path, *, toml: str = "", env: dict[str, str] | None = None, args: dict[str, Any] | None = None
) -> Loaded:
    """Load with nothing of this machine: an own data directory, no system file."""
    environ = {"CI_RUNNER_DATA_DIR": str(tmp_path), **(env or {})}
    if toml:
        (tmp_path / loader.FILE_NAME).write_text(toml)
    return load(args or {}, environ, system_file=None)


def by_id(name: str) -> Option:
    return next(option for option in options() if option.id == name)


def test_without_anything_set_every_value_is_the_default(tmp_path: Path) -> None:
    loaded = load({}, {"XDG_DATA_HOME": str(tmp_path)}, system_file=None)
    assert loaded.settings.storage.data_dir == tmp_path / "ci-runner"
    assert loaded.settings.serve == Settings().serve
    assert loaded.settings.reconcile == Settings().reconcile
    assert (loaded.origins, loaded.warnings, loaded.file) == ({}, (), None)


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    toml = "[serve]\nport = 1\nthreads = 2\nhost = '::1'\n"
    env = {"CI_RUNNER_PORT": "3", "CI_RUNNER_THREADS": "4"}
    loaded = read(tmp_path, toml=toml, env=env, args={"serve.port": "5"})
    serve = loaded.settings.serve
    assert (serve.port, serve.threads, serve.host, serve.max_streams) == (5, 4, "::1", 256)
    assert loaded.origins["serve.port"] == "--port"
    assert loaded.origins["serve.threads"] == "CI_RUNNER_THREADS"
    assert loaded.origins["serve.host"].endswith("ci-runner.toml")


def test_defaults_of_the_caller_stand_below_the_file(tmp_path: Path) -> None:
    (tmp_path / loader.FILE_NAME).write_text("[serve]\nport = 1\n")
    given = {"serve.port": ("0", "embedded"), "reconcile.engine": ("auto", "embedded")}
    loaded = load({}, {"CI_RUNNER_DATA_DIR": str(tmp_path)}, defaults=given, system_file=None)
    assert (loaded.settings.serve.port, loaded.settings.reconcile.engine) == (1, "auto")


@pytest.mark.parametrize(
    ("variable", "value", "option", "expected"),
    [
        ("CI_DB_PATH", "/x/y.db", "storage.database", Path("/x/y.db")),
        ("CI_CONTAINER_PREFIX", "abc-", "reconcile.prefix", "abc-"),
        ("CI_RECONCILE_INTERVAL", "0.5", "reconcile.interval", 0.5),
        ("CI_PYTHON_BASE_IMAGE", "img:1", "reconcile.base_image", "img:1"),
        ("CI_RUNNER_MEMORY", "512MB", "reconcile.memory", 512 << 20),
        ("CI_RUNNER_MAX_UPLOAD", "1.5g", "serve.max_upload", 3 << 29),
        ("CI_RUNNER_ALLOWED_IMAGES", "a*, b", "reconcile.allowed_images", ("a*", "b")),
        ("CI_RUNNER_ALLOWED_PACKAGES", "lib*-dev, g++", "reconcile.allowed_packages", ("lib*-dev", "g++")),
        (
            "CI_RUNNER_ALLOW_NETWORK",
            "10.0.0.0/8, 10.9.8.7",
            "reconcile.allow_network",
            ("10.0.0.0/8", "10.9.8.7/32"),
        ),
        ("CI_RUNNER_RECONCILE", "Yes", "serve.reconcile", True),
        ("CI_RUNNER_RECONCILE", "off", "serve.reconcile", False),
        ("CI_RUNNER_IDLE_EXIT", "none", "serve.idle_exit", None),
        ("CI_RUNNER_LOG_LEVEL", "debug", "log.level", "DEBUG"),
        ("CI_RUNNER_PORT", "", "serve.port", 8000),
    ],
    ids=lambda value: str(value),
)
def test_variables_are_read_as_their_option_wants(
    tmp_path: Path, variable: str, value: str, option: str, expected: object
) -> None:
    settings = read(tmp_path, env={variable: value}).settings
    group, name = option.split(".")
    assert getattr(getattr(settings, group), name) == expected


def test_the_own_name_of_a_variable_wins_over_the_older_one(tmp_path: Path) -> None:
    loaded = read(tmp_path, env={"CI_DB_PATH": "/old.db", "CI_RUNNER_DB": "/new.db"})
    assert loaded.settings.storage.database_path == Path("/new.db")


def test_toml_takes_arrays_numbers_sizes_and_both_spellings_of_a_key(tmp_path: Path) -> None:
    toml = """
[reconcile]
allowed-images = ["a", "b"]
default_python = "3.11"
cpus = 2
memory = "3g"
disk = 1048576
[serve]
reconcile = true
"""
    loaded = read(tmp_path, toml=toml)
    reconcile = loaded.settings.reconcile
    assert reconcile.allowed_images == ("a", "b")
    assert (reconcile.default_python, reconcile.cpus, reconcile.memory, reconcile.disk) == (
        "3.11",
        2.0,
        3 << 30,
        1 << 20,
    )
    assert loaded.settings.serve.reconcile is True


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[serve]\nprot = 1\n", ["unknown key 'prot' in [serve]", "did you mean 'port'?"]),
        ("[sevre]\nport = 1\n", ["unknown table [sevre]", "did you mean 'serve'?"]),
        ("[serve]\nzzzzzz = 1\n", ["unknown key 'zzzzzz'", "known: host, port"]),
        ("serve = 1\n", ["serve must be a table"]),
        ("[serve]\nport = '80x'\n", ["[serve] port", "must be a whole number, not '80x'"]),
        ("[serve]\nport = 1.5\n", ["[serve] port", "must be a whole number, not 1.5"]),
        ("[serve]\nport = true\n", ["[serve] port", "must be a whole number, not True"]),
        ("[serve]\nport = 70000\n", ["must be at most 65535, not 70000"]),
        ("[serve]\nthreads = 0\n", ["must be at least 1, not 0"]),
        ("[serve]\nheartbeat = nan\n", ["must be a finite number"]),
        ("[serve]\nreconcile = 'maybe'\n", ["must be true or false, not 'maybe'"]),
        ("[serve]\nhost = 5\n", ["must be text, not 5"]),
        ("[reconcile]\nmemory = '2 elephants'\n", ["must be a size such as 512m or 2g, not '2 elephants'"]),
        ("[reconcile]\nmemory = '1m'\n", ["must be at least 6m, not '1m'"]),
        ("[reconcile]\nnetwork = 'some'\n", ["must be one of egress, none, not 'some'"]),
        ("[reconcile]\nallowed-images = [1]\n", ["must be a list of strings"]),
        (
            "[reconcile]\nallow-network = ['10.1/16']\n",
            ["'10.1/16' is not a network: write it like 10.1.0.0/16"],
        ),
        (
            "[reconcile]\nallow-network = ['10.1.2.3/16']\n",
            ["'10.1.2.3/16' is not a network: write 10.1.0.0/16, or"],
        ),
        ("[reconcile]\nallow-network = ['fd00::/8']\n", ["only IPv4 networks can be opened"]),
        ("[reconcile]\nallow-network = ['::ffff:10.0.0.1']\n", ["only IPv4 networks can be opened"]),
        ("[reconcile]\ntest-timeout = 0\n", ["must be above 0, not 0"]),
        ("[reconcile]\ntest-timeout = []\n", ["must be a number, not []"]),
        ("not toml", ["cannot be read"]),
    ],
    ids=lambda value: value.replace("\n", " ") if isinstance(value, str) else "",
)
def test_a_wrong_file_is_refused_in_one_line_that_names_the_place(
    tmp_path: Path, toml: str, words: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, toml=toml)
    text = str(caught.value)
    assert "\n" not in text
    assert str(tmp_path / "ci-runner.toml") in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("value", ["0", "-1", "abc", "nan", "inf"])
def test_a_useless_interval_gives_a_warning_and_two_seconds(tmp_path: Path, value: str) -> None:
    loaded = read(tmp_path, env={"CI_RECONCILE_INTERVAL": value})
    assert loaded.settings.reconcile.interval == 2.0
    assert len(loaded.warnings) == 1
    assert "CI_RECONCILE_INTERVAL" in loaded.warnings[0]
    assert "2 is used" in loaded.warnings[0]


def test_a_misspelt_variable_gives_a_warning_with_the_nearest(tmp_path: Path) -> None:
    loaded = read(tmp_path, env={"CI_RUNNER_PROT": "1", "CI_RUNNER_FAILPOINTS": "x"})
    assert loaded.warnings == ("CI_RUNNER_PROT: no such setting; did you mean 'CI_RUNNER_PORT'?",)


def test_a_named_file_must_exist_and_is_the_only_one_read(tmp_path: Path) -> None:
    (tmp_path / loader.FILE_NAME).write_text("[serve]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[serve]\nthreads = 3\n")
    environ = {"CI_RUNNER_DATA_DIR": str(tmp_path), "CI_RUNNER_CONFIG": str(other)}
    serve = load({}, environ).settings.serve
    assert (serve.port, serve.threads) == (8000, 3)
    with pytest.raises(SettingsError, match="no such configuration file"):
        load({}, environ, config=tmp_path / "missing.toml")


def test_the_system_file_is_read_when_the_data_directory_has_none(tmp_path: Path) -> None:
    system = tmp_path / "config.toml"
    system.write_text("[serve]\nport = 7\n")
    environ = {"CI_RUNNER_DATA_DIR": str(tmp_path / "data")}
    assert load({}, environ, system_file=system).settings.serve.port == 7


def test_every_option_has_its_own_flag_variable_and_key() -> None:
    flags = [option.flag for option in options()]
    variables = [name for option in options() for name in option.env]
    assert len(set(flags)) == len(flags)
    assert len(set(variables)) == len(variables)
    assert all(option.env and option.info["help"] for option in options())
    assert all(option.env[0].startswith("CI_RUNNER_") for option in options())


def test_every_flag_is_parsed_into_its_option(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    loader.add_arguments(parser, ("storage", "serve", "reconcile", "environments", "log"))
    words = []
    for option in options():
        if option.kind is bool:
            words.append(option.flag)
            continue
        low = option.info.get("minimum", option.info.get("above", 0))
        value = {int: low + 1, float: low + 1, tuple: "a,b"}.get(option.kind, "text")
        if option.id == "reconcile.allow_network":
            value = "10.0.0.0/8,10.1.2.3"
        words.extend([option.flag, str(option.info.get("choices", [value])[0])])
    loaded = load(vars(parser.parse_args(words)), {}, system_file=None)
    assert set(loaded.origins) == {option.id for option in options()}


def test_secrets_are_not_described(tmp_path: Path) -> None:
    loaded = read(tmp_path, env={"CI_RUNNER_INDEX_URL": "https://user:pw@index/simple"})
    text = "\n".join(loaded.describe())
    assert "environments.index_url = (set) (CI_RUNNER_INDEX_URL)" in text
    assert "pw" not in text


@pytest.mark.parametrize(
    ("size", "text"), [(2 << 30, "2g"), (512 << 20, "512m"), (1 << 16, "64k"), (5, "5"), (0, "0")]
)
def test_sizes_are_shown_in_their_largest_whole_unit(size: int, text: str) -> None:
    assert loader.size_text(size) == text


def test_the_documentation_of_the_settings_is_current() -> None:
    assert (DOCS / "reference" / "settings.md").read_text() == loader.document(), (
        "run: python -m ci_runner.settings.loader > docs/reference/settings.md"
    )


def test_the_option_of_the_data_directory_expands_the_home_folder() -> None:
    assert loader.parse(by_id("storage.data_dir"), "~/x", "--data-dir") == Path.home() / "x"
