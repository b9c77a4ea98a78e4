"""docs/guide/pipelines.md and the schema are as the code is, and what they show is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ci_runner.pipelines import reference
from ci_runner.pipelines.check import check, choose
from ci_runner.pipelines.parsing.key_table import JOB, PIPELINE, SHARED, STAGE
from ci_runner.pipelines.parsing.values import canonical
from ci_runner.pipelines.planning import make_plan
from ci_runner.pipelines.source import toml as toml_tree
from ci_runner.pipelines.source import yaml as yaml_tree
from ci_runner.pipelines.source.tree import Items, Node, Problems, Table

DOCS = Path(__file__).parents[4] / "docs"
TEXT = (DOCS / reference.PAGE).read_text("utf-8")
BLOCKS = re.findall(r"^```(toml|yaml)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def plain(node: Node) -> Any:
    if isinstance(node, Table):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    return [plain(item) for item in node.items] if isinstance(node, Items) else node.value


def definition(language: str, text: str) -> dict[str, Any]:
    """The pipeline of a block as plain values."""
    if language == "toml":
        (found,) = plain(toml_tree.parse(text))["tool"]["remote-ci"]["pipelines"].values()
        return dict(found)
    tree = yaml_tree.parse(text, Problems("x"))
    assert tree is not None
    return dict(plain(tree))


def test_the_tables_and_the_schema_are_current() -> None:
    again = "run: python -m ci_runner.pipelines.reference docs"
    assert reference.page(TEXT) == TEXT, again
    assert json.loads((DOCS / reference.SCHEMA).read_text("utf-8")) == reference.schema(), again


def test_every_key_is_in_the_tables() -> None:
    for key in (*PIPELINE, *STAGE, *JOB):
        assert f"| `{key}`" in TEXT


@pytest.mark.parametrize(("language", "text"), BLOCKS, ids=[language for language, _ in BLOCKS])
def test_the_examples_are_valid_by_the_checks_and_by_the_schema(language: str, text: str) -> None:
    found = check([(f"full.{language}", text)])
    assert [str(problem) for problem in found.problems] == []
    jsonschema.validate(definition(language, text), reference.schema())


def test_both_forms_of_the_full_example_are_one_plan() -> None:
    toml, yaml = (check([(f"full.{language}", text)]) for language, text in BLOCKS[1:])
    assert make_plan(choose(toml, "full")) == make_plan(choose(yaml, "full"))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(reference.schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"stages": "s"},
        {"stages": [7]},
        {"stages": [{"name": "s", "timeout": "soon"}]},
        {"stages": ["s"], "job": []},
        {"stages": ["s"], "jobs": [{"name": "a", "stage": "s", "scrpt": "x"}]},
        {"stages": ["s"], "jobs": [{"name": "a", "stage": "s", "script": 7}]},
        {"stages": ["s"], "jobs": {"a": {"stage": "s", "timeout": "soon"}}},
        {"stages": ["s"], "jobs": {"a": {"stage": "s", "allowFailure": "maybe"}}},
    ],
)
def test_the_schema_refuses_what_the_checks_refuse(wrong: dict[str, Any]) -> None:
    assert not check([("a.yaml", json.dumps(wrong))]).is_valid
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, reference.schema())


def test_each_spelling_means_its_key() -> None:
    for name, key in {**PIPELINE, **JOB}.items():
        for spelling in reference.spellings(name, key):
            assert canonical(spelling) in (name, *key.also)
    assert set(SHARED) < set(JOB)
