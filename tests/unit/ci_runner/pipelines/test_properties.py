"""What holds for every definition and every text."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import pytest
import tomli_w
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ci_runner.pipelines.check import answer, check
from ci_runner.pipelines.graph import find_cycle
from ci_runner.pipelines.parsing.key_table import JOB, PIPELINE
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.planning import Choice, make_plan
from ci_runner.pipelines.source import toml as toml_tree
from ci_runner.pipelines.source import yaml as yaml_tree
from ci_runner.pipelines.source.tree import Items, Node, Problems, Scalar, Table
from pytest_remote_ci.wire.protocol import WireError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = ("a", "b", "c d", "e.f", "g-h", "ü")
modest = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    """Pipelines with jobs in any order, whose needs go anywhere: some are cyclic or backwards."""
    stages = draw(st.lists(st.sampled_from(["s1", "s2", "s3"]), min_size=1, max_size=3, unique=True))
    jobs = {}
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=6, unique=True)):
        job: dict[str, Any] = {"stage": draw(st.sampled_from(stages))}
        job["needs"] = draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True))
        if draw(st.booleans()):
            job["matrix"] = {
                "x": draw(st.lists(st.sampled_from("123"), min_size=1, unique=True)),
                "y": ["1", "2"],
            }
        if draw(st.booleans()):
            job["when"] = draw(st.sampled_from([{"tag": "v*"}, {"changed": ["docs"]}, "never", "always"]))
        jobs[name] = job
    return {"stages": stages, "jobs": jobs}


choices = st.builds(
    Choice,
    changed=st.sampled_from([None, (), ("docs/a",), ("src/b",)]),
    tag=st.sampled_from([None, "v1", "x"]),
)


def as_toml(definition: dict[str, Any]) -> tuple[str, str]:
    return "pyproject.toml", tomli_w.dumps({"tool": {"remote-ci": {"pipelines": {"p": definition}}}})


def as_yaml(definition: dict[str, Any]) -> tuple[str, str]:
    jobs = [{"name": name, **job} for name, job in definition["jobs"].items()]
    return "p.yaml", json.dumps({**definition, "jobs": jobs}, indent=1, ensure_ascii=False)


@modest
@given(definitions(), choices)
def test_what_is_accepted_gives_a_plan_without_cycles_in_the_order_of_stages(
    definition: dict[str, Any], choice: Choice
) -> None:
    found = check([as_toml(definition)])
    if not found.is_valid:
        return
    plan = make_plan(found.pipelines[0], choice)
    order = {stage: index for index, stage in enumerate(plan.stages)}
    jobs = {job.name: job for job in plan.jobs}
    assert find_cycle({job.name: job.needs for job in plan.jobs}) == []
    assert [order[job.stage] for job in plan.jobs] == sorted(order[job.stage] for job in plan.jobs)
    ancestors: dict[str, set[str]] = {}

    def above(name: str) -> set[str]:
        if name not in ancestors:
            direct = jobs[name].needs
            ancestors[name] = set(direct).union(*(above(need) for need in direct))
        return ancestors[name]

    for job in plan.jobs:
        for need in job.needs:
            assert order[jobs[need].stage] <= order[job.stage]
            assert job.skipped or not jobs[need].skipped
        if not job.skipped:  # whoever takes part starts after all earlier stages' jobs that take part
            earlier = {
                one.name for one in plan.jobs if order[one.stage] < order[job.stage] and not one.skipped
            }
            assert earlier <= above(job.name)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@modest
@given(definitions(), choices)
def test_both_forms_say_the_same_every_time(definition: dict[str, Any], choice: Choice) -> None:
    toml, again, yaml_ = (
        check([file]) for file in (as_toml(definition), as_toml(definition), as_yaml(definition))
    )
    assert toml == again
    assert toml.is_valid == yaml_.is_valid
    assert sorted(one.message for one in toml.problems) == sorted(one.message for one in yaml_.problems)
    if toml.is_valid:
        assert make_plan(toml.pipelines[0], choice) == make_plan(yaml_.pipelines[0], choice)


keys = st.sampled_from(
    [*PIPELINE, *JOB, "pipeline", "dockerImage", "x-y", "<<", "", "\0", "changed", "tag", "count", "paths"]
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["a", "s", "{x}", "3.10", "10m", "2g", "*", "..", "/x", "9" * 400, 10**4000]),
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(keys | st.text(max_size=3), inner, max_size=6)
    ),
)
pipelines = st.dictionaries(keys, trees, max_size=8)


def told(name: str, text: str) -> None:
    """Check a text: whatever it is, problems with places come out, and a plan when there are none."""
    found = check([(name, text)])
    lines = text.replace("\r\n", "\n").count("\n") + text.count("\r") + text.count("\x85") + 2
    for problem in found.problems:
        if not problem.place.is_known:
            assert name.endswith(".toml")
            assert problem.path or problem.message.startswith(("not valid TOML: Exceeds", "nested more"))
            continue
        assert 1 <= problem.place.line <= lines + text.count("\u2028") + text.count("\u2029")
        assert problem.place.column >= 1
        assert str(problem).count("\n") == 0 or "\n" in problem.path, str(problem)
    if found.is_valid:
        for definition in found.pipelines:
            plan = make_plan(definition)
            assert Plan.from_dict(plan.to_dict()) == plan


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pipelines)
def test_any_shape_is_checked_without_a_fault(shape: dict[str, Any]) -> None:
    told("p.yaml", json.dumps(shape, allow_nan=True, default=str))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pipelines)
def test_any_shape_of_toml_is_checked_without_a_fault(shape: dict[str, Any]) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item is not None}
        if isinstance(value, list):
            return [plain(item) for item in value if item is not None]
        return value

    told("pyproject.toml", tomli_w.dumps({"tool": {"remote-ci": {"pipelines": {"p": plain(shape)}}}}))


VALID = """\
name: p # a pipeline
x-base: &base {image: "a:1", script: [one, 'two']}
stages: [s, {name: t}]
jobs:
  - {name: a, stage: s, <<: *base}
  - name: b
    stage: t
    needs: a
    script: |
      one
      two
"""


@settings(max_examples=100, deadline=None)
@given(st.text(), st.data())
@example("\ud800", None)
@example("\x07", None)
@example("a: &a [*a]", None)
@example("- " * 2000, None)
@example("[" * 5000, None)
@example("? [a]\n: b", None)
@example("!!python/object:os.system x", None)
@example("a: b\n---\nc: d", None)
@example("x = " + "[" * 3000, None)
@example("x = " + "9" * 5000, None)
@example("x = 0x" + "f" * 5000, None)
def test_any_text_is_checked_without_a_fault(text: str, data: Any) -> None:
    if data is not None:
        at = data.draw(st.integers(0, len(VALID)))
        cut = data.draw(st.integers(0, 5))
        told("p.yaml", VALID[:at] + text + VALID[at + cut :])
    told("p.yaml", text)
    told("pyproject.toml", text)


@modest
@given(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_question_is_answered_or_refused(question: Any) -> None:
    for asked in (question, {"files": question}, {"files": [["a.yaml", VALID]], "plan": question}):
        with contextlib.suppress(WireError):
            assert json.dumps(answer(asked))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("3.10", "3.10"),
        ("'3.10'", "3.10"),
        ("1_0.50", "1_0.50"),
        ("-1.5e3", "-1.5e3"),
        ("inf", "inf"),
        ("true", "true"),
        ("0x1F", "31"),
        ("0x" + "f" * 5_000, "0x" + "f" * 5_000),
        ("2026-01-02", "2026-01-02"),
    ],
)
def test_a_plain_value_of_toml_keeps_its_text(written: str, text: str) -> None:
    (entry,) = toml_tree.parse(f"x = [{written}]").entries.values()
    assert isinstance(entry.node, Items)
    (found,) = entry.node.items
    assert isinstance(found, Scalar)
    assert found.text == text
    assert found.value == tomllib.loads(f"x = {written}")["x"]
    assert type(found.value) is type(tomllib.loads(f"x = {written}")["x"])


@pytest.mark.parametrize("key", [*PIPELINE, *JOB])
def test_a_number_without_end_is_a_mistake_wherever_it_stands(key: str) -> None:
    number = "0x" + "f" * 5_000
    head = "[tool.remote-ci.pipelines.p]\n"
    told("pyproject.toml", f"{head}{key} = {number}\n")
    told("pyproject.toml", f"{head}stages = ['s']\njobs.a = {{stage = 's'}}\njobs.b.{key} = {number}\n")


def plain_of(node: Node) -> Any:
    if isinstance(node, Table):
        return {key: plain_of(entry.node) for key, entry in node.entries.items()}
    return [plain_of(item) for item in node.items] if isinstance(node, Items) else node.value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(max_size=4), trees, max_size=4))
def test_json_is_read_as_what_it_says(value: dict[str, Any]) -> None:
    """YAML 1.2 holds JSON; PyYAML's own reading would make dates and base-60 numbers out of texts and keys."""
    text = json.dumps(value, allow_nan=True, default=str, ensure_ascii=False)
    if len(text) > 3000 or not text.isprintable() or any(word in text for word in ("NaN", "Infinity", "<<")):
        return  # other characters must be escaped in YAML
    found = yaml_tree.parse(text, Problems("p.yaml"))
    assert isinstance(found, (Table, Items, Scalar))
    assert plain_of(found) == json.loads(text)


def test_both_parsers_of_yaml_give_the_same_tree() -> None:
    fast = yaml_tree.parse(VALID, Problems("x"))
    slow = yaml_tree.parse(VALID, Problems("x"), yaml_tree.loader(yaml.SafeLoader))
    assert fast == slow


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.toml", "a." * 60_000 + "a = 1"),
        ("p.toml", '"?" . ' * 40_000 + "a = 1"),
        ("p.toml", "x = " + "[" * 100_000),
        ("p.yaml", "[" * 100_000),
        ("p.yaml", "- " * 100_000),
        ("p.yaml", "? " * 100_000),
        (
            "p.yaml",
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} {{<<: *a{i - 1}, k{i}: 1}}\n" for i in range(1, 5000)),
        ),
        ("p.yaml", "".join(f"a{i}: &a [x]\n" for i in range(10_000))),
        (
            "p.yaml",
            "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{'*a, ' * 8}]\na: &a\n" for i in range(9)),
        ),
        ("p.yaml", "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 30))),
        (
            "p.yaml",
            "stages: [s]\njobs:\n"
            + "".join(f"- {{name: a{i}, stage: s, needs: b{i}}}\n" for i in range(999)),
        ),
    ],
    ids=[
        "dotted",
        "quoted",
        "arrays",
        "flow",
        "block",
        "keys",
        "merges",
        "anchors",
        "again",
        "bomb",
        "unknown",
    ],
)
def test_no_text_takes_long(name: str, text: str) -> None:
    started = time.process_time()
    told(name, text)
    assert time.process_time() - started < 10
