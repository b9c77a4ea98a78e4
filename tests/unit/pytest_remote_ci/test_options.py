"""The table of options, compared with pytest itself, with the page that lists our options, and with what uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_remote_ci import options
from pytest_remote_ci.artifacts import destinations, report_kinds
from pytest_remote_ci.config.values import CHECKS
from pytest_remote_ci.job import boot
from pytest_remote_ci.options import BOTH, HERE, JOB, REFUSED, Option
from pytest_remote_ci.session.local_options import OptionArity

TABLE = [pytest.param(option, id=option.names[0]) for option in (*options.OWN, *options.FOREIGN)]


def test_every_spelling_is_in_one_row() -> None:
    rows = (*options.OWN, *options.FOREIGN)
    assert len(options.BY_NAME) == sum(len(option.names) for option in rows)


@pytest.mark.parametrize("option", TABLE)
def test_a_row_says_who_obeys(option: Option) -> None:
    assert option.obeyed_by in (HERE, JOB, BOTH, REFUSED)
    assert bool(option.refused) == (option.obeyed_by == REFUSED)
    if option.resets:  # what the job has obeyed is not obeyed again here
        assert option.obeyed_by == JOB


@pytest.mark.parametrize("option", TABLE)
def test_pytest_agrees_about_values(option: Option, pytestconfig: pytest.Config) -> None:
    arity = OptionArity(pytestconfig)
    for name in option.names:
        if name != "-VV" and arity.is_known(name):
            assert arity(name) in (option.takes_value, None), name


@pytest.mark.parametrize("option", TABLE)
def test_a_setting_that_is_reset_exists(option: Option, pytestconfig: pytest.Config) -> None:
    if any(OptionArity(pytestconfig).is_known(name) for name in option.names):
        assert all(hasattr(pytestconfig.option, name) for name, _ in option.resets)


@pytest.mark.parametrize("option", [row for row in TABLE if row.id in options.OWN_NAMES])
def test_our_own_options_are_declared_as_the_table_has_them(
    option: Option, pytestconfig: pytest.Config
) -> None:
    assert hasattr(pytestconfig.option, options.destination(option))
    assert not option.setting or option.setting in CHECKS


def test_readme_lists_our_own_options() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (`--remote-ci.*?) \|", text.replace("\\|", "/"), re.MULTILINE)
    listed = re.findall(r"--remote-ci[a-z-]*", " ".join(table))
    assert sorted(listed) == sorted(options.OWN_NAMES)


def test_the_job_s_pytest_knows_our_own_options() -> None:
    flags = {option.names[0] for option in options.OWN if not option.takes_value}
    assert flags <= set(boot._FLAGS)
    assert options.OWN_NAMES - flags == set(boot._VALUES) - {"--remote-ci-here"}


def test_every_file_that_an_option_names_has_a_kind() -> None:
    assert {*report_kinds.FILES, "--alluredir"} == destinations.WRITING
