"""Parse the structured values of a job: matrix, services, artifacts, retries, resources, when."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final, TypedDict

from ci_runner.pipelines.definition import Artifacts, Matrix, When
from ci_runner.pipelines.parsing import values
from ci_runner.pipelines.parsing.values import Value, canonical, nearest
from ci_runner.pipelines.plan import Retries, Service
from ci_runner.pipelines.source.tree import Items, Scalar, Table
from pytest_remote_ci.wire import checks, limits, system_packages

_AXIS: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
#: Maximum number of cells of a matrix before exclusion, and of excluding entries.
MOST_CELLS: Final = 256
_MOST_EXCLUDED: Final = 64


def _fields(value: Value, known: Collection[str]) -> dict[str, Value] | None:
    """Return a table's values by canonical name; report unknown keys."""
    if not isinstance(value.node, Table):
        value.must(f"a table with {', '.join(known)}")
        return None
    found: dict[str, Value] = {}
    for written, content in value.entries():
        key = canonical(written)
        if key not in known:
            hint = nearest(key, list(known))
            content.problems.error(
                content.key, content.path, f"unknown key {written!r} in {value.subject}{hint}"
            )
        elif key in found:
            content.problems.error(content.key, content.path, f"{value.subject} has {key!r} twice")
        else:
            found[key] = content
    return found


def secrets(value: Value) -> tuple[str, ...] | None:
    """Return the names of variables, without duplicates."""
    found = values.list_of(value, values.secret, "names of variables")
    return None if found is None else tuple(dict.fromkeys(found))


def packages(value: Value) -> tuple[str, ...] | None:
    """Return the names of system packages, without duplicates."""
    found = values.list_of(value, _package, "names of packages")
    if found is not None and len(found) > system_packages.MAX_PACKAGES:
        value.must(f"at most {system_packages.MAX_PACKAGES} packages")
        return None
    return None if found is None else tuple(dict.fromkeys(found))


def _package(value: Value) -> str | None:
    content = values.text(value)
    wrong = None if content is None else system_packages.problem(content)
    if wrong is not None:
        value.error(f"{value.shown} {wrong}")
        return None
    return content


def retries(value: Value) -> Retries | None:
    """Return the retries from a number or a table."""
    count_of = values.integer(0, 10)
    if not isinstance(value.node, Table):
        if not (isinstance(value.node, Scalar) and type(value.node.value) is int):
            value.must("a number from 0 to 10, or a table with count, exit-codes")
            return None
        count = count_of(value)
        return None if count is None else Retries(count)
    found = _fields(value, ("count", "exit-codes"))
    if found is None:
        return None
    count = count_of(found["count"]) if "count" in found else 1
    codes: tuple[int, ...] | None = ()
    if "exit-codes" in found:
        codes = values.list_of(found["exit-codes"], values.integer(1, 255), "exit codes")
    return None if count is None or codes is None else Retries(count, tuple(dict.fromkeys(codes)))


def docker(value: Value) -> str | None:
    """Return the image from a table with the key `image`."""
    found = _fields(value, ("image",))
    return values.image(found["image"]) if found and "image" in found else None


#: Keys of `resources`, and how each is read.
RESOURCES: Final[Mapping[str, Callable[[Value], float | int | None]]] = {
    "cpus": lambda value: values.number(value, 10_000),
    "memory": values.size,
    **{limits.key(name): values.limit_size for name in limits.SIZES},
    "open-files": values.integer(limits.LEAST_FILES, limits.MOST_FILES),
}


def resources(value: Value) -> dict[str, float | int] | None:
    """Return the resources that are named, by the names of a job's fields."""
    found = _fields(value, RESOURCES)
    if found is None:
        return None
    read = {key.replace("-", "_"): RESOURCES[key](content) for key, content in found.items()}
    return {name: content for name, content in read.items() if content is not None}


def artifacts(value: Value) -> Artifacts | None:
    """Return the artifacts from patterns, or from a table with patterns."""
    if not isinstance(value.node, Table):
        paths = values.one_or_many(value, values.pattern, "patterns")
        return None if paths is None else Artifacts(paths)
    found = _fields(value, ("paths", "when", "retention"))
    if found is None:
        return None
    if "paths" not in found:
        value.error(f"{value.subject} is missing 'paths'")
        return None
    paths = values.one_or_many(found["paths"], values.pattern, "patterns")
    when_ = "always"
    if "when" in found:
        chosen = found["when"]
        when_ = values.text(chosen) or "always"
        if when_ not in ("always", "success", "failure"):
            chosen.must('"always", "success" or "failure"')
            return None
    days = values.days(found["retention"]) if "retention" in found else None
    return None if paths is None else Artifacts(paths, when_, days)  # type: ignore[arg-type]  # checked above


def when(value: Value) -> When | None:
    """Return the conditions for a job to take part."""
    if isinstance(value.node, Scalar) and value.node.value in ("always", "never"):
        return When(ever=value.node.value == "always")
    if not isinstance(value.node, Table):
        value.must('a table with changed, tag, or "always" or "never"')
        return None
    found = _fields(value, ("changed", "tag"))
    if found is None:
        return None
    changed: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    if "changed" in found:
        changed = values.one_or_many(found["changed"], values.pattern, "patterns")
        if changed == ():
            found["changed"].warn(f"{found['changed'].subject} is empty: no change ever matches")
    if "tag" in found:
        tag = found["tag"]
        if isinstance(tag.node, Scalar) and tag.node.value is True:
            tags = ("*",)
        else:
            tags = values.one_or_many(tag, values.text, "patterns")
    return When(changed != () and tags != (), changed, tags)


def services(value: Value) -> tuple[Service, ...] | None:
    """Return the services from a list of tables, or from a table of tables by name."""
    named: list[tuple[str | None, Value]]
    if isinstance(value.node, Table):
        named = list(value.entries())
    elif isinstance(value.node, Items):
        named = [(None, item) for item in value.items()]
    else:
        value.must("a list of services, or a table of them by name")
        return None
    found: dict[str, Service] = {}
    for given, item in named:
        made = _service(given, item)
        if made is not None and made.name in found:
            item.error(f"Duplicate service name {made.name!r}")
        elif made is not None:
            found[made.name] = made
    if len(named) > checks.MAX_SERVICES:
        value.error(f"{value.subject}: at most {checks.MAX_SERVICES} services")
    return tuple(found.values())


def _service(given: str | None, value: Value) -> Service | None:
    """Return one service; it is named after its image by default."""
    if isinstance(value.node, Scalar) and isinstance(value.node.value, str):
        image, fields = values.image(value), dict[str, Value]()
    else:
        fields_or_none = _fields(value, tuple(map(limits.key, checks.SERVICE_KEYS)))
        if fields_or_none is None:
            return None
        fields = fields_or_none
        if "image" not in fields:
            value.error("a service is missing 'image'")
            return None
        image = values.image(fields["image"])
    if image is None:
        return None
    name = given or (values.text(fields["name"]) if "name" in fields else checks.service_name(image))
    if name is None or not checks.is_service_name(name):
        (fields.get("name") or value).error(
            f"{name!r} cannot be the host name by which the job reaches the service: use a-z, 0-9 and '-'"
        )
        return None
    return Service(name, image, **_details(fields))


class _Details(TypedDict, total=False):
    env: Mapping[str, str]
    health: str | None
    ports: tuple[int, ...]
    command: tuple[str, ...]
    shm_size: int | None


def _details(fields: Mapping[str, Value]) -> _Details:
    found: _Details = {}
    if "env" in fields:
        found["env"] = values.variables(fields["env"]) or {}
    if "health" in fields:
        found["health"] = values.text(fields["health"])
    if "ports" in fields:
        found["ports"] = values.list_of(fields["ports"], values.integer(1, 65535), "ports (integers)") or ()
    if "command" in fields:
        found["command"] = values.list_of(fields["command"], values.word, "strings") or ()
    if "shm-size" in fields:
        found["shm_size"] = values.limit_size(fields["shm-size"])
    return found


def matrix(value: Value) -> Matrix | None:
    """Return the matrix: axes with their values, included and excluded cells."""
    if not isinstance(value.node, Table):
        value.must("a table of lists")
        return None
    axes: dict[str, tuple[str, ...]] = {}
    for axis, content in value.entries():
        if axis in ("include", "exclude"):
            continue
        if not _AXIS.match(axis):
            content.problems.error(
                content.key, content.path, f"{axis!r} is not a valid name of an axis: begin with a letter"
            )
        on_axis = _axis(content)
        if on_axis is not None:
            axes[axis] = on_axis
    entries = dict(value.entries())
    include = _cells(entries.get("include"))
    exclude = _cells(entries.get("exclude"))
    if not axes and include:
        axes = dict.fromkeys(include[0], ())
    for key, cells in (("include", include), ("exclude", exclude)):
        for index, cell in enumerate(cells):
            wrong = [axis for axis in cell if axis not in axes] + (
                [axis for axis in axes if axis not in cell] if key == "include" else []
            )
            if wrong:
                which = "each axis, and no other" if key == "include" else "axes of the matrix"
                entries[key].error(f"{key}[{index}] must name {which}: {wrong[0]!r} is wrong or missing")
    include = tuple(cell for cell in include if cell.keys() == axes.keys())
    made = Matrix(axes, include, tuple(cell for cell in exclude if cell.keys() <= axes.keys()))
    if not axes:
        value.error(f"{value.subject} has no axis")
    elif made.size > MOST_CELLS:
        value.error(f"{value.subject} has more than {MOST_CELLS} cells")
    elif len(exclude) > _MOST_EXCLUDED:
        value.error(f"{value.subject} excludes more than {_MOST_EXCLUDED} times")
    else:
        return made
    return None


def _axis(value: Value) -> tuple[str, ...] | None:
    cells = values.list_of(value, values.word, "values")
    if cells is None:
        return None
    if not cells and isinstance(value.node, Items) and not value.node.items:
        value.error(f"axis {value.label!r} is empty, so there is no job")
    if len(cells) > MOST_CELLS:
        value.must(f"at most {MOST_CELLS} values")
        return None
    twice = next((item for item in cells if cells.count(item) > 1), None)
    if twice is not None:
        value.error(f"axis {value.label!r} has the value {twice!r} twice")
    blank = next(
        (item for item in cells if not item.strip() or not item.isprintable() or len(item) > 200), None
    )
    if blank is not None:
        value.error(f"axis {value.label!r}: values must be 1 to 200 printable characters")
    return tuple(dict.fromkeys(cells))


def _cells(value: Value | None) -> tuple[dict[str, str], ...]:
    if value is None:
        return ()

    def cell(item: Value) -> dict[str, str] | None:
        if not isinstance(item.node, Table) or not item.node.entries:
            item.must("a table of axes and values")
            return None
        found = {axis: values.word(content) for axis, content in item.entries()}
        return {axis: text for axis, text in found.items() if text is not None}

    return values.list_of(value, cell, "tables") or ()
