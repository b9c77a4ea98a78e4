"""Execution of a run's step: write the decided step with the jobs that it starts.

A job that gets other jobs' artifacts starts on a separate workspace: the run's files with the artifacts over them.
The contents are blobs already, so this only adds a manifest; everything else works as for any workspace.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from ci_runner import failpoints
from ci_runner.controller.actions import AdvanceRun
from ci_runner.model.job import Artifact, Job, utcnow
from ci_runner.pipelines.run import job_of
from ci_runner.storage.blobs import BlobStore
from ci_runner.store import Store
from pytest_remote_ci.wire.protocol import Manifest, ManifestEntry

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_BEFORE: Final = failpoints.register("controller.run.before", "a run's step decided")
_AFTER: Final = failpoints.register("controller.run.after", "a run's step stored")


def advance(action: AdvanceRun, store: Store, blobs: BlobStore, epoch: int) -> None:
    """Write the step, unless the run has changed since it was decided."""
    failpoints.hit(_BEFORE)
    run, now = action.run, utcnow()
    sources = {name: facts.job_id for name, facts in action.facts.items() if facts.job_id is not None}
    jobs = []
    for start in action.step.starts:
        job = job_of(run, start.name, start.retry, sources, now)
        found = [item for source in job.options.artifacts_from for item in store.artifacts.list(source)]
        # Artifacts are named relative to the project, which other folders can travel beside.
        folder = job.options.submitted.project_folder
        placed = [replace(item, path=posixpath.join(folder, item.path)) for item in found]
        jobs.append(replace(job, workspace=_with_artifacts(store, blobs, run.user_id, run.workspace, placed)))
    done = store.runs.advance(run.id, epoch, run.version, action.step, jobs, stop_intent=action.stop_intent)
    failpoints.hit(_AFTER)
    outcome = action.step.outcome
    if done and outcome is not None:
        _log.info("run %s (%s #%d): %s", run.id, run.pipeline, run.number, outcome.reason or outcome.status)


def with_secrets(job: Job, store: Store) -> Job:
    """Return the job with its secrets in its environment; the values are only in memory and in the job's spool."""
    values = store.secrets_of(job)
    if not values:
        return job
    secrets = {name: values[name] for name in job.options.secrets if name in values}
    return replace(job, options=job.options.with_env(secrets))


def _with_artifacts(
    store: Store, blobs: BlobStore, user_id: str, workspace: str, artifacts: Sequence[Artifact]
) -> str:
    """Return the digest of the workspace with these files added; of two with the same path the later one wins."""
    if not artifacts:
        return workspace
    with blobs.open(workspace) as file:
        manifest = Manifest.from_canonical(file.read())
    entries = {entry.path: entry for entry in manifest.files}
    links = dict(manifest.links)
    folders = dict.fromkeys(manifest.folders)
    for item in artifacts:
        _make_room(entries, item.path)
        _make_room(links, item.path)
        _make_room(folders, item.path)
        entries[item.path] = ManifestEntry(item.path, item.mode, item.size, item.sha256)
    files = tuple(sorted(entries.values(), key=lambda entry: entry.path))
    digest = blobs.put_manifest(Manifest(files, links=links, folders=tuple(folders)))
    with blobs.granting():
        store.blobs.grant(user_id, {digest, *(item.sha256 for item in artifacts)})
    return digest


def _make_room(entries: dict[str, _T], path: str) -> None:
    """Remove entries that conflict with `path`: a file may have become a folder, or the reverse."""
    entries.pop(path, None)
    for name in _in_the_way(entries, path):
        del entries[name]


def _in_the_way(entries: Iterable[str], path: str) -> list[str]:
    parts = path.split("/")
    above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    return [name for name in entries if name in above or name.startswith(f"{path}/")]
