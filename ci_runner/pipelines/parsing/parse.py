"""Turn a tree into a definition: both forms, TOML's tables and the YAML of `.pipelines/`, are treated alike.

Jobs are below ``jobs`` and name their stage, or are in their stage's table. Problems of a single value are reported
as it is read; problems of the whole are left to `validate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypedDict, cast

from ci_runner.pipelines.definition import Artifacts, Definition, JobDefinition, Matrix, Named, When
from ci_runner.pipelines.parsing import values
from ci_runner.pipelines.parsing.key_table import JOB, PIPELINE, SHARED, STAGE, read_fields
from ci_runner.pipelines.parsing.values import Value
from ci_runner.pipelines.plan import Retries, Service
from ci_runner.pipelines.source.tree import Items, Place, Problems, Scalar, Table

#: Maximum number of jobs in one definition, before matrices are expanded.
MOST_JOBS: Final = 1000


class Resources(TypedDict, total=False):
    """The fields of a job definition below the key ``resources``."""

    cpus: float
    memory: int
    shm_size: int
    tmp_size: int
    home_size: int
    file_size: int
    open_files: int


class JobFields(TypedDict, total=False):
    """The fields of a job definition that have keys of their own."""

    image: str
    python: str
    packages: tuple[str, ...]
    script: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    secrets: tuple[str, ...]
    working_dir: str
    allow_failure: bool
    retries: Retries
    timeout: float
    matrix: Matrix
    artifacts: Artifacts
    services: tuple[Service, ...]
    when: When


@dataclass(frozen=True)
class _Settings:
    """What is set for a job, or by ``global`` for all of them."""

    fields: JobFields = field(default_factory=JobFields)
    resources: Resources = field(default_factory=Resources)


def read_pipeline(
    root: Table, path: str, problems: Problems, default_name: str, place: Place, *, is_toml: bool
) -> Definition:
    """Return the pipeline in a table; valid parts of an invalid value remain, to avoid follow-up problems.

    `default_name` is its name if the table has none; `place` is the position of that name.
    """
    fields = read_fields(Value(root, path, problems, place, label=path), PIPELINE, "the pipeline") or {}
    name = Named(default_name, place, path)
    if "name" in fields:
        name = values.reference(fields["name"]) or name
    if "/" in name.name:
        problems.error(name.place, name.path, f"the pipeline's name {name.name!r} must not contain '/'")
    for key in ("repository", "branch"):
        if key in fields:
            values.text(fields[key])
    keep_going = values.flag(fields["keep-going"]) if "keep-going" in fields else False
    defaults = _Settings()
    if "global" in fields:
        defaults = _settings(read_fields(fields["global"], SHARED, "'global'") or {})
    found_stages = _stages(fields, path, problems, place)
    stages = tuple(stage.named for stage in found_stages)
    nested = [(stage.named, job) for stage in found_stages for job in stage.jobs]
    jobs = [_job(value, defaults, stage) for stage, value in nested]
    if "jobs" in fields:
        if nested:
            fields["jobs"].error("jobs are defined here and in their stages; define all of them in one place")
        jobs += [
            _job(value, defaults, None, name) for name, value in _top_level(fields["jobs"], is_toml=is_toml)
        ]
    found = [job for job in jobs if job is not None]
    if len(found) > MOST_JOBS:
        problems.error(place, path, f"more than {MOST_JOBS} jobs")
    order = {stage.name: index for index, stage in reversed(list(enumerate(stages)))}
    found.sort(key=lambda job: order.get(job.stage.name, len(order)))
    timeouts = {stage.named.name: stage.timeout for stage in found_stages if stage.timeout is not None}
    return Definition(name, problems.file, stages, tuple(found[:MOST_JOBS]), bool(keep_going), timeouts)


def document_root(tree: Table, problems: Problems) -> Table:
    """Return the pipeline's table of a YAML document: below ``pipeline``, the document itself, or both merged."""
    entry = tree.entries.get("pipeline")
    if entry is None:
        return tree
    others = {key: value for key, value in tree.entries.items() if key != "pipeline"}
    if isinstance(entry.node, Scalar) and isinstance(entry.node.value, str):
        return Table({"name": entry, **others}, tree.place)
    if not isinstance(entry.node, Table):
        value = Value(entry.node, "pipeline", problems, entry.key, label="pipeline")
        value.must("a table, or the pipeline's name")
        return Table(others, tree.place)
    merged = {key: replace(inner, within="pipeline") for key, inner in entry.node.entries.items()}
    for key, outer in others.items():
        if key in merged:
            problems.error(outer.key, key, f"{key!r} occurs twice: here and below 'pipeline'")
        merged[key] = outer
    return Table(merged, entry.node.place)


@dataclass(frozen=True)
class _Stage:
    """An entry of the list of stages."""

    named: Named
    #: The jobs inside the entry.
    jobs: tuple[Value, ...] = ()
    timeout: float | None = None


def _stages(fields: Mapping[str, Value], path: str, problems: Problems, place: Place) -> list[_Stage]:
    """Return the stages in order; an entry with a repeated name is merged into the first."""
    value = fields.get("stages")
    if value is None:
        problems.error(place, path, "Missing 'stages' field: a list of names, in the order in which they run")
        return []
    if not isinstance(value.node, Items):
        value.must("a list")
        return []
    if not value.node.items:
        value.error("'stages' is empty: name at least one stage")
    stages: dict[str, _Stage] = {}
    for index, item in enumerate(value.items()):
        stage = _stage(index, item)
        if stage is None:
            continue
        named = stage.named
        first = stages.setdefault(named.name, stage)
        if first is not stage:
            problems.error(
                named.place,
                named.path,
                f"Duplicate stage name {named.name!r}; first {first.named.position}",
            )
            stages[named.name] = replace(first, jobs=first.jobs + stage.jobs)
    return list(stages.values())


def _stage(index: int, item: Value) -> _Stage | None:
    if isinstance(item.node, Scalar):
        if not isinstance(item.node.value, str):
            item.error(
                f"Stage at index {index} must be a string or map, not {item.shown}; write names in quotes"
            )
            return None
        if not item.node.value.strip():
            item.error(f"Stage at index {index} has empty name")
            return None
        named = _stage_name(item)
        return _Stage(named) if named is not None else None
    if not isinstance(item.node, Table):
        item.error(f"Stage at index {index} must be a string or map, not {item.shown}")
        return None
    fields = read_fields(item, STAGE, f"stage {index}") or {}
    if "name" not in fields:
        item.error(f"Stage at index {index} is missing 'name' field")
        return None
    named = _stage_name(fields["name"])
    timeout = values.seconds(fields["timeout"]) if "timeout" in fields else None
    jobs = fields.get("jobs")
    if jobs is not None and not isinstance(jobs.node, Items):
        shown = named.name if named else index
        jobs.error(f"Jobs in stage {shown!r} must be a list, not {jobs.shown}")
        jobs = None
    if named is None:
        return None
    return _Stage(named, tuple(jobs.items()) if jobs is not None else (), timeout)


def _stage_name(value: Value) -> Named | None:
    named = values.reference(value)
    if named is not None and "/" in named.name:
        value.error(f"the stage's name {named.name!r} must not contain '/'")
    return named


def _top_level(value: Value, *, is_toml: bool) -> Iterator[tuple[str | None, Value]]:
    """Yield the jobs below ``jobs``, with their names if these are keys."""
    if isinstance(value.node, Items):
        for item in value.items():
            yield None, item
    elif is_toml and isinstance(value.node, Table):
        yield from value.entries()
    elif isinstance(value.node, Table):
        value.error("'jobs' must be a list: write each job as '- name: …'")
    else:
        value.error(f"'jobs' must be a list{' or a table' if is_toml else ''}, not {value.shown}")


def _job(
    value: Value, defaults: _Settings, stage: Named | None, name: str | None = None
) -> JobDefinition | None:
    """Return one job; None if it has no name, because problems could not refer to it."""
    if not isinstance(value.node, Table):
        value.error(f"Each job must be a map, not {value.shown}")
        return None
    named = _job_name(value, stage, name)
    if named is None:
        return None
    owner = f"job {named.name!r}"
    fields = read_fields(value.of(owner), JOB, owner) or {}
    if name is not None and "name" in fields and values.text(fields["name"]) not in (name, None):
        fields["name"].error(f"the name of the table, {name!r}, is the job's name; remove 'name'")
    where = _job_stage(fields, stage, value, named) or Named("", named.place, value.path)
    needs: dict[str, Named] = {}
    for key in ("needs", "dependencies"):
        if key in fields:
            for need in values.one_or_many(fields[key], values.reference, "job names") or ():
                needs.setdefault(need.name, need)
    settings = _settings({key: field for key, field in fields.items() if key in SHARED})
    return _made(named, where, tuple(needs.values()), defaults, settings)


def _job_name(value: Value, stage: Named | None, name: str | None) -> Named | None:
    """Return the job's name and position; report if there is none."""
    assert isinstance(value.node, Table)
    if name is not None:
        if not name.strip() or not name.isprintable() or len(name) > 200:
            value.problems.error(value.key, value.path, "a job's name must be 1 to 200 printable characters")
            return None
        return Named(name.strip(), value.key, value.path)
    where = f" in stage {stage.name!r}" if stage is not None else ""
    index = value.path[value.path.rfind("[") + 1 : -1]
    entry = value.node.entries.get("name")
    if entry is None:
        value.error(f"Job at index {index}{where} is missing 'name' field")
        return None
    if isinstance(entry.node, Scalar) and (entry.node.value is None or not entry.node.text.strip()):
        value.problems.error(
            entry.node.place, f"{value.path}.name", f"Job at index {index}{where} has empty name"
        )
        return None
    found = dict(value.entries())["name"]
    named = values.reference(found.of(f"job at index {index}{where}"))
    return None if named is None else replace(named, path=value.path)


def _job_stage(fields: Mapping[str, Value], stage: Named | None, value: Value, named: Named) -> Named | None:
    given = fields.get("stage")
    if given is None:
        if stage is None:
            value.problems.error(named.place, value.path, f"Job {named.name!r} is missing 'stage' field")
        return stage
    if isinstance(given.node, Scalar) and (given.node.value is None or not given.node.text.strip()):
        given.error(f"Job {named.name!r} has empty stage reference")
        return stage
    found = values.reference(given)
    if stage is not None and found is not None and found.name != stage.name:
        given.warn(f"is not used: the job is in stage {stage.name!r}")
    return found if stage is None else stage


def _settings(fields: Mapping[str, Value]) -> _Settings:
    """Return the parsed values; those with errors are left out."""
    found: dict[str, object] = {}
    for key, value in fields.items():
        read = SHARED[key].read
        assert read is not None
        content = read(value)
        if content is not None:
            found[key] = content
    if "docker" in found:
        image = found.pop("docker")
        if "image" in fields:
            fields["docker"].error(f"{fields['docker'].owner} has 'image' twice: here and by its own name")
        found.setdefault("image", image)
    resources = found.pop("resources", {})
    # The table of keys gives every key a reader whose results fit the field.
    own = {key.replace("-", "_"): content for key, content in found.items()}
    return _Settings(cast(JobFields, own), cast(Resources, resources))


def _made(
    named: Named, stage: Named, needs: tuple[Named, ...], defaults: _Settings, settings: _Settings
) -> JobDefinition:
    fields: JobFields = {**defaults.fields, **settings.fields}
    fields["env"] = {**defaults.fields.get("env", {}), **settings.fields.get("env", {})}
    resources: Resources = {**defaults.resources, **settings.resources}
    return JobDefinition(named, stage, needs, **fields, **resources)
