"""A job's options: parsed once, and stored as they came."""

from __future__ import annotations

from typing import Any

import pytest

from ci_runner.errors import PermanentError
from ci_runner.model.job_options import JobOptions
from pytest_remote_ci.wire.protocol import SubmitOptions
from pytest_remote_ci.wire.timing import Timing

SENT = SubmitOptions(
    args=("-x",),
    root="/home/ada/project",
    env={"A": "1"},
    timeout=60.0,
    memory=1 << 30,
    artifacts=("dist/**",),
)


def test_the_phases_before_the_job_are_those_of_both_sides() -> None:
    raw = {
        **SubmitOptions(timing={"start": 0.2, "collect": 0.1}).to_dict(),
        "upload": 0.05,
        "cold": ["whole"],
    }
    timing = JobOptions.from_dict(raw).timing
    assert timing == Timing({"start": 0.2, "collect": 0.1, "upload": 0.05}, ("whole",))
    assert JobOptions.from_dict(SENT.to_dict()).timing == Timing()  # of an older client and runner


def test_what_a_client_sends_comes_back_typed() -> None:
    options = JobOptions.from_dict(SENT.to_dict())
    assert options.submitted == SENT
    assert options.usable() == SENT
    assert options.stored == SENT.to_dict()
    assert (options.script, options.secrets, options.artifacts_from, options.mtimes) == (None, (), (), None)
    assert options.problem is None


def test_keys_of_the_runner_s_own_are_typed_too() -> None:
    raw = {
        **SENT.to_dict(),
        "script": ["make", "make test"],
        "secrets": ["TOKEN"],
        "artifacts_from": ["job-1", "job-2"],
        "mtimes": "ab" * 32,
    }
    options = JobOptions.from_dict(raw)
    assert options.submitted == SENT
    assert options.script == ("make", "make test")
    assert options.secrets == ("TOKEN",)
    assert options.artifacts_from == ("job-1", "job-2")
    assert options.mtimes == "ab" * 32
    assert options.stored == raw


def test_no_script_is_not_an_empty_script() -> None:
    assert JobOptions.from_dict({}).script is None
    assert JobOptions.from_dict({"script": []}).script == ()


@pytest.mark.parametrize(
    "raw",
    [{}, {"args": ["-v"]}, {"protocol": 1, "args": ["-v"]}, {"protocol": 1, "of_a_later_version": [1]}],
    ids=["empty", "without a version", "plain", "unknown key"],
)
def test_old_and_new_rows_parse(raw: dict[str, Any]) -> None:
    options = JobOptions.from_dict(raw)
    assert options.problem is None
    assert options.stored == raw
    assert options.submitted.args == tuple(raw.get("args", ()))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"timeout": "soon"}, "options.timeout: must be a number above 0"),
        ({"protocol": 3}, "options.protocol: this runner speaks version 2, the client 3"),
        ({"protocol": 2, "file_size": 0}, "options.file_size: must be a size of at least 1 MiB"),
        ({"args": ["a\0b"]}, "options.args[0]: must be text"),
        ({"memory": -1}, "options.memory: must be more than 0 bytes"),
        ({"script": "make"}, "options.script: must be a list of strings"),
        ({"script": [1]}, "options.script: must be a list of strings"),
        ({"secrets": {"TOKEN": "x"}}, "options.secrets: must be a list of strings"),
        ({"artifacts_from": "job"}, "options.artifacts_from: must be a list of strings"),
        ({"mtimes": 1}, "options.mtimes: must be text"),
    ],
)
def test_what_cannot_be_read_has_a_reason_and_defaults_and_is_stored_as_it_came(
    raw: dict[str, Any], words: str
) -> None:
    options = JobOptions.from_dict({"artifacts": ["a"], **raw})
    assert options.problem is not None
    assert options.problem.startswith(words)
    assert options.submitted == SubmitOptions()
    assert options.stored == {"artifacts": ["a"], **raw}
    with pytest.raises(PermanentError, match=r"cannot read the job's options: .*; submit it again"):
        options.usable()
    assert options.wants_files


@pytest.mark.parametrize("raw", [[], "x", 1, None])
def test_what_is_no_object_has_a_reason(raw: Any) -> None:
    assert JobOptions.from_dict(raw).problem == "options: must be a JSON object"


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [({}, False), ({"artifacts": []}, False), ({"artifacts": ["a"]}, True), ({"reports": ["a"]}, True)],
)
def test_files_are_wanted_where_the_options_name_some(raw: dict[str, Any], wanted: bool) -> None:
    assert JobOptions.from_dict(raw).wants_files == wanted


def test_secrets_are_in_the_environment_and_not_in_what_is_stored() -> None:
    raw = {**SENT.to_dict(), "script": ["make"]}
    options = JobOptions.from_dict(raw).with_env({"A": "2", "TOKEN": "hidden"})
    assert options.submitted.env == {"A": "2", "TOKEN": "hidden"}
    assert options.submitted.args == SENT.args
    assert options.script == ("make",)
    assert options.stored == raw


def test_secrets_that_no_program_could_get_are_a_problem_that_does_not_show_them() -> None:
    options = JobOptions.from_dict(SENT.to_dict()).with_env({"TOKEN": "hidden\0"})
    assert options.problem is not None
    assert "hidden" not in options.problem
    assert "TOKEN" in options.problem
    unread = JobOptions.from_dict({"timeout": "soon"})
    assert unread.with_env({"TOKEN": "hidden"}) == unread
