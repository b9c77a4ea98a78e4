"""Check files and return definitions and problems; also as one JSON request with one JSON answer.

The request comes from `POST /pipelines/check` and from `python -m ci_runner.pipelines`, which a client runs if this
package is installed locally.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from ci_runner.errors import InvalidSubmission
from ci_runner.model.decode import decode, words
from ci_runner.model.field_types import FromOne
from ci_runner.pipelines.definition import Definition
from ci_runner.pipelines.parsing import validate
from ci_runner.pipelines.parsing.parse import document_root, read_pipeline
from ci_runner.pipelines.parsing.values import Value, nearest
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.planning import Choice, make_plan
from ci_runner.pipelines.source import toml, yaml
from ci_runner.pipelines.source.tree import (
    NOWHERE,
    Place,
    Problem,
    Problems,
    Severity,
    Table,
    Unreadable,
    below,
)
from pytest_remote_ci.wire.protocol import WireError

#: Maximum number of files in one request.
MOST_FILES: Final = 100

_YAML: Final = (".yaml", ".yml")


@dataclass(frozen=True)
class Checked:
    """The pipelines and problems found in files."""

    #: In the order of the files, including those with errors.
    pipelines: tuple[Definition, ...]
    problems: tuple[Problem, ...]

    @property
    def is_valid(self) -> bool:
        """Whether there are no errors; warnings are allowed."""
        return not any(problem.severity == "error" for problem in self.problems)

    def allows(self, definition: Definition) -> bool:
        """Return whether the definition's own file has no errors: problems in other pipelines' files do not count."""
        return not any(one.severity == "error" and one.file == definition.file for one in self.problems)


def check(files: Iterable[tuple[str, str]]) -> Checked:
    """Read and check (name, text) pairs: `.toml` is a pyproject.toml, `.yaml` and `.yml` one pipeline each."""
    pipelines: list[Definition] = []
    problems: list[Problem] = []
    for name, text in files:
        found, log = _read(name, text)
        for definition in found:
            validate.check(definition, log)
        pipelines += found
        problems += log.sorted()
    problems += _names(pipelines)
    return Checked(tuple(pipelines), tuple(problems))


def _read(name: str, text: str) -> tuple[list[Definition], Problems]:
    problems = Problems(name)
    suffix = PurePosixPath(name).suffix.lower()
    try:
        if suffix == ".toml":
            return _read_toml(text, problems), problems
        if suffix in _YAML:
            return _read_yaml(name, text, problems), problems
        problems.error(Place(), "", "File extension must be a YAML file (.yaml or .yml), or .toml")
    except Unreadable as error:
        problems.error(error.place, error.path, error.message)
    return [], problems


def _read_toml(text: str, problems: Problems) -> list[Definition]:
    table, path, place = toml.parse(text), "", NOWHERE
    for key in ("tool", "remote-ci", "pipelines"):
        entry = table.entries.get(key)
        path = below(path, key)
        if entry is None:
            return []
        place = entry.key
        if not isinstance(entry.node, Table):
            Value(entry.node, path, problems, place, label=key).must("a table")
            return []
        table = entry.node
    found = []
    for name, entry in table.entries.items():
        inner = below(path, name)
        if not isinstance(entry.node, Table):
            Value(entry.node, inner, problems, entry.key, label=name).must("a table: a pipeline")
        elif not name.strip() or not name.isprintable() or len(name) > 200:
            problems.error(entry.key, inner, "a pipeline's name must be 1 to 200 printable characters")
        else:
            found.append(read_pipeline(entry.node, inner, problems, name, entry.key, is_toml=True))
    return found


def _read_yaml(name: str, text: str, problems: Problems) -> list[Definition]:
    tree = yaml.parse(text, problems)
    if tree is None or (not isinstance(tree, Table) and getattr(tree, "value", "") is None):
        problems.error(Place(), "", "Error parsing pipeline YAML: the file is empty")
        return []
    if not isinstance(tree, Table):
        problems.error(tree.place, "", "Error parsing pipeline YAML: a pipeline is a map with 'stages'")
        return []
    root = document_root(tree, problems)
    return [read_pipeline(root, "", problems, default_name(name), root.place, is_toml=False)]


def default_name(file: str) -> str:
    """Return the default name of a file's pipeline: ``ci`` for ``.pipelines/ci.yaml``."""
    return PurePosixPath(file.replace("\\", "/")).stem or "pipeline"


def _names(pipelines: Iterable[Definition]) -> list[Problem]:
    """Return a problem for each repeated pipeline name (ignoring case), with the position of the first."""
    first: dict[str, Definition] = {}
    problems = []
    for definition in pipelines:
        before = first.setdefault(definition.name.casefold(), definition)
        if before is not definition:
            named = definition.named
            place = before.named.place
            there = f"{before.file}:{place.line}" if place.is_known else before.file
            message = f"Duplicate pipeline name {definition.name!r} (case is ignored); first in {there}"
            problems.append(Problem(definition.file, named.place, named.path, message))
    return problems


def choose(checked: Checked, name: str | None) -> Definition:
    """Return the pipeline with that name, or the only one; raises `InvalidSubmission`."""
    names = [definition.name for definition in checked.pipelines]
    if name is None and len(names) == 1:
        return checked.pipelines[0]
    if not names:
        raise InvalidSubmission("no pipeline is defined")
    if name is None:
        raise InvalidSubmission(f"there are several pipelines; name one of: {', '.join(names)}")
    exact = [definition for definition in checked.pipelines if definition.name == name]
    found = exact or [one for one in checked.pipelines if one.name.casefold() == name.casefold()]
    if not found:
        raise InvalidSubmission(f"no pipeline {name!r}{nearest(name, names)}")
    return found[0]


class PlanQuestion(Struct, frozen=True, forbid_unknown_fields=True):
    """Which plan is wanted."""

    pipeline: str | None = None
    stages: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    changed: Annotated[
        tuple[str, ...] | None, Meta(description="changed paths; null: unknown, nothing is left out")
    ] = None
    tag: str | None = None
    keep_going: bool | None = None


_ABOUT_FILES: Final = "[name, text] of each file; the name's ending tells whether it is TOML or YAML"
_SHAPE: Final = f"must be a list of 1 to {MOST_FILES} pairs [name, text]"
_File = Annotated[tuple[str, str], words("must be [name, text]")]


class PipelineQuestion(Struct, frozen=True):
    """Files of pipelines to check."""

    files: Annotated[
        tuple[_File, ...],
        words(_SHAPE, min_length=1, max_length=MOST_FILES, description=_ABOUT_FILES),
    ]
    plan: Annotated[PlanQuestion | None, Meta(description="asks for a plan, too")] = None


class ProblemSummary(Struct, frozen=True, forbid_unknown_fields=True):
    """An error or warning about a file, for its author."""

    file: str
    line: Annotated[FromOne | None, Meta(description="null in TOML, but for errors of syntax")]
    column: FromOne | None
    path: Annotated[str, Meta(description="the exact key, as jobs[2].needs[0]")]
    message: str
    severity: Severity


class PipelineSummary(Struct, frozen=True, forbid_unknown_fields=True):
    """One of the pipelines in the files."""

    name: str
    file: str
    line: Annotated[int | None, Meta(description="null in TOML")]
    stages: tuple[str, ...]
    jobs: tuple[str, ...]


class PipelineAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    """What was found in the files."""

    valid: bool
    problems: list[ProblemSummary]
    pipelines: list[PipelineSummary]
    plan: Plan | UnsetType = UNSET
    refused: (
        Annotated[str, Meta(description="why there is no plan though the files are valid")] | UnsetType
    ) = UNSET


def answer(question: object) -> dict[str, object]:
    """Answer a `PipelineQuestion` with a `PipelineAnswer`, both as JSON; raises `WireError` if the question is invalid.

    If a plan was requested and its file has no errors, the answer also has `plan`, or `refused` with the reason why
    there is none.
    """
    if not isinstance(question, dict):
        raise WireError("body: must be a JSON object")
    # Without files the message names the valid ones.
    asked = decode("", {"files": None, **question}, PipelineQuestion)
    checked = check(asked.files)
    found = PipelineAnswer(
        valid=checked.is_valid,
        problems=[_problem(problem) for problem in checked.problems],
        pipelines=[_summary(definition) for definition in checked.pipelines],
    )
    result: dict[str, object] = to_builtins(found)
    if asked.plan is not None:
        wanted = asked.plan
        try:
            chosen = choose(checked, wanted.pipeline)
            if checked.allows(chosen):
                choice = Choice(wanted.stages, wanted.jobs, wanted.changed, wanted.tag, wanted.keep_going)
                result["plan"] = make_plan(chosen, choice).to_dict()
        except InvalidSubmission as error:
            result["refused"] = str(error)
    return result


def _problem(problem: Problem) -> ProblemSummary:
    return ProblemSummary(
        file=problem.file,
        line=problem.place.line or None,
        column=problem.place.column or None,
        path=problem.path,
        message=problem.message,
        severity=problem.severity,
    )


def _summary(definition: Definition) -> PipelineSummary:
    return PipelineSummary(
        name=definition.name,
        file=definition.file,
        line=definition.named.place.line or None,
        stages=tuple(stage.name for stage in definition.stages),
        jobs=tuple(job.name for job in definition.jobs),
    )
