"""Which environment variables a submission may give to a job: refused alike by configuration, wire and pipelines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ci_runner.pipelines.check import check
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.request import RunRequest
from pytest_remote_ci.config.config import load
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.wire import checks, job_variables
from pytest_remote_ci.wire.protocol import SubmitOptions, WireError

REFUSED = (
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "PYTHONUSERBASE",
    "PYTHONEXECUTABLE",
    "PYTHONPLATLIBDIR",
    "PYTHONPYCACHEPREFIX",
    "PYTHON_PRESITE",
    "PYTHON",
    "PYTHON_OF_SOME_LATER_VERSION",
    "REMOTE_CI_RECORDS",
    "REMOTE_CI_CAPTURED",
    "REMOTE_CI_CONTINUED",
    "REMOTE_CI_URL",
    "REMOTE_CI_ANYTHING",
    "CI_RUNNER_DATA_DIR",
)
PASSED = (
    *sorted(job_variables.HARMLESS),
    "PATH",
    "HOME",
    "TOKEN",
    "LDAP_URL",
    "MY_LD_PRELOAD",
    "PYTEST_ADDOPTS",
    "CI",
)

PIPELINE = "stages: [s]\njobs: [{{name: a, stage: s, {body}}}]\n"


def plan_of(body: str) -> dict[str, Any]:
    checked = check([(".pipelines/ci.yaml", PIPELINE.format(body=body))])
    assert checked.is_valid, checked.problems
    from ci_runner.pipelines.planning import Choice, make_plan

    return make_plan(checked.pipelines[0], Choice()).to_dict()


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_name_is_refused_everywhere_in_one_line(name: str, tmp_path: Path) -> None:
    reason = job_variables.refusal(name)
    assert reason is not None
    assert reason.startswith(f"{name} cannot be passed to a job: ")
    assert "; " in reason or " or " in reason, "says what to do"
    with pytest.raises(WireError, match=f"^options.env: {re.escape(reason)}$"):
        SubmitOptions.from_json(json.dumps({"env": {name: "x"}}))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, overrides={"env": (name,)}, environ={}, home=tmp_path)
    assert str(caught.value) == f"command line: env: {reason}"
    (tmp_path / "pyproject.toml").write_text(f"[tool.remote-ci]\nenv = ['{name}']\n")
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load(tmp_path, environ={}, home=tmp_path)
    for body in (f"env: {{{name}: x}}", f"secrets: [{name}]"):
        (problem,) = check([(".pipelines/ci.yaml", PIPELINE.format(body=body))]).problems
        assert str(problem).endswith(f": {reason}")


@pytest.mark.parametrize("name", REFUSED)
def test_a_plan_or_options_that_skip_the_check_of_the_client_are_refused(name: str) -> None:
    plan = plan_of("env: {FINE: x}, secrets: [FINE]")
    for key, value in (("env", {name: "x"}), ("secrets", [name])):
        changed = json.loads(json.dumps(plan))
        changed["jobs"][0][key] = value
        request = RunRequest.from_json(
            json.dumps({"plan": changed, "secrets": {name: "value", "FINE": "value"}})
        )
        with pytest.raises(WireError, match=rf"^{key} of job 'a': {name} cannot be passed"):
            request.complete(Plan.from_dict(changed))
    with pytest.raises(WireError, match=f"options.env: {name} cannot"):
        RunRequest.from_json(json.dumps({"plan": plan, "submit": {"env": {name: "x"}}}))


@pytest.mark.parametrize("name", PASSED)
def test_other_names_are_passed(name: str, tmp_path: Path) -> None:
    assert SubmitOptions.from_json(json.dumps({"env": {name: "x"}})).env == {name: "x"}
    assert load(tmp_path, overrides={"env": (name,)}, environ={}, home=tmp_path).env == (name,)
    assert check(
        [(".pipelines/ci.yaml", PIPELINE.format(body=f"env: {{{name}: x}}, secrets: [{name}]"))]
    ).is_valid


def test_services_get_what_they_want() -> None:
    service = {"name": "db", "image": "x", "env": {"PYTHONPATH": "/srv", "LD_LIBRARY_PATH": "/opt"}}
    assert SubmitOptions.from_json(json.dumps({"services": [service]})).services[0]["env"] == service["env"]
    body = "services: [{name: db, image: x, env: {PYTHONPATH: /srv}}]"
    assert check([(".pipelines/ci.yaml", PIPELINE.format(body=body))]).is_valid


def test_what_was_stored_before_a_name_was_refused_can_still_be_read() -> None:
    assert SubmitOptions.from_dict({"env": {"PYTHONPATH": "x"}}).env == {"PYTHONPATH": "x"}
    plan = plan_of("env: {FINE: x}")
    plan["jobs"][0]["env"] = {"PYTHONPATH": "x"}
    assert Plan.from_dict(plan).jobs[0].env == {"PYTHONPATH": "x"}


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"A=B": "x"}, "'A=B' is not a valid name of an environment variable"),
        ({"": "x"}, "'' is not a valid name"),
        ({"A\n": "x"}, r"'A\n' is not a valid name"),
        ({"A\0": "x"}, r"'A\x00' is not a valid name"),
        ({"1A": "x"}, "'1A' is not a valid name"),
        ({"ä": "x"}, "'ä' is not a valid name"),
        ({"A" * 1001: "x"}, "is not a valid name"),
        ({1: "x"}, "'1' is not a valid name"),
        ({"A": 1}, "options.env.A: must be text"),
        ({"A": None}, "options.env.A: must be text"),
        ({"A": ["x"]}, "options.env.A: must be text"),
        ({"A": "x\0y"}, "options.env.A: must be text without NUL characters"),
        ({"A": "\ud800"}, "options.env.A: must be text"),
        ({"A": "x" * 131_072}, "at most 131071 bytes"),
        ({"A": "ä" * 65_536}, "at most 131071 bytes"),
        ({f"A{number}": "" for number in range(1001)}, "options.env: at most 1000 variables"),
        ({f"A{number}": "x" * 131_000 for number in range(9)}, "more than 1048576 bytes together"),
        ([["A", "x"]], "options.env: must be an object of texts"),
    ],
    ids=str,
)
def test_variables_that_cannot_be_are_refused_in_one_short_line(env: Any, words: str) -> None:
    with pytest.raises(WireError) as caught:
        SubmitOptions.from_client({"env": env})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["", "a\nb", "a=b", "\udcff", "ä€😀", " ", "x" * 131_071])
def test_values_of_every_other_kind_pass(value: str) -> None:
    assert checks.as_environment("env", {"A": value}) == {"A": value}


def test_the_documentation_has_the_same_names() -> None:
    text = (Path(__file__).parents[4] / "docs" / "reference" / "wire.md").read_text()
    section = text.partition("## Variables of a job")[2].partition("\n## ")[0]
    listed = section.partition("may be passed: ")[2].partition("\n")[0]
    assert frozenset(re.findall(r"`(\w+)`", listed)) == job_variables.HARMLESS
    for name in re.findall(r"`((?:PYTHON|LD_|REMOTE_CI_)\w+)`", section.partition("may be passed: ")[0]):
        assert job_variables.refusal(name) is not None
