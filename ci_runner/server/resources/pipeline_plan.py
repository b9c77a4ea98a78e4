"""Make the plan from a submitted project's own files, for clients that send none."""

from __future__ import annotations

from typing import Final

from ci_runner.errors import InvalidSubmission
from ci_runner.pipelines.check import check, choose
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.planning import Choice, make_plan
from ci_runner.pipelines.request import RunRequest
from ci_runner.storage.blobs import BlobStore
from pytest_remote_ci.wire.protocol import Manifest

_FOLDER: Final = ".pipelines/"
_PROJECT_FILE: Final = "pyproject.toml"
_LONGEST: Final = 256 * 1024


def plan_in(blobs: BlobStore, manifest: Manifest, request: RunRequest) -> Plan:
    """Return the plan of the pipeline in `request`; raises `InvalidSubmission` with all problems in it."""
    files = []
    project_folder = request.submit.project_folder
    prefix = f"{project_folder}/" if project_folder else ""
    for entry in manifest.files:
        if not entry.path.startswith(prefix):
            continue
        path = entry.path.removeprefix(prefix)
        in_yaml = path.startswith(_FOLDER) and path.endswith((".yaml", ".yml"))
        if (in_yaml or path == _PROJECT_FILE) and entry.size <= _LONGEST:
            with blobs.open(entry.sha256) as file:
                text = file.read().decode("utf-8", "replace")
            if in_yaml or "pipelines" in text:
                files.append((path, text))
    checked = check(files)
    errors = [problem for problem in checked.problems if problem.severity == "error"]
    try:
        definition = choose(checked, request.pipeline)
    except InvalidSubmission:
        if not errors:
            raise
    else:  # problems in other pipelines' files do not matter
        errors = [problem for problem in errors if problem.file == definition.file]
    if errors:
        raise InvalidSubmission("; ".join(map(str, errors)))
    choice = Choice(request.stages, request.jobs, request.changed, request.tag, request.keep_going or None)
    return make_plan(definition, choice)
