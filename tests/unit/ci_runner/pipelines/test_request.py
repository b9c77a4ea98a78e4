"""Options of a run, and of a repetition: what the OpenAPI document names is accepted, the rest is refused by name."""

from __future__ import annotations

import json

import pytest

from ci_runner.pipelines.request import RerunRequest, RunRequest
from ci_runner.server.openapi.document import document
from pytest_remote_ci.wire.protocol import WireError

FULL = {
    "protocol": 1,
    "pipeline": "ci",
    "stages": ["test"],
    "jobs": ["unit"],
    "changed": ["src/a.py"],
    "tag": "v1",
    "keep_going": True,
    "secrets": {"TOKEN": "x"},
    "timeout": 60,
    "submit": {"args": ["-v"]},
}


def test_everything_that_is_described_is_accepted() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["RunRequest"]["properties"].keys() == {*FULL, "plan"}
    found = RunRequest.from_json(json.dumps(FULL))
    assert (found.pipeline, found.stages, found.jobs) == ("ci", ("test",), ("unit",))
    assert (found.changed, found.tag, found.keep_going, found.timeout) == (("src/a.py",), "v1", True, 60.0)
    assert (dict(found.secrets), found.submit.args) == ({"TOKEN": "x"}, ("-v",))


def test_null_is_as_good_as_nothing() -> None:
    assert RunRequest.from_json(json.dumps(dict.fromkeys(FULL.keys() - {"protocol"}))) == RunRequest()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "options: must be a JSON object"),
        ({"stage": "test"}, "options.stage: is unknown to this runner"),
        ({"job": "unit"}, "options.job: is unknown to this runner"),
        ({"protocol": 9}, "options.protocol: this runner speaks version 1, the client 9"),
        ({"stages": "test"}, "options.stages: must be a list of strings"),
        ({"jobs": [1]}, "options.jobs[0]: must be text"),
        ({"changed": {}}, "options.changed: must be a list of strings"),
        ({"pipeline": " "}, "options.pipeline: must be text of 1 to 1000 characters"),
        ({"tag": "x" * 1001}, "options.tag: must be text of 1 to 1000 characters"),
        ({"keep_going": 1}, "options.keep_going: must be true or false"),
        ({"timeout": 0}, "options.timeout: must be a number of seconds above 0"),
        ({"timeout": 10**400}, "options.timeout: must be a number of seconds above 0"),
        ({"secrets": []}, "secrets: must be an object of texts"),
        ({"submit": {"cpus": -1}}, "options.cpus: must be a number above 0"),
        ({"plan": 1}, "plan: must be a JSON object"),
    ],
)
def test_the_rest_is_refused_by_name(raw: object, message: str) -> None:
    with pytest.raises(WireError) as caught:
        RunRequest.from_json(json.dumps(raw))
    assert str(caught.value) == message


def test_a_refusal_never_holds_a_secret() -> None:
    with pytest.raises(WireError) as caught:
        RunRequest.from_json(json.dumps({"secrets": {"TOKEN": "hunter2\0"}}))
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(RunRequest.from_json(json.dumps({"secrets": {"TOKEN": "hunter2"}})))


def test_a_repetition_s_options_are_those_that_are_described() -> None:
    described = document()["components"]["schemas"]["RerunRequest"]["properties"]
    raw = {"failed": True, "stage": "test", "job": None, "secrets": {"A": "x"}}
    assert described.keys() == raw.keys()
    assert RerunRequest.from_json(json.dumps(raw)) == RerunRequest(True, "test", None, {"A": "x"})
