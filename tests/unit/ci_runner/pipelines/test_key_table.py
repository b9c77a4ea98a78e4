"""The table of keys and the types of what its readers return name the same fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from ci_runner.pipelines.definition import JobDefinition
from ci_runner.pipelines.parsing.job_values import RESOURCES
from ci_runner.pipelines.parsing.key_table import SHARED
from ci_runner.pipelines.parsing.parse import JobFields, Resources

#: Keys that stand for others: ``docker`` for ``image``, ``resources`` for its own keys.
FOR_OTHERS = {"docker", "resources"}


def field_names(keys: Iterable[str]) -> set[str]:
    return {key.replace("-", "_") for key in keys}


def test_each_key_of_a_job_has_a_typed_field() -> None:
    assert field_names(SHARED) - FOR_OTHERS == set(JobFields.__annotations__)
    assert field_names(RESOURCES) == set(Resources.__annotations__)


def test_each_typed_field_is_one_of_a_job_definition() -> None:
    known = {item.name: str(item.type).removesuffix(" | None") for item in fields(JobDefinition)}
    for kind in (JobFields, Resources):
        for name, hint in kind.__annotations__.items():
            assert known[name] == hint.__forward_arg__, name
