"""The plan that a submitted project's own files define."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ci_runner.errors import InvalidSubmission
from ci_runner.pipelines.request import RunRequest
from ci_runner.server.resources.pipeline_plan import plan_in
from ci_runner.storage.blobs import BlobStore
from pytest_remote_ci.wire.protocol import Manifest, ManifestEntry, SubmitOptions

GOOD = "{stages: [s], jobs: [{name: a, stage: s}]}"
TOML = '[tool.remote-ci.pipelines.two]\nstages = ["s"]\njobs.b.stage = "s"\n'


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path, None)


def jobs(blobs: BlobStore, files: dict[str, str], **wanted: Any) -> list[str]:
    entries = [
        ManifestEntry(path, 0o644, len(text.encode()), blobs.put_bytes(text.encode()))
        for path, text in files.items()
    ]
    plan = plan_in(blobs, Manifest(tuple(entries)), RunRequest(**wanted))
    return [job.name for job in plan.jobs]


def test_a_pipeline_is_found_by_name_in_both_forms(blobs: BlobStore) -> None:
    files = {".pipelines/one.yaml": GOOD, "pyproject.toml": TOML, "sub/.pipelines/three.yaml": "7"}
    assert jobs(blobs, files, pipeline="one") == ["a"]
    assert jobs(blobs, files, pipeline="TWO") == ["b"]


def test_a_mistake_in_another_pipeline_s_file_stops_nobody(blobs: BlobStore) -> None:
    files = {
        ".pipelines/one.yaml": GOOD,
        ".pipelines/broken.yaml": "stages: 7",
        "pyproject.toml": "pipelines = [",
    }
    assert jobs(blobs, files, pipeline="one") == ["a"]


def test_the_project_s_own_files_count_where_others_travel_beside_it(blobs: BlobStore) -> None:
    files = {"proj/.pipelines/one.yaml": GOOD, "lib/.pipelines/two.yaml": GOOD, "pyproject.toml": TOML}
    assert jobs(blobs, files, submit=SubmitOptions(project_folder="proj")) == ["a"]


@pytest.mark.parametrize(
    ("files", "wanted", "message"),
    [
        ({}, {}, "no pipeline is defined"),
        ({".pipelines/a.yaml": GOOD}, {"pipeline": "b"}, "no pipeline 'b'; known: a"),
        (
            {".pipelines/a.yaml": "stages: 7"},
            {},
            ".pipelines/a.yaml:1:9: stages: 'stages' must be a list, not 7",
        ),
        (
            {".pipelines/a.yaml": "["},
            {"pipeline": "a"},
            ".pipelines/a.yaml:2:1: not valid YAML: while parsing",
        ),
        ({".pipelines/a.yaml": GOOD}, {"jobs": ("x",)}, "no job 'x' in pipeline 'a'; known: a"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_reason(
    blobs: BlobStore, files: dict[str, str], wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        jobs(blobs, files, **wanted)
    assert str(caught.value).startswith(message)
