"""Check files and return definitions and problems; also as one JSON request with one JSON answer.

The request comes from `POST /pipelines/check` and from `python -m ci_runner.pipelines`, which a client runs if this
package is installed locally.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from ci_runner.errors import InvalidSubmission
from ci_runner.pipelines import validate
from ci_runner.pipelines.definition import Definition
from ci_runner.pipelines.parse import document_root, read_pipeline
from ci_runner.pipelines.planning import Choice, make_plan
from ci_runner.pipelines.source import toml, yaml
from ci_runner.pipelines.source.tree import NOWHERE, Place, Problem, Problems, Table, Unreadable, below
from ci_runner.pipelines.values import Value, nearest
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
            message = f"Duplicate pipeline name {definition.name!r} (upper and lower case are one); first in {there}"
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
        raise InvalidSubmission(f"there are several pipelines; say which: {', '.join(names)}")
    exact = [definition for definition in checked.pipelines if definition.name == name]
    found = exact or [one for one in checked.pipelines if one.name.casefold() == name.casefold()]
    if not found:
        raise InvalidSubmission(f"no pipeline {name!r}{nearest(name, names)}")
    return found[0]


def answer(question: Any) -> dict[str, Any]:
    """Answer one request, both as JSON; raises `WireError` if the request is invalid.

    Request: `files` ([[name, text], …]), and for a plan `plan` ({pipeline, stages, jobs, changed, tag, keep_going},
    all optional). Answer: `valid`, `problems`, `pipelines` ([{name, file, line, stages, jobs}]). If a plan was
    requested and its file has no errors, also `plan`, or `refused` with the reason why there is none.
    """
    if not isinstance(question, dict):
        raise WireError("body: must be a JSON object")
    checked = check(_files(question.get("files")))
    result: dict[str, Any] = {
        "valid": checked.is_valid,
        "problems": [problem.to_dict() for problem in checked.problems],
        "pipelines": [_summary(definition) for definition in checked.pipelines],
    }
    wanted = question.get("plan")
    if wanted is not None:
        name, choice = _choice(wanted)
        try:
            chosen = choose(checked, name)
            if checked.allows(chosen):
                result["plan"] = make_plan(chosen, choice).to_dict()
        except InvalidSubmission as error:
            result["refused"] = str(error)
    return result


def _summary(definition: Definition) -> dict[str, Any]:
    return {
        "name": definition.name,
        "file": definition.file,
        "line": definition.named.place.line or None,
        "stages": [stage.name for stage in definition.stages],
        "jobs": [job.name for job in definition.jobs],
    }


def _files(raw: Any) -> list[tuple[str, str]]:
    if not isinstance(raw, list) or not 1 <= len(raw) <= MOST_FILES:
        raise WireError(f"files: must be a list of 1 to {MOST_FILES} pairs [name, text]")
    for index, pair in enumerate(raw):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise WireError(f"files[{index}]: must be [name, text]")
    return [(name, text) for name, text in raw]


def _choice(raw: Any) -> tuple[str | None, Choice]:
    if not isinstance(raw, dict):
        raise WireError("plan: must be an object")
    unknown = sorted(
        str(key) for key in raw.keys() - {"pipeline", "stages", "jobs", "changed", "tag", "keep_going"}
    )
    if unknown:
        raise WireError(f"plan.{unknown[0]}: is unknown to this runner")
    given: Mapping[str, Any] = {key: value for key, value in raw.items() if value is not None}
    for key, kind in (("pipeline", str), ("tag", str), ("keep_going", bool)):
        if not isinstance(given.get(key, kind()), kind):
            raise WireError(f"plan.{key}: must be {'text' if kind is str else 'true or false'}")
    lists: dict[str, Any] = {
        key: _texts(f"plan.{key}", given[key]) for key in ("stages", "jobs", "changed") if key in given
    }
    return given.get("pipeline"), Choice(tag=given.get("tag"), keep_going=given.get("keep_going"), **lists)


def _texts(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WireError(f"{where}: must be a list of texts")
    return tuple(value)
